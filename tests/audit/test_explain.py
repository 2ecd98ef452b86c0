"""Any id leads to its whole story, to nobody else's, and each step of it says what it is worth."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.packet.zips import anchor, with_store, written
from tests.world import World
from tests.world.checks import hire, impersonal, inspector, problem
from tests.world.life import Life


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


async def tamper(connection: asyncpg.Connection, statement: str, *values: object) -> None:
    """What the owner of the database could do to it."""
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
    await tamper(await inspector(world), TAMPERED[how], life.id)
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
    await tamper(await inspector(world), lying)
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
