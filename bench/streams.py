"""Reads server-sent events as cheaply as Python can, and says how long facts were on their way."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg

from bench.arithmetic import percentile
from bench.instance import Instance
from bench.wire import Client, request

# A commit is stamped before it is synced to disk, so a latency from here on includes the sync.
COMMITTED = """
  SELECT l.xid::text || '-' || l.id AS position, extract(epoch FROM pg_xact_commit_timestamp(l.xid::xid))::float8 AS at
  FROM ledger l WHERE (l.xid, l.id) > ($1::text::xid8, $2) AND l.type = 'stage.started'"""
LATEST = "SELECT xid::text, id FROM ledger ORDER BY ledger.xid DESC, id DESC LIMIT 1"


class Stream(asyncio.Protocol):
    """One stream. What arrives is kept as it is with the moment it came, and looked at later."""

    def __init__(self, base_url: str, path: str, key: str, after: str = "") -> None:
        self.address, self.path, self.key, self.after = urlsplit(base_url), path, key, after
        self.arrived: list[tuple[float, float, bytes]] = []  # (monotonic, wall clock, bytes)
        self.news, self.broken = asyncio.Event(), False
        self.looked_at = 0

    async def __aenter__(self) -> "Stream":
        headers = {"Authorization": f"Bearer {self.key}", "Accept": "text/event-stream"}
        headers |= {"Last-Event-ID": self.after} if self.after else {}
        asked = request("GET", self.path, self.address.netloc, headers)
        for pause in (0.2, 0.5, 1.0, 2.0, 0):
            self.arrived, self.broken = [], False
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, self.address.hostname, self.address.port)
            self.transport.write(asked)
            async with asyncio.timeout(20):
                while not self.arrived:
                    await self.something_new()
            first = self.arrived[0][2]
            if b" 200 " in first[:20]:
                return self
            self.transport.abort()
            if b" 503 " not in first[:20] or not pause:  # a busy database: asked again
                break
            await asyncio.sleep(pause)
        raise RuntimeError(f"a stream was answered {first[:60]!r}")

    async def __aexit__(self, *_: object) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.arrived.append((time.perf_counter(), time.time(), data))
        self.news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = True
        self.news.set()

    async def something_new(self) -> None:
        if self.broken:
            raise RuntimeError("a stream ended")
        self.news.clear()
        await self.news.wait()

    async def until(self, kind: str, seconds: float) -> float:
        """When the next event of this kind came. Raises TimeoutError."""
        wanted = f"event: {kind}\n".encode()
        async with asyncio.timeout(seconds):
            while True:
                while self.looked_at < len(self.arrived):
                    at, _, data = self.arrived[self.looked_at]
                    self.looked_at += 1
                    if wanted in data:
                        return at
                await self.something_new()

    def events(self) -> list[tuple[str, float]]:
        """(event id, wall clock when its last byte came) of all events so far."""
        return events_of([(wall, data) for _, wall, data in self.arrived])


def events_of(arrived: Sequence[tuple[float, bytes]]) -> list[tuple[str, float]]:
    """Cuts what came into events, across the borders of packets and of HTTP chunks."""
    found, rest = [], b""
    for at, data in arrived:
        rest += data
        *whole, rest = rest.split(b"\n\n")
        for one in whole:
            begin = one.find(b"id: ")
            if begin >= 0:
                found.append((one[begin + 4 : one.index(b"\n", begin)].decode(), at))
    return found


@dataclass
class Delays:
    """Facts on their way from commit to streams, in milliseconds."""

    ms: list[float] = field(default_factory=list)
    facts: int = 0
    missed: int = 0  # (fact, stream) pairs that should have been and were not
    facts_per_s: float = 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "p50_ms": round(percentile(self.ms, 0.5), 3),
            "p99_ms": round(percentile(self.ms, 0.99), 3),
            "max_ms": round(max(self.ms), 3),
            "seen": len(self.ms),
            "facts": self.facts,
            "missed": self.missed,
            "facts_per_s": round(self.facts_per_s, 1),
        }


def delays(instance: Instance, missions: int, tenant_wide: int, per_s: float, seconds: float) -> Delays:
    """`missions` streams on a mission each and `tenant_wide` on everything, while the colony speaks at a steady pace."""
    return asyncio.run(_delays(instance, missions, tenant_wide, per_s, seconds))


async def _delays(instance: Instance, missions: int, tenant_wide: int, per_s: float, seconds: float) -> Delays:
    key = instance.key_of("submitter")
    talking = await talkers(instance, key, missions)
    database = await asyncpg.connect(instance.superuser())
    after = await end_of_ledger(instance)
    paths = [f"/v1/missions/{mission}/events" for mission in talking] + ["/v1/events"] * tenant_wide
    streams = [Stream(instance.base_url, path, key, after) for path in paths]
    colony = Client(instance.url_of("colony"), 1)
    try:
        for stream in streams:
            await stream.__aenter__()
        began = time.perf_counter()
        asked = json.dumps({"missions": talking, "per_s": per_s, "seconds": seconds}).encode()
        talk = asyncio.create_task(colony.ask("POST", "/bench/talk", {}, asked))
        said = json.loads((await talk).body)
        took = time.perf_counter() - began
        await asyncio.sleep(1.5)  # the last ones arrive
        rows = await database.fetch(COMMITTED, after.partition("-")[0], int(after.partition("-")[2]))
        rest = await colony.ask("POST", "/bench/rest", {}, json.dumps({"missions": talking}).encode())
        if json.loads(rest.body)["ended"] != missions:
            raise RuntimeError(f"of {missions} missions that talked {rest.body!r}")
    finally:
        for stream in streams:
            if not stream.broken and hasattr(stream, "transport"):
                stream.transport.abort()
        colony.close()
        await database.close()
    if not rows:
        raise RuntimeError("not one fact was committed while the streams were read")
    committed = {row["position"]: row["at"] for row in rows}
    found = Delays(facts=len(committed), facts_per_s=len(committed) / took)
    if said["taken"] > len(committed):
        raise RuntimeError(f"the root took {said['taken']} events and its ledger has {len(committed)}")
    for stream in streams:
        found.ms += [(at - committed[position]) * 1000 for position, at in stream.events() if position in committed]
    found.missed = len(committed) * (tenant_wide + 1) - len(found.ms)
    return found


async def end_of_ledger(instance: Instance) -> str:
    """Where the ledger ends now: what a stream that wants only news begins after."""
    database = await asyncpg.connect(instance.superuser())
    row = await database.fetchrow(LATEST)
    await database.close()
    return f"{row[0]}-{row[1]}" if row else "0-0"


async def talkers(instance: Instance, key: str, count: int) -> list[str]:
    """Missions that stay under way, as the colony has them."""
    ask = {"mission_type": "oracle_advisory", "user_goal": "Keep talking.", "labels": {"bench": "talk"}}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    client, colony = Client(instance.base_url, 8), Client(instance.url_of("colony"), 1)

    async def accepted() -> str:
        for _ in range(50):
            answer = await client.ask("POST", "/v1/missions", headers, json.dumps(ask).encode())
            if answer.status == 202:
                return str(json.loads(answer.body)["id"])
            await asyncio.sleep(0.2)
        raise RuntimeError(f"a mission that was to talk was answered {answer.start}")

    before = json.loads((await colony.ask("GET", "/bench/state", {})).body)["talking"]
    ids = await asyncio.gather(*(accepted() for _ in range(count)))
    deadline = time.monotonic() + 60 + count / 10
    while json.loads((await colony.ask("GET", "/bench/state", {})).body)["talking"] < before + count:
        if time.monotonic() > deadline:
            raise RuntimeError("the missions that were to talk were not dispatched in time")
        await asyncio.sleep(0.05)
    client.close()
    colony.close()
    return ids


@contextmanager
def listening(instance: Instance, count: int) -> Iterator[None]:
    """Tenant-wide streams on an instance that are read, and forgotten, by a thread of their own meanwhile."""
    ready, end, failed = threading.Event(), threading.Event(), []

    async def listen() -> None:
        after, key = await end_of_ledger(instance), instance.key_of("submitter")
        streams = [Stream(instance.base_url, "/v1/events", key, after) for _ in range(count)]
        try:
            for stream in streams:
                await stream.__aenter__()
            ready.set()
            while not end.is_set():
                await asyncio.sleep(0.1)
                for stream in streams:
                    stream.arrived.clear()
        finally:
            for stream in streams:
                if hasattr(stream, "transport"):
                    stream.transport.abort()

    def run() -> None:
        try:
            asyncio.run(listen())
        except Exception as error:
            failed.append(error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        ready.wait(60)
        if failed:
            raise RuntimeError(f"the streams could not be opened: {failed[0]}")
        yield
    finally:
        end.set()
        thread.join(10)
