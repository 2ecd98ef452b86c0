"""Recording answers."""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app.canonical import canonical, sha256
from app.db import WriteSession

Kind = Literal["tool", "model"]
Outcome = Literal["answered", "refused", "denied"]  # refused by the tool, denied by policy

# Whoever records has recorded a fact of the mission before, and so holds its place in the ledger: ordinals are not given twice.
INSERT = text("""
  INSERT INTO tape (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome, answer, answer_sha256, took_ms)
  SELECT CAST(:tenant AS uuid), CAST(:mission AS uuid), CAST(:attempt AS int), CAST(:kind AS text), CAST(:name AS text),
    COALESCE(max(t.ordinal), 0) + 1, CAST(:arguments AS bytea), CAST(:sha256 AS bytea), CAST(:outcome AS text),
    CAST(:answer AS bytea), sha256(CAST(:answer AS bytea)), CAST(:took AS float8)
  FROM tape t WHERE t.tenant = :tenant AND t.mission = :mission AND t.attempt = :attempt AND t.kind = :kind AND t.name = :name
    AND t.arguments_sha256 = :sha256""")


@dataclass(frozen=True)
class Call:
    """What is asked, in its one form: calls are the same when kind, name and arguments are."""

    kind: Kind
    name: str
    arguments: bytes

    @property
    def sha256(self) -> bytes:
        return sha256(self.arguments)


def call(kind: Kind, name: str, arguments: Any) -> Call:
    """arguments: JSON. Raises ValueError when it has no canonical form."""
    return Call(kind, name, canonical(arguments))


async def record(
    session: WriteSession, mission: UUID, attempt: int, asked: Call, outcome: Outcome, answer: bytes, took_ms: float
) -> None:
    """Keeps an answer as it was given (JSON), behind those to the same call, in the transaction that recorded the call's fact."""
    assert session.tenant is not None
    await session.execute(
        INSERT,
        {
            "tenant": session.tenant,
            "mission": mission,
            "attempt": attempt,
            "kind": asked.kind,
            "name": asked.name,
            "arguments": asked.arguments,
            "sha256": asked.sha256,
            "outcome": outcome,
            "answer": answer,
            "took": took_ms,
        },
    )
