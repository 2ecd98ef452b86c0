"""Creating tenants and principals, granting roles, issuing and revoking keys. Runs as role registrar only.

caller is who does it; without one it is the installation's command line. Every verb works in the session's tenant.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, IntegrityError

from app import ledger
from app.caller import Caller, system
from app.canonical import sha256
from app.clock import new_id, now
from app.db import WriteSession, constraint, sqlstate
from app.errors import Problem
from app.identity.rights import an_admin_stays, count_admins

KEY_BYTES = 32
NOT_DELEGABLE = "RX020"


@dataclass(frozen=True)
class NewKey:
    """An API key at the only moment its secret is known."""

    id: UUID
    prefix: str
    secret: str = field(repr=False)


def registrar(tenant: UUID) -> Caller:
    return system(tenant, "registrar")


def here(session: WriteSession, caller: Caller | None) -> tuple[UUID, Caller]:
    """The session's tenant and who acts in it. A caller of another tenant (the operator's) is named by the same actor."""
    tenant = session.tenant
    assert tenant is not None
    if caller is None:
        return tenant, registrar(tenant)
    return tenant, Caller(tenant, caller.principal, caller.actor)


async def enter_tenant(session: WriteSession, name: str) -> UUID | None:
    """Enters an existing tenant by name; None when there is none."""
    tenant: UUID | None = await session.scalar("SELECT tenant_by_name(:name)", {"name": name})
    if tenant is not None:
        await session.enter(tenant)
    return tenant


@contextmanager
def one_of_its_kind(detail: str) -> Iterator[None]:
    """Around the insert of a row that a unique index may refuse. Raises Problem taken."""
    try:
        yield
    except IntegrityError as error:
        if sqlstate(error) != "23505":
            raise
        raise Problem("taken", detail) from None


async def end(session: WriteSession, table: str, id: UUID, column: str = "revoked_at") -> UUID | None:
    """Ends what is live of a principal; answers whose it was, None when there is nothing to end."""
    principal: UUID | None = await session.scalar(
        f"""UPDATE {table} SET {column} = clock_timestamp() WHERE tenant = :tenant AND id = :id AND {column} IS NULL
            RETURNING principal""",  # noqa: S608
        {"tenant": session.tenant, "id": id},
    )
    return principal


async def suspend(session: WriteSession, table: str, id: UUID, suspended: bool) -> str:
    """Suspends or resumes a tenant or one of the tenant's principals; answers what that is called as a fact."""
    own = "" if table == "tenant" else " AND tenant = :tenant"
    await session.execute(
        f"UPDATE {table} SET suspended_at = CASE WHEN :suspended THEN clock_timestamp() END WHERE id = :id{own}",  # noqa: S608
        {"tenant": session.tenant, "id": id, "suspended": suspended},
    )
    return f"{table}.{'suspended' if suspended else 'resumed'}"


# --- tenants


async def create_tenant(
    session: WriteSession, name: str, *, operator: bool = False, drills: bool = False, caller: Caller | None = None
) -> UUID:
    """A new tenant, with its approval rules. The session has entered it afterwards. Raises Problem taken.

    drills: the one that drills run in, which has rules and connectors of its own kind only.
    """
    tenant = new_id()
    await session.enter(tenant)
    insert = "INSERT INTO tenant (id, name, operator, drills) VALUES (:id, :name, :operator, :drills)"
    try:
        await session.execute(insert, {"id": tenant, "name": name, "operator": operator, "drills": drills})
    except IntegrityError as error:
        if constraint(error) == "tenant_operator":
            raise Problem("taken", "There is an operator's tenant already; an installation has one.") from None
        if constraint(error) == "tenant_drills":
            raise Problem("taken", "There is a tenant for drills already; an installation has one.") from None
        raise Problem("taken", "There is a tenant of this name.") from None
    _, actor = here(session, caller)
    await ledger.record(session, actor, "tenant.created", tenant, operator=operator or None, drills=drills or None)
    return tenant


async def suspend_tenant(session: WriteSession, suspended: bool, caller: Caller | None = None) -> None:
    """Nobody of a suspended tenant is authenticated, and nothing of it is executed, until it is resumed."""
    tenant, actor = here(session, caller)
    await ledger.record(session, actor, await suspend(session, "tenant", tenant, suspended), tenant)


# --- principals


async def create_principal(
    session: WriteSession, name: str, kind: str, owner: UUID | None = None, *, caller: Caller | None = None
) -> UUID:
    """A human, service or agent. owner is who answers for a service or agent. Raises Problem taken."""
    (tenant, actor), principal = here(session, caller), new_id()
    with one_of_its_kind("There is a principal of this name."):
        await session.execute(
            "INSERT INTO principal (tenant, id, kind, name, owner) VALUES (:tenant, :id, :kind, :name, :owner)",
            {"tenant": tenant, "id": principal, "kind": kind, "name": name, "owner": owner},
        )
    await ledger.record(session, actor, "principal.created", tenant, principal=principal, kind=kind, owner=owner)
    return principal


async def suspend_principal(
    session: WriteSession, principal: UUID, suspended: bool, caller: Caller | None = None
) -> None:
    """Every key and session of a suspended principal is dead until it is resumed. Raises Problem last_admin."""
    tenant, actor = here(session, caller)
    admins = await count_admins(session)
    what = await suspend(session, "principal", principal, suspended)
    await an_admin_stays(session, admins)
    await ledger.record(session, actor, what, tenant, principal=principal)


# --- roles


async def grant_role(
    session: WriteSession,
    principal: UUID,
    role: str,
    expires_at: datetime | None = None,
    *,
    starts_at: datetime | None = None,
    delegated_from: UUID | None = None,
    caller: Caller | None = None,
) -> UUID:
    """Gives a role, from starts_at (now) until expires_at (for good). Raises Problem taken when it is held already,
    wrong_state when a role may not be passed on like this."""
    (tenant, actor), grant = here(session, caller), new_id()
    asked: dict[str, Any] = {"tenant": tenant, "principal": principal, "role": role, "source": delegated_from}
    # What ran out by itself makes room for what follows it.
    await session.execute(
        """UPDATE role_grant SET revoked_at = clock_timestamp() WHERE tenant = :tenant AND principal = :principal AND role = :role
           AND delegated_from IS NOT DISTINCT FROM CAST(:source AS uuid) AND revoked_at IS NULL AND expires_at <= clock_timestamp()""",
        asked,
    )
    asked |= {"id": grant, "starts_at": starts_at, "expires_at": expires_at}
    asked |= {"granted_by": caller.principal if caller else None}
    try:
        with one_of_its_kind(f"The principal holds {role} already; revoke that grant first."):
            await session.execute(
                """INSERT INTO role_grant (tenant, id, principal, role, starts_at, expires_at, granted_by, delegated_from)
                   VALUES (:tenant, :id, :principal, :role, COALESCE(CAST(:starts_at AS timestamptz), clock_timestamp()),
                     :expires_at, :granted_by, :source)""",
                asked,
            )
    except DBAPIError as error:
        if sqlstate(error) != NOT_DELEGABLE:
            raise
        raise Problem("wrong_state", said_by_the_wall(error)) from None
    what = "role.granted" if delegated_from is None else "role.delegated"
    await ledger.record(
        session, actor, what, tenant, principal=principal, role=role, grant=grant, delegated_from=delegated_from
    )
    return grant


def said_by_the_wall(error: DBAPIError) -> str:
    """Our own sentence out of a refusal that the database made."""
    sentence = str(getattr(error.orig, "__cause__", None) or error.orig).partition("\n")[0]
    sentence = sentence.rpartition("wall: ")[2]
    return f"{sentence[:1].upper()}{sentence[1:]}."


async def revoke_grant(session: WriteSession, grant: UUID, caller: Caller | None = None) -> bool:
    """Ends one live grant, and with it what was passed on from it. Raises Problem last_admin."""
    return await end_grants(session, "id = :grant", {"grant": grant}, caller)


async def revoke_role(session: WriteSession, principal: UUID, role: str, caller: Caller | None = None) -> bool:
    """Ends every live grant of a role. False when there was none."""
    return await end_grants(
        session, "principal = :principal AND role = :role", {"principal": principal, "role": role}, caller
    )


async def end_grants(session: WriteSession, which: str, asked: dict[str, object], caller: Caller | None) -> bool:
    tenant, actor = here(session, caller)
    admins = await count_admins(session)
    ended = await session.execute(
        f"""UPDATE role_grant SET revoked_at = clock_timestamp()
            WHERE tenant = :tenant AND revoked_at IS NULL AND {which} RETURNING id, principal, role""",  # noqa: S608
        {"tenant": tenant, **asked},
    )
    rows = ended.all()
    await an_admin_stays(session, admins)
    for row in rows:
        await ledger.record(
            session, actor, "role.revoked", tenant, principal=row.principal, role=row.role, grant=row.id
        )
    return bool(rows)


# --- links to the identity provider


async def link_identity(
    session: WriteSession, principal: UUID, issuer: str, subject: str, caller: Caller | None = None
) -> UUID:
    """From now on tokens of this subject are this principal's. Raises Problem taken, wherever the subject is linked."""
    (tenant, actor), link = here(session, caller), new_id()
    with one_of_its_kind("This subject is linked to a principal already."):
        await session.execute(
            """INSERT INTO oidc_identity (tenant, id, principal, issuer, subject)
               VALUES (:tenant, :id, :principal, :issuer, :subject)""",
            {"tenant": tenant, "id": link, "principal": principal, "issuer": issuer, "subject": subject},
        )
    await ledger.record(session, actor, "principal.linked", tenant, principal=principal, identity=link)
    return link


async def unlink_identity(session: WriteSession, link: UUID, caller: Caller | None = None) -> bool:
    """Ends a link, and the sessions that came by it. False when it was not live."""
    tenant, actor = here(session, caller)
    principal = await end(session, "oidc_identity", link, "unlinked_at")
    if principal is None:
        return False
    await ledger.record(session, actor, "principal.unlinked", tenant, principal=principal, identity=link)
    await end_sessions(session, principal, caller)
    return True


# --- keys


async def issue_key(
    session: WriteSession,
    principal: UUID,
    *,
    secret: str | None = None,
    expires_at: datetime | None = None,
    caller: Caller | None = None,
) -> NewKey:
    """A new API key. Pass a secret only to carry one over from a place that already keeps it."""
    (tenant, actor), key = here(session, caller), new_id()
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
    await ledger.record(session, actor, "key.issued", tenant, principal=principal, key=key)
    return NewKey(key, prefix, secret)


async def rotate_key(
    session: WriteSession, key: UUID, overlap: timedelta, caller: Caller | None = None
) -> NewKey | None:
    """A further key for the same principal; the old one lives for the overlap, unless it ends before. None when the old one
    is not live. The new one is good for as long as the old one was made for."""
    tenant, actor = here(session, caller)
    old = await session.first(
        """SELECT principal, created_at, expires_at FROM api_key WHERE tenant = :tenant AND id = :id AND revoked_at IS NULL
             AND (expires_at IS NULL OR expires_at > clock_timestamp()) FOR UPDATE""",
        {"tenant": tenant, "id": key},
    )
    if old is None:
        return None
    life = old.expires_at - old.created_at if old.expires_at else None
    made = await issue_key(session, old.principal, expires_at=now() + life if life else None, caller=caller)
    ends = min(filter(None, (old.expires_at, now() + overlap)))
    await session.execute(
        "UPDATE api_key SET expires_at = :ends WHERE tenant = :tenant AND id = :id",
        {"tenant": tenant, "id": key, "ends": ends},
    )
    await ledger.record(session, actor, "key.rotated", tenant, principal=old.principal, key=key, successor=made.id)
    return made


async def revoke_key(session: WriteSession, key: UUID, caller: Caller | None = None) -> bool:
    """Ends a key at once, in every process. False when it was not live."""
    tenant, actor = here(session, caller)
    principal = await end(session, "api_key", key)
    if principal is not None:
        await ledger.record(session, actor, "key.revoked", tenant, key=key)
    return principal is not None


# --- sessions


async def end_session(session: WriteSession, one: UUID, caller: Caller | None = None) -> bool:
    """Ends a session at once; the token it was given for opens no other."""
    tenant, actor = here(session, caller)
    principal = await end(session, "session", one)
    if principal is not None:
        await ledger.record(session, actor, "session.ended", tenant, principal=principal, session=one)
    return principal is not None


async def end_sessions(session: WriteSession, principal: UUID, caller: Caller | None = None) -> int:
    """Ends all sessions of a principal. No token issued until now opens another."""
    tenant, actor = here(session, caller)
    whose = {"tenant": tenant, "principal": principal}
    await session.execute(
        "UPDATE principal SET sessions_from = clock_timestamp() WHERE tenant = :tenant AND id = :principal", whose
    )
    ended = await session.execute(
        """UPDATE session SET revoked_at = clock_timestamp() WHERE tenant = :tenant AND principal = :principal
             AND revoked_at IS NULL AND expires_at > clock_timestamp()""",
        whose,
    )
    await ledger.record(session, actor, "session.all_ended", tenant, principal=principal, sessions=ended.rowcount)
    return ended.rowcount
