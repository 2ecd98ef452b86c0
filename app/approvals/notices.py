"""Notices: what the wall told people about approvals that want them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.listing import Place, behind

SELECT = """SELECT n.id, n.approval, n.kind, n.step, n.at, n.seen_at, n.principal, a.mission, a.state, a.expires_at
  FROM notice n JOIN approval a ON a.tenant = n.tenant AND a.id = n.approval WHERE n.tenant = :tenant"""
OF_APPROVAL = text(f"{SELECT} AND n.approval = :approval ORDER BY n.at, n.id LIMIT 1000")
ONE = text(f"{SELECT} AND n.id = :id AND n.principal = :principal")
SEEN = text("SELECT * FROM see_notice(:tenant, :notice, :secret)")


async def own(session: ReadSession, principal: UUID, unseen: bool, before: Place, limit: int) -> Sequence[Any]:
    """A person's notices, newest first."""
    select = f"{SELECT} AND n.seen_at IS NULL" if unseen else SELECT
    return await behind(session, select, before, limit, at="n.at", id="n.id", only={"n.principal": principal})


async def of_approval(session: ReadSession, approval: UUID) -> Sequence[Any]:
    return await session.rows(OF_APPROVAL, {"tenant": session.tenant, "approval": approval})


async def see(session: WriteSession, caller: Caller, notice: UUID) -> Any:
    """Marks one's own notice as seen; again changes nothing. Raises Problem not_found."""
    said = await session.first(SEEN, {"tenant": session.tenant, "notice": notice, "secret": caller.secret})
    assert said is not None
    if said.outcome == "unauthenticated":
        raise Problem("unauthenticated", "The key is no longer live.")
    if said.outcome == "not_found":
        raise Problem("not_found", "There is no such notice for you.")
    session.nudge(ledger.FACTS)
    return await session.first(ONE, {"tenant": session.tenant, "id": notice, "principal": caller.principal})


def view(notice: Any) -> dict[str, Any]:
    return {
        "id": notice.id,
        "kind": notice.kind,
        "step": notice.step,
        "approval_id": notice.approval,
        "mission_id": notice.mission,
        "approval_state": notice.state,
        "expires_at": iso(notice.expires_at),
        "at": iso(notice.at),
        "seen_at": iso(notice.seen_at) if notice.seen_at else None,
    }
