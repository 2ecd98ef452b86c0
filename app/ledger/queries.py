"""Reading facts in an order that never loses one: by (xid, id), below the oldest running transaction."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, Self
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import Database, ReadSession


class Position(NamedTuple):
    """A place in reading order; `7-12` in text. Everything before it was seen."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"

    @classmethod
    def parse(cls, said: str) -> Self | None:
        found = re.fullmatch(r"(\d{1,20})-(\d{1,19})", said.strip())
        if not found or int(found[1]) >= 2**64 or int(found[2]) >= 2**63:
            return None
        return cls(int(found[1]), int(found[2]))


START = Position(0, 0)


@dataclass(frozen=True)
class Fact:
    """One row of the ledger, as readers see it."""

    tenant: UUID
    position: Position
    subject: UUID
    seq: int
    type: str
    actor: str
    at: datetime
    said: bytes  # the body as it is kept and hashed: JSON

    @cached_property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.said)
        return found

    @cached_property
    def text(self) -> str:
        """`fact_view` as JSON on one line, as streams and the message bus carry it."""
        said = self.said.decode()
        # JSON still, but whoever wrote it could end our line with it and begin one of theirs; some readers take more signs than
        # the standard of streams does for the end of a line
        if not said.isascii() or "\n" in said or "\r" in said:
            said = json.dumps(self.body, separators=(",", ":"))
        return (
            f'{{"id":"{self.position}","seq":{self.seq},"type":"{self.type}","at":"{iso(self.at)}",'
            f'"actor":"{self.actor}","subject":"{self.subject}","body":{said}}}'
        )


COLUMNS = "tenant, xid::text AS xid, id, subject, seq, type, actor, at, body"
OF_TENANT = text(f"""SELECT {COLUMNS} FROM ledger
  WHERE tenant = :tenant AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id) AND xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY ledger.xid, ledger.id LIMIT :limit""")  # noqa: S608  # qualified: plain xid would be the text of the list above
OF_SUBJECT = text(f"""SELECT {COLUMNS} FROM ledger
  WHERE tenant = :tenant AND subject = :subject AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id)
    AND xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY seq LIMIT :limit""")  # noqa: S608
EVERYBODY = """SELECT pg_snapshot_xmin(s)::text AS low, pg_snapshot_xmin(s) < pg_snapshot_xmax(s) AS lagging,
    f.tenant, f.xid::text AS xid, f.id, f.subject, f.seq, f.type, f.actor, f.at, f.body
  FROM pg_current_snapshot() s LEFT JOIN LATERAL read_ledger($1::text::xid8, $2, $3) f ON true"""


NEWEST = text("""SELECT xid::text AS xid, id FROM ledger WHERE tenant = :tenant AND xid < pg_snapshot_xmin(pg_current_snapshot())
                 ORDER BY ledger.xid DESC, ledger.id DESC LIMIT 1""")


async def head(session: ReadSession) -> Position:
    """The place of the tenant's newest settled fact: whoever reads on from here misses nothing that comes."""
    row = await session.first(NEWEST, {"tenant": session.tenant})
    return Position(int(row.xid), row.id) if row else START


async def facts(session: ReadSession, after: Position, limit: int, subject: UUID | None = None) -> list[Fact]:
    """The next facts of the session's tenant, of one subject or of all, in reading order."""
    statement = OF_TENANT if subject is None else OF_SUBJECT
    rows = await session.rows(
        statement, {"tenant": session.tenant, "subject": subject, "limit": limit, "xid": str(after.xid), "id": after.id}
    )
    return [fact(row) for row in rows]


BACK = text(f"""SELECT {COLUMNS} FROM ledger WHERE tenant = :tenant AND subject = :subject
  ORDER BY seq DESC LIMIT :limit""")  # noqa: S608


SOME = text(f"""SELECT {COLUMNS} FROM ledger WHERE tenant = :tenant
  AND (xid, id) IN (SELECT CAST(CAST(x AS text) AS xid8), i FROM unnest(CAST(:xids AS text[]), CAST(:ids AS bigint[])) AS p (x, i))
  ORDER BY ledger.xid, ledger.id""")  # noqa: S608


async def at_positions(session: ReadSession, positions: Sequence[Position]) -> list[Fact]:
    """The facts at these places, in reading order; where none is, none."""
    asked = {"xids": [str(one.xid) for one in positions], "ids": [one.id for one in positions]}
    return [fact(row) for row in await session.rows(SOME, {"tenant": session.tenant, **asked})]


async def ends_of(session: ReadSession, subject: UUID, most: int) -> tuple[list[Fact], int]:
    """A subject's facts in order, of a long chain its first and its last half; and how many are left out between them."""
    half = most // 2
    rows = await session.rows(BACK, {"tenant": session.tenant, "subject": subject, "limit": half})
    last = [fact(row) for row in reversed(rows)]
    if not last or last[0].seq == 1:
        return last, 0
    first = [one for one in await facts(session, START, half, subject) if one.seq < last[0].seq]
    return first + last, last[0].seq - 1 - len(first)


class News(NamedTuple):
    """What a reader of everything found. low: the transaction id below which everything is settled; lagging: whether one above
    it is running, so that more may come without anybody saying so."""

    facts: list[Fact]
    low: int
    lagging: bool


async def everybodys_facts(reader: Database, after: Position | None, limit: int) -> News:
    """The next facts of every tenant (after None: none, only how far the ledger is settled); only role reader may ask."""
    xid, id = after or START
    rows = await reader.fetch(EVERYBODY, str(xid), id, limit if after else 0)
    found = [
        Fact(
            row["tenant"], Position(int(row["xid"]), row["id"]), row["subject"], row["seq"], row["type"], row["actor"],
            row["at"], row["body"],
        )
        for row in rows if row["id"] is not None
    ]  # fmt: skip
    return News(found, int(rows[0]["low"]), rows[0]["lagging"])


async def known(session: ReadSession, subject: UUID) -> bool:
    """Whether this tenant has any fact about a subject; an absent one and another tenant's look alike."""
    found = await session.scalar(
        "SELECT 1 FROM ledger WHERE tenant = :tenant AND subject = :subject LIMIT 1",
        {"tenant": session.tenant, "subject": subject},
    )
    return found is not None


def fact(row: Any) -> Fact:
    return Fact(
        row.tenant,
        Position(int(row.xid), row.id),
        row.subject,
        row.seq,
        row.type,
        row.actor,
        row.at,
        row.body,
    )


def fact_view(fact: Fact) -> dict[str, Any]:
    """How a fact is answered: its id is its position, which is also the SSE event id."""
    return {
        "id": str(fact.position),
        "seq": fact.seq,
        "type": fact.type,
        "at": iso(fact.at),
        "actor": fact.actor,
        "subject": str(fact.subject),
        "body": fact.body,
    }


def views(found: Sequence[Fact]) -> list[dict[str, Any]]:
    return [fact_view(fact) for fact in found]
