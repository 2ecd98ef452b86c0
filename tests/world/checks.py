"""What tests of several rooms look at: problem documents, what is stored, people with other roles, a pending change."""

import re
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from app import identity
from app.db import Database
from app.errors import KINDS
from tests.world.colony import proposal
from tests.world.world import Person, World

MEMBERS = {
    "type", "title", "status", "detail", "instance", "code", "errors", "request_id", "retryable", "next_actions",
}  # fmt: skip


def problem(answer: httpx.Response, code: str) -> dict[str, Any]:
    """Checks that an answer is the whole problem document of that code, and gives it."""
    assert answer.headers["content-type"] == "application/problem+json", (answer.status_code, answer.text[:300])
    said: dict[str, Any] = answer.json()
    kind = KINDS[code]
    assert (said["code"], said["status"], answer.status_code) == (code, kind.status, kind.status), said
    assert set(said) >= MEMBERS, MEMBERS - set(said)
    assert said["type"] == f"/problems/{code}"
    assert said["title"] == kind.title
    assert said["detail"]
    assert said["instance"] == httpx.URL(str(answer.request.url)).path
    assert said["request_id"] == answer.headers["request-id"]
    assert said["retryable"] is kind.retryable
    assert said["next_actions"] == list(kind.next_actions)
    for error in said["errors"]:
        assert error["detail"]
        assert ("pointer" in error) != ("parameter" in error), error
        assert re.fullmatch(r"(/([^~/]|~[01])*)*", error.get("pointer", "")), error
    if kind.status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return said


def impersonal(answer: httpx.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    """An answer without what differs between two requests of the same kind: what two cases must have in common."""
    said = {name: value for name, value in answer.json().items() if name not in ("request_id", "instance")}
    personal = ("request-id", "traceparent", "date", "ratelimit", "ratelimit-policy")
    headers = {k: v for k, v in answer.headers.items() if k not in personal}
    return answer.status_code, said, headers


async def census(world: World) -> dict[str, int]:
    """How many rows each table holds, whoever they belong to. Nonces and rates are left out: they are spent, not stored."""
    connection = await inspector(world)
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ('nonce', 'rate_bucket')"
    )
    return {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for (name,) in tables}


async def inspector(world: World) -> asyncpg.Connection:
    """One superuser connection for the whole life of a world."""
    known: asyncpg.Connection | None = world.__dict__.get("_inspector")
    if known is None:
        known = world.__dict__["_inspector"] = await world.connect("admin")
    return known


async def hire(world: World, name: str, *roles: str, kind: str = "human", **key: Any) -> Person:
    """A further principal of the demo tenant, known to the world by name. key goes to identity.issue_key."""
    database = Database(world.url("registrar"), pool_size=2)
    async with database.write() as session:
        await identity.enter_tenant(session, "demo")
        principal = await identity.create_principal(session, name, kind)
        for role in roles:
            await identity.grant_role(session, principal, role)
        issued = await identity.issue_key(session, principal, **key)
    await database.close()
    world.people[name] = Person(name, issued.secret, world.client(issued.secret))
    return world.people[name]


async def pending_change(world: World, **more: Any) -> dict[str, Any]:
    """The approval of a change to a lead of the sample CRM, waiting for a human; more changes the proposal."""
    if world.crm_base_url is None:
        await world.with_crm()
    dispatch = await world.dispatch(mission_type="crm_lead_intelligence")
    listed = await world.colony.tool(dispatch, "crm.list", kind="lead", limit=1)
    [record] = listed["records"]
    made = proposal(dispatch.envelope, record, more.pop("changes", {"priority": "high"}), **more)
    await world.colony.complete(dispatch, proposals=[made])
    await world.run_work("review")
    [approval] = (await world.operator.get(f"/v1/approvals?mission={dispatch.mission_id}")).json()["items"]
    shown = await world.operator.get(f"/v1/approvals/{approval['id']}")
    assert shown.status_code == 200, shown.text
    return {**shown.json(), "etag": shown.headers["etag"]}


async def fact_types(world: World, subject: Any) -> list[str]:
    return [fact["type"] for fact in await world.facts(UUID(str(subject)))]


def as_listed(mission: dict[str, Any]) -> dict[str, Any]:
    """A mission as lists and answers show it: one that is read alone also says how long it is kept."""
    return {name: value for name, value in mission.items() if name != "retention"}
