"""Signing in: at the identity provider (authorization code with PKCE), or with a one-time link on this machine."""

import asyncio
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app import identity, outbound
from app.clock import now
from app.console import door
from app.console.render import page
from app.errors import Problem
from app.http.edge import request_id
from app.http.limits import client_of, networks
from app.identity.oidc import place

SCOPE = "console-login"
TRY_S = 600  # how long somebody may take at the provider
FETCH_S, MAX_DOCUMENT = 10.0, 256 * 1024


@dataclass(frozen=True)
class Session:
    """A session at the moment it begins."""

    secret: str
    expires_at: datetime


def inside_only(said: str) -> str:
    """Where to go after signing in: a page of the console and nothing else."""
    safe = (
        said.startswith("/console") and not said.startswith("/console/login") and said.isascii() and said.isprintable()
    )
    return said if safe and "\\" not in said and "//" not in said and len(said) < 1000 else "/console"


def shown(request: Request, status: int = 200, problem: str = "", onward: str = "") -> Response:
    """The page of whom nobody knows yet."""
    settings = request.app.state.settings
    content = page(
        "login.html",
        problem=problem,
        onward=inside_only(onward or request.url.path),
        oidc=settings.oidc_client_id is not None,
        local=door.loopback(request),
        issuer=urlsplit(settings.oidc_issuer or "").hostname or "",
    )
    return door.html(content, status)


def begin(request: Request, session: Session, onward: str) -> Response:
    """Signed in: the cookie, and on to where they wanted."""
    response = RedirectResponse(inside_only(onward), 303)
    door.keep(response, request, door.COOKIE, session.secret, max(1, int((session.expires_at - now()).total_seconds())))
    door.forget(response, request, door.LOGIN_COOKIE)
    return response


async def by_link(request: Request, link: str, onward: str) -> Response:
    """Uses a one-time link, or says why it cannot be."""
    if not door.loopback(request):
        return shown(
            request, 403, "A one-time link works on the machine where it was made, at 127.0.0.1 or localhost.", onward
        )
    link = link.strip().rpartition("link=")[2]
    if not 16 <= len(link) <= 200 or not link.replace("_", "").replace("-", "").isalnum() or not link.isascii():
        return shown(request, 401, "This is no link: make one with `mission-root console-link --as NAME`.", onward)
    answer = await request.app.state.upstream.send(
        "POST",
        identity.LINK_PATH.encode(),
        {"authorization": f"Bearer {link}", "host": "registrar"},
        client=str(client_of(request, networks(request.app.state.settings.trusted_proxies))),
        request_id=request_id(request),
    )
    if answer.status == 429:
        return shown(request, 429, "Too many attempts. Wait a minute, then try again.", onward)
    if answer.status != 201:
        why = "The link was used already, or its five minutes are over. Make another with `mission-root console-link --as NAME`."
        return shown(request, 401, why, onward)
    said = json.loads(answer.body)
    return begin(request, Session(said["secret"], datetime.fromisoformat(said["expires_at"])), onward)


# ------------------------------------------------------------------ the identity provider


def http_of(settings: Any) -> httpx.AsyncClient:
    """A client of the provider, which may stand in a private network: the deployment itself names it."""
    return outbound.client(
        allowed=frozenset(settings.outbound_hosts() | {place(settings.oidc_issuer)}),
        any_public=True,
        timeout_s=FETCH_S,
        connect_s=2.0,
        max_bytes=MAX_DOCUMENT,
    )


async def provider(http: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
    """The provider's own word on where it is. Raises httpx.HTTPError, ValueError."""
    answer = await http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    answer.raise_for_status()
    said: dict[str, Any] = answer.json()
    if said.get("issuer") != issuer:
        raise ValueError("the discovery document is another issuer's")
    return said


def callback_of(settings: Any) -> str:
    return f"{settings.console_base_url}/console/login/callback"


async def leave(request: Request) -> Response:
    """To the provider. What has to match when the browser comes back is kept, sealed, in a cookie of its own."""
    settings = request.app.state.settings
    if settings.oidc_client_id is None:
        raise Problem("not_found", "Nobody signs in here by OIDC.")
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    try:
        async with asyncio.timeout(FETCH_S), http_of(settings) as http:
            found = await provider(http, settings.oidc_issuer)
        url = protocol().ask(
            found["authorization_endpoint"],
            settings.oidc_client_id,
            "code",
            callback_of(settings),
            "openid",
            state,
            nonce=nonce,
            code_challenge=protocol().challenge(verifier),
            code_challenge_method="S256",
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, TimeoutError):
        return shown(request, 503, "The identity provider does not answer. Try again in a moment.")
    response = RedirectResponse(url, 303)
    onward = inside_only(request.query_params.get("next", ""))
    kept = request.app.state.cursors.seal(SCOPE, [state, nonce, verifier, onward, int(time.time()) + TRY_S])
    door.keep(response, request, door.LOGIN_COOKIE, kept, TRY_S)
    return response


async def come_back(request: Request) -> Response:
    """From the provider: the code becomes tokens, a token becomes a session. The registrar judges the token, not this process."""
    asked = request.query_params
    try:
        kept = request.app.state.cursors.open(SCOPE, request.cookies.get(door.LOGIN_COOKIE), 5)
    except Problem:
        kept = None
    if kept is None or kept[4] < time.time():
        return shown(request, 401, "Signing in took too long, or began in another browser. Begin again.")
    state, nonce, verifier, onward, _ = kept
    if not hmac.compare_digest(asked.get("state", "").encode(), state.encode()):
        return shown(request, 401, "This answer belongs to another attempt to sign in. Begin again.")
    if not asked.get("code"):
        return shown(request, 401, "The identity provider did not sign you in.", onward)
    try:
        token = await exchange_code(request.app.state.settings, asked["code"], verifier, nonce)
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        ValueError,
        KeyError,
        TypeError,
        TimeoutError,
        *protocol().ERRORS,
    ):
        return shown(request, 401, "The identity provider's answer cannot be used. Begin again.", onward)
    granted = await request.app.state.exchange.ask(request, token)
    if granted is None:
        who = "Nobody here is linked to you at the identity provider, or you were suspended: ask an admin to link you."
        return shown(request, 403, who, onward)
    return begin(request, Session(granted.secret, granted.expires_at), onward)


async def exchange_code(settings: Any, code: str, verifier: str, nonce: str) -> str:
    """The token that stands for the person: the access token where it is a JWT, else the ID token. Which of the provider's keys
    signed it, and whom it is for, the registrar looks at; here, that it answers what this browser asked."""
    secret = settings.oidc_client_secret
    sent = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": callback_of(settings),
        "code_verifier": verifier,
        "client_id": settings.oidc_client_id,
    }
    who = httpx.BasicAuth(settings.oidc_client_id, secret.get_secret_value()) if secret else httpx.Auth()
    async with asyncio.timeout(FETCH_S), http_of(settings) as http:
        found = await provider(http, settings.oidc_issuer)
        answer = await http.post(found["token_endpoint"], data=sent, auth=who, headers={"Accept": "application/json"})
    answer.raise_for_status()
    tokens = answer.json()
    protocol().check(tokens["id_token"], settings.oidc_issuer, settings.oidc_client_id, nonce)
    access = str(tokens.get("access_token", ""))
    return access if access.count(".") == 2 else str(tokens["id_token"])


@cache
def protocol() -> Any:
    """Authlib's part of it, imported when somebody signs in and not when the process starts."""
    from app.console import oidc

    return oidc
