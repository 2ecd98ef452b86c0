"""Answering a replay from the tape of what it repeats."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from app import ledger, missions
from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.missions import Mission
from app.tape.actions import Call
from app.tape.queries import Taped, find, next_ordinal

SOURCE = text("""
  SELECT m.id, m.attempt FROM mission m WHERE m.tenant = :tenant AND m.id = :id
  UNION ALL SELECT r.id, r.attempt FROM recording r WHERE r.tenant = :tenant AND r.id = :id""")


@dataclass(frozen=True)
class Source:
    """Whose answers are given: a mission of this tenant or an imported recording, and the attempt that is repeated."""

    id: UUID
    attempt: int


async def source_of(session: ReadSession, id: UUID) -> Source | None:
    row = await session.first(SOURCE, {"tenant": session.tenant, "id": id})
    return Source(row.id, row.attempt) if row else None


async def holds(session: ReadSession, mission: Mission, asked: Call) -> bool:
    """Whether what a mission repeats has made such a call."""
    source = await source_of(session, mission.replay_of) if mission.replay_of else None
    return source is not None and await next_ordinal(session, source.id, source.attempt, asked) > 1


async def answer(
    session: WriteSession, caller: Caller, mission: Mission, asked: Call, *, denials: bool = False
) -> Taped | Problem:
    """What the tape says to a call of a replay. A call that is not on it ends the replay: the Problem is to be raised after commit.

    denials: the caller asks policy himself whether what was denied then still is; else it is allowed now.
    """
    assert mission.replay_of is not None
    source = await source_of(session, mission.replay_of)
    assert source is not None, "a replay is made of what is there, and nothing of that is ever deleted"
    ordinal = await next_ordinal(session, mission.id, mission.attempt, asked)
    found = await find(session, source.id, source.attempt, asked, ordinal)
    if found is None or found.removed_at is not None or (found.outcome == "denied" and not denials):
        why = "not_on_tape" if found is None else "removed" if found.removed_at is not None else "allowed_now"
        return await diverge(session, caller, mission.id, asked, ordinal, why)
    return found


async def diverge(
    session: WriteSession, caller: Caller, mission: UUID, asked: Call, ordinal: int, why: str, rule: str | None = None
) -> Problem:
    """Ends a replay that went another way than the tape, naming the call. why: a name of WHY."""
    said = f"{asked.kind} {asked.name}, call {ordinal} with arguments {asked.sha256.hex()[:16]}: {WHY[why]}"
    await missions.lock(session, mission)
    await ledger.record(
        session,
        caller,
        "replay.diverged",
        mission,
        kind=asked.kind,
        name=asked.name,
        arguments_sha256=asked.sha256.hex(),
        ordinal=ordinal,
        why=why,
        rule=rule,
    )
    await missions.fail(session, caller, mission, "replay", reason="replay_diverged", note=said)
    return Problem("replay_diverged", f"{said}.")


WHY = {
    "no_tool": "no such tool is registered here",
    "no_tape": "the recorded mission has no answer to it on tape",
    "not_on_tape": "the recorded mission never asked this",
    "removed": "its answer was removed under retention",
    "denied_now": "the recorded mission was answered, and policy denies it now",
    "allowed_now": "the recorded mission was denied, and policy allows it now, so nobody knows the answer",
}
