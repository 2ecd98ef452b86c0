"""One, two and four root processes, and one and two workers, on one PostgreSQL: what grows, and what they wait for.

    python -m bench.scale_out                  three rounds of four seconds; on two cores read the counters, not the rates

stdout carries one JSON object. Load goes to each process through connections of its own, 32 in all.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from app import embedded
from app.supervisor.plan import Process, processes
from app.supervisor.watch import Child
from bench.arithmetic import calibration, ratios, spread
from bench.instance import Instance, await_ready
from bench.load import Post, load
from bench.peers.product import Product
from bench.quick import EVERYTHING
from bench.rounds import interleave, say
from bench.sink import trace_sink

CONNECTIONS = 32
SAMPLE_S = 0.02
WAITING = """SELECT COALESCE(wait_event_type || ' ' || wait_event, 'running') FROM pg_stat_activity
             WHERE usename LIKE 'mission_root_%' AND state = 'active' AND backend_type = 'client backend'"""
COUNTERS = """SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
                     (SELECT wal_bytes::float8 FROM pg_stat_wal) AS wal_bytes,
                     (SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'mission_root_%') AS connections"""


class Crowd(Instance):
    """An instance whose serve and worker can be started more than once."""

    def more(self, name: str, count: int) -> list[Child]:
        """So many more of one process, each on ports of its own."""
        [model] = [one for one in processes(self.folder, self.surroundings) if one.name == name]
        started = [
            Child(self.beside(model, number), self.folder.logs / f"{name}{number}.log")
            for number in range(1, count + 1)
        ]
        for child in started:
            child.start()
            self.running.append(child)
        for child in started:
            await_ready(child)
        return started

    def beside(self, model: Process, number: int) -> Process:
        ports = {name: str(embedded.free_port()) for name in model.environment if name.endswith("PORT")}
        mine = ports.get("PORT") or ports["WORKER_METRICS_PORT"]
        own = model.environment["PORT"] if "PORT" in ports else model.environment["WORKER_METRICS_PORT"]
        return replace(
            model,
            name=f"{model.name}{number}",
            environment={**model.environment, **ports},
            ready_url=model.ready_url.replace(f":{own}/", f":{mine}/"),
        )


class Watch:
    """What the product's sessions wait for while it is open, and the server's counters over that time."""

    def __init__(self, url: str) -> None:
        self.url, self.waits, self.ended = url, Counter[str](), threading.Event()
        self.counters: dict[str, float] = {}

    def __enter__(self) -> "Watch":
        self.thread = threading.Thread(target=lambda: asyncio.run(self.look()))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    async def look(self) -> None:
        connection = await asyncpg.connect(self.url)
        before = await connection.fetchrow(COUNTERS)
        while not self.ended.is_set():
            self.waits.update(row[0] for row in await connection.fetch(WAITING))
            await asyncio.sleep(SAMPLE_S)
        await asyncio.sleep(1.1)  # sessions report what they counted once a second
        after = await connection.fetchrow(COUNTERS)
        self.counters = {name: after[name] - before[name] for name in ("commits", "wal_bytes")} | {
            "connections": after["connections"]
        }
        await connection.close()

    def shares(self) -> dict[str, float]:
        whole = sum(self.waits.values()) or 1
        return {name: round(count / whole, 3) for name, count in self.waits.most_common(6)}


def accepting(crowd: Crowd, urls: list[str], seconds: float, seen: list[dict[str, Any]]) -> Callable[[str], float]:
    headers = {"Authorization": f"Bearer {crowd.key_of('submitter')}"}

    def turn(name: str) -> float:
        run = f"crowd-{len(urls)}-{name}"
        with Watch(crowd.superuser()) as watch, ThreadPoolExecutor(len(urls)) as hands:
            loads = [
                hands.submit(load, Post(f"{url}/v1/missions", headers), f"{run}-{n}", CONNECTIONS // len(urls), seconds)
                for n, url in enumerate(urls)
            ]
            found = [one.result() for one in loads]
        accepted = sum(one.accepted for one in found)
        if name != "warm":
            seen.append(
                {
                    "commits_per_mission": round(watch.counters["commits"] / accepted, 3),
                    "wal_bytes_per_mission": round(watch.counters["wal_bytes"] / accepted),
                    "connections": watch.counters["connections"],
                    "p99_ms": max(one.p99_ms for one in found),
                    "waits": watch.shares(),
                }
            )
        return sum(one.per_s for one in found)

    return turn


def measure(place: Path, rounds: int, seconds: float) -> dict[str, Any]:
    with trace_sink() as sink:
        with Crowd(place / "serve", ("serve",), sink) as crowd:
            say("Accepting through one, two and four processes.")
            urls = [crowd.base_url] + [child.process.ready_url.rpartition("/")[0] for child in crowd.more("serve", 3)]
            seen: dict[str, list[dict[str, Any]]] = {str(count): [] for count in (1, 2, 4)}
            accepted = interleave(
                rounds, {name: accepting(crowd, urls[: int(name)], seconds, seen[name]) for name in seen}
            )
        with Crowd(place / "all", EVERYTHING, sink) as crowd:
            say("Completing with one worker, and with two.")
            product = Product(crowd, crowd)
            count = max(48, round(200 * seconds))
            one = [product.completed(f"one-{n}", count, CONNECTIONS).per_s for n in range(rounds + 1)][1:]
            crowd.more("worker", 1)
            two = [product.completed(f"two-{n}", count, CONNECTIONS).per_s for n in range(rounds + 1)][1:]
    per_s = {name: accepted.of(name, float) for name in seen}
    return {
        "accept_per_s": {name: spread(figures) for name, figures in per_s.items()},
        "accept_vs_one": {name: ratios(figures, per_s["1"]) for name, figures in per_s.items()},
        "seen": {name: found[-1] for name, found in seen.items()},
        "completed_per_s": {"one worker": spread(one), "two workers": spread(two)},
        "calibration": calibration(accepted.calibration),
    }


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--rounds", type=int, default=3)
    wanted.add_argument("--seconds", type=float, default=4.0)
    given = wanted.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mission-root-scale-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), given.rounds, given.seconds)
    print(json.dumps({**found, "took_s": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
