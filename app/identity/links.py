"""One-time links into the console: made on the command line of the installation, used once, from this machine, in minutes."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from app import ledger
from app.caller import Caller, system
from app.canonical import sha256
from app.clock import new_id, now
from app.db import WriteSession, sqlstate
from app.identity.sessions import SECRET_BYTES, NewSession, new_secret

LINK_LIFE = timedelta(minutes=5)
SESSION_LIFE = timedelta(
    hours=8
)  # a working day; ended earlier by signing out, or by whoever ends the principal's sessions
USED = "RX038"


@dataclass(frozen=True)
class NewLink:
    """A link at the only moment its secret is known."""

    id: UUID
    expires_at: datetime
    secret: str = field(repr=False)


async def make_link(session: WriteSession, principal: UUID) -> NewLink:
    """A link for a principal of the session's tenant. Runs as role registrar."""
    assert session.tenant is not None
    made = NewLink(new_id(), now() + LINK_LIFE - timedelta(seconds=1), f"ml_{secrets.token_urlsafe(SECRET_BYTES)}")
    await session.execute(
        """INSERT INTO console_link (tenant, id, principal, secret_sha256, expires_at)
           VALUES (:tenant, :id, :principal, :secret, :expires_at)""",
        {
            "tenant": session.tenant,
            "id": made.id,
            "principal": principal,
            "secret": sha256(made.secret.encode()),
            "expires_at": made.expires_at,
        },
    )
    by = system(session.tenant, "registrar")
    await ledger.record(session, by, "session.link_made", session.tenant, principal=principal, link=made.id)
    return made


async def use_link(session: WriteSession, secret: str) -> NewSession | None:
    """The session that a link becomes. None when it is unknown, used, over, or its person may not act."""
    found = await session.first("SELECT * FROM link_of(:secret)", {"secret": sha256(secret.encode())})
    if found is None:
        return None
    await session.enter(found.tenant)
    made = NewSession(new_id(), found.tenant, found.principal, now() + SESSION_LIFE, new_secret())
    await session.execute(
        """INSERT INTO session (tenant, id, principal, secret_sha256, origin, expires_at)
           VALUES (:tenant, :id, :principal, :secret, 'console', :expires_at)""",
        {
            "tenant": found.tenant,
            "id": made.id,
            "principal": found.principal,
            "secret": sha256(made.secret.encode()),
            "expires_at": made.expires_at,
        },
    )
    try:
        await session.execute(
            "UPDATE console_link SET session = :session WHERE tenant = :tenant AND id = :id",
            {"tenant": found.tenant, "id": found.id, "session": made.id},
        )
    except DBAPIError as refused:
        if sqlstate(refused) != USED:
            raise
        raise Used from refused  # the session goes with the transaction
    caller = Caller(found.tenant, found.principal, f"principal:{found.principal}")
    await ledger.record(
        session, caller, "session.started", found.tenant,
        principal=found.principal, session=made.id, origin="console", link=found.id,
    )  # fmt: skip
    return made


class Used(Exception):
    """Somebody was faster with the same link. Nothing was kept."""
