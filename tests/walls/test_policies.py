"""put_policy: rules change by a policy owner who is proved, one version after the other, and everybody can tell."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg

from tests.walls.ground import DENIED, Ground

PUT = "SELECT * FROM put_policy($1, $2, $3, $4, $5)"


async def put(
    ground: Ground, who: str = "adam", name: str = "own", text: bytes | None = b"x", expected: int = 0
) -> tuple[str, int, int]:
    secret = ground.secrets.get(who, who)
    [row] = await ground.run("api", PUT, ground.tenant, secret, name, text, expected)
    return row["outcome"], row["version"], row["change"]


async def changes(ground: Ground) -> list[dict[str, Any]]:
    rows = await ground.run(
        "admin", "SELECT actor, convert_from(body, 'UTF8') AS body FROM ledger WHERE subject = $1 AND type = 'policy.changed' ORDER BY seq",
        ground.tenant,
    )  # fmt: skip
    return [{"actor": row["actor"], **json.loads(row["body"])} for row in rows]


async def test_each_change_is_a_version_and_a_fact(ground: Ground) -> None:
    assert await put(ground) == ("added", 1, 1)
    assert await put(ground, name="other") == ("added", 1, 2)
    assert await put(ground, expected=7) == ("unchanged", 1, 2)  # the same text is no change, whatever was seen
    assert await put(ground, text=b"y", expected=1) == ("changed", 2, 3)
    assert await put(ground, text=None, expected=2) == ("retired", 3, 4)
    assert await put(ground, text=None, expected=0) == ("unchanged", 3, 4)
    assert await put(ground, text=b"z", expected=3) == ("changed", 4, 5)
    said = await changes(ground)
    assert {one["actor"] for one in said} == {f"principal:{ground.ids['adam']}"}
    assert [(one["policy"], one["version"], one["change"], one["retired"]) for one in said] == [
        ("own", 1, 1, False), ("other", 1, 2, False), ("own", 2, 3, False), ("own", 3, 4, True), ("own", 4, 5, False),
    ]  # fmt: skip


async def test_nobody_else_changes_rules(ground: Ground) -> None:
    await put(ground)
    for who, outcome in (
        ("nobody's secret", "unauthenticated"), ("", "unauthenticated"), ("anna", "not_entitled"), ("asker", "not_entitled"),
    ):  # fmt: skip
        assert (await put(ground, who, text=b"y", expected=1))[0] == outcome
    await ground.run(
        "registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'policy_owner')",
        ground.tenant, ground.ids["robot"],
    )  # fmt: skip
    assert (await put(ground, "robot", text=b"y", expected=1))[0] == "not_entitled"  # a machine owns no rules
    await ground.run(
        "registrar", "UPDATE role_grant SET revoked_at = now() WHERE principal = $1 AND role = 'policy_owner'", ground.ids["adam"]
    )  # fmt: skip
    assert (await put(ground, text=b"y", expected=1))[0] == "not_entitled"
    assert len(await changes(ground)) == 1
    for role in ("worker", "executor", "reader", "auditor", "registrar"):
        await ground.refused(DENIED, role, PUT, ground.tenant, ground.secrets["adam"], "own", b"y", 1)


async def test_what_was_not_seen_is_not_changed(ground: Ground) -> None:
    assert (await put(ground, text=None))[0] == "not_found"
    assert (await put(ground, expected=3))[0] == "stale"
    await put(ground)
    for expected in (0, 2):
        assert await put(ground, text=b"y", expected=expected) == ("stale", 1, 1)
        assert await put(ground, text=None, expected=expected) == ("stale", 1, 1)


async def test_a_tenant_has_a_bounded_number_of_policies(ground: Ground) -> None:
    for number in range(50):
        assert (await put(ground, name=f"own_{number}"))[0] == "added"
    assert (await put(ground, name="one_more"))[0] == "too_many"
    assert (await put(ground, name="own_7", text=b"y", expected=1))[0] == "changed"
    assert (await put(ground, name="own_7", text=None, expected=2))[0] == "retired"
    assert (await put(ground, name="one_more"))[0] == "added"


async def test_a_tenants_policies_are_bounded_together(ground: Ground) -> None:
    for number in range(4):
        assert (await put(ground, name=f"own_{number}", text=b"x" * 65_536))[0] == "added"
    assert (await put(ground, name="own_4"))[0] == "too_many"
    assert (await put(ground, name="own_3", text=b"y" * 65_536, expected=1))[0] == "changed"


async def test_the_tenant_is_the_one_that_was_entered_and_the_present_is_judged(ground: Ground) -> None:
    args = (ground.tenant, ground.secrets["adam"], "own", b"x", 0)
    await ground.refused("RX002", "api", PUT, *args, tenant=uuid4())
    async with ground.within("api", isolation="repeatable_read") as connection:
        try:
            await connection.fetch(PUT, *args)
        except asyncpg.PostgresError as error:
            refused = error.sqlstate
        else:
            refused = None
    assert refused == "RX012"
    assert await changes(ground) == []


async def test_two_who_change_at_once_do_so_one_after_the_other(ground: Ground) -> None:
    first, second = await ground.connect("api"), await ground.connect("api")
    outcomes = []
    async with ground.within("api", connection=first) as one:
        row = await one.fetchrow(PUT, ground.tenant, ground.secrets["adam"], "own", b"x", 0)
        outcomes.append(row["outcome"])

        async def other() -> None:
            async with ground.within("api", connection=second) as two:
                row = await two.fetchrow(PUT, ground.tenant, ground.secrets["adam"], "own", b"y", 0)
                outcomes.append(row["outcome"])

        waiting = asyncio.create_task(other())
        admin = await ground.of("admin")
        while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"):
            assert not waiting.done()
            await asyncio.sleep(0.01)
    await waiting
    assert outcomes == ["added", "stale"]


async def test_the_rules_of_a_decision_cannot_be_told_otherwise(ground: Ground) -> None:
    """A set is found by the hash of its manifest, and the manifest holds the hash of the shipped text."""
    text = "INSERT INTO policy_set (tenant, manifest, baseline) VALUES ($1, $2, $3)"
    await ground.refused("policy_set_baseline", "api", text, ground.tenant, b'{"baseline": "00"}', b"rules")
    await ground.refused("policy_set_baseline", "api", text, ground.tenant, b"{}", b"rules")
    await ground.refused(
        DENIED, "api", "INSERT INTO policy_set (tenant, id, manifest, baseline) VALUES ($1, $1, '', '')", ground.tenant
    )
