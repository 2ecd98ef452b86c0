"""Signatures on decisions, as the api sees them: it says early that one is none. What counts is what the executor checks."""

from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.caller import Caller
from app.db import ReadSession
from app.errors import Problem
from app.signed import Verdict, build_statement, verify

KEYS = text("SELECT id, public_key FROM approver_keys(:tenant, :principal)")


async def keys_of(session: ReadSession, principal: UUID) -> dict[str, bytes]:
    """An approver's live signing keys: id to public key."""
    rows = await session.rows(KEYS, {"tenant": session.tenant, "principal": principal})
    return {str(row.id): bytes(row.public_key) for row in rows}


async def signing(session: ReadSession, caller: Caller, required: bool) -> dict[str, Any]:
    """What the caller needs to sign a decision: who they are in it, and which of their keys are registered."""
    keys = await keys_of(session, caller.principal)
    return {
        "required": required,
        "tenant": caller.tenant,
        "approver": caller.principal,
        "keys": [{"id": name, "public_key": public.hex()} for name, public in sorted(keys.items())],
    }


async def check(
    session: ReadSession, caller: Caller, approval: UUID, sha256: bytes, verdict: Verdict, signature: str
) -> None:
    """Raises Problem validation when the caller did not sign this decision with one of their live keys."""
    statement = build_statement(caller.tenant, approval, sha256, verdict, caller.principal)
    if verify(signature, statement, await keys_of(session, caller.principal)):
        return
    raise Problem(
        "validation",
        "/signature: not a signature of this decision by one of your registered keys",
        errors=[
            {"pointer": "/signature", "detail": "sign with `mission-root approvals decide --signing-key FILE`"},
        ],
    )
