"""Is the record whole? Every chain recomputed where the bytes are stored, then every fact held against its anchor."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import text

from app.canonical import sha256
from app.clock import now
from app.db import ReadSession
from app.ledger.anchors import BATCH, FACT, UP_TO, Anchor, entries_name, heads, place, slot, statements, stored
from app.ledger.keys import Keyring
from app.ledger.merkle import Frontier, leaf_hash
from app.ledger.queries import START, Position
from app.ledger.store import UNREACHABLE, Store
from app.telemetry import begin

FAILURES = Counter("mission_root_ledger_verify_failures", "Verifications that found something, by what.", ["what"])
begin(FAILURES, ["chain", "anchors"])


@dataclass(frozen=True)
class Verdict:
    """What verification found; first_bad is the first fact, in reading order, that is not what it was."""

    verified: bool
    facts: int
    subjects: int
    first_bad: dict[str, object] | None


@dataclass
class AnchorState:
    """What the anchors are worth. state: ok, failed, none (nothing anchored yet), off (no store), unavailable."""

    state: str
    anchors: int = 0
    covered: int = 0  # facts that the newest anchor covers
    covered_to: str | None = None
    at: str | None = None
    age_s: float | None = None
    tail: int | None = None  # facts after the newest anchor: only their chain speaks for them
    failed: list[dict[str, Any]] = field(default_factory=list)


PAGE = 10_000  # facts of a statement and a transaction: neither grows with the ledger
# One page, in the order of the primary key; what the chain that goes on from the page before ended with is carried in.
CHECKED = """
  WITH page AS (
    SELECT * FROM ledger
    WHERE tenant = :tenant AND (subject, seq) > (CAST(:subject AS uuid), CAST(:seq AS bigint)) {only} ORDER BY subject, seq LIMIT :limit),
  carried AS (
    SELECT CAST(:subject AS uuid) AS subject, CAST(:expected AS bigint) AS expected, CAST(:hash AS bytea) AS hash,
           CAST(CAST(:xid AS text) AS xid8) AS xid, CAST(:id AS bigint) AS id),
  chained AS (
    SELECT p.xid, p.id, p.subject, p.seq, p.type, p.hash,
           row_number() OVER chain + COALESCE(c.expected, 0) AS expected,
           p.prev = COALESCE(lag(p.hash) OVER chain, c.hash, '\\x'::bytea) AS linked,
           p.hash = fact_hash(p.prev, p.tenant, p.subject, p.seq, p.type, p.actor, p.at, p.body) AS whole,
           -- no hash of a chain holds its positions: readers must at least meet a chain in its order
           COALESCE((p.xid, p.id) > (COALESCE(lag(p.xid) OVER chain, c.xid), COALESCE(lag(p.id) OVER chain, c.id)), true)
             AND p.xid < pg_snapshot_xmax(pg_current_snapshot()) AS placed
    FROM page p LEFT JOIN carried c ON c.subject = p.subject
    WINDOW chain AS (PARTITION BY p.subject ORDER BY p.seq))
  SELECT count(*) OVER () AS facts, count(*) FILTER (WHERE expected = 1) OVER () AS subjects,
         subject, seq, expected, hash, xid::text AS xid, id,
         (SELECT to_jsonb(b) FROM (SELECT subject, seq, type, concat(xid::text, '-', id) AS position,
              CASE WHEN seq <> expected THEN 'a fact before it is missing' WHEN NOT linked THEN 'does not follow its predecessor'
                   WHEN NOT whole THEN 'its content does not match its hash' ELSE 'readers would not meet it in order' END AS finding
            FROM chained WHERE seq <> expected OR NOT linked OR NOT whole OR NOT placed ORDER BY xid, id LIMIT 1) b) AS first_bad
  FROM chained ORDER BY chained.subject DESC, chained.seq DESC LIMIT 1"""
VERIFY = text(CHECKED.format(only=""))
VERIFY_ONE = text(CHECKED.format(only="AND subject = :only"))
BEGINNING = {"subject": UUID(int=0), "seq": -(2**63), "expected": 0, "hash": b"", "xid": "0", "id": -(2**63)}
COUNTED = text("""
  SELECT count(*) FILTER (WHERE (xid, id) <= (CAST(CAST(:xid AS text) AS xid8), :id)) AS covered, count(*) AS facts
  FROM ledger WHERE tenant = :tenant""")
ANCHORED = text("""
  SELECT seq, concat(xid::text, '-', id) AS position, body FROM ledger
  WHERE tenant = :tenant AND subject = :tenant AND type = 'ledger.anchored' AND seq > :seq AND seq <= :newest
  ORDER BY seq LIMIT 1000""")
NEWEST = text("SELECT max(seq) FROM ledger WHERE tenant = :tenant AND subject = :tenant")

Reading = Callable[[], AbstractAsyncContextManager[ReadSession]]


async def verify(session: ReadSession) -> Verdict:
    """Checks order, links and hashes of all chains of the session's tenant, in the session's one transaction."""

    @asynccontextmanager
    async def same() -> AsyncIterator[ReadSession]:
        yield session

    assert session.tenant is not None
    return await chains(same, session.tenant)


async def chains(reading: Reading, tenant: UUID, only: UUID | None = None) -> Verdict:
    """The same, with a session of its own for every page. Facts only come in, at the end of chains: none moves.

    only: the one subject whose chain is looked at.
    """
    statement = VERIFY if only is None else VERIFY_ONE
    asked = {"tenant": tenant, "limit": PAGE} | ({} if only is None else {"only": only})
    facts = subjects = 0
    found: list[dict[str, object]] = []
    carried: dict[str, Any] = BEGINNING
    while True:
        async with reading() as session:
            last = await session.first(statement, carried | asked)
        if last is None:
            break
        facts, subjects = facts + last.facts, subjects + last.subjects
        if last.first_bad is not None:
            found.append(last.first_bad)
        carried = {name: getattr(last, name) for name in BEGINNING}
    first = min(found, key=where) if found else None
    if first is not None:
        FAILURES.labels("chain").inc()
    return Verdict(first is None, facts, subjects, first)


async def audit(reading: Reading, tenant: UUID, store: Store | None, keys: Keyring) -> tuple[Verdict, dict[str, Any]]:
    """Chains and anchors together. reading() opens a session that has entered the tenant; none is open at the store."""
    checked = Check(reading, tenant, keys)
    if store is None:
        checked.state.state = "off"
    else:
        try:
            await checked.anchors(store)
        except UNREACHABLE as away:
            checked.state.state = "unavailable"
            checked.fail(0, f"the store cannot be read ({type(away).__name__})")
    verdict = await chains(reading, tenant)
    found = [one for one in (checked.bad, verdict.first_bad) if one is not None]
    first = min(found, key=where) if found else None
    if checked.bad is not None or checked.state.failed:
        FAILURES.labels("anchors").inc()
    whole = first is None and not checked.state.failed
    return Verdict(whole, verdict.facts, verdict.subjects, first), asdict(checked.state)


def where(bad: dict[str, object]) -> Position:
    return Position.parse(str(bad["position"])) or START


class Check:
    """One walk along a tenant's anchors, holding the ledger's rows against them, an interval at a time."""

    def __init__(self, reading: Reading, tenant: UUID, keys: Keyring) -> None:
        self.reading, self.tenant, self.keys = reading, tenant, keys
        self.state = AnchorState("none")
        self.bad: dict[str, object] | None = None

    def fail(self, number: int, finding: str) -> None:
        if len(self.state.failed) < 100:
            self.state.failed.append({"number": number, "finding": finding})

    async def anchors(self, store: Store) -> None:
        async with self.reading() as session:  # before the store is listed: later ones need not be in that list
            newest = await session.scalar(NEWEST, {"tenant": self.tenant}) or 0
        keys = self.keys.reached(await statements(store))
        before: Anchor | None = None
        whole = True  # every anchor so far is there and believed
        digests: dict[int, str] = {}
        number = 0
        revoked: list[int] = []  # believed only if a later anchor, by a key that still counts, covers them
        async for name, anchor in stored(store, self.tenant):
            number += 1
            said = 0 if anchor is None else anchor.number
            if anchor is not None and name == slot(self.tenant, said) and said > number:
                self.fail(number, "is missing")
                number, whole = said, False
            wrong = self.unfit(name, number, anchor, keys)
            if wrong or anchor is None:
                self.fail(number, wrong or "cannot be read")
                whole = False
                continue
            revoked = [*revoked, number] if anchor.key in keys.revoked else []
            if whole and anchor.previous != (before.sha256 if before else None):
                self.fail(number, "does not follow the anchor before it")
                whole = False
            digests[number] = anchor.sha256
            await self.interval(store, before if whole else None, anchor, whole)
            before, whole = anchor, True
            self.state.anchors += 1
        for one in revoked:
            self.fail(one, "is signed by a key that was revoked, and no later anchor covers it")
        await self.facts(digests, newest)
        await self.rest(before)

    def unfit(self, name: str, number: int, anchor: Anchor | None, keys: Keyring) -> str | None:
        if (
            anchor is None
            or anchor.number != number
            or anchor.tenant != self.tenant
            or name != slot(self.tenant, number)
        ):
            return "is no anchor of this place"
        if anchor.key not in keys.by_kid:
            return "is signed by a key that nobody vouches for"
        return None if anchor.genuine(keys) else "its signature is not genuine"

    async def interval(self, store: Store, before: Anchor | None, anchor: Anchor, whole: bool) -> None:
        """Its entries against its signature, then the ledger's rows against its entries."""
        raw = await store.get(entries_name(self.tenant, anchor.entries))
        if raw is None or sha256(raw).hex() != anchor.entries:
            self.fail(anchor.number, "its entries are missing or changed")
            return
        lines = raw.splitlines()
        if whole:
            frontier = Frontier(before.tree_size, before.frontier) if before else Frontier()
            for line in lines:
                frontier.append(leaf_hash(line))
            same = (frontier.size, frontier.root(), tuple(frontier.hashes)) == (
                anchor.tree_size, anchor.root, anchor.frontier,
            )  # fmt: skip
            placed = place(lines[0]), place(lines[-1]), heads(lines)
            if not same or placed != (str(anchor.first), str(anchor.last), anchor.heads):
                self.fail(anchor.number, "its tree is not that of its entries")
                return
        if self.bad is None:
            start = before.last if before else START
            if not whole:
                start = Position(anchor.first.xid, anchor.first.id - 1)
            await self.rows(start, anchor, lines)

    async def rows(self, after: Position, anchor: Anchor, lines: list[bytes]) -> None:
        to = anchor.last
        async with self.reading() as session:
            found = await session.rows(
                UP_TO,
                {
                    "tenant": self.tenant, "xid": str(after.xid), "id": after.id, "to_xid": str(to.xid), "to_id": to.id,
                    "limit": max(len(lines), BATCH) + 1,
                },
            )  # fmt: skip
        told = [row.line.encode() for row in found]
        if told == lines:
            return
        same = min(len(told), len(lines))
        part = next((n for n in range(same) if told[n] != lines[n]), same)
        self.bad = difference(told[part] if part < len(told) else None, lines[part] if part < len(lines) else None)

    async def facts(self, digests: dict[int, str], newest: int) -> None:
        """What the ledger says of its anchors: one that it states and the store has lost was taken away."""
        seq = 0
        while True:
            async with self.reading() as session:
                page = await session.rows(ANCHORED, {"tenant": self.tenant, "seq": seq, "newest": newest})
            for row in page:
                seq = row.seq
                try:
                    said = json.loads(row.body)
                    number, digest = int(said["number"]), str(said["anchor"])
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    continue  # its chain says that it was changed
                if digests.get(number) == digest:
                    continue
                finding = "is another one than the ledger states" if number in digests else "is missing from the store"
                if number not in {one["number"] for one in self.state.failed}:
                    self.fail(number, finding)
                bad = {
                    "subject": str(self.tenant), "seq": row.seq, "type": FACT, "position": row.position,
                    "finding": f"the anchor that it states {finding}",
                }  # fmt: skip
                if self.bad is None or where(bad) < where(self.bad):
                    self.bad = bad
            if len(page) < 1000:
                return

    async def rest(self, last: Anchor | None) -> None:
        to = last.last if last else START
        async with self.reading() as session:
            row = await session.first(COUNTED, {"tenant": self.tenant, "xid": str(to.xid), "id": to.id})
        assert row is not None
        if last is not None and self.bad is None and row.covered != last.tree_size:
            self.fail(last.number, f"covers {last.tree_size} facts, and the ledger has {row.covered} there")
        self.state.tail = row.facts - row.covered
        if last is not None:
            self.state.covered, self.state.covered_to, self.state.at = last.tree_size, str(last.last), last.at
            self.state.age_s = round((now() - datetime.fromisoformat(last.at)).total_seconds(), 3)
        self.state.state = "failed" if self.bad or self.state.failed else "ok" if last else "none"


def difference(stands: bytes | None, stood: bytes | None) -> dict[str, object]:
    """The first row in which the ledger and the entries of an anchor part, named by what was anchored where it can be."""
    if stood is None or (stands is not None and at(stands) < at(stood)):
        assert stands is not None
        return named(stands, "did not stand here when the ledger was anchored")
    if stands is None or at(stands) > at(stood):
        return named(stood, "was anchored here and is missing")
    return named(stood, "is not what was anchored")


def at(line: bytes) -> Position:
    return Position.parse(place(line)) or START


def named(line: bytes, finding: str) -> dict[str, object]:
    position, subject, seq, type, _ = line.decode().split(" ")
    return {"subject": subject, "seq": int(seq), "type": type, "position": position, "finding": finding}
