"""`mission-root identity …`: tenants, people and keys of an instance that is not the embedded demo. Role registrar."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli.client import Failed

app = typer.Typer(no_args_is_help=True, help="Tenants, principals, roles and keys. Needs REGISTRAR_DATABASE_URL.")
Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]
Principal = Annotated[str, typer.Argument(help="The principal's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@app.command("create-tenant")
def create_tenant(
    name: Tenant,
    operator: Annotated[
        bool, typer.Option("--operator", help="Its admins look after all tenants; one per installation.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Make a tenant. It is born with approval rules."""

    async def make(session: Any) -> dict[str, Any]:
        from app import identity

        return {"tenant": str(await identity.create_tenant(session, name, operator=operator))}

    show(run(make), json_)


@app.command("create-principal")
def create_principal(
    tenant: Tenant,
    name: Principal,
    kind: Annotated[str, typer.Option(help="human, service or agent. Only humans can approve.")] = "human",
    role: Annotated[list[str] | None, typer.Option(help="A role; repeat for more.")] = None,
    owner: Annotated[str | None, typer.Option(help="Who answers for a service or agent, by name.")] = None,
    json_: AsJson = False,
) -> None:
    """Make a person, service or agent with its roles and a first key, which is shown once."""

    async def make(session: Any) -> dict[str, Any]:
        from app import identity

        await entered(session, tenant)
        unknown = set(role or []) - set(identity.ROLES)
        if kind not in ("human", "service", "agent") or unknown:
            raise Failed(f"{min(unknown) if unknown else kind} is not known; roles: {', '.join(identity.ROLES)}.", 2)
        principal = await identity.create_principal(session, name, kind, await named(session, owner) if owner else None)
        for one in role or []:
            await identity.grant_role(session, principal, one)
        key = await identity.issue_key(session, principal)
        return {"principal": str(principal), "key": key.secret, "key_id": str(key.id)}

    show(run(make), json_)


@app.command("issue-key")
def issue_key(tenant: Tenant, name: Principal, json_: AsJson = False) -> None:
    """Make another key for a principal; earlier ones stay live until they are revoked."""

    async def make(session: Any) -> dict[str, Any]:
        from app import identity

        await entered(session, tenant)
        key = await identity.issue_key(session, await named(session, name))
        return {"key": key.secret, "key_id": str(key.id)}

    show(run(make), json_)


@app.command("revoke-key")
def revoke_key(
    tenant: Tenant, key_id: Annotated[UUID, typer.Argument(help="The key's id.")], json_: AsJson = False
) -> None:
    """End a key at once, in every process."""

    async def end(session: Any) -> dict[str, Any]:
        from app import identity

        await entered(session, tenant)
        if not await identity.revoke_key(session, key_id):
            raise Failed("There is no live key with this id.", 3)
        return {"revoked": str(key_id)}

    show(run(end), json_)


@app.command("revoke-role")
def revoke_role(tenant: Tenant, name: Principal, role: str, json_: AsJson = False) -> None:
    """Take a role away. Votes on approvals still open no longer count."""

    async def end(session: Any) -> dict[str, Any]:
        from app import identity

        await entered(session, tenant)
        if not await identity.revoke_role(session, await named(session, name), role):
            raise Failed(f"{name} does not hold {role}.", 3)
        return {"revoked": role, "principal": name}

    show(run(end), json_)


async def entered(session: Any, tenant: str) -> None:
    from app import identity

    if await identity.enter_tenant(session, tenant) is None:
        raise Failed(f"There is no tenant {tenant}.", 3)


async def named(session: Any, name: str) -> UUID:
    found: UUID | None = await session.scalar(
        "SELECT id FROM principal WHERE tenant = :tenant AND name = :name", {"tenant": session.tenant, "name": name}
    )
    if found is None:
        raise Failed(f"There is no principal {name}.", 3)
    return found


def run(step: Callable[[Any], Awaitable[dict[str, Any]]], registrar_url: str | None = None) -> dict[str, Any]:
    """One transaction as role registrar, at the place that the setting names or at this one."""
    from sqlalchemy.exc import IntegrityError

    from app.db import Database
    from app.errors import Problem
    from app.settings import Misconfigured, load

    async def whole() -> dict[str, Any]:
        address = registrar_url or load().database("registrar_database_url")
        database = Database(address, pool_size=2, name="mission-root registrar")
        try:
            async with database.write() as session:
                return await step(session)
        finally:
            await database.close()

    try:
        return asyncio.run(whole())
    except Misconfigured as refused:
        raise Failed(str(refused), 2) from None
    except Problem as refused:
        raise Failed(refused.detail, 5) from None
    except IntegrityError:
        raise Failed("That name is taken.", 5) from None


def show(answer: dict[str, Any], json_: bool) -> None:
    if json_:
        print(json.dumps(answer))
        return
    for name, value in answer.items():
        print(f"{name:10} {value}")
    if "key" in answer:
        print("The key is shown this once.")
