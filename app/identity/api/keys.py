"""API keys over HTTP: everybody looks after their own, admins after those of services and newcomers."""

from datetime import timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from app.clock import now
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading, writing
from app.identity import actions, queries
from app.identity.api.models import KeyAsk, KeyView, NewKeyView, RotateAsk
from app.identity.api.principals import own_or_known
from app.identity.api.shared import refusal
from app.identity.rights import is_admin, may_equip, own_or_admin
from app.listing import behind

router = Routes(tags=["identity"])


@router.get("/v1/api-keys", operation_id="listApiKeys", response_model=Page[KeyView], summary="API keys")
async def list_keys(
    request: Request,
    door: Annotated[Door[ReadSession], reading("keys.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    principal_id: UUID | None = None,
) -> Response:
    """The caller's keys, newest first; an admin sees the tenant's, of one principal when asked. Never a secret."""
    # Both, for who is no admin: asking for somebody else's keys then finds none.
    seen = queries.KEYS if is_admin(door.caller) else f"{queries.KEYS} AND principal = :caller"
    found = partial(behind, door.session, seen, only={"principal": principal_id}, caller=door.caller.principal)
    return await paged(request, "keys", limit, cursor, found, queries.key_view)


@router.get("/v1/api-keys/{key_id}", operation_id="getApiKey", response_model=KeyView, summary="One API key")
async def get_key(key_id: UUID, door: Annotated[Door[ReadSession], reading("keys.read")]) -> Response:
    """A key by its id: prefix and times, never the secret."""
    return Reply(queries.key_view(await known(door, key_id))).response()


@router.post(
    "/v1/api-keys", operation_id="createApiKey", status_code=201, response_model=NewKeyView, summary="Make an API key"
)
async def create_key(ask: KeyAsk, door: Annotated[Door[WriteSession], writing("keys.write")]) -> Response:
    """Makes a key; its secret is in this answer and never again. For another principal only an admin, and not for an approver
    who has a credential already: whoever held it could decide in their name."""
    principal = ask.principal_id or door.caller.principal
    await own_or_known(door.session, door.caller, principal)
    if ask.expires_at is not None and ask.expires_at <= now():
        raise refusal("/expires_at", "must lie ahead")

    async def run() -> Reply:
        await may_equip(door.session, door.caller, principal)
        made = await actions.issue_key(door.session, principal, expires_at=ask.expires_at, caller=door.caller)
        return await shown(door, made)

    return await once(door, "keys.create", run)


@router.post(
    "/v1/api-keys/{key_id}/rotate",
    operation_id="rotateApiKey",
    status_code=201,
    response_model=NewKeyView,
    summary="Rotate an API key",
)
async def rotate_key(
    key_id: UUID, ask: RotateAsk, door: Annotated[Door[WriteSession], writing("keys.write")]
) -> Response:
    """Makes the next key for the same principal; this one lives on for overlap_s seconds and then ends."""
    old = await known(door, key_id)

    async def run() -> Reply:
        await may_equip(door.session, door.caller, old.principal)
        made = await actions.rotate_key(door.session, key_id, timedelta(seconds=ask.overlap_s), door.caller)
        if made is None:
            view = queries.key_view(await queries.key(door.session, key_id))
            raise Problem(
                "wrong_state", "Only a live key is rotated.", current={"id": str(key_id), "state": view["state"]}
            )
        return await shown(door, made)

    return await once(door, "keys.rotate", run)


@router.delete(
    "/v1/api-keys/{key_id}", operation_id="revokeApiKey", response_model=KeyView, summary="Revoke an API key"
)
async def revoke_key(key_id: UUID, door: Annotated[Door[WriteSession], writing("keys.write")]) -> Response:
    """Ends a key at once, in every process. Revoking it again changes nothing."""
    await known(door, key_id)
    await actions.revoke_key(door.session, key_id, door.caller)
    return Reply(queries.key_view(await queries.key(door.session, key_id))).response()


async def known(door: Door[Any], key_id: UUID) -> Any:
    found = await queries.key(door.session, key_id)
    if found is None:
        raise Problem("not_found", "There is no such key.")
    own_or_admin(door.caller, found.principal, "key")
    return found


async def shown(door: Door[WriteSession], made: actions.NewKey) -> Reply:
    view = queries.key_view(await queries.key(door.session, made.id))
    headers = {"Location": f"/v1/api-keys/{made.id}"}
    return Reply({**view, "secret": made.secret}, 201, headers, secrets=("secret",))
