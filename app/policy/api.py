"""Reading the rules, and asking them before acting."""

from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import ReadSession
from app.http import Door, Reply, Routes, reading
from app.policy.engine import baseline, evaluate

router = Routes(tags=["policies"])


class Question(BaseModel):
    """What would policy say? context holds the facts the rules look at, such as mode, risk_level, environment."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "action": "mission.create",
                    "resource": "oracle_advisory",
                    "context": {
                        "mode": "autonomous",
                        "risk_level": "high",
                        "sensitivity_class": "internal",
                        "environment": "production",
                        "public_tools": False,
                    },
                }
            ]
        },
    )
    action: str = Field(min_length=1, max_length=100)
    resource: str = Field(min_length=1, max_length=200)
    context: dict[str, bool | int | str] = Field(default_factory=dict, max_length=50)


class Answer(BaseModel):
    """The verdict, the rule that gave it, and what would change it."""

    effect: Literal["allow", "deny", "ask"]
    rule: str
    reason: str
    policy_version: str
    would_change: str | None


class RuleView(BaseModel):
    id: str
    effect: Literal["permit", "forbid"]
    reason: str
    ask: str | None
    change: str | None


class PolicyView(BaseModel):
    """The rules in force."""

    name: str
    version: str
    text: str
    rules: list[RuleView]


@router.post("/v1/policies/evaluate", operation_id="evaluatePolicy", response_model=Answer, summary="Ask before acting")
async def evaluate_policy(
    question: Question, door: Annotated[Door[ReadSession], reading("policies.evaluate")]
) -> Response:
    """Evaluates the rules for the caller without recording or changing anything."""
    verdict = evaluate(str(door.caller.principal), question.action, question.resource, question.context)
    return Reply(
        {
            "effect": verdict.effect,
            "rule": verdict.rule,
            "reason": verdict.reason,
            "policy_version": verdict.policy_version,
            "would_change": verdict.would_change,
        }
    ).response()


@router.get("/v1/policies", operation_id="listPolicies", response_model=list[PolicyView], summary="The rules in force")
async def list_policies(door: Annotated[Door[ReadSession], reading("policies.evaluate")]) -> Response:
    """The Cedar text and each rule in words."""
    policies = baseline()
    view: dict[str, Any] = {
        "name": "baseline",
        "version": policies.version,
        "text": policies.text,
        "rules": [vars(rule) for rule in policies.rules.values()],
    }
    return Reply([view]).response()
