"""Every check of every gate can fail, grows old, and says so in words a person understands."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from app.clock import now
from app.release import looks
from app.release.gates import CHECKS, GATES
from colony_client.client import ColonyClient
from tests.release.scene import (
    all_green,
    attested,
    check,
    drilled,
    export,
    failed,
    gates,
    look_after,
    mission,
    replayed,
)
from tests.retention.test_api import TIMES, sweep
from tests.world import World
from tests.world.checks import fact_types, hire, inspector, pending_change, problem
from tests.world.life import under_way

Cause = Callable[[World], Awaitable[Any]]


async def run_sql(world: World, *statements: str) -> None:
    """What no role of the product may do, with the guards down."""
    connection = await inspector(world)
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement)


def aged(column: str, days: int) -> str:
    return f"{column} = {column} - interval '{days} days'"


def unguarded(table: str, statement: str) -> tuple[str, ...]:
    return f"ALTER TABLE {table} DISABLE TRIGGER USER", statement, f"ALTER TABLE {table} ENABLE TRIGGER USER"


def fails(drill: str) -> Cause:
    return lambda world: drilled(world, drill, state="failed")


async def another_schema(world: World) -> None:
    await run_sql(world, "UPDATE migration SET version_num = '0000', fits = '{0000}'")


async def drains(world: World) -> None:
    world.public.state.draining = True


async def colony_away(world: World) -> None:
    world.public.state.colony = ColonyClient("http://127.0.0.1:9", world.root.colony_keys, timeout_s=1)


async def spoiled(world: World, kind: str) -> None:
    """The missions that completed are too long ago, and the newest one failed."""
    await run_sql(
        world,
        *unguarded("mission", f"UPDATE mission SET {aged('created_at', 8)} WHERE mission_type = '{kind}'"),
    )
    await failed(world, kind)


async def diverged(world: World, kind: str) -> None:
    """Policy has changed since: the replay leaves its tape."""
    life = await mission(world, kind)
    text = (
        '@id("odd.here") @reason("As the test wants it.") forbid(principal, action == Action::"tool.call", resource);'
    )
    answer = await world.policy_owner.put("/v1/policies/odd", json={"text": text})
    assert answer.status_code in (200, 201), answer.text
    again = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    assert again.status_code == 202
    await world.run_work("replay", "review")


async def envelope_lost(world: World) -> None:
    life = await failed(world)
    await run_sql(
        world,
        *unguarded(
            "artifact", f"DELETE FROM artifact WHERE mission = '{life.id}' AND schema_name = 'mission_envelope'"
        ),
    )


async def nobody_looks(world: World) -> None:
    await run_sql(world, "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE role = 'operator'")


async def withdrawn(world: World) -> None:
    made = await attested(world)
    answer = await world.release_owner.post(f"/v1/release/attestations/{made['id']}/withdraw", json={})
    assert answer.status_code == 200, answer.text


async def unexplained(world: World) -> None:
    """The newest answer has a review in which nothing holds."""
    life = await mission(world)
    await run_sql(world, *unguarded("artifact", f"""
        UPDATE artifact SET bytes = convert_to(replace(convert_from(bytes, 'UTF8'), '"supported":true', '"supported":false'), 'UTF8')
        WHERE mission = '{life.id}' AND schema_name = 'review_packet'"""))  # fmt: skip


async def out_of_reach(world: World) -> None:
    life = await mission(world)
    await run_sql(
        world,
        *unguarded("artifact", f"DELETE FROM artifact WHERE mission = '{life.id}' AND schema_name = 'review_packet'"),
    )


# check -> (what makes it fail, what a person then reads)
FAILS: dict[str, tuple[Cause, str]] = {
    "schema_applies": (another_schema, "The database is at migration 0000"),
    "root_healthy": (drains, "The root is shutting down."),
    "colony_healthy": (colony_away, "The colony's /ready gives no answer"),
    "oracle_completed": (lambda world: spoiled(world, "oracle_advisory"), "the newest is failed (review)."),
    "crm_completed": (lambda world: spoiled(world, "crm_lead_intelligence"), "the newest is failed (review)."),
    "blocked_tool_denied": (fails("blocked_tool"), "The newest drill blocked_tool failed: as_the_test_says."),
    "blocked_writeback_denied": (fails("blocked_writeback"), "The newest drill blocked_writeback failed"),
    "approved_writeback_asks": (fails("approved_writeback"), "The newest drill approved_writeback failed"),
    "late_approval_changes_nothing": (fails("expired_approval"), "The newest drill expired_approval failed"),
    "oracle_replayed": (lambda world: diverged(world, "oracle_advisory"), "replay of type oracle_advisory is failed (replay_diverged)."),
    "crm_replayed": (lambda world: diverged(world, "crm_lead_intelligence"), "The newest replay of type crm_lead_intelligence is failed"),
    "replay_writes_nothing": (fails("replay"), "The newest drill replay failed"),
    "failures_keep_artifacts": (envelope_lost, "has kept no envelope: nobody can find out why it failed."),
    "malformed_payload_kept": (fails("malformed_payload"), "The newest drill malformed_payload failed"),
    "colony_outage_is_told": (fails("colony_down"), "The newest drill colony_down failed"),
    "provider_outage_is_told": (fails("provider_down"), "The newest drill provider_down failed"),
    "approval_queue_visible": (nobody_looks, "Nobody holds the role operator"),
    "stable_for_demo": (withdrawn, "The newest attestation was withdrawn."),
    "packet_explains": (unexplained, "0 of its 1 claims hold."),
    "evidence_at_hand": (out_of_reach, "has no review."),
}  # fmt: skip
# Checks of the moment say pass or fail; the others are inconclusive where nothing has happened.
OF_THE_MOMENT = {
    "schema_applies",
    "root_healthy",
    "colony_healthy",
    "failures_keep_artifacts",
    "approval_queue_visible",
}


def test_every_check_is_made_to_fail() -> None:
    assert set(FAILS) == {one.name for one in CHECKS}
    assert {one.gate for one in CHECKS} == set(GATES)


async def test_each_check_fails_and_says_why(world: World) -> None:
    for name, (cause, sentence) in FAILS.items():
        if name in ("schema_applies", "approval_queue_visible", "oracle_replayed", "crm_replayed"):
            continue  # what they spoil, the others need: below
        await cause(world)
        found = await check(world, name)
        assert found["result"] == "fail", (name, found)
        assert sentence in found["reason"], (name, found["reason"])
        assert found["evidence"] and found["age_s"] < 60 and found["looks_at"], found
        world.public.state.draining, world.public.state.colony = False, world.root.colony
    for name in ("oracle_replayed", "crm_replayed", "approval_queue_visible", "schema_applies"):
        await run_sql(
            world,
            "ALTER TABLE policy DISABLE TRIGGER USER",
            "DELETE FROM policy",
            "ALTER TABLE policy ENABLE TRIGGER USER",
        )
        cause, sentence = FAILS[name]
        await cause(world)
        found = await check(world, name)
        assert found["result"] == "fail" and sentence in found["reason"], (name, found)


async def test_where_nothing_happened_nothing_is_concluded(world: World) -> None:
    found = await gates(world)
    for gate in found["items"]:
        for one in gate["checks"]:
            if one["name"] in OF_THE_MOMENT:
                assert (one["result"], one["reason"]) == ("pass", None), one
            else:
                assert one["result"] == "inconclusive" and one["reason"].endswith("."), one
                assert one["evidence"] == [] and one["age_s"] is None and one["expires_at"] is None
    assert found["result"] == "inconclusive"
    assert [len(gate["checks"]) for gate in found["items"]] == [5, 4, 8, 3]


async def test_all_green_and_then_old(world: World) -> None:
    """What counted yesterday does not count for ever: each piece of evidence has an age, and an end."""
    await all_green(world, "assisted")
    found = await gates(world)
    assert found["result"] == "pass", found
    for gate in found["items"]:
        for one in gate["checks"]:
            assert one["reason"] is None and one["expires_at"] > found["computed_at"] and one["age_s"] >= 0
            assert one["age_s"] <= one["limit_s"]
    await drilled(world, "replay", ago="25 hours", state="passed")  # older than the newest: it counts for nothing
    assert (await check(world, "replay_writes_nothing"))["result"] == "pass"
    await run_sql(
        world, "ALTER TABLE drill_run DISABLE TRIGGER USER", "UPDATE drill_run SET started_at = started_at - interval '25 hours', "
        "finished_at = finished_at - interval '25 hours'", "ALTER TABLE drill_run ENABLE TRIGGER USER",
        *unguarded("mission", "UPDATE mission SET closed_at = closed_at - interval '8 days'"),
        *unguarded("attestation", f"UPDATE attestation SET {aged('signed_at', 20)}, {aged('expires_at', 20)}"),
    )  # fmt: skip
    stale = await gates(world)
    reasons = {
        one["name"]: one["reason"] for gate in stale["items"] for one in gate["checks"] if one["result"] != "pass"
    }
    assert set(reasons) == {one.name for one in CHECKS} - OF_THE_MOMENT
    assert reasons["replay_writes_nothing"] == "Its evidence is 1 day old, and counts for 1 day."
    assert reasons["crm_completed"] == "Its evidence is 8 days old, and counts for 7 days."
    assert reasons["stable_for_demo"].startswith("It ended at ") and "given again" in reasons["stable_for_demo"]
    assert all(gate["result"] == "inconclusive" for gate in stale["items"])


async def test_a_drill_of_another_build_is_no_evidence(world: World) -> None:
    await drilled(world, build="0.0.9")
    found = await check(world, "blocked_tool_denied")
    assert found["result"] == "inconclusive" and "was run by build 0.0.9, and this is" in found["reason"]


async def test_an_attestation_of_another_build_is_no_evidence(world: World) -> None:
    await attested(world)
    assert (await check(world, "stable_for_demo"))["result"] == "pass"
    world.public.state.settings = world.settings(build="next")
    found = await check(world, "stable_for_demo")
    assert (
        found["result"] == "inconclusive"
        and "is of build " in found["reason"]
        and "+next: a product_owner" in found["reason"]
    )
    await attested(world)
    assert (await check(world, "stable_for_demo"))["result"] == "pass"


async def test_what_retention_has_removed_is_asked_for_anew(world: World) -> None:
    await mission(world, mode="assisted", sensitivity_class="public")
    for name in ("packet_explains", "evidence_at_hand"):
        assert (await check(world, name))["result"] == "pass"
    seen = {"If-Match": (await world.admin.get("/v1/retention")).headers["etag"]}
    answer = await world.admin.put("/v1/retention", json=TIMES | {"public_days": 0}, headers=seen)
    assert answer.status_code == 200, answer.text
    await run_sql(  # a shorter time waits for a week
        world, *unguarded("retention_schedule", f"UPDATE retention_schedule SET {aged('set_at', 8)}")
    )
    await sweep(world)
    found = {one["name"]: one for gate in (await gates(world))["items"] for one in gate["checks"]}
    for name, said in (("packet_explains", "ask anew."), ("evidence_at_hand", "run one anew.")):
        assert found[name]["result"] == "inconclusive" and found[name]["reason"].endswith(said), found[name]
        assert "removed under retention" in found[name]["reason"]
    await look_after(world)
    assert len((await world.auditor.get("/v1/release/history")).json()["items"]) == 4, "and the worker keeps it"
    await export(world)


async def test_a_queue_that_nobody_looks_after_fails(world: World) -> None:
    approval = await pending_change(world)
    found = await check(world, "approval_queue_visible")
    assert found["result"] == "pass" and found["evidence"] == [{"kind": "approval", "id": approval["id"]}]
    await run_sql(
        world, *unguarded("approval", "UPDATE approval SET expires_at = clock_timestamp() - interval '10 minutes'")
    )
    found = await check(world, "approval_queue_visible")
    assert found["result"] == "fail" and "nothing looks after the queue" in found["reason"]


async def test_a_packet_that_comes_late_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await mission(world, mode="assisted")
    assert (await check(world, "evidence_at_hand"))["result"] == "pass"
    monkeypatch.setattr(looks, "AT_HAND_S", 0.0)
    found = await check(world, "evidence_at_hand")
    assert found["result"] == "fail" and "an operator waits 0 s at most" in found["reason"]


async def test_facts_say_when_a_gate_comes_out_differently(world: World) -> None:
    tenant = await world.tenant()
    await look_after(world)
    assert (await fact_types(world, tenant)).count("gate.changed") == 4  # computed for the first time
    await look_after(world)
    assert (await fact_types(world, tenant)).count("gate.changed") == 4  # nothing new, nothing said
    await drilled(world)
    await look_after(world)
    history = (await world.auditor.get("/v1/release/history?limit=2")).json()
    assert history["has_more"] and {one["gate"] for one in history["items"]} == {"governance", "operational"}
    [governance] = [one for one in history["items"] if one["gate"] == "governance"]
    assert (governance["was"], governance["result"]) == ("inconclusive", "pass")
    more = await world.auditor.get("/v1/release/history", params={"cursor": history["next_cursor"]})
    assert len(more.json()["items"]) == 4 and more.json()["next_cursor"] is None
    only = await world.auditor.get("/v1/release/history?gate=sales")
    assert [one["was"] for one in only.json()["items"]] == [None]
    problem(await world.auditor.get(f"/v1/release/history?gate=sales&cursor={history['next_cursor']}"), "validation")


async def test_the_probe_tells_yes_or_no_and_nothing_else(world: World) -> None:
    async def probed() -> tuple[int, str]:
        answer = await world.anybody.get("/v1/health/release")
        return answer.status_code, answer.text

    assert await probed() == (503, "not ok\n")
    await all_green(world, "assisted")
    assert await probed() == (503, "not ok\n")  # nobody has computed it
    await look_after(world)
    assert await probed() == (200, "ok\n")
    await run_sql(
        world, *unguarded("gate_state", "UPDATE gate_state SET expires_at = clock_timestamp() WHERE gate = 'sales'")
    )
    assert await probed() == (503, "not ok\n")  # its evidence is over
    await look_after(world)
    assert await probed() == (200, "ok\n")
    await run_sql(
        world, *unguarded("gate_state", "UPDATE gate_state SET looked_at = clock_timestamp() - interval '16 minutes'")
    )
    assert await probed() == (503, "not ok\n")  # nobody looks any more
    await drilled(world, "replay", state="failed")
    await look_after(world)
    assert await probed() == (503, "not ok\n")


async def test_attestations_are_of_people_with_the_role(world: World) -> None:
    ask = {"claim": "stable_for_demo", "comment": "Looks well."}
    for person in ("operator", "admin", "submitter"):
        problem(await world.people[person].http.post("/v1/release/attestations", json=ask), "forbidden")
    # the door lets release owners by, the wall does not: this claim is a product owner's
    problem(await world.release_owner.post("/v1/release/attestations", json=ask), "forbidden")
    robot = await hire(world, "robot", "product_owner", kind="service")
    problem(await robot.http.post("/v1/release/attestations", json=ask), "forbidden")
    for wrong, pointer in (
        ({**ask, "claim": "schema_applies"}, "/claim"),
        ({**ask, "claim": "nothing"}, "/claim"),
        ({**ask, "valid_s": 30 * 86_400}, "/valid_s"),
        ({**ask, "valid_s": 1}, "/valid_s"),
        ({**ask, "comment": ""}, "/comment"),
        ({"claim": "stable_for_demo"}, "/comment"),
    ):
        said = problem(await world.product_owner.post("/v1/release/attestations", json=wrong), "validation")
        assert said["errors"][0]["pointer"] == pointer
    key = {"Idempotency-Key": "once"}
    first, again = [await world.product_owner.post("/v1/release/attestations", json=ask, headers=key) for _ in range(2)]
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    made = first.json()
    assert made["state"] == "live" and len(made["sha256"]) == 64 and made["role"] == "product_owner"
    assert made["sentence"] == "The output is stable enough for a live demo."
    shown = await world.auditor.get(first.headers["location"])
    assert shown.json() == made
    short = await world.product_owner.post("/v1/release/attestations", json={**ask, "valid_s": 60})
    ends = looks.datetime.fromisoformat(short.json()["expires_at"])
    assert now() < ends < now() + timedelta(seconds=61)
    page = (await world.auditor.get("/v1/release/attestations?limit=1")).json()
    assert page["items"][0]["id"] == short.json()["id"] and page["has_more"]


async def test_another_tenants_evidence_is_not_ones_own(world: World) -> None:
    await all_green(world, "assisted")
    stranger = await world.another_tenant()
    found = (await stranger.http.get("/v1/release/gates")).json()
    results = {one["name"]: one["result"] for gate in found["items"] for one in gate["checks"]}
    assert results["oracle_completed"] == results["stable_for_demo"] == "inconclusive"
    assert results["blocked_tool_denied"] == "pass"  # drills are the service's own
    assert (await stranger.http.get("/v1/release/attestations")).json()["items"] == []
    assert (await stranger.http.get("/v1/release/history")).json()["items"] == []


async def test_the_error_budget_counts_what_the_service_failed(world: World) -> None:
    from app.release.looks import error_budget

    for _ in range(3):
        await failed(world, mode="assisted")
    cancelled = await under_way(world)
    await cancelled.end("fail")  # a person's judgement is not the service's failure
    await replayed(world, await mission(world, mode="assisted"))
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        found = await error_budget(session, "oracle_advisory", now())
        assert (found.ended, found.failed, found.spent) == (4, 3, False)  # too few to judge by
    await mission(world, mode="assisted")
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        found = await error_budget(session, "oracle_advisory", now())
        assert (found.ended, found.failed, found.spent) == (5, 3, True)
        assert "3 of the 5 missions of type oracle_advisory" in found.sentence("oracle_advisory")
        assert not (await error_budget(session, "crm_lead_intelligence", now())).spent
