"""Reading a tape."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from app.db import ReadSession
from app.tape.actions import Call, Kind, Outcome

COLUMNS = """t.kind, t.name, COALESCE(t.arguments, '') AS arguments, t.arguments_sha256, t.ordinal, t.outcome,
  COALESCE(t.answer, '') AS answer, t.answer_sha256, t.took_ms, t.at, t.removed_at
  FROM tape t
  WHERE t.tenant = :tenant AND t.mission = :mission AND t.attempt = :attempt"""
IN_ORDER = text(f"SELECT {COLUMNS} ORDER BY t.at, t.kind, t.name, t.arguments_sha256, t.ordinal")
SAME = "t.kind = :kind AND t.name = :name AND t.arguments_sha256 = :sha256"
ONE = text(f"SELECT {COLUMNS} AND {SAME} AND t.ordinal = :ordinal")
HOW_MANY = text(f"""SELECT COALESCE(max(t.ordinal), 0) FROM tape t
                    WHERE t.tenant = :tenant AND t.mission = :mission AND t.attempt = :attempt AND {SAME}""")  # noqa: S608


@dataclass(frozen=True)
class Taped:
    """One answer. arguments are canonical JSON, answer is the JSON that was given, both empty when retention has removed them;
    ordinal counts the same call from 1."""

    kind: Kind
    name: str
    arguments: bytes
    arguments_sha256: bytes
    ordinal: int
    outcome: Outcome
    answer: bytes
    answer_sha256: bytes
    took_ms: float
    at: datetime
    removed_at: datetime | None = None


async def calls(session: ReadSession, mission: UUID, attempt: int) -> list[Taped]:
    """What an attempt was answered, in order."""
    rows = await session.rows(IN_ORDER, {"tenant": session.tenant, "mission": mission, "attempt": attempt})
    return [Taped(**row._mapping) for row in rows]


async def find(session: ReadSession, mission: UUID, attempt: int, asked: Call, ordinal: int) -> Taped | None:
    """The answer to the ordinal-th of a call."""
    row = await session.first(ONE, parameters(session, mission, attempt, asked) | {"ordinal": ordinal})
    return Taped(**row._mapping) if row else None


async def next_ordinal(session: ReadSession, mission: UUID, attempt: int, asked: Call) -> int:
    """The how-manieth of its kind a call would be."""
    return int(await session.scalar(HOW_MANY, parameters(session, mission, attempt, asked))) + 1


def parameters(session: ReadSession, mission: UUID, attempt: int, asked: Call) -> dict[str, object]:
    return {
        "tenant": session.tenant,
        "mission": mission,
        "attempt": attempt,
        "kind": asked.kind,
        "name": asked.name,
        "sha256": asked.sha256,
    }
