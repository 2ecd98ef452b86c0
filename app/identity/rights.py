"""Who may give rights and credentials to whom: rules that no single admin gets around in silence.

Nobody grants themselves a role. Nobody adds a credential to a human who approves and already has a live one: whoever could
would decide in that person's name. The last lasting admin stays.
"""

from uuid import UUID

from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.identity.roles import ADMIN, OPERATOR, POLICY_OWNER, PRODUCT_OWNER, RELEASE_OWNER

APPROVING = frozenset({OPERATOR, POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER, ADMIN, "break_glass"})

LIVE_CREDENTIALS = """
  SELECT EXISTS (SELECT 1 FROM api_key k WHERE k.tenant = p.tenant AND k.principal = p.id AND k.revoked_at IS NULL
                   AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()))
      OR EXISTS (SELECT 1 FROM oidc_identity i WHERE i.tenant = p.tenant AND i.principal = p.id AND i.unlinked_at IS NULL)
  FROM principal p WHERE p.tenant = :tenant AND p.id = :principal AND p.kind = 'human'"""
ROLES_HELD = """SELECT role FROM role_grant WHERE tenant = :tenant AND principal = :principal AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())"""
LASTING_ADMINS = """SELECT count(*) FROM role_grant g JOIN principal p ON p.tenant = g.tenant AND p.id = g.principal
  WHERE g.tenant = :tenant AND g.role = 'admin' AND g.revoked_at IS NULL AND g.expires_at IS NULL
    AND g.starts_at <= clock_timestamp() AND p.suspended_at IS NULL"""


def is_admin(caller: Caller) -> bool:
    return ADMIN in caller.roles


def not_to_oneself(caller: Caller, principal: UUID) -> None:
    """Raises Problem second_person."""
    if caller.principal == principal:
        raise Problem("second_person", "Nobody grants a role to themselves.")


def own_or_admin(caller: Caller, principal: UUID, what: str) -> None:
    """A stranger's thing is an absent one to whoever is no admin."""
    if caller.principal != principal and not is_admin(caller):
        raise Problem("not_found", f"There is no such {what}.")


async def may_equip(session: ReadSession, caller: Caller, principal: UUID) -> None:
    """Whether the caller may add a credential by which principal can act. Raises Problem second_person."""
    if caller.principal == principal:
        return
    asked = {"tenant": caller.tenant, "principal": principal}
    if not await session.scalar(LIVE_CREDENTIALS, asked):
        return
    held = {row.role for row in await session.rows(ROLES_HELD, asked)}
    if held & APPROVING:
        raise Problem(
            "second_person",
            "An approver who has a live credential gets further ones only from themself: revoke what there is first.",
        )


async def count_admins(session: WriteSession) -> int:
    """How many lasting admins there are, counted by one transaction at a time."""
    await session.execute("SELECT 1 FROM tenant WHERE id = :tenant FOR UPDATE", {"tenant": session.tenant})
    return int(await session.scalar(LASTING_ADMINS, {"tenant": session.tenant}))


async def an_admin_stays(session: WriteSession, before: int) -> None:
    """Raises Problem last_admin, which takes the change back, when it left the tenant without the one it had."""
    if before and not await count_admins(session):
        raise Problem("last_admin", "The tenant would be left without an admin.")
