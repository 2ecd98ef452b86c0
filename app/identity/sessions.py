"""Sessions: a verified token becomes a short-lived secret of our own, which every process and the wall can look up."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from app import ledger
from app.caller import Caller
from app.canonical import sha256
from app.clock import new_id, now
from app.db import WriteSession
from app.identity.oidc import Verified

LIFE = timedelta(hours=1)
SECRET_BYTES = 32


@dataclass(frozen=True)
class NewSession:
    """A session at the only moment its secret is known."""

    id: UUID
    tenant: UUID
    principal: UUID
    expires_at: datetime
    secret: str = field(repr=False)


def new_secret() -> str:
    """A session's secret; lists and logs show its beginning."""
    return f"ms_{secrets.token_hex(4)}_{secrets.token_urlsafe(SECRET_BYTES)}"


async def open_session(session: WriteSession, who: Verified, token: str) -> NewSession | None:
    """A session for whom the token names, until the token ends and for an hour at most. The session has entered the tenant.

    None when the subject is linked to nobody live, when a session of this very token was ended, or when all sessions of
    the principal were ended after the token was issued.
    """
    found = await session.first(
        "SELECT * FROM principal_of_subject(:issuer, :subject)", {"issuer": who.issuer, "subject": who.subject}
    )
    if found is None:
        return None
    await session.enter(found.tenant)
    named = {"tenant": found.tenant, "principal": found.principal}
    since = await session.scalar(
        "SELECT sessions_from FROM principal WHERE tenant = :tenant AND id = :principal FOR SHARE", named
    )
    if since is not None and who.issued_at <= since.replace(microsecond=0):  # tokens count whole seconds
        return None
    # Of what was signed, not of the signature: of one on an elliptic curve anybody makes another.
    digest = sha256(token.rpartition(".")[0].encode())
    ended = await session.scalar(
        "SELECT 1 FROM session WHERE tenant = :tenant AND token_sha256 = :digest AND revoked_at IS NOT NULL LIMIT 1",
        {"tenant": found.tenant, "digest": digest},
    )
    if ended:
        return None
    ends = min(who.expires_at, now() + LIFE)
    if ends <= now():
        return None
    made = NewSession(
        new_id(),
        found.tenant,
        found.principal,
        ends,
        new_secret(),
    )
    await session.execute(
        """INSERT INTO session (tenant, id, principal, secret_sha256, origin, token_sha256, expires_at)
           VALUES (:tenant, :id, :principal, :secret, 'oidc', :digest, :expires_at)""",
        named
        | {"id": made.id, "secret": sha256(made.secret.encode()), "digest": digest, "expires_at": made.expires_at},
    )
    caller = Caller(found.tenant, found.principal, f"principal:{found.principal}")
    await ledger.record(
        session, caller, "session.started", found.tenant, principal=found.principal, session=made.id, origin="oidc"
    )
    return made
