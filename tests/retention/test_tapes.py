"""Retention of what missions were answered: tapes, imported recordings and shadows go with their mission, and everything that
reads them says so."""

import base64
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.packet import offline
from tests.packet.zips import KEY, anchor, closed, fetched, opened, with_store
from tests.replay.test_recorded import diff, replay
from tests.replay.test_transfer import give_keys, taken_in
from tests.retention.house import House
from tests.retention.test_api import answered, grow_old, large, sweep
from tests.walls.ground import DENIED
from tests.world import World
from tests.world.checks import inspector, problem

__all__ = ["large"]
GIVEN = {"old": offline.public_key("", KEY.partition(":")[2])}
TAKES = {
    "tape": "UPDATE tape SET arguments = NULL, answer = NULL, removed_at = now() WHERE mission = '{id}'",
    "recording": "UPDATE recording SET file = NULL, removed_at = now() WHERE id = '{id}'",
    "shadow_writeback": "UPDATE shadow_writeback SET payload = NULL, removed_at = now() WHERE mission = '{id}'",
}


async def taped(house: House, id: UUID) -> None:
    await house.ground.run("api", """INSERT INTO tape (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome,
                             answer, answer_sha256, took_ms)
                           VALUES ($1, $2, 1, 'tool', 't', 1, '{}', sha256('{}'), 'answered', '["said"]', sha256('["said"]'), 1)""",
                           house.tenant, id)  # fmt: skip


async def shadowed(house: House, mission: UUID) -> None:
    await house.ground.run("worker", """INSERT INTO shadow_writeback (tenant, mission, proposal, payload, payload_sha256, policy_decision,
                             effect)
                           SELECT $1, a.mission, a.id, '{"a":1}', sha256('{"a":1}'), gen_random_uuid(), 'allow' FROM artifact a
                           WHERE a.tenant = $1 AND a.mission = $2 LIMIT 1""", house.tenant, mission)  # fmt: skip


async def recorded(house: House, klass: str = "restricted") -> UUID:
    id = uuid4()
    await house.ground.run("api", """INSERT INTO recording (tenant, id, mission, attempt, mission_type, environment, signed_by,
                             sensitivity_class, file_sha256, file, size, imported_by)
                           VALUES ($1, $2, $2, 1, 't', 'staging', 'k', $3, sha256($4), $4, 6, $5)""",
                           house.tenant, id, klass, b"a file", house.ground.ids["adam"])  # fmt: skip
    await taped(house, id)
    return id


async def left(house: House, id: UUID) -> dict[str, bool]:
    """Which of its bytes are still there."""
    rows = await house.ground.run("admin", """
      SELECT 'tape' AS name, arguments IS NOT NULL AND answer IS NOT NULL AS there FROM tape WHERE mission = $1
      UNION ALL SELECT 'recording', file IS NOT NULL FROM recording WHERE id = $1
      UNION ALL SELECT 'shadow', payload IS NOT NULL FROM shadow_writeback WHERE mission = $1""", id)  # fmt: skip
    return {row["name"]: row["there"] for row in rows}


async def imported_ago(house: House, recording: UUID, days: int) -> None:
    statement = "UPDATE recording SET imported_at = imported_at - make_interval(days => $2) WHERE id = $1"
    await house.without("recording", "recording_keep", statement, recording, days)


async def test_what_a_mission_was_answered_goes_with_it(house: House) -> None:
    mission = await house.mission()
    await taped(house, mission)
    await shadowed(house, mission)
    await house.end(mission, days_ago=89)
    await house.sweep()
    assert await left(house, mission) == {"tape": True, "shadow": True}
    await house.end(mission, days_ago=2)
    await house.sweep()
    assert await left(house, mission) == {"tape": False, "shadow": False}
    [fact] = await house.facts("bytes.removed")
    said = json.loads(fact["body"])
    assert (said["calls"], said["artifacts"]) == (1, 1)
    kept = await house.ground.run("admin", """SELECT arguments_sha256, answer_sha256 FROM tape WHERE mission = $1
                                  UNION ALL SELECT payload_sha256, NULL FROM shadow_writeback WHERE mission = $1""", mission)  # fmt: skip
    hashes = {value.hex() for row in kept for value in row.values() if value}
    assert len(hashes) == 3 and hashes <= set(said["sha256"]), "what it was is said, and stays"


@pytest.mark.parametrize(
    ("klass", "days", "goes"), [("restricted", 91, True), ("restricted", 89, False), ("public", 9000, False)]
)
async def test_a_recording_is_kept_as_long_as_what_it_records(house: House, klass: str, days: int, goes: bool) -> None:
    recording = await recorded(house, klass)
    await imported_ago(house, recording, days)
    await house.sweep()
    assert await left(house, recording) == {"tape": not goes, "recording": not goes}
    told = [json.loads(fact["body"]) for fact in await house.facts("bytes.removed")]
    assert [(one["recording"], one["calls"]) for one in told] == ([(str(recording), 1)] if goes else [])
    again = await recorded(house, klass) if goes else recording  # the same file may come again
    assert await left(house, again) == {"tape": True, "recording": True}


async def test_a_hold_of_the_tenant_keeps_recordings(house: House) -> None:
    recording = await recorded(house)
    await imported_ago(house, recording, 1000)
    assert await house.hold("all", "tenant") == "placed"
    await house.sweep()
    assert await left(house, recording) == {"tape": True, "recording": True}
    assert await house.lift("all") == "lifted"
    await house.sweep()
    assert await left(house, recording) == {"tape": False, "recording": False}


async def test_nobody_removes_what_is_not_over_by_any_way(house: House) -> None:
    running, recording = await house.mission(), await recorded(house)
    await taped(house, running)
    await shadowed(house, running)
    for table, statement in TAKES.items():
        for id in (recording,) if table == "recording" else (running, recording) if table == "tape" else (running,):
            said = statement.format(id=id)
            assert "wall" in await house.ground.refused("RX021", "owner", said), table
            for role in ("api", "worker", "executor", "auditor", "reader", "registrar"):
                await house.ground.refused(DENIED, role, said)
            async with house.ground.within("admin") as admin:
                await admin.execute("SET LOCAL session_replication_role = replica")
                with pytest.raises(asyncpg.PostgresError, match="wall"):
                    await admin.execute(said)
    for table, change in (
        ("tape", "outcome = 'denied'"), ("tape", "answer = '[]'"), ("tape", "took_ms = 2"), ("recording", "signed_by = 'x'"),
        ("recording", "file = NULL, removed_at = now(), signed_by = 'x'"), ("shadow_writeback", "effect = 'ask'"),
    ):  # fmt: skip
        await house.ground.refused("RX001", "owner", f"UPDATE {table} SET {change} WHERE tenant = $1", house.tenant)
    assert await left(house, running) == {"tape": True, "shadow": True}


# --- what readers see


async def test_a_removed_mission_is_neither_replayed_nor_compared_nor_exported(large: World, tmp_path: Path) -> None:
    give_keys(large)
    life, _ = await answered(large, sensitivity_class="restricted")
    again = await replay(life, large)
    waiting = await large.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    assert (await diff(again))["same"]
    await grow_old(large, life.id, 91)
    await sweep(large)
    at = f"/v1/missions/{life.id}"
    for answer in (
        await large.submitter.post(f"{at}/replay", json={"mode": "recorded"}),
        await large.submitter.post(f"{at}/replay", json={"mode": "rerun"}),
        await large.operator.get(f"{at}/recording"),
        await large.auditor.get(f"/v1/missions/{again.id}/diff"),
        await large.auditor.get(f"{at}/diff", params={"against": str(again.id)}),
    ):
        assert problem(answer, "bytes_removed")["removed_at"]
    await large.run_work("replay")
    found = (await large.submitter.get(f"/v1/missions/{waiting.json()['id']}")).json()
    assert (found["state"], found["reason"]) == ("failed", "replay_removed")
    assert "removed under retention on" in found["reason_note"]


async def test_the_packet_of_a_removed_mission_still_verifies_and_says_what_is_gone(
    large: World, tmp_path: Path
) -> None:
    with_store(large, tmp_path / "anchors")
    life, _ = await answered(large, sensitivity_class="restricted")
    await anchor(large)
    whole = opened(await fetched(life))
    await grow_old(large, life.id, 91)
    await sweep(large)
    await anchor(large)
    contents = opened(await fetched(life))
    assert not [name for name in contents if name.startswith(("artifacts/", "sources/"))]
    told = offline.verify(closed(contents, tmp_path / "removed.zip"), GIVEN)
    assert told["holds"], told
    assert told["removed"] == told["artifacts"] > 0 and told["citations"] == 0
    assert "were removed under retention" in "\n".join(offline.printed(told))
    # who takes artifacts out of a packet that retention has not touched is found
    lost = {name: data for name, data in whole.items() if not name.startswith("artifacts/review_packet")}
    told = offline.verify(closed(lost, tmp_path / "lost.zip", fitting=True), GIVEN)
    assert not told["holds"], told


@pytest.mark.parametrize("gone", [False, True])
async def test_what_a_recording_shows_is_brought_again_when_it_is_played(large: World, gone: bool) -> None:
    """In a tenant that never had the source, and where it was there and retention has removed it."""
    give_keys(large)
    life, source = await answered(large)
    file = (await large.operator.get(f"/v1/missions/{life.id}/recording")).content
    assert base64.b64encode(b"A word that fills pages.")[:16] in file or len(file) > 40_000
    other = await large.another_tenant()
    made = (await taken_in(other.http, file)).json()
    connection = await inspector(large)
    if gone:
        first = await other.http.post(f"/v1/recordings/{made['id']}/replay", json={"mode": "recorded"})
        assert first.status_code == 202, first.text
        await connection.execute("ALTER TABLE blob DISABLE TRIGGER blob_guard")
        await connection.execute(
            "UPDATE blob SET bytes = NULL, object = NULL, chunks = NULL, removed_at = now() WHERE sha256 = $1 AND tenant = "
            "(SELECT tenant FROM recording WHERE id = $2)", bytes.fromhex(source), UUID(made["id"]))  # fmt: skip
        await connection.execute("ALTER TABLE blob ENABLE ALWAYS TRIGGER blob_guard")
        played: dict[str, Any] = first.json()
    else:
        played = (await other.http.post(f"/v1/recordings/{made['id']}/replay", json={"mode": "recorded"})).json()
    await large.run_work("replay", "review")
    found = (await other.http.get(f"/v1/missions/{played['id']}/packet")).json()
    assert found["mission"]["state"] == "completed", found["mission"]
    assert [one["verified"] for one in found["claims"][0]["citations"]] == [True]
    rows = await connection.fetch("SELECT removed_at, object FROM blob WHERE sha256 = $1", bytes.fromhex(source))
    assert len(rows) == 2 and all(row["removed_at"] is None and row["object"] is not None for row in rows)
