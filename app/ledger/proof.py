"""Is one subject's story whole? Its chain recomputed, and each of its facts found among what signed anchors covered.

An anchor signs the digest of its entries, one line per fact. So a fact is proved by the one anchor that took it in, however
long the ledger before it: what is read is the subject's chain and the entries of the anchors along it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.canonical import sha256
from app.ledger.anchors import LINES, Anchor, entries_name, place, slot, statements
from app.ledger.export import first_after
from app.ledger.keys import Keyring
from app.ledger.queries import START, Position
from app.ledger.store import UNREACHABLE, Store
from app.ledger.verify import Reading, chains

PAGE = 2000
MOST_ANCHORS = 200  # along one subject
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
    verdict = await chains(reading, tenant, subject)
    proof = Proof(verdict.verified, verdict.facts, verdict.first_bad)
    if store is None:
        proof.anchors = "off"
        return proof
    try:
        await look_up(reading, tenant, store, keys, await lines_of(reading, tenant, subject), proof)
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


async def look_up(
    reading: Reading, tenant: UUID, store: Store, keys: Keyring, lines: Sequence[bytes], proof: Proof
) -> None:
    """From fact to fact: the anchor that took it in, and which others it took in with it."""
    known = keys.reached(await statements(store))
    waiting = sorted(lines, key=at)
    while waiting and len(proof.numbers) < MOST_ANCHORS:
        number = await first_after(reading, tenant, at(waiting[0]))
        if number is None:
            return  # newer than every anchor: their chain speaks for them
        anchor = Anchor.read(await store.get(slot(tenant, number)) or b"")
        wrong = unfit(anchor, tenant, number, known)
        entries = b"" if wrong or anchor is None else await store.get(entries_name(tenant, anchor.entries)) or b""
        if not wrong and anchor is not None and sha256(entries).hex() != anchor.entries:
            wrong = "its entries are missing or changed"
        if wrong or anchor is None:
            proof.anchors, proof.finding = "failed", f"anchor {number}: {wrong}"
            return
        covered = [line for line in waiting if at(line) <= anchor.last]
        if not covered:
            proof.anchors, proof.finding = "failed", f"anchor {number}: it covers less than the ledger says"
            return
        told = set(entries.splitlines())
        for line in covered:
            if line not in told:
                proof.anchors, proof.finding = "failed", f"the fact {place(line)} is not what anchor {number} signed"
                return
            proof.signed.add(place(line))
        proof.anchors = "ok"
        proof.numbers.append(number)
        waiting = waiting[len(covered) :]


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
