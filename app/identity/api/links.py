"""A one-time link for a session of the console. Served by the registrar alone, to whoever reaches its private address."""

from fastapi import Request, Response

from app.clock import iso
from app.errors import Problem
from app.http import Reply, Routes
from app.http.doors import Bearer, before_lookup, judged, no_key
from app.http.limits import client_of, networks
from app.identity.links import Used, use_link

router = Routes()
PATH = "/console-sessions"
NO_LINK = "The link is unknown, was used, or its five minutes are over."


@router.post(PATH, include_in_schema=False, status_code=201)
async def use(request: Request, bearer: Bearer) -> Response:
    """Uses the link whose secret is the bearer. The API says where the request came from; only this machine may."""
    state = request.app.state
    if bearer is None or not bearer.credentials:
        raise no_key()
    here = client_of(request, networks(state.settings.trusted_proxies))
    if here is None or not here.is_loopback:
        raise Problem("unauthenticated", "A link is used on the machine where it was made.")
    await before_lookup(request, bearer)
    async with judged(request, bearer.credentials) as attempt:
        try:
            async with state.database.write() as session:
                made = await use_link(session, bearer.credentials)
        except Used:
            made = None
        if made is None:
            raise Problem("unauthenticated", NO_LINK)
        attempt.found_good()
    body = {"secret": made.secret, "expires_at": iso(made.expires_at)}
    return Reply(body, 201, {"Cache-Control": "no-store"}).response()
