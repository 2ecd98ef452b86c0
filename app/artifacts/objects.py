"""Large bytes outside the database: objects in a folder or an S3-compatible bucket, checked as they are read.

An object is written before the row that names it, under a name of its own: `tenant/ab/<sha256>.<uuid>`. So a crash leaves at
most an object that no row names, and deleting one never takes what somebody else has just put there. The row keeps the
SHA-256 of each CHUNK, and a part of an object is checked without reading the rest.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import structlog
from prometheus_client import Counter

from app.clock import iso, new_id
from app.components import Component
from app.errors import Problem
from app.ledger.store import UNREACHABLE, Store, open_store, settle
from app.settings import Misconfigured, Settings

log = structlog.get_logger("artifacts")

CHUNK = 262_144  # bytes; `blob_chunks_all` in the schema counts by it, too
PIECE = 4 * CHUNK  # what is held in memory of an object while it is streamed
REMEMBERED = 1000  # objects that could not be read, for the status
AGAIN, AGAIN_S = 3, 60.0  # so many of them are read again at a time, each so often
PROBE_S = 2.0
EFFECT = "Large sources cannot be read: reviews that need them wait, or count what they cite as unverified."

READS = Counter("mission_root_artifact_reads_total", "Reads of stored objects by what was found.", ["outcome"])


@dataclass(frozen=True)
class Laid:
    """Bytes on their way into a row: whole, or as the object that now holds them."""

    sha256: bytes
    size: int
    object: UUID | None = None
    chunks: bytes | None = None
    inline: bytes | None = None


@dataclass(frozen=True)
class Located:
    """Where a row says that bytes are. size in bytes; chunks: 32 bytes for every CHUNK of an object."""

    tenant: UUID
    sha256: bytes
    size: int
    object: UUID | None
    chunks: bytes | None = field(repr=False)
    removed_at: datetime | None = None
    inline: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        assert self.object is not None
        return name_of(self.tenant, f"{self.sha256.hex()}.{self.object}")


@dataclass
class Flaw:
    """Which bytes of an object were missing or damaged, and when it was last looked at."""

    found: Located
    first: int
    last: int
    looked_at: float = field(default_factory=time.monotonic)


def name_of(tenant: UUID, label: str) -> str:
    """The name of an object; label is `<sha256>.<uuid>`."""
    return f"{tenant}/{label[:2]}/{label}"


def removed(at: datetime) -> str:
    return f"removed under retention on {at.astimezone(UTC):%Y-%m-%d}"


class Objects:
    """The store of this process. Without one, all bytes stay in their rows."""

    def __init__(self, store: Store | None, from_bytes: int) -> None:
        self.store, self.from_bytes = store, from_bytes
        self.flaws: OrderedDict[str, Flaw] = OrderedDict()  # by name, the one that was looked at longest ago first

    async def lay_down(self, tenant: UUID, data: bytes) -> Laid:
        """Writes large bytes to the store; no transaction is open meanwhile. Name them in a row within the hour.

        Raises Problem upstream_unavailable.
        """
        if self.store is None or len(data) < self.from_bytes:
            return Laid(sha256(data).digest(), len(data), inline=data)
        digest, chunks = await asyncio.to_thread(digests, data)
        made = Located(tenant, digest, len(data), new_id(), chunks)
        import obstore

        try:
            await obstore.put_async(self.store.objects, made.name, data, mode="create")
            if self.store.folder:
                await asyncio.to_thread(settle, self.store.folder / made.name)
        except UNREACHABLE as error:
            raise away(error) from None
        return Laid(digest, len(data), made.object, chunks)

    async def read(self, found: Located, start: int = 0, end: int | None = None) -> bytes:
        """Bytes [start, end), checked. Raises Problem artifact_missing, artifact_damaged, bytes_removed, upstream_unavailable."""
        end = found.size if end is None else min(end, found.size)
        if start >= end:
            return b""
        if found.inline is not None or found.removed_at is not None:
            return whole(found)[start:end]
        first = start // CHUNK
        data = b"".join([piece async for piece in self.pieces(found, first, -(-end // CHUNK))])
        if len(data) == found.size and sha256(data).digest() != found.sha256:
            raise self.flawed(found, "artifact_damaged", 0, found.size)
        self.sound(found, first * CHUNK, first * CHUNK + len(data))
        return data[start - first * CHUNK : end - first * CHUNK]

    async def stream(self, found: Located) -> AsyncIterator[bytes]:
        """All bytes in checked pieces; the last one is only given when the whole has the hash it is kept under. Raises as read."""
        if found.inline is not None or found.removed_at is not None:
            yield whole(found)
            return
        running, held = sha256(), b""
        async for piece in self.pieces(found, 0, -(-found.size // CHUNK)):
            running.update(piece)
            if held:
                yield held
            held = piece
        if running.digest() != found.sha256:
            raise self.flawed(found, "artifact_damaged", 0, found.size)
        self.sound(found, 0, found.size)
        yield held

    async def pieces(self, found: Located, first: int, last: int) -> AsyncIterator[bytes]:
        """Chunks [first, last) of an object, some at a time, each with the hash that its row says."""
        assert found.chunks is not None
        per = PIECE // CHUNK
        for low in range(first, last, per):
            high = min(low + per, last)
            data = await self.fetch(found, low * CHUNK, min(high * CHUNK, found.size))
            for number in range(low, high):
                part = memoryview(data)[(number - low) * CHUNK : (number - low + 1) * CHUNK]
                if sha256(part).digest() != found.chunks[32 * number : 32 * (number + 1)]:
                    raise self.flawed(found, "artifact_damaged", number * CHUNK, number * CHUNK + len(part))
            yield data
        READS.labels("ok").inc()

    async def fetch(self, found: Located, start: int, end: int) -> bytes:
        if self.store is None:
            raise Problem("not_configured", "The bytes are in an object store, and ARTIFACT_STORE is not set here.")
        import obstore

        try:
            data = bytes(await obstore.get_range_async(self.store.objects, found.name, start=start, end=end))
        except FileNotFoundError as error:
            if self.store.folder and not self.store.folder.is_dir():  # all of it is gone: a disk that is not there
                raise away(error) from None
            raise self.flawed(
                found, "artifact_missing", found.size, 0
            ) from None  # it is back with the first bytes read
        except UNREACHABLE as error:
            if await self.size_of(found.name) not in (
                None,
                found.size,
            ):  # a store refuses what is beyond an object's end
                raise self.flawed(found, "artifact_damaged", start, end) from None
            READS.labels("unreachable").inc()
            raise away(error) from None
        if len(data) != end - start:
            raise self.flawed(found, "artifact_damaged", start, end)
        return data

    async def size_of(self, name: str) -> int | None:
        """None: nobody knows."""
        import obstore

        assert self.store is not None
        try:
            size: int = (await obstore.head_async(self.store.objects, name))["size"]
        except UNREACHABLE:
            return None
        return size

    async def discard(self, tenant: UUID, labels: list[str]) -> None:
        """Deletes objects that no row names any more; one that is gone already is well. Raises Problem upstream_unavailable."""
        if not labels:
            return
        if self.store is None:
            raise Problem("not_configured", "There are objects to delete, and ARTIFACT_STORE is not set here.")
        import obstore

        for label in labels:
            try:
                await obstore.delete_async(self.store.objects, name_of(tenant, label))
            except FileNotFoundError:
                continue
            except UNREACHABLE as error:
                raise away(error) from None

    async def labels(self, tenant: UUID) -> AsyncIterator[list[str]]:
        """What a tenant has in the store, a page at a time, in no order. Raises Problem upstream_unavailable."""
        if self.store is None:
            return
        import obstore

        try:
            async for page in obstore.list(self.store.objects, str(tenant), chunk_size=500):
                yield [one["path"].rpartition("/")[2] for one in page]
        except UNREACHABLE as error:
            raise away(error) from None

    def sound(self, found: Located, start: int, end: int) -> None:
        """Forgets what was wrong with an object once all of it that was has been read and is what it should be."""
        flaw = self.flaws.get(found.name)
        if flaw is not None and start <= flaw.first and flaw.last <= end:
            del self.flaws[found.name]

    def flawed(self, found: Located, code: str, start: int, end: int) -> Problem:
        """Counts an object that is not what it should be, and remembers which bytes of it."""
        outcome = code.removeprefix("artifact_")
        READS.labels(outcome).inc()
        known = self.flaws.pop(found.name, Flaw(found, start, end))
        self.flaws[found.name] = Flaw(found, min(known.first, start), max(known.last, end))
        while len(self.flaws) > REMEMBERED:
            self.flaws.popitem(last=False)
        log.error(
            "a stored object cannot be used", tenant_id=str(found.tenant), sha256=found.sha256.hex(), found=outcome
        )
        return Problem(code, f"The bytes with the SHA-256 {found.sha256.hex()} are {outcome} in the store.")

    async def look_again(self, named: Callable[[Located], Awaitable[bool]]) -> None:
        """Reads some of what was missing or damaged once more: it may have been put back, or no row may name it any more."""
        due = [flaw for flaw in self.flaws.values() if time.monotonic() - flaw.looked_at >= AGAIN_S]
        for flaw in due[:AGAIN]:
            flaw.looked_at = time.monotonic()
            self.flaws.move_to_end(flaw.found.name)
            if not await named(flaw.found):
                self.flaws.pop(flaw.found.name, None)
                continue
            with suppress(Problem):
                if (flaw.first, flaw.last) == (0, flaw.found.size):
                    async for _ in self.stream(flaw.found):
                        pass
                else:
                    await self.read(flaw.found, min(flaw.first, flaw.found.size - 1), max(flaw.last, flaw.first))

    async def look(self, component: Component) -> None:
        """Whether the store answers, and whether what was read from it was whole."""
        if self.store is None:
            component.switched_off("ARTIFACT_STORE is not set: all bytes are kept in the database")
            return
        import obstore

        try:
            await asyncio.wait_for(obstore.head_async(self.store.objects, "probe"), PROBE_S)
        except FileNotFoundError:
            if self.store.folder and not self.store.folder.is_dir():
                component.failed("its folder is not there")
                return
        except UNREACHABLE:
            component.failed("no answer")
            return
        component.succeeded()
        if self.flaws:  # whose they are is for `mission-root artifacts verify` to say
            component.failed(f"{len(self.flaws)} objects were missing or damaged when they were last read")


def digests(data: bytes) -> tuple[bytes, bytes]:
    """The SHA-256 of the whole, and those of its chunks one after the other."""
    view = memoryview(data)
    chunks = b"".join(sha256(view[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK))
    return sha256(data).digest(), chunks


def whole(found: Located) -> bytes:
    if found.removed_at is not None:
        raise gone(found.removed_at)
    assert found.inline is not None
    return found.inline


def gone(at: datetime) -> Problem:
    return Problem("bytes_removed", f"The bytes were {removed(at)}.", removed_at=iso(at))


def away(error: BaseException) -> Problem:
    log.warning("the artifact store does not answer", error=type(error).__name__)
    return Problem("upstream_unavailable", "The artifact store does not answer.", retry_after=2)


def open_objects(settings: Settings) -> Objects:
    """What ARTIFACT_STORE names. Raises Misconfigured."""
    if not settings.artifact_store:
        return Objects(None, settings.artifact_store_from_bytes)
    try:
        return Objects(open_store(settings.artifact_store), settings.artifact_store_from_bytes)
    except (*UNREACHABLE, ValueError) as wrong:
        raise Misconfigured(f"ARTIFACT_STORE cannot be opened: {wrong}.") from None


def component() -> Component:
    return Component("artifacts", EFFECT, opens_after=1_000_000)  # what is in rows is read all the same
