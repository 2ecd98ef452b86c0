"""Is one subject's story whole? Its chain recomputed, and each of its facts found among what signed anchors covered.

An anchor signs the digest of its entries, one line per fact. So a fact is proved by the one anchor that took it in, however
long the ledger before it: what is read is the subject's chain and the entries of the anchors along it.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.canonical import sha256
from app.ledger.anchors import LINES, STATED, Anchor, entries_name, number_in, place, slot, statements
from app.ledger.export import Stated, first_after
from app.ledger.keys import Keyring
from app.ledger.queries import START, Position
from app.ledger.store import UNREACHABLE, Store
from app.ledger.verify import Reading, chains

PAGE = 2000
MOST_ANCHORS = 200  # along one subject
AT_A_TIME = 8  # anchors asked of the store together
BESIDE = 25  # more of them after its last fact, and between its facts: a full verification looks at all
OF_ONE = text(f"""SELECT {LINES}, seq FROM ledger WHERE tenant = :tenant AND subject = :subject AND seq > :seq
  ORDER BY seq LIMIT :limit""")  # noqa: S608


@dataclass
class Proof:
    """What holds of a subject's facts. anchors: ok, failed, none (not anchored yet), off (no store), unavailable.

    signed: the positions of facts that a genuine anchor covers as they stand now. broken: of those that are not what their
    anchor signed, or whose anchor is not there. finding: what does not hold, in words.
    """

    chain: bool
    facts: int
    first_bad: dict[str, Any] | None
    anchors: str = "none"
    numbers: list[int] = field(default_factory=list)
    signed: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
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
        along = await asyncio.to_thread(Along, lines)
        await Look(reading, tenant, store, known, subject, along, newest, proof).up()
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


class Along:
    """A subject's facts as anchors have them, in reading order; where each is, is worked out once."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        told = sorted((at(line), line) for line in lines)
        self.places = [place for place, _ in told]
        self.lines = [line for _, line in told]
        self.there = frozenset(lines)

    def behind(self, last: Position, start: int) -> int:
        """Where the facts begin that come after a position."""
        return bisect_right(self.places, last, start)


@dataclass
class Look:
    """One look at the anchors along a subject's chain; what it finds goes into `proof`.

    along: the facts that are there. newest: the number of the newest anchor when they were read. The event loop serves
    others meanwhile: what takes time is done in threads.
    """

    reading: Reading
    tenant: UUID
    store: Store
    keys: Keyring
    subject: UUID
    along: Along
    newest: int
    proof: Proof

    async def up(self) -> None:
        """From fact to fact: the anchor that took it in, and which others it took in with it; then those beside."""
        start = looked = 0
        while start < len(self.along.lines) and looked < MOST_ANCHORS:
            said = await first_after(self.reading, self.tenant, self.along.places[start])
            if said is None:
                break  # newer than every anchor: their chain speaks for them
            looked, start = looked + 1, await self.past(said, start)
        if self.proof.numbers and self.proof.finding is None:
            self.proof.anchors = "ok"
            await self.beside(self.proof.numbers)

    async def past(self, said: Stated, start: int) -> int:
        """Holds the facts from `start` on against the anchor that is said to cover them; answers where those behind it begin."""
        end = self.along.behind(said.last, start)
        found = await self.opened(said.number)
        if isinstance(found, str):
            return self.none_of(start, end, f"anchor {said.number}: {found}")
        anchor, entries = found
        if anchor.key in self.keys.revoked:  # it contradicts nothing; what comes after it may vouch for it
            self.fail(f"anchor {said.number}: it is signed by a key that was revoked: verify the whole ledger")
            return end
        reached = self.along.behind(anchor.last, start)
        if reached == start:
            return self.none_of(start, end, f"anchor {said.number}: it covers less than the ledger says")
        if await asyncio.to_thread(self.holds, said.number, entries, start, reached):
            self.proof.numbers.append(said.number)
        return reached

    def none_of(self, start: int, end: int, finding: str) -> int:
        """What the ledger says is anchored, and is not."""
        self.proof.broken.update(place(line) for line in self.along.lines[start:end])
        self.fail(finding)
        return end

    def holds(self, number: int, entries: bytes, start: int, end: int) -> bool:
        """Whether these facts are what an anchor signed, and all that it signed of the subject."""
        told = set(entries.splitlines())
        other: list[str] = []
        for line in self.along.lines[start:end]:
            (self.proof.signed.add if line in told else other.append)(place(line))
        self.proof.broken.update(other)
        if other:
            self.fail(f"the fact {other[0]} is not what anchor {number} signed")
        return self.whole(number, entries) and not other

    async def beside(self, seen: Sequence[int]) -> None:
        """The next anchors after the newest of these, and between them: facts that they signed may be gone from the chain.

        None of them has to prove a fact that is there: one by a revoked key is taken at its word here.
        """
        known = set(seen)
        after = range(seen[-1] + 1, self.newest + 1)[:BESIDE]
        between = (number for number in range(seen[-1], seen[0], -1) if number not in known)
        numbers = [*after, *islice(between, BESIDE)]
        for first in range(0, len(numbers), AT_A_TIME):
            some = numbers[first : first + AT_A_TIME]
            for number, found in zip(some, await asyncio.gather(*map(self.opened, some)), strict=True):
                if isinstance(found, str):
                    return self.fail(f"anchor {number}: {found}")
                if not await asyncio.to_thread(self.whole, number, found[1]):
                    return

    async def opened(self, number: int) -> tuple[Anchor, bytes] | str:
        """A genuine anchor and its entries; or what is wrong with them."""
        anchor = Anchor.read(await self.store.get(slot(self.tenant, number)) or b"")
        if anchor is None or (anchor.tenant, anchor.number) != (self.tenant, number):
            return "it is missing, or cannot be read"
        if anchor.key not in self.keys.by_kid:
            return "it is signed by a key that nobody vouches for"
        if not anchor.genuine(self.keys):
            return "its signature is not genuine"
        entries = await self.store.get(entries_name(self.tenant, anchor.entries)) or b""
        return (anchor, entries) if sha256(entries).hex() == anchor.entries else "its entries are missing or changed"

    def whole(self, number: int, entries: bytes) -> bool:
        """Whether the chain still has every fact of the subject that this anchor signed."""
        subject = str(self.subject).encode()
        if number > self.newest or subject not in entries:
            return True
        for line in entries.splitlines():
            if line.split(b" ", 2)[1] == subject and line not in self.along.there:
                self.fail(f"the fact {place(line)}, which anchor {number} signed, is gone")
                return False
        return True

    def fail(self, finding: str) -> None:
        """The first finding is told."""
        self.proof.anchors, self.proof.finding = "failed", self.proof.finding or finding


def at(line: bytes) -> Position:
    return Position.parse(place(line)) or START
