"""Events from the colony: in order, each once, whatever was sent twice or came late.

Batches of events that are pending at the same moment are taken together, in one transaction; each is judged for itself,
as if they had come one after the other.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import asyncpg
import structlog

from app import approvals, artifacts, budgets, missions
from app.artifacts import Made
from app.batch import Batches, busy, lost
from app.boundary.door import unknown
from app.caller import Caller
from app.canonical import fingerprint
from app.clock import now
from app.db import Database, Fetch, unavailable
from app.errors import Problem
from app.missions import Held, Mission
from app.telemetry import PROVIDER_FAILURES, STAGE_SECONDS, STRANGERS, begin
from colony_client.contract import (
    ArtifactProduced,
    CheckpointSaved,
    Event,
    Events,
    Log,
    ProviderFailed,
    Signal,
    StageCompleted,
    StageStarted,
    UsageReported,
    WritebackProposed,
)

log = structlog.get_logger("colony")
USE_NONCES = "SELECT use_nonces($1, $2) AS fresh"


@dataclass(frozen=True)
class Said:
    """What a colony says of a mission: a batch of its events. made: its artifacts, by the event's seq."""

    caller: Caller
    mission: UUID
    batch: Events
    made: dict[int, Made] = field(repr=False)

    @property
    def size(self) -> int:
        return sum(len(made.bytes) for made in self.made.values()) + 512 * len(self.batch.events)

    @property
    def escalates(self) -> bool:
        last = self.batch.events[-1] if self.batch.events else None
        return isinstance(last, Signal) and last.signal == "escalate"


def said(caller: Caller, mission: UUID, batch: Events) -> Said:
    made: dict[int, Made] = {}
    for event in batch.events:
        if isinstance(event, ArtifactProduced):
            made[event.seq] = artifacts.made(event.artifact)
        elif isinstance(event, WritebackProposed):
            made[event.seq] = artifacts.made(event.proposal)
    return Said(caller, mission, batch, made)


@dataclass(frozen=True)
class Call:
    """One signed call: what it says of a mission, or of several, each once. nonce: None when it has been used."""

    kid: str
    nonce: str | None
    said: Sequence[Said]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.said)


@dataclass
class Taken:
    """How far a batch was taken. stop asks the colony to end the attempt."""

    accepted_seq: int
    lease_until: datetime
    stop_reason: str | None = None
    asks: Signal | None = None  # the question that this batch has ended the attempt with


Outcome = Taken | Exception  # of what is said of a mission; a Problem where it was judged


@dataclass
class Answer:
    """To a call, for each mission in turn. used: whether its nonce is; one of which nothing was judged may come again."""

    outcomes: list[Outcome]
    used: bool = True


class Callbacks:
    """Takes calls in. nudge wakes whoever waits for work or facts."""

    def __init__(
        self,
        database: Database,
        nudge: Callable[[Iterable[str]], None],
        lease: timedelta,
        *,
        connections: int = 2,
        wait_ms: int = 1000,
    ) -> None:
        self.database, self.nudge, self.lease = database, nudge, lease
        self.batches: Batches[Call, Answer | Problem] = Batches(
            database.connect,
            self.run,
            lambda one: one.size,
            weigh=lambda one: len(one.said),
            name="callbacks",
            connections=connections,
            wait_ms=wait_ms,
        )

    async def take(self, call: Call, *, others: bool = False) -> Answer:
        """Takes what a call says of the current attempts: what is new is applied, what was seen is skipped, a gap is refused whole.

        A Problem sequence_gap, attempt_superseded, mission_closed or not_found means that no event of its mission was
        applied. Raises Problem unauthenticated when the nonce was used before, and nothing was applied. The nonce is used in
        the first transaction that judges anything of the call. others: whether the call has said more, which is answered
        elsewhere: then what keeps all of this from being taken is an answer too.
        """
        plain = [one for one in call.said if not one.escalates]
        together = [plain] if plain else []
        together += [[one] for one in call.said if one.escalates]
        nonce, outcomes, until = call.nonce, dict[UUID, Outcome](), math.inf
        for said in together:
            part = Call(call.kid, nonce, said)
            try:
                if time.monotonic() > until:
                    raise busy()
                answer = await (self.escalate(part) if said[0].escalates else self.batches.put(part))
            except Exception as error:
                nobody_knows = getattr(unavailable(error) or error, "code", None) == "database_unavailable"
                if (len(together) == 1 and not others) or (nonce is not None and nobody_knows):  # nor of the nonce
                    raise
                answer = Answer([error] * len(said), used=False)
            if isinstance(answer, Problem):
                raise answer
            if answer.used:
                nonce = None
            outcomes |= {one.mission: outcome for one, outcome in zip(said, answer.outcomes, strict=True)}
            until = min(until, self.patience())
        return Answer([outcomes[one.mission] for one in call.said], used=nonce is None)

    def patience(self) -> float:
        """Until when (on the monotonic clock) what is done one by one goes on, while others wait for their answer."""
        return time.monotonic() + 2 * self.batches.wait_s

    async def run(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer | Problem]:
        """Everything that is pending, in one transaction."""
        try:
            return await self.together(connection, calls)
        except Exception as error:
            if len(calls) > 1 or len(calls[0].said) == 1 or lost(error):
                raise
            return [await self.apart(connection, calls[0])]

    async def together(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer | Problem]:
        async with connection.transaction():
            answers, held = await receive(connection.fetch, calls, self.lease)
        held.afterwards(partial(self.nudge, held.nudges))
        held.committed()
        return answers

    async def apart(self, connection: asyncpg.Connection, call: Call) -> Answer | Problem:
        """A call of many that has failed as a whole: each mission in a transaction of its own, so that a failure meets its own
        only. The first that holds uses the nonce."""
        log.info("a call of many is taken one by one", missions=len(call.said))
        nonce, until = call.nonce, self.patience()
        outcomes: dict[UUID, Outcome] = {one.mission: busy() for one in call.said}
        for said in random.sample(call.said, len(call.said)):  # in one order the same would always come too late
            if time.monotonic() > until:
                break
            try:
                [answer] = await self.together(connection, [Call(call.kid, nonce, [said])])
            except Exception as error:
                if lost(error):
                    raise
                outcomes[said.mission] = error
                continue
            if isinstance(answer, Problem):
                return answer
            nonce = None
            [outcomes[said.mission]] = answer.outcomes
        return Answer(list(outcomes.values()), used=nonce is None)

    async def escalate(self, call: Call) -> Answer | Problem:
        """The same for one batch that puts a question before a human, which opens an approval."""
        [said] = call.said
        async with self.database.write() as session:
            await session.enter(said.caller.tenant)
            [answer], held = await receive(session.fetch, [call], self.lease)
            session.nudges |= held.nudges
            outcome = None if isinstance(answer, Problem) else answer.outcomes[0]
            if isinstance(outcome, Taken) and outcome.asks is not None:
                mission = await missions.lock(session, said.mission)
                question = outcome.asks.question or outcome.asks.reason or ""
                await missions.escalated(session, said.caller, mission)
                approval = await approvals.ask_mission(
                    session,
                    said.caller,
                    mission,
                    "mission.continue",
                    "colony.escalates",
                    question,
                    fingerprint([str(mission.id), mission.attempt, question]),
                    "colony",
                )
                await missions.note_pending(session, mission.id, [approval], {})
        held.committed()
        return answer


async def receive(fetch: Fetch, calls: Sequence[Call], lease: timedelta) -> tuple[list[Answer | Problem], Held]:
    """What becomes of calls that have come at once, each judged as if it had come alone, those of one mission in the order given.

    fetch runs statements in the transaction that keeps it. Answers them, and what was held for them: whoever commits tells
    it so.
    """
    fresh = await use_nonces(fetch, calls)
    said = [one for call in calls for one in call.said]
    held = Held(fetch)
    await held.hold(
        [(one.caller.tenant, one.mission) for one in said],
        [(one.mission, made.sha256) for one in said for made in one.made.values()],
    )
    if len(said) > 1 and any(usage(one.batch.events) != budgets.Amounts() for one in said):
        await budgets.hold(fetch, [(one.caller.tenant, one.mission) for one in said])
    answers: list[Answer | Problem] = []
    for call, new in zip(calls, fresh, strict=True):
        if not new:
            STRANGERS.labels("SignatureReplayed").inc()
            whose = [str(one.mission) for one in call.said]
            log.warning("signature refused", reason="SignatureReplayed", missions=whose)
        answers.append(Answer([await judge(held, one, lease) for one in call.said]) if new else unknown())
    await held.keep()
    return answers, held


async def use_nonces(fetch: Fetch, calls: Sequence[Call]) -> list[bool]:
    """Which calls may do what they say: those whose nonce nobody had used, and those for which it has been used already."""
    unused = [(one.kid, one.nonce) for one in calls if one.nonce is not None]
    if not unused:
        return [True] * len(calls)
    [row] = await fetch(USE_NONCES, *map(list, zip(*unused, strict=True)))
    fresh = iter(row["fresh"])
    return [one.nonce is None or next(fresh) for one in calls]


async def judge(held: Held, said: Said, lease: timedelta) -> Taken | Problem:
    """What is said of one mission. A Problem means that nothing of it was applied."""
    mission, batch, caller = held.missions.get(said.mission), said.batch, said.caller
    if mission is None or held.tenants[mission.id] != caller.tenant:
        return Problem("not_found", "There is no such mission.")
    until = now() + lease
    if mission.attempt != batch.attempt:
        return Problem("attempt_superseded", f"The current attempt is {mission.attempt}.")
    new = [event for event in batch.events if event.seq > mission.last_seq]
    if mission.state not in ("accepted", "dispatched", "running"):
        if new:
            return Problem(
                "mission_closed", f"The mission is {mission.state} and takes no more events of this attempt."
            )
        return Taken(mission.last_seq, until, stop_reason=f"the mission is {mission.state}")
    if new and new[0].seq != mission.last_seq + 1:
        return Problem("sequence_gap", f"Event {mission.last_seq + 1} is missing.", expected_seq=mission.last_seq + 1)

    # the first word of an attempt makes the mission running, even when it overtakes the answer to the dispatch
    over = mission.over_budget
    if mission.state == "accepted":
        held.taken_by_colony(caller, mission.id, lease)
    if mission.state != "running":
        held.move(caller, mission.id, "running", "first_event")
    used = usage(new)
    # before the first fact: budgets come before the ledger in the order of locks
    spent = await spend(held, caller, mission.id, used) if used != budgets.Amounts() and not mission.played else None
    stage = mission.stage
    for event in new:
        stage = apply(held, said, event) or stage
    last = new[-1].seq if new else mission.last_seq
    degraded = held.missions[mission.id].degraded
    if degraded is not None and degraded.get("code") != budgets.USED_UP_CODE:
        degraded = None
    held.change(mission.id, last_seq=last, stage=stage, lease_until=until, degraded=degraded)
    if new and isinstance(new[-1], Signal) and new[-1].ends_attempt:
        asks = end_attempt(held, caller, mission, new[-1])
        return Taken(last, until, stop_reason="the attempt has ended", asks=asks)
    return Taken(last, until, stop_reason=overspent(mission, over or (spent is not None and spent.over)))


async def spend(held: Held, caller: Caller, mission: UUID, used: budgets.Amounts) -> budgets.Spent:
    """Counts what the colony reports, and says so when the budget is used up by it."""
    spent = await budgets.spend(held.fetch, caller.tenant, mission, used)
    held.change(mission, used_tokens=spent.used_tokens, used_cost_usd=spent.used_cost_usd)
    if spent.newly_over:
        await held.keep()  # what was said before stands before it in the ledger
        held.change(mission, degraded=await budgets.note_used_up(held.fetch, caller, mission))
    return spent


def apply(held: Held, said: Said, event: Event) -> str | None:
    """One event: its artifact stored, its fact recorded, its figures added. Answers the stage that it begins."""
    caller, mission, attempt = said.caller, said.mission, said.batch.attempt
    match event:
        case StageStarted():
            held.tell(caller, "stage.started", mission, stage=event.stage, attempt=attempt)
            return event.stage
        case StageCompleted():
            held.afterwards(partial(STAGE_SECONDS.labels(event.stage).observe, event.latency_ms / 1000))
            held.tell(
                caller, "stage.completed", mission, stage=event.stage, latency_ms=event.latency_ms, attempt=attempt
            )
        case ArtifactProduced():
            held.store(caller, mission, attempt, said.made[event.seq])
        case WritebackProposed():
            kept = held.store(caller, mission, attempt, said.made[event.seq])
            held.tell(
                caller,
                "writeback.proposed",
                mission,
                proposal=kept.id,
                connector=event.proposal.connector,
                operation=event.proposal.operation,
                risk_level=event.proposal.risk_level,
            )
        case CheckpointSaved():
            held.tell(caller, "checkpoint.saved", mission, sha256=event.sha256, size_bytes=event.size_bytes)
        case ProviderFailed():
            code = event.code if event.code in PROVIDER_CODES else "other"
            held.afterwards(PROVIDER_FAILURES.labels(code).inc)
            words = {"provider": event.provider, "code": event.code, "detail": event.detail}
            held.afterwards(partial(log.warning, "provider failed", mission=str(mission), **words))
            # names and codes come from outside: the ledger keeps a hash and the codes we know, the log keeps the words
            held.tell(
                caller,
                "provider.failed",
                mission,
                retryable=event.retryable,
                code=code,
                provider_sha256=fingerprint([event.provider, event.code]).hex(),
            )
        case UsageReported():
            held.tell(
                caller,
                "usage.reported",
                mission,
                tokens_in=event.tokens_in,
                tokens_out=event.tokens_out,
                cost_usd=event.cost_usd,
            )
        case Signal():
            held.tell(caller, "colony.signalled", mission, signal=event.signal, attempt=attempt)
        case Log():
            held.afterwards(
                partial(getattr(log, event.level), "colony says", mission=str(mission), message=event.message)
            )
    return None


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
    "denied_by_policy",
    "budget_exhausted",
    "validation",
    "not_found",
    "tool_halted",
    "tool_drifted",
    "tool_failed",
    "tool_unmapped",
    "tool_unreachable",
    "tool_timed_out",
    "tool_broke_off",
)
begin(PROVIDER_FAILURES, [*PROVIDER_CODES, "other"])


def end_attempt(held: Held, caller: Caller, mission: Mission, signal: Signal) -> Signal | None:
    """complete goes to review, blocked ends the mission; answers the signal when it puts a question before a human."""
    if signal.signal == "escalate":
        return signal
    if signal.signal == "complete":
        held.into_review(caller, mission.id)
    else:
        held.fail(caller, mission.id, "blocked", reason="blocked", note=signal.reason or signal.question)
    return None


def usage(events: Sequence[Event]) -> budgets.Amounts:
    """What a batch reports to have been used."""
    reported = [event for event in events if isinstance(event, UsageReported)]
    return budgets.Amounts(
        tokens=sum(event.tokens_in + event.tokens_out for event in reported),
        cost_usd=sum((Decimal(str(event.cost_usd)) for event in reported), Decimal(0)),
    )


def overspent(mission: Mission, over: bool) -> str | None:
    """Why the colony is told to stop: tokens, cost or time are used up."""
    if over:
        return "the mission's budget is used up"
    if mission.deadline_at is not None and mission.deadline_at <= now():
        return "the mission's time is used up"
    return None
