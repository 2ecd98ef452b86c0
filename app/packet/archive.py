"""The packet as one zip that verifies offline: everything that stands behind a mission, and the verifier.

What can still change (approvals, writebacks, the packet) is read in one snapshot, as far as the mission's facts can be read
at that moment; what never changes follows page by page, with no transaction open for longer than a page. It is written to
a file without a name first: memory stays bounded, and whoever reads slowly holds nothing of ours. The same state makes the
same bytes.
"""

import asyncio
import contextlib
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import text

from app import artifacts, ledger, policy
from app.approvals.queries import handed, inbox
from app.approvals.queries import view as approval_view
from app.approvals.questions import of_each
from app.approvals.signatures import keys_of
from app.artifacts import Objects
from app.canonical import canonical
from app.clock import iso
from app.db import Database, ReadSession
from app.errors import Problem
from app.ledger.export import prepare
from app.ledger.keys import Keyring
from app.ledger.queries import Position
from app.ledger.store import Store
from app.listing import Place
from app.packet.assemble import assemble
from app.packet.page import rendered
from app.writebacks.queries import newest as writebacks_of
from app.writebacks.queries import view as writeback_view

FORMAT = "mission-root packet 1"
VERIFIER = Path(__file__).with_name("offline.py")
MOST_BYTES = 512 * 2**20  # of artifacts and sources together, before they are packed
AT_ONCE = 2  # packets that one process writes at the same time
PAGE, ARTIFACTS_AT_ONCE = 200, 20
TRIES, PAUSE_S = 40, 0.05  # until the mission's newest fact can be read
CHUNK = 2**18
CITING = ("aggregation_packet", "review_packet", "writeback_proposal")
README = """A reviewer packet of mission {mission}.

packet.html      to read; packet.json says the same
verify.py        checks everything offline:  python verify.py  (take it from somewhere you trust, not only from here)
artifacts/       what was stored, by its hash; sources/ the texts that are cited; shown.jsonl what the mission was shown
approvals.jsonl  with who decided what, what was asked and answered, and who was asked besides; policy_decisions.jsonl,
                 writebacks.jsonl with receipts and what was read back
ledger/          the mission's facts as one chain, each with its proof against a signed anchor
manifest.json    every file with its hash
"""

NEWEST_FACT = text("""
  SELECT xid::text AS xid, id, xid < pg_snapshot_xmin(pg_current_snapshot()) AS settled FROM ledger
  WHERE tenant = :tenant AND subject = :mission ORDER BY seq DESC LIMIT 1""")
KEPT = text("SELECT id FROM artifact WHERE tenant = :tenant AND mission = :mission AND removed_at IS NULL")
SOURCES = text("SELECT sha256 FROM blob WHERE tenant = :tenant AND sha256 = ANY(:sources) AND removed_at IS NULL")
WEIGHT = text("""
  SELECT (SELECT COALESCE(sum(octet_length(a.bytes)), 0) FROM artifact a WHERE a.tenant = :tenant AND a.mission = :mission)
       + (SELECT COALESCE(sum(b.size), 0) FROM blob b WHERE b.tenant = :tenant AND b.sha256 = ANY(:sources))""")
DECISIONS = text("""
  SELECT d.approval, d.approver, d.verdict, d.comment, d.decided_at, encode(d.payload_sha256, 'hex') AS payload_sha256,
    convert_from(d.signature, 'UTF8') AS signature, d.open_questions
  FROM decision d WHERE d.tenant = :tenant AND d.approval = ANY(:approvals) ORDER BY d.decided_at, d.approver""")

Look = Callable[[], AbstractAsyncContextManager[ReadSession]]


@dataclass
class Pack:
    """A zip that is being written: fixed times and modes, so that the same files are the same bytes."""

    file: IO[bytes]
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.zip = zipfile.ZipFile(self.file, "w", zipfile.ZIP_DEFLATED)

    async def add(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(self.zip.writestr, entry(name), data)
        self.listed[name] = {"sha256": sha256(data).hexdigest(), "size": len(data)}

    async def stream(self, name: str, pages: AsyncIterator[bytes]) -> None:
        digest, size = sha256(), 0
        with self.zip.open(entry(name), "w", force_zip64=True) as to:
            async for page in pages:
                digest.update(page)
                size += len(page)
                await asyncio.to_thread(to.write, page)
        self.listed[name] = {"sha256": digest.hexdigest(), "size": size}


def entry(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.compress_type, made.create_system, made.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    return made


@dataclass(frozen=True)
class Snapshot:
    """What was true at one moment: up to which fact, and which artifacts and shown sources had their bytes."""

    upto: Position
    artifacts: frozenset[UUID]
    sources: frozenset[bytes]


async def pack(
    database: Database, tenant: UUID, mission: UUID, store: Store | None, keys: Keyring, objects: Objects
) -> IO[bytes]:
    """The zip of a mission, as an open file that is gone once closed. Raises Problem."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # whoever is answered with it closes it
    made = Pack(file)
    try:
        await write(made, ledger.inside_of(database, tenant), database, tenant, mission, store, keys, objects)
    except BaseException:
        with contextlib.suppress(ValueError):  # an entry is being written
            made.zip.close()  # or it would try to when it is collected, and complain of its closed file
        file.close()
        raise
    return file


async def write(
    made: Pack,
    look: Look,
    database: Database,
    tenant: UUID,
    mission: UUID,
    store: Store | None,
    keys: Keyring,
    objects: Objects,
) -> None:
    await made.add("README.txt", README.format(mission=mission).encode())
    await made.add("verify.py", VERIFIER.read_bytes())
    seen = await snapshot(made, database, tenant, mission)
    cited: set[bytes] = set()
    async for one in every_artifact(look, mission):
        if one.id not in seen.artifacts:  # stored since, or removed under retention before: its hash stays in the facts
            continue
        if one.removed_at is not None:
            raise removed_meanwhile()
        await made.add(f"artifacts/{one.schema_name}.{one.sha256.hex()}.json", one.bytes)
        if one.schema_name in CITING:
            cited |= {bytes.fromhex(source) for source in sources_of(json.loads(one.bytes))} & seen.sources
    async with look() as session:
        weight = await session.scalar(WEIGHT, {"tenant": tenant, "mission": mission, "sources": list(cited)})
    if weight > MOST_BYTES:
        raise Problem(
            "too_large",
            f"The packet would hold {weight} bytes, at most {MOST_BYTES} go into one file; its parts can be read one by one.",
        )
    for source in sorted(cited):
        place = await place_of(look, source)
        try:
            await made.stream(f"sources/{source.hex()}.txt", objects.stream(place))
        except Problem:
            await place_of(look, source)
            raise
    ready = await prepare(look, tenant, store, keys, mission, seen.upto)
    await made.stream("ledger/facts.jsonl", ready.lines())
    listed = {"format": FORMAT, "mission": str(mission), "tenant": str(tenant), "files": made.listed}
    await made.add("manifest.json", canonical(listed) + b"\n")
    await asyncio.to_thread(made.zip.close)


async def place_of(look: Look, source: bytes) -> artifacts.Located:
    """Where a source is that was there at the snapshot. Raises Problem database_busy when retention has removed it since."""
    async with look() as session:
        place = (await artifacts.places(session, [source]))[source]
    if place.removed_at is not None:
        raise removed_meanwhile()
    return place


def removed_meanwhile() -> Problem:
    """The packet as it was cannot be told any more; the next one says that they are removed."""
    return Problem("database_busy", "Bytes of the mission were removed while its packet was written.", retry_after=1)


async def snapshot(made: Pack, database: Database, tenant: UUID, mission: UUID) -> Snapshot:
    """Writes what may change, as it was at one moment whose facts can all be read. Raises Problem not_found, database_busy."""
    for _ in range(TRIES):
        async with database.read() as session:
            await session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await session.enter(tenant)
            newest = await session.first(NEWEST_FACT, {"tenant": tenant, "mission": mission})
            if newest is None or newest.settled:
                packet = await assemble(session, mission)
                if newest is None or packet is None:
                    raise Problem("not_found", "There is no such mission.")
                plain = json.loads(to_json(packet))
                await made.add("packet.json", canonical(plain) + b"\n")
                await made.add("packet.html", rendered(plain).encode())
                await made.stream("policy_decisions.jsonl", policy_lines(session, mission))
                await made.stream("approvals.jsonl", approval_lines(session, mission))
                await made.stream("writebacks.jsonl", writeback_lines(session, mission))
                readings = await artifacts.readings(session, mission)
                await made.add("shown.jsonl", b"".join(line(reading(one)) for one in readings))
                rows = await session.rows(KEPT, {"tenant": tenant, "mission": mission})
                shown = [one.source_sha256 for one in readings]
                sources = await session.rows(SOURCES, {"tenant": tenant, "sources": shown})
                return Snapshot(
                    Position(int(newest.xid), newest.id),
                    frozenset(row.id for row in rows),
                    frozenset(row.sha256 for row in sources),
                )
        await asyncio.sleep(PAUSE_S)  # an older transaction somewhere keeps the newest fact from being read in order
    raise Problem("database_busy", "The mission's newest facts cannot be read yet.", retry_after=2)


def line(said: Any) -> bytes:
    return canonical(json.loads(to_json(said))) + b"\n"


def reading(row: Any) -> dict[str, Any]:
    return {
        "source": row.source_sha256.hex(),
        "document": row.document,
        "kind": row.kind,
        "version": row.version,
        "read_at": iso(row.read_at),
    }


async def policy_lines(session: ReadSession, mission: UUID) -> AsyncIterator[bytes]:
    after: Place = None
    while True:
        rows = await policy.recorded_page(session, mission, after, PAGE)
        yield b"".join(
            line(
                row
                | {"inputs": row["inputs"].decode(), "inputs_sha256": row["inputs_sha256"].hex(), "at": iso(row["at"])}
            )
            for row in rows
        )
        if len(rows) < PAGE:
            return
        after = [rows[-1]["at"].isoformat(), str(rows[-1]["id"])]


async def approval_lines(session: ReadSession, mission: UUID) -> AsyncIterator[bytes]:
    after: Place = None
    while True:
        page = await inbox(session, None, mission, after, PAGE)
        asked = {"tenant": session.tenant, "approvals": [one.id for one in page]}
        decided: dict[UUID, list[dict[str, Any]]] = {one.id: [] for one in page}
        for row in await session.rows(DECISIONS, asked):
            keys = await keys_of(session, row.approver) if row.signature else {}
            said = {name: value for name, value in row._mapping.items() if name != "approval"}
            said |= {"decided_at": iso(row.decided_at), "keys": {name: public.hex() for name, public in keys.items()}}
            decided[row.approval].append(said)
        questions = await of_each(session, list(decided))
        yield b"".join(
            line(
                {
                    **approval_view(one),
                    "decisions": decided[one.id],
                    "questions": questions[one.id],
                    "handed": handed(one),
                }
            )
            for one in page
        )
        if len(page) < PAGE:
            return
        after = [page[-1].created_at.isoformat(), str(page[-1].id)]


async def writeback_lines(session: ReadSession, mission: UUID) -> AsyncIterator[bytes]:
    """payload, receipt and observed are the stored bytes, as text."""
    after: Place = None
    while True:
        page = await writebacks_of(session, mission, None, after, PAGE)
        for one in page:
            stored = {"payload": one.payload, "receipt": one.receipt, "observed": one.observed}
            said = {name: data.decode() if data is not None else None for name, data in stored.items()}
            digest = one.observed_sha256.hex() if one.observed_sha256 else None
            yield line({**writeback_view(one), **said, "observed_sha256": digest})
        if len(page) < PAGE:
            return
        after = [page[-1].created_at.isoformat(), str(page[-1].id)]


async def every_artifact(look: Look, mission: UUID) -> AsyncIterator[artifacts.Artifact]:
    after: Place = None
    while True:
        async with look() as session:
            page = await artifacts.of_mission(session, mission, None, after, ARTIFACTS_AT_ONCE)
        for one in page:
            yield one
        if len(page) < ARTIFACTS_AT_ONCE:
            return
        after = [page[-1].created_at.isoformat(), str(page[-1].id)]


def sources_of(value: Any) -> Iterable[str]:
    """The sources that citations anywhere in an artifact point to."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if {"source", "start", "end", "quote"} <= one.keys():
                yield one["source"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


async def chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The file's bytes; it is closed at the end, or when nobody reads on."""
    try:
        while data := await asyncio.to_thread(file.read, CHUNK):
            yield data
    finally:
        file.close()


__all__ = ["AT_ONCE", "MOST_BYTES", "chunks", "pack"]
