"""Deciding over the API: what is answered, what is refused and why, and what everybody then sees."""

from uuid import UUID, uuid4

import pytest

from tests.approvals.desk import as_registrar, awaiting, post, seen
from tests.world import World
from tests.world.checks import hire, pending_change, problem
from tests.world.life import begin


async def test_an_approval_is_answered_with_its_receipt(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    answer = await post(world.operator, approval)
    assert answer.status_code == 201, answer.text
    said = answer.json()
    assert (said["outcome"], said["state"], said["version"]) == ("approved", "approved", 2)
    assert (said["approval_id"], said["mission_id"]) == (approval["id"], str(life.id))
    assert said["not_before"] > approval["created_at"]
    assert answer.headers["etag"] == '"v2"'
    assert answer.headers["location"] == f"/v1/approvals/{approval['id']}"
    shown = await seen(world, approval)
    [decision] = shown["decisions"]
    assert (decision["approver"], decision["verdict"], decision["comment"]) == (
        said["approver"],
        "approve",
        "as the test says",
    )
    assert (shown["state"], shown["approvals"], shown["not_before"]) == ("approved", 1, said["not_before"])
    [fact] = [body for type, body in await life.facts("approval.decided")]
    assert (fact["verdict"], fact["state"], fact["payload_sha256"]) == (
        "approve",
        "approved",
        approval["payload_sha256"],
    )
    assert "as the test says" not in str(await life.facts())


async def test_a_rejection_needs_a_reason(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    for nothing in (None, "", "   ", "\n\t"):
        said = problem(await post(world.operator, approval, "reject", comment=nothing), "validation")
        assert [error["pointer"] for error in said["errors"]] == ["/comment"]
    assert (await seen(world, approval))["decisions"] == []
    answer = await post(world.operator, approval, "reject", comment="not now")
    assert (answer.status_code, answer.json()["outcome"], answer.json()["not_before"]) == (201, "rejected", None)
    assert await life.state() == "completed"
    assert (await life.row())["writebacks"] == {"rejected": 1}


async def test_a_decision_is_on_exactly_what_was_seen(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    said = problem(await post(world.operator, approval, payload_sha256="0" * 64), "other_payload")
    assert said["current"]["state"] == "pending"
    for not_a_hash in ("", "x" * 64, approval["payload_sha256"].upper(), approval["payload_sha256"][:-1]):
        problem(await post(world.operator, approval, payload_sha256=not_a_hash), "validation")
    said = problem(await post(world.operator, approval, match='"v9"'), "stale")
    assert (said["current"]["id"], said["current"]["version"], said["current"]["state"]) == (
        approval["id"],
        1,
        "pending",
    )
    answer = await post(world.operator, approval, match=None)
    problem(answer, "precondition_required")
    assert answer.headers["etag"] == '"v1"'
    for decision in ("abstain", "APPROVE", ""):
        problem(await post(world.operator, approval, decision), "validation")
    assert (await seen(world, approval))["decisions"] == []


async def test_only_entitled_people_decide(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    await hire(world, "machine", "operator", kind="service")
    for who in ("admin", "auditor", "product_owner", "policy_owner", "release_owner", "machine"):
        said = problem(await post(world.people[who].http, approval), "forbidden")
        assert said["current"]["state"] == "pending"
    problem(await post(world.submitter, approval), "own_request")
    problem(await post(world.anybody, approval), "unauthenticated")
    stranger = await world.another_tenant()
    problem(await post(stranger.http, approval), "not_found")
    problem(await post(world.operator, {**approval, "id": str(uuid4())}), "not_found")
    assert (await seen(world, approval))["decisions"] == []


async def test_nobody_decides_what_they_asked_for(world: World) -> None:
    answer = await world.operator.post(
        "/v1/missions",
        json={"mission_type": "oracle_advisory", "user_goal": "x", "mode": "autonomous", "risk_level": "medium"},
    )
    assert answer.status_code == 202, answer.text
    await world.run_work("ask")
    [approval] = (await world.operator.get(f"/v1/approvals?mission={answer.json()['id']}")).json()["items"]
    for decision in ("approve", "reject"):
        problem(await post(world.operator, approval, decision), "own_request")
    assert (await post(world.second_operator, approval)).status_code == 201


async def test_a_right_taken_away_is_gone_at_once(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    await as_registrar(
        world,
        """UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = :tenant
           AND principal = (SELECT id FROM principal WHERE name = 'operator')""",
    )
    problem(await post(world.operator, approval), "forbidden")
    await as_registrar(
        world,
        """UPDATE api_key SET revoked_at = clock_timestamp() WHERE tenant = :tenant
           AND principal = (SELECT id FROM principal WHERE name = 'second_operator')""",
    )
    problem(await post(world.second_operator, approval), "unauthenticated")
    assert (await seen(world, approval))["state"] == "pending"


async def test_who_comes_second_is_told_who_was_faster(world: World) -> None:
    life = await awaiting(world, proposals=2)
    for approval, decision, state in zip(
        await life.approvals(), ("approve", "reject"), ("approved", "rejected"), strict=True
    ):
        first = (await post(world.operator, approval, decision)).json()
        said = problem(await post(world.second_operator, approval), "wrong_state")
        assert (said["current"]["state"], said["current"]["version"]) == (state, 2)
        [decided] = said["current"]["decisions"]
        assert (decided["approver"], decided["verdict"]) == (first["approver"], decision)
        assert decided["decided_at"]
        problem(await post(world.operator, approval, decision), "already_decided")


async def test_high_risk_takes_two_people(world: World) -> None:
    made = await pending_change(world, risk_level="high")
    assert (made["required"], made["approvals"]) == (2, 0)
    first = await post(world.operator, made)
    assert (first.status_code, first.json()["outcome"], first.json()["state"]) == (201, "recorded", "pending")
    assert first.json()["not_before"] is None
    problem(await post(world.operator, {**made, "version": 2}), "already_decided")
    # what the second saw is older than the first one's vote: look again
    said = problem(await post(world.second_operator, made), "stale")
    assert (said["current"]["approvals"], said["current"]["version"]) == (1, 2)
    second = await post(world.second_operator, {**made, "version": 2})
    assert (second.json()["outcome"], second.json()["version"]) == ("approved", 3)
    assert {decision["approver"] for decision in (await seen(world, made))["decisions"]} == {
        first.json()["approver"], second.json()["approver"],
    }  # fmt: skip
    assert (await world.mission(made["mission_id"]))["state"] == "executing"


async def test_one_veto_ends_a_quorum_of_two(world: World) -> None:
    made = await pending_change(world, risk_level="high")
    await post(world.operator, made)
    answer = await post(world.second_operator, {**made, "version": 2}, "reject")
    assert answer.json()["outcome"] == "rejected"
    assert (await world.mission(made["mission_id"]))["writebacks"] == {"rejected": 1}


async def test_a_decision_can_be_repeated_under_its_key(world: World) -> None:
    life = await awaiting(world, proposals=2)
    one, other = await life.approvals()
    first = await post(world.operator, one, key="one")
    assert "idempotent-replayed" not in first.headers
    again = await post(world.operator, one, key="one")
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (201, first.content, "true")
    assert (again.headers["etag"], again.headers["location"]) == (first.headers["etag"], first.headers["location"])
    problem(await post(world.operator, one, "reject", key="one"), "idempotency_mismatch")
    problem(await post(world.operator, other, key="one"), "idempotency_mismatch")
    assert (await post(world.second_operator, other, key="one")).status_code == 201  # keys are each caller's own
    assert len((await seen(world, one))["decisions"]) == 1
    # a refusal is not kept: the same key may be tried again once the reason is gone
    life = await awaiting(world)
    [approval] = await life.approvals()
    problem(await post(world.operator, approval, match='"v9"', key="two"), "stale")
    assert (await post(world.operator, approval, key="two")).status_code == 201


async def test_nothing_is_decided_once_it_expired_or_its_mission_ended(world: World) -> None:
    life = await awaiting(world, proposals=2)
    late, other = await life.approvals()
    await life.outlive(late["id"])
    said = problem(await post(world.operator, late), "wrong_state")
    assert said["current"]["state"] == "expired"
    assert (await life.end("cancel")).status_code == 200
    said = problem(await post(world.operator, other), "wrong_state")
    assert said["current"]["state"] == "cancelled"


async def test_an_expired_approval_is_dead_before_its_timer_rings(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    admin = await world.connect("admin")
    await admin.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
    await admin.execute("UPDATE approval SET expires_at = clock_timestamp() WHERE id = $1", UUID(approval["id"]))
    await admin.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
    problem(await post(world.operator, approval), "expired")
    assert (await seen(world, approval))["decisions"] == []


@pytest.mark.parametrize("connector", ["sample_crm", "*"])
async def test_a_halted_connector_takes_rejections_only(world: World, connector: str) -> None:
    life = await awaiting(world, proposals=2)
    one, other = await life.approvals()
    why = {"json": {"reason": "a test"}}
    assert (await world.operator.post(f"/v1/connectors/{connector}/halt", **why)).status_code == 200
    said = problem(await post(world.operator, one), "wrong_state")
    assert "halted" in said["detail"] and said["current"]["state"] == "pending"
    assert (await post(world.operator, other, "reject")).status_code == 201
    assert (await world.admin.post(f"/v1/connectors/{connector}/resume", **why)).status_code == 200
    assert (await post(world.operator, one)).status_code == 201


async def test_a_question_about_a_mission_has_no_undo_window(world: World) -> None:
    life = await begin(world, mode="autonomous", risk_level="medium")
    await world.run_work("ask")
    [approval] = await life.approvals()
    assert (approval["subject"], approval["payload"]["action"]) == ("mission", "mission.create")
    answer = await post(world.operator, approval)
    assert answer.json()["outcome"] == "approved"
    assert await life.state() == "accepted"
