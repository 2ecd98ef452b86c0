"""Degraded, never silent: what is accepted and cannot run says so at once, and what would only add to a full queue waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from app import boundary
from app.clock import now
from app.components import Component
from app.telemetry import COMPONENT_UP
from app.writebacks.book import BREAKERS, Guarded
from app.writebacks.connectors import Observed, Reader, ReadFailed
from tests.boundary.faults import BrokenColony, broken
from tests.operations.test_service_health import component, status
from tests.world import World
from tests.world.checks import inspector, pending_change, problem
from tests.world.life import Life, begin, due

LANE = {"Content-Type": "application/json"}
ASK = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}
LEADS = {"mission_type": "crm_lead_intelligence", "user_goal": "Which leads deserve a call?"}


async def looked(world: World, times: int = 3) -> None:
    for _ in range(times):
        await world.root.watch.turn()


async def asked(world: World, **more: Any) -> dict[str, Any]:
    answer = await world.submitter.post("/v1/missions", json=ASK | more)
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_mission_that_cannot_run_now_is_accepted_and_says_so(world: World) -> None:
    honest = world.public.state.colony
    async with broken(world) as colony:
        colony.manner = "html_500"
        world.root.colony = world.public.state.colony = world.worker.colony.client
        await looked(world, 2)
        assert (await asked(world))["degraded"] is None, "it may be a passing trouble"
        await looked(world, 1)
        calls = len(colony.calls)
        made = await asked(world)
        assert set(made["degraded"]) == {"code", "effect", "since"}
        assert made["degraded"]["code"] == "colony_unavailable"
        assert datetime.fromisoformat(made["degraded"]["since"]) <= now() and made["state"] == "accepted"
        assert len(colony.calls) == calls, "nobody was asked for it"
        again = await asked(world)
        assert again["degraded"] == made["degraded"], "the same trouble, since the same moment"
        # the long way in says the same as the short one
        slow = await world.submitter.post("/v1/missions?validate_only=false", json=ASK)
        assert slow.json()["degraded"] == made["degraded"]
        # what waits for a human, or for nobody, could not run any sooner
        asks = await asked(world, mode="autonomous", risk_level="medium")
        assert asks["degraded"] is None
    world.root.colony = world.public.state.colony = honest
    await looked(world, 1)
    assert (await asked(world))["degraded"] is None


async def test_the_same_key_is_answered_the_same_whatever_has_changed(world: World) -> None:
    colony = world.root.components["colony"]
    for _ in range(3):
        colony.failed("as the test says")
    headers = {"Idempotency-Key": "one"}
    first = await world.submitter.post("/v1/missions", json=ASK, headers=headers)
    colony.succeeded()
    again = await world.submitter.post("/v1/missions", json=ASK, headers=headers)
    assert first.json()["degraded"]["code"] == "colony_unavailable"
    assert again.content == first.content and again.headers["idempotent-replayed"] == "true"


async def test_where_no_mission_is_accepted_it_says_when_to_come_again(world: World) -> None:
    world.public.state.settings = world.settings(colony_enabled=False)
    for path in ("/v1/missions", "/v1/missions?validate_only=true"):
        answer = await world.submitter.post(path, json=ASK)
        problem(answer, "colony_disabled")
        assert int(answer.headers["retry-after"]) >= 1


# --- a full queue of approvals


@pytest.fixture
async def full(world: World) -> World:
    """A tenant with as many approvals waiting as may: one."""
    await pending_change(world)
    world.worker.colony.queue_limit = 1
    world.public.state.settings = world.root.settings = world.settings(approval_queue_limit=1)
    return world


async def test_what_would_only_add_to_a_full_queue_waits_and_goes_on_when_it_shrinks(full: World) -> None:
    made = (await full.submitter.post("/v1/missions", json=LEADS)).json()
    life = Life(full, made["id"])
    reads_only = await begin(full)
    dry = await begin(full, **LEADS, mode="dry_run")
    before = len(full.colony.dispatched)
    await full.run_work("dispatch", rounds=1)
    taken = {one.mission_id for one in full.colony.dispatched[before:]}
    assert taken == {reads_only.id, dry.id}, "what asks for nothing goes on"
    shown = await full.mission(life.id)
    assert (shown["state"], shown["degraded"]["code"]) == ("accepted", "approval_queue_full")
    found = component(await status(full), "approvals")
    assert (found["state"], found["queued"]) == ("down", {"approvals": 1})
    for _ in range(2):
        await due(full, "dispatch", life.id)
        await full.run_work("dispatch", rounds=1)
    facts = [fact for fact in await full.facts(life.id) if fact["type"] == "mission.degraded"]
    assert len(facts) == 1, "said once"
    wait = await (await inspector(full)).fetchval(
        "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM work WHERE kind = 'dispatch' AND subject = $1::text::uuid",
        made["id"],
    )
    assert 10 < wait < 60, "it is looked at less and less often"

    [approval] = (await full.operator.get("/v1/approvals?state=pending")).json()["items"]
    answer = await full.operator.post(
        f"/v1/approvals/{approval['id']}/decisions",
        json={"decision": "reject", "payload_sha256": approval["payload_sha256"], "comment": "no"},
        headers={"If-Match": f'"v{approval["version"]}"'},
    )
    assert answer.status_code == 201
    await due(full, "dispatch", life.id)
    await full.run_work("dispatch", rounds=1)
    shown = await full.mission(life.id)
    assert (shown["state"], shown["degraded"]) == ("dispatched", None)
    found = component(await status(full), "approvals")
    assert (found["state"], found["queued"]) == ("up", None)


async def test_a_full_queue_is_said_when_the_mission_is_asked_for(full: World) -> None:
    await looked(full, 1)
    made = (await full.submitter.post("/v1/missions", json=LEADS)).json()
    assert made["degraded"]["code"] == "approval_queue_full"
    assert (await asked(full))["degraded"] is None
    assert (await full.submitter.post("/v1/missions", json=LEADS | {"mode": "dry_run"})).json()["degraded"] is None
    kind = (await full.product_owner.get("/v1/mission-types/crm_lead_intelligence")).json()
    tame = {
        name: kind[name]
        for name in ("title", "description", "inputs_schema", "tools", "limits", "review")
        if name in kind
    }
    tame |= {"defaults": kind["defaults"] | {"mode": "dry_run"}}
    put = await full.product_owner.put("/v1/mission-types/tame_leads", json=tame)
    assert put.status_code == 201, put.text
    made = (await full.submitter.post("/v1/missions", json=LEADS | {"mission_type": "tame_leads"})).json()
    assert (made["mode"], made["degraded"]) == ("dry_run", None), "the mode that it will have counts, whoever said it"
    only_reads = LEADS | {"tools": ["workspace.search"]}
    assert (await full.submitter.post("/v1/missions", json=only_reads)).json()["degraded"] is None
    other = await full.another_tenant()
    assert (await other.http.post("/v1/missions", json=LEADS)).json()["degraded"] is None, (
        "another tenant's queue is its own"
    )


async def test_a_replay_from_a_tape_adds_to_no_queue(full: World) -> None:
    [approval] = (await full.operator.get("/v1/approvals?state=pending")).json()["items"]
    await looked(full, 1)
    found = []
    for said in ({"mode": "recorded", "colony": "live"}, {"mode": "rerun"}):
        answer = await full.submitter.post(f"/v1/missions/{approval['mission_id']}/replay", json=said)
        assert answer.status_code == 202, answer.text
        found.append(answer.json()["degraded"])
    assert found[0] is None and found[1]["code"] == "approval_queue_full"


async def test_a_queue_that_shrinks_is_no_longer_said_to_be_full(full: World) -> None:
    await looked(full, 1)
    full.public.state.settings = full.root.settings = full.settings(approval_queue_limit=2)
    await looked(full, 1)
    assert (await full.submitter.post("/v1/missions", json=LEADS)).json()["degraded"] is None
    full.public.state.settings = full.root.settings = full.settings(approval_queue_limit=1)
    await status(full)  # whoever looks sees it: there is one truth
    assert (await full.submitter.post("/v1/missions", json=LEADS)).json()["degraded"]["code"] == "approval_queue_full"


async def test_no_limit_is_no_limit(full: World) -> None:
    full.worker.colony.queue_limit = 0
    full.public.state.settings = full.root.settings = full.settings(approval_queue_limit=0)
    await looked(full, 1)
    made = (await full.submitter.post("/v1/missions", json=LEADS)).json()
    assert made["degraded"] is None
    await full.run_work("dispatch", rounds=1)
    assert (await full.mission(made["id"]))["state"] == "dispatched"


# --- whether the colony is there


@asynccontextmanager
async def looked_at(world: World) -> AsyncIterator[None]:
    """The worker asks its colony again and again while the block runs."""
    looking = asyncio.create_task(boundary.keep_looking(world.worker.colony, 0.01))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def asked_again(colony: BrokenColony) -> None:
    """Until a question that begins after this one was answered."""
    since = len(colony.calls)
    async with asyncio.timeout(5):
        while len(colony.calls) < since + 3:
            await asyncio.sleep(0.005)


async def test_a_colony_that_is_not_ready_is_not_up(world: World) -> None:
    ours, shown = world.worker.colony, COMPONENT_UP.labels("colony")
    async with broken(world, "honest") as colony, looked_at(world):
        await asked_again(colony)
        assert shown._value.get() == 1
        colony.manner = "not_ready_503"
        await asked_again(colony)
        assert shown._value.get() == 0
        for _ in range(3):
            ours.component.failed("it was silent")
        await asked_again(colony)
        assert ours.component.opened_at is not None, "what is not ready does not close a breaker"
        colony.manner = "honest"
        await asked_again(colony)
        assert ours.component.opened_at is None and shown._value.get() == 1


async def test_a_probe_forgives_no_failure_of_signed_calls(world: World) -> None:
    component = world.worker.colony.component
    life = await begin(world)
    async with broken(world) as colony, looked_at(world):
        for _ in range(3):
            colony.manner = "unauthorized_401"
            await due(world, "dispatch", life.id)
            await world.run_work("dispatch", rounds=1)
            colony.manner = "honest"
            await asked_again(colony)
        assert (component.state, component.opened_at is None) == ("down", False), (
            "the keys do not agree, whoever answers"
        )
    assert (await world.mission(life.id))["degraded"]["code"] == "colony_unauthorized"


# --- what waits for whom


async def test_the_status_says_what_waits(world: World) -> None:
    for _ in range(2):
        await begin(world)
    found = await status(world)
    assert component(found, "colony")["queued"] == {"missions": 2}
    assert component(found, "worker")["queued"] == {"missions": 2}
    await world.run_work("dispatch")
    assert component(await status(world), "colony")["queued"] is None


async def test_a_change_that_nobody_carries_out_degrades_the_executor(world: World) -> None:
    await world.no_undo_window()
    approval = await pending_change(world)
    await Life(world, approval["mission_id"]).decide("approve", approval)
    found = component(await status(world), "executor")
    assert (found["state"], found["queued"]) == ("up", {"changes": 1})
    await (await inspector(world)).execute(
        "UPDATE work SET next_at = now() - interval '2 minutes' WHERE kind = 'execute'"
    )
    found = await status(world)
    said = component(found, "executor")
    assert (found["status"], said["state"]) == ("degraded", "down") and "expire with their approvals" in said["effect"]


async def test_what_an_operator_has_halted_is_off_with_its_reason(world: World) -> None:
    await world.with_crm()
    halted = await world.operator.post("/v1/connectors/sample_crm/halt", json={"reason": "a test"})
    assert halted.status_code == 200, halted.text
    found = await status(world)
    said = component(found, "writing to sample_crm")
    assert (said["state"], said["detail"]) == ("off", "halted by an operator") and "what is approved waits" in said[
        "effect"
    ]
    assert found["status"] == "ok", "somebody wanted it so"


async def test_a_target_that_does_not_answer_is_left_alone_for_a_while(world: World) -> None:
    approval = await pending_change(world)
    crm, world.crm_base_url = world.crm_base_url, "http://127.0.0.1:1"
    away = world.settings()
    for app in (world.public, world.internal):
        app.state.settings = away

    async def current() -> dict[str, Any]:
        found: dict[str, Any] = (await world.operator.get(f"/v1/approvals/{approval['id']}")).json()["current"]
        return found

    for _ in range(5):
        assert "left alone" not in (await current())["problem"]
    assert "left alone" in (await current())["problem"]
    said = component(await status(world), "connector sample_crm")
    assert (said["state"], said["detail"]) == ("down", "connector_unreachable") and said["effect"]
    world.crm_base_url = crm
    for app in (world.public, world.internal):
        app.state.settings = world.settings()
    assert "left alone" in (await current())["problem"], "until its time is over"
    for _, one in BREAKERS.values():
        one.stays_open = timedelta(0)
    assert "value" in await current()
    assert component(await status(world), "connector sample_crm")["state"] == "up"


class Silent(Reader):
    """A target that says nothing until it is let."""

    name = "silent"

    def __init__(self) -> None:
        self.asked, self.answer = 0, asyncio.Event()

    async def read(self, kind: str, record_id: str) -> Observed:
        self.asked += 1
        await self.answer.wait()
        return Observed(kind, record_id, {}, "1", now())


async def test_of_all_who_wait_for_a_silent_target_one_asks_whether_it_is_back() -> None:
    silent, breaker = Silent(), Component("connector silent", "x", opens_after=1)
    guarded = Guarded(silent, breaker)
    breaker.failed("connector_timed_out")
    assert breaker.opened_at
    breaker.opened_at -= breaker.stays_open
    several = [asyncio.create_task(guarded.read("lead", "1")) for _ in range(5)]
    async with asyncio.timeout(5):
        refused = await asyncio.gather(*several[1:], return_exceptions=True)
    assert silent.asked == 1 and all("left alone until" in str(one) for one in refused)
    trial = several[0]
    trial.cancel()  # whoever asked went away
    await asyncio.wait([trial])
    with pytest.raises(ReadFailed, match="left alone until"):
        await guarded.read("lead", "1")
    breaker.opened_at -= breaker.stays_open
    silent.answer.set()
    await guarded.read("lead", "1")
    await asyncio.gather(*(guarded.read("lead", "1") for _ in range(3)))
    assert (silent.asked, breaker.state) == (5, "up")


async def test_of_a_connector_that_was_mended_or_retired_the_status_tells_no_old_story(world: World) -> None:
    world.public.state.settings = world.settings(connector_credentials={"CONNECTOR_DEMO__MENDED_READ": "a-token"})

    async def put(place: str, **headers: str) -> dict[str, str]:
        body = {"kind": "sample_crm", "base_url": place}
        answer = await world.admin.put("/v1/connectors/mended", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        return {"If-Match": answer.headers["etag"]}

    async def said() -> list[str]:
        found = await status(world)
        return [one["state"] for one in found["components"] if one["name"] == "connector mended"]

    async def read() -> None:
        answer = await world.admin.post("/v1/connectors/mended/check", json={"kind": "lead", "id": "lead-1"})
        assert answer.status_code == 200 and "left alone" not in answer.json()["problem"], answer.text

    version = await put("http://127.0.0.1:1")
    for _ in range(5):
        await read()
    assert await said() == ["down"]
    version = await put("http://127.0.0.1:2", **version)
    assert await said() == [], "nobody has read through what it is now"
    await read()
    assert await said() == ["degraded"], "what was met before does not count"
    gone = await world.admin.delete("/v1/connectors/mended", headers=version)
    assert gone.json()["outcome"] == "retired", gone.text
    assert await said() == []
