"""What a call of a tool leaves: what was shown, its fact, and its place on the mission's tape; and the same again from a tape."""

import json
from uuid import UUID

from pydantic_core import to_json

from app import budgets, calls, ledger, tape
from app.artifacts import keep_blob, note_readings
from app.caller import Caller
from app.canonical import canonical, fingerprint
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from app.tools.builtin import Result
from app.tools.known import OFF, Known


async def note(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    wanted: Known,
    taped: tape.Call,
    result: Result,
    took_ms: float,
) -> None:
    """What was shown, the fact of it, and the answer on the mission's tape."""
    fact, answer = told(caller, mission.id, mission.attempt, wanted, taped, result)
    for laid in result.keep:
        await keep_blob(session, caller.tenant, laid)
    await note_readings(session, caller.tenant, mission.id, result.kind, result.shown)
    await ledger.tell(session, fact)
    await tape.record(session, mission.id, mission.attempt, taped, "answered", answer, took_ms)


def ended(
    caller: Caller,
    mission: UUID,
    attempt: int,
    wanted: Known,
    taped: tape.Call,
    result: Result,
    took_ms: float,
    hold: budgets.Hold,
) -> calls.Ended:
    """The same for a call that is closed with others; hold: of its reservation, which is settled with it."""
    fact, answer = told(caller, mission, attempt, wanted, taped, result)
    return calls.Ended(
        "tool",
        fact,
        hold.reservation,
        hold.took_ms,
        said=calls.Said(attempt, taped, "answered", answer, took_ms),
        keep=result.keep,
        shown=result.shown,
        shown_as=result.kind,
    )


def told(
    caller: Caller, mission: UUID, attempt: int, wanted: Known, taped: tape.Call, result: Result
) -> tuple[ledger.Told, bytes]:
    """The fact of an answered call, and the answer as it goes on the tape."""
    fact = ledger.fact(
        caller,
        "tool.called",
        mission,
        tool=taped.name,
        arguments_sha256=taped.sha256.hex(),
        result_sha256=fingerprint(json.loads(json.dumps(result.value))).hex(),
        sources=len(result.shown),
        attempt=attempt,
        layer_version=None if wanted.layer is None else wanted.layer.version,
    )
    shown = [[source.hex(), document, version] for source, document, version in result.shown]
    said = {"result": result.value, "kind": result.kind, "shown": shown}
    return fact, to_json(said if result.proposal is None else said | {"proposal": result.proposal})


async def note_failed(
    session: WriteSession,
    caller: Caller,
    mission: UUID,
    attempt: int,
    taped: tape.Call,
    refused: Problem,
    took_ms: float,
) -> None:
    """The tool itself said no: a fact, and on the tape too, because the colony goes on by it."""
    await ledger.record(
        session,
        caller,
        "tool.failed",
        mission,
        tool=taped.name,
        arguments_sha256=taped.sha256.hex(),
        code=refused.code,
        attempt=attempt,
    )
    await tape.record(session, mission, attempt, taped, "refused", problem_bytes(refused), took_ms)


def problem_bytes(refused: Problem) -> bytes:
    return to_json(refused.told())


# --- answers from a tape


def said_again(played: tape.Taped) -> Result | Problem:
    """A taped answer, or the Problem that the tool had answered with. What is none raises ValueError, LookupError or TypeError."""
    said = json.loads(played.answer)
    canonical(said)
    if played.outcome == "refused":
        return Problem.again(said)
    shown = [(bytes.fromhex(source), document, version) for source, document, version in said["shown"]]
    named = all(isinstance(document, str) and isinstance(version, str | None) for _, document, version in shown)
    if not named or said["kind"] not in ("document", "record"):
        raise TypeError("what was shown is a document or a record, and has a name")
    return Result(said["result"], said["kind"], shown, proposal=said.get("proposal"))


async def noted_again(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    wanted: Known,
    taped: tape.Call,
    said: Result | Problem,
    took_ms: float,
) -> None:
    """An answer from the tape leaves what the tool's own would: readings, fact, and its place on the tape of the replay."""
    if isinstance(said, Result):
        await note(session, caller, mission, wanted, taped, said, took_ms)
    else:
        await note_failed(session, caller, mission.id, mission.attempt, taped, said, took_ms)


def switched_off_then(said: Result | Problem) -> Problem | None:
    """The refusal of a tool that was switched off, or was not what was registered: what blocks a mission that needs it."""
    return said if isinstance(said, Problem) and said.code in OFF else None
