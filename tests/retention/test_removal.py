"""What the sweep removes, what it leaves, and that nobody can remove more: every refusal here is Postgres's own."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.clock import new_id
from tests.retention.house import LARGE, House
from tests.walls.ground import DENIED

SMALL, BIG = b"a small source", b"x" * LARGE
# every way to make bytes go that a login or the schema's owner could try
TAKES = {
    "artifact": "UPDATE artifact SET bytes = NULL, removed_sha256 = sha256, removed_size = octet_length(bytes), removed_at = now() "
    "WHERE mission = '{mission}'",
    "quarantine": "UPDATE quarantine SET bytes = NULL, removed_sha256 = sha256, removed_size = octet_length(bytes), removed_at = now() "
    "WHERE mission = '{mission}'",
    "blob": "UPDATE blob SET bytes = NULL, object = NULL, chunks = NULL, removed_at = now() WHERE sha256 = '\\x{source}'",
    "mission": "UPDATE mission SET bytes_removed_at = now() WHERE id = '{mission}'",
}


async def furnished(house: House, klass: str = "restricted", data: bytes = SMALL, **more: Any) -> tuple[Any, bytes]:
    """A mission that said something, was refused something and was shown a source."""
    mission, source = await house.mission(klass, **more), await house.keep(data)
    await house.read(mission, source)
    await house.ground.run(
        "api", "INSERT INTO quarantine (tenant, mission, origin, problem, bytes) VALUES ($1, $2, 'callback', 'x', 'refused')",
        house.tenant, mission,
    )  # fmt: skip
    return mission, source


async def test_what_is_over_goes_and_what_it_was_stays(house: House) -> None:
    mission, small = await furnished(house)
    big = await house.keep(BIG)
    await house.read(mission, big)
    hashes = "SELECT sha256, COALESCE(removed_size, octet_length(bytes)) AS size FROM artifact WHERE mission = $1"
    before = [tuple(row) for row in await house.ground.run("admin", hashes, mission)]
    await house.end(mission, days_ago=91)
    for source in (small, big):
        await house.age(source)
    assert len(await house.stored()) == 1
    await house.sweep()
    assert await house.said(mission) == [False]
    assert [tuple(row) for row in await house.ground.run("admin", hashes, mission)] == before
    assert [await house.state(one) for one in (small, big)] == ["removed", "removed"]
    assert await house.stored() == set()
    quarantined = "SELECT bytes, removed_size FROM quarantine WHERE mission = $1"
    assert [tuple(row) for row in await house.ground.run("admin", quarantined, mission)] == [(None, 7)]
    told = await house.facts("bytes.removed")
    assert [(fact["subject"], fact["actor"]) for fact in told] == [
        (mission, "system:worker"),
        (house.tenant, "system:worker"),
    ]
    of_mission, of_tenant = (json.loads(fact["body"]) for fact in told)
    assert (of_mission["sensitivity_class"], of_mission["days"]) == ("restricted", 90)
    assert (of_mission["artifacts"], of_mission["quarantined"], len(of_mission["sha256"])) == (1, 1, 2)
    assert (of_tenant["sources"], set(of_tenant["sha256"])) == (2, {small.hex(), big.hex()})
    await house.sweep()  # and doing it twice is doing it once
    assert len(await house.facts("bytes.removed")) == 2


@pytest.mark.parametrize(
    ("klass", "days", "goes"),
    [
        ("restricted", 91, True), ("restricted", 89, False), ("confidential", 366, True), ("confidential", 364, False),
        ("internal", 1096, True), ("internal", 1094, False), ("public", 30_000, False),
    ],
)  # fmt: skip
async def test_the_shipped_times(house: House, klass: str, days: int, goes: bool) -> None:
    mission, source = await furnished(house, klass)
    await house.end(mission, days_ago=days)
    await house.age(source)
    await house.sweep()
    assert (await house.said(mission), await house.state(source)) == ([not goes], "removed" if goes else "kept")


async def test_nobody_removes_what_is_not_over_by_any_way(house: House) -> None:
    """Not over: it runs, it has just closed, it is held, its class is kept for good. The owner of the schema included."""
    running = await furnished(house)
    closed = await furnished(house, data=b"b")
    await house.end(closed[0], days_ago=89)
    held = await furnished(house, data=b"c", labels='{"case": "17"}')
    await house.end(held[0], days_ago=1000)
    assert await house.hold("case-17", "label", label=("case", "17")) == "placed"
    public = await furnished(house, "public", b"d")
    await house.end(public[0], days_ago=10_000)
    for mission, source in (running, closed, held, public):
        await house.age(source, 400)
        for table, statement in TAKES.items():
            said = statement.format(mission=mission, source=source.hex())
            assert "wall" in await house.ground.refused("RX021", "owner", said), table
            for role in ("api", "worker", "executor", "auditor", "reader", "registrar"):
                await house.ground.refused(DENIED, role, said)
            # replication mode turns ordinary triggers off; these stay
            async with house.ground.within("admin") as admin:
                await admin.execute("SET LOCAL session_replication_role = replica")
                with pytest.raises(asyncpg.PostgresError, match="wall"):
                    await admin.execute(said)
    await house.sweep()
    for mission, source in (running, closed, held, public):
        assert (await house.said(mission), await house.state(source)) == ([True], "kept")


async def test_the_door_takes_bytes_and_nothing_else(house: House) -> None:
    mission, source = await furnished(house)
    await house.end(mission, days_ago=91)
    for change in (
        "bytes = 'other'", "schema_name = 'worker_result'", "producer = 'x'", "attempt = 7", "id = gen_random_uuid()",
        "bytes = NULL, removed_sha256 = sha256('x'), removed_size = octet_length(bytes), removed_at = now()",
        "bytes = NULL, removed_sha256 = sha256, removed_size = 1, removed_at = now()",
        "bytes = NULL, removed_sha256 = sha256, removed_size = octet_length(bytes), removed_at = now(), producer = 'x'",
    ):  # fmt: skip
        await house.ground.refused("RX001", "owner", f"UPDATE artifact SET {change} WHERE mission = $1", mission)
    for change in (
        "size = 3",
        "bytes = 'other'",
        "created_at = 'epoch'",
        "kept_at = 'epoch'",
        "removed_at = NULL, bytes = 'x'",
    ):
        await house.ground.refused("RX001", "owner", f"UPDATE blob SET {change} WHERE sha256 = $1", source)
    await house.age(source)
    await house.sweep()
    for change in (
        "bytes = 'back'",
        "removed_at = now()",
        "removed_at = NULL, bytes = 'back', removed_sha256 = NULL, removed_size = NULL",
    ):
        await house.ground.refused("RX001", "owner", f"UPDATE artifact SET {change} WHERE mission = $1", mission)
    await house.ground.refused("RX021", "owner", "UPDATE mission SET bytes_removed_at = NULL WHERE id = $1", mission)
    await house.ground.refused("blob_hash", "owner", "UPDATE blob SET bytes = 'an other source', removed_at = NULL, size = size "
                               "WHERE sha256 = $1", source)  # fmt: skip


async def test_only_whoever_holds_the_work_row_removes(house: House) -> None:
    mission, _ = await furnished(house)
    await house.end(mission, days_ago=91)
    item = await house.item()
    call = "SELECT * FROM remove_bytes($1, $2, 10)"
    for fence in (item.fence - 1, item.fence + 1, None):
        assert await house.ground.run("worker", call, house.tenant, fence) == []
    assert await house.said(mission) == [True]
    for role in ("api", "executor", "auditor", "reader", "registrar"):
        await house.ground.refused(DENIED, role, call, house.tenant, item.fence)
    await house.ground.refused("RX002", "worker", call, uuid4(), item.fence)
    # an old snapshot does not know of holds that stand by now
    async with house.ground.within("worker", isolation="repeatable_read") as worker:
        with pytest.raises(asyncpg.PostgresError, match="read committed"):
            await worker.fetch(call, house.tenant, item.fence)
    for verb in ("INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'retention', gen_random_uuid(), 'worker')",
                 "UPDATE work SET kind = 'retention' WHERE tenant = $1 AND kind = 'dispatch'"):  # fmt: skip
        await house.ground.run("admin", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'dispatch', $1, 'worker') "
                               "ON CONFLICT DO NOTHING", house.tenant)  # fmt: skip
        await house.ground.refused(DENIED, "api", verb, house.tenant)
    put_off = "UPDATE work SET next_at = 'infinity' WHERE kind = 'retention' RETURNING 1"
    assert await house.ground.run("api", put_off) == []
    [row] = await house.ground.run("worker", call, house.tenant, item.fence)
    assert (row["missions"], await house.said(mission)) == (1, [False])


async def test_a_mission_is_not_made_older_or_less_sensitive(house: House) -> None:
    mission = await house.mission()
    await house.ground.run("api", "UPDATE mission SET state = 'completed', closed_at = 'epoch' WHERE id = $1", mission)
    recent = "SELECT closed_at > now() - interval '1 minute' FROM mission WHERE id = $1"
    assert await house.ground.value("admin", recent, mission)
    await house.ground.run("api", "UPDATE mission SET closed_at = 'epoch' WHERE id = $1", mission)
    await house.ground.run("owner", "UPDATE mission SET closed_at = 'epoch' WHERE id = $1", mission)
    assert await house.ground.value("admin", recent, mission)
    await house.ground.refused(DENIED, "api", "UPDATE mission SET sensitivity_class = 'public' WHERE id = $1", mission)


async def test_shared_sources_stay_as_long_as_somebody_needs_them(house: House) -> None:
    source = await house.keep(BIG)
    first, second = await house.mission(), await house.mission("confidential")
    for mission in (first, second):
        await house.read(mission, source)
    await house.end(first, days_ago=91)
    await house.age(source, 400)
    await house.sweep()
    assert (await house.said(first), await house.state(source)) == ([False], "kept")
    await house.end(second, days_ago=366)
    await house.hold("second", mission=second)
    await house.sweep()
    assert (await house.said(second), await house.state(source)) == ([True], "kept")
    assert await house.lift("second") == "lifted"
    await house.document(source, len(BIG))
    await house.sweep()
    assert (await house.said(second), await house.state(source)) == ([False], "kept"), "a current document has it"
    await house.ground.run(
        "api", "UPDATE document SET state = 'removed', retired_at = now() WHERE source_sha256 = $1", source
    )
    await house.age(source, 0)
    await house.sweep()
    assert await house.state(source) == "kept", "for a month after that"
    await house.ground.run(
        "admin", "UPDATE document SET retired_at = now() - interval '31 days' WHERE source_sha256 = $1", source
    )
    await house.age(source, 0)
    await house.sweep()
    assert (await house.state(source), await house.stored()) == ("removed", set())


async def test_what_nobody_was_shown_goes_after_its_own_time(house: House) -> None:
    source = await house.keep(BIG)
    await house.age(source, 29)
    await house.sweep()
    assert await house.state(source) == "kept"
    await house.age(source, 2)
    await house.sweep()
    assert await house.state(source) == "removed"


async def test_what_was_removed_may_come_back_as_it_was(house: House) -> None:
    mission, source = await furnished(house, data=BIG)
    await house.end(mission, days_ago=91)
    await house.age(source)
    await house.sweep()
    assert await house.state(source) == "removed"
    fresh = await house.mission()
    await house.ground.refused(
        "RX022", "api", "INSERT INTO reading (tenant, mission, source_sha256, document, kind) VALUES ($1, $2, $3, 'd', 'document')",
        house.tenant, fresh, source,
    )  # fmt: skip
    assert await house.keep(BIG) == source
    await house.read(fresh, source)
    await house.sweep()
    assert (await house.state(source), len(await house.stored())) == ("kept", 1)
    assert await house.said(mission) == [False], "what was said does not come back"


async def test_an_object_is_named_within_the_hour(house: House) -> None:
    keep = "SELECT keep_blob($1, sha256('x'), 1, NULL, $2, sha256('x'))"
    old = new_id().int - (3601 * 1000 << 80)
    for object in (UUID(int=old), uuid4(), UUID(int=0)):
        await house.ground.refused("RX022", "api", keep, house.tenant, object)
    await house.ground.run("api", keep, house.tenant, new_id())
    for bytes_, size in ((b"y", 1), (b"x", 2)):
        with pytest.raises(asyncpg.CheckViolationError):
            await house.ground.run(
                "api", "SELECT keep_blob($1, sha256('z'), $2, $3, NULL, NULL)", house.tenant, size, bytes_
            )


async def test_many_hashes_are_told_in_several_facts(house: House) -> None:
    mission = await house.mission(said=165)
    await house.end(mission, days_ago=91)
    await house.sweep()
    told = [json.loads(fact["body"]) for fact in await house.facts("bytes.removed")]
    assert [(one["part"], one["parts"], len(one["sha256"])) for one in told] == [(1, 3, 80), (2, 3, 80), (3, 3, 5)]
    hashes = await house.ground.run("admin", "SELECT encode(sha256, 'hex') FROM artifact WHERE mission = $1", mission)
    assert {one for fact in told for one in fact["sha256"]} == {row[0] for row in hashes}


async def test_a_shorter_time_counts_after_a_week_and_a_longer_one_at_once(house: House) -> None:
    days = "SELECT retention_days($1, 'restricted')"
    put = "SELECT outcome FROM put_retention($1, $2, $3, NULL, 1095, 365, $4, 30)"
    adam = house.ground.secrets["adam"]

    async def counted() -> Any:
        return await house.ground.value("admin", days, house.tenant)

    assert await counted() == 90
    assert await house.ground.value("api", put, house.tenant, adam, 0, 10) == "set"
    assert await counted() == 90
    assert await house.ground.value("api", put, house.tenant, adam, 1, 200) == "set"
    assert await counted() == 200
    assert await house.ground.value("api", put, house.tenant, adam, 2, None) == "set"
    assert await counted() is None
    await house.schedule(5, days_ago=8)
    assert await counted() is None, "what was set within the week still counts"
    assert await house.ground.value("api", put, house.tenant, adam, 2, 1) == "stale"
    for who in ("anna", "asker", "machine"):
        assert await house.ground.value("api", put, house.tenant, house.ground.secrets[who], 4, 1) == "not_entitled"
    for nobody in (None, "", "guess"):
        assert await house.ground.value("api", put, house.tenant, nobody, 4, 1) == "unauthenticated"
    assert [json.loads(fact["body"])["restricted_days"] for fact in await house.facts("retention.changed")] == [
        10,
        200,
        None,
    ]


async def test_a_short_time_that_has_stood_a_week_counts(house: House) -> None:
    await house.schedule(5)
    mission = await house.mission()
    await house.end(mission, days_ago=6)
    await house.sweep()
    assert await house.said(mission) == [False]


async def test_a_hold_takes_two_people_to_end(house: House) -> None:
    mission = await house.mission()
    for who in ("anna", "asker", "machine", "robot"):
        assert await house.hold("a", mission=mission, who=who) == "not_entitled"
    assert await house.hold("a", mission=uuid4()) == "no_mission"
    assert await house.hold("a", mission=mission) == "placed"
    assert await house.hold("a", mission=mission) == "unchanged"
    assert await house.hold("a", "tenant") == "taken"
    assert await house.lift("a", "adam") == "own_hold"
    assert await house.lift("a", "anna") == "not_entitled"
    assert await house.lift("b", "adam") == "not_found"
    await house.ground.refused(DENIED, "api", "UPDATE legal_hold SET lifted_at = now()")
    await house.ground.refused(
        "legal_hold_another",
        "owner",
        "UPDATE legal_hold SET lifted_at = now(), lifted_by = placed_by, lift_reason = 'x'",
    )
    for change in ("reason = 'x'", "scope = 'tenant'", "name = 'z'", "placed_by = placed_by"):
        await house.ground.refused("RX001", "owner", f"UPDATE legal_hold SET {change}")
    assert await house.lift("a") == "lifted"
    assert await house.lift("a") == "lifted_before"
    assert await house.hold("a", mission=mission) == "taken", "a name is used once"
    assert [json.loads(fact["body"]) for fact in await house.facts("hold.lifted")] == [
        {"hold": "a", "scope": "mission"}
    ]


async def test_the_chain_still_verifies(house: House, tmp_path: Path) -> None:
    from app import ledger

    mission, source = await furnished(house)
    await house.end(mission, days_ago=91)
    await house.age(source)
    await house.sweep()
    verdict, _ = await ledger.audit(
        ledger.inside_of(house.worker, house.tenant), house.tenant, None, ledger.keyring("")
    )
    assert verdict.verified and verdict.facts >= 2
