"""Recording a fact."""

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


async def record(session: WriteSession, caller: Caller, type: str, subject: UUID, /, **body: Any) -> None:
    """Appends a fact about a subject (a mission's id, or the tenant's). Position and hashes are Postgres's work.

    body values are ids, states, numbers, hex hashes; None is left out.
    """
    said = {name: value for name, value in body.items() if value is not None}
    await session.execute(
        INSERT,
        {
            "tenant": caller.tenant,
            "subject": subject,
            "type": type,
            "actor": caller.actor,
            "body": canonical(to_jsonable_python(said)),
        },
    )
    session.nudge(FACTS)
