"""Recording a fact."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import text

from app.caller import Caller
from app.canonical import canonical
from app.db import WriteSession

FACTS = "facts"  # the channel that readers of the ledger listen on

INSERT = text(
    "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES (:tenant, :subject, :type, :actor, :body)"
)


@dataclass(frozen=True)
class Told:
    """A fact before it has its place."""

    tenant: UUID
    subject: UUID
    type: str
    actor: str
    body: bytes


def fact(caller: Caller, type: str, subject: UUID, /, **body: Any) -> Told:
    """A fact about a subject (a mission's id, or the tenant's). Values are ids, states, numbers, hex hashes; None is left out."""
    said = {name: value for name, value in body.items() if value is not None}
    return Told(caller.tenant, subject, type, caller.actor, canonical(to_jsonable_python(said)))


async def record(session: WriteSession, caller: Caller, type: str, subject: UUID, /, **body: Any) -> None:
    """Appends a fact. Position and hashes are Postgres's work."""
    await tell(session, fact(caller, type, subject, **body))


async def tell(session: WriteSession, told: Told) -> None:
    """Appends a fact that was made before."""
    await session.execute(INSERT, vars(told))
    session.nudge(FACTS)
