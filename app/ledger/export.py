"""A tenant's ledger, or one subject of it, as one file that anybody can verify without this service.

JSON Lines: manifest, keys, what keys said of their successors, anchors, facts with their bytes as hashed, the verifier's
source, end. A whole export proves itself (its facts are the tree's leaves); a partial one carries a proof for each fact.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from app.db import ReadSession
from app.errors import Problem
from app.ledger.anchors import AT, STATED, UP_TO, Anchor, number_in, place, slot, stated_in, statements, stored
from app.ledger.keys import Keyring
from app.ledger.merkle import Tree, leaf_hash
from app.ledger.queries import START, Position, head
from app.ledger.store import Store
from app.ledger.verify import Reading

FORMAT = "mission-root-ledger-export 1"
PAGE = 2000
VERIFIER = Path(__file__).with_name("offline.py")

FACTS = text("""
  SELECT concat(xid::text, '-', id) AS position, subject, seq, type, actor,
    to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, convert_from(body, 'UTF8') AS body,
    encode(prev, 'hex') AS prev, encode(hash, 'hex') AS hash
  FROM ledger
  WHERE tenant = :tenant AND (CAST(:subject AS uuid) IS NULL OR subject = :subject)
    AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id) AND (xid, id) <= (CAST(CAST(:to_xid AS text) AS xid8), :to_id)
  ORDER BY ledger.xid, ledger.id LIMIT :limit""")
# The facts of anchors that came after a position: the first that covers it is among them, behind those of a backlog.
ANCHORED = text("""SELECT xid::text AS xid, id, body FROM ledger
  WHERE tenant = :tenant AND subject = :tenant AND type = 'ledger.anchored' AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id)
  ORDER BY ledger.xid, ledger.id LIMIT :limit""")
AT_A_TIME = 20  # of them; without a backlog the first one covers it


@dataclass
class Proofs:
    """The tree that the newest anchor signs, rebuilt from the ledger's rows."""

    anchor: Anchor
    tree: Tree
    indexes: dict[str, int]  # of the positions that were asked for

    def path(self, position: str) -> list[str]:
        return [one.hex() for one in self.tree.inclusion(self.indexes[position])]


async def line_at(session: ReadSession, position: Position) -> str | None:
    """The leaf of the session's tenant's fact at a position."""
    found = await session.scalar(AT, {"tenant": session.tenant, "xid": str(position.xid), "id": position.id})
    return str(found) if found is not None else None


async def newest(reading: Reading, tenant: UUID, store: Store | None) -> Anchor | None:
    """The newest anchor in the store; None when there is none, or no store."""
    if store is None:
        return None
    async with reading() as session:
        number = number_in(await session.scalar(STATED, {"tenant": tenant}) or "")
    found = None
    async for _, anchor in stored(store, tenant, max(number - 1, 0)):
        found = anchor
    return found


class Stated(NamedTuple):
    """An anchor as the tenant's own chain says: its number, and the last position that it covers."""

    number: int
    last: Position


async def first_after(reading: Reading, tenant: UUID, position: Position) -> Stated | None:
    """The first anchor that covers a position, as the tenant's own chain says."""
    after = position
    while True:
        asked = {"tenant": tenant, "xid": str(after.xid), "id": after.id, "limit": AT_A_TIME}
        async with reading() as session:
            rows = await session.rows(ANCHORED, asked)
        for row in rows:
            last = Position.parse(str(stated_in(row.body).get("last"))) or START
            if last >= position:
                return Stated(number_in(row.body), last)
        if len(rows) < AT_A_TIME:
            return None
        after = Position(int(rows[-1].xid), rows[-1].id)


async def covering(reading: Reading, tenant: UUID, store: Store, upto: Position | None) -> Anchor | None:
    """The first anchor that covers a position; the newest one where none does, or no position is given."""
    if upto is not None:
        said = await first_after(reading, tenant, upto)
        raw = await store.get(slot(tenant, said.number)) if said is not None else None
        if raw is not None and (anchor := Anchor.read(raw)) is not None and anchor.last >= upto:
            return anchor
    return await newest(reading, tenant, store)


async def proofs(
    reading: Reading, tenant: UUID, anchor: Anchor, subject: UUID | None, position: str | None = None
) -> Proofs:
    """Rebuilds the tree and notes where a subject's facts, or one fact, stand in it. Raises Problem wrong_state."""
    tree, indexes, after = Tree(), {}, START
    wanted = str(subject) if subject else None
    while True:
        async with reading() as session:
            rows = await session.rows(
                UP_TO, between(tenant, after, anchor.last) | {"limit": PAGE}
            )  # a transaction a page: long ones hold every reader of the ledger back
        for row in rows:
            here, of, _ = row.line.split(" ", 2)
            if of == wanted or here == position:
                indexes[here] = tree.size
            tree.append(leaf_hash(row.line.encode()))
        if len(rows) < PAGE:
            break
        after = Position.parse(place(rows[-1].line.encode())) or START
    if (tree.size, tree.root()) != (anchor.tree_size, anchor.root):
        raise Problem(
            "wrong_state", "The ledger is not what its newest anchor signed: verify it before proving anything."
        )
    return Proofs(anchor, tree, indexes)


def between(tenant: UUID, after: Position, to: Position) -> dict[str, Any]:
    return {"tenant": tenant, "xid": str(after.xid), "id": after.id, "to_xid": str(to.xid), "to_id": to.id}


@dataclass
class Export:
    """An export that is ready to be told."""

    reading: Reading
    tenant: UUID
    subject: UUID | None
    to: Position
    keys: Keyring
    successions: list[bytes]
    anchors: list[Anchor]
    proofs: Proofs | None

    async def lines(self) -> AsyncIterator[bytes]:
        """The file, a page of lines at a time."""
        digest, count = hashlib.sha256(), 0
        newest = self.anchors[-1] if self.anchors else None
        manifest = {
            "kind": "manifest", "format": FORMAT, "tenant": str(self.tenant),
            "subject": str(self.subject) if self.subject else None, "anchored": newest.tree_size if newest else 0,
        }  # fmt: skip
        head = [manifest]
        head += [
            {"kind": "key", "kid": kid, "public_key": base64.b64encode(raw).decode()}
            for kid, raw in self.keys.by_kid.items()
        ]
        head += [{"kind": "succession", "object": raw.decode()} for raw in self.successions]
        head += [{"kind": "anchor", "object": anchor.raw.decode()} for anchor in self.anchors]
        page = b"".join(map(line, head))
        digest.update(page)
        yield page
        after = START
        covered = newest.last if newest else START
        while True:
            async with self.reading() as session:
                rows = await session.rows(
                    FACTS, between(self.tenant, after, self.to) | {"subject": self.subject, "limit": PAGE}
                )
            told = []
            for row in rows:
                after = Position.parse(row.position) or START
                told.append(line(self.fact(row, count, anchored=after <= covered)))
                count += 1
            page = b"".join(told)
            digest.update(page)
            yield page
            if len(rows) < PAGE:
                break
        page = line({"kind": "verifier", "name": "verify_ledger.py", "source": VERIFIER.read_text()})
        digest.update(page)
        yield page
        yield line({"kind": "end", "facts": count, "sha256": digest.hexdigest()})

    def fact(self, row: Any, number: int, *, anchored: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": "fact"} | dict(row._mapping)
        found["subject"] = str(row.subject)
        found["index"] = found["proof"] = None
        if anchored and self.proofs:
            found["index"], found["proof"] = self.proofs.indexes[row.position], self.proofs.path(row.position)
        elif anchored:
            found["index"] = number
        return found


def line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


async def prepare(
    reading: Reading,
    tenant: UUID,
    store: Store | None,
    keys: Keyring,
    subject: UUID | None,
    upto: Position | None = None,
) -> Export:
    """Reads what an export needs from the store, and builds its tree. Raises Problem.

    upto: no fact behind this position is told, and a subject's are proved by the first anchor that covers it, so that the
    export stays the same while others' facts come.
    """
    anchors: list[Anchor] = []
    successions: list[bytes] = []
    found = None
    if store is not None:
        successions = await statements(store)
        if subject is None:
            async for name, anchor in stored(store, tenant):
                if anchor is None:
                    raise Problem("wrong_state", f"{name} in the store of anchors cannot be read: verify the ledger.")
                anchors.append(anchor)
        elif (newest_ := await covering(reading, tenant, store, upto)) is not None:
            anchors = [newest_]
            found = await proofs(reading, tenant, newest_, subject)
    async with reading() as session:  # after the store: what an anchor covers is then surely there to be told
        to = upto or await head(session)
    return Export(reading, tenant, subject, to, keys, successions, anchors, found)


__all__ = ["Export", "Proofs", "line_at", "newest", "prepare", "proofs"]
