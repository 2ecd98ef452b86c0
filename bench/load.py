"""Keeps a number of connections busy with one request for a while, or for a number of times, and says how it went.

wrk does the first where it is installed; otherwise, and for a number of times, a small client over raw asyncio sockets,
because a general HTTP client written in Python is slower than what it would measure.
"""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

BODY = json.dumps(
    {
        "mission_type": "oracle_advisory",
        "user_goal": "What has to be true before a writeback is executed, and who may decide it?",
        "inputs": {"workspace": "default"},
        "mode": "assisted",
        "origin_surface": "bench",
        "risk_level": "low",
        "sensitivity_class": "internal",
        "budget": {"time_ms": 600_000, "tokens": 200_000},
        "labels": {"project": "4711", "surface": "bench"},
        "tools": ["workspace.search", "workspace.read", "workspace.outline"],
    }
)


@dataclass(frozen=True)
class Post:
    """The request that is repeated. With `keyed`, every second one carries an `Idempotency-Key` of its own."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = BODY
    keyed: bool = True
    authorizations: Sequence[str] = ()  # taken in turns, in place of the one in `headers`

    def in_turns(self) -> list[str]:
        return list(self.authorizations) or [self.headers.get("Authorization", "")]


@dataclass(frozen=True)
class Loaded:
    """What a round of load came to. `unanswered`: sent at the end, answer not waited for (wrk stops like that)."""

    accepted: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    unanswered: int = 0
    times_ms: list[float] = field(default_factory=list)  # of each answer in turn, where the client keeps them

    @property
    def per_s(self) -> float:
        return self.accepted / self.seconds


def client_name() -> str:
    return "wrk" if shutil.which("wrk") else "asyncio sockets"


def load(post: Post, run: str, connections: int, seconds: float) -> Loaded:
    """Each answer makes room for the next request on its connection. `run` keeps the idempotency keys of rounds apart."""
    if shutil.which("wrk"):
        return by_wrk(post, run, connections, seconds)
    return asyncio.run(by_sockets(post, run, connections, seconds=seconds))


def by_wrk(post: Post, run: str, connections: int, seconds: float) -> Loaded:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    command += ["-s", str(Path(__file__).with_name("post.lua")), post.url]
    environment = {
        **os.environ,
        "BENCH_RUN": run if post.keyed else "",
        "BENCH_BODY": post.body,
        "BENCH_AUTHORIZATIONS": "\n".join(post.in_turns()),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr.strip()}")
    said = json.loads(done.stderr.strip().splitlines()[-1])
    if said["broken"]:
        raise RuntimeError(f"{said['broken']} connections broke")
    accepted = said["answers"] - said["refused"]
    return Loaded(accepted, said["refused"], said["seconds"], said["p50_ms"], said["p99_ms"], unanswered=connections)


@dataclass
class Tally:
    """What the connections of one round found, together. Times are seconds."""

    until: float
    most: float
    accepted: int = 0
    refused: int = 0
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    last_answer: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request, its whole answer, the next request. `ended` is set when it is through."""

    def __init__(self, tally: Tally, plain: Sequence[bytes], keyed: Sequence[bytes]) -> None:
        self.tally, self.plain, self.keyed = tally, plain, keyed  # the same requests of each sender
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        if self.sent_at >= self.tally.until or self.tally.sent >= self.tally.most:
            self.transport.close()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self.tally.sent += 1
        number = self.tally.sent
        sender = number // 2 % len(self.plain)  # each sends one with a key and one without
        keyed = number % 2 == 0
        request = self.keyed[sender].replace(b"#NUMBER", b"%07d" % number) if keyed else self.plain[sender]
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(self.received[:head]).lower()
        begin = headers.index(b"content-length:") + 15
        length = int(headers[begin : (headers + b"\r\n").index(b"\r\n", begin)])
        if len(self.received) < head + 4 + length:
            return
        now, tally = time.perf_counter(), self.tally
        tally.latencies.append(now - self.sent_at)
        tally.last_answer = now
        if headers.startswith(b"http/1.1 2"):
            tally.accepted += 1
        else:
            tally.refused += 1
        self.received.clear()
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed the connection"))


async def by_sockets(
    post: Post, run: str, connections: int, *, seconds: float = 120.0, most: float = float("inf")
) -> Loaded:
    """Until the time is over or `most` are sent. The last answers are waited for, so that all can be counted exactly."""
    address = urlsplit(post.url)
    host, port = address.hostname or "", address.port or 80
    began = time.perf_counter()
    tally = Tally(until=began + seconds, most=most)
    senders = [replace(post, headers={**post.headers, "Authorization": one}) for one in post.authorizations] or [post]
    plain = [request_bytes(one) for one in senders]
    keyed = [request_bytes(one, f"{run}-#NUMBER") for one in senders] if post.keyed else plain
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(tally, plain, keyed), host, port) for _ in range(connections)
    ]
    await asyncio.gather(*(connection.ended for _, connection in opened))
    times = sorted(tally.latencies)
    return Loaded(
        tally.accepted,
        tally.refused,
        tally.last_answer - began,
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
        times_ms=[latency * 1000 for latency in tally.latencies],
    )


def request_bytes(post: Post, idempotency_key: str = "") -> bytes:
    address, body = urlsplit(post.url), post.body.encode()
    path = address.path + (f"?{address.query}" if address.query else "")
    lines = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in post.headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"Idempotency-Key: {idempotency_key}"] if idempotency_key else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
