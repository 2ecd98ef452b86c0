"""Tenants over HTTP. Everybody sees their own; making and suspending them is for admins of the operator's tenant."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from app import ledger
from app.caller import Caller
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, paged, reading, require_version, writing
from app.identity import actions, queries
from app.identity.api.models import NewTenant, TenantAsk, TenantView
from app.identity.api.shared import not_already, tagged
from app.identity.rights import is_admin
from app.listing import behind

router = Routes(tags=["identity"])


@router.get("/v1/tenants", operation_id="listTenants", response_model=Page[TenantView], summary="Tenants")
async def list_tenants(
    request: Request,
    door: Annotated[Door[ReadSession], reading("tenants.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The caller's tenant; for the operator's admins every tenant, newest first."""
    seen = queries.TENANTS if is_admin(door.caller) else f"{queries.TENANTS} AND id = current_tenant()"
    return await paged(request, "tenants", limit, cursor, partial(behind, door.session, seen), queries.tenant_view)


@router.get("/v1/tenants/{tenant_id}", operation_id="getTenant", response_model=TenantView, summary="One tenant")
async def get_tenant(tenant_id: UUID, door: Annotated[Door[ReadSession], reading("tenants.read")]) -> Response:
    """A tenant; its ETag is what suspend and resume want as If-Match."""
    return tagged(queries.tenant_view(await visible(door.session, door.caller, tenant_id))).response()


@router.post(
    "/v1/tenants", operation_id="createTenant", status_code=201, response_model=NewTenant, summary="Make a tenant"
)
async def create_tenant(
    ask: TenantAsk, request: Request, door: Annotated[Door[WriteSession], writing("tenants.write")]
) -> Response:
    """Makes a tenant with a first admin, whose key is in this answer and never again: hand it over, and have it rotated."""
    await operators_only(door)

    async def run() -> Reply:
        session, caller = door.session, door.caller
        tenant = await actions.create_tenant(session, ask.name, caller=caller)
        admin = await actions.create_principal(session, ask.admin, "human")
        await actions.grant_role(session, admin, "admin")
        key = await actions.issue_key(session, admin)
        await session.enter(caller.tenant)
        await ledger.record(session, caller, "tenant.created", tenant)
        found = await queries.tenant(session, tenant)
        body = {**queries.tenant_view(found), "admin_id": admin, "key_id": key.id, "secret": key.secret}
        headers = {"Location": f"/v1/tenants/{tenant}", "ETag": etag(found.version)}
        return Reply(body, 201, headers, secrets=("secret",))

    return await once(door, "tenants.create", run)


@router.post(
    "/v1/tenants/{tenant_id}/suspend",
    operation_id="suspendTenant",
    response_model=TenantView,
    summary="Suspend a tenant",
)
async def suspend_tenant(
    tenant_id: UUID, request: Request, door: Annotated[Door[WriteSession], writing("tenants.write")]
) -> Response:
    """From now on nobody of it is authenticated and nothing of it is executed. If-Match required."""
    return await switch(tenant_id, request, door, True)


@router.post(
    "/v1/tenants/{tenant_id}/resume", operation_id="resumeTenant", response_model=TenantView, summary="Resume a tenant"
)
async def resume_tenant(
    tenant_id: UUID, request: Request, door: Annotated[Door[WriteSession], writing("tenants.write")]
) -> Response:
    """Ends a suspension. If-Match required."""
    return await switch(tenant_id, request, door, False)


async def switch(tenant_id: UUID, request: Request, door: Door[WriteSession], suspended: bool) -> Response:
    found = await visible(door.session, door.caller, tenant_id)
    await operators_only(door)

    async def run() -> Reply:
        session = door.session
        await session.enter(tenant_id)
        await session.execute("SELECT 1 FROM tenant WHERE id = :id FOR UPDATE", {"id": tenant_id})
        view = queries.tenant_view(await queries.tenant(session, tenant_id))
        require_version(request, view["version"], view)
        if found.operator:
            raise Problem("wrong_state", "The operator's own tenant is not suspended.", current=view)
        not_already("tenant", view, suspended, "version")
        await actions.suspend_tenant(session, suspended, door.caller)
        await session.enter(door.caller.tenant)
        await ledger.record(session, door.caller, "tenant.suspended" if suspended else "tenant.resumed", tenant_id)
        return tagged(queries.tenant_view(await queries.tenant(session, tenant_id)))

    return await once(door, f"tenants.{'suspend' if suspended else 'resume'}", run)


async def visible(session: ReadSession, caller: Caller, tenant_id: UUID) -> Any:
    found = await queries.tenant(session, tenant_id)
    if found is None or (found.id != caller.tenant and not is_admin(caller)):
        raise Problem("not_found", "There is no such tenant.")
    return found


async def operators_only(door: Door[WriteSession]) -> None:
    """Raises Problem forbidden to admins of any tenant but the operator's."""
    own = await queries.tenant(door.session, door.caller.tenant)
    if not own.operator:
        raise Problem(
            "forbidden", "Tenants are made and suspended by admins of the operator's tenant.", action="tenants.write"
        )
