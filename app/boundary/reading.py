"""What a colony has sent, read: the events of one mission, or of many, or the Problem that names what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from app.errors import Problem
from colony_client import tokens
from colony_client.contract import (
    MAX_BODY_DEPTH,
    ArtifactProduced,
    Event,
    EventBatch,
    Events,
    EventsOfMany,
    MissionEvents,
    WritebackProposed,
)
from colony_client.errors import BadBody, FieldProblem
from colony_client.wire import field_problems, members_of, read_json, read_model, without

ROOTS_OWN = ("mission_envelope", "policy_decision")  # what only the root may say
DEPTH_OF_MANY = MAX_BODY_DEPTH + 2  # a list and an object around what one mission would have sent


def read_batch(body: bytes) -> EventBatch:
    """A batch of one mission. Raises Problem validation."""
    try:
        return read_model(EventBatch, body)
    except BadBody as bad:
        raise invalid(bad.problems) from None


@dataclass(frozen=True)
class Sent:
    """What came of one mission among many: its batch, or what is wrong with it."""

    mission: UUID
    token: str | None
    batch: MissionEvents | Problem


def read_many(body: bytes) -> list[Sent]:
    """What came, mission by mission. Raises Problem validation where it cannot be told apart: not JSON, no list of 1 to 64
    missions, one that does not say which it is, or one that comes twice."""
    try:
        document = read_json(body, max_depth=DEPTH_OF_MANY)
        try:
            many = EventsOfMany.model_validate_json(body, strict=True, extra="forbid")
        except ValidationError as error:
            refuse_whole(error, document)
        else:
            return [Sent(one.mission_id, one.token, one) for one in many.missions]
    except BadBody as bad:
        raise invalid(bad.problems) from None
    return [read_one(document["missions"][place], one, place) for place, one in enumerate(members_of(body, "missions"))]


def refuse_whole(error: ValidationError, document: Any) -> None:
    """Raises BadBody when what is wrong is not within what was sent of a mission."""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        of_missions, place, *within = (*found["loc"], None, None)[:3]
        named = of_missions == "missions" and isinstance(place, int) and isinstance(document["missions"][place], dict)
        if not named or within == ["mission_id"]:
            raise BadBody(*field_problems(error, document))
    if len({UUID(one["mission_id"]) for one in document["missions"]}) < len(document["missions"]):
        raise BadBody(FieldProblem("", "value_error", "Value error, a mission is named twice"))


def read_one(document: dict[str, Any], body: bytes, place: int) -> Sent:
    mission, token = UUID(document["mission_id"]), document.get("token")
    batch: MissionEvents | Problem
    try:
        batch = read_model(MissionEvents, body)
    except BadBody as bad:
        batch = invalid(bad.problems, f"/missions/{place}")
    return Sent(mission, token if isinstance(token, str) else None, batch)


def as_it_came(sent: bytes, token: str | None) -> bytes:
    """What was sent of one mission among many, without its token: that is a key, and what is kept is looked at."""
    kept = without(sent, "token")  # however it is spelled
    return kept.replace(token.encode(), b"") if token else kept


def invalid(problems: Sequence[FieldProblem], within: str = "") -> Problem:
    first = problems[0]
    return Problem(
        "validation",
        f"{within + first.pointer or 'the body'}: {first.detail}"[:500],
        errors=[{"pointer": within + one.pointer, "detail": one.detail} for one in problems],
    )


def refuse_foreign(batch: Events, said: tokens.MissionToken, within: str = "") -> None:
    """Raises Problem validation for what a colony may not say, or not of this mission."""
    refuse_root_artifacts(batch.events, within)
    strangers = batch.strangers(said.mission, said.tenant)
    if strangers:
        raise Problem(
            "validation",
            f"Event {strangers[0]} carries an artifact of another mission or tenant.",
            errors=[
                {"pointer": f"{within}/events", "detail": f"event {seq} names another mission or tenant"}
                for seq in strangers[:20]
            ],
        )


def refuse_root_artifacts(events: Sequence[Event], within: str) -> None:
    """Raises Problem validation for what only the root may say, or says of itself that it made."""
    for index, event in enumerate(events):
        artifact = event.artifact if isinstance(event, ArtifactProduced) else None
        made = event.proposal if isinstance(event, WritebackProposed) else artifact
        if made is None:
            continue
        pointer, name = f"{within}/events/{index}/{'artifact' if artifact else 'proposal'}", made.schema_name
        if name in ROOTS_OWN or getattr(made, "reviewer", "colony") != "colony":
            raise refused(f"{pointer}/schema_name", f"A colony does not produce {name}.", "only the root produces this")
        if made.producer.name.strip().casefold() == "root":  # what the root has made is shown as the root's own word
            raise refused(f"{pointer}/producer/name", "A colony does not speak as the root.", "name yourself")
        if artifact and name == "writeback_proposal":
            raise refused(
                f"{pointer}/schema_name", "A proposal comes as a writeback.proposed event.", "send writeback.proposed"
            )


def refused(pointer: str, sentence: str, detail: str) -> Problem:
    return Problem("validation", sentence, errors=[{"pointer": pointer, "detail": detail}])
