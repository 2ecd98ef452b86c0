"""What asking a model through the root adds: the same call to a provider directly and through the gateway, in turns of one run.

    python -m bench.gateway                      three rounds of five seconds each way, 32 calls in flight
    python -m bench.gateway --answer-ms 200      how long the stand-in provider thinks
    python -m bench.gateway --at-once            all callers begin together, and come back together each time

stdout carries one JSON object. `cpu_ms_per_call` is the processor time of `serve` and of PostgreSQL for each call, which other load on
the machine changes little. The stand-in provider is a process of its own that answers each call after the same time, so
that what is measured is the way and not the model. Each of the calls in flight belongs to a mission of its own.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from app import embedded
from app.supervisor.plan import Process
from app.supervisor.watch import Child
from bench.arithmetic import calibration, percentile, ratios, rounded, spread
from bench.instance import REPOSITORY, Instance, await_ready
from bench.rounds import interleave, say
from bench.sink import trace_sink
from colony_client import tokens
from colony_client.signing import parse_keys

QUESTION = {"model": "bench", "messages": [{"role": "user", "content": "What is a rollback?"}], "max_tokens": 50}
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Four minutes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}  # fmt: skip
MISSION = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}


@dataclass(frozen=True)
class Way:
    """Where calls go, with which keys in turn."""

    url: str
    paths: list[str]
    keys: list[str]


@dataclass
class Turn:
    """Answer times of one turn, in milliseconds; refused: answers that were none."""

    times: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)

    def cpu_ms(self, process: str) -> float:
        return self.cpu_s[process] * 1000 / max(1, len(self.times))

    @property
    def p50(self) -> float:
        return percentile(self.times, 0.5)

    @property
    def p99(self) -> float:
        return percentile(self.times, 0.99)


# --- the stand-in provider -------------------------------------------------------------------------------------------


async def provide(port: int, answer_s: float) -> None:
    """Serves for ever. Health is asked for by GET."""
    body = json.dumps(ANSWER).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).lower()
                if lines.startswith(b"post"):
                    await reader.readexactly(int(lines.split(b"content-length:")[1].split(b"\r\n")[0]))
                    await asyncio.sleep(answer_s)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


# --- the client ------------------------------------------------------------------------------------------------------


async def caller(way: Way, number: int, until: float, turn: Turn, first_s: float) -> None:
    """One call after the other over one connection, the first after a while: callers do not know of each other."""
    await asyncio.sleep(first_s)
    address, body = urlsplit(way.url), json.dumps(QUESTION).encode()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    path, key = way.paths[number % len(way.paths)], way.keys[number % len(way.keys)]
    request = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        if head.startswith(b"HTTP/1.1 200"):
            turn.times.append((time.perf_counter() - began) * 1000)
        else:
            turn.refused += 1
    writer.close()


def calling(instance: Instance, way: Way, in_flight: int, seconds: float, spread_s: float) -> Callable[[str], Turn]:
    """spread_s: over how long the callers begin."""

    def turn(_name: str) -> Turn:
        found, before = Turn(seconds=seconds), instance.cpu_s()

        async def run() -> None:
            until = time.perf_counter() + seconds
            first = [spread_s * number / in_flight for number in range(in_flight)]
            await asyncio.gather(*(caller(way, number, until, found, first[number]) for number in range(in_flight)))

        asyncio.run(run())
        found.cpu_s = {name: used - before[name] for name, used in instance.cpu_s().items()}
        return found

    return turn


# --- the run ---------------------------------------------------------------------------------------------------------


def through(instance: Instance, missions: int) -> Way:
    """The way through the gateway: missions that were accepted, and their tokens as a dispatch would bring them."""
    headers = {"Authorization": f"Bearer {instance.key_of('submitter')}"}
    keys = parse_keys(instance.folder.secrets["root_signing_key"], "ROOT_SIGNING_KEY")
    made = [
        httpx.post(f"{instance.base_url}/v1/missions", json=MISSION, headers=headers, trust_env=False).json()["id"]
        for _ in range(missions)
    ]
    tenant: Any = instance.counts({"demo": "SELECT id FROM tenant WHERE name = 'demo'"})["demo"]
    issued = [
        tokens.issue(keys, mission=UUID(one), tenant=tenant, attempt=1, fence=1, audience="gateway") for one in made
    ]
    paths = [f"/internal/v1/missions/{one}/openai/v1/chat/completions" for one in made]
    return Way(instance.url_of("internal"), paths, issued)


def measure(place: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    port = embedded.free_port()
    url = f"http://127.0.0.1:{port}"
    file = place / "models.json"
    model = {"upstream": "bench", "input_usd": 0, "output_usd": 0, "context_tokens": 8000, "output_tokens": 1000}
    provider = {
        "name": "bench",
        "owner": "bench",
        "base_url": f"{url}/v1",
        "reach": "internal",
        "classes": ["internal"],
    }
    file.write_text(json.dumps({"providers": [provider | {"models": {"bench": model}}]}))
    environment = {"PYTHONPATH": str(REPOSITORY), "PORT": str(port), "ANSWER_MS": str(wanted.answer_ms)}
    child = Child(Process("provider", "bench.gateway", environment, f"{url}/health", stops=1), place / "provider.log")
    with trace_sink() as sink:
        instance = Instance(place / "instance", ("serve",), sink)
        instance.surroundings["MODEL_PROVIDERS"] = str(file)
        child.start()
        try:
            await_ready(child)
            with instance:
                ways = {
                    "direct": Way(url, ["/v1/chat/completions"], ["none"]),
                    "gateway": through(instance, wanted.in_flight),
                }
                spread_s = 0.0 if wanted.at_once else wanted.answer_ms / 1000
                turns = {
                    name: calling(instance, way, wanted.in_flight, wanted.seconds, spread_s)
                    for name, way in ways.items()
                }
                rounds = interleave(wanted.rounds, turns)
                kept = instance.counts({"facts": "SELECT count(*) FROM ledger WHERE type = 'model.called'"})
        finally:
            if child.running is not None:
                child.running.terminate()
                child.running.wait(5)
    direct, gateway = (rounds.of(name, lambda turn: turn.p50) for name in ("direct", "gateway"))
    added = [ours - theirs for ours, theirs in zip(gateway, direct, strict=True)]
    answered = rounds.of("gateway", lambda turn: len(turn.times))
    return {
        "added_p50_ms": rounded(spread(added)["median"]),
        "figures": {
            "added_p50_ms": spread(added),
            "direct_p50_ms": spread(direct),
            "gateway_p50_ms": spread(gateway),
            "direct_p99_ms": spread(rounds.of("direct", lambda turn: turn.p99)),
            "gateway_p99_ms": spread(rounds.of("gateway", lambda turn: turn.p99)),
            "gateway_per_s": spread(rounds.of("gateway", lambda turn: len(turn.times) / turn.seconds)),
            "ratio": ratios(gateway, direct),
            "cpu_ms_per_call": {
                name: spread(rounds.of("gateway", lambda turn, name=name: turn.cpu_ms(name)))
                for name in ("serve", "postgres")
            },
        },
        "refused": sum(rounds.of("gateway", lambda turn: turn.refused)),
        "rows_match": kept["facts"] >= sum(answered),
        "calibration": calibration(rounds.calibration),
        "how": {
            "in_flight": wanted.in_flight,
            "answer_ms": wanted.answer_ms,
            "rounds": wanted.rounds,
            "at_once": wanted.at_once,
        },
    }


def run() -> None:
    """The entry of the stand-in provider."""
    import os

    asyncio.run(provide(int(os.environ["PORT"]), float(os.environ["ANSWER_MS"]) / 1000))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--seconds", type=float, default=5)
    ask.add_argument("--in-flight", type=int, default=32)
    ask.add_argument("--answer-ms", type=float, default=500)
    ask.add_argument("--at-once", action="store_true")
    wanted = ask.parse_args()
    say(
        f"{wanted.rounds} rounds, {wanted.in_flight} calls in flight, a provider that answers after {wanted.answer_ms} ms."
    )
    with tempfile.TemporaryDirectory(prefix="mission-root-bench-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(measure(Path(folder), wanted)))


if __name__ == "__main__":
    main()
