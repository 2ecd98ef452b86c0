"""Idempotency-Key, done fully: the answer is stored in the transaction that did the work.

While the first request runs it holds an advisory lock, so a second one is told so at once. After it committed, the
stored answer is given again, byte for byte; another body under the same key is refused. A crash leaves neither.
"""

import re
from collections.abc import Awaitable, Callable

from fastapi import Response
from sqlalchemy import text

from app.canonical import sha256
from app.db import WriteSession
from app.errors import Problem
from app.http.doors import Door
from app.http.replies import Reply

KEY = re.compile(r"[\x21-\x7e]{1,255}")
LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 11))")
FIND = text("""SELECT fingerprint, status, headers, body FROM idempotency
               WHERE tenant = :tenant AND principal = :principal AND route = :route AND key = :key""")
KEEP = text("""INSERT INTO idempotency (tenant, principal, route, key, fingerprint, status, headers, body)
               VALUES (:tenant, :principal, :route, :key, :fingerprint, :status, CAST(:headers AS jsonb), :body)""")


async def once(door: Door[WriteSession], route: str, run: Callable[[], Awaitable[Reply]]) -> Response:
    """Runs a creating or deciding request, at most once per Idempotency-Key when the caller sent one."""
    key = door.request.headers.get("idempotency-key")
    if key is None:
        return (await run()).response()
    if not KEY.fullmatch(key):
        raise Problem(
            "validation",
            "Idempotency-Key must be 1 to 255 visible ASCII characters.",
            errors=[{"parameter": "Idempotency-Key", "detail": "1 to 255 visible ASCII characters"}],
        )
    url = door.request.url
    asked = sha256(f"{door.request.method} {url.path}?{url.query}\n".encode() + await door.request.body())
    scope = {"tenant": door.caller.tenant, "principal": door.caller.principal, "route": route, "key": key}
    if not await door.session.scalar(LOCK, {"name": f"{door.caller.tenant}|{door.caller.principal}|{route}|{key}"}):
        raise Problem(
            "idempotency_in_flight", "The first request with this Idempotency-Key has not finished.", retry_after=1
        )
    known = await door.session.first(FIND, scope)
    if known is not None:
        if known.fingerprint != asked:
            raise Problem("idempotency_mismatch", "This Idempotency-Key was used for a different request.")
        return Response(known.body, known.status, {**known.headers, "Idempotent-Replayed": "true"})
    reply = await run()
    answer = reply.response()
    await door.session.execute(
        KEEP,
        scope
        | {
            "fingerprint": asked,
            "status": reply.status,
            "body": reply.stored_body(),
            "headers": reply.stored_headers(),
        },
    )
    return answer
