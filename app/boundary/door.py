"""Who calls the internal API: a signature by a shared key, a nonce used once, and a token for exactly one attempt."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request

from app.caller import SYSTEM, Caller
from app.db import Database
from app.errors import Problem
from app.http import read_body
from app.telemetry import STRANGERS, begin
from colony_client import signing, tokens
from colony_client.contract import CONTRACT_VERSION, MAX_BODY_BYTES, VERSION_HEADER
from colony_client.errors import SignatureRefused, TokenRefused, VersionRefused
from colony_client.versions import spoken_with

REASONS = (*SignatureRefused.__subclasses__(), TokenRefused, *TokenRefused.__subclasses__())
MOST_NONCES = 50_000  # that one process remembers
NONCE_LIFE_S = 660.0  # as long as PostgreSQL remembers them (30_work.sql); then a nonce may be used anew
begin(STRANGERS, [reason.__name__ for reason in REASONS])


@dataclass(frozen=True)
class Signed:
    """A call whose signature is genuine, and the version of the contract to answer it in."""

    kid: str
    nonce: str
    body: bytes
    version: str

    def caller(self, tenant: UUID) -> Caller:
        return Caller(tenant=tenant, principal=SYSTEM, actor=f"colony:{self.kid}", name="colony")


async def genuine(request: Request) -> Signed:
    """Reads the body and checks the signature over its bytes; the nonce has still to be used, by whatever becomes of the call.

    Raises Problem unauthenticated, the same for every reason; and version_unsupported, which no stranger is told.
    """
    body = await read_body(request, MAX_BODY_BYTES)
    path = signing.signed_path(request.scope)
    try:
        found = signing.check(request.app.state.colony_keys, request.method, path, body, "root", request.headers)
    except SignatureRefused as refused:
        raise stranger(request, type(refused).__name__) from None
    try:
        version = spoken_with(request.headers.get(VERSION_HEADER))
    except VersionRefused as refused:
        raise Problem(
            "version_unsupported",
            f"The contract is spoken in version {refused.ours} here, not in {refused.theirs}.",
            spoken=CONTRACT_VERSION,
            asked=refused.theirs,
        ) from None
    return Signed(found.kid, found.nonce, body, version)


async def signed(request: Request) -> Signed:
    """The same with its nonce used: what follows may fail, it stays used."""
    call = await genuine(request)
    await spend(request, call)
    return call


async def spend(request: Request, call: Signed) -> None:
    """Uses the nonce of a call. Raises Problem unauthenticated when it was used before."""
    if not await request.app.state.nonces.use(call):
        raise stranger(request, "SignatureReplayed")


def stranger(request: Request, reason: str) -> Problem:
    STRANGERS.labels(reason).inc()
    request.app.state.log.warning("signature refused", reason=reason, path=request.url.path)
    return unknown()


class Nonces:
    """The nonces of signed calls. Postgres keeps them for every root process; what this one has seen used it need not ask about."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.used: OrderedDict[tuple[str, str], float] = OrderedDict()  # and when, on the monotonic clock

    def seen(self, call: Signed) -> bool:
        """Whether this process knows that the nonce of a call was used: then somebody sends again what was sent before."""
        used_at = self.used.get((call.kid, call.nonce))
        return used_at is not None and time.monotonic() - used_at < NONCE_LIFE_S

    def note(self, call: Signed) -> None:
        """The nonce is used, by whichever statement."""
        self.used[call.kid, call.nonce] = time.monotonic()
        self.used.move_to_end((call.kid, call.nonce))
        while len(self.used) > MOST_NONCES:
            self.used.popitem(last=False)

    async def use(self, call: Signed) -> bool:
        """Uses a nonce in a transaction of its own. False: it was used before."""
        if self.seen(call):
            return False
        async with self.database.write() as session:
            used = await session.execute(
                "INSERT INTO nonce (kid, nonce) VALUES (:kid, :nonce) ON CONFLICT DO NOTHING",
                {"kid": call.kid, "nonce": call.nonce},
            )
        self.note(call)
        return bool(used.rowcount)


def token(request: Request, mission: UUID, audience: tokens.TokenAudience = "callback") -> tokens.MissionToken:
    """The mission token of a call. Raises Problem unauthenticated."""
    scheme, _, said = request.headers.get("authorization", "").partition(" ")
    return proven(request, mission, said.strip() if scheme.lower() == "bearer" else None, audience)


def proven(
    request: Request, mission: UUID, said: str | None, audience: tokens.TokenAudience = "callback"
) -> tokens.MissionToken:
    """What a token says that is ours, alive, and of this mission. Raises Problem unauthenticated."""
    try:
        if said is None:
            raise TokenRefused("no token")
        return tokens.verify(request.app.state.signing_keys, said, audience=audience, mission=mission)
    except TokenRefused as refused:
        STRANGERS.labels(type(refused).__name__).inc()
        request.app.state.log.warning("mission token refused", reason=type(refused).__name__, mission=str(mission))
        raise unknown() from None


def unknown() -> Problem:
    return Problem("unauthenticated", "The call is not signed by a current key, or its mission token is not valid.")
