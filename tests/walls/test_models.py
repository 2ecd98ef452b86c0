"""The switch of a provider of models: whose it is, and that everybody hears of it; and the sums of what was used."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

from tests.walls.ground import Ground

SWITCH = "SELECT outcome FROM switch_model_provider($1, $2, $3, $4, $5)"
HEARD = "SELECT provider, off_at IS NOT NULL AS off, reason FROM model_switches()"


@contextlib.asynccontextmanager
async def the_operators(ground: Ground) -> AsyncIterator[Ground]:
    """This tenant is the operator's, of which an installation has one, within the block."""
    before = await ground.value("admin", "SELECT max(id::text)::uuid FROM tenant WHERE operator")
    await entrust(ground, ground.tenant)
    try:
        yield ground
    finally:
        await entrust(ground, before)


async def entrust(ground: Ground, tenant: UUID | None) -> None:
    """Makes another tenant the operator's, which no door does."""
    async with ground.within("admin") as admin:
        guards = await admin.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'tenant'::regclass AND NOT tgisinternal AND tgenabled = 'A'"
        )
        await admin.execute("ALTER TABLE tenant DISABLE TRIGGER USER")
        await admin.execute("UPDATE tenant SET operator = false WHERE operator")
        await admin.execute("UPDATE tenant SET operator = true WHERE id = $1", tenant)
        for guard in guards:
            await admin.execute(f"ALTER TABLE tenant ENABLE ALWAYS TRIGGER {guard['tgname']}")


async def switch(ground: Ground, who: str, off: bool | None, provider: str = "east", why: str | None = "a test") -> Any:
    return await ground.value("api", SWITCH, ground.tenant, ground.secrets.get(who, who), provider, off, why)


async def heard(ground: Ground) -> list[Any]:
    return [tuple(row) for row in await ground.run("api", HEARD) if row["provider"] in ("east", "west")]


async def test_only_a_human_admin_of_the_operators_tenant_switches(ground: Ground) -> None:
    async with the_operators(ground) as operators:
        for who, off, why, outcome in (
            ("anna", True, "x", "not_entitled"), ("nobody", True, "x", "unauthenticated"), ("adam", None, "x", "not_entitled"),
            ("adam", True, " \n", "no_reason"), ("adam", True, None, "no_reason"), ("adam", False, "x", "unchanged"),
        ):  # fmt: skip
            assert await switch(operators, who, off, why=why) == outcome, (who, off, why)
        assert await heard(operators) == []
        assert await switch(operators, "adam", True, why=" why ") == "off"
        assert await switch(operators, "adam", True) == "unchanged"
        assert await heard(operators) == [("east", True, "why")]
        assert await switch(operators, "adam", False) == "on"
        assert await heard(operators) == [("east", False, "a test")]
        facts = await operators.run(
            "auditor",
            "SELECT type, actor FROM ledger WHERE type LIKE 'model_provider.%' AND tenant = $1 ORDER BY seq",
            operators.tenant,
        )
        me = f"principal:{operators.ids['adam']}"
        assert [tuple(one) for one in facts] == [
            ("model_provider.switched_off", me),
            ("model_provider.switched_on", me),
        ]


async def test_an_admin_of_any_other_tenant_does_not_and_their_rows_would_not_count(ground: Ground) -> None:
    assert await switch(ground, "adam", True) == "not_entitled"
    await ground.run(
        "admin",
        "INSERT INTO model_switch (tenant, provider, off_at, reason, changed_by) VALUES ($1, 'west', now(), 'x', $2)",
        ground.tenant, ground.ids["adam"],
    )  # fmt: skip
    assert ("west", True, "x") not in await heard(ground)


async def test_two_who_switch_at_once_switch_once(ground: Ground) -> None:
    async with the_operators(ground) as operators:
        first = ("api", SWITCH, (operators.tenant, operators.secrets["adam"], "both", True, "a reason"))
        assert await operators.overtaken(first, switch(operators, "adam", True, "both")) == "unchanged"


async def test_use_is_added_up_by_day_and_provider(ground: Ground) -> None:
    note = "SELECT note_model_use($1, $2, $3, $4, $5, $6)"
    for failed, tokens, cost in ((False, 3, 0.5), (True, 0, 0), (False, 4, 0.25)):
        await ground.run("api", note, ground.tenant, "east", failed, tokens, tokens * 2, cost)
    await ground.run("api", note, ground.tenant, "west", False, 1, 1, 1)
    rows = await ground.run(
        "api", "SELECT provider, calls, failed, tokens_in, tokens_out, cost_usd::float8 FROM model_use WHERE tenant = $1 ORDER BY provider",
        ground.tenant,
    )  # fmt: skip
    assert [tuple(row) for row in rows] == [("east", 3, 1, 7, 14, 0.75), ("west", 1, 0, 1, 1, 1.0)]
    await ground.refused("RX002", "api", note, uuid4(), "east", False, 1, 1, 1)
