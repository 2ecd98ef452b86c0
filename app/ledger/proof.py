"""Is one subject's story whole? Its chain recomputed, and each of its facts found among what signed anchors covered.

An anchor signs the digest of its entries, one line per fact. So a fact is proved by the one anchor that took it in, however
long the ledger before it: what is read is the subject's chain and the entries of the anchors along it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.canonical import sha256
from app.ledger.anchors import LINES, STATED, Anchor, entries_name, place, slot, statements
from app.ledger.export import first_after, number_in
from app.ledger.keys import Keyring
from app.ledger.queries import START, Position
from app.ledger.store import UNREACHABLE, Store
from app.ledger.verify import Reading, chains

PAGE = 2000
MOST_ANCHORS = 200  # along one subject
BESIDE = 25  # more of them after its last fact, and between its facts: a full verification looks at all
OF_ONE = text(f"""SELECT {LINES}, seq FROM ledger WHERE tenant = :tenant AND subject = :subject AND seq > :seq
  ORDER BY seq LIMIT :limit""")  # noqa: S608


@dataclass
class Proof:
    """What holds of a subject's facts. anchors: ok, failed, none (not anchored yet), off (no store), unavailable.

    signed: the positions of facts that a genuine anchor covers as they stand now. finding: what does not hold, in words.
    """

    chain: bool
    facts: int
    first_bad: dict[str, Any] | None
    anchors: str = "none"
    numbers: list[int] = field(default_factory=list)
    signed: set[str] = field(default_factory=set)
    finding: str | None = None

    @property
    def verified(self) -> bool:
        return self.chain and self.anchors != "failed"


async def prove(reading: Reading, tenant: UUID, store: Store | None, keys: Keyring, subject: UUID) -> Proof:
    """reading() opens a session that has entered the tenant; none is open while the store is asked."""
    async with reading() as session:  # before the chain is read: what an anchor to come signs is none of its business
        newest = number_in(await session.scalar(STATED, {"tenant": tenant}) or "")
    verdict = await chains(reading, tenant, subject)
    proof = Proof(verdict.verified, verdict.facts, verdict.first_bad)
    if store is None:
        proof.anchors = "off"
        return proof
    lines = await lines_of(reading, tenant, subject)
    try:
        known = keys.reached(await statements(store))
        await Look(reading, tenant, store, known, subject, lines, newest, proof).up()
    except UNREACHABLE:
        proof.anchors = "unavailable"
    return proof


async def lines_of(reading: Reading, tenant: UUID, subject: UUID) -> list[bytes]:
    """The subject's facts as anchors have them, in order."""
    found: list[bytes] = []
    seq = 0
    while True:
        async with reading() as session:
            rows = await session.rows(OF_ONE, {"tenant": tenant, "subject": subject, "seq": seq, "limit": PAGE})
        found += [row.line.encode() for row in rows]
        if len(rows) < PAGE:
            return found
        seq = rows[-1].seq


@dataclass
class Look:
    """One look at the anchors along a subject's chain; what it finds goes into `proof`.

    lines: the facts that are there, as anchors have them. newest: the number of the newest anchor when they were read.
    """

    reading: Reading
    tenant: UUID
    store: Store
    keys: Keyring
    subject: UUID
    lines: Sequence[bytes]
    newest: int
    proof: Proof

    async def up(self) -> None:
        """From fact to fact: the anchor that took it in, and which others it took in with it; then those beside."""
        waiting = sorted(self.lines, key=at)
        while waiting and len(self.proof.numbers) < MOST_ANCHORS:
            number = await first_after(self.reading, self.tenant, at(waiting[0]))
            if number is None:
                break  # newer than every anchor: their chain speaks for them
            if (found := await self.opened(number)) is None:
                return
            anchor, entries = found
            covered = [line for line in waiting if at(line) <= anchor.last]
            if not covered:
                return self.fail(f"anchor {number}: it covers less than the ledger says")
            told = set(entries.splitlines())
            for line in covered:
                if line not in told:
                    return self.fail(f"the fact {place(line)} is not what anchor {number} signed")
                self.proof.signed.add(place(line))
            if not self.whole(number, entries):
                return
            self.proof.anchors = "ok"
            self.proof.numbers.append(number)
            waiting = waiting[len(covered) :]
        await self.beside()

    async def beside(self) -> None:
        """The next anchors after the newest of these, and between them: facts that they signed may be gone from the chain."""
        if not (seen := self.proof.numbers):
            return
        known = set(seen)
        after = range(seen[-1] + 1, self.newest + 1)[:BESIDE]
        between = (number for number in range(seen[-1], seen[0], -1) if number not in known)
        for number in (*after, *islice(between, BESIDE)):
            if (found := await self.opened(number)) is None or not self.whole(number, found[1]):
                return

    async def opened(self, number: int) -> tuple[Anchor, bytes] | None:
        """A genuine anchor and its entries; None is a failure."""
        anchor = Anchor.read(await self.store.get(slot(self.tenant, number)) or b"")
        wrong = unfit(anchor, self.tenant, number, self.keys)
        entries = b""
        if anchor is not None and not wrong:
            entries = await self.store.get(entries_name(self.tenant, anchor.entries)) or b""
            wrong = None if sha256(entries).hex() == anchor.entries else "its entries are missing or changed"
        if anchor is None or wrong:
            self.fail(f"anchor {number}: {wrong}")
            return None
        return anchor, entries

    def whole(self, number: int, entries: bytes) -> bool:
        """Whether the chain still has every fact of the subject that this anchor signed."""
        subject = str(self.subject).encode()
        if number > self.newest or subject not in entries:
            return True
        there = set(self.lines)
        for line in entries.splitlines():
            if line.split(b" ", 2)[1] == subject and line not in there:
                self.fail(f"the fact {place(line)}, which anchor {number} signed, is gone")
                return False
        return True

    def fail(self, finding: str) -> None:
        self.proof.anchors, self.proof.finding = "failed", finding


def unfit(anchor: Anchor | None, tenant: UUID, number: int, keys: Keyring) -> str | None:
    if anchor is None or (anchor.tenant, anchor.number) != (tenant, number):
        return "it is missing, or cannot be read"
    if anchor.key not in keys.by_kid:
        return "it is signed by a key that nobody vouches for"
    if anchor.key in keys.revoked:
        return "it is signed by a key that was revoked: verify the whole ledger"
    return None if anchor.genuine(keys) else "its signature is not genuine"


def at(line: bytes) -> Position:
    return Position.parse(place(line)) or START
