"""The root's calls to the colony: dispatch in batches, questions about silent attempts, cancels.

No call is made inside a transaction. Each verb reads what it needs, calls, and then records the outcome under the
fence of its work item; a crash in between repeats the call, which the contract makes harmless.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

import structlog
from opentelemetry.trace import SpanKind
from sqlalchemy import text

from app import budgets, ledger, missions, work
from app.approvals.queries import answers
from app.caller import Caller, system
from app.clock import now
from app.components import Component
from app.db import Database, ReadSession, WriteSession
from app.http.probes import PROBE_S
from app.missions import Held, Mission
from app.missions.queries import from_row
from app.missions.tools import beyond_workspace
from app.telemetry import COLONY_FAILURES, COMPONENT_UP, QUARANTINED, begin, continuing, span, traceparent
from app.work import Item
from colony_client import tokens
from colony_client.artifacts import Budgets, MissionEnvelope
from colony_client.client import ColonyClient
from colony_client.contract import MAX_BODY_BYTES, MAX_MISSIONS_PER_DISPATCH, Dispatch, DispatchAnswer, HumanDecision
from colony_client.errors import BoundaryError, Busy, Incompatible, Malformed, Refused, Unauthorized
from colony_client.signing import Keys

log = structlog.get_logger("dispatch")

MOST_DECISIONS = 50  # of one dispatch, by the contract
MOST_PATIENCE_S = 300.0
MOST_CANCELS = 5  # tries in half a minute
MOST_KEPT, MOST_KEPT_BYTES = 50, 4 * MAX_BODY_BYTES  # of what could not be understood about one mission
AROUND_MISSIONS = 256  # bytes of a batch that are not its missions
AROUND_MISSION = (
    8192  # bytes of a dispatch, at most, that are neither its envelope nor decisions; URL and tokens have 6,096
)
QUEUE_LOOK, LONGEST_QUEUE_LOOK = timedelta(seconds=5), timedelta(seconds=60)  # how often a full queue is looked at
PENDING = text("""
  SELECT count(*) FROM (SELECT 1 FROM approval WHERE tenant = :tenant AND state = 'pending' LIMIT :most) waiting""")
DRILLED = text("SELECT drill_tenant() = :tenant")
OFFERED = "SELECT (o.m).*, o.envelope, o.asked FROM offered_missions($1, $2) o"


@dataclass(frozen=True)
class Wanted:
    """A mission whose dispatch is due, with the bytes of its envelope; they are read once, by whoever looks first."""

    tenant: UUID
    mission: Mission
    bytes: bytes

    @cached_property
    def envelope(self) -> MissionEnvelope:
        return MissionEnvelope.model_validate_json(self.bytes)


@dataclass(frozen=True)
class Offer:
    """One mission that is offered; weight: at most so many bytes on the wire."""

    item: Item
    mission: Mission
    message: Dispatch
    weight: int


@dataclass
class Colony:
    """The colony as the worker knows it: the client, the breaker, and the terms of every dispatch."""

    client: ColonyClient
    keys: Keys  # the root's own, for mission tokens
    callback_base_url: str
    lease: timedelta
    max_attempts: int
    component: Component
    queue_limit: int = (
        0  # pending approvals of a tenant, from which on nothing is dispatched that could add to them; 0: none
    )
    trouble: str = "colony_unavailable"  # code of the last failure: why missions wait while the breaker is open
    counted: bool = True  # whether its state is the one that metrics show; a drill's is not

    def show(self) -> None:
        if self.counted:
            COMPONENT_UP.labels("colony").set(0 if self.component.opened_at else 1)


EFFECTS = {
    "colony_unavailable": "The colony does not answer. The mission waits and is dispatched when it does.",
    "colony_unauthorized": "The colony refuses the root's key. The mission waits until the keys agree.",
    "colony_incompatible": "The colony speaks another version of the contract. The mission waits until one of the two is replaced.",
    "colony_malformed": "The colony's answer could not be read. The mission waits and is dispatched again.",
    "approval_queue_full": "As many approvals wait as may. The mission could add to them, and is dispatched when they are fewer.",
    "colony_busy": "The colony takes no more missions at the moment. The mission waits its turn.",
}

ORIGINS = ("callback", "dispatch_answer", "status_answer", "cancel_answer")  # of what is quarantined
begin(COLONY_FAILURES, EFFECTS)
begin(QUARANTINED, ORIGINS)

SILENT = "The colony does not say how the mission is getting on. It is asked again."


def degraded_code(error: BoundaryError) -> str:
    match error:
        case Unauthorized():
            return "colony_unauthorized"
        case Incompatible():
            return "colony_incompatible"
        case Malformed():
            return "colony_malformed"
        case Busy():
            return "colony_busy"
        case _:
            return "colony_unavailable"


async def dispatch(database: Database, colony: Colony, items: Sequence[Item], until: float | None = None) -> None:
    """Offers the current attempt of each item's mission to the colony, many in one call.

    until: time.monotonic() after which no call is begun, because another worker may have the items when it ends; what is
    left is given back.
    """
    ready, rest, held_back = await prepare(database, colony, items)
    if rest:
        await let_go(database, rest)
    if held_back:
        await wait_all(database, held_back, "approval_queue_full", next_queue_look)
    for call in calls(ready):
        if until is not None and time.monotonic() > until:
            await missions.hold_each(
                database, [one.item for one in call], lambda held, item: held.again(item, None, failed=True)
            )
        else:
            await offer(database, colony, call)


def next_queue_look(item: Item) -> datetime:
    """The longer a mission has waited for a full queue, the later that is looked at again."""
    return now() + min(QUEUE_LOOK * 2 ** min(item.attempts - 1, 4), LONGEST_QUEUE_LOOK)


def calls(ready: Sequence[Offer]) -> Iterator[list[Offer]]:
    """Cuts what is to be sent into calls that keep the contract's limits of one batch."""
    call: list[Offer] = []
    size = 0
    for one in ready:
        if call and (len(call) == MAX_MISSIONS_PER_DISPATCH or size + one.weight > MAX_BODY_BYTES - AROUND_MISSIONS):
            yield call
            call, size = [], 0
        call.append(one)
        size += one.weight
    if call:
        yield call


async def offer(database: Database, colony: Colony, ready: Sequence[Offer]) -> None:
    """One call, and what came of each mission in it."""
    items = [one.item for one in ready]
    trial = colony.component.retry_at()
    if trial is not None:
        await wait_all(database, items, colony.trouble, lambda _: trial)
        return
    first = ready[0].mission
    with span("dispatch", context=continuing(first.traceparent), kind=SpanKind.CLIENT):
        try:
            answers = await colony.client.dispatch([one.message for one in ready])
        except BoundaryError as error:
            await dispatch_failed(database, colony, items, error)
            return
    answered(colony)
    said = {one.item.subject: (one, answer) for one, answer in zip(ready, answers, strict=True)}
    await missions.hold_each(database, items, lambda held, item: note_answer(held, colony, *said[item.subject]))


async def prepare(
    database: Database, colony: Colony, items: Sequence[Item]
) -> tuple[list[Offer], list[Item], list[Item]]:
    """What can be sent, the items that no longer need sending or whose time is over, and those that would only add to a queue
    of approvals that is full."""
    ready: list[Offer] = []
    rest: list[Item] = []
    held_back: list[Item] = []
    rows = await database.fetch(OFFERED, [item.tenant for item in items], [item.subject for item in items])
    wanted = {row["id"]: Wanted(row["tenant"], from_row(row), row["envelope"]) for row in rows}
    said: dict[UUID, Sequence[Any]] = {}
    full: set[UUID] = set()
    asking, adding = {row["tenant"] for row in rows if row["asked"]}, could_add(colony, wanted.values())
    if asking or adding:
        async with database.read() as session:
            for tenant in asking:
                await session.enter(tenant)
                said[tenant] = await answers(session, [row["id"] for row in rows if row["asked"]])
            full = await full_queues(session, colony, adding)
    for item in items:
        one = wanted.get(item.subject)
        if one is None or one.mission.state != "accepted" or out_of_time(one.mission):
            rest.append(item)
        elif item.tenant in full and could_ask(one):
            held_back.append(item)
        else:
            spoken = decisions(said.get(item.tenant, ()), one.mission.id)
            weight = len(one.bytes) + AROUND_MISSION + sum(len(word.model_dump_json().encode()) for word in spoken)
            sent = message(item.tenant, one.mission, one.envelope, spoken, colony)
            ready.append(Offer(item, one.mission, sent, weight))
    return ready, rest, held_back


def could_add(colony: Colony, wanted: Iterable[Wanted]) -> set[UUID]:
    """The tenants whose queue of approvals some of these could add to; nobody is counted where there is no limit."""
    return {one.tenant for one in wanted if could_ask(one)} if colony.queue_limit else set()


async def full_queues(session: ReadSession, colony: Colony, tenants: Iterable[UUID]) -> set[UUID]:
    """Those of the tenants in which as many approvals wait as may."""
    found: set[UUID] = set()
    for tenant in tenants:
        await session.enter(tenant)
        asked = {"tenant": tenant, "most": colony.queue_limit}
        if await session.scalar(PENDING, asked) >= colony.queue_limit:
            found.add(tenant)
    return found


def could_ask(one: Wanted) -> bool:
    """Whether a mission could end in asking humans for a change: it is no dry run and no replay from a tape, and it has tools
    beyond the workspace, without which it knows no record that could be changed."""
    if one.mission.mode == "dry_run" or one.mission.played:
        return False
    return beyond_workspace(one.envelope.tools)


def decisions(said: Sequence[Any], mission: UUID) -> list[HumanDecision]:
    """What humans have said to a mission's questions: the newest, as many as a dispatch has room for."""
    found = [
        HumanDecision(
            approval_id=row.id,
            question=row.question,
            decision=row.verdict,
            comment=row.comment,
            decided_at=row.decided_at,
        )
        for row in said
        if row.mission == mission
    ]
    return found[-MOST_DECISIONS:]


def out_of_time(mission: Mission) -> bool:
    """Whether the deadline, which the first dispatch has set, has passed."""
    return mission.deadline_at is not None and mission.deadline_at <= now()


async def let_go(database: Database, items: Sequence[Item]) -> None:
    """Ends dispatches that are not sent: the mission is elsewhere by now, or has spent its time waiting for a colony."""

    def become(held: Held, item: Item) -> None:
        mission = held.missions.get(item.subject)
        if mission is not None and mission.state == "accepted" and out_of_time(mission):
            held.fail(system(item.tenant, "worker"), mission.id, "time_budget", reason="time_budget")
        held.finish(item)

    await missions.hold_each(database, items, become)


def message(
    tenant: UUID, mission: Mission, envelope: MissionEnvelope, said: list[HumanDecision], colony: Colony
) -> Dispatch:
    """The dispatch of a mission's current attempt. The attempt is also the fence of its token."""
    left = mission.budget_time_ms
    if mission.deadline_at is not None:
        left = max(1, int((mission.deadline_at - now()).total_seconds() * 1000))
    with span(
        "mission.dispatch",
        context=continuing(mission.traceparent),
        attributes={"mission.id": str(mission.id), "mission.attempt": mission.attempt},
    ):
        parent = traceparent()
    return Dispatch(
        mission_id=mission.id,
        attempt=mission.attempt,
        envelope=envelope,
        decisions=said,
        callback_base_url=colony.callback_base_url,
        traceparent=parent or mission.traceparent,
        mission_token=first_token(tenant, mission, colony, "callback"),
        gateway_token=first_token(tenant, mission, colony, "gateway"),
        budgets=Budgets(
            time_ms=left,
            tokens=max(0, mission.budget_tokens - mission.used_tokens),
            cost_usd=max(0.0, float(mission.budget_cost_usd - mission.used_cost_usd)),
        ),
    )


def first_token(tenant: UUID, mission: Mission, colony: Colony, audience: tokens.TokenAudience) -> str:
    return tokens.issue(
        colony.keys,
        mission=mission.id,
        tenant=tenant,
        attempt=mission.attempt,
        fence=mission.attempt,
        audience=audience,
    )


def note_answer(held: Held, colony: Colony, offered: Offer, answer: DispatchAnswer) -> None:
    """accepted: a lease runs. busy: again later. refused: the mission fails and says why."""
    item, caller = offered.item, system(offered.item.tenant, "worker")
    present = held.missions[item.subject]
    if present.state == "accepted" and present.attempt == offered.mission.attempt:
        if answer.outcome == "accepted":
            held.taken_by_colony(caller, present.id, colony.lease)
        elif answer.outcome == "refused":
            held.fail(caller, present.id, "refused", reason="refused_by_colony", note=answer.reason)
        else:
            held.degrade(caller, present.id, "colony_busy", EFFECTS["colony_busy"])
            pause_s = min(max(answer.retry_after_s or 1.0, 0.2), 60)
            held.again(item, now() + timedelta(seconds=pause_s), failed=True)
            return
    held.finish(item)


async def dispatch_failed(database: Database, colony: Colony, items: Sequence[Item], error: BoundaryError) -> None:
    """Nobody knows, or nobody took them: the missions wait as accepted and say why."""
    log.warning("dispatch failed", missions=len(items), error=type(error).__name__, detail=str(error)[:300])
    code = await faulted(database, colony, items[0], "dispatch_answer", error)
    await wait_all(
        database, items, code, lambda item: now() + timedelta(seconds=max(patience_s(item), asked_for(error)))
    )


def patience_s(item: Item) -> float:
    """How long a mission waits that was offered in vain: longer each time, whoever else was in its call."""
    return float(min(0.25 * 2 ** min(item.attempts, 7), 30))


async def faulted(database: Database, colony: Colony, item: Item, origin: str, error: BoundaryError) -> str:
    """A call that got no answer of the contract: counted by the breaker, unless the colony is only busy; its bytes are kept.

    Answers the code of the degraded state.
    """
    code = degraded_code(error)
    COLONY_FAILURES.labels(code).inc()
    if code != "colony_busy":
        colony.trouble = code
        colony.component.failed(str(error))
        colony.show()
    await quarantine(database, item, origin, error)
    return code


def answered(colony: Colony) -> None:
    colony.component.succeeded()
    colony.show()


async def colony_trouble(client: ColonyClient) -> str:
    """What is wrong with the colony, in a sentence; empty when it says that it is ready. No transaction is open meanwhile."""
    try:
        ready = await client.ready(timeout_s=min(PROBE_S, client.timeout_s))
    except BoundaryError as error:
        return f"The colony's /ready gives no answer ({type(error).__name__})."
    return "" if ready.ready else "The colony says that it is not ready."


async def keep_looking(colony: Colony, period_s: float) -> None:
    """Asks the colony whether it is there, until cancelled: nobody else finds out while no mission has to be offered.

    An open breaker is closed by this only where silence had opened it, and the colony says that it is ready; the probe is not
    signed and proves nothing else.
    """
    while True:
        if await colony_trouble(colony.client):
            COMPONENT_UP.labels("colony").set(0)
        elif colony.component.opened_at is None:
            colony.show()  # failures that are counted stay: whether the keys agree, only a signed call finds out
        elif colony.trouble == "colony_unavailable":
            answered(colony)
        await asyncio.sleep(period_s)


def asked_for(error: BoundaryError) -> float:
    """The seconds that the colony wants to be left alone, at most five minutes."""
    return min(error.retry_after or 0.0, MOST_PATIENCE_S) if isinstance(error, Refused) else 0.0


async def wait_all(database: Database, items: Sequence[Item], code: str, at: Callable[[Item], datetime]) -> None:
    """They are given back until then, and their missions say why they wait."""

    def become(held: Held, item: Item) -> None:
        if item.subject in held.missions:
            held.degrade(system(item.tenant, "worker"), item.subject, code, EFFECTS[code])
        held.again(item, at(item), failed=True)

    await missions.hold_each(database, items, become)


async def watch_attempt(database: Database, colony: Colony, item: Item) -> None:
    """A lease or a deadline may have passed: time over fails the mission, silence is asked about, then a new attempt is made."""
    caller = system(item.tenant, "worker")
    async with database.write() as session:
        await session.enter(item.tenant)
        mission = await missions.lock(session, item.subject)
        if mission.state not in ("dispatched", "running") or mission.lease_until is None or mission.deadline_at is None:
            await work.finish(session, item)
            return
        if out_of_time(mission):
            await missions.fail(session, caller, mission.id, "time_budget", reason="time_budget")
            return  # fail() has dropped this item
        grace = budgets.over_until(mission.degraded)
        if grace is not None and grace <= now():
            await missions.fail(session, caller, mission.id, "time_budget", reason="budget_exhausted")
            return
        if mission.lease_until > now():
            await work.again(session, item, min(mission.lease_until, mission.deadline_at, grace or mission.deadline_at))
            return
    said = await ask(database, colony, item, mission)
    async with database.write() as session:
        await session.enter(item.tenant)
        present = await missions.lock(session, item.subject)
        if (present.attempt, present.state, present.last_seq) != (mission.attempt, mission.state, mission.last_seq):
            await work.again(session, item, now())  # it moved while we asked: look again
        elif said.patience_s:
            until = now() + timedelta(seconds=said.patience_s)
            if said.trouble:
                await missions.degrade(session, caller, present, said.trouble, SILENT)
            else:
                await missions.extend(session, present, until)
            await work.again(
                session, item, min(until, mission.deadline_at, budgets.over_until(present.degraded) or until)
            )
        else:
            await missions.requeue(session, caller, present, colony.max_attempts)
            if said.trouble:
                lost = await missions.lock(session, item.subject)
                await missions.degrade(session, caller, lost, said.trouble, EFFECTS[said.trouble])


@dataclass(frozen=True)
class Said:
    """What came of asking about an attempt: for how long it is left alone (0: it is lost), and the code of a call that failed."""

    patience_s: float = 0
    trouble: str | None = None


async def ask(database: Database, colony: Colony, item: Item, mission: Mission) -> Said:
    """Whether the colony works on exactly this attempt. One that is only busy is asked again: another attempt would add to it."""
    lease_s = colony.lease.total_seconds()
    try:
        status = await colony.client.status(mission.id)
    except BoundaryError as error:
        if settled(error):
            answered(colony)
            return Said()
        trouble = await faulted(database, colony, item, "status_answer", error)
        return Said(min(max(asked_for(error), 1.0), lease_s) if isinstance(error, Busy) else 0, trouble)
    answered(colony)
    return Said(lease_s if status.attempt == mission.attempt and status.state == "running" else 0)


def settled(error: BoundaryError) -> bool:
    """Whether a refusal is the colony's own word on the mission: it does not know it, or has ended it."""
    return isinstance(error, Refused) and error.problem is not None and error.status in (404, 409, 410)


async def cancel_in_colony(database: Database, colony: Colony, item: Item) -> None:
    """Tells the colony to stop; a colony that cannot be told finds out by its next callback."""
    try:
        await colony.client.cancel(item.subject, "the mission has ended")
        answered(colony)
    except BoundaryError as error:
        if settled(error):
            answered(colony)
        else:
            log.warning("the colony was not told of a cancel", mission=str(item.subject), error=str(error)[:300])
            await faulted(database, colony, item, "cancel_answer", error)
            if item.attempts < MOST_CANCELS:
                async with database.write() as session:
                    await session.enter(item.tenant)
                    delay = max(2.0**item.attempts, asked_for(error))
                    await work.again(session, item, now() + timedelta(seconds=delay), failed=True)
                return
    await settle(database, item)


async def settle(database: Database, item: Item) -> None:
    async with database.write() as session:
        await session.enter(item.tenant)
        await work.finish(session, item)


async def quarantine(database: Database, item: Item, origin: str, error: BoundaryError) -> None:
    """Keeps an answer that is not what the contract says; a problem document is, whatever it refuses."""
    if error.body and not (isinstance(error, Refused) and error.problem is not None):
        async with database.write() as session:
            await session.enter(item.tenant)
            caller = system(item.tenant, "worker")
            await keep_refused(session, caller, item.subject, origin, str(error), error.body)


async def keep_refused(
    session: WriteSession, caller: Caller, mission: UUID, origin: str, problem: str, data: bytes
) -> None:
    """Keeps a payload that could not be taken, as it came, and records that it is there.

    The same bytes are kept once, and of one mission so many payloads and bytes: who repeats the same mistake in other words
    fills no disk.
    """
    if not await session.scalar(DRILLED, {"tenant": caller.tenant}):  # what is wrong on purpose alarms nobody
        QUARANTINED.labels(origin).inc()
    row = await session.first(
        """INSERT INTO quarantine (tenant, mission, origin, problem, bytes)
           SELECT :tenant, :mission, :origin, :problem, CAST(:bytes AS bytea)
           FROM (SELECT count(*) AS n, COALESCE(sum(octet_length(q.bytes)), 0) AS size,
                        COALESCE(bool_or(q.sha256 = sha256(CAST(:bytes AS bytea))), false) AS known
                 FROM quarantine q WHERE q.tenant = :tenant AND q.mission = :mission) kept
           WHERE NOT kept.known AND kept.n < :most AND kept.size + octet_length(CAST(:bytes AS bytea)) <= :most_bytes
           RETURNING id, sha256""",
        {
            "tenant": caller.tenant,
            "mission": mission,
            "origin": origin,
            "problem": problem[:1000],
            "bytes": data,
            "most": MOST_KEPT,
            "most_bytes": MOST_KEPT_BYTES,
        },
    )
    if row is None:
        return
    await ledger.record(
        session, caller, "payload.quarantined", mission, quarantine=row.id, sha256=row.sha256.hex(), origin=origin
    )
