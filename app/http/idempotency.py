"""Idempotency-Key, done fully: the answer is stored in the transaction that did the work.

While the first request runs it holds an advisory lock, so a second one is told so at once. After it committed, the
stored answer is given again, byte for byte; another body under the same key is refused. A crash leaves neither.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from sqlalchemy import text

from app.caller import Caller
from app.canonical import sha256
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http.doors import Door
from app.http.replies import Reply

KEY = re.compile(r"[\x21-\x7e]{1,255}")
LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 11))")
FIND = text("""SELECT fingerprint, status, headers, body FROM idempotency
               WHERE tenant = :tenant AND principal = :principal AND route = :route AND key = :key""")
KEEP = text("""INSERT INTO idempotency (tenant, principal, route, key, fingerprint, status, headers, body)
               VALUES (:tenant, :principal, :route, :key, :fingerprint, :status, CAST(:headers AS jsonb), :body)""")


def idempotency_key(request: Request) -> str | None:
    """The request's Idempotency-Key, if it carries one. Raises Problem validation."""
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise Problem(
            "validation",
            "Idempotency-Key must be 1 to 255 visible ASCII characters.",
            errors=[{"parameter": "Idempotency-Key", "detail": "1 to 255 visible ASCII characters"}],
        )
    return key


def fingerprint(method: str, path: str, query: str, body: bytes) -> bytes:
    """What makes two requests the same one."""
    return sha256(f"{method} {path}?{query}\n".encode() + body)


async def stored_answer(session: ReadSession, caller: Caller, route: str, key: str) -> Any:
    """The row of the answer that was given under a key, or None."""
    scope = {"tenant": caller.tenant, "principal": caller.principal, "route": route, "key": key}
    return await session.first(FIND, scope)


def in_flight() -> Problem:
    detail = "The first request with this Idempotency-Key has not finished."
    return Problem("idempotency_in_flight", detail, retry_after=1)


def mismatch() -> Problem:
    return Problem("idempotency_mismatch", "This Idempotency-Key was used for a different request.")


async def once(door: Door[WriteSession], route: str, run: Callable[[], Awaitable[Reply]]) -> Response:
    """Runs a creating or deciding request, at most once per Idempotency-Key when the caller sent one."""
    key = idempotency_key(door.request)
    if key is None:
        return (await run()).response()
    url = door.request.url
    asked = fingerprint(door.request.method, url.path, url.query, await door.request.body())
    scope = {"tenant": door.caller.tenant, "principal": door.caller.principal, "route": route, "key": key}
    if not await door.session.scalar(LOCK, {"name": f"{door.caller.tenant}|{door.caller.principal}|{route}|{key}"}):
        raise in_flight()
    known = await stored_answer(door.session, door.caller, route, key)
    if known is not None:
        if known.fingerprint != asked:
            raise mismatch()
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
