"""What a fact may be, who may state which, and that nobody says where or when it stands."""

from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Ground

WRITE = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, $3, $4, $5)"
WALLS = (
    "approval.decided", "approval.closed", "approval.reminded", "approval.escalated", "approval.glass_broken",
    "approval.superseded", "writeback.claimed", "writeback.settled", "writeback.attempted", "budget.limits_changed", "budget.presumed",
    "rule.changed", "risk.floor_changed", "policy.changed", "connector.changed", "approver_key.confirmed",
    "model_provider.switched_on",
)  # fmt: skip
SPEAKERS = {  # who may be named as the actor of a fact, and who not
    "api": (("principal:x", "colony:k1", "system:api"), ("system:worker", "system:executor", "system:registrar")),
    "worker": (("system:worker", "system:anchors"), ("principal:x", "colony:k1", "system:executor", "system:registrar", "system:api")),
    "registrar": (("principal:x", "system:registrar"), ("colony:k1", "system:worker", "system:executor", "system:api")),
    "admin": (("system:x",), ("principal:x", "colony:k1")),
}  # fmt: skip
REGISTRARS = ("tenant.created", "principal.created", "role.granted", "role.revoked", "key.issued", "key.revoked")


async def test_only_the_wall_says_what_was_decided_and_done(ground: Ground) -> None:
    for role in ("api", "worker", "registrar", "admin"):
        for type in WALLS:
            for actor in (f"principal:{ground.ids['anna']}", "system:executor"):
                await ground.refused("RX003", role, WRITE, ground.tenant, uuid4(), type, actor, b"{}")
    asked = await ground.approved()
    await ground.claim(asked)
    await ground.settle(asked, 1, "unknown")
    await ground.settle(asked, 1, "executing")
    await ground.settle(asked, 1, "failed")
    other = await ground.ask()
    await ground.close(other)
    facts = await ground.run(
        "auditor", "SELECT type, actor FROM ledger WHERE subject = ANY ($1) ORDER BY at", [asked.mission, other.mission]
    )
    assert [tuple(fact) for fact in facts] == [
        ("approval.decided", f"principal:{ground.ids['cora']}"), ("writeback.claimed", "system:executor"),
        ("writeback.settled", "system:executor"), ("writeback.attempted", "system:executor"),
        ("writeback.settled", "system:executor"), ("approval.closed", f"principal:{ground.ids['cora']}"),
    ]  # fmt: skip


async def test_only_the_registrar_says_who_may_act(ground: Ground) -> None:
    for type in REGISTRARS:
        for role in ("api", "worker", "admin"):
            await ground.refused("RX003", role, WRITE, ground.tenant, ground.tenant, type, "system:registrar", b"{}")
        await ground.run("registrar", WRITE, ground.tenant, ground.tenant, type, "system:registrar", b"{}")


async def test_each_login_speaks_only_for_whom_it_may(ground: Ground) -> None:
    for role, (may, may_not) in SPEAKERS.items():
        for actor in may:
            await ground.run(role, WRITE, ground.tenant, uuid4(), "test.said", actor, b"{}")
        for actor in may_not:
            said = await ground.refused("RX003", role, WRITE, ground.tenant, uuid4(), "test.said", actor, b"{}")
            assert actor in said


async def test_only_the_worker_says_that_the_ledger_was_anchored(ground: Ground) -> None:
    fact = ground.tenant, ground.tenant, "ledger.anchored"
    for role, actor in (("api", "system:api"), ("registrar", "system:registrar"), ("admin", "system:worker")):
        await ground.refused("RX003", role, WRITE, *fact, actor, b"{}")
    await ground.run("worker", WRITE, *fact, "system:worker", b"{}")


async def test_only_the_worker_says_how_a_drill_ended_and_what_was_stuck(ground: Ground) -> None:
    for type in ("drill.passed", "drill.failed", "mission.repaired", "mission.stuck"):
        for role in ("api", "registrar"):
            await ground.refused("RX003", role, WRITE, ground.tenant, ground.tenant, type, f"system:{role}", b"{}")
        await ground.run("worker", WRITE, ground.tenant, ground.tenant, type, "system:worker", b"{}")


async def test_a_fact_is_found_by_the_request_in_which_it_was_stated(ground: Ground) -> None:
    """By that of its transaction, whatever states it. Where one transaction is many requests: see tests/walls/test_intake.py."""
    entered, mission, other = uuid4(), await ground.mission(), uuid4()
    async with ground.within("api") as api:
        await api.execute("SELECT set_config('app.request', $1, true)", str(entered))
        await api.execute(WRITE, ground.tenant, mission, "test.said", "system:api", b"{}")
    await ground.run("api", WRITE, ground.tenant, other, "test.said", "system:api", b"{}")
    by = "SELECT request FROM ledger WHERE subject = ANY ($1) AND type = 'test.said' ORDER BY id"
    assert [row[0] for row in await ground.run("admin", by, [mission, other])] == [entered, None]


async def test_nobody_says_where_or_when_a_fact_stands(ground: Ground) -> None:
    for column, value in (
        ("xid", "'1'"), ("id", "1"), ("seq", "1"), ("at", "now()"), ("prev", "''"), ("hash", "sha256('')"),
    ):  # fmt: skip
        for role in ("api", "worker", "registrar"):
            await ground.refused(
                DENIED, role, f"INSERT INTO ledger (tenant, {column}) VALUES ($1, {value})", ground.tenant
            )
    subject = uuid4()
    await ground.run(
        "admin",
        """INSERT INTO ledger (tenant, subject, type, actor, body, xid, id, seq, at, prev, hash)
           VALUES ($1, $2, 'test.said', 'system:x', '{}', '1', -1, 99, 'epoch', 'x', sha256('x'))""",
        ground.tenant, subject,
    )  # fmt: skip
    [fact] = await ground.run(
        "admin", "SELECT *, now() - at AS age, xid > '1' AS positioned FROM ledger WHERE subject = $1", subject
    )
    assert (fact["seq"], fact["prev"], fact["positioned"]) == (1, b"", True)
    assert fact["id"] > 0 and abs(fact["age"].total_seconds()) < 60


async def test_a_fact_is_a_small_json_object_of_a_plain_type_by_a_named_actor(ground: Ground) -> None:
    def fact(type: str = "test.said", actor: str = "system:api", body: bytes = b"{}") -> tuple[object, ...]:
        return ground.tenant, uuid4(), type, actor, body

    for body in (b"[]", b"1", b'"text"', b"", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"{}{}"):
        await ground.refused("RX005", "api", WRITE, *fact(body=body))
    for body in (b"\xff\xfe", b"\x00"):
        with pytest.raises(asyncpg.PostgresError):
            await ground.run("api", WRITE, *fact(body=body))
    largest = b'{"a":"' + b"x" * 8184 + b'"}'
    assert len(largest) == 8192
    await ground.run("api", WRITE, *fact(body=largest))
    await ground.refused("ledger_body_check", "api", WRITE, *fact(body=largest.replace(b"xx", b"xxx", 1)))
    for type in ("said", "Test.said", "test.", ".said", "test said", "test.said\n", "t." + "x" * 79):
        await ground.refused("ledger_type_check", "api", WRITE, *fact(type=type))
    for actor in ("principal:", "principal:a b", "principal:" + "x" * 81, "principal:x\n"):
        await ground.refused("ledger_actor_check", "api", WRITE, *fact(actor=actor))
    for actor in ("anna", "human:x"):
        await ground.refused("RX003", "api", WRITE, *fact(actor=actor))


# What a session may set for itself, and thereby read a function's words another way.
BENT = (
    "standard_conforming_strings = off", "timezone = 'Asia/Kathmandu'", "datestyle = 'German'", "bytea_output = escape",
    "search_path = pg_temp", "intervalstyle = iso_8601", "extra_float_digits = 0", "client_encoding = latin1",
    "check_function_bodies = off", "quote_all_identifiers = on", "array_nulls = off", "transform_null_equals = on",
)  # fmt: skip

POISONS = {
    "nested deeper than a reader goes": '{"a":' + "[" * 4000 + "]" * 4000 + "}",
    "a whole number of 5,000 digits": '{"n":' + "1" * 5000 + "}",
    "a number that is infinite to many": '{"n":1e999}',
    "one that is so the other way": '{"n":-1e999}',
    "the first number that is two at once": '{"n":9007199254740992}',
    "the same below nothing": '{"n" : -9007199254740992}',
    "one after another": '{"n":[1,\t9007199254740993]}',
    "one with a fraction": '{"n":90071992547409920.5}',
    "an exponent in capitals": '{"n":\n1.5E300}',
    "an exponent in a list": '{"a":"x","n":[[0],\r{"b":1e16}]}',
    "objects nine deep": '{"a":' * 9 + "1" + "}" * 9,
    "half of a character": '{"a":"\\ud800"}',
    "a name that is half of a character": '{"\\udc00":1}',
    "a zero character": '{"a":"\\u0000"}',
}


async def test_no_body_stops_the_readers_of_the_ledger(ground: Ground) -> None:
    """Each is a JSON object to Postgres, and a crash to who parses or answers it."""
    for body in POISONS.values():
        for role, actor in (("api", "system:api"), ("worker", "system:worker")):
            await ground.refused("RX005", role, WRITE, ground.tenant, uuid4(), "test.said", actor, body.encode())
    ground.held["api"] = await ground.connect("api")  # a session compiles a function once, as it reads it then
    for setting in BENT:
        await ground.held["api"].execute(f"SET {setting}")
    for body in POISONS.values():
        spaced = body.replace(":", ": ").replace("[", "[ ").encode()
        write = WRITE.replace("ledger", "public.ledger")
        await ground.refused("RX005", "api", write, ground.tenant, uuid4(), "test.said", "system:api", spaced)
    fits = b'{"a":{"b":[{"c":[1,-2.5,true,null,9007199254740991]}]},"d":"\\u00e9 1e999"}'
    await ground.run("worker", WRITE, ground.tenant, uuid4(), "test.said", "system:worker", fits)


async def test_the_apis_url_cannot_put_anchors_off(ground: Ground) -> None:
    await ground.value("worker", "SELECT restore_anchor_work()")
    later = "UPDATE work SET {} WHERE tenant = $1 AND kind = 'anchor' RETURNING 1"
    assert await ground.run("api", later.format("next_at = 'infinity'"), ground.tenant) == []
    assert (
        await ground.run("api", "DELETE FROM work WHERE tenant = $1 AND kind = 'anchor' RETURNING 1", ground.tenant)
        == []
    )
    row = "INSERT INTO work (tenant, kind, subject, queue, next_at) VALUES ($1, $2, $1, 'worker', 'infinity')"
    await ground.run("api", row, ground.tenant, "progress")
    turned = "UPDATE work SET kind = 'anchor', subject = gen_random_uuid() WHERE tenant = $1 AND kind = 'progress'"
    await ground.refused(DENIED, "api", turned, ground.tenant)
    admin = await ground.of("admin")
    await admin.execute("DELETE FROM work WHERE tenant = $1 AND kind = 'anchor'", ground.tenant)
    await ground.refused(DENIED, "api", row, ground.tenant, "anchor")
    await ground.run("worker", row, ground.tenant, "anchor")
    assert len(await ground.run("worker", later.format("next_at = now()"), ground.tenant)) == 1


async def test_only_the_worker_puts_anchor_work_back(ground: Ground) -> None:
    for role in ("api", "registrar", "reader", "executor", "auditor"):
        await ground.refused(DENIED, role, "SELECT restore_anchor_work()")
    admin = await ground.of("admin")
    await ground.value("worker", "SELECT restore_anchor_work()")
    await admin.execute("UPDATE work SET attempts = 5 WHERE tenant = $1 AND kind = 'anchor'", ground.tenant)
    assert await ground.value("worker", "SELECT restore_anchor_work()") == 0  # a row that is there stays as it is
    kept = "SELECT attempts FROM work WHERE tenant = $1 AND kind = 'anchor'"
    assert await admin.fetchval(kept, ground.tenant) == 5
    await admin.execute("DELETE FROM work WHERE tenant = $1 AND kind = 'anchor'", ground.tenant)
    assert await ground.value("worker", "SELECT restore_anchor_work()") >= 1
    assert await admin.fetchval(kept, ground.tenant) == 0
