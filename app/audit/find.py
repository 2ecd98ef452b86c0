"""What an id names, whichever kind of id it is. An absent one and another tenant's are alike: nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.canonical import mark_of
from app.db import ReadSession
from app.ledger import Position

LONGEST = 300  # characters of an id, whatever it is
MOST_CHANGES = 5  # of one record or payload: the newest are told

BY_ID = text("""
  SELECT 'mission' AS kind, id AS subject, NULL::uuid AS writeback, 0 AS n FROM mission WHERE tenant = :tenant AND id = :id
  UNION ALL SELECT 'approval', mission, writeback, 1 FROM approval WHERE tenant = :tenant AND id = :id
  UNION ALL SELECT 'question', a.mission, a.writeback, 1 FROM approval_question q
    JOIN approval a ON a.tenant = q.tenant AND a.id = q.approval WHERE q.tenant = :tenant AND q.id = :id
  UNION ALL SELECT 'writeback', mission, id, 2 FROM writeback WHERE tenant = :tenant AND id = :id
  UNION ALL SELECT 'artifact', mission, NULL, 3 FROM artifact WHERE tenant = :tenant AND id = :id
  UNION ALL SELECT 'policy_decision', COALESCE(mission, tenant), NULL, 4 FROM policy_decision WHERE tenant = :tenant AND id = :id
  UNION ALL (SELECT 'subject', subject, NULL, 5 FROM ledger WHERE tenant = :tenant AND subject = :id LIMIT 1)
  ORDER BY n LIMIT 1""")
BY_HASH = text("""
  SELECT kind, subject, writeback FROM (
    SELECT 'payload' AS kind, mission AS subject, id AS writeback, created_at FROM writeback
      WHERE tenant = :tenant AND payload_sha256 = :sha256
    UNION ALL SELECT 'artifact', mission, NULL, created_at FROM artifact WHERE tenant = :tenant AND sha256 = :sha256
    UNION ALL SELECT 'source', mission, NULL, read_at FROM reading WHERE tenant = :tenant AND source_sha256 = :sha256) found
  ORDER BY created_at DESC LIMIT :most""")
BY_POSITION = text("""SELECT subject FROM ledger
  WHERE tenant = :tenant AND xid = CAST(CAST(:xid AS text) AS xid8) AND id = :id""")
BY_REQUEST = text("""SELECT subject, xid::text AS xid, id FROM ledger WHERE tenant = :tenant AND request = :request
  ORDER BY ledger.xid DESC, ledger.id DESC LIMIT 200""")
# Written as screens do: lead/L-1001, sample_crm/lead/L-1001, or the record's own id alone.
BY_RECORD = text("""SELECT mission AS subject, id AS writeback FROM writeback
  WHERE tenant = :tenant AND substr(target, strpos(target, '/') + 1) = ANY (:records)
    AND :said IN (substr(target, strpos(target, '/') + 1), target, connector || '/' || target)
  ORDER BY created_at DESC LIMIT :most""")


@dataclass(frozen=True)
class Found:
    """What an id names. subjects: whose chains tell of it, newest first: missions, or the tenant itself.

    writebacks: the story is about these alone; empty: about all there is. marks: positions and ids that the id stands for.
    """

    kind: str
    subjects: tuple[UUID, ...]
    writebacks: frozenset[UUID] = frozenset()
    marks: frozenset[str] = field(default_factory=frozenset)


async def find(session: ReadSession, said: str) -> Found | None:
    """A mission, approval, question about one, writeback, artifact, policy decision or fact by its id; bytes by their SHA-256; a
    request by its id; a record of a business system by its name. None when the session's tenant has nothing of that name."""
    said = said.strip()
    return (
        await by_uuid(session, said)
        or await by_position(session, said)
        or await by_hash(session, said)
        or await by_request(session, said)
        or await by_record(session, said)
    )


async def by_uuid(session: ReadSession, said: str) -> Found | None:
    if not re.fullmatch(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", said):
        return None
    row = await session.first(BY_ID, {"tenant": session.tenant, "id": (id := UUID(said))})
    if row is None:
        return None
    kind = "tenant" if row.kind == "subject" and row.subject == session.tenant else row.kind
    of = frozenset({row.writeback}) if row.writeback else frozenset()
    return Found(kind, (row.subject,), of, frozenset({str(id)}))


async def by_position(session: ReadSession, said: str) -> Found | None:
    position = Position.parse(said)
    if position is None:
        return None
    asked = {"tenant": session.tenant, "xid": str(position.xid), "id": position.id}
    subject = await session.scalar(BY_POSITION, asked)
    return Found("fact", (subject,), marks=frozenset({str(position)})) if subject else None


async def by_hash(session: ReadSession, said: str) -> Found | None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", said):
        return None
    asked = {"tenant": session.tenant, "sha256": bytes.fromhex(said), "most": MOST_CHANGES}
    rows = await session.rows(BY_HASH, asked)
    if not rows:
        return None
    kind = rows[0].kind
    same = [row for row in rows if row.kind == kind]
    return Found(kind, distinct(row.subject for row in same), changes_of(same), frozenset({said.lower()}))


async def by_request(session: ReadSession, said: str) -> Found | None:
    rows = await session.rows(BY_REQUEST, {"tenant": session.tenant, "request": mark_of(said)})
    if not rows:
        return None
    marks = frozenset(str(Position(int(row.xid), row.id)) for row in rows)
    return Found("request", distinct(row.subject for row in rows)[:MOST_CHANGES], marks=marks)


async def by_record(session: ReadSession, said: str) -> Found | None:
    parts = said.split("/")
    records = ["/".join(parts[n:]) for n in range(min(3, len(parts)))]
    asked = {"tenant": session.tenant, "records": records, "said": said, "most": MOST_CHANGES}
    rows = await session.rows(BY_RECORD, asked)
    return Found("record", distinct(row.subject for row in rows), changes_of(rows)) if rows else None


def distinct(subjects: Iterable[UUID]) -> tuple[UUID, ...]:
    return tuple(dict.fromkeys(subjects))


def changes_of(rows: Iterable[Any]) -> frozenset[UUID]:
    return frozenset(row.writeback for row in rows if getattr(row, "writeback", None))
