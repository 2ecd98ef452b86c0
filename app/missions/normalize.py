"""From what a caller typed to an envelope: one spelling, defaults filled, limits kept."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import jsonschema_rs
from pydantic import ValidationError

from app.caller import Caller
from app.clock import now
from app.errors import Problem
from app.http.edge import entry
from app.missions.types import MissionType
from colony_client.artifacts import MissionEnvelope, Producer, sealed

SPACES = re.compile(r"[^\S\n]+")
EMPTY_LINES = re.compile(r"\s*\n\s*")
INVISIBLE = ("Cc", "Cf")  # controls and format characters: they read as nothing and hide what is meant
SPELLING = "\n\t\u200c\u200d"  # but joiners belong to the spelling of several scripts, and lines are lines
WORKSPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ROOT = Producer(name="root", version="1")
PUBLIC_PREFIXES = ("web.", "browser.", "public.")


@dataclass(frozen=True)
class Defaults:
    """What the settings contribute to every envelope."""

    environment: str
    time_ms: int
    tokens: int


def tidy(text: str) -> str:
    """NFC, without invisible characters, trimmed; the words stay the caller's."""
    if text.isascii() and text.isprintable():
        return text.strip()
    visible = (c for c in text if c in SPELLING or unicodedata.category(c) not in INVISIBLE)
    return unicodedata.normalize("NFC", "".join(visible)).strip()  # what stood apart composes once nothing is between


def normalized(text: str) -> str:
    """The goal on one line with single spaces: what searches and comparisons use."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return SPACES.sub(" ", EMPTY_LINES.sub(" ", tidy(text))).strip()


@lru_cache(maxsize=256)
def validator(schema: str) -> Any:
    """Compiles a JSON Schema. Raises jsonschema_rs.ValidationError when it is none, or refers to anything outside itself."""
    return jsonschema_rs.validator_for(schema, retriever=refuse_to_fetch)


def refuse_to_fetch(uri: str) -> Any:
    """A schema comes from a caller: following its references would read files and call hosts in the caller's name."""
    raise ValueError("a schema refers to nothing outside itself")


def check_inputs(kind: MissionType, inputs: dict[str, Any]) -> None:
    """Inputs against the type's JSON Schema. Raises Problem with a pointer for each finding."""
    found = [
        {"pointer": "/inputs" + "".join(f"/{step}" for step in error.instance_path), "detail": error.message[:300]}
        for error in validator(kind.schema_text).iter_errors(inputs)
    ]
    if found:
        first = found[0]
        raise Problem("validation", f"{first['pointer']}: {first['detail']}", errors=found[:20])
    workspace = inputs.get(
        "workspace", "default"
    )  # the one input the root itself acts on, whatever the type says of it
    if not isinstance(workspace, str) or not WORKSPACE.fullmatch(workspace):
        detail = "must be a workspace's name"
        raise Problem(
            "validation", f"/inputs/workspace: {detail}", errors=[{"pointer": "/inputs/workspace", "detail": detail}]
        )


def build(
    ask: Any, kind: MissionType, caller: Caller, role: str, mission: UUID, defaults: Defaults
) -> tuple[MissionEnvelope, bytes]:
    """The envelope of an ask, and its canonical bytes. Raises Problem when nothing is left of the goal."""
    goal, plain = tidy(ask.user_goal), normalized(ask.user_goal)
    if not any(unicodedata.category(c)[0] in "LNPS" for c in plain):
        raise Problem(
            "validation",
            "/user_goal: nothing readable is left of it",
            errors=[{"pointer": "/user_goal", "detail": "must hold visible characters"}],
        )
    check_inputs(kind, ask.inputs)
    try:
        return seal(ask, goal, plain, kind, caller, role, mission, defaults)
    except ValidationError as refused:  # the envelope's own bounds are narrower than a type's schema may be
        found = [entry(("body", *error["loc"]), error["msg"]) for error in refused.errors()[:20]]
        raise Problem("validation", f"{found[0].get('pointer')}: {found[0]['detail']}", errors=found) from None


def seal(
    ask: Any, goal: str, plain: str, kind: MissionType, caller: Caller, role: str, mission: UUID, defaults: Defaults
) -> tuple[MissionEnvelope, bytes]:
    budget = ask.budget
    return sealed(
        mission_id=mission,
        tenant_id=caller.tenant,
        actor_id=caller.principal,
        created_at=now(),
        producer=ROOT,
        mission_type=kind.name,
        origin_surface=ask.origin_surface,
        actor_role=role,
        user_goal=goal,
        normalized_goal=plain,
        risk_level=ask.risk_level or kind.defaults["risk_level"],
        sensitivity_class=ask.sensitivity_class or kind.defaults["sensitivity_class"],
        mode=ask.mode or kind.defaults["mode"],
        environment=defaults.environment,
        inputs=ask.inputs,
        tools=list(dict.fromkeys(ask.tools if ask.tools is not None else kind.tools)),
        labels=ask.labels,
        budget={
            "time_ms": min(budget.time_ms or defaults.time_ms, int(kind.limits["time_ms"])),
            "tokens": min(defaults.tokens if budget.tokens is None else budget.tokens, int(kind.limits["tokens"])),
            "cost_usd": min(
                kind.limits["cost_usd"] if budget.cost_usd is None else budget.cost_usd, kind.limits["cost_usd"]
            ),
        },
    )


def reaches_public(tools: list[str]) -> bool:
    return any(tool.startswith(PUBLIC_PREFIXES) for tool in tools)
