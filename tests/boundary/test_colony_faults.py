"""Whatever the colony does, a mission that nobody took waits as accepted, says why, and completes when it is over.

BOUNDARY_FAULT_TIMES sets how often each kind of fault meets each call (make chaos-boundary: 10, and a line for each kind).
"""

import asyncio
import json
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app import work
from app.components import Component
from app.work import Item
from colony_client.client import KEPT_BYTES
from tests.boundary.faults import FAULTS, MEBI, BrokenColony, Fault, broken
from tests.boundary.outage import again, origins, retry_in_s, says, waits
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, due, stuck

TIMES = int(os.environ.get("BOUNDARY_FAULT_TIMES", "1"))
SLACK_S = 0.25
BATCH = 2
KINDS_OF_WORK = ("dispatch", "attempt_timer", "colony_cancel")


@dataclass
class Patients:
    """Missions about which the colony is called, and the work that makes a worker call it."""

    offered: Life
    batch: list[Life]
    asked: Life
    cancelled: Life
    items: dict[UUID, Item]


async def admitted(world: World) -> Patients:
    """One mission to be offered, some that go together, one that has fallen silent, and one that was cancelled."""
    asked, cancelled = [await begin(world) for _ in range(2)]
    await world.run_work("dispatch")
    for life in (asked, cancelled):
        await life.say()
    await asked.past("lease_until")
    await due(world, "attempt_timer", asked.id)
    assert (await cancelled.end("cancel")).status_code == 200
    offered, *batch = [await begin(world) for _ in range(1 + BATCH)]
    items, _ = await work.turn(world.worker.database, list(KINDS_OF_WORK), 50, world.root_lease())
    return Patients(offered, batch, asked, cancelled, {item.subject: item for item in items})


async def took_s(call: Awaitable[Any]) -> float:
    """How long a call took, less the longest time for which the machine let nobody here do anything."""
    stood_still = 0.0

    async def watch() -> None:
        nonlocal stood_still
        while True:
            then = time.monotonic()
            await asyncio.sleep(0.005)
            stood_still = max(stood_still, time.monotonic() - then - 0.005)

    watching = asyncio.create_task(watch())
    began = time.monotonic()
    await call
    took = time.monotonic() - began
    watching.cancel()
    return took - stood_still


async def suffer(world: World, colony: BrokenColony, fault: Fault, sick: Patients) -> dict[str, float]:
    """Every call; how long each took until what came of it was kept."""
    worker, of = world.worker, sick.items
    whole = {
        "one": lambda: worker.dispatch([of[sick.offered.id]]),
        "batch": lambda: worker.dispatch([of[life.id] for life in sick.batch]),
        "status": lambda: worker.guarded(worker.call, of[sick.asked.id]),
        "cancel": lambda: worker.guarded(worker.call, of[sick.cancelled.id]),
        "ready": lambda: world.operator.get("/v1/status"),
    }
    took = {name: await took_s(whole[name]()) for name in fault.of}
    called = {
        "one": "/v1/missions",
        "batch": "/v1/missions",
        "status": f"/v1/missions/{sick.asked.id}",
        "cancel": f"/v1/missions/{sick.cancelled.id}/cancel",
        "ready": "/ready",
    }
    expected = Counter(called[name] for name in fault.of) if fault.name != "refused" else Counter()
    assert Counter(colony.calls) == expected, f"{fault.name}: asked once each"
    return took


async def look(world: World, fault: Fault, sick: Patients) -> None:
    """Everything that is said of the fault, wherever it is said."""
    kept, name = [1] * fault.kept, fault.name
    if "one" in fault.of:
        await waits(sick.offered, fault.code)
        for life in sick.batch:
            row = await life.row()
            assert (row["state"], row["attempt"], json.loads(row["degraded"])["code"]) == ("accepted", 1, fault.code), (
                name
            )
        assert await origins(sick.offered) == ["dispatch_answer" for _ in kept], name
        assert [await origins(life) for life in sick.batch] == [["dispatch_answer" for _ in kept], []], name
    if "status" in fault.of:
        row = await sick.asked.row()
        expected = ("running", 1) if fault.code == "colony_busy" else ("accepted", 2)
        assert (row["state"], row["attempt"]) == expected, name
        await says(sick.asked, fault.code)
        assert await origins(sick.asked) == ["status_answer" for _ in kept], name
    if "cancel" in fault.of:
        assert await sick.cancelled.state() == "cancelled"
        assert await origins(sick.cancelled) == ["cancel_answer" for _ in kept], name
    if "ready" in fault.of:
        shown = world.public.state.components["colony"].view()
        assert shown["state"] == "degraded" and shown["detail"] and shown["effect"] and shown["since"], name
    assert await stuck(world) == [], name


async def breaks(world: World, colony: BrokenColony, fault: Fault, sick: Patients) -> None:
    """A breaker that is open asks nobody; a colony that is busy does not open it."""
    component = world.worker.colony.component
    if "one" not in fault.of:
        return
    if fault.code == "colony_busy":
        assert (component.failures, component.retry_at()) == (0, None), fault.name
        assert 60 < await retry_in_s(sick.offered) <= 70 or fault.name == "html_503"
        return
    assert component.state == "down" and component.retry_at() is not None, fault.name
    before = len(colony.calls)
    await again(sick.offered)
    assert len(colony.calls) == before, f"{fault.name}: an open breaker asks nobody"
    await waits(sick.offered, fault.code)


async def survive(world: World, fault: Fault) -> tuple[Patients, dict[str, float]]:
    """One kind of fault, up to what is said of it; how long each call took beyond the colony's time."""
    sick, timeout_s = await admitted(world), 0.15 if fault.slow else 2.0
    calls = [name for name in fault.of if name != "ready"]
    component = Component("colony", "-", opens_after=len(calls), stays_open=timedelta(hours=1))
    world.worker.colony.component = component
    world.public.state.components["colony"] = Component("colony", "Missions are accepted and wait.")
    async with broken(world, fault.name, timeout_s) as colony:
        took = await suffer(world, colony, fault, sick)
        await look(world, fault, sick)
        await breaks(world, colony, fault, sick)
    assert colony.elsewhere == 0, f"{fault.name}: a redirect was followed"
    assert colony.twice == set(), f"{fault.name}: an attempt was offered twice at one time"
    component.opened_at = None
    return sick, {name: seconds - timeout_s for name, seconds in took.items()}


async def recover(world: World, sick: list[Patients], before: int) -> None:
    """The colony is well again: nothing is lost, and nothing was begun twice. before: how many dispatches it had seen."""
    await world.make_due()
    while await world.run_work(rounds=1):
        pass
    attempts = {life.id: 1 for one in sick for life in (one.offered, *one.batch, one.cancelled)}
    attempts |= {one.asked.id: 2 for one in sick}
    offered = Counter((one.mission_id, one.attempt) for one in world.colony.dispatched[before:])
    assert offered == Counter([*attempts.items(), *((one.asked.id, 1) for one in sick)])
    alive = [life for one in sick for life in (one.offered, *one.batch, one.asked)]
    await asyncio.gather(*(life.say({"type": "signal", "signal": "complete"}) for life in alive))
    while await world.run_work("review", rounds=1):
        pass
    rows = await (await inspector(world)).fetch(
        "SELECT id, state, attempt, degraded FROM mission WHERE id = ANY($1)", list(attempts)
    )
    ended = {row["id"]: (row["state"], row["attempt"], row["degraded"]) for row in rows}
    cancelled = {one.cancelled.id for one in sick}
    for id, attempt in attempts.items():
        assert ended[id] == ("cancelled" if id in cancelled else "completed", attempt, None)
    assert cancelled <= set(world.colony.cancelled), "the colony is told after all"


@pytest.mark.long
@pytest.mark.parametrize("slow", [False, True], ids=["said", "not said"])
async def test_every_fault_is_survived_said_and_over_when_it_is_over(
    world: World, slow: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world.worker.colony.lease = timedelta(hours=1)  # nobody falls silent meanwhile but those who are meant to
    worst: dict[str, dict[str, float]] = {}
    for _ in range(TIMES):
        before, sick = len(world.colony.dispatched), []
        for name, fault in FAULTS.items():
            if fault.slow == slow:
                one, beyond = await survive(world, fault)
                sick.append(one)
                known = worst.setdefault(name, beyond)
                worst[name] = {call: max(known[call], beyond_s) for call, beyond_s in beyond.items()}
        await recover(world, sick, before)
    for name, calls in worst.items():
        if TIMES > 1:
            with capsys.disabled():
                said = "  ".join(f"{call} {1000 * beyond_s:+5.0f}" for call, beyond_s in calls.items())
                print(f"{name:24} {TIMES} times {len(calls)} calls; worst, in ms beyond the timeout: {said}")
        assert max(calls.values()) <= SLACK_S, f"{name}: {calls}"


@pytest.mark.parametrize("name", ["floods_100_mb", "gzip_bomb", "headers_100_mb", "nothing_but_lists"])
async def test_no_answer_fills_the_memory(world: World, name: str) -> None:
    sick, fault = await admitted(world), FAULTS[name]
    async with broken(world, name) as colony:
        tracemalloc.start()
        await suffer(world, colony, fault, sick)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 * MEBI, "an answer at a time, and what it brought"
    [(_, data)] = await sick.offered.quarantined()
    assert len(data) == KEPT_BYTES
