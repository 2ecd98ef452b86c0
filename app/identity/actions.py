"""Creating tenants and principals, granting roles, issuing and revoking keys. Runs as role registrar only."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from app import ledger
from app.caller import Caller, system
from app.canonical import sha256
from app.clock import new_id
from app.db import WriteSession

KEY_BYTES = 32


@dataclass(frozen=True)
class NewKey:
    """An API key at the only moment its secret is known."""

    id: UUID
    prefix: str
    secret: str = field(repr=False)


def registrar(tenant: UUID) -> Caller:
    return system(tenant, "registrar")


async def enter_tenant(session: WriteSession, name: str) -> UUID | None:
    """Enters an existing tenant by name; None when there is none."""
    tenant: UUID | None = await session.scalar("SELECT tenant_by_name(:name)", {"name": name})
    if tenant is not None:
        await session.enter(tenant)
    return tenant


async def create_tenant(session: WriteSession, name: str) -> UUID:
    """A new tenant, with its approval rules. The session has entered it afterwards."""
    tenant = new_id()
    await session.enter(tenant)
    await session.execute("INSERT INTO tenant (id, name) VALUES (:id, :name)", {"id": tenant, "name": name})
    await ledger.record(session, registrar(tenant), "tenant.created", tenant)
    return tenant


async def create_principal(session: WriteSession, name: str, kind: str, owner: UUID | None = None) -> UUID:
    """A human, service or agent of the session's tenant. owner is who answers for a service or agent."""
    tenant, principal = session.tenant, new_id()
    assert tenant is not None
    await session.execute(
        "INSERT INTO principal (tenant, id, kind, name, owner) VALUES (:tenant, :id, :kind, :name, :owner)",
        {"tenant": tenant, "id": principal, "kind": kind, "name": name, "owner": owner},
    )
    await ledger.record(
        session, registrar(tenant), "principal.created", tenant, principal=principal, kind=kind, owner=owner
    )
    return principal


async def grant_role(session: WriteSession, principal: UUID, role: str, expires_at: datetime | None = None) -> None:
    tenant = session.tenant
    assert tenant is not None
    await session.execute(
        "INSERT INTO role_grant (tenant, principal, role, expires_at) VALUES (:tenant, :principal, :role, :expires_at)",
        {"tenant": tenant, "principal": principal, "role": role, "expires_at": expires_at},
    )
    await ledger.record(session, registrar(tenant), "role.granted", tenant, principal=principal, role=role)


async def revoke_role(session: WriteSession, principal: UUID, role: str) -> bool:
    """Ends a live grant. False when there was none."""
    tenant = session.tenant
    assert tenant is not None
    ended = await session.execute(
        """UPDATE role_grant SET revoked_at = clock_timestamp()
           WHERE tenant = :tenant AND principal = :principal AND role = :role AND revoked_at IS NULL""",
        {"tenant": tenant, "principal": principal, "role": role},
    )
    if ended.rowcount:
        await ledger.record(session, registrar(tenant), "role.revoked", tenant, principal=principal, role=role)
    return bool(ended.rowcount)


async def issue_key(
    session: WriteSession, principal: UUID, *, secret: str | None = None, expires_at: datetime | None = None
) -> NewKey:
    """A new API key. Pass a secret only to carry one over from a place that already keeps it."""
    tenant, key = session.tenant, new_id()
    assert tenant is not None
    secret = secret or f"mr_{secrets.token_hex(4)}_{secrets.token_urlsafe(KEY_BYTES)}"
    prefix = secret[:11]
    await session.execute(
        """INSERT INTO api_key (tenant, id, principal, prefix, secret_sha256, expires_at)
           VALUES (:tenant, :id, :principal, :prefix, :secret_sha256, :expires_at)""",
        {
            "tenant": tenant,
            "id": key,
            "principal": principal,
            "prefix": prefix,
            "secret_sha256": sha256(secret.encode()),
            "expires_at": expires_at,
        },
    )
    await ledger.record(session, registrar(tenant), "key.issued", tenant, principal=principal, key=key)
    return NewKey(key, prefix, secret)


async def revoke_key(session: WriteSession, key: UUID) -> bool:
    """Ends a key at once, in every process. False when it was not live."""
    tenant = session.tenant
    assert tenant is not None
    ended = await session.execute(
        "UPDATE api_key SET revoked_at = clock_timestamp() WHERE tenant = :tenant AND id = :id AND revoked_at IS NULL",
        {"tenant": tenant, "id": key},
    )
    if ended.rowcount:
        await ledger.record(session, registrar(tenant), "key.revoked", tenant, key=key)
    return bool(ended.rowcount)
