"""Reading tenants, principals, grants, links and keys, as what they are now. Runs as role registrar only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession

TENANTS = "SELECT id, name, operator, version, suspended_at, created_at FROM visible_tenants()"
PRINCIPALS = """SELECT p.id, p.kind, p.name, p.owner, p.version, p.suspended_at, p.created_at FROM principal p
  WHERE p.tenant = :tenant"""
# A grant that was passed on is live only while its source is.
GRANTS = """SELECT g.id, g.principal, g.role, g.granted_by, g.delegated_from, g.granted_at AS created_at, g.starts_at, g.expires_at,
    g.revoked_at, CASE
      WHEN g.revoked_at IS NOT NULL THEN 'revoked'
      WHEN g.expires_at <= clock_timestamp() THEN 'expired'
      WHEN g.delegated_from IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM role_grant s JOIN principal d ON d.tenant = s.tenant AND d.id = s.principal
        WHERE s.tenant = g.tenant AND s.id = g.delegated_from AND s.revoked_at IS NULL AND d.suspended_at IS NULL) THEN 'revoked'
      WHEN g.starts_at > clock_timestamp() THEN 'pending' ELSE 'live' END AS state
  FROM role_grant g WHERE g.tenant = :tenant"""
LINKS = """SELECT id, principal, issuer, subject, linked_at AS created_at, unlinked_at FROM oidc_identity
  WHERE tenant = :tenant AND principal = :principal"""
KEYS = """SELECT id, principal, prefix, created_at, expires_at, revoked_at, CASE
      WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'live' END AS state
  FROM api_key WHERE tenant = :tenant"""


async def newest(
    session: ReadSession,
    select: str,
    before: Sequence[Any] | None,
    limit: int,
    at: str = "created_at",
    also: str = "",
    **asked: Any,
) -> list[Any]:
    """The next rows of a list, newest first. also narrows it down with AND."""
    if " WHERE " not in select:
        select += " WHERE true"
    where = also
    if before is not None:
        where += f" AND ({at}, id) < (:before_at, :before_id)"
        asked |= {"before_at": datetime.fromisoformat(before[0]), "before_id": UUID(before[1])}
    if ":tenant" in select:
        asked["tenant"] = session.tenant
    rows = await session.rows(
        text(f"{select}{where} ORDER BY {at} DESC, id DESC LIMIT :limit"), {**asked, "limit": limit}
    )
    return list(rows)


async def tenant(session: ReadSession, id: UUID) -> Any:
    return await session.first(f"{TENANTS} WHERE id = :id", {"id": id})


async def principal(session: ReadSession, id: UUID, *, lock: bool = False) -> Any:
    select = f"{PRINCIPALS} AND p.id = :id{' FOR UPDATE' if lock else ''}"
    return await session.first(select, {"tenant": session.tenant, "id": id})


async def grant(session: ReadSession, principal: UUID, id: UUID) -> Any:
    select = f"{GRANTS} AND g.principal = :principal AND g.id = :id"
    return await session.first(select, {"tenant": session.tenant, "principal": principal, "id": id})


async def live_grants(session: ReadSession, principal: UUID) -> list[Any]:
    """What gives a principal its roles now."""
    select = f"SELECT * FROM ({GRANTS} AND g.principal = :principal) g WHERE state = 'live' ORDER BY role, created_at"  # noqa: S608
    return list(await session.rows(select, {"tenant": session.tenant, "principal": principal}))


async def own_grant(session: ReadSession, principal: UUID, role: str) -> Any:
    """The grant that a principal may pass on: live, and not passed on itself; the one that lasts longest."""
    select = f"""SELECT * FROM ({GRANTS} AND g.principal = :principal AND g.role = :role AND g.delegated_from IS NULL) g
                 WHERE state = 'live' ORDER BY expires_at DESC NULLS FIRST LIMIT 1"""  # noqa: S608
    return await session.first(select, {"tenant": session.tenant, "principal": principal, "role": role})


async def delegator_of(session: ReadSession, grant: UUID) -> UUID | None:
    found: UUID | None = await session.scalar(
        "SELECT granted_by FROM role_grant WHERE tenant = :tenant AND id = :id AND delegated_from IS NOT NULL",
        {"tenant": session.tenant, "id": grant},
    )
    return found


async def link(session: ReadSession, principal: UUID, id: UUID) -> Any:
    return await session.first(f"{LINKS} AND id = :id", {"tenant": session.tenant, "principal": principal, "id": id})


async def key(session: ReadSession, id: UUID) -> Any:
    return await session.first(f"{KEYS} AND id = :id", {"tenant": session.tenant, "id": id})


async def end_of_credential(session: ReadSession, kind: str, id: UUID | None) -> datetime | None:
    """When the presented key or session ends by itself."""
    table = "session" if kind == "session" else "api_key"
    found: datetime | None = await session.scalar(
        f"SELECT expires_at FROM {table} WHERE tenant = :tenant AND id = :id",  # noqa: S608
        {"tenant": session.tenant, "id": id},
    )
    return found


# --- as the API says it


def stamp(moment: datetime | None) -> str | None:
    return iso(moment) if moment else None


def tenant_view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "operator": row.operator,
        "state": "suspended" if row.suspended_at else "active",
        "version": row.version,
        "suspended_at": stamp(row.suspended_at),
        "created_at": iso(row.created_at),
    }


def principal_view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "owner": row.owner,
        "state": "suspended" if row.suspended_at else "active",
        "version": row.version,
        "suspended_at": stamp(row.suspended_at),
        "created_at": iso(row.created_at),
    }


def grant_view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "principal_id": row.principal,
        "role": row.role,
        "state": row.state,
        "granted_by": row.granted_by,
        "delegated_from": row.delegated_from,
        "granted_at": iso(row.created_at),
        "starts_at": iso(row.starts_at),
        "expires_at": stamp(row.expires_at),
        "revoked_at": stamp(row.revoked_at),
    }


def link_view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "principal_id": row.principal,
        "issuer": row.issuer,
        "subject": row.subject,
        "linked_at": iso(row.created_at),
        "unlinked_at": stamp(row.unlinked_at),
    }


def key_view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "principal_id": row.principal,
        "prefix": row.prefix,
        "state": row.state,
        "created_at": iso(row.created_at),
        "expires_at": stamp(row.expires_at),
        "revoked_at": stamp(row.revoked_at),
    }
