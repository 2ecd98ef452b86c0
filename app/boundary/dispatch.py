"""Missions are offered to the colony, many in one call, and wait when they cannot be.

No call is made inside a transaction. Each verb of this room reads what it needs, calls, and then records the outcome under the
fence of its work item; a crash in between repeats the call, which the contract makes harmless.
"""

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

from app import missions
from app.approvals.queries import answers
from app.boundary.colony import EFFECTS, Colony, answered, asked_for, faulted
from app.caller import system
from app.clock import now
from app.db import Database, ReadSession
from app.missions import Held, Mission
from app.missions.queries import from_row
from app.missions.tools import beyond_workspace
from app.telemetry import continuing, span, traceparent
from app.work import Item
from colony_client import tokens
from colony_client.artifacts import Budgets, MissionEnvelope
from colony_client.contract import MAX_BODY_BYTES, MAX_MISSIONS_PER_DISPATCH, Dispatch, DispatchAnswer, HumanDecision
from colony_client.errors import BoundaryError

log = structlog.get_logger("dispatch")

MOST_DECISIONS = 50  # of one dispatch, by the contract
AROUND_MISSIONS = 256  # bytes of a batch that are not its missions
AROUND_MISSION = (
    8192  # bytes of a dispatch, at most, that are neither its envelope nor decisions; URL and tokens have 6,096
)
QUEUE_LOOK, LONGEST_QUEUE_LOOK = timedelta(seconds=5), timedelta(seconds=60)  # how often a full queue is looked at
PENDING = text("""
  SELECT count(*) FROM (SELECT 1 FROM approval WHERE tenant = :tenant AND state = 'pending' LIMIT :most) waiting""")
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


async def wait_all(database: Database, items: Sequence[Item], code: str, at: Callable[[Item], datetime]) -> None:
    """They are given back until then, and their missions say why they wait."""

    def become(held: Held, item: Item) -> None:
        if item.subject in held.missions:
            held.degrade(system(item.tenant, "worker"), item.subject, code, EFFECTS[code])
        held.again(item, at(item), failed=True)

    await missions.hold_each(database, items, become)
