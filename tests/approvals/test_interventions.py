"""Breaking the glass, revising, taking back, renewing and being told, over the API."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

from tests.approvals.desk import as_registrar, awaiting, post, seen
from tests.world import World
from tests.world.checks import hire, inspector, problem
from tests.world.life import Life


async def act(
    who: httpx.AsyncClient, approval: dict[str, Any], verb: str, *, match: str | None = "", key: str = "", **body: Any
) -> httpx.Response:
    """A call about an approval as it was read; what is None is left out."""
    headers = {"Idempotency-Key": key} if key else {}
    if match is not None:
        headers["If-Match"] = match or f'"v{approval["version"]}"'
    said = {"payload_sha256": approval["payload_sha256"], "reason": "as the test says"} | body
    said = {name: value for name, value in said.items() if value is not None}
    return await who.post(f"/v1/approvals/{approval['id']}/{verb}", json=said, headers=headers)


async def pass_time(world: World, approval: dict[str, Any], **time: float) -> None:
    """So much time passes for one approval, and the worker looks after it."""
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
        await connection.execute(
            """UPDATE approval SET created_at = created_at - $2::interval, expires_at = expires_at - $2::interval,
                 ladder = (SELECT COALESCE(jsonb_agg(jsonb_set(hop, '{at}', to_jsonb((hop ->> 'at')::timestamptz - $2::interval))
                             ORDER BY n), '[]')
                           FROM jsonb_array_elements(ladder) WITH ORDINALITY l (hop, n))
               WHERE id = $1""",
            UUID(approval["id"]), timedelta(**time),
        )  # fmt: skip
        await connection.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
    await world.make_due("approval_timer")
    await world.run_work("approval_timer", rounds=3)


async def one(world: World) -> tuple[Life, dict[str, Any]]:
    life = await awaiting(world)
    [approval] = await life.approvals()
    return life, approval


# --- the ladder -------------------------------------------------------------------------------------------------------


async def test_the_ladder_is_shown_climbed_and_heard_of(world: World) -> None:
    life, approval = await one(world)
    shown = await seen(world, approval)
    assert [(step["kind"], step["role"], step["done_at"]) for step in shown["ladder"]] == [
        ("remind", None, None), ("escalate", "admin", None), ("expire", None, None),
    ]  # fmt: skip
    assert (shown["may_decide"], shown["must_hold"], shown["glass"], shown["notices"]) == (["operator"], None, None, [])
    assert shown["ladder"][0]["at"] < shown["ladder"][1]["at"] < shown["ladder"][2]["at"] == shown["expires_at"]
    assert (await world.operator.get("/v1/notices")).json()["items"] == []
    await pass_time(world, approval, hours=25)
    [notice] = (await world.operator.get("/v1/notices?unseen=true")).json()["items"]
    assert (notice["kind"], notice["approval_id"], notice["approval_state"], notice["seen_at"]) == (
        "reminder", approval["id"], "pending", None,
    )  # fmt: skip
    assert (await world.admin.get("/v1/notices")).json()["items"] == []
    problem(await post(world.admin, approval), "forbidden")
    await pass_time(world, approval, hours=24)
    [escalated] = (await world.admin.get("/v1/notices")).json()["items"]
    assert escalated["kind"] == "escalation"
    shown = await seen(world, approval)
    assert [step["done_at"] is not None for step in shown["ladder"]] == [True, True, False]
    assert shown["may_decide"] == ["operator", "admin"]
    assert {told["kind"] for told in shown["notices"]} == {"reminder", "escalation"}
    assert [type for type, _ in await life.facts("approval.")][1:] == ["approval.reminded", "approval.escalated"]
    # what was on the screen before is still what there is to decide
    assert (await post(world.admin, approval)).status_code == 201


async def test_a_worker_that_finds_nothing_due_comes_again_at_the_next_step(world: World) -> None:
    _, approval = await one(world)
    connection = await inspector(world)
    due = "SELECT next_at, lease_until FROM work WHERE kind = 'approval_timer' AND subject = $1"
    for step in ("remind", "escalate", "expire"):
        await world.make_due("approval_timer")
        assert await world.run_work("approval_timer", rounds=3) == 1
        row = await connection.fetchrow(due, UUID(approval["id"]))
        shown = await seen(world, approval)
        at = next(one["at"] for one in shown["ladder"] if one["kind"] == step)
        assert row["next_at"].isoformat()[:19] == at[:19] and row["lease_until"] is None
        if step != "expire":
            await pass_time(world, approval, hours=24.1)
    await pass_time(world, approval, hours=30)
    assert (await seen(world, approval))["state"] == "expired"
    assert await connection.fetchrow(due, UUID(approval["id"])) is None


async def test_notices_are_ones_own_paged_and_seen_once(world: World) -> None:
    life = await awaiting(world, proposals=3)
    for approval in await life.approvals():
        await pass_time(world, approval, hours=25)
    first = (await world.operator.get("/v1/notices?limit=2")).json()
    rest = (await world.operator.get(f"/v1/notices?limit=2&cursor={first['next_cursor']}")).json()
    assert (len(first["items"]), len(rest["items"]), rest["has_more"]) == (2, 1, False)
    notice = first["items"][0]
    path = f"/v1/notices/{notice['id']}/seen"
    problem(await world.second_operator.post(path), "not_found")
    problem(await world.operator.post(f"/v1/notices/{uuid4()}/seen"), "not_found")
    answer = await world.operator.post(path)
    assert answer.status_code == 200 and answer.json()["seen_at"]
    assert (await world.operator.post(path)).json() == answer.json()
    unseen = (await world.operator.get("/v1/notices?unseen=true")).json()["items"]
    assert notice["id"] not in {one["id"] for one in unseen} and len(unseen) == 2
    stranger = await world.another_tenant()
    problem(await stranger.http.post(path), "not_found")


# --- the glass --------------------------------------------------------------------------------------------------------


async def test_two_holders_break_the_glass(world: World) -> None:
    life, approval = await one(world)
    first, second = [await hire(world, name, "break_glass") for name in ("glenda", "gregor")]
    problem(await act(world.operator, approval, "break-glass"), "forbidden")
    problem(await act(first.http, approval, "break-glass", match=None), "precondition_required")
    problem(await act(first.http, approval, "break-glass", match='"v7"'), "stale")
    problem(await act(first.http, approval, "break-glass", payload_sha256="0" * 64), "other_payload")
    for nothing in ("", "  ", None):
        problem(await act(first.http, approval, "break-glass", reason=nothing), "validation")
    answer = await act(first.http, approval, "break-glass", key="now")
    assert answer.status_code == 201, answer.text
    said = answer.json()
    assert (said["outcome"], said["state"], said["version"]) == ("recorded", "pending", 3)
    assert (await act(first.http, approval, "break-glass", key="now")).json() == said
    problem(await act(first.http, {**approval, "version": 3}, "break-glass"), "already_decided")
    problem(await act(second.http, {**approval, "version": 3}, "break-glass"), "wrong_state")
    shown = await seen(world, approval)
    assert (shown["glass"]["was_rule"], shown["required"], shown["may_decide"]) == (
        approval["rule"]["id"],
        2,
        ["break_glass"],
    )
    assert [step["kind"] for step in shown["ladder"]] == ["expire"] and shown["expires_at"] == said["expires_at"]
    [notice] = (await world.admin.get("/v1/notices")).json()["items"]
    assert notice["kind"] == "glass_broken"
    problem(await post(world.operator, shown), "forbidden")
    problem(await post(first.http, shown), "already_decided")
    problem(await post(second.http, shown, comment=None), "validation")
    decided = await post(second.http, shown)
    assert (decided.status_code, decided.json()["outcome"]) == (201, "approved")
    assert await life.state() == "executing"
    [broken] = [body for _, body in await life.facts("approval.glass_broken")]
    assert broken["was_rule"] == approval["rule"]["id"] and "test says" not in str(await life.facts())


async def test_a_broken_glass_that_nobody_joins_expires(world: World) -> None:
    life, approval = await one(world)
    holder = await hire(world, "glenda", "break_glass")
    assert (await act(holder.http, approval, "break-glass")).status_code == 201
    await life.outlive(approval["id"])
    assert (await seen(world, approval))["state"] == "expired"
    problem(await act(holder.http, approval, "break-glass"), "wrong_state")
    assert await life.state() == "completed"


# --- taking back ------------------------------------------------------------------------------------------------------


async def test_what_was_approved_can_be_taken_back_until_it_is_claimed(world: World) -> None:
    life = await awaiting(world, proposals=3)
    pending, approved, claimed = await life.approvals()
    for approval in (approved, claimed):
        assert (await post(world.operator, approval)).status_code == 201
    await life.claim(claimed["writeback_id"])
    said = problem(await act(world.operator, {**claimed, "version": 2}, "cancel", payload_sha256=None), "wrong_state")
    assert "claimed" in said["detail"] and said["current"]["state"] == "approved"
    problem(await act(world.admin, pending, "cancel", payload_sha256=None), "forbidden")
    problem(await act(world.operator, approved, "cancel", payload_sha256=None), "stale")
    problem(await act(world.operator, approved, "cancel", payload_sha256=None, match=None), "precondition_required")
    # revoked after the quorum: the approval stands, and taking it back is what is left
    await as_registrar(
        world,
        """UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = :tenant
           AND principal = (SELECT id FROM principal WHERE name = 'operator' AND tenant = :tenant)""",
    )
    assert (await seen(world, approved))["state"] == "approved"
    for approval, version in ((pending, 1), (approved, 2)):
        answer = await act(world.second_operator, {**approval, "version": version}, "cancel", payload_sha256=None)
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled"), answer.text
        shown = await seen(world, approval)
        assert (shown["state"], shown["note"]) == ("cancelled", "as the test says")
        problem(await act(world.second_operator, shown, "cancel", payload_sha256=None), "wrong_state")
    assert (await life.row())["writebacks"] == {"cancelled": 2, "executing": 1}
    assert "as the test says" not in str(await life.facts())


# --- revising ---------------------------------------------------------------------------------------------------------


async def test_a_revision_asks_anew_and_its_editor_does_not_approve(world: World) -> None:
    life, approval = await one(world)
    body = {"changes": {"status": "step 9", "priority": "high"}}
    problem(await act(world.admin, approval, "revisions", **body), "forbidden")
    problem(await act(world.submitter, approval, "revisions", **body), "own_request")
    problem(await act(world.operator, approval, "revisions", match=None, **body), "precondition_required")
    problem(await act(world.operator, approval, "revisions", payload_sha256="0" * 64, **body), "other_payload")
    problem(await act(world.operator, approval, "revisions", changes=approval["payload"]["changes"]), "validation")
    problem(await act(world.operator, approval, "revisions", changes={}), "validation")
    answer = await act(world.operator, approval, "revisions", key="edit", **body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (await act(world.operator, approval, "revisions", key="edit", **body)).json() == made
    assert (made["predecessor"], made["mission_id"]) == (approval["writeback_id"], str(life.id))
    old = await seen(world, approval)
    assert (old["state"], old["successor"], old["successor_approval"]) == (
        "cancelled",
        made["writeback_id"],
        made["approval_id"],
    )
    [new] = await life.approvals()
    assert (new["id"], new["payload"]["changes"], new["revision"]) == (made["approval_id"], body["changes"], 2)
    assert new["payload_sha256"] == made["payload_sha256"] and new["edited_by"] == made["by"]
    assert new["predecessor"] == approval["writeback_id"]
    problem(await post(world.operator, new), "own_request")
    problem(await act(world.operator, old, "revisions", **body), "wrong_state")
    assert (await post(world.second_operator, new)).status_code == 201
    assert await life.state() == "executing"
    assert "step 9" not in str(await life.facts())


async def test_an_approved_one_that_is_revised_goes_back_to_a_human(world: World) -> None:
    life, approval = await one(world)
    await post(world.operator, approval)
    assert await life.state() == "executing"
    answer = await act(world.operator, {**approval, "version": 2}, "revisions", changes={"status": "other"})
    assert answer.status_code == 201, answer.text
    assert await life.state() == "awaiting_approval"
    assert (await life.row())["writebacks"] == {"awaiting_approval": 1, "cancelled": 1}
    assert (await life.claim(approval["writeback_id"]))["outcome"] == "refused"
    [new] = await life.approvals()
    await post(world.second_operator, new)
    assert await life.state() == "executing"


# --- renewing ---------------------------------------------------------------------------------------------------------


async def test_what_is_stale_waits_for_an_operator_and_then_for_an_approval(world: World) -> None:
    await world.with_crm()
    await world.no_undo_window()
    life, approval = await one(world)
    await world.operator.post(f"/v1/approvals/{approval['id']}/questions", json={"question": "Which call?"})
    await post(world.operator, approval)
    writeback = approval["writeback_id"]
    problem(await world.operator.post(f"/v1/writebacks/{writeback}/renew", json={}), "wrong_state")
    await life.settle(await life.claim(writeback), writeback, "stale")
    await world.run_work("progress")
    assert (await life.state(), (await life.row())["writebacks"]) == ("awaiting_approval", {"stale": 1})
    problem(await world.admin.post(f"/v1/writebacks/{writeback}/renew", json={}), "forbidden")
    problem(await world.operator.post(f"/v1/writebacks/{uuid4()}/renew", json={}), "not_found")
    answer = await world.operator.post(f"/v1/writebacks/{writeback}/renew", json={})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    [new] = await life.approvals()
    assert (new["id"], new["predecessor"], new["revision"], new["edited_by"]) == (
        made["approval_id"],
        writeback,
        2,
        None,
    )
    assert new["payload"]["changes"] == approval["payload"]["changes"] and new["state"] == "pending"
    [before] = (await seen(world, new))["asked_before"]
    assert (before["approval_id"], before["questions"][0]["question"]) == (approval["id"], "Which call?")
    problem(await world.operator.post(f"/v1/writebacks/{writeback}/renew", json={}), "wrong_state")
    assert (await post(world.operator, new)).status_code == 201
    await life.settle(await life.claim(new["writeback_id"]), new["writeback_id"], "succeeded")
    await world.run_work("progress")
    assert (await life.state(), (await life.row())["writebacks"]) == ("completed", {"stale": 1, "succeeded": 1})


async def test_a_stale_writeback_nobody_renews_is_let_go(world: World) -> None:
    life, approval = await one(world)
    await post(world.operator, approval)
    writeback = approval["writeback_id"]
    await life.settle(await life.claim(writeback), writeback, "stale")
    await world.run_work("progress")
    assert await life.state() == "awaiting_approval"
    await pass_time(world, approval, hours=80)
    await world.make_due("progress")
    await world.run_work("progress")
    assert (await life.state(), (await life.row())["writebacks"]) == ("completed", {"stale": 1})
