"""Anchors: signed Merkle roots over a tenant's facts in reading order, kept outside the database.

Anchor N covers every fact up to its last position. Its slot in the store is taken once, so of two workers one wins; its
entries, one line per fact since anchor N-1, are what names the first bad row when something is changed later. The fact
`ledger.anchored` follows in the tenant's own chain, and the next anchor covers it in turn.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

import structlog
from prometheus_client import Gauge
from sqlalchemy import text

from app import work
from app.caller import system
from app.canonical import sha256
from app.clock import iso, now
from app.db import Database, ReadSession
from app.ledger.actions import record
from app.ledger.keys import Keyring, Signer, genuine, parse, sealed
from app.ledger.merkle import Frontier, leaf_hash
from app.ledger.queries import START, Position
from app.ledger.store import Store
from app.work import Item

log = structlog.get_logger("anchors")

PURPOSE = "mission-root ledger anchor 1"
FACT = "ledger.anchored"
BATCH = 10_000  # facts of one anchor at most: what a worker and a verifier hold in memory
LOOK = timedelta(seconds=10)  # how often a tenant with new facts is looked at before its interval is over
MEMBERS = {
    "at", "by", "entries", "first", "frontier", "heads", "last", "number", "previous", "purpose", "root", "tenant", "tree_size",
}  # fmt: skip

ANCHOR_AGE = Gauge(
    "mission_root_ledger_unanchored_seconds", "Age of the oldest fact that this worker has yet to anchor."
)
UNANCHORED = Gauge("mission_root_ledger_unanchored_facts", "Facts that this worker saw and has yet to anchor.")

# The line of a fact is its leaf: position, subject, seq, type and hash. Moving a fact therefore changes the tree.
LINES = "concat(xid::text, '-', id, ' ', subject, ' ', seq, ' ', type, ' ', encode(hash, 'hex')) AS line"
AFTER = "tenant = :tenant AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id)"
NEW = text(f"""SELECT {LINES}, type, at FROM ledger WHERE {AFTER} AND xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY ledger.xid, ledger.id LIMIT :limit""")  # noqa: S608
WAITING = text(f"""SELECT count(*) AS facts, min(at) AS since FROM (
  SELECT at FROM ledger WHERE {AFTER} AND type <> 'ledger.anchored' ORDER BY xid, id LIMIT :limit) w""")  # noqa: S608
UP_TO = text(f"""SELECT {LINES} FROM ledger WHERE {AFTER} AND (xid, id) <= (CAST(CAST(:to_xid AS text) AS xid8), :to_id)
  ORDER BY ledger.xid, ledger.id LIMIT :limit""")  # noqa: S608
AT = text(f"""SELECT {LINES} FROM ledger
  WHERE tenant = :tenant AND xid = CAST(CAST(:xid AS text) AS xid8) AND id = :id""")  # noqa: S608
STATED = text("""SELECT body FROM ledger WHERE tenant = :tenant AND subject = :tenant AND type = 'ledger.anchored'
  ORDER BY seq DESC LIMIT 1""")
HOLD = text("""SELECT 1 FROM work WHERE tenant = :tenant AND kind = :kind AND subject = :subject AND fence = :fence
  FOR UPDATE""")


class Broken(Exception):
    """The store and the ledger contradict each other, or an anchor is not genuine: nothing is built on that."""


@dataclass(frozen=True)
class Anchor:
    """One anchor as the store has it. Nothing is verified by parsing it."""

    raw: bytes
    found: dict[str, Any]
    tenant: UUID
    number: int
    tree_size: int
    root: bytes
    frontier: tuple[bytes, ...]
    previous: str | None
    first: Position
    last: Position
    entries: str
    heads: str
    at: str
    key: str

    @property
    def sha256(self) -> str:
        return sha256(self.raw).hex()

    @classmethod
    def read(cls, raw: bytes) -> Self | None:
        """None when the bytes are no anchor in its one form."""
        found = parse(raw)
        try:
            if found is None or set(found["statement"]) != MEMBERS or found["statement"]["purpose"] != PURPOSE:
                return None
            said = found["statement"]
            first, last = Position.parse(said["first"]), Position.parse(said["last"])
            if first is None or last is None:
                return None
            return cls(
                raw, found, UUID(said["tenant"]), int(said["number"]), int(said["tree_size"]), bytes.fromhex(said["root"]),
                tuple(bytes.fromhex(one) for one in said["frontier"]), said["previous"], first, last, str(said["entries"]),
                str(said["heads"]), str(said["at"]), str(said["by"]),
            )  # fmt: skip
        except (ValueError, TypeError, AttributeError):
            return None

    def genuine(self, keys: Keyring) -> bool:
        return genuine(self.found, keys.by_kid.get(self.key))

    def view(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "tree_size": self.tree_size,
            "root": self.root.hex(),
            "sha256": self.sha256,
            "previous": self.previous,
            "at": self.at,
            "first": str(self.first),
            "last": str(self.last),
            "key": self.key,
            "object": self.raw.decode(),
        }

    def fact(self) -> dict[str, Any]:
        """What the ledger says of it."""
        return {
            "number": self.number,
            "tree_size": self.tree_size,
            "root": self.root.hex(),
            "anchor": self.sha256,
            "last": str(self.last),
            "key": self.key,
        }


def slot(tenant: UUID, number: int) -> str:
    return f"{tenant}/anchors/{number:012d}.json"


def entries_name(tenant: UUID, digest: str) -> str:
    return f"{tenant}/entries/{digest}.txt"


def build(
    tenant: UUID, before: Anchor | None, lines: Sequence[bytes], signing: Signer, at: datetime
) -> tuple[bytes, bytes]:
    """The anchor that follows another over these lines, and its entries: both as they go into the store."""
    frontier = Frontier(before.tree_size, before.frontier) if before else Frontier()
    for line in lines:
        frontier.append(leaf_hash(line))
    entries = b"".join(line + b"\n" for line in lines)
    statement = {
        "at": iso(at),
        "by": signing.kid,
        "entries": sha256(entries).hex(),
        "first": place(lines[0]),
        "frontier": [one.hex() for one in frontier.hashes],
        "heads": heads(lines),
        "last": place(lines[-1]),
        "number": before.number + 1 if before else 1,
        "previous": before.sha256 if before else None,
        "purpose": PURPOSE,
        "root": frontier.root().hex(),
        "tenant": str(tenant),
        "tree_size": frontier.size,
    }
    return sealed(statement, signing.by_kid[signing.kid]), entries


def place(line: bytes) -> str:
    return line.split(b" ", 1)[0].decode()


def heads(lines: Iterable[bytes]) -> str:
    """The digest of where each chain stood at the anchor's end: the last line of every subject it covers, sorted."""
    last = {line.split(b" ", 2)[1]: line for line in lines}
    return hashlib.sha256(b"".join(last[subject] + b"\n" for subject in sorted(last))).hexdigest()


async def stored(store: Store, tenant: UUID, after: int = 0) -> AsyncIterator[tuple[str, Anchor | None]]:
    """The tenant's anchors in the store by name, in order, from the one after a number on. None: it cannot be read."""
    prefix = f"{tenant}/anchors"
    async for name in store.names(prefix, slot(tenant, after) if after else None):
        raw = await store.get(name)
        yield name, Anchor.read(raw) if raw is not None else None


async def statements(store: Store) -> list[bytes]:
    """What keys said of their successors."""
    return [raw async for name in store.names("keys") if (raw := await store.get(name)) is not None]


async def stated(session: ReadSession) -> dict[str, Any] | None:
    """The newest anchor that the tenant's chain knows of."""
    body = await session.scalar(STATED, {"tenant": session.tenant})
    return json.loads(body) if body is not None else None


def stated_in(body: str | bytes) -> dict[str, Any]:
    """What a fact says of its anchor; empty when somebody made it say something else: its chain tells of that."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def number_in(body: str | bytes) -> int:
    """The number of the anchor that a fact states; 0 is none."""
    number = stated_in(body).get("number")
    return number if isinstance(number, int) else 0


class Anchorer:
    """What a worker does for anchors, tenant by tenant, each under a leased work row."""

    def __init__(
        self, database: Database, store: Store, signing: Signer, keys: Keyring, interval: timedelta, most: int
    ) -> None:
        self.database, self.store, self.signing, self.interval, self.most = database, store, signing, interval, most
        self.keys = Keyring({**keys.by_kid, **signing.public()}, keys.revoked)
        self.waiting: dict[UUID, tuple[int, datetime]] = {}  # facts to be anchored, and since when
        self.vouched = False
        ANCHOR_AGE.set_function(self.age)
        UNANCHORED.set_function(lambda: float(sum(count for count, _ in self.waiting.values())))

    def age(self) -> float:
        return max(((now() - since).total_seconds() for _, since in self.waiting.values()), default=0.0)

    async def turn(self, item: Item) -> None:
        """One look at one tenant: repairs what a crash left, anchors what is due, and says when to look again."""
        again = await self.anchor(item)
        async with self.database.write() as session:
            await session.enter(item.tenant)
            await work.again(session, item, again)

    async def anchor(self, item: Item) -> datetime:
        if not self.vouched:
            for name, content in self.signing.successions():
                await self.store.create(name, content)
            self.vouched = True
        async with self.database.read() as session:
            await session.enter(item.tenant)
            said = await stated(session)
            after = (Position.parse(str(said.get("last"))) if said else None) or START
            waits = await session.first(
                WAITING, {"tenant": item.tenant, "xid": str(after.xid), "id": after.id, "limit": BATCH}
            )
        # before the store is asked: when it is away or contradicts the ledger, what waits is still to be seen
        self.waiting.pop(item.tenant, None)
        if waits is not None and waits.facts:
            self.waiting[item.tenant] = (waits.facts, waits.since)
        before, missing = await self.newest(item.tenant, said)
        async with self.database.read() as session:
            await session.enter(item.tenant)
            await self.still_there(session, before)
            after = before.last if before else START
            found = await session.rows(
                NEW, {"tenant": item.tenant, "xid": str(after.xid), "id": after.id, "limit": BATCH}
            )
        if missing:
            await self.record(item, missing)  # a crash came between the store and the fact
        told = [row for row in found if row.type != FACT]  # an anchor is no reason for another one
        if not told:
            return now() + self.interval
        self.waiting[item.tenant] = (len(told), told[0].at)
        due = told[0].at + self.interval
        if due > now() and len(told) < self.most:
            return min(due, now() + LOOK)
        raw, entries = build(item.tenant, before, [row.line.encode() for row in found], self.signing, now())
        made = Anchor.read(raw)
        assert made is not None
        await self.store.create(entries_name(item.tenant, made.entries), entries)
        if not await self.store.create(slot(item.tenant, made.number), raw):
            return now()  # another worker was faster: what it wrote is looked at anew
        await self.record(item, [made])
        self.waiting.pop(item.tenant, None)
        return now() if len(found) == BATCH else now() + min(self.interval, LOOK)

    async def newest(self, tenant: UUID, said: dict[str, Any] | None) -> tuple[Anchor | None, list[Anchor]]:
        """The anchor to go on from, and those that the chain does not know of yet. Raises Broken."""
        known = int(said["number"]) if said else 0
        last: Anchor | None = None
        missing = []
        number = max(known, 1) - 1
        async for name, anchor in stored(self.store, tenant, number):
            number += 1
            if anchor is None or anchor.number != number or name != slot(tenant, number) or anchor.tenant != tenant:
                raise Broken(f"{name} is not anchor {number}")
            if not await self.believed(anchor):
                raise Broken(f"{name} is not signed by a key that is known here")
            if last is not None and anchor.previous != last.sha256:
                raise Broken(f"{name} does not follow the anchor before it")
            if said and number == known and anchor.sha256 != said["anchor"]:
                raise Broken(f"{name} is another anchor than the ledger states")
            last = anchor
            if number > known:
                missing.append(anchor)
        if number < known:
            raise Broken(f"the ledger states {known} anchors, and the store has lost the newest")
        return last, missing

    async def believed(self, anchor: Anchor) -> bool:
        if anchor.genuine(self.keys):
            return True
        self.keys = self.keys.reached(await statements(self.store))
        return anchor.genuine(self.keys)

    async def still_there(self, session: ReadSession, before: Anchor | None) -> None:
        """A look at the last row that was anchored: over a ledger that lost it, nothing is signed. Raises Broken."""
        if before is None:
            return
        raw = await session.scalar(AT, {"tenant": session.tenant, "xid": str(before.last.xid), "id": before.last.id})
        frontier = Frontier(before.tree_size, before.frontier)
        odd = frontier.size & 1  # only then is the last leaf in the frontier itself
        if raw is None or (odd and frontier.hashes[-1] != leaf_hash(raw.encode())):
            raise Broken("the last fact that was anchored is no longer what it was")

    async def record(self, item: Item, anchors: list[Anchor]) -> None:
        """Tells the tenant's chain of them, unless another worker has taken the work over and does."""
        async with self.database.write() as session:
            await session.enter(item.tenant)
            key = {"tenant": item.tenant, "kind": item.kind, "subject": item.subject, "fence": item.fence}
            if await session.scalar(HOLD, key) is None:
                return
            said = await stated(session)
            for anchor in anchors:
                if anchor.number > (int(said["number"]) if said else 0):
                    await record(session, system(item.tenant, "worker"), FACT, item.tenant, **anchor.fact())


OLDEST = text("""SELECT EXTRACT(EPOCH FROM clock_timestamp() - at) FROM ledger
  WHERE tenant = :tenant AND type <> 'ledger.anchored' AND (xid, id) > (CAST(CAST(:xid AS text) AS xid8), :id)
  ORDER BY xid, id LIMIT 1""")


async def overdue(session: ReadSession, interval_s: float) -> float | None:
    """How many seconds the oldest fact that no anchor covers has waited, when that is more than three intervals."""
    said = stated_in(await session.scalar(STATED, {"tenant": session.tenant}) or "")
    after = Position.parse(str(said.get("last"))) or START
    waited = await session.scalar(OLDEST, {"tenant": session.tenant, "xid": str(after.xid), "id": after.id})
    return float(waited) if waited is not None and waited > 3 * interval_s else None


async def load(store: Store, tenant: UUID, number: int) -> Anchor | None:
    raw = await store.get(slot(tenant, number))
    return Anchor.read(raw) if raw is not None else None


__all__ = [
    "Anchor", "Anchorer", "Broken", "build", "load", "number_in", "overdue", "stated", "stated_in", "statements", "stored",
]  # fmt: skip
