"""From a presented secret to a caller."""

from sqlalchemy import text

from app.caller import Caller
from app.canonical import sha256
from app.db import ReadSession

LOOKUP = text("SELECT * FROM authenticate(:secret_sha256)")


async def authenticate(session: ReadSession, secret: str) -> Caller | None:
    """The live principal behind an API key, or None. Asked anew for every request, so a revoked key is dead at once."""
    if not 16 <= len(secret) <= 200 or not secret.isascii():
        return None
    # Keys hold 256 bits of randomness, so a plain digest is as good as a slow one, and an index finds it.
    row = await session.first(LOOKUP, {"secret_sha256": sha256(secret.encode())})
    if row is None:
        return None
    return Caller(
        tenant=row.tenant,
        principal=row.principal,
        actor=f"principal:{row.principal}",
        name=row.name,
        kind=row.kind,
        roles=frozenset(row.roles),
        secret=secret,
        credential=row.credential,
        credential_kind=row.credential_kind,
    )
