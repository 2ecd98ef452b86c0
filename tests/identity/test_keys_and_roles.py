"""Who somebody is and what they may do is asked anew for every request: what is taken away is gone at once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from app import identity
from app.canonical import sha256
from app.clock import now
from app.db import Database, WriteSession
from app.identity import ACTIONS, DEMO_PRINCIPALS, ROLES
from tests.world import Person, World
from tests.world.checks import hire, impersonal, inspector, problem

ASK = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}


@asynccontextmanager
async def registrar(world: World) -> AsyncIterator[WriteSession]:
    """A session of role registrar in the demo tenant, committed at the end."""
    database = Database(world.url("registrar"), pool_size=1)
    async with database.write() as session:
        await identity.enter_tenant(session, "demo")
        yield session
    await database.close()


async def principal_of(world: World, name: str) -> UUID:
    found: UUID = await (await inspector(world)).fetchval("SELECT id FROM principal WHERE name = $1", name)
    return found


async def key_of(world: World, person: Person) -> UUID:
    statement = "SELECT id FROM api_key WHERE secret_sha256 = $1"
    found: UUID = await (await inspector(world)).fetchval(statement, sha256(person.key.encode()))
    return found


async def revoke_key(world: World, person: Person) -> None:
    async with registrar(world) as session:
        assert await identity.revoke_key(session, await key_of(world, person))
        assert not await identity.revoke_key(session, await key_of(world, person))


def statement(sql: str) -> Callable[[World, Person], Awaitable[None]]:
    async def run(world: World, person: Person) -> None:
        await (await inspector(world)).execute(sql.format(name=person.name))

    return run


ENDINGS: dict[str, Callable[[World, Person], Awaitable[None]]] = {
    "revoked": revoke_key,
    "expired": statement(
        "UPDATE api_key SET expires_at = now() WHERE principal = (SELECT id FROM principal WHERE name = '{name}')"
    ),
    "its principal suspended": statement("UPDATE principal SET suspended_at = now() WHERE name = '{name}'"),
    "its tenant suspended": statement("UPDATE tenant SET suspended_at = now()"),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_a_key_that_is_dead_is_one_that_never_was(
    world: World, end: Callable[[World, Person], Awaitable[None]]
) -> None:
    person = await hire(world, "leaver", "submitter", "auditor")
    assert (await person.http.get("/v1/missions")).status_code == 200
    await end(world, person)
    nobody = world.client("mr_00000000_" + "x" * 43)
    for method, ask in (("GET", None), ("POST", ASK)):
        dead = await person.http.request(method, "/v1/missions", json=ask)
        unknown = await nobody.request(method, "/v1/missions", json=ask)
        problem(dead, "unauthenticated")
        assert impersonal(dead) == impersonal(unknown)


async def test_other_keys_of_the_same_principal_live_on(world: World) -> None:
    person = await hire(world, "rotator", "auditor")
    async with registrar(world) as session:
        second = await identity.issue_key(session, await principal_of(world, "rotator"))
    await revoke_key(world, person)
    problem(await person.http.get("/v1/missions"), "unauthenticated")
    assert (await world.client(second.secret).get("/v1/missions")).status_code == 200


async def test_a_key_lives_until_it_expires(world: World) -> None:
    living = await hire(world, "living", "auditor", expires_at=now() + timedelta(minutes=1))
    dead = await hire(world, "dead", "auditor", expires_at=now() - timedelta(seconds=1))
    assert (await living.http.get("/v1/missions")).status_code == 200
    problem(await dead.http.get("/v1/missions"), "unauthenticated")


async def test_roles_come_and_go_at_once(world: World) -> None:
    person = await hire(world, "newcomer", "auditor")

    async def ask() -> httpx.Response:
        return await person.http.post("/v1/missions", json=ASK)

    problem(await ask(), "forbidden")
    principal = await principal_of(world, "newcomer")
    async with registrar(world) as session:
        await identity.grant_role(session, principal, "submitter")
    assert (await ask()).status_code == 202
    async with registrar(world) as session:
        assert await identity.revoke_role(session, principal, "submitter")
        assert not await identity.revoke_role(session, principal, "submitter")
    problem(await ask(), "forbidden")
    async with registrar(world) as session:
        await identity.grant_role(session, principal, "submitter", now() + timedelta(seconds=60))
    assert (await ask()).status_code == 202
    async with registrar(world) as session:
        await identity.revoke_role(session, principal, "submitter")
        await identity.grant_role(session, principal, "submitter", now() - timedelta(seconds=1))
    problem(await ask(), "forbidden")


async def test_the_demo_people_hold_what_their_names_say(world: World) -> None:
    may_create = {name for name, (_, roles) in DEMO_PRINCIPALS.items() if ACTIONS["missions.create"] & set(roles)}
    assert may_create == {"submitter", "operator", "second_operator", "product_owner"}
    for name, (_, roles) in DEMO_PRINCIPALS.items():
        answer = await world.people[name].http.post("/v1/missions", json=ASK)
        assert answer.status_code == (202 if name in may_create else 403), name
        assert set(roles) <= set(ROLES)
        assert (await world.people[name].http.get("/v1/missions")).status_code == 200, name


async def test_seeding_again_changes_nothing(world: World) -> None:
    connection = await inspector(world)
    before = await connection.fetch("SELECT * FROM api_key ORDER BY id")
    keys = {name: world.people[name].key for name in DEMO_PRINCIPALS}
    assert await identity.seed_demo(world.url("registrar"), keys) == keys
    assert await connection.fetch("SELECT * FROM api_key ORDER BY id") == before


async def test_what_the_registrar_does_is_recorded_without_names_or_secrets(world: World) -> None:
    database = Database(world.url("registrar"), pool_size=1)
    async with database.write() as session:
        tenant = await identity.create_tenant(session, "Canary Corporation")
        principal = await identity.create_principal(session, "Canary Bird", "agent", None)
        await identity.grant_role(session, principal, "operator")
        key = await identity.issue_key(session, principal)
        await identity.revoke_role(session, principal, "operator")
        await identity.revoke_key(session, key.id)
    await database.close()
    facts = await world.facts(tenant)
    assert [fact["type"] for fact in facts] == [
        "tenant.created", "principal.created", "role.granted", "key.issued", "role.revoked", "key.revoked",
    ]  # fmt: skip
    assert {fact["actor"] for fact in facts} == {"system:registrar"}
    said = str(facts)
    assert "Canary" not in said and key.secret not in said and key.prefix not in said
    assert key.secret not in repr(key)


async def test_secrets_are_stored_as_hashes_only(world: World) -> None:
    for person in world.people.values():
        assert (await person.http.get("/v1/missions", headers={"Idempotency-Key": "x"})).status_code == 200
    connection = await inspector(world)
    secrets: list[Any] = [person.key for person in world.people.values()]
    for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        for row in await connection.fetch(f"SELECT t::text AS row FROM {table} t"):
            for secret in secrets:
                assert secret not in row["row"] and secret[12:] not in row["row"], table
                assert secret.encode().hex() not in row["row"], table
