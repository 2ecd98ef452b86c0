"""Reading tenants, principals, grants, links and keys, as what they are now. Runs as role registrar only, but for `names`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession

TENANTS = "SELECT id, name, operator, version, suspended_at, created_at FROM visible_tenants() WHERE true"
PRINCIPALS = """SELECT id, kind, name, owner, version, suspended_at, created_at FROM principal WHERE tenant = :tenant"""
# A grant that was passed on is live only while its source is.
GRANTS = """SELECT g.id, g.principal, g.role, g.granted_by, g.delegated_from, g.granted_at AS created_at, g.starts_at, g.expires_at,
    g.revoked_at, CASE
      WHEN g.revoked_at IS NOT NULL THEN 'revoked'
      WHEN g.expires_at <= clock_timestamp() THEN 'expired'
      WHEN g.delegated_from IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM role_grant s JOIN principal d ON d.tenant = s.tenant AND d.id = s.principal
        WHERE s.tenant = g.tenant AND s.id = g.delegated_from AND s.revoked_at IS NULL AND d.suspended_at IS NULL) THEN 'revoked'
      WHEN g.starts_at > clock_timestamp() THEN 'pending' ELSE 'live' END AS state
  FROM role_grant g WHERE g.tenant = :tenant AND g.principal = :principal"""
LINKS = """SELECT id, principal, issuer, subject, linked_at AS created_at, unlinked_at FROM oidc_identity
  WHERE tenant = :tenant AND principal = :principal"""
KEYS = """SELECT id, principal, prefix, created_at, expires_at, revoked_at, CASE
      WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'live' END AS state
  FROM api_key WHERE tenant = :tenant"""


async def one(session: ReadSession, select: str, id: UUID, *, lock: bool = False, **asked: Any) -> Any:
    """What one of these selects finds under an id; None when there is none in the session's tenant."""
    select += " AND id = :id" + (" FOR UPDATE" if lock else "")
    return await session.first(select, {"tenant": session.tenant, "id": id, **asked})


async def tenant(session: ReadSession, id: UUID) -> Any:
    return await one(session, TENANTS, id)


async def principal(session: ReadSession, id: UUID, *, lock: bool = False) -> Any:
    return await one(session, PRINCIPALS, id, lock=lock)


async def grant(session: ReadSession, principal: UUID, id: UUID) -> Any:
    return await one(session, GRANTS, id, principal=principal)


async def link(session: ReadSession, principal: UUID, id: UUID) -> Any:
    return await one(session, LINKS, id, principal=principal)


async def key(session: ReadSession, id: UUID) -> Any:
    return await one(session, KEYS, id)


NAMES = text("SELECT id, name, kind FROM names_of(:tenant, :principals)")


async def names(session: ReadSession, principals: Iterable[UUID]) -> dict[UUID, str]:
    """What principals of the session's tenant are called; who is not there is absent."""
    wanted = {"tenant": session.tenant, "principals": list(set(principals))}
    return {row.id: row.name for row in await session.rows(NAMES, wanted)}


async def live_grants(session: ReadSession, principal: UUID) -> list[Any]:
    """What gives a principal its roles now."""
    select = f"SELECT * FROM ({GRANTS}) g WHERE state = 'live' ORDER BY role, created_at"  # noqa: S608
    return list(await session.rows(select, {"tenant": session.tenant, "principal": principal}))


async def own_grant(session: ReadSession, principal: UUID, role: str) -> Any:
    """The grant that a principal may pass on: live, and not passed on itself; the one that lasts longest."""
    select = f"""SELECT * FROM ({GRANTS} AND g.role = :role AND g.delegated_from IS NULL) g
                 WHERE state = 'live' ORDER BY expires_at DESC NULLS FIRST LIMIT 1"""  # noqa: S608
    return await session.first(select, {"tenant": session.tenant, "principal": principal, "role": role})


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
    return {"id": row.id, "name": row.name, "operator": row.operator, **standing(row)}


def principal_view(row: Any) -> dict[str, Any]:
    return {"id": row.id, "kind": row.kind, "name": row.name, "owner": row.owner, **standing(row)}


def standing(row: Any) -> dict[str, Any]:
    """How a tenant or principal stands: what suspending and resuming changes."""
    return {
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
