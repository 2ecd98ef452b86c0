"""The other pages: lists that page and filter, stories from any id, their proof, and what each role sees."""

import re
from typing import Any
from uuid import UUID

import pytest

from app.canonical import canonical
from app.console import lasting
from app.console.desk import Remembered
from tests.console.desk import seat
from tests.operations.test_service_health import REMOVE_WORK
from tests.world import World
from tests.world.checks import hire, inspector, pending_change
from tests.world.life import age, begin, give_guide, reconcile

EVERY = ("", "/missions", "/audit", "/release", "/health", "/policies", "/policies/baseline", "/connectors")


async def test_every_page_for_every_role(world: World) -> None:
    change = await pending_change(world)
    paths = [
        *EVERY,
        f"/approvals/{change['id']}",
        f"/missions/{change['mission_id']}",
        f"/audit/{change['mission_id']}",
    ]
    for name in ("submitter", "operator", "auditor", "policy_owner", "release_owner", "product_owner", "admin"):
        desk = await seat(world, name)
        for path in paths:
            page = await desk.get(f"/console{path}")
            assert page.status == 200, (name, path, page.text)
            assert len(page.answer.content) < 150_000, (path, len(page.answer.content))
            assert not [said for _, said in page.tags if any(key.startswith("on") or key == "style" for key in said)], (
                path
            )
    nobody = await hire(world, "roleless")
    desk = await seat(world, nobody.name)
    assert (await desk.get("/console")).status == 403


async def test_empty_pages_say_what_to_do_next(world: World) -> None:
    desk = await seat(world)
    for path, said in {
        "": "mission-root missions create",
        "/missions": "Ask for the first one",
        "/audit": "Paste any id that you have",
        "/audit?q=nothing": "Nothing here has this id",
        "/release": "Technical integrity",
    }.items():
        assert said in (await desk.get(f"/console{path}")).text, path
    assert "Show all" in (await desk.get("/console/missions?state=failed")).source


async def test_the_queue_is_ordered_by_risk_and_time_left_and_pages_hold_together(world: World) -> None:
    low, high, medium = [await pending_change(world, risk_level=risk) for risk in ("low", "high", "medium")]
    desk = await seat(world)
    page = await desk.get("/console")
    order = re.findall(r'class="row" data-row href="/console/approvals/([^"]+)"', page.source)
    assert order == [high["id"], medium["id"], low["id"]]  # 24 h at high risk, then 72 h each
    connection = await inspector(world)
    await connection.execute("ALTER TABLE approval DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE approval SET expires_at = clock_timestamp() + interval '10 minutes' WHERE id = $1::text::uuid",
        low["id"],
    )
    await connection.execute("ALTER TABLE approval ENABLE TRIGGER ALL")
    found: list[str] = []
    cursor = ""
    while True:
        said = (
            await world.operator.get("/v1/inbox", params={"limit": 1, **({"cursor": cursor} if cursor else {})})
        ).json()
        found += [one["id"] for one in said["items"]]
        if not said["has_more"]:
            break
        cursor = said["next_cursor"]
    assert found == [low["id"], high["id"], medium["id"]]
    assert (said["waiting"], said["soon"]) == (3, 1)
    assert (await world.operator.get("/v1/inbox", params={"cursor": cursor, "risk": "low"})).status_code == 422
    only = (await desk.get("/console?risk=medium")).source
    assert medium["id"] in only and low["id"] not in only


async def test_missions_are_filtered_and_paged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.console.pages import missions

    monkeypatch.setattr(missions, "PAGE", 2)
    made = [await world.create(labels={"team": "a"} if n else {}, user_goal=f"Goal number {n}") for n in range(3)]
    desk = await seat(world)
    first = await desk.get("/console/missions")
    assert "Goal number 2" in first.text and "Goal number 0" not in first.text
    [further] = [link for link in first.links if "cursor=" in link]
    second = await desk.get(further)
    assert "Goal number 0" in second.text and "Goal number 2" not in second.text
    labelled = await desk.get("/console/missions?label=team:a&state=accepted")
    assert "Goal number 0" not in labelled.text and made[2]["id"] in labelled.source
    wrong = await desk.get("/console/missions?state=nowhere")
    assert wrong.status == 422 and "Not known" not in wrong.text and "state" in wrong.text


async def whole_story(world: World) -> dict[str, Any]:
    """A change that was asked for, approved, written and read back."""
    await world.no_undo_window()
    change = await pending_change(world)
    body = {"decision": "approve", "payload_sha256": change["payload_sha256"]}
    done = await world.operator.post(
        f"/v1/approvals/{change['id']}/decisions", json=body, headers={"If-Match": change["etag"]}
    )
    assert done.status_code == 201, done.text
    await world.run_executor()
    await world.run_work()
    return change


async def test_from_any_id_to_the_proof_in_three_steps(world: World) -> None:
    request = "request-of-a-client-1"
    answer = await world.submitter.post(
        "/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "What?"}, headers={"Request-Id": request}
    )
    change = await whole_story(world)
    mission, story = (
        change["mission_id"],
        (await world.auditor.get(f"/v1/missions/{change['mission_id']}/packet")).json(),
    )
    made = next(one for one in story["artifacts"] if one["schema_name"] == "writeback_proposal")
    desk = await seat(world, "auditor")
    ids = (
        mission,
        change["id"],
        change["writeback_id"],
        change["payload_sha256"],
        made["id"],
        made["sha256"],
        "L-1001",
        "lead/L-1001",
    )
    for said in ids:
        page = await desk.get("/console/audit", params={"q": said})
        assert page.status == 200 and f"/console/missions/{mission}" in page.source and "Prove it" in page.text, said
    asked = await desk.get("/console/audit", params={"q": request})
    assert answer.json()["id"] in asked.source
    page = await desk.get("/console/audit", params={"q": change["id"]})
    told = (await world.auditor.get("/v1/explain", params={"id": change["id"]})).json()
    places = [page.text.index(step["sentence"]) for step in told["steps"]]
    assert places == sorted(places) and len(places) > 5, "every step, in order, in the words of the API"
    assert "sought" in page.source
    proved = await desk.get("/console/audit", params={"q": change["id"], "proof": "1"})
    assert "Nobody edited the record." in proved.text
    assert proved.source.count('class="mark chain"') == len(told["steps"])
    zipped = await desk.http.get(f"/console/missions/{mission}/packet.zip")
    assert zipped.headers["content-type"] == "application/zip" and zipped.content[:2] == b"PK"
    another = await world.another_tenant()
    stranger = await seat(world, "stranger", "other")
    assert another and (await stranger.get("/console/audit", params={"q": change["id"]})).status == 404
    assert (await stranger.get(f"/console/approvals/{change['id']}")).status == 404


async def test_an_edited_record_is_marked_where_it_was_edited(world: World) -> None:
    change = await whole_story(world)
    connection = await inspector(world)
    await connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE ledger SET body = convert_to('{\"verdict\": \"reject\"}', 'UTF8') WHERE type = 'approval.decided'"
    )
    await connection.execute("ALTER TABLE ledger ENABLE TRIGGER ALL")
    desk = await seat(world, "auditor")
    proved = await desk.get(f"/console/audit/{change['mission_id']}", params={"proof": "1"})
    assert "The record is not what it was." in proved.text and "approval.decided" in proved.text
    assert 'class="mark bad"' in proved.source and "not what it was" in proved.source


async def test_a_mission_is_ended_and_played_again(world: World) -> None:
    await give_guide(world)
    made = await world.create()
    desk = await seat(world)
    page = await desk.get(f"/console/missions/{made['id']}")
    ended = await desk.send(page.form_to("/end"), reason="asked twice", verb="cancel")
    assert "cancelled" in ended.text and "asked twice" in ended.text
    late = await desk.send(page.form_to("/end"), reason="kept words", verb="cancel", once="x")
    assert late.status == 409 and "already cancelled" in late.text
    again = await desk.send(ended.form_to("/replay"), mode="rerun")
    assert again.status == 200 and "repeats another" in again.text
    mission = str(again.answer.url).rpartition("/")[2]
    shown = await desk.http.get(f"/console/missions/{mission}/diff")
    assert shown.status_code == 200 and "text/html" in shown.headers["content-type"]
    assert (await desk.http.get(f"/console/missions/{mission}/packet")).status_code == 200


async def test_a_connector_is_halted_and_only_an_admin_resumes(world: World) -> None:
    await world.with_crm()
    desk = await seat(world)
    page = await desk.get("/console/connectors")
    halted = await desk.send(page.form_to("/switch"), reason="looking", verb="halt")
    assert "halted" in halted.text and "looking" in halted.text and "An admin resumes" in halted.text
    refused = await desk.send(page.form_to("/switch"), reason="my words", verb="resume", once="y")
    assert refused.status == 403 and 'value="my words"' in refused.source
    admin = await seat(world, "admin")
    resumed = await admin.send(
        (await admin.get("/console/connectors")).form_to("/switch"), reason="done", verb="resume"
    )
    assert "Halt changes" in resumed.text


async def approved(world: World, **more: Any) -> dict[str, Any]:
    change = await pending_change(world, **more)
    body = {"decision": "approve", "payload_sha256": change["payload_sha256"]}
    done = await world.operator.post(
        f"/v1/approvals/{change['id']}/decisions", json=body, headers={"If-Match": change["etag"]}
    )
    assert done.status_code == 201, done.text
    return change


async def test_how_people_decide_is_measured(world: World) -> None:
    """Dwell from the first look to the decision; reverted when a person takes it back, or a later change overwrites it."""
    desk, second = await seat(world), {"If-Match": '"v2"'}

    async def figures() -> tuple[int, int, int]:
        world.public.state.desk = Remembered()
        [operator] = (await world.operator.get("/v1/desk")).json()["operators"]
        assert operator["name"] == "operator"
        return operator["decisions"], operator["approved"], operator["reverted"]

    change = await pending_change(world)
    await desk.get(f"/console/approvals/{change['id']}")
    body = {"decision": "approve", "payload_sha256": change["payload_sha256"]}
    await world.operator.post(
        f"/v1/approvals/{change['id']}/decisions", json=body, headers={"If-Match": change["etag"]}
    )
    await world.operator.post(f"/v1/approvals/{change['id']}/cancel", json={"reason": "oh"}, headers=second)
    assert await figures() == (1, 1, 1)
    [operator] = (await world.operator.get("/v1/desk")).json()["operators"]
    assert operator["median_dwell_s"] is not None and 0 <= operator["median_dwell_s"] < 60
    page = await desk.get("/console/health")
    assert "1 (100 %)" in page.text and page.source.count("<svg") >= 2

    # replaced by another revision, or ended with its mission: closed too, and nobody took it back
    edited = await approved(world)
    asked = {"payload_sha256": edited["payload_sha256"], "changes": {"priority": "low"}, "reason": "a slip"}
    done = await world.operator.post(f"/v1/approvals/{edited['id']}/revisions", json=asked, headers=second)
    assert done.status_code == 201, done.text
    ended = await approved(world)
    seen = (await world.operator.get(f"/v1/missions/{ended['mission_id']}")).headers["etag"]
    done = await world.operator.post(
        f"/v1/missions/{ended['mission_id']}/cancel", json={"reason": "not now"}, headers={"If-Match": seen}
    )
    assert done.status_code == 200, done.text
    assert await figures() == (3, 3, 1)
    assert "Replaced: nothing of this one leaves" in (await desk.get(f"/console/approvals/{edited['id']}")).text
    assert "Cancelled: nothing leaves" in (await desk.get(f"/console/approvals/{ended['id']}")).text
    similar = await pending_change(world)
    shown = (await world.operator.get(f"/v1/approvals/{similar['id']}/briefing")).json()["similar"]
    assert {one["approval_id"]: one["reverted"] for one in shown["items"]} == {
        change["id"]: "taken back", edited["id"]: None, ended["id"]: None,
    }  # fmt: skip
    assert shown["reverted"] == 1
    assert "1 reverted" in (await desk.get(f"/console/approvals/{similar['id']}")).text

    # written, and then another change of the same field is written over it
    await world.no_undo_window()
    first = await approved(world, changes={"priority": "high"})
    await world.run_executor()
    await world.run_work()
    assert await figures() == (4, 4, 1)
    await approved(world, changes={"priority": "low"})
    assert await figures() == (5, 5, 1), "asked for is not written"
    await world.run_executor()
    await world.run_work()
    assert await figures() == (5, 5, 2)
    shown = (await world.operator.get(f"/v1/approvals/{similar['id']}/briefing")).json()["similar"]
    assert {one["approval_id"]: one["reverted"] for one in shown["items"]}[first["id"]] == "overwritten later"


async def rewritten(world: World, payloads: list[dict[str, Any]]) -> list[str]:
    """As many changes of one record, approved and written one after the other, that set these values: their approvals."""
    changes = [await approved(world) for _ in payloads]
    connection = await inspector(world)
    for table in ("writeback", "execution", "approval"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for later, (change, values) in enumerate(zip(reversed(changes), reversed(payloads), strict=True)):
        await connection.execute(
            """INSERT INTO execution (tenant, writeback, approval, payload_sha256, asked_at, idempotency_key, state, lease_until,
                 not_after, settled_at, observed)
               SELECT a.tenant, w.id, a.id, w.payload_sha256, a.created_at, gen_random_uuid(), 'succeeded', now(), now(), now(), w.payload
               FROM approval a JOIN writeback w ON w.id = a.writeback WHERE a.id = $1""",
            UUID(change["id"]),
        )
        payload = canonical({**change["payload"], "changes": values})
        await connection.execute(
            "UPDATE writeback SET payload = $2, created_at = now() - $3 * interval '1 s' WHERE id = $1",
            UUID(change["writeback_id"]), payload, later,
        )  # fmt: skip
    return [change["id"] for change in changes]


CASES: dict[str, tuple[list[dict[str, Any]], list[int]]] = {
    "by the fifth that follows": ([{"a": 1}, {"b": 1}, {"c": 1}, {"d": 1}, {"e": 1}, {"a": 2}], [0]),
    "true is not 1": ([{"a": 1}, {"a": True}], [0]),
    "1.0 is 1, and the order of members says nothing": ([{"a": {"x": 1.0, "y": 2}}, {"a": {"y": 2, "x": 1}}], []),
    "the same again": ([{"a": "x", "b": "y"}, {"a": "x"}, {"b": "z"}], [0]),
    "there and back": ([{"a": "x"}, {"a": "y"}, {"a": "x"}], [0, 1]),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_was_overwritten_is_one_thing_wherever_it_is_said(world: World, case: str) -> None:
    payloads, gone = CASES[case]
    similar = await pending_change(world)
    ids = await rewritten(world, payloads)
    [operator] = (await world.operator.get("/v1/desk")).json()["operators"]
    assert operator["reverted"] == len(gone)
    said = (await world.operator.get(f"/v1/approvals/{similar['id']}/briefing")).json()["similar"]
    shown = {one["approval_id"]: one["reverted"] for one in said["items"]}
    assert {ids.index(id) for id, reverted in shown.items() if reverted} == set(gone) & {ids.index(id) for id in shown}
    assert said["reverted"] == len(gone)


async def test_the_desk_reads_no_more_bytes_than_it_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await rewritten(world, [{"a": "x" * 50_000}, {"a": "y" * 50_000}, {"a": "z" * 50_000}])
    monkeypatch.setattr(lasting, "MOST_BYTES", 120_000)
    [operator] = (await world.operator.get("/v1/desk")).json()["operators"]
    assert operator["reverted"] == 1, "of the newest two"


async def test_gates_and_ladder_are_shown_as_the_api_says_them(world: World) -> None:
    gates = (await world.auditor.get("/v1/release/gates")).json()
    ladder = (await world.auditor.get("/v1/release/ladder")).json()
    page = await (await seat(world)).get("/console/release")
    assert page.status == 200, page.text
    for gate in gates["items"]:
        assert gate["title"] in page.text
        for check in gate["checks"]:
            assert check["sentence"] in page.text and (check["reason"] or "") in page.text, check
    for rung in ladder["items"]:
        assert rung["title"] in page.text
        for lack in rung["missing"]:
            assert lack["reason"] in page.text, lack


async def test_what_was_repaired_is_not_among_what_nothing_would_move(world: World) -> None:
    desk = await seat(world)
    assert "Nobody has looked yet" in (await desk.get("/console/health")).text
    repaired, known = await begin(world), await begin(world)
    connection = await inspector(world)
    await connection.execute(REMOVE_WORK, repaired.id)
    await age(repaired)
    await reconcile(world)
    page = (await desk.get("/console/health")).text
    assert "None: every open mission has a lease" in page and "1 other in the last day, over since" in page
    assert f"{repaired.id} accepted no dispatch" in page and "dispatch added now" in page
    await connection.execute(
        """INSERT INTO mission_repair (tenant, mission, state, finding, refused, since)
           SELECT tenant, id, state, 'no_dispatch', 'wrong_state', updated_at FROM mission WHERE id = $1""", known.id,
    )  # fmt: skip
    page = (await desk.get("/console/health")).text
    stuck, _, over = page.partition("in the last day")
    assert (
        f"{known.id} accepted no dispatch" in stuck and "it takes a person: a repair was refused (wrong_state)" in stuck
    )
    assert str(repaired.id) in over and str(repaired.id) not in stuck
