"""What a request for a mission says."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.labels import LabelName, LabelValue


class BudgetAsk(BaseModel):
    """What the mission may use; what is left out comes from the settings, what is too much is clamped to the type's limit."""

    model_config = ConfigDict(extra="forbid", strict=True)
    time_ms: int | None = Field(None, ge=1, le=7 * 86_400_000)
    tokens: int | None = Field(None, ge=0, le=1_000_000_000)
    cost_usd: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)


class Wish(BaseModel):
    """What a mission is to do, as somebody asks for it now or has asked for it once."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "mission_type": "oracle_advisory",
                    "user_goal": "What has to be true before a writeback is executed?",
                    "inputs": {"workspace": "default"},
                    "mode": "assisted",
                }
            ]
        },
    )
    mission_type: str = Field(pattern=r"^[a-z][a-z0-9_]{2,63}$", description="One of GET /v1/mission-types.")
    user_goal: str = Field(min_length=1, max_length=8000, description="What the mission is for, in plain words.")
    inputs: dict[str, Any] = Field(default_factory=dict, max_length=100, description="Fits the type's inputs_schema.")
    mode: Literal["dry_run", "assisted", "autonomous"] | None = None
    origin_surface: str = Field(
        "api", min_length=1, max_length=200, description="Where the wish came up, such as ui or cli."
    )
    risk_level: Literal["low", "medium", "high"] | None = None
    sensitivity_class: Literal["public", "internal", "confidential", "restricted"] | None = None
    budget: BudgetAsk = Field(default_factory=lambda: BudgetAsk(time_ms=None, tokens=None, cost_usd=None))
    tools: (
        list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=64)]] | None
    ) = Field(None, max_length=50, description="Tools the mission may call; the type's own when left out.")
    labels: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=100)],
        Annotated[str, StringConstraints(max_length=200)],
    ] = Field(default_factory=dict, max_length=20)


class Ask(Wish):
    """A request for a mission."""

    labels: dict[LabelName, LabelValue] = Field(default_factory=dict, max_length=20)


@dataclass(frozen=True)
class Replay:
    """What a mission repeats, and how: rerun, recorded or recorded_with_colony."""

    of: UUID
    mode: str


def workspace(inputs: dict[str, Any]) -> str:
    found: str = inputs.get("workspace", "default")
    return found
