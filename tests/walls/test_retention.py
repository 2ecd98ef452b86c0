"""Bytes that are kept: they do not change under their hash, go only when nobody needs them, and nobody relies on what is gone."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.clock import new_id
from tests.walls.ground import DENIED, Ground
from tests.walls.test_tenants import neighbour_of

KEEP = "SELECT keep_blob($1, $2, $3, $4, NULL, NULL)"
READ = "INSERT INTO reading (tenant, mission, source_sha256, document, kind) VALUES ($1, $2, $3, 'd', 'document')"
READ_ALL = """INSERT INTO reading (tenant, mission, source_sha256, document, kind)
              SELECT $1, $2, source, 'd', 'document' FROM unnest($3::bytea[]) source"""
DOCUMENT = """INSERT INTO document (tenant, id, workspace, path, version, title, kind, content_sha256, source_sha256, bytes, passages,
                reader)
              VALUES ($1, $2, $3, 'd', 1, 'd', 'text', $4, $4, 1, 1, 1)"""
GO = "UPDATE blob SET bytes = NULL, object = NULL, chunks = NULL, removed_at = clock_timestamp() WHERE tenant = $1 AND sha256 = $2"
PLACE = "SELECT place_hold($1, $2, $3, 'tenant', NULL, NULL, NULL, 'a case')"
LIFT = "SELECT lift_hold($1, $2, $3, 'no case')"


async def kept(ground: Ground, data: bytes | None = None) -> bytes:
    """Bytes that the api was given, under their hash."""
    data = data or uuid4().bytes
    digest = hashlib.sha256(data).digest()
    await ground.run("api", KEEP, ground.tenant, digest, len(data), data)
    return digest


async def old(ground: Ground, data: bytes = b"old", removed: bool = False) -> bytes:
    """Bytes that somebody brought forty days ago and nobody has needed since; perhaps they went yesterday."""
    digest = hashlib.sha256(data).digest()
    await ground.run(
        "admin",
        """INSERT INTO blob (tenant, sha256, size, bytes, kept_at, removed_at)
           VALUES ($1, $2, $3, CASE WHEN NOT $5 THEN $4::bytea END, clock_timestamp() - interval '40 days',
                   CASE WHEN $5 THEN clock_timestamp() - interval '1 day' END)""",
        ground.tenant, digest, len(data), data, removed,
    )  # fmt: skip
    return digest


async def workspace(ground: Ground) -> Any:
    id = uuid4()
    await ground.run("api", "INSERT INTO workspace (tenant, id, name) VALUES ($1, $2, 'default')", ground.tenant, id)
    return id


async def test_what_is_kept_under_a_hash_does_not_change(ground: Ground) -> None:
    source, away = await kept(ground), new_id()
    chunk = hashlib.sha256(b"away").digest()
    elsewhere = hashlib.sha256(b"elsewhere").digest()
    await ground.run("api", "SELECT keep_blob($1, $2, 4, NULL, $3, $4)", ground.tenant, elsewhere, away, chunk)
    for digest, changes in (
        (source, ("size = 3", "created_at = 'epoch'", "kept_at = 'epoch'", "sha256 = sha256('other')", "tenant = gen_random_uuid()",
                  f"bytes = NULL, object = '{new_id()}', chunks = sha256('x')")),
        (elsewhere, (f"object = '{new_id()}'", "chunks = sha256('x')", "bytes = 'more', object = NULL, chunks = NULL")),
    ):  # fmt: skip
        for change in changes:
            statement = f"UPDATE blob SET {change} WHERE tenant = $1 AND sha256 = $2"
            await ground.refused("RX001", "owner", statement, ground.tenant, digest)
            for role in ("api", "worker", "executor", "registrar"):
                await ground.refused(DENIED, role, statement, ground.tenant, digest)
    gone = await old(ground, removed=True)
    later = "UPDATE blob SET removed_at = clock_timestamp() WHERE tenant = $1 AND sha256 = $2"
    await ground.refused("RX001", "owner", later, ground.tenant, gone)


async def test_bytes_go_only_when_nobody_needs_them(ground: Ground) -> None:
    await ground.refused("RX021", "owner", GO, ground.tenant, await kept(ground))  # somebody may be about to use them
    shown, ingested = await old(ground, b"shown"), await old(ground, b"ingested")
    await ground.run("api", READ, ground.tenant, await ground.mission(), shown)
    await ground.run("api", DOCUMENT, ground.tenant, uuid4(), await workspace(ground), ingested)
    for needed in (shown, ingested):
        await ground.refused("RX021", "owner", GO, ground.tenant, needed)
    free = await old(ground)
    await ground.value("api", PLACE, ground.tenant, ground.secrets["adam"], "everything")
    await ground.refused("RX021", "owner", GO, ground.tenant, free)
    await second_lifter(ground)
    assert await ground.value("api", LIFT, ground.tenant, ground.secrets["anna"], "everything") == "lifted"
    assert await ground.run("owner", GO + " RETURNING 1", ground.tenant, free) != []


async def second_lifter(ground: Ground) -> None:
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'policy_owner')",
                     ground.tenant, ground.ids["anna"])  # fmt: skip


async def test_nobody_relies_on_bytes_that_are_gone(ground: Ground) -> None:
    mission, home = await ground.mission(), await workspace(ground)
    gone, there = await old(ground, removed=True), await kept(ground)
    for role in ("api", "worker"):
        await ground.refused("RX022", role, READ, ground.tenant, mission, gone)
    await ground.refused("RX022", "api", DOCUMENT, ground.tenant, uuid4(), home, gone)
    # nor where one of many is gone
    await ground.refused("RX022", "api", READ_ALL, ground.tenant, mission, [there, gone])
    assert await kept(ground, b"old") == gone  # brought again, they are as they were
    await ground.run("api", READ, ground.tenant, mission, gone)
    await ground.run("api", DOCUMENT, ground.tenant, uuid4(), home, gone)


async def test_what_is_brought_once_more_stays_where_it_was_and_what_was_removed_is_back(ground: Ground) -> None:
    keep, place = (
        "SELECT keep_blob($1, $2, 4, $3, $4, $5)",
        "SELECT bytes, object, chunks, removed_at, look_at FROM blob WHERE sha256 = $1",
    )
    data = uuid4().bytes[:4]
    digest, here, away = (
        hashlib.sha256(data).digest(),
        (data, None, None),
        (None, new_id(), hashlib.sha256(data).digest()),
    )
    for first, again in ((here, away), (away, here)):
        async with neighbour_of(ground) as other:
            await other.run("api", keep, other.tenant, digest, *first)
            [before] = await other.run("api", place, digest)
            await other.run("api", keep, other.tenant, digest, *again)
            assert await other.run("api", place, digest) == [before]
            await other.run("admin", "ALTER TABLE blob DISABLE TRIGGER blob_guard")
            await other.run("owner", GO, other.tenant, digest)
            await other.run("admin", "ALTER TABLE blob ENABLE ALWAYS TRIGGER blob_guard")
            await other.run("api", keep, other.tenant, digest, *again)
            [after] = await other.run("api", place, digest)
            assert tuple(after)[:4] == (*again, None) and after["look_at"] > before["look_at"]


async def test_a_hold_is_lifted_once_by_another_person_and_stays_as_it_was(ground: Ground) -> None:
    adam, anna = ground.secrets["adam"], ground.secrets["anna"]
    assert await ground.value("api", PLACE, ground.tenant, adam, "case") == "placed"
    lifted = "lifted_by = '{}', lifted_at = clock_timestamp(), lift_reason = 'x'".format(ground.ids["anna"])
    of_it = "UPDATE legal_hold SET {} WHERE tenant = $1 AND name = 'case'"
    for change in ("reason = 'none'", "name = 'other'", "placed_by = gen_random_uuid()", "placed_at = 'epoch'",
                   "scope = 'label', label_name = 'a', label_value = 'b'", f"scope = 'mission', {lifted}"):  # fmt: skip
        await ground.refused("RX001", "owner", of_it.format(change), ground.tenant)
    for role in ("api", "worker", "executor", "registrar"):
        await ground.refused(DENIED, role, of_it.format(lifted), ground.tenant)
    assert await ground.value("api", LIFT, ground.tenant, anna, "case") == "not_entitled"
    await second_lifter(ground)
    assert await ground.value("api", LIFT, ground.tenant, adam, "case") == "own_hold"
    assert await ground.value("api", LIFT, ground.tenant, anna, "case") == "lifted"
    assert await ground.value("api", LIFT, ground.tenant, anna, "case") == "lifted_before"
    for change in (lifted, "lifted_by = NULL, lifted_at = NULL, lift_reason = NULL", "lift_reason = 'another'"):
        await ground.refused("RX001", "owner", of_it.format(change), ground.tenant)


async def test_what_was_said_of_a_mission_goes_only_when_its_time_is_over(ground: Ground) -> None:
    """By whatever way: hash and size stay, and only the wall's clock says when the mission was closed."""
    mission = await ground.mission(sensitivity_class="restricted")
    proposal = await ground.proposal(mission)
    await ground.run("api", "INSERT INTO quarantine (tenant, mission, origin, problem, bytes) VALUES ($1, $2, 'callback', 'x', 'x')",
                     ground.tenant, mission)  # fmt: skip
    await ground.run("api", """INSERT INTO tape (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome,
                       answer, answer_sha256, took_ms)
                     VALUES ($1, $2, 1, 'tool', 't', 1, '{}', sha256('{}'), 'answered', '[]', sha256('[]'), 1)""",
                     ground.tenant, mission)  # fmt: skip
    await ground.run("admin", """INSERT INTO shadow_writeback (tenant, mission, proposal, payload, payload_sha256, policy_decision, effect)
                     VALUES ($1, $2, $3, '{}', sha256('{}'), $3, 'allow')""", ground.tenant, mission, proposal)  # fmt: skip
    gone = "bytes = NULL, removed_sha256 = {}, removed_size = octet_length(bytes), removed_at = clock_timestamp()"
    goes = {
        "artifact": gone.format("sha256"), "quarantine": gone.format("sha256"),
        "tape": "arguments = NULL, answer = NULL, removed_at = clock_timestamp()",
        "shadow_writeback": "payload = NULL, removed_at = clock_timestamp()",
        "mission": "bytes_removed_at = clock_timestamp()",
    }  # fmt: skip

    async def refused(why: str, changes: dict[str, str]) -> None:
        for table, change in changes.items():
            statement = f"UPDATE {table} SET {change} WHERE {'id' if table == 'mission' else 'mission'} = $1"
            await ground.refused(why, "owner", statement, mission)
            for role in ("api", "worker", "executor", "registrar"):
                await ground.refused(DENIED, role, statement, mission)

    await refused("RX021", goes)  # it is open
    await ground.run("api", "UPDATE mission SET state = 'completed', closed_at = 'epoch' WHERE id = $1", mission)
    await ground.run("owner", "UPDATE mission SET closed_at = 'epoch' WHERE id = $1", mission)
    await refused("RX021", goes)  # it has just ended, whatever was written of it
    other = gone.format("sha256('other')")
    async with ground.within("admin") as admin:  # days pass, which no role of the product can do
        await admin.execute("ALTER TABLE mission DISABLE TRIGGER mission_guard")
        await admin.execute("UPDATE mission SET closed_at = closed_at - interval '91 days' WHERE id = $1", mission)
        await admin.execute("ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_guard")
    await refused("RX001", {"artifact": other, "quarantine": other, "tape": goes["tape"] + ", took_ms = 2"})
    for table, change in goes.items():
        statement = f"UPDATE {table} SET {change} WHERE {'id' if table == 'mission' else 'mission'} = $1 RETURNING 1"
        assert len(await ground.run("owner", statement, mission)) == 1, table


async def test_a_recording_goes_only_when_its_time_is_over(ground: Ground) -> None:
    new, over = uuid4(), uuid4()
    insert = """INSERT INTO recording (tenant, id, mission, attempt, mission_type, environment, signed_by, sensitivity_class,
                  file_sha256, file, size, imported_by, imported_at)
                SELECT $1, $2::uuid, $2, 1, 't', 'local', 'k', 'restricted', sha256(f), f, octet_length(f), $3,
                  clock_timestamp() - $4::text::interval
                FROM convert_to($2::uuid::text, 'UTF8') f"""
    goes = "UPDATE recording SET file = NULL, removed_at = clock_timestamp() WHERE id = $1 RETURNING 1"
    await ground.run("owner", insert, ground.tenant, new, ground.ids["adam"], "89 days")
    await ground.run("owner", insert, ground.tenant, over, ground.ids["adam"], "91 days")
    await ground.refused("RX021", "owner", goes, new)
    await ground.refused(DENIED, "api", insert, ground.tenant, uuid4(), ground.ids["adam"], "91 days")
    assert len(await ground.run("owner", goes, over)) == 1
    await ground.refused("RX001", "owner", goes, over)  # once


async def test_who_places_a_hold_and_on_what(ground: Ground) -> None:
    mission = await ground.mission()

    async def place(
        who: str | None, name: str = "case", scope: str = "mission", on: Any = mission, reason: str = "a case"
    ) -> str:
        secret = ground.secrets.get(who, who) if who else None
        call = "SELECT place_hold($1, $2, $3, $4, $5, NULL, NULL, $6)"
        return str(await ground.value("api", call, ground.tenant, secret, name, scope, on, reason))

    for who, said in ((None, "unauthenticated"), ("x", "unauthenticated"), ("anna", "not_entitled"), ("asker", "not_entitled"),
                      ("machine", "not_entitled")):  # fmt: skip
        assert await place(who) == said, who
    assert await place("adam", on=uuid4()) == "no_mission"
    assert [await place("adam"), await place("adam")] == ["placed", "unchanged"]
    assert await place("adam", reason="another") == await place("adam", scope="tenant", on=None) == "taken"
    facts = await ground.run("admin", "SELECT actor FROM ledger WHERE subject = $1 AND type = 'hold.placed'", mission)
    assert [row["actor"] for row in facts] == [f"principal:{ground.ids['adam']}"]
    await second_lifter(ground)
    for who, name, outcome in ((None, "case", "unauthenticated"), ("ben", "case", "not_entitled"), ("anna", "other", "not_found"),
                               ("adam", "case", "own_hold"), ("anna", "case", "lifted"), ("anna", "case", "lifted_before")):  # fmt: skip
        secret = ground.secrets[who] if who else None
        assert await ground.value("api", LIFT, ground.tenant, secret, name) == outcome, who
    assert await place("adam") == "taken"  # a name is used once
    await ground.refused("RX002", "api", PLACE, uuid4(), ground.secrets["adam"], "b")
    await ground.refused("RX002", "api", LIFT, uuid4(), ground.secrets["anna"], "case")


async def test_who_sets_how_long_bytes_are_kept(ground: Ground) -> None:
    put = "SELECT outcome FROM put_retention($1, $2, $3, NULL, 30, 20, 10, 5)"
    for who, seen, outcome in ((None, 0, "unauthenticated"), ("anna", 0, "not_entitled"), ("asker", 0, "not_entitled"),
                               ("adam", 1, "stale"), ("adam", 0, "set"), ("adam", 0, "stale"), ("adam", None, "stale"),
                               ("adam", 1, "set")):  # fmt: skip
        secret = ground.secrets[who] if who else None
        assert await ground.value("api", put, ground.tenant, secret, seen) == outcome, (who, seen)
    await ground.refused("RX002", "api", put, uuid4(), ground.secrets["adam"], 2)
    async with ground.within("api", isolation="repeatable_read") as api:
        with pytest.raises(asyncpg.PostgresError, match="only at isolation level read committed"):
            await api.fetch(put, ground.tenant, ground.secrets["adam"], 2)


async def test_an_object_is_named_within_an_hour_of_its_own_tenant(ground: Ground) -> None:
    keep = "SELECT keep_blob($1, $2, 4, NULL, $3, $2)"
    digest = hashlib.sha256(b"away").digest()
    then = int((datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1000)
    old_one = UUID(int=(then << 80) | (7 << 76) | (2 << 62) | 1)
    for object in (uuid4(), old_one, UUID(int=old_one.int + (4 * 3_600_000 << 80))):
        await ground.refused("RX022", "api", keep, ground.tenant, digest, object)
    await ground.refused("RX002", "api", keep, uuid4(), digest, new_id())
    await ground.run("api", keep, ground.tenant, digest, new_id())
