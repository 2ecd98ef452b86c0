"""Who is at the console: a session in a cookie, looked up anew for every request; forms that only our own pages send.

The cookie holds the secret of a row in the table `session`, which the registrar alone writes. It is to PostgreSQL what an
API key is, so a decision made here is proved to the wall as any other.
"""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from app.caller import Caller
from app.errors import Problem
from app.http.bodies import read_body
from app.http.doors import bad_key, judged, look_up
from app.http.limits import Network, client_of, networks, plain, within

COOKIE, LOGIN_COOKIE = "mission_root_console", "mission_root_login"
FIELDS = 300
BETWEEN = frozenset({"forwarded", "via", "x-real-ip"})  # what proxies say of themselves, beside X-Forwarded-*

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send forms without an origin to check
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def html(content: str, status: int = 200, more: Mapping[str, str] | None = None) -> Response:
    """A page: never stored, and with what a browser may do on it. more: headers of the answer that it tells of."""
    return HTMLResponse(content, status, {**(more or {}), **HEADERS, "Cache-Control": "no-store"})


class SignIn(Exception):
    """Nobody is signed in, or no longer."""


async def signed_in(request: Request) -> Caller:
    """Whoever the cookie's session belongs to now. Raises SignIn; Problem rate_limited when cookies are being guessed."""
    secret = request.cookies.get(COOKIE, "")
    if not 16 <= len(secret) <= 200 or not secret.isascii():
        raise SignIn
    state = request.app.state
    await state.limits.before_lookup(request, secret)
    try:
        async with judged(request, secret) as attempt:
            caller = await look_up(state, secret)
            if caller.credential_kind != "session":  # a key is for programs: in a cookie it would live on
                raise bad_key()
            attempt.found_good()
    except Problem as refused:
        if refused.code != "unauthenticated":
            raise
        raise SignIn from None
    return caller


def token(secret: str) -> str:
    """What a form of this session carries to show that one of our pages made it."""
    return hmac.new(secret.encode(), b"console-form-v1", sha256).hexdigest()


async def form(request: Request, secret: str | None = None) -> "Form":
    """The fields of a form that one of our own pages sent. Raises Problem forbidden for anything else.

    secret: of the session whose token the form has to carry; None for the form that begins a session.
    """
    if not own_origin(request):
        raise Problem("forbidden", "The form was sent from another site.", action="console")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem("unsupported_media_type", "A form is sent as application/x-www-form-urlencoded.")
    body = await read_body(request, request.app.state.settings.max_body_bytes)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except (ValueError, UnicodeError):
        raise Problem("malformed", "The form cannot be read.") from None
    found = Form(
        [(name, value.replace("\r\n", "\n")) for name, value in pairs]
    )  # forms send every line end as two characters
    if secret is not None and not hmac.compare_digest(found.get("token").encode(), token(secret).encode()):
        raise Problem(
            "forbidden", "The form is of another session. Reload the page and send it again.", action="console"
        )
    return found


class Form:
    """The fields of a form; a field that is not there is empty."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def get(self, name: str) -> str:
        return next((value for key, value in self.pairs if key == name), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]

    def under(self, prefix: str) -> dict[str, str]:
        return {key.removeprefix(prefix): value for key, value in self.pairs if key.startswith(prefix)}


def loopback(request: Request) -> bool:
    """Whether the request comes from this machine, and was meant for it: a foreign name that leads here is none of ours, and a
    proxy that nobody named brings whoever asks it."""
    trusted = networks(request.app.state.settings.trusted_proxies)
    if relayed(request, trusted):
        return False
    address = client_of(request, trusted)
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:  # a bracket without its other half
        return False
    named = plain(host)
    return bool(address is not None and address.is_loopback) and (
        host == "localhost" or bool(named is not None and named.is_loopback)
    )


def relayed(request: Request, trusted: Sequence[Network]) -> bool:
    """Whether somebody in between has passed the request on who is not in TRUSTED_PROXIES: its address is theirs."""
    peer = plain(request.client.host if request.client else "")
    if peer is not None and within(peer, trusted):
        return False
    return any(name in BETWEEN or name.startswith("x-forwarded-") for name in request.headers)


def own_origin(request: Request) -> bool:
    """Whether a form comes from a page of ours: by its Origin, or, where a browser sends none, by what it says of the site.

    Ours is CONSOLE_BASE_URL where that is set, and this machine's own address for who sits at it: links work there whether the
    identity provider does or not.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    own = request.app.state.settings.console_base_url
    allowed = {urlsplit(own).netloc.lower()} if own else set()
    if own is None or loopback(request):
        allowed.add(request.headers.get("host", "").lower())
    scheme, _, place = origin.lower().partition("://")
    return scheme in ("http", "https") and place in allowed


def secure(request: Request) -> bool:
    """Whether the browser came by TLS, as far as can be known: in front of a named console something ends it."""
    own = request.app.state.settings.console_base_url
    return urlsplit(own).scheme == "https" if own and not loopback(request) else request.url.scheme == "https"


def keep(response: Response, request: Request, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name, value, max_age=seconds, path="/console", secure=secure(request), httponly=True, samesite="lax"
    )


def forget(response: Response, request: Request, name: str) -> None:
    response.delete_cookie(name, path="/console", secure=secure(request), httponly=True, samesite="lax")
