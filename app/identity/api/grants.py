"""Roles over HTTP: given by admins, passed on for a time by whoever holds them, and taken away."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from app.clock import now
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading, writing
from app.identity import actions, queries
from app.identity.api.models import DelegationAsk, GrantAsk, GrantView
from app.identity.api.principals import known
from app.identity.api.shared import refusal
from app.identity.rights import is_admin, not_to_oneself
from app.identity.roles import ROLES
from app.listing import behind

router = Routes(tags=["identity"])
PATH = "/v1/principals/{principal_id}/grants"


@router.get(PATH, operation_id="listGrants", response_model=Page[GrantView], summary="A principal's grants")
async def list_grants(
    principal_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("principals.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Every grant there ever was, newest first; `state` says which count now."""
    await known(door.session, principal_id)
    found = partial(behind, door.session, queries.GRANTS, at="g.granted_at", principal=principal_id)
    return await paged(request, f"grants:{principal_id}", limit, cursor, found, queries.grant_view)


@router.post(PATH, operation_id="grantRole", status_code=201, response_model=GrantView, summary="Grant a role")
async def grant_role(
    principal_id: UUID, ask: GrantAsk, door: Annotated[Door[WriteSession], writing("grants.write")]
) -> Response:
    """Gives a role, for good or within bounds of time. Nobody grants a role to themselves: that takes a second admin."""
    await known(door.session, principal_id)
    check(ask)

    async def run() -> Reply:
        not_to_oneself(door.caller, principal_id)
        made = await actions.grant_role(
            door.session, principal_id, ask.role, ask.expires_at, starts_at=ask.starts_at, caller=door.caller
        )
        return await shown(door, principal_id, made)

    return await once(door, "grants.grant", run)


@router.post(
    "/v1/principals/{principal_id}/delegations",
    operation_id="delegateRole",
    status_code=201,
    response_model=GrantView,
    summary="Pass a role on",
)
async def delegate_role(
    principal_id: UUID, ask: DelegationAsk, door: Annotated[Door[WriteSession], writing("grants.delegate")]
) -> Response:
    """Passes on a role that the caller holds themself, for a time. It ends with the caller's own grant. A delegate decides as
    themself, and not on what the caller asked for. Roles that approve go to humans only; admin and break_glass to nobody."""
    await known(door.session, principal_id)
    check(ask)

    async def run() -> Reply:
        source = await queries.own_grant(door.session, door.caller.principal, ask.role)
        if source is None:
            raise Problem("forbidden", f"Only who holds {ask.role} themself passes it on.", action="grants.delegate")
        made = await actions.grant_role(
            door.session,
            principal_id,
            ask.role,
            ask.expires_at,
            starts_at=ask.starts_at,
            delegated_from=source.id,
            caller=door.caller,
        )
        return await shown(door, principal_id, made)

    return await once(door, "grants.delegate", run)


@router.delete(f"{PATH}/{{grant_id}}", operation_id="revokeGrant", response_model=GrantView, summary="Revoke a grant")
async def revoke_grant(
    principal_id: UUID, grant_id: UUID, door: Annotated[Door[WriteSession], writing("grants.revoke")]
) -> Response:
    """Takes a role away at once: by an admin, or by whoever passed it on. Votes on open approvals that rested on it count no
    more, and what was passed on from it ends too. Revoking it again changes nothing."""
    found = await queries.grant(door.session, principal_id, grant_id)
    mine = found is not None and found.delegated_from is not None and found.granted_by == door.caller.principal
    if found is None or not (mine or is_admin(door.caller)):
        raise Problem("not_found", "There is no such grant.")
    await actions.revoke_grant(door.session, grant_id, door.caller)
    return Reply(queries.grant_view(await queries.grant(door.session, principal_id, grant_id))).response()


def check(ask: GrantAsk | DelegationAsk) -> None:
    if ask.role not in ROLES:
        raise refusal("/role", f"must be one of {', '.join(ROLES)}")
    if ask.expires_at is not None and ask.expires_at <= now():
        raise refusal("/expires_at", "must lie ahead")
    if ask.expires_at is not None and ask.starts_at is not None and ask.expires_at <= ask.starts_at:
        raise refusal("/expires_at", "must lie after starts_at")


async def shown(door: Door[Any], principal_id: UUID, grant_id: UUID) -> Reply:
    found = await queries.grant(door.session, principal_id, grant_id)
    return Reply(queries.grant_view(found), 201, {"Location": f"/v1/principals/{principal_id}/grants"})
