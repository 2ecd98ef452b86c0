"""What Postgres keeps of the console: links that become one session of their own person, and looks that are proved."""

from uuid import uuid4

from tests.walls.ground import DENIED, Ground

LINK = """INSERT INTO console_link (tenant, principal, secret_sha256, expires_at)
          VALUES ($1, $2, $3, clock_timestamp() + $4::text::interval) RETURNING id"""
SESSION = """INSERT INTO session (tenant, principal, secret_sha256, origin, expires_at)
             VALUES ($1, $2, $3, $4, clock_timestamp() + interval '1 h') RETURNING id"""
USE = "UPDATE console_link SET session = $3 WHERE tenant = $1 AND id = $2"


async def test_a_link_is_used_once_in_time_for_its_own_person(ground: Ground) -> None:
    anna = ground.ids["anna"]

    async def link(life: str = "4 minutes") -> object:
        return await ground.value("registrar", LINK, ground.tenant, anna, uuid4().bytes * 2, life)

    async def session(who: str = "anna", origin: str = "console") -> object:
        return await ground.value("registrar", SESSION, ground.tenant, ground.ids[who], uuid4().bytes * 2, origin)

    one, own = await link(), await session()
    await ground.refused("RX038", "registrar", USE, ground.tenant, one, await session("adam"))
    await ground.refused("RX038", "registrar", USE, ground.tenant, one, await session(origin="oidc"))
    await ground.run("registrar", USE, ground.tenant, one, own)
    await ground.refused("RX038", "registrar", USE, ground.tenant, one, await session())
    await ground.refused("RX038", "registrar", USE, ground.tenant, await link("-1 second"), own)
    await ground.refused("23514", "registrar", LINK, ground.tenant, anna, uuid4().bytes * 2, "6 minutes")
    await ground.refused(
        DENIED, "registrar", "UPDATE console_link SET principal = $2 WHERE id = $1", one, ground.ids["adam"]
    )
    await ground.refused(
        "RX001",
        "admin",
        "UPDATE console_link SET principal = $2, session = $3 WHERE id = $1",
        await link(),
        ground.ids["adam"],
        own,
    )
    await ground.refused(
        "RX001",
        "admin",
        "UPDATE console_link SET expires_at = 'infinity', session = $2 WHERE id = $1",
        await link(),
        own,
    )


async def test_a_link_is_born_unused_and_short_whatever_is_written_into_it(ground: Ground) -> None:
    anna = ground.ids["anna"]
    [own] = await ground.run("registrar", SESSION, ground.tenant, anna, uuid4().bytes * 2, "console")
    forged = """INSERT INTO console_link (tenant, principal, secret_sha256, created_at, expires_at, used_at, session)
                VALUES ($1, $2, $3, clock_timestamp() + $4::text::interval, clock_timestamp() + $4::text::interval + '4 minutes',
                        'epoch', $5) RETURNING created_at < clock_timestamp(), used_at, session"""
    late = (ground.tenant, anna, uuid4().bytes * 2, "1 day", own["id"])
    await ground.refused("console_link_short", "registrar", forged, *late)
    [born] = await ground.run("registrar", forged, ground.tenant, anna, uuid4().bytes * 2, "0", own["id"])
    assert tuple(born) == (True, None, None)


async def test_nobody_who_is_suspended_comes_in_by_a_link(ground: Ground) -> None:
    of = "SELECT principal FROM link_of($1)"
    for suspended in ("principal", "tenant"):
        secret = uuid4().bytes * 2
        await ground.run("registrar", LINK, ground.tenant, ground.ids["anna"], secret, "4 minutes")
        assert await ground.value("registrar", of, secret) == ground.ids["anna"]
        who = ground.ids["anna"] if suspended == "principal" else ground.tenant
        for since in ("clock_timestamp()", "NULL"):
            await ground.run("registrar", f"UPDATE {suspended} SET suspended_at = {since} WHERE id = $1", who)
            assert len(await ground.run("registrar", of, secret)) == (since == "NULL"), suspended


async def test_a_look_is_of_whoever_presents_a_secret(ground: Ground) -> None:
    asked = await ground.ask()
    look = "SELECT note_look($1, $2, $3)"
    first = await ground.value("api", look, ground.tenant, asked.approval, ground.secrets["anna"])
    assert (
        first is not None
        and await ground.value("api", look, ground.tenant, asked.approval, ground.secrets["anna"]) == first
    )
    assert await ground.value("api", look, ground.tenant, uuid4(), ground.secrets["anna"]) is None
    await ground.refused("RX013", "api", look, ground.tenant, asked.approval, "nobody's secret")
    await ground.refused("RX002", "api", look, uuid4(), asked.approval, ground.secrets["anna"])
    await ground.refused(DENIED, "api", "INSERT INTO approval_look (tenant, approval, principal) VALUES ($1, $2, $3)",
                         ground.tenant, asked.approval, ground.ids["adam"])  # fmt: skip
    facts = await ground.run(
        "admin", "SELECT actor FROM ledger WHERE subject = $1 AND type = 'approval.seen'", asked.mission
    )
    assert [fact["actor"] for fact in facts] == [f"principal:{ground.ids['anna']}"]
    forged = """INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'approval.seen', 'system:api', '{}')"""
    await ground.refused("RX003", "api", forged, ground.tenant, asked.mission)


async def test_names_and_deciders_are_of_the_tenant_that_was_entered(ground: Ground) -> None:
    asked = await ground.ask()
    names = await ground.run("api", "SELECT * FROM names_of($1, $2)", ground.tenant, [ground.ids["anna"], uuid4()])
    assert [row["name"].startswith("anna") for row in names] == [True]
    found = {
        row["id"]: row["standing"]
        for row in await ground.run("api", "SELECT * FROM deciders($1, $2)", ground.tenant, asked.approval)
    }
    assert found[ground.ids["anna"]] == "may"
    await ground.decide(asked, "anna")
    found = {
        row["id"]: row["standing"]
        for row in await ground.run("api", "SELECT * FROM deciders($1, $2)", ground.tenant, asked.approval)
    }
    assert found[ground.ids["anna"]] == "decided"
    for call in ("names_of($1, ARRAY[$2::uuid])", "deciders($1, $2)"):
        await ground.refused("RX002", "api", f"SELECT * FROM {call}", uuid4(), ground.ids["anna"])
