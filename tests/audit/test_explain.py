"""Any id leads to its whole story, to nobody else's, and each step of it says what it is worth."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import ledger
from app.audit import AT_ONCE
from app.caller import system
from tests.packet.zips import anchor, with_store, written
from tests.world import World
from tests.world.checks import hire, impersonal, inspector, problem
from tests.world.life import Life, in_state


async def told(world: World, id: object, **more: Any) -> dict[str, Any]:
    answer = await world.auditor.get("/v1/explain", params={"id": str(id), **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sentences(story: dict[str, Any]) -> str:
    return "\n".join(step["sentence"] for step in story["steps"])


def marked(story: dict[str, Any]) -> list[str]:
    return [step["what"] for step in story["steps"] if step["marked"]]


@pytest.fixture
async def life(world: World) -> Life:
    return await written(world)


async def test_a_mission_from_its_request_to_its_read_back(world: World, life: Life) -> None:
    story = await told(world, life.id)
    assert story["kind"] == "mission" and story["proof"] is None and story["left_out"] == 0
    [mission] = story["missions"]
    assert mission["id"] == str(life.id) and mission["state"] == "completed"
    assert mission["requested_by"]["name"] == "submitter"
    said = sentences(story)
    assert said.startswith("submitter asked for oracle_advisory (assisted, ")
    for words in (
        "policy: allow by ", "handed to the colony, attempt 1", "the colony worked", "1 claim against the stored bytes: passed",
        "2 changes wait for 1 approval each", "operator approved", "the executor took",
        "were written and read back: the target shows exactly what was approved", "the mission is completed",
    ):  # fmt: skip
        assert words in said, said
    times = [step["at"] for step in story["steps"]]
    assert times == sorted(times)
    facts = [position for step in story["steps"] for position in step["facts"]]
    recorded = (await world.auditor.get(f"/v1/missions/{life.id}/events?limit=200")).json()["items"]
    assert sorted(facts) == sorted(fact["id"] for fact in recorded), "every fact is told once"
    assert {one["read_back"] for one in story["changes"] if one["state"] == "succeeded"} == {"as_approved"}


async def test_every_kind_of_id_leads_there(world: World, life: Life) -> None:
    get = world.auditor.get
    [change, other] = (await told(world, life.id))["changes"]
    artifact = (await get(f"/v1/missions/{life.id}/artifacts")).json()["items"][-1]
    packet = (await get(f"/v1/missions/{life.id}/packet")).json()
    [decision, *_] = packet["policy_decisions"]
    facts = (await get(f"/v1/missions/{life.id}/events?limit=200")).json()["items"]
    decided = next(fact for fact in facts if fact["type"] == "approval.decided")
    source = packet["claims"][0]["citations"][0]["source"]
    record = f"{change['connector']}/{change['target']}"
    for id, kind in (
        (life.id.hex, "mission"), (change["approval_id"], "approval"), (change["writeback_id"], "writeback"),
        (change["payload_sha256"].upper(), "payload"), (artifact["id"], "artifact"), (artifact["sha256"], "artifact"),
        (decision["id"], "policy_decision"), (f" {decided['id']} ", "fact"), (source, "source"),
        (record, "record"), (change["target"], "record"), (change["target"].partition("/")[2], "record"),
    ):  # fmt: skip
        story = await told(world, id)
        assert (story["kind"], [one["id"] for one in story["missions"]]) == (kind, [str(life.id)]), id
    assert marked(await told(world, decided["id"])) == ["decided"]
    assert marked(await told(world, decision["id"])) == ["accepted"]
    assert "approval.opened" in marked(await told(world, change["approval_id"]))
    narrow = await told(world, change["writeback_id"])
    assert [one["writeback_id"] for one in narrow["changes"]] == [change["writeback_id"]]
    assert other["approval_id"] not in str(narrow["steps"]) and "the colony worked" in sentences(narrow)
    told_of = {position for step in narrow["steps"] for position in step["facts"]}
    of_other = {fact["id"] for fact in facts if fact["body"].get("writeback") == other["writeback_id"]}
    assert of_other and not of_other & told_of


async def test_a_request_is_found_by_its_id_whatever_it_did(world: World) -> None:
    headers = {"Request-Id": "support-case-7.a"}
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    made = (await world.submitter.post("/v1/missions", json=ask, headers=headers)).json()
    ending = {"Request-Id": "support-case-8", "If-Match": '"v1"'}
    await world.operator.post(f"/v1/missions/{made['id']}/cancel", json={"reason": "x"}, headers=ending)
    beside = (await world.submitter.post("/v1/missions", json=ask)).headers["request-id"]
    first, second, third = (
        await told(world, "support-case-7.a"),
        await told(world, "support-case-8"),
        await told(world, beside),
    )
    assert [one["kind"] for one in (first, second, third)] == ["request"] * 3
    assert first["missions"] == second["missions"] and first["missions"][0]["id"] == made["id"]
    assert third["missions"][0]["id"] != made["id"]
    assert marked(first) == ["accepted"] and marked(second) == ["cancelled"]
    await world.admin.put(
        "/v1/budgets", json={"day_tokens": 5_000_000}, headers={"Request-Id": "limits-1", "If-Match": '"v0"'}
    )
    story = await told(world, "limits-1")
    assert story["missions"] == [] and [step["what"] for step in story["steps"]] == ["budget.limits_changed"]
    assert "by admin" in sentences(story)


async def test_a_request_that_was_refused_leads_to_the_decision_against_it(world: World) -> None:
    policy = '@id("own.no") @reason("Not now.") forbid (principal, action == Action::"mission.create", resource);'
    await world.policy_owner.put("/v1/policies/own", json={"text": policy})
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    refused = await world.submitter.post("/v1/missions", json=ask, headers={"Request-Id": "refused-1"})
    assert refused.status_code == 403
    story = await told(world, "refused-1")
    assert "submitter asked for oracle_advisory (policy: refused by own.no)" in sentences(story)
    decision = (await world.auditor.get("/v1/ledger?limit=200")).json()["items"][-1]["body"]["policy_decision"]
    assert sentences(await told(world, decision)) == sentences(story)


async def test_no_words_from_outside_reach_the_ledger_by_a_request_id(world: World) -> None:
    await world.submitter.post(
        "/v1/missions",
        json={"mission_type": "oracle_advisory", "user_goal": "x"},
        headers={"Request-Id": "anna.kowalski"},
    )
    rows = await (await inspector(world)).fetch("SELECT request::text, convert_from(body, 'UTF8') AS body FROM ledger")
    assert any(row["request"] for row in rows) and "anna" not in str([tuple(row) for row in rows])


async def test_steps_say_what_they_are_worth(world: World, life: Life, tmp_path: Path) -> None:
    off = await told(world, life.id, verify=True)
    assert off["proof"]["verified"] and off["proof"]["anchors"] == "off"
    assert {step["proof"] for step in off["steps"]} == {"chained"}
    with_store(world, tmp_path / "anchors")
    assert (await told(world, life.id, verify=True))["proof"]["anchors"] == "none"
    await anchor(world)
    story = await told(world, life.id, verify=True)
    facts = sum(step["count"] for step in story["steps"])
    assert story["proof"] == {
        "verified": True, "facts": facts, "anchored": facts, "anchors": "ok", "numbers": [1], "first_bad": None, "finding": None,
    }  # fmt: skip
    assert {step["proof"] for step in story["steps"]} == {"anchored"}
    late = await world.create()
    assert {step["proof"] for step in (await told(world, late["id"], verify=True))["steps"]} == {"chained"}
    await anchor(world)
    assert (await told(world, late["id"], verify=True))["proof"]["numbers"] == [2]


TAMPERED = {
    "a body": "UPDATE ledger SET body = '{\"n\":1}' WHERE subject = $1 AND type = 'approval.decided'",
    "a body, with its hash made to fit": """
        UPDATE ledger SET body = '{"n":1}', hash = fact_hash(prev, tenant, subject, seq, type, actor, at, '{"n":1}')
        WHERE subject = $1 AND seq = (SELECT max(seq) FROM ledger WHERE subject = $1)""",
    "a fact taken away": "DELETE FROM ledger WHERE subject = $1 AND type = 'writeback.claimed'",
}  # fmt: skip


async def tampered(world: World, statement: str, *values: Any) -> None:
    """What only the owner of the database can do."""
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for trigger in ("ledger_keep", "ledger_chain"):
            await connection.execute(f"ALTER TABLE ledger DISABLE TRIGGER {trigger}")
        await connection.execute(statement, *values)
        for trigger in ("ledger_keep", "ledger_chain"):
            await connection.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER {trigger}")


@pytest.mark.parametrize("how", TAMPERED)
async def test_what_was_changed_afterwards_is_marked(world: World, life: Life, tmp_path: Path, how: str) -> None:
    with_store(world, tmp_path / "anchors")
    await anchor(world)
    await tampered(world, TAMPERED[how], life.id)
    story = await told(world, life.id, verify=True)
    assert not story["proof"]["verified"]
    broken = [step["proof"] for step in story["steps"]]
    assert "broken" in broken and broken[0] == "anchored"
    assert story["proof"]["first_bad"] or story["proof"]["finding"]


async def test_an_anchor_that_is_gone_or_not_genuine_proves_nothing(world: World, life: Life, tmp_path: Path) -> None:
    with_store(world, tmp_path / "anchors")
    await anchor(world)
    [entries] = (tmp_path / "anchors").rglob("entries/*.txt")
    [slot] = (tmp_path / "anchors").rglob("anchors/*.json")
    for file, change, finding in (
        (entries, b"", "its entries are missing or changed"),
        (slot, slot.read_bytes().replace(b'"number":1', b'"number":2'), "it is missing, or cannot be read"),
        (slot, slot.read_bytes().replace(b'"tree_size":', b'"tree_size":1'), "its signature is not genuine"),
    ):
        kept = file.read_bytes()
        file.write_bytes(change)
        story = await told(world, life.id, verify=True)
        assert (story["proof"]["anchors"], story["proof"]["verified"]) == ("failed", False)
        assert story["proof"]["finding"] == f"anchor 1: {finding}"
        assert {step["proof"] for step in story["steps"]} == {"broken"}
        file.write_bytes(kept)
    assert (await told(world, life.id, verify=True))["proof"]["anchors"] == "ok"


async def test_an_anchor_that_covers_less_than_the_ledger_says_proves_nothing(world: World, tmp_path: Path) -> None:
    with_store(world, tmp_path / "anchors")
    await world.create()
    await anchor(world)
    late = await world.create()
    await anchor(world)
    lying = """UPDATE ledger SET body = convert_to(replace(convert_from(body, 'UTF8'), '"number":2', '"number":1'), 'UTF8')
               WHERE type = 'ledger.anchored' AND subject = tenant"""
    await tampered(world, lying)
    proof = (await told(world, late["id"], verify=True))["proof"]
    assert (proof["anchors"], proof["verified"]) == ("failed", False)
    assert proof["finding"] == "anchor 1: it covers less than the ledger says"


async def test_another_tenants_ids_are_no_ids(world: World, life: Life) -> None:
    stranger = await world.another_tenant()
    story = await told(world, life.id)
    [change, *_] = story["changes"]
    artifact = (await world.auditor.get(f"/v1/missions/{life.id}/artifacts")).json()["items"][0]
    theirs = [
        life.id, change["approval_id"], change["writeback_id"], change["payload_sha256"], change["target"], artifact["id"],
        artifact["sha256"], story["steps"][0]["facts"][0], (await world.auditor.get("/v1/whoami")).json()["tenant_id"],
    ]  # fmt: skip
    made = await world.submitter.post(
        "/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "x"}, headers={"Request-Id": "same-id"}
    )
    assert made.status_code == 202

    async def asked(id: object) -> tuple[int, dict[str, Any], dict[str, str]]:
        return impersonal(await stranger.http.get("/v1/explain", params={"id": str(id), "verify": True}))

    nothing = await asked(uuid4())
    assert nothing[0] == 404
    for id in (*theirs, "same-id"):
        assert await asked(id) == nothing, id


async def test_names_are_those_of_the_own_tenant(world: World, life: Life) -> None:
    stranger = await world.another_tenant()
    people = [UUID((await who.get("/v1/whoami")).json()["principal_id"]) for who in (world.operator, stranger.http)]
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        rows = await session.rows("SELECT name FROM names_of(:t, :p)", {"t": session.tenant, "p": people})
    assert [row.name for row in rows] == ["operator"]


@pytest.mark.parametrize(
    "id",
    ["x" * 301, "", "\x00", "%", "'; DROP TABLE ledger; --", "0-0", "18446744073709551616-1", "\u202e", "a/b/c/d/e"],
)
async def test_whatever_is_typed_is_answered(world: World, id: str) -> None:
    answer = await world.auditor.get("/v1/explain", params={"id": id})
    problem(answer, "validation" if id in ("", "\x00") or len(id) > 300 else "not_found")


async def test_who_may_not_read_the_ledger_is_told_nothing(world: World) -> None:
    nobody = await hire(world, "nobody")
    problem(await nobody.http.get("/v1/explain", params={"id": "x"}), "forbidden")


async def test_a_very_long_mission_is_told_from_both_ends(
    world: World, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.audit import story as told_story

    whole = await told(world, life.id)
    monkeypatch.setattr(told_story, "MOST_FACTS", 10)
    story = await told(world, life.id)
    count = sum(step["count"] for step in whole["steps"])
    assert (sum(step["count"] for step in story["steps"]), story["left_out"]) == (10, count - 10)
    assert story["steps"][0]["what"] == "accepted" and story["steps"][-1]["what"] == "completed"


async def test_each_step_of_a_story_is_of_one_mission_and_judged_by_its_chain(world: World, tmp_path: Path) -> None:
    """One person decides on a change of two missions in the same way, under the same Request-Id."""
    lives = [await in_state(world, "awaiting_approval") for _ in range(2)]
    for life in lives:
        one = (await life.approvals())[0]
        headers = {"Request-Id": "both", "If-Match": '"v1"'}
        body = {"decision": "approve", "payload_sha256": one["payload_sha256"]}
        done = await world.operator.post(f"/v1/approvals/{one['id']}/decisions", json=body, headers=headers)
        assert done.status_code == 201, done.text
    with_store(world, tmp_path / "anchors")
    await anchor(world)
    hidden = (
        "UPDATE ledger SET hash = sha256('x') WHERE subject = $1 AND type = 'approval.decided'"  # it reads as before
    )
    await tampered(world, hidden, lives[1].id)
    story = await told(world, "both", verify=True)
    for life in lives:
        own = (await world.auditor.get(f"/v1/missions/{life.id}/events?limit=200")).json()["items"]
        steps = [step for step in story["steps"] if step["mission_id"] == str(life.id)]
        assert sorted(place for step in steps for place in step["facts"]) == sorted(fact["id"] for fact in own)
        assert {step["proof"] for step in steps if step["marked"]} == {"broken" if life is lives[1] else "anchored"}


async def test_a_request_to_the_tenant_and_to_missions_is_told_once(world: World) -> None:
    headers = {"Request-Id": "all-of-it"}
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    for _ in range(6):  # one more than are told of
        assert (await world.submitter.post("/v1/missions", json=ask, headers=headers)).status_code == 202
    limits = {"json": {"day_tokens": 5_000_000}, "headers": headers | {"If-Match": '"v0"'}}
    assert (await world.admin.put("/v1/budgets", **limits)).status_code == 200
    story = await told(world, "all-of-it", verify=True)
    places = [place for step in story["steps"] for place in step["facts"]]
    assert len(places) == len(set(places)) and len(story["missions"]) == 4
    assert marked(story).count("budget.limits_changed") == 1 and marked(story).count("accepted") == 4


async def test_of_a_very_long_step_the_last_fact_counts_too(
    world: World, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.audit import story as told_story

    whole = await told(world, life.id)
    [worked] = [step for step in whole["steps"] if step["what"] == "worked"]
    await tampered(
        world, "UPDATE ledger SET body = '{\"n\":1}' WHERE subject = $1 AND id = $2",
        life.id, int(worked["facts"][-1].partition("-")[2]),
    )  # fmt: skip
    monkeypatch.setattr(told_story, "MOST_POSITIONS", 2)
    story = await told(world, life.id, verify=True)
    [step] = [step for step in story["steps"] if step["what"] == "worked"]
    assert (step["facts"], step["count"], step["proof"]) == (worked["facts"][:2], worked["count"], "broken")


async def test_a_decision_in_the_middle_of_a_long_chain_is_said_to_be_out_of_sight(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.audit import story as told_story

    policy = '@id("own.no") @reason("Not now.") forbid (principal, action == Action::"mission.create", resource);'
    await world.policy_owner.put("/v1/policies/own", json={"text": policy})
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    for _ in range(7):
        assert (await world.submitter.post("/v1/missions", json=ask)).status_code == 403
    facts = (await world.auditor.get("/v1/ledger?limit=200")).json()["items"]
    decision = [fact for fact in facts if "policy_decision" in fact["body"]][3]["body"]["policy_decision"]
    assert (await told(world, decision))["left_out"] == 0
    monkeypatch.setattr(told_story, "MOST_FACTS", 4)
    story = await told(world, decision)
    tenant = (await world.auditor.get("/v1/whoami")).json()["tenant_id"]
    count = sum(fact["subject"] == tenant for fact in facts)
    assert (story["steps"], story["left_out"]) == ([], count - 4)
    assert (await told(world, tenant))["left_out"] == count - 4


async def test_what_was_cut_off_the_end_of_a_chain_is_missed(world: World, life: Life, tmp_path: Path) -> None:
    """A chain without its last facts is whole in itself: only what anchors signed tells of them."""
    last = "DELETE FROM ledger WHERE subject = $1 AND seq = (SELECT max(seq) FROM ledger WHERE subject = $1)"
    with_store(world, tmp_path / "anchors")
    early, late, again = [await world.create() for _ in range(3)]
    await anchor(world)
    for one in (late, again):
        await world.operator.post(
            f"/v1/missions/{one['id']}/cancel", json={"reason": "x"}, headers={"If-Match": '"v1"'}
        )
    beside = await world.create()
    await anchor(world)
    assert (await told(world, late["id"], verify=True))["proof"]["numbers"] == [1, 2]
    await tampered(world, last, life.id)
    await tampered(world, last, UUID(late["id"]))
    await tampered(world, last, UUID(again["id"]))
    await world.operator.post(f"/v1/missions/{again['id']}/cancel", json={"reason": "x"}, headers={"If-Match": '"v1"'})
    async with world.worker.database.write() as session:  # something else took the place of what is gone
        await session.enter(await world.tenant())
        await ledger.record(session, system(await world.tenant(), "worker"), "mission.degraded", UUID(again["id"]))
    await anchor(world)
    for one, by in ((life.id, 1), (late["id"], 2), (again["id"], 2)):
        proof = (await told(world, one, verify=True))["proof"]
        assert (proof["verified"], proof["anchors"], proof["first_bad"]) == (False, "failed", None)
        assert proof["finding"].startswith("the fact ") and proof["finding"].endswith(
            f"which anchor {by} signed, is gone"
        )
    for one in (early, beside):
        assert (await told(world, one["id"], verify=True))["proof"]["verified"]


async def test_only_what_an_anchor_contradicts_is_broken(world: World, life: Life, tmp_path: Path) -> None:
    """What came after every anchor has its chain, whatever became of the anchors before it."""
    with_store(world, tmp_path / "anchors")
    early = await world.create()
    await anchor(world)
    await world.operator.post(f"/v1/missions/{early['id']}/cancel", json={"reason": "x"}, headers={"If-Match": '"v1"'})
    [slot] = (tmp_path / "anchors").rglob("anchors/*.json")
    slot.write_bytes(b"")
    story = await told(world, early["id"], verify=True)
    assert (story["proof"]["verified"], story["proof"]["finding"]) == (
        False,
        "anchor 1: it is missing, or cannot be read",
    )
    assert {step["what"]: step["proof"] for step in story["steps"]} == {"accepted": "broken", "cancelled": "chained"}


@pytest.mark.parametrize("body", ["[1]", "no JSON at all", '{"number": true, "last": 7}'])
async def test_what_somebody_made_an_anchors_fact_say_stops_no_answer(
    world: World, life: Life, tmp_path: Path, body: str
) -> None:
    with_store(world, tmp_path / "anchors")
    await anchor(world)
    first = (await told(world, life.id))["steps"][0]["facts"][0]
    await tampered(world, "UPDATE ledger SET body = $1 WHERE type = 'ledger.anchored'", body.encode())
    for path in (f"/v1/ledger/facts/{first}/proof", f"/v1/ledger/export?subject={life.id}", "/v1/status"):
        answer = await world.auditor.get(path)
        assert answer.status_code == 200, (path, answer.text)
    assert (await told(world, life.id, verify=True))["proof"]["anchors"] == "none"


async def test_few_stories_are_verified_at_a_time(world: World, tmp_path: Path) -> None:
    mission = await world.create()
    proving = world.public.state.proving
    for _ in range(AT_ONCE):
        await proving.acquire()
    waiting = asyncio.create_task(told(world, mission["id"], verify=True))
    assert (await told(world, mission["id"]))["proof"] is None, "the others do not wait"
    assert not waiting.done()
    proving.release()
    assert (await waiting)["proof"]["verified"]
