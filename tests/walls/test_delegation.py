"""Roles that are passed on, who somebody is at the identity provider, and which tenant is the operator's."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.clock import now
from tests.walls.ground import Ground
from tests.walls.test_interventions import revise

PASS = """INSERT INTO role_grant (tenant, id, principal, role, granted_by, delegated_from, starts_at, expires_at)
          VALUES ($1, $2, $3, $4, $5, $6, COALESCE($7, clock_timestamp()), $8)"""


REVOKE = "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = $1 AND id = $2"


async def grant_of(ground: Ground, who: str, role: str) -> UUID:
    found: UUID = await ground.value(
        "admin", "SELECT id FROM role_grant WHERE tenant = $1 AND principal = $2 AND role = $3 AND delegated_from IS NULL",
        ground.tenant, ground.ids[who], role,
    )  # fmt: skip
    return found


async def passed(ground: Ground, source: UUID, by: str, to: str, role: str = "operator", **more: Any) -> UUID:
    grant = uuid4()
    ends = more.get("ends", now() + timedelta(hours=1))
    by_id = ground.ids[more.get("says", by)]
    await ground.run(
        "registrar", PASS, ground.tenant, grant, ground.ids[to], role, by_id, source, more.get("starts"), ends
    )
    return grant


async def newcomer(ground: Ground, name: str = "nina", kind: str = "human") -> None:
    """Somebody with a key and no role."""
    import hashlib

    ground.ids[name], ground.secrets[name] = uuid4(), f"secret-of-{name}-{uuid4()}"
    await ground.run(
        "registrar", "INSERT INTO principal (tenant, id, kind, name) VALUES ($1, $2, $3, $4)",
        ground.tenant, ground.ids[name], kind, name,
    )  # fmt: skip
    await ground.run(
        "registrar", "INSERT INTO api_key (tenant, principal, prefix, secret_sha256) VALUES ($1, $2, 'mr_prefix', $3)",
        ground.tenant, ground.ids[name], hashlib.sha256(ground.secrets[name].encode()).digest(),
    )  # fmt: skip


async def roles(ground: Ground, who: str) -> list[str]:
    found: list[str] = await ground.value(
        "api", "SELECT roles FROM authenticate(sha256(convert_to($1, 'UTF8')))", ground.secrets[who]
    )
    return found


async def may(ground: Ground, who: str, role: str = "operator") -> bool:
    found: bool = await ground.value("admin", "SELECT entitled($1, $2, $3)", ground.tenant, ground.ids[who], role)
    return found


async def counts(ground: Ground, who: str, role: str = "operator") -> bool:
    """Whether the role counts; whoever authenticates and whoever judges a vote must say the same."""
    held, entitled = role in await roles(ground, who), await may(ground, who, role)
    assert held is entitled
    return held


async def test_what_was_passed_on_counts_and_decides(ground: Ground) -> None:
    await newcomer(ground)
    assert not await counts(ground, "nina")
    await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina")
    assert await counts(ground, "nina")
    asked = await ground.ask()
    assert await ground.decide(asked, "nina") == "approved"


@pytest.mark.parametrize("end", ["source revoked", "delegator suspended", "itself revoked"])
async def test_it_ends_with_what_it_was_passed_on_from(ground: Ground, end: str) -> None:
    await newcomer(ground)
    source = await grant_of(ground, "anna", "operator")
    grant = await passed(ground, source, "anna", "nina")
    assert await counts(ground, "nina")
    revoke = "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = $1 AND id = $2"
    if end == "delegator suspended":
        statement = "UPDATE principal SET suspended_at = clock_timestamp() WHERE tenant = $1 AND id = $2"
        await ground.run("registrar", statement, ground.tenant, ground.ids["anna"])
    else:
        await ground.run("registrar", revoke, ground.tenant, source if end == "source revoked" else grant)
    assert not await counts(ground, "nina")


TAKE_THE_SOURCE_AWAY = {
    "grant": "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE principal = $1",
    "delegator": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
}


@pytest.mark.parametrize("what", TAKE_THE_SOURCE_AWAY)
async def test_its_source_is_not_taken_away_under_a_decision(ground: Ground, what: str) -> None:
    await newcomer(ground)
    await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina")
    asked, second = await ground.ask("two"), await ground.ask("two")
    take = TAKE_THE_SOURCE_AWAY[what]
    async with ground.within("api") as api:
        decided = "SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')"
        secret = ground.secrets["nina"]
        assert await api.fetchval(decided, ground.tenant, asked.approval, secret, asked.sha256) == "recorded"
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with ground.within("registrar") as registrar:
                await registrar.execute("SET LOCAL lock_timeout = '50ms'")
                await registrar.execute(take, ground.ids["anna"])
    first = ("registrar", take, (ground.ids["anna"],))
    assert await ground.overtaken(first, ground.decide(second, "nina")) == "not_entitled"


@pytest.mark.parametrize("what", TAKE_THE_SOURCE_AWAY)
async def test_a_role_is_not_passed_on_while_it_is_taken_away(ground: Ground, what: str) -> None:
    await newcomer(ground)
    first = ("registrar", TAKE_THE_SOURCE_AWAY[what], (ground.ids["anna"],))
    with pytest.raises(asyncpg.PostgresError) as refused:
        await ground.overtaken(first, passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina"))
    assert refused.value.sqlstate == "RX020"


async def test_a_vote_that_rested_on_it_is_gone_with_it(ground: Ground) -> None:
    await newcomer(ground)
    source = await grant_of(ground, "anna", "operator")
    await passed(ground, source, "anna", "nina")
    asked = await ground.ask(connector="two")
    assert await ground.decide(asked, "nina") == "recorded"
    await ground.run(
        "registrar",
        "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = $1 AND id = $2",
        ground.tenant,
        source,
    )
    assert await ground.decide(asked, "ben") == "recorded"
    assert await ground.decide(asked, "cora") == "approved"


async def test_it_does_not_count_before_it_begins_nor_after_it_ended(ground: Ground) -> None:
    await newcomer(ground)
    source = await grant_of(ground, "anna", "operator")
    await passed(ground, source, "anna", "nina", starts=now() + timedelta(minutes=30))
    assert not await counts(ground, "nina")
    await newcomer(ground, "omar")
    await passed(ground, source, "anna", "omar", ends=now() + timedelta(seconds=1))
    assert await counts(ground, "omar")
    await ground.run("admin", "SELECT pg_sleep(1.1)")
    assert not await counts(ground, "omar")


async def test_nobody_appoints_their_own_approver(ground: Ground) -> None:
    """Whoever asked for it, or answers for who did, may pass their role on; but not for this."""
    await newcomer(ground)
    await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina")
    for requested_by in ("agent", "subagent"):  # anna answers for both
        mission = await ground.mission(requested_by)
        asked = await ground.ask(mission=mission, requested_by=ground.ids[requested_by])
        assert await ground.decide(asked, "nina") == "own_request"
        assert await ground.decide(asked, "ben") == "approved"


async def test_whom_nobody_appoints_any_more_decides_for_themselves(ground: Ground) -> None:
    given = await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "ben")
    asked = await ground.ask(mission=await ground.mission("agent"), requested_by=ground.ids["agent"])  # anna's
    assert await ground.decide(asked, "ben") == "own_request"
    await ground.run("registrar", REVOKE, ground.tenant, given)
    assert await ground.decide(asked, "ben") == "approved"


async def test_one_right_that_is_shared_makes_one_vote(ground: Ground) -> None:
    """Whoever approves does not appoint who approves beside them; nor do two who were appointed by one make two."""
    source = await grant_of(ground, "anna", "operator")
    for name in ("nina", "omar"):
        await newcomer(ground, name)
        await passed(ground, source, "anna", name)
    for first, second in (("anna", "nina"), ("nina", "anna"), ("nina", "omar")):
        asked = await ground.ask(connector="two")
        assert await ground.decide(asked, first) == "recorded"
        assert await ground.decide(asked, second) == "recorded"
        assert await ground.decide(asked, "ben") == "approved"
    await passed(ground, source, "anna", "ben")  # who holds the role anyway votes in their own right
    asked = await ground.ask(connector="two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert await ground.decide(asked, "ben") == "approved"
    await ground.run("registrar", REVOKE, ground.tenant, await grant_of(ground, "ben", "operator"))  # and then in hers
    asked = await ground.ask(connector="two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert await ground.decide(asked, "ben") == "recorded"
    own = "INSERT INTO role_grant (tenant, principal, role, expires_at) VALUES ($1, $2, 'operator', now() + interval '1 second')"
    await ground.run("registrar", own, ground.tenant, ground.ids["ben"])  # an own right that ended is none either
    await ground.run("admin", "SELECT pg_sleep(1.1)")
    asked = await ground.ask(connector="two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert await ground.decide(asked, "ben") == "recorded"


async def test_nobody_lets_their_own_request_be_changed_by_whom_they_appointed(ground: Ground) -> None:
    await newcomer(ground)
    grant = await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina")
    for requested_by in ("agent", "subagent"):
        mission = await ground.mission(requested_by)
        asked = await ground.ask(mission=mission, requested_by=ground.ids[requested_by])
        said = await revise(ground, asked, "nina")
        assert (said["outcome"], said["new_approval"]) == ("own_request", None)
        assert (await revise(ground, asked, "ben"))["outcome"] == "revised"
    theirs = await ground.ask()
    assert (await revise(ground, theirs, "nina"))["outcome"] == "revised", "of others' requests it counts"
    assert grant


async def refused(ground: Ground, source: UUID, by: str, to: str, role: str = "operator", **more: Any) -> None:
    with pytest.raises(asyncpg.PostgresError) as error:
        await passed(ground, source, by, to, role, **more)
    assert error.value.sqlstate == "RX020", error.value


async def test_what_may_not_be_passed_on(ground: Ground) -> None:
    await newcomer(ground)
    await newcomer(ground, "omar")
    anna, adam = await grant_of(ground, "anna", "operator"), await grant_of(ground, "adam", "admin")
    await refused(ground, anna, "anna", "anna")
    await refused(ground, anna, "anna", "nina", says="ben")
    await refused(ground, anna, "anna", "nina", ends=now() + timedelta(days=32))
    await refused(ground, anna, "anna", "robot")
    await refused(ground, anna, "anna", "machine")
    await refused(ground, adam, "adam", "nina", "admin")
    await refused(ground, await grant_of(ground, "machine", "operator"), "machine", "nina")
    further = await passed(ground, anna, "anna", "nina")
    await refused(ground, further, "nina", "omar")
    await refused(ground, uuid4(), "anna", "nina")
    auditor = await grant_of(ground, "adam", "auditor")
    await passed(ground, auditor, "adam", "machine", "auditor")  # what approves nothing may go to a service
    for role in ("break_glass", "colony"):
        await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, $3)",
                         ground.tenant, ground.ids["cora"], role)  # fmt: skip
        await refused(ground, await grant_of(ground, "cora", role), "cora", "nina", role)


async def test_only_what_is_held_now_is_passed_on_and_not_for_longer(ground: Ground) -> None:
    for name in ("nina", "omar", "olga", "otto"):
        await newcomer(ground, name)
    give = """INSERT INTO role_grant (tenant, principal, role, starts_at, expires_at)
              VALUES ($1, $2, 'operator', COALESCE($3, clock_timestamp()), $4)"""
    soon, later = now() + timedelta(seconds=1), now() + timedelta(hours=1)
    await ground.run("registrar", give, ground.tenant, ground.ids["nina"], None, later)
    await ground.run("registrar", give, ground.tenant, ground.ids["omar"], later, None)
    await ground.run("registrar", give, ground.tenant, ground.ids["olga"], None, soon)
    nina, omar, olga = [await grant_of(ground, name, "operator") for name in ("nina", "omar", "olga")]
    await refused(ground, nina, "nina", "otto", ends=later + timedelta(minutes=1))
    await refused(ground, omar, "omar", "otto")
    await ground.run("admin", "SELECT pg_sleep(1.1)")
    await refused(ground, olga, "olga", "otto", ends=soon)
    await ground.run("registrar", "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE id = $1", nina)
    await refused(ground, nina, "nina", "otto")
    anna = await grant_of(ground, "anna", "operator")
    await ground.run(
        "registrar", "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1", ground.ids["anna"]
    )
    await refused(ground, anna, "anna", "otto")


async def test_when_a_grant_was_made_is_not_the_registrars_to_say(ground: Ground) -> None:
    await newcomer(ground)
    give = "INSERT INTO role_grant (tenant, principal, role, granted_at) VALUES ($1, $2, 'auditor', 'epoch')"
    await ground.run("registrar", give, ground.tenant, ground.ids["nina"])
    age = "SELECT clock_timestamp() - granted_at < interval '1 minute' FROM role_grant WHERE principal = $1"
    assert await ground.value("admin", age, ground.ids["nina"])


@pytest.mark.parametrize(
    "change", ["starts_at = 'epoch'", "granted_by = principal", "delegated_from = id", "granted_at = 'epoch'"]
)
async def test_a_grant_is_only_ever_revoked(ground: Ground, change: str) -> None:
    anna = ground.ids["anna"]
    await ground.refused(
        "RX001", "owner", f"UPDATE role_grant SET revoked_at = clock_timestamp(), {change} WHERE principal = $1", anna
    )


# --- who somebody is at the identity provider

LINK = (
    "INSERT INTO oidc_identity (tenant, id, principal, issuer, subject) VALUES ($1, $2, $3, 'https://id.example', $4)"
)
WHO = "SELECT tenant, principal FROM principal_of_subject('https://id.example', $1)"


async def test_a_subject_is_found_while_link_principal_and_tenant_live(ground: Ground) -> None:
    link, subject = uuid4(), f"subject-{uuid4()}"
    await ground.run("registrar", LINK, ground.tenant, link, ground.ids["anna"], subject)
    assert [tuple(row) for row in await ground.run("registrar", WHO, subject)] == [(ground.tenant, ground.ids["anna"])]
    assert await ground.run("registrar", WHO, "somebody else") == []
    for off, on in (
        (
            "UPDATE principal SET suspended_at = now() WHERE id = $1",
            "UPDATE principal SET suspended_at = NULL WHERE id = $1",
        ),
        (
            "UPDATE tenant SET suspended_at = now() WHERE id <> $1",
            "UPDATE tenant SET suspended_at = NULL WHERE id <> $1",
        ),
    ):
        await ground.run("registrar", off, ground.ids["anna"])
        assert await ground.run("registrar", WHO, subject) == []
        await ground.run("registrar", on, ground.ids["anna"])
    await ground.run("registrar", "UPDATE oidc_identity SET unlinked_at = now() WHERE id = $1", link)
    assert await ground.run("registrar", WHO, subject) == []


@pytest.mark.parametrize(
    "change", ["subject = 'other'", "issuer = 'https://other.example'", "principal = id", "unlinked_at = NULL",
               "unlinked_at = now(), linked_at = 'epoch'", "unlinked_at = now(), id = gen_random_uuid()"],
)  # fmt: skip
async def test_a_link_can_only_be_ended(ground: Ground, change: str) -> None:
    link = uuid4()
    await ground.run("registrar", LINK, ground.tenant, link, ground.ids["anna"], f"subject-{link}")
    await ground.refused("RX001", "owner", f"UPDATE oidc_identity SET {change} WHERE id = $1", link)
    await ground.run("registrar", "UPDATE oidc_identity SET unlinked_at = now() WHERE id = $1", link)
    await ground.refused("RX001", "registrar", "UPDATE oidc_identity SET unlinked_at = now() WHERE id = $1", link)


# --- tenants


@pytest.mark.parametrize(
    "change", ["name = 'other'", "operator = NOT operator", "created_at = 'epoch'", "id = gen_random_uuid()"]
)
async def test_a_tenant_can_only_be_suspended_and_resumed(ground: Ground, change: str) -> None:
    await ground.refused("RX001", "owner", f"UPDATE tenant SET {change} WHERE id = $1", ground.tenant)


async def test_every_change_of_tenant_and_principal_raises_its_version(ground: Ground) -> None:
    for table, id in (("tenant", ground.tenant), ("principal", ground.ids["anna"])):
        for wanted in (2, 3):
            version = await ground.value(
                "registrar", f"UPDATE {table} SET suspended_at = NULL WHERE id = $1 RETURNING version", id
            )
            assert version == wanted


async def test_only_the_operators_tenant_sees_the_others(ground: Ground) -> None:
    seen = {row["id"] for row in await ground.run("registrar", "SELECT id FROM visible_tenants()")}
    assert seen == {ground.tenant}
    operator = await ground.value("admin", "SELECT id FROM tenant WHERE operator LIMIT 1") if await ground.value(
        "admin", "SELECT EXISTS (SELECT 1 FROM tenant WHERE operator)") else uuid4()  # fmt: skip
    await ground.run(
        "admin", "INSERT INTO tenant (id, name, operator) VALUES ($1, $2, true) ON CONFLICT DO NOTHING",
        operator, f"operator-{operator}", tenant=operator,
    )  # fmt: skip
    every = {row["id"] for row in await ground.run("registrar", "SELECT id FROM visible_tenants()", tenant=operator)}
    assert every >= {ground.tenant, operator}


async def test_a_sessions_token_does_not_change(ground: Ground) -> None:
    await ground.session("anna")
    change = "UPDATE session SET token_sha256 = sha256('x') WHERE principal = $1"
    await ground.refused("RX001", "owner", change, ground.ids["anna"])
