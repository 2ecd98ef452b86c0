"""Principals over HTTP: who may act in the tenant, and who they are at the identity provider."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading, require_version, writing
from app.identity import actions, queries
from app.identity.api.models import EndedView, Kind, LinkAsk, LinkView, PrincipalAsk, PrincipalView
from app.identity.api.shared import not_already, refusal, tagged
from app.identity.rights import may_equip, own_or_admin
from app.listing import behind

router = Routes(tags=["identity"])


@router.get("/v1/principals", operation_id="listPrincipals", response_model=Page[PrincipalView], summary="Principals")
async def list_principals(
    request: Request,
    door: Annotated[Door[ReadSession], reading("principals.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    kind: Kind | None = None,
) -> Response:
    """The tenant's humans, services and agents, newest first."""
    found = partial(behind, door.session, queries.PRINCIPALS, only={"kind": kind})
    return await paged(request, "principals", limit, cursor, found, queries.principal_view)


@router.post(
    "/v1/principals",
    operation_id="createPrincipal",
    status_code=201,
    response_model=PrincipalView,
    summary="Make a principal",
)
async def create_principal(
    ask: PrincipalAsk, door: Annotated[Door[WriteSession], writing("principals.write")]
) -> Response:
    """Makes a human, service or agent. It has no role, key or link yet."""
    if ask.kind == "human" and ask.owner is not None:
        raise refusal("/owner", "nobody answers for a human")
    if ask.owner is not None and await queries.principal(door.session, ask.owner) is None:
        raise refusal("/owner", "there is no such principal")

    async def run() -> Reply:
        made = await actions.create_principal(door.session, ask.name, ask.kind, ask.owner, caller=door.caller)
        view = queries.principal_view(await queries.principal(door.session, made))
        return tagged(view, 201, Location=f"/v1/principals/{made}")

    return await once(door, "principals.create", run)


@router.get(
    "/v1/principals/{principal_id}", operation_id="getPrincipal", response_model=PrincipalView, summary="One principal"
)
async def get_principal(principal_id: UUID, door: Annotated[Door[ReadSession], reading("principals.read")]) -> Response:
    """A principal; its ETag is what suspend and resume want as If-Match."""
    return tagged(queries.principal_view(await known(door.session, principal_id))).response()


@router.post(
    "/v1/principals/{principal_id}/suspend",
    operation_id="suspendPrincipal",
    response_model=PrincipalView,
    summary="Suspend a principal",
)
async def suspend_principal(
    principal_id: UUID, request: Request, door: Annotated[Door[WriteSession], writing("principals.write")]
) -> Response:
    """Its keys, sessions and votes on open approvals count no more, in every process, until resumed. If-Match required."""
    return await switch(principal_id, request, door, True)


@router.post(
    "/v1/principals/{principal_id}/resume",
    operation_id="resumePrincipal",
    response_model=PrincipalView,
    summary="Resume a principal",
)
async def resume_principal(
    principal_id: UUID, request: Request, door: Annotated[Door[WriteSession], writing("principals.write")]
) -> Response:
    """Ends a suspension; keys that were not revoked are good again. If-Match required."""
    return await switch(principal_id, request, door, False)


async def switch(principal_id: UUID, request: Request, door: Door[WriteSession], suspended: bool) -> Response:
    async def run() -> Reply:
        view = queries.principal_view(await known(door.session, principal_id, lock=True))
        require_version(request, view["version"], view)
        not_already("principal", view, suspended, "state")
        await actions.suspend_principal(door.session, principal_id, suspended, door.caller)
        return tagged(queries.principal_view(await known(door.session, principal_id)))

    return await once(door, f"principals.{'suspend' if suspended else 'resume'}", run)


@router.get(
    "/v1/principals/{principal_id}/identities",
    operation_id="listIdentities",
    response_model=Page[LinkView],
    summary="A principal's identities",
)
async def list_identities(
    principal_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("principals.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Who the principal is at the identity provider, ended links included, newest first."""
    await known(door.session, principal_id)
    found = partial(behind, door.session, queries.LINKS, at="linked_at", principal=principal_id)
    return await paged(request, f"identities:{principal_id}", limit, cursor, found, queries.link_view)


@router.post(
    "/v1/principals/{principal_id}/identities",
    operation_id="linkIdentity",
    status_code=201,
    response_model=LinkView,
    summary="Link an identity",
)
async def link_identity(
    principal_id: UUID,
    ask: LinkAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("identities.write")],
) -> Response:
    """From now on whoever shows a token of this issuer and subject acts as the principal. A subject has one principal."""
    await known(door.session, principal_id)
    issuer = request.app.state.settings.oidc_issuer
    if issuer is not None and ask.issuer != issuer:
        raise refusal("/issuer", "is not the issuer whose tokens this installation takes")
    await may_equip(door.session, door.caller, principal_id)

    async def run() -> Reply:
        made = await actions.link_identity(door.session, principal_id, ask.issuer, ask.subject, door.caller)
        found = await queries.link(door.session, principal_id, made)
        return Reply(queries.link_view(found), 201, {"Location": f"/v1/principals/{principal_id}/identities"})

    return await once(door, "identities.link", run)


@router.delete(
    "/v1/principals/{principal_id}/identities/{identity_id}",
    operation_id="unlinkIdentity",
    response_model=LinkView,
    summary="End a link",
)
async def unlink_identity(
    principal_id: UUID, identity_id: UUID, door: Annotated[Door[WriteSession], writing("identities.write")]
) -> Response:
    """Ends a link and every session of the principal. Ending it again changes nothing."""
    found = await queries.link(door.session, principal_id, identity_id)
    if found is None:
        raise Problem("not_found", "There is no such identity.")
    await actions.unlink_identity(door.session, identity_id, door.caller)
    return Reply(queries.link_view(await queries.link(door.session, principal_id, identity_id))).response()


@router.delete(
    "/v1/principals/{principal_id}/sessions",
    operation_id="endSessions",
    response_model=EndedView,
    summary="End all sessions of a principal",
)
async def end_sessions(principal_id: UUID, door: Annotated[Door[WriteSession], writing("sessions.end")]) -> Response:
    """Ends them at once, in every process, and no token issued until now opens another. One's own, or an admin anybody's."""
    await own_or_known(door.session, door.caller, principal_id)
    return Reply({"ended": await actions.end_sessions(door.session, principal_id, door.caller)}).response()


async def known(session: ReadSession, principal_id: UUID, *, lock: bool = False) -> Any:
    found = await queries.principal(session, principal_id, lock=lock)
    if found is None:
        raise Problem("not_found", "There is no such principal.")
    return found


async def own_or_known(session: ReadSession, caller: Caller, principal_id: UUID) -> Any:
    """For what everybody does with themselves and admins with anybody: to others there is nobody."""
    own_or_admin(caller, principal_id, "principal")
    return await known(session, principal_id)
