"""Answering a replay from the tape of what it repeats."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import ledger, missions
from app.caller import Caller
from app.db import ReadSession, WriteSession, sqlstate
from app.errors import Problem
from app.missions import Mission
from app.tape.actions import Call
from app.tape.queries import Taped, find, next_ordinal

SOURCE = text("""
  SELECT m.id, m.attempt FROM mission m WHERE m.tenant = :tenant AND m.id = :id
  UNION ALL SELECT r.id, r.attempt FROM recording r WHERE r.tenant = :tenant AND r.id = :id""")
# What a file of another environment, or of another version of the root, may lack or hold that is no good here.
NOT_WHOLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
REFUSED = ("22", "23", "RX")  # classes of what Postgres says to values, to rows, and at its walls
log = structlog.get_logger("tape")
Answer = TypeVar("Answer")


class Unreadable(Exception):
    """What a recording says is not whole."""


@contextmanager
def reading() -> Iterator[None]:
    """Around what is made of a recording's words, and of nothing else. Raises Unreadable."""
    try:
        yield
    except NOT_WHOLE as error:
        raise Unreadable from error


def refused_here(error: Problem | DBAPIError) -> bool:
    """Whether what a recording says is refused, and would be again; not a fault that passes, nor one of ours."""
    if isinstance(error, Problem):
        return error.kind.status < 500 and not error.kind.retryable
    return (sqlstate(error) or "").startswith(REFUSED)


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


async def played(
    session: WriteSession,
    caller: Caller,
    mission: UUID,
    asked: Call,
    taped: Taped,
    again: Callable[[], Awaitable[Answer]],
) -> Answer | Problem:
    """What comes of an answer of the tape for a live colony. One that is not whole, or is refused here, ends the replay, and nothing
    is left of it: asked for once more it would be the same. Everything else is no fault of the tape's."""
    try:
        async with session.part():
            return await again()
    except (Unreadable, Problem, DBAPIError) as error:
        if not (isinstance(error, Unreadable) or refused_here(error)):
            raise
        log.warning("an answer on a tape cannot be given", mission=str(mission), call=asked.name, exc_info=error)
        why = "not_whole" if isinstance(error, Unreadable) else "refused"
    return await diverge(session, caller, mission, asked, taped.ordinal, why)


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
    reason = "replay_unplayable" if why in UNPLAYABLE else "replay_diverged"
    await missions.fail(session, caller, mission, "replay", reason=reason, note=said)
    return Problem("replay_diverged", f"{said}.")


WHY = {
    "no_tool": "no such tool is registered here",
    "no_tape": "the recorded mission has no answer to it on tape",
    "not_on_tape": "the recorded mission never asked this",
    "removed": "its answer was removed under retention",
    "denied_now": "the recorded mission was answered, and policy denies it now",
    "allowed_now": "the recorded mission was denied, and policy allows it now, so nobody knows the answer",
    "not_whole": "what its tape says of it is not whole",
    "refused": "what its tape says of it is refused here",
}
UNPLAYABLE = ("not_whole", "refused")
