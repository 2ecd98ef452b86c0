"""The ladder: what it admits, who moves it, what lowers it by itself, and that no process goes by what it remembers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from app.ladder import ladder, reaches
from app.ladder.rungs import AUTONOMY
from app.release.gates import BY_NAME, GATES
from app.release.judge import judge, note
from app.release.looks import error_budget
from tests.conftest import Cluster
from tests.release.scene import (
    all_green,
    ask_for,
    check,
    drilled,
    enable,
    failed,
    instance,
    look_after,
    mission,
    replayed,
    rungs,
)
from tests.world import World
from tests.world.checks import census, inspector, problem


@pytest.fixture
async def staging(cluster: Cluster, demo: dict[str, str]) -> AsyncIterator[World]:
    async with instance(cluster, demo, "staging") as made:
        yield made


@pytest.fixture
async def ready(staging: World) -> World:
    """Everything is green, and Oracle is enabled."""
    assert (await enable(staging, "dry_run")).status_code == 200
    await all_green(staging)
    assert (await enable(staging, "oracle_staging")).status_code == 200
    return staging


# --- the data


def test_the_rungs_and_their_order() -> None:
    assert [(one.title, one.environments, one.mission_type, one.autonomy) for one in ladder().rungs] == [
        ("Health and dry runs", ("staging", "production"), "*", "dry_run"),
        ("Oracle assisted in staging", ("staging",), "oracle_advisory", "assisted"),
        ("CRM assisted in staging", ("staging",), "crm_lead_intelligence", "assisted"),
        ("Oracle assisted in production", ("production",), "oracle_advisory", "assisted"),
        ("CRM assisted in production", ("production",), "crm_lead_intelligence", "assisted"),
        ("Catalyst in staging", ("staging",), "catalyst_strategy_brief", "assisted"),
    ]
    for rung in ladder().rungs:
        assert set(rung.gates) <= set(GATES) and set(rung.checks) <= set(BY_NAME)
        if "production" in rung.environments:
            assert reaches("assisted", rung.at_most), (
                "production begins assisted, and policy lets nothing run beyond that"
            )
        if rung.environments == ("production",):
            assert set(rung.gates) == set(GATES)
    assert ladder().admits == {"local": "autonomous", "staging": "nothing", "production": "nothing"}
    assert all(ladder().why.values())


# --- what it admits


@pytest.mark.parametrize("mode", AUTONOMY[1:])
async def test_a_developers_machine_admits_by_its_own_rule(world: World, mode: str) -> None:
    assert (await ask_for(world, "oracle_advisory", mode)).status_code == 202
    said = (await world.auditor.get("/v1/release/ladder")).json()
    assert (
        said["bound"] is False
        and "developer's machine" in said["why"]
        and set(said["admits"].values()) == {"autonomous"}
    )
    found = problem(await enable(world, "oracle_staging"), "wrong_state")
    assert "belongs to staging, and this is local" in found["detail"]
    problem(await enable(world, "nothing_such"), "not_found")
    problem(await enable(world, "No-Name"), "validation")


async def test_a_refusal_is_a_decision_on_the_record_and_a_rehearsal_says_the_same(staging: World) -> None:
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is missing?", "mode": "assisted"}
    said = problem(await staging.submitter.post("/v1/missions", json=ask), "denied_by_policy")
    assert said["rule"] == "admission.beyond_the_ladder"
    assert said["detail"].startswith(
        "In staging missions of type oracle_advisory may not run here at all. The rung oracle_staging"
    )
    assert {one["kind"] for one in said["ladder"]["missing"]} == {"rung", "gate"}
    connection = await inspector(staging)
    row = await connection.fetchrow("SELECT effect, rule, mission FROM policy_decision ORDER BY at DESC LIMIT 1")
    assert tuple(row) == ("deny", "admission.beyond_the_ladder", None)
    assert await connection.fetchval("SELECT count(*) FROM ledger WHERE type = 'mission.refused'") == 1
    before = await census(staging)
    rehearsal = (await staging.submitter.post("/v1/missions?validate_only=true", json=ask)).json()
    assert rehearsal["valid"] is False and rehearsal["policy"]["reason"] == said["detail"]
    assert await census(staging) == before
    key = {"Idempotency-Key": "once"}
    first, again = [await staging.submitter.post("/v1/missions", json=ask, headers=key) for _ in range(2)]
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"


async def test_what_is_admitted_follows_the_ladder_in_every_process(ready: World, cluster: Cluster) -> None:
    """The fast way in judges from memory; the transaction that takes a mission in finds out that the memory is old."""
    other = World(ready.url, environment="staging")
    await other.open({name: person.key for name, person in ready.people.items()})
    try:
        assert (
            await ask_for(other, "oracle_advisory", "assisted")
        ).status_code == 202  # it remembers the ladder from here on
        remembered = other.root.intake.standings.known[await ready.tenant()]
        lowered = await ready.operator.post("/v1/release/ladder/oracle_staging/lower", json={"reason": "Odd answers."})
        assert lowered.json()["outcome"] == "lowered" and lowered.json()["rung"]["autonomy"] == "nothing"
        assert other.root.intake.standings.known[await ready.tenant()] is remembered
        problem(await ask_for(other, "oracle_advisory", "assisted"), "denied_by_policy")
        assert (await ask_for(other, "oracle_advisory", "dry_run")).status_code == 202
        assert (await enable(ready, "oracle_staging")).status_code == 200
        assert (await ask_for(other, "oracle_advisory", "assisted")).status_code == 202
    finally:
        await other.close()


async def test_a_replay_from_the_tape_is_a_dry_run_and_a_rerun_is_not(ready: World) -> None:
    life = await mission(ready, mode="assisted")
    assert (
        await ready.operator.post("/v1/release/ladder/oracle_staging/lower", json={"reason": "x"})
    ).status_code == 200
    await replayed(ready, life)
    answer = await ready.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "rerun"})
    assert problem(answer, "denied_by_policy")["ladder"]["rung"] == "oracle_staging"


async def test_missions_under_way_go_on_when_a_rung_is_lowered(ready: World) -> None:
    made = await ask_for(ready, "oracle_advisory", "assisted")
    await ready.operator.post("/v1/release/ladder/oracle_staging/lower", json={"reason": "x"})
    await ready.run_work("dispatch")
    assert (await ready.mission(made.json()["id"]))["state"] == "dispatched"


async def test_the_drills_own_missions_are_not_the_ladders_business(staging: World) -> None:
    connection = await inspector(staging)
    assert await connection.fetchval("SELECT ladder_binds($1)", await staging.tenant()) is True
    await drilled(staging, "replay")
    assert await connection.fetchval("SELECT ladder_binds(id) FROM tenant WHERE drills") is False


# --- who moves it


async def test_who_may_move_it(staging: World) -> None:
    for person in ("operator", "admin", "product_owner", "auditor", "submitter", "policy_owner"):
        problem(await staging.people[person].http.post("/v1/release/ladder/dry_run/enable", json={}), "forbidden")
    reason = {"reason": "x"}
    for person in ("admin", "product_owner", "auditor", "submitter"):
        problem(await staging.people[person].http.post("/v1/release/ladder/dry_run/lower", json=reason), "forbidden")
    assert (await enable(staging, "dry_run")).json()["outcome"] == "enabled"
    assert (await enable(staging, "dry_run")).json()["outcome"] == "unchanged"
    problem(await staging.release_owner.post("/v1/release/ladder/dry_run/lower", json={}), "validation")
    stranger = await staging.another_tenant()
    found = (await stranger.http.get("/v1/release/ladder")).json()
    assert found["admits"]["oracle_advisory"] == "nothing" and found["items"][0]["state"] == "not_enabled"
    problem(
        await stranger.http.post("/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "x"}),
        "denied_by_policy",
    )


async def test_of_many_who_enable_at_once_one_does(ready: World) -> None:
    said = await asyncio.gather(*(enable(ready, "crm_staging") for _ in range(4)))
    assert sorted(one.json()["outcome"] for one in said) == ["enabled", "unchanged", "unchanged", "unchanged"]
    facts = [one["type"] for one in await ready.facts(await ready.tenant())]
    assert facts.count("rung.enabled") == 3
    again = await ready.release_owner.post(
        "/v1/release/ladder/crm_staging/enable", json={}, headers={"Idempotency-Key": "one"}
    )
    repeat = await ready.release_owner.post(
        "/v1/release/ladder/crm_staging/enable", json={}, headers={"Idempotency-Key": "one"}
    )
    assert again.content == repeat.content and repeat.headers["idempotent-replayed"] == "true"


async def test_what_a_rung_was_enabled_on_is_kept(ready: World) -> None:
    connection = await inspector(ready)
    row = await connection.fetchrow(
        "SELECT evidence::text, changed_by, cause FROM rung_change WHERE rung = 'oracle_staging'"
    )
    run = await connection.fetchval("SELECT id FROM drill_run WHERE drill = 'blocked_tool'")
    assert f"drill:{run}" in row["evidence"] and row["cause"] == "asked"
    fact = await connection.fetchval(
        "SELECT convert_from(body, 'UTF8') FROM ledger WHERE type = 'rung.enabled' ORDER BY id DESC LIMIT 1"
    )
    assert '"evidence_sha256"' in fact and "oracle_staging" in fact and "release_owner" not in fact


async def test_autonomy_is_raised_within_what_the_rung_allows(ready: World) -> None:
    assert (await enable(ready, "oracle_staging", autonomy="autonomous")).json()["rung"]["autonomy"] == "autonomous"
    assert (await ask_for(ready, "oracle_advisory", "autonomous")).status_code == 202
    problem(await ask_for(ready, "crm_lead_intelligence", "autonomous"), "denied_by_policy")
    assert (await enable(ready, "oracle_staging")).json()["rung"]["autonomy"] == "assisted"  # and down again
    problem(await ask_for(ready, "oracle_advisory", "autonomous"), "denied_by_policy")
    for rung, autonomy in (("dry_run", "assisted"), ("oracle_staging", "dry_run")):
        said = problem(await enable(ready, rung, autonomy=autonomy), "validation")
        assert said["errors"][0]["pointer"] == "/autonomy"
    problem(await enable(ready, "oracle_staging", autonomy="everything"), "validation")


async def test_lowering_waits_for_no_look_and_fails_with_none(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a look that nobody has foreseen")

    for place in ("app.release.judge.judge", "app.release.actions.judge", "app.release.api.probe_from_inside"):
        monkeypatch.setattr(place, broken)
    assert (await ready.auditor.get("/v1/release/ladder")).status_code == 500
    path, reason, key = (
        "/v1/release/ladder/oracle_staging/lower",
        {"reason": "Odd answers."},
        {"Idempotency-Key": "brake"},
    )
    first, again = [await ready.operator.post(path, json=reason, headers=key) for _ in range(2)]
    said = first.json()
    assert (said["outcome"], said["lowered"], said["rung"]["state"]) == ("lowered", 1, "not_enabled")
    assert (said["rung"]["ready"], said["rung"]["missing"]) == (None, []), "nobody has looked"
    assert said["rung"]["last_change"]["cause"] == "asked" and again.content == first.content
    problem(await ask_for(ready, "oracle_advisory", "assisted"), "denied_by_policy")


async def test_enabling_answers_with_the_gates_it_was_enabled_on(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    async def counted(*given: Any) -> Any:
        computed.append(len(given))
        return await judge(*given)

    monkeypatch.setattr("app.release.actions.judge", counted)
    said = (await enable(ready, "crm_staging")).json()
    assert (said["outcome"], said["rung"]["autonomy"], said["rung"]["ready"]) == ("enabled", "assisted", True)
    assert len(computed) == 1, "once, under nobody's lock"


@pytest.mark.parametrize("cause", ["drill_failed", "error_budget"])
async def test_who_lowers_while_the_gates_are_kept_waits_for_what_is_written_alone(
    ready: World, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Both take the ladder before the tenant's chain of facts; the other way round each would wait for the other. And nothing
    is read any more once the ladder is taken."""
    lower, late = asyncio.Event(), []
    connection = await inspector(ready)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def kept(*given: Any) -> None:
        await note(*given)
        lower.set()
        async with asyncio.timeout(10):
            while not await connection.fetchval(waits):
                await asyncio.sleep(0.01)

    async def read(session: Any, *given: Any) -> Any:
        late.append(lower.is_set())
        found = await error_budget(session, *given)
        return replace(found, ended=100, failed=100) if cause == "error_budget" else found

    monkeypatch.setattr("app.release.judge.note", kept)
    monkeypatch.setattr("app.release.actions.error_budget", read)
    if cause == "drill_failed":
        await drilled(ready, "blocked_writeback", state="failed")
    review = asyncio.create_task(look_after(ready))
    await lower.wait()
    said = await ready.operator.post("/v1/release/ladder/dry_run/lower", json={"reason": "Something is wrong."})
    await review
    assert (said.status_code, said.json()["outcome"], said.json()["lowered"]) == (200, "lowered", 1), said.text
    assert not any(late) and bool(late) == (cause == "error_budget")
    causes = {name: one["last_change"]["cause"] for name, one in (await rungs(ready)).items() if one["last_change"]}
    assert causes == {"dry_run": "asked", "oracle_staging": cause}


# --- what lowers it


async def test_a_failed_drill_lowers_what_stands_on_it(ready: World) -> None:
    assert (await enable(ready, "crm_staging")).status_code == 200
    [run] = await drilled(ready, "blocked_writeback", state="failed")
    await look_after(ready)
    found = await rungs(ready)
    assert {name: one["autonomy"] for name, one in found.items()} == {
        "dry_run": "dry_run", "oracle_staging": "nothing", "crm_staging": "nothing", "catalyst_staging": "nothing",
    }  # fmt: skip
    last = found["oracle_staging"]["last_change"]
    assert (last["cause"], last["changed_by"]) == ("drill_failed", None)
    problem(await ask_for(ready, "oracle_advisory", "assisted"), "denied_by_policy")
    connection = await inspector(ready)
    why = await connection.fetchval("SELECT evidence::text FROM rung_change WHERE cause = 'drill_failed' LIMIT 1")
    assert str(run) in why
    facts = [(one["type"], one["actor"]) for one in await ready.facts(await ready.tenant())]
    assert facts.count(("rung.lowered", "system:release")) == 2
    await look_after(ready)  # once is enough
    assert len([one for one in await ready.facts(await ready.tenant()) if one["type"] == "rung.lowered"]) == 2
    # nothing comes back by itself: the drill passes, and a release owner enables it
    await drilled(ready, "blocked_writeback")
    await look_after(ready)
    assert (await rungs(ready))["oracle_staging"]["autonomy"] == "nothing"
    assert (await enable(ready, "oracle_staging")).json()["outcome"] == "enabled"


async def test_a_spent_error_budget_lowers_the_rung_of_its_type(ready: World) -> None:
    assert (await enable(ready, "crm_staging")).status_code == 200
    for _ in range(4):  # with the mission that is completed already, one of five may fail
        await failed(ready, mode="assisted")
    await look_after(ready)
    found = await rungs(ready)
    assert (found["oracle_staging"]["autonomy"], found["crm_staging"]["autonomy"]) == ("nothing", "assisted")
    assert found["oracle_staging"]["last_change"]["cause"] == "error_budget"
    assert (await check(ready, "oracle_completed"))["result"] == "pass", "the gate passes, the budget is another thing"
    said = problem(await enable(ready, "oracle_staging"), "rung_not_ready")
    assert [one["kind"] for one in said["missing"]] == ["error_budget"]
    assert "4 of the 5 missions of type oracle_advisory that ended in the last 24 hours were failed" in said["detail"]


async def test_without_dry_runs_nothing_runs(ready: World) -> None:
    said = await ready.release_owner.post("/v1/release/ladder/dry_run/lower", json={"reason": "Something is wrong."})
    assert said.json()["lowered"] == 2
    for mode in ("dry_run", "assisted"):
        problem(await ask_for(ready, "oracle_advisory", mode), "denied_by_policy")
