"""What an operator does to a mission or an approval by hand: offer anew, extend, hand on. Each by the verbs of everybody."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.world import World
from tests.world.checks import hire, inspector, pending_change, problem
from tests.world.life import Life, asked_at_intake, begin, due, in_state


async def act(life: Life, verb: str, who: str = "operator", version: int | None = None, **body: Any) -> Any:
    seen = (await life.row())["version"] if version is None else version
    return await life.world.people[who].http.post(
        f"/v1/missions/{life.id}/{verb}",
        json={"reason": "as the test says"} | body,
        headers={"If-Match": f'"v{seen}"'},
    )


# --- offering anew


@pytest.mark.parametrize("state", ["dispatched", "running"])
async def test_an_attempt_is_taken_back_and_the_next_one_offered_at_once(world: World, state: str) -> None:
    life = await in_state(world, state)
    answer = await act(life, "redispatch")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["attempt"]) == ("accepted", 2)
    assert answer.json()["reason_note"] == "as the test says"
    with pytest.raises(Exception, match=r"superseded|attempt"):
        await life.say()
    await life.take()
    assert (await life.state(), life.dispatch.attempt) == ("dispatched", 2)
    assert [body for _, body in await life.facts("mission.redispatched")] == [{"was": state, "attempt": 1}]
    assert "as the test says" not in str(await life.facts())


async def test_a_waiting_mission_is_offered_now(world: World) -> None:
    life = await begin(world)
    connection = await inspector(world)
    await connection.execute("UPDATE work SET next_at = now() + interval '1 hour' WHERE subject = $1", life.id)
    await connection.execute('UPDATE mission SET degraded = \'{"code": "colony_busy"}\' WHERE id = $1', life.id)
    assert await world.run_work("dispatch") == 0
    answer = await act(life, "redispatch")
    assert (answer.json()["state"], answer.json()["attempt"], answer.json()["degraded"]) == ("accepted", 1, None)
    await life.take()
    assert await life.state() == "dispatched"


async def test_what_a_colony_could_do_nothing_about_is_not_offered(world: World) -> None:
    for state in ("in_review", "awaiting_approval", "executing"):
        problem(await act(await in_state(world, state), "redispatch"), "wrong_state")
    unasked = await begin(world, mode="autonomous", risk_level="medium")
    said = problem(await act(unasked, "redispatch"), "wrong_state")
    assert "humans have to agree" in said["detail"]
    await world.run_work("ask", "dispatch")
    assert await unasked.state() == "awaiting_approval" and unasked.id not in {
        one.mission_id for one in world.colony.dispatched
    }
    problem(await act(await asked_at_intake(world), "redispatch"), "wrong_state")


# --- more time


async def test_a_deadline_moves_and_the_mission_lives_on(world: World) -> None:
    life = await in_state(world, "running")
    before = (await life.row())["deadline_at"]
    answer = await act(life, "extend", time_ms=120_000)
    assert answer.status_code == 200, answer.text
    after = (await life.row())["deadline_at"]
    assert after - before == timedelta(minutes=2)
    [(_, said)] = await life.facts("mission.extended")
    assert said["time_ms"] == 120_000 and said["deadline_at"]
    await due(world, "attempt_timer", life.id)
    await world.run_work("attempt_timer")
    assert await life.state() == "running"


async def test_more_time_is_the_next_attempts(world: World) -> None:
    """The colony keeps to the time it was dispatched with; nobody tells it of more."""
    life = await in_state(world, "running")
    had, told = life.dispatch.budgets.time_ms, len(world.colony.dispatched)
    assert (await act(life, "extend", time_ms=600_000)).status_code == 200
    await due(world, "attempt_timer", life.id)
    await world.run_work()
    assert len(world.colony.dispatched) == told
    assert (await act(life, "redispatch")).status_code == 200
    await life.take()
    assert life.dispatch.attempt == 2 and had + 500_000 < life.dispatch.budgets.time_ms <= had + 600_000


async def test_a_deadline_that_has_passed_moves_from_now(world: World) -> None:
    life = await in_state(world, "running")
    await life.past("deadline_at")
    assert (await act(life, "extend", time_ms=60_000)).status_code == 200
    await due(world, "attempt_timer", life.id)
    await world.run_work("attempt_timer")
    assert await life.state() == "running", "it was in time"


async def test_time_is_given_only_where_time_runs(world: World) -> None:
    problem(await act(await begin(world), "extend", time_ms=60_000), "wrong_state")
    problem(await act(await in_state(world, "in_review"), "extend", time_ms=60_000), "wrong_state")
    life = await in_state(world, "running")
    for wrong in (0, 999, 86_400_001, "1000", None):
        said = problem(await act(life, "extend", time_ms=wrong), "validation")
        assert said["errors"][0]["pointer"] == "/time_ms"
    problem(await act(life, "extend"), "validation")


# --- who, when, and how often


@pytest.mark.parametrize(("verb", "body"), [("redispatch", {}), ("extend", {"time_ms": 60_000})])
async def test_an_operator_does_it_once_at_the_version_seen(world: World, verb: str, body: dict[str, Any]) -> None:
    life = await in_state(world, "running")
    for who in ("submitter", "auditor", "admin"):
        problem(await act(life, verb, who, **body), "forbidden")
    problem(
        await world.operator.post(f"/v1/missions/{life.id}/{verb}", json={"reason": "x"} | body),
        "precondition_required",
    )
    problem(await act(life, verb, version=1, **body), "stale")
    problem(await act(life, verb, reason="", **body), "validation")
    version = (await life.row())["version"]
    both = await asyncio.gather(*(act(life, verb, version=version, **body) for _ in range(2)))
    assert sorted(answer.status_code for answer in both) == [200, 412]
    key = {"Idempotency-Key": f"once-{verb}"}
    seen = {"If-Match": f'"v{(await life.row())["version"]}"'}
    asked = {"json": {"reason": "x"} | body, "headers": key | seen}
    first = await world.operator.post(f"/v1/missions/{life.id}/{verb}", **asked)
    again = await world.operator.post(f"/v1/missions/{life.id}/{verb}", **asked)
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
    assert (await life.end("cancel")).status_code == 200
    problem(await act(life, verb, **body), "wrong_state")
    await world.another_tenant()
    other, absent = [
        await world.other.post(f"/v1/missions/{id}/{verb}", json={"reason": "x"} | body, headers={"If-Match": '"v1"'})
        for id in (life.id, "00000000-0000-7000-8000-000000000000")
    ]
    assert problem(other, "not_found")["detail"] == problem(absent, "not_found")["detail"]


# --- handing an approval on


async def hand_on(world: World, approval: dict[str, Any], role: str, who: str = "operator", **more: Any) -> Any:
    body = {"role": role, "reason": "all are on leave"} | more
    return await world.people[who].http.post(
        f"/v1/approvals/{approval['id']}/reassign", json=body, headers={"If-Match": approval["etag"]}
    )


async def shown(world: World, approval: dict[str, Any]) -> dict[str, Any]:
    answer = await world.operator.get(f"/v1/approvals/{approval['id']}")
    return {**answer.json(), "etag": answer.headers["etag"]}


def decision(approval: dict[str, Any]) -> dict[str, Any]:
    return {
        "json": {"decision": "approve", "payload_sha256": approval["payload_sha256"]},
        "headers": {"If-Match": approval["etag"]},
    }


async def test_another_role_is_asked_instead_and_told(world: World) -> None:
    approval = await pending_change(world)
    answer = await hand_on(world, approval, "admin")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["may_decide"]) == ("pending", ["admin"])
    now = await shown(world, approval)
    assert now["expires_at"] == approval["expires_at"] and now["required"] == approval["required"]
    path = f"/v1/approvals/{approval['id']}/decisions"
    problem(await world.operator.post(path, **decision(now)), "forbidden")
    [notice] = (await world.admin.get("/v1/notices")).json()["items"]
    assert (notice["kind"], notice["approval_id"]) == ("reassigned", approval["id"])
    facts = [fact for fact in await world.facts(approval["mission_id"]) if fact["type"] == "approval.reassigned"]
    assert len(facts) == 1 and "on leave" not in facts[0]["body"] and '"admin"' in facts[0]["body"]
    assert (await world.admin.post(path, **decision(now))).status_code == 201

    back = await pending_change(world)
    assert (await hand_on(world, back, "admin")).status_code == 200
    back = await shown(world, back)
    assert (await hand_on(world, back, "operator")).json()["may_decide"] == ["operator"]


async def test_a_vote_of_who_decides_no_longer_does_not_count_and_a_veto_stands(world: World) -> None:
    approval = await pending_change(world, risk_level="high")  # two have to agree
    path = f"/v1/approvals/{approval['id']}/decisions"
    assert (await world.operator.post(path, **decision(approval))).json()["outcome"] == "recorded"
    approval = await shown(world, approval)
    assert (await hand_on(world, approval, "admin", "second_operator")).status_code == 200
    approval = await shown(world, approval)
    assert (await world.admin.post(path, **decision(approval))).json()["outcome"] == "recorded", (
        "the first is none of theirs"
    )
    await hire(world, "second admin", "admin")
    approval = await shown(world, approval)
    second = world.people["second admin"].http
    assert (await second.post(path, **decision(approval))).json()["outcome"] == "approved"


async def test_only_to_a_role_that_its_rule_names(world: World) -> None:
    approval = await pending_change(world)
    for role in ("policy_owner", "release_owner", "product_owner"):
        said = problem(await hand_on(world, approval, role), "validation")
        assert said["errors"][0]["pointer"] == "/role"
    problem(await hand_on(world, approval, "operator"), "validation")  # it is there already
    for role in ("break_glass", "submitter", "colony", ""):
        problem(await hand_on(world, approval, role), "validation")
    problem(await hand_on(world, approval, "admin", reason=" "), "validation")
    assert (await shown(world, approval))["version"] == approval["version"]


async def test_only_by_an_operator_who_took_no_part_while_it_is_pending(world: World) -> None:
    approval = await pending_change(world)
    for who in ("submitter", "admin", "auditor", "policy_owner"):
        problem(await hand_on(world, approval, "admin", who), "forbidden")
    problem(await hand_on(world, approval | {"etag": '"v99"'}, "admin"), "stale")
    asks = await hire(world, "asker", "submitter", "operator")
    made = await asks.http.post(
        "/v1/missions",
        json={"mission_type": "oracle_advisory", "user_goal": "Now?", "mode": "autonomous", "risk_level": "medium"},
    )
    await world.run_work("ask")
    [own] = (await world.operator.get(f"/v1/approvals?mission={made.json()['id']}")).json()["items"]
    problem(await hand_on(world, own | {"etag": f'"v{own["version"]}"'}, "admin", "asker"), "own_request")
    path = f"/v1/approvals/{approval['id']}/decisions"
    assert (await world.operator.post(path, **decision(approval))).status_code == 201
    approval = await shown(world, approval)
    problem(await hand_on(world, approval, "admin"), "wrong_state")
