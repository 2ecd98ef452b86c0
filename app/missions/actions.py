"""What can happen to a mission. Each verb is the whole fact: check, guarded move, ledger, work, in one transaction."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import budgets, ledger, work
from app.caller import Caller
from app.clock import iso, now
from app.db import WriteSession
from app.errors import Problem
from app.missions.held import AT_COLONY, STOPPED
from app.missions.moves import Moved, move
from app.missions.queries import Mission, find

EXTEND = text("""
  UPDATE mission SET lease_until = :lease_until, degraded = CASE WHEN degraded ->> 'code' = :kept THEN degraded END
  WHERE tenant = :tenant AND id = :id""")


async def lock(session: WriteSession, id: UUID) -> Mission:
    """The mission, locked until commit: the first step of every verb that looks before it moves. Raises not_found."""
    found = await find(session, id, lock=True)
    if found is None:
        raise Problem("not_found", "There is no such mission.")
    return found


async def extend(session: WriteSession, mission: Mission, lease_until: datetime) -> None:
    """The colony has been asked and is at it: the attempt has more time."""
    values = {"tenant": session.tenant, "id": mission.id, "lease_until": lease_until, "kept": budgets.USED_UP_CODE}
    await session.execute(EXTEND, values)


WATCH = text("""
  UPDATE mission SET lease_until = COALESCE(lease_until, clock_timestamp()),
    deadline_at = COALESCE(deadline_at, clock_timestamp() + budget_time_ms * interval '1 millisecond')
  WHERE tenant = :tenant AND id = :id AND (lease_until IS NULL OR deadline_at IS NULL)""")


CLEAR = text("UPDATE mission SET degraded = NULL WHERE tenant = :tenant AND id = :id AND degraded IS NOT NULL")
PROLONG = text("""
  UPDATE mission SET deadline_at = GREATEST(deadline_at, clock_timestamp()) + :time_ms * interval '1 millisecond'
  WHERE tenant = :tenant AND id = :id RETURNING deadline_at""")


async def watch(session: WriteSession, mission: Mission) -> None:
    """Somebody looks after the attempt's lease again. An attempt without a lease or a deadline is given what it lacks, and the
    lease is over at once: the colony is asked about it."""
    await session.execute(WATCH, {"tenant": session.tenant, "id": mission.id})
    moments = [one for one in (mission.lease_until, mission.deadline_at) if one is not None]
    await work.add(session, "attempt_timer", mission.id, at=min(moments) if len(moments) == 2 else None)


async def degrade(session: WriteSession, caller: Caller, mission: Mission, code: str, effect: str) -> None:
    """Says what an open mission suffers from, once per reason. A budget that is used up stays what is said."""
    before = (mission.degraded or {}).get("code")
    if mission.closed or before == budgets.USED_UP_CODE or (mission.degraded or {}).get("effect") == effect:
        return
    said = {"code": code, "effect": effect, "since": iso(now())}
    await session.execute(
        "UPDATE mission SET degraded = CAST(:said AS jsonb) WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": mission.id, "said": json.dumps(said)},
    )
    if before != code:
        await ledger.record(session, caller, "mission.degraded", mission.id, code=code)


async def requeue(session: WriteSession, caller: Caller, mission: Mission, max_attempts: int) -> Moved:
    """The attempt is lost: back to accepted as the next attempt, or failed when there were enough."""
    if mission.over_budget:  # another attempt could do nothing
        return await fail(session, caller, mission.id, "attempts", reason="budget_exhausted")
    if mission.attempt >= max_attempts:
        return await fail(session, caller, mission.id, "attempts", reason="attempts_exhausted")
    moved = await move(
        session,
        caller,
        mission.id,
        "accepted",
        "lease_lost",
        attempt=mission.attempt + 1,
        last_seq=0,
        stage=None,
        lease_until=None,
        degraded=None,
    )
    await work.drop(session, "attempt_timer", mission.id)
    await work.add(session, "dispatch", mission.id)
    return moved


async def redispatch(session: WriteSession, caller: Caller, mission: Mission) -> None:
    """An operator has it offered anew, at once: as the next attempt when a colony has it. Raises Problem wrong_state."""
    if mission.over_budget:
        raise Problem(
            "wrong_state",
            "The mission's budget is used up: another attempt could do nothing.",
            current={"id": str(mission.id), "state": mission.state},
        )
    if mission.state == "accepted":
        await session.execute(CLEAR, {"tenant": session.tenant, "id": mission.id})
    else:
        await move(
            session,
            caller,
            mission.id,
            "accepted",
            "redispatch",
            attempt=mission.attempt + 1,
            last_seq=0,
            stage=None,
            lease_until=None,
            degraded=None,
        )
        await work.drop(session, "attempt_timer", mission.id)
    await ledger.record(session, caller, "mission.redispatched", mission.id, was=mission.state, attempt=mission.attempt)
    await work.add(session, "dispatch", mission.id)


async def prolong(session: WriteSession, caller: Caller, mission: Mission, time_ms: int) -> None:
    """More time until the deadline, from now when it has passed. An attempt under way keeps the time that it was dispatched with;
    the next one has the new time. Raises Problem wrong_state before the first dispatch."""
    if mission.state not in AT_COLONY or mission.deadline_at is None:
        raise Problem(
            "wrong_state",
            f"The mission is {mission.state}; its time runs from its first dispatch until its colony is through with it.",
            current={"id": str(mission.id), "state": mission.state},
        )
    until = await session.scalar(PROLONG, {"tenant": session.tenant, "id": mission.id, "time_ms": time_ms})
    await ledger.record(session, caller, "mission.extended", mission.id, time_ms=time_ms, deadline_at=until)


async def note_reason(session: WriteSession, mission: UUID, note: str) -> None:
    """Keeps a person's words of why they did something to it; the ledger keeps that they did."""
    values = {"tenant": session.tenant, "id": mission, "note": note[:2000]}
    await session.execute("UPDATE mission SET reason_note = :note WHERE tenant = :tenant AND id = :id", values)


async def escalated(session: WriteSession, caller: Caller, mission: Mission) -> None:
    """The colony needs a human: running -> awaiting_approval. Who opens the approval calls this."""
    await move(session, caller, mission.id, "awaiting_approval", "escalate", lease_until=None)
    await work.drop(session, "attempt_timer", mission.id)


async def resume(session: WriteSession, caller: Caller, mission: Mission) -> None:
    """A human agreed: the mission is dispatched, as the next attempt when an earlier one escalated."""
    begun = mission.deadline_at is not None
    more: dict[str, Any] = {"attempt": mission.attempt + 1, "last_seq": 0, "stage": None} if begun else {}
    if begun:  # the time a human took to answer is not the colony's
        more["deadline_at"] = None
    await move(session, caller, mission.id, "accepted", "approved", pending_approvals=[], **more)
    await work.add(session, "dispatch", mission.id)


async def await_decision(
    session: WriteSession,
    caller: Caller,
    mission: UUID,
    cause: str,
    pending: list[UUID],
    tally: dict[str, int] | None = None,
) -> None:
    """The mission waits for humans. cause: policy_asks or proposals."""
    await move(
        session,
        caller,
        mission,
        "awaiting_approval",
        cause,
        pending_approvals=pending,
        writebacks=json.dumps(tally or {}),
    )


async def note_pending(session: WriteSession, mission: UUID, pending: list[UUID], tally: dict[str, int]) -> None:
    """Keeps the row's summary of its approvals and writebacks true without a move."""
    await session.execute(
        """UPDATE mission SET pending_approvals = :pending, writebacks = CAST(:tally AS jsonb)
           WHERE tenant = :tenant AND id = :id AND (pending_approvals <> :pending OR writebacks <> CAST(:tally AS jsonb))""",
        {"tenant": session.tenant, "id": mission, "pending": pending, "tally": json.dumps(tally)},
    )


async def to_executing(session: WriteSession, caller: Caller, mission: UUID, tally: dict[str, int]) -> None:
    """Everything is decided and something is approved: its writebacks are carried out."""
    await move(session, caller, mission, "executing", "decided", pending_approvals=[], writebacks=json.dumps(tally))


async def to_waiting(
    session: WriteSession, caller: Caller, mission: UUID, pending: list[UUID], tally: dict[str, int]
) -> None:
    """Something that had been decided goes back to a human: a writeback was revised, or is stale."""
    await move(
        session,
        caller,
        mission,
        "awaiting_approval",
        "asked_again",
        pending_approvals=pending,
        writebacks=json.dumps(tally),
    )


async def complete(
    session: WriteSession,
    caller: Caller,
    mission: UUID,
    cause: str,
    *,
    answer_status: str | None = None,
    tally: dict[str, int] | None = None,
) -> None:
    """The end one wishes for. cause: reviewed (nothing to write) or settled."""
    changes: dict[str, Any] = {"pending_approvals": [], "degraded": None}
    if answer_status is not None:
        changes["answer_status"] = answer_status
    if tally is not None:
        changes["writebacks"] = json.dumps(tally)
    await move(
        session,
        caller,
        mission,
        "completed",
        cause,
        facts={"answer_status": answer_status, "writebacks": tally},
        **changes,
    )


async def fail(
    session: WriteSession, caller: Caller, mission: UUID, cause: str, *, reason: str, note: str | None = None
) -> Moved:
    """Ends a mission without success. reason is a code for the ledger, note a human's or the colony's words for the screen."""
    moved = await move(
        session,
        caller,
        mission,
        "failed",
        cause,
        facts={"reason": reason},
        reason=reason,
        reason_note=note[:2000] if note else None,
        pending_approvals=[],
        degraded=None,
    )
    await stop_work(session, mission, moved)
    return moved


async def cancel(session: WriteSession, caller: Caller, mission: UUID, note: str) -> Moved:
    """Ends a mission because someone wants it ended. What was claimed runs to its truth; nothing else leaves."""
    moved = await move(
        session,
        caller,
        mission,
        "cancelled",
        "operator",
        facts={"reason": "cancelled"},
        reason="cancelled",
        reason_note=note[:2000],
        pending_approvals=[],
        degraded=None,
    )
    await stop_work(session, mission, moved)
    return moved


async def deny(session: WriteSession, caller: Caller, mission: UUID, cause: str) -> None:
    """A human did not agree that the mission runs at all. cause: rejected or expired."""
    await move(
        session,
        caller,
        mission,
        "denied",
        cause,
        facts={"reason": f"approval_{cause}"},
        reason=f"approval_{cause}",
        pending_approvals=[],
    )


async def stop_work(session: WriteSession, mission: UUID, moved: Moved) -> None:
    """Takes back what was to be done for a mission, and tells the colony when it may be working on it."""
    for kind in STOPPED:
        await work.drop(session, kind, mission)
    if moved.was in AT_COLONY:
        await work.add(session, "colony_cancel", mission)
