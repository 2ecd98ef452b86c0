"""Events from the colony: in order, each once, whatever was sent twice or came late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog

from app import approvals, artifacts, budgets, ledger, missions, work
from app.caller import Caller
from app.canonical import fingerprint
from app.clock import now
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from app.missions.moves import move
from app.telemetry import PROVIDER_FAILURES, STAGE_SECONDS
from colony_client.contract import (
    ArtifactProduced,
    CheckpointSaved,
    Event,
    EventBatch,
    Log,
    ProviderFailed,
    Signal,
    StageCompleted,
    StageStarted,
    UsageReported,
    WritebackProposed,
)

log = structlog.get_logger("colony")
ROOTS_OWN = ("mission_envelope", "policy_decision")  # what only the root may say


@dataclass
class Taken:
    """How far a batch was taken. stop asks the colony to end the attempt."""

    accepted_seq: int
    lease_until: datetime
    stop_reason: str | None = None


@dataclass
class Progress:
    """What a batch adds up to."""

    stage: str | None = None


async def receive(session: WriteSession, caller: Caller, mission_id: Any, batch: EventBatch, lease: timedelta) -> Taken:
    """Takes a batch of the current attempt: what is new is applied, what was seen is skipped, a gap is refused whole.

    Raises Problem sequence_gap, attempt_superseded, mission_closed, not_found or validation; then nothing was applied.
    """
    mission = await missions.lock(session, mission_id)
    until = now() + lease
    if mission.attempt != batch.attempt:
        raise Problem("attempt_superseded", f"The current attempt is {mission.attempt}.")
    new = [event for event in batch.events if event.seq > mission.last_seq]
    if mission.state not in ("accepted", "dispatched", "running"):
        if new:
            raise Problem("mission_closed", f"The mission is {mission.state} and takes no more events of this attempt.")
        return Taken(mission.last_seq, until, stop_reason=f"the mission is {mission.state}")
    if new and new[0].seq != mission.last_seq + 1:
        raise Problem("sequence_gap", f"Event {mission.last_seq + 1} is missing.", expected_seq=mission.last_seq + 1)

    mission = await underway(session, caller, mission, lease)
    progress = Progress()
    used = usage(new)
    # before the first fact: budgets come before the ledger in the order of locks
    spent = await budgets.spend(session, caller, mission.id, used) if used != budgets.Amounts() else None
    if spent and spent.newly_over:
        await work.add(session, "attempt_timer", mission.id, at=now() + budgets.GRACE)
    for event in new:
        await apply(session, caller, mission, event, progress)
    last = new[-1].seq if new else mission.last_seq
    await missions.take_events(
        session,
        mission,
        last_seq=last,
        stage=progress.stage,
        lease_until=until,
    )
    if new and isinstance(new[-1], Signal) and new[-1].ends_attempt:
        await end_attempt(session, caller, mission, new[-1])
        return Taken(last, until, stop_reason="the attempt has ended")
    return Taken(last, until, stop_reason=overspent(mission, spent))


async def underway(session: WriteSession, caller: Caller, mission: Mission, lease: timedelta) -> Mission:
    """The first word of an attempt makes the mission running, even when it overtakes the answer to the dispatch."""
    if mission.state == "accepted":
        await missions.taken_by_colony(session, caller, mission, lease)
    if mission.state != "running":
        await move(session, caller, mission.id, "running", "first_event")
    return mission


async def apply(session: WriteSession, caller: Caller, mission: Mission, event: Event, progress: Progress) -> None:
    """One event: its artifact stored, its fact recorded, its figures added."""
    match event:
        case StageStarted():
            progress.stage = event.stage
            await ledger.record(
                session, caller, "stage.started", mission.id, stage=event.stage, attempt=mission.attempt
            )
        case StageCompleted():
            STAGE_SECONDS.labels(event.stage).observe(event.latency_ms / 1000)
            await ledger.record(
                session,
                caller,
                "stage.completed",
                mission.id,
                stage=event.stage,
                latency_ms=event.latency_ms,
                attempt=mission.attempt,
            )
        case ArtifactProduced():
            await artifacts.store(session, caller, mission.id, mission.attempt, event.artifact)
        case WritebackProposed():
            kept = await artifacts.store(session, caller, mission.id, mission.attempt, event.proposal)
            await ledger.record(
                session,
                caller,
                "writeback.proposed",
                mission.id,
                proposal=kept.id,
                connector=event.proposal.connector,
                operation=event.proposal.operation,
                risk_level=event.proposal.risk_level,
            )
        case CheckpointSaved():
            await ledger.record(
                session, caller, "checkpoint.saved", mission.id, sha256=event.sha256, size_bytes=event.size_bytes
            )
        case ProviderFailed():
            code = event.code if event.code in PROVIDER_CODES else "other"
            PROVIDER_FAILURES.labels(code).inc()
            log.warning(
                "provider failed",
                mission=str(mission.id),
                provider=event.provider,
                code=event.code,
                detail=event.detail,
            )
            # names and codes come from outside: the ledger keeps a hash and the codes we know, the log keeps the words
            await ledger.record(
                session,
                caller,
                "provider.failed",
                mission.id,
                retryable=event.retryable,
                code=code,
                provider_sha256=fingerprint([event.provider, event.code]).hex(),
            )
        case UsageReported():
            await ledger.record(
                session,
                caller,
                "usage.reported",
                mission.id,
                tokens_in=event.tokens_in,
                tokens_out=event.tokens_out,
                cost_usd=event.cost_usd,
            )
        case Signal():
            await ledger.record(
                session, caller, "colony.signalled", mission.id, signal=event.signal, attempt=mission.attempt
            )
        case Log():
            getattr(log, event.level)("colony says", mission=str(mission.id), message=event.message)


PROVIDER_CODES = (
    "unreachable",
    "timed_out",
    "refused",
    "busy",
    "malformed",
    "malformed_answer",
    "unauthorized",
    "model_failed",
    "connector_timed_out",
    "connector_unreachable",
    "connector_broke_off",
    "connector_unusable",
)


async def end_attempt(session: WriteSession, caller: Caller, mission: Mission, signal: Signal) -> None:
    """complete goes to review, blocked ends the mission, escalate puts a question before a human."""
    if signal.signal == "complete":
        await missions.into_review(session, caller, mission.id)
    elif signal.signal == "blocked":
        await missions.fail(
            session, caller, mission.id, "blocked", reason="blocked", note=signal.reason or signal.question
        )
    else:
        question = signal.question or signal.reason or ""
        await missions.escalated(session, caller, mission)
        approval = await approvals.ask_mission(
            session,
            caller,
            mission,
            "mission.continue",
            "colony.escalates",
            question,
            fingerprint([str(mission.id), mission.attempt, question]),
            "colony",
        )
        await missions.note_pending(session, mission.id, [approval], {})


def usage(events: Sequence[Event]) -> budgets.Amounts:
    """What a batch reports to have been used."""
    reported = [event for event in events if isinstance(event, UsageReported)]
    return budgets.Amounts(
        tokens=sum(event.tokens_in + event.tokens_out for event in reported),
        cost_usd=sum((Decimal(str(event.cost_usd)) for event in reported), Decimal(0)),
    )


def overspent(mission: Mission, spent: budgets.Spent | None) -> str | None:
    """Why the colony is told to stop: tokens, cost or time are used up."""
    if mission.over_budget or (spent is not None and spent.over):
        return "the mission's budget is used up"
    if mission.deadline_at is not None and mission.deadline_at <= now():
        return "the mission's time is used up"
    return None


def refuse_root_artifacts(events: Sequence[Event]) -> None:
    """Raises Problem validation for what only the root may say, or says of itself that it made."""
    for index, event in enumerate(events):
        artifact = event.artifact if isinstance(event, ArtifactProduced) else None
        made = event.proposal if isinstance(event, WritebackProposed) else artifact
        if made is None:
            continue
        pointer, name = f"/events/{index}/{'artifact' if artifact else 'proposal'}", made.schema_name
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
