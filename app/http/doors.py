"""The way into a verb: an open session, an authenticated caller, and the right to take this action.

`Depends(..., scope="function")` matters: the session's block, and so the commit, ends before the response is sent. A
client that sees 2xx can rely on the row; a commit that fails is answered as the error it is.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.caller import Caller
from app.canonical import mark_of
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http.edge import request_id

BEARER = HTTPBearer(auto_error=False, description="An API key.", scheme_name="api_key")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
Session = TypeVar("Session", bound=ReadSession)


@dataclass
class Door(Generic[Session]):
    """What a route works with. The session has entered the caller's tenant."""

    session: Session
    caller: Caller
    request: Request


@dataclass
class Internal:
    """What an internal route works with: a signed call of the colony; no tenant is entered yet."""

    session: WriteSession
    kid: str
    request: Request


@dataclass(frozen=True)
class Call:
    """What a route works with whose verb opens transactions of its own, and confirms the caller in them."""

    caller: Caller
    request: Request


def calling(action: str) -> Any:
    """A dependency giving Call to callers who might take `action` when they were last looked up."""

    async def enter(request: Request, bearer: Bearer) -> Call:
        bearer = await presented(request, bearer)
        if bearer is None or not bearer.credentials:
            raise no_key()
        state = request.app.state
        caller = state.callers.get(bearer.credentials)
        if caller is None or not state.allow(action, caller):  # a right may be new
            caller = await look_up(state, bearer.credentials)
        await welcome(request, caller, action)
        return Call(caller, request)

    return mark(enter, action)


async def look_up(state: Any, secret: str) -> Caller:
    """The caller as they are now. Raises Problem unauthenticated."""
    caller: Caller | None = await state.callers.look_up(secret)
    if caller is None:
        state.limits.failed(secret)
        raise bad_key()
    return caller


async def welcome(request: Request, caller: Caller, action: str) -> None:
    """One request of a caller, counted and allowed. Raises Problem rate_limited or forbidden."""
    state = request.app.state
    structlog.contextvars.bind_contextvars(tenant_id=str(caller.tenant))
    state.limits.succeeded(request, caller.secret)
    await state.limits.admit(request, caller)
    permit(state, caller, action)


def permit(state: Any, caller: Caller, action: str) -> None:
    if not state.allow(action, caller):
        raise Problem("forbidden", f"{caller.name} may not take the action {action}.", action=action)


def no_key() -> Problem:
    return Problem("unauthenticated", "The request carries no API key.")


def bad_key() -> Problem:
    return Problem("unauthenticated", "The API key is unknown, expired or revoked.")


def reading(action: str) -> Any:
    """A dependency giving Door[ReadSession] to callers who may take `action`."""

    async def enter(request: Request, bearer: Bearer) -> AsyncIterator[Door[ReadSession]]:
        bearer = await presented(request, bearer)
        async with request.app.state.database.read() as session:
            yield await admit(session, request, bearer, action)

    return mark(enter, action)


def writing(action: str) -> Any:
    """A dependency giving Door[WriteSession] to callers who may take `action`; commits when the route returns."""

    async def enter(request: Request, bearer: Bearer) -> AsyncIterator[Door[WriteSession]]:
        bearer = await presented(request, bearer)
        async with request.app.state.database.write() as session:
            session.request = mark_of(request_id(request))
            yield await admit(session, request, bearer, action)

    return mark(enter, action)


def admitting(action: str) -> Any:
    """A dependency giving the Caller alone, for routes that read a large body: no transaction is open meanwhile."""

    async def enter(request: Request, bearer: Bearer) -> AsyncIterator[Caller]:
        async with request.app.state.database.read() as session:
            caller = (await admit(session, request, bearer, action)).caller
        yield caller

    return mark(enter, action)


def mark(enter: Callable[..., Any], action: str) -> Any:
    enter.action = action  # type: ignore[attr-defined]  # the enumeration tests read it off the route
    return Depends(enter, scope="function")


async def admit(
    session: Session, request: Request, bearer: HTTPAuthorizationCredentials | None, action: str
) -> Door[Session]:
    """Authenticates the bearer, enters the tenant and checks the action. Raises Problem 401 or 403."""
    caller = await identify(session, request, bearer)
    permit(request.app.state, caller, action)
    return Door(session, caller, request)


async def before_lookup(request: Request, bearer: HTTPAuthorizationCredentials | None) -> None:
    """Guesses are counted before anything is looked up for them. Raises Problem rate_limited."""
    if bearer is not None and bearer.credentials:
        await request.app.state.limits.before_lookup(request, bearer.credentials)


async def presented(
    request: Request, bearer: HTTPAuthorizationCredentials | None
) -> HTTPAuthorizationCredentials | None:
    """The bearer as it is looked up: a JWT becomes the session it stands for, before any transaction begins, because others
    are asked about it. Raises Problem unauthenticated or rate_limited."""
    if bearer is None or not bearer.credentials:
        return bearer
    limits, exchange = request.app.state.limits, request.app.state.exchange
    shown = exchange.remembered(bearer.credentials)
    await limits.before_lookup(request, shown)
    async with judged(request, shown) as attempt:
        secret = await exchange(request, shown)
        if secret is None:
            raise bad_key()
        if secret != shown:  # a key is judged where it is looked up
            attempt.found_good(secret)
    return HTTPAuthorizationCredentials(scheme=bearer.scheme, credentials=secret)


@dataclass
class Attempt:
    """What became of an attempt to authenticate, as far as it is known."""

    good: bool = False
    stands_for: str | None = None

    def found_good(self, stands_for: str | None = None) -> None:
        self.good, self.stands_for = True, stands_for


@asynccontextmanager
async def judged(request: Request, secret: str) -> AsyncIterator[Attempt]:
    """Around the judging of a counted credential: a bad one stays counted, and one that nobody could judge does not."""
    limits, attempt = request.app.state.limits, Attempt()
    try:
        yield attempt
    except Problem as refused:
        if refused.code == "unauthenticated":
            limits.failed(secret)
        elif refused.code != "rate_limited":
            limits.undecided(request, secret)
        raise
    except Exception:
        limits.undecided(request, secret)
        raise
    if attempt.good:
        limits.succeeded(request, secret, attempt.stands_for)


async def identify(session: ReadSession, request: Request, bearer: HTTPAuthorizationCredentials | None) -> Caller:
    if bearer is None or not bearer.credentials:
        raise no_key()
    limits = request.app.state.limits
    caller: Caller | None = await request.app.state.authenticate(session, bearer.credentials)
    if caller is None:
        limits.failed(bearer.credentials)
        raise bad_key()
    await session.enter(caller.tenant)
    structlog.contextvars.bind_contextvars(tenant_id=str(caller.tenant))
    limits.succeeded(request, bearer.credentials)
    await limits.admit(request, caller)
    return caller
