"""From what a caller typed to an envelope: one spelling, defaults filled, limits kept."""

import hashlib
import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import jsonschema_rs
from pydantic import ValidationError, create_model
from pydantic_core import to_json

from app.caller import Caller
from app.canonical import canonical
from app.clock import now
from app.errors import Problem
from app.http.edge import entry
from app.missions.ask import Wish
from app.missions.types import MissionType
from app.stencil import MARK, Stencil
from colony_client.artifacts import MAX_GOAL, MissionEnvelope, Producer, left_out_of_hash, sealed

SPACES = re.compile(r"[^\S\n]+")
EMPTY_LINES = re.compile(r"\s*\n\s*")
INVISIBLE = ("Cc", "Cf")  # controls and format characters: they read as nothing and hide what is meant
SPELLING = "\n\t\u200c\u200d"  # but joiners belong to the spelling of several scripts, and lines are lines
MOST_FITTING = 4000  # pairs of inputs and labels that are remembered
LONGEST_FITTING = 4000  # characters of such a pair with its schema
WORKSPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ROOT = Producer(name="root", version="1")


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


class Said(NamedTuple):
    """What a request says in words of its own, tidied and within the envelope's bounds."""

    goal: str
    plain: str  # on one line
    inputs: dict[str, Any]
    labels: dict[str, str]
    sealed: tuple[bytes, bytes]  # inputs and labels as they stand in the envelope


# The envelope's own bounds of those, which are narrower than a type's schema may be.
FIELDS = {name: MissionEnvelope.model_fields[name] for name in ("user_goal", "normalized_goal", "inputs", "labels")}
Bounds = create_model("Bounds", **{name: (field.annotation, field) for name, field in FIELDS.items()})  # type: ignore[call-overload]


class Fitting:
    """Inputs and labels that were found to fit a type, as an envelope holds them: of many requests they are the same. Small ones are
    remembered by their own bytes and the type's schema, which are all that it depends on; the least used are forgotten first.
    """

    def __init__(self) -> None:
        self.known: OrderedDict[tuple[str, bytes], tuple[bytes, bytes]] = OrderedDict()

    def get(self, kind: MissionType, ask: Wish, goal: str, plain: str) -> tuple[bytes, bytes]:
        """Both as they stand in the envelope. Raises Problem validation for what does not fit, the goal included."""
        name = (kind.schema_text, spelled(ask))
        found = self.known.get(name)
        if found is not None and goal.isascii() and goal.isprintable() and len(goal) <= MAX_GOAL:
            self.known.move_to_end(name)
            return found
        check_inputs(kind, ask.inputs)
        try:
            Bounds(user_goal=goal, normalized_goal=plain, inputs=ask.inputs, labels=ask.labels)
        except ValidationError as refused:
            raise out_of_bounds(refused) from None
        found = canonical(ask.inputs), canonical(ask.labels)
        if name[1] and len(name[0]) + len(name[1]) <= LONGEST_FITTING:
            self.known[name] = found
            while len(self.known) > MOST_FITTING:
                self.known.popitem(last=False)
        return found


def spelled(ask: Wish) -> bytes:
    """Inputs and labels as they were written, 1 apart from 1.0; nothing when they cannot be."""
    try:
        return to_json((ask.inputs, ask.labels))
    except ValueError:  # a lone surrogate
        return b""


fitting = Fitting()


def understood(ask: Wish, kind: MissionType) -> Said:
    """Raises Problem validation when nothing is left of the goal, or something does not fit."""
    goal, plain = tidy(ask.user_goal), normalized(ask.user_goal)
    if not any(unicodedata.category(c)[0] in "LNPS" for c in plain):
        raise Problem(
            "validation",
            "/user_goal: nothing readable is left of it",
            errors=[{"pointer": "/user_goal", "detail": "must hold visible characters"}],
        )
    return Said(goal, plain, ask.inputs, ask.labels, fitting.get(kind, ask, goal, plain))


def out_of_bounds(refused: ValidationError) -> Problem:
    found = [entry(("body", *error["loc"]), error["msg"]) for error in refused.errors()[:20]]
    return Problem("validation", f"{found[0].get('pointer')}: {found[0]['detail']}", errors=found)


# What stands in a sample for what each request says.
INPUTS, LABELS = {"workspace": f"{MARK}-workspace"}, {f"{MARK}-label": ""}
SAMPLE = Said(f"{MARK}-goal", f"{MARK}-plain", INPUTS, LABELS, (canonical(INPUTS), canonical(LABELS)))


class Envelopes:
    """The envelopes of requests that differ in nothing but what they say."""

    def __init__(self, ask: Wish, kind: MissionType, caller: Caller, role: str, defaults: Defaults) -> None:
        """Raises Problem validation when what they have in common does not fit into an envelope."""
        mission = uuid4()
        try:
            self.sample, data = seal(ask, SAMPLE, kind, caller, role, mission, defaults)
        except ValidationError as refused:
            raise out_of_bounds(refused) from None
        said = self.sample.model_dump(mode="json")
        self.head, rest = data.split(left_out_of_hash(said["contract_hash"], said["created_at"]))
        self.rest = Stencil(
            rest,
            {
                "mission": str(mission).encode(),
                "goal": canonical(SAMPLE.goal),
                "plain": canonical(SAMPLE.plain),
                "inputs": SAMPLE.sealed[0],
                "labels": SAMPLE.sealed[1],
            },
        )
        self.begun = hashlib.sha256(self.head)

    def seal(self, mission: UUID, said: Said) -> tuple[bytes, str]:
        """A new envelope as its canonical bytes, and its contract_hash."""
        goal = canonical(said.goal)
        rest = self.rest.fill(
            {
                "mission": str(mission).encode(),
                "goal": goal,
                "plain": goal if said.plain == said.goal else canonical(said.plain),
                "inputs": said.sealed[0],
                "labels": said.sealed[1],
            }
        )
        hashed = self.begun.copy()
        hashed.update(rest)
        contract = hashed.hexdigest()
        created_at = to_json(now())[1:-1].decode()
        return self.head + left_out_of_hash(contract, created_at) + rest, contract


def seal(
    ask: Wish, said: Said, kind: MissionType, caller: Caller, role: str, mission: UUID, defaults: Defaults
) -> tuple[MissionEnvelope, bytes]:
    """One envelope, and its canonical bytes. Raises ValidationError."""
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
        user_goal=said.goal,
        normalized_goal=said.plain,
        risk_level=ask.risk_level or kind.defaults["risk_level"],
        sensitivity_class=ask.sensitivity_class or kind.defaults["sensitivity_class"],
        mode=ask.mode or kind.defaults["mode"],
        environment=defaults.environment,
        inputs=said.inputs,
        tools=list(dict.fromkeys(ask.tools if ask.tools is not None else kind.tools)),
        labels=said.labels,
        budget={
            "time_ms": min(budget.time_ms or defaults.time_ms, int(kind.limits["time_ms"])),
            "tokens": min(defaults.tokens if budget.tokens is None else budget.tokens, int(kind.limits["tokens"])),
            "cost_usd": 0.0  # there is no negative nothing
            + min(kind.limits["cost_usd"] if budget.cost_usd is None else budget.cost_usd, kind.limits["cost_usd"]),
        },
    )
