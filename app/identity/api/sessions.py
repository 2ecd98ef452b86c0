"""Sessions over HTTP: a JWT of the identity provider for a secret of our own; and who one is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Response

from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Door, Reply, Routes, reading, writing
from app.http.doors import Bearer, admit, before_lookup, judged, mark
from app.identity import actions, queries
from app.identity.api.models import EndedView, SessionView, WhoView
from app.identity.exchange import Granted
from app.identity.oidc import Unacceptable, Verified, looks_like_jwt
from app.identity.roles import ACTIONS
from app.identity.sessions import NewSession, open_session

router = Routes(tags=["identity"])
NOBODY = "The API key is unknown, expired or revoked."


@dataclass
class TokenDoor:
    """What the exchange works with: a verified token. No tenant is entered yet."""

    session: WriteSession
    token: str
    verified: Verified


def exchanging(action: str) -> Any:
    """A dependency giving TokenDoor to whoever presents a genuine token; a key or session has nothing to exchange."""

    async def enter(request: Request, bearer: Bearer) -> AsyncIterator[TokenDoor]:
        await before_lookup(request, bearer)
        state = request.app.state
        if bearer is None or not looks_like_jwt(bearer.credentials):
            async with state.database.read() as session:
                await admit(session, request, bearer, action)
            raise Problem("forbidden", "A session is given for a JWT of the identity provider only.", action=action)
        async with judged(request, bearer.credentials) as attempt:
            verified = await verify(request, bearer.credentials)
            async with state.database.write() as session:
                yield TokenDoor(session, bearer.credentials, verified)
            attempt.found_good()

    return mark(enter, action)


async def verify(request: Request, token: str) -> Verified:
    """Raises Problem unauthenticated without a reason: whoever guesses learns nothing. The log has it."""
    state = request.app.state
    if state.verifier is not None:
        try:
            found: Verified = await state.verifier.verify(token)
            return found
        except Unacceptable as refused:
            state.log.info("token refused", reason=str(refused))
    raise Problem("unauthenticated", NOBODY)


async def exchange_here(request: Request, token: str) -> Granted | None:
    """The exchange as the registrar does it for callers who show it a token."""
    try:
        verified = await verify(request, token)
    except Problem as refused:
        if refused.code != "unauthenticated":
            raise
        return None
    async with request.app.state.database.write() as session:
        made = await open_session(session, verified, token)
    return Granted(made.secret, made.expires_at) if made else None


@router.post(
    "/v1/sessions",
    operation_id="createSession",
    status_code=201,
    response_model=SessionView,
    summary="Exchange a JWT for a session",
)
async def create_session(door: Annotated[TokenDoor, exchanging("sessions.create")]) -> Response:
    """The bearer is a JWT of the identity provider; the answer holds a secret that is used like an API key, for an hour at
    most and not beyond the token's end. It is shown once."""
    made: NewSession | None = await open_session(door.session, door.verified, door.token)
    if made is None:
        raise Problem("unauthenticated", NOBODY)
    body = {
        "id": made.id,
        "tenant_id": made.tenant,
        "principal_id": made.principal,
        "expires_at": iso(made.expires_at),
        "secret": made.secret,
    }
    return Reply(body, 201, {"Cache-Control": "no-store"}).response()


@router.delete(
    "/v1/sessions/current", operation_id="endSession", response_model=EndedView, summary="End the session in use"
)
async def end_session(door: Annotated[Door[WriteSession], writing("sessions.end")]) -> Response:
    """Ends the presented session at once, in every process; the JWT it was given for opens no other."""
    if door.caller.credential_kind != "session" or door.caller.credential is None:
        raise Problem(
            "wrong_state",
            "The request carries an API key, not a session.",
            current={"kind": door.caller.credential_kind},
        )
    ended = await actions.end_session(door.session, door.caller.credential, door.caller)
    return Reply({"ended": int(ended)}).response()


@router.get("/v1/whoami", operation_id="whoami", response_model=WhoView, summary="Who am I?")
async def whoami(door: Annotated[Door[ReadSession], reading("self.read")]) -> Response:
    """The principal behind the presented credential, its roles, what they allow, and where each comes from."""
    caller, session = door.caller, door.session
    ends = await queries.end_of_credential(session, caller.credential_kind, caller.credential)
    body = {
        "tenant_id": caller.tenant,
        "principal_id": caller.principal,
        "name": caller.name,
        "kind": caller.kind,
        "roles": sorted(caller.roles),
        "actions": sorted(action for action, roles in ACTIONS.items() if roles & caller.roles),
        "credential": {"id": caller.credential, "kind": caller.credential_kind, "expires_at": queries.stamp(ends)},
        "grants": [queries.grant_view(row) for row in await queries.live_grants(session, caller.principal)],
    }
    return Reply(body).response()
