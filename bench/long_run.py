"""A long run at full speed: are the counts equal everywhere, does the ledger verify, is anything stuck, does memory stay flat?

    python -m bench.long_run                          200,000 missions, ten streams of everything; half an hour
    python -m bench.long_run --missions 5000 --readers 2

stdout carries one JSON object; the run fails when something does not add up.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from app import ledger
from app.db import Database
from app.ledger.verify import chains
from bench.instance import STAND_INS, Instance, resident_mb
from bench.load import Post, by_sockets
from bench.peers.product import COMPLETED_TRACES, UNDER_WAY
from bench.quick import EVERYTHING
from bench.rounds import say
from bench.sink import trace_sink
from bench.streams import end_of_ledger
from bench.wire import request

LOOK_S = 10.0
LATE_S = 60.0  # how long after the last fact its readers may still miss it
GROWTH = 1.15  # how much more memory in the last third of a run than in the second is still flat
MEASURES = {
    "accepted": "SELECT count(*) FROM ledger WHERE type = 'mission.accepted'",
    **COMPLETED_TRACES,
    # but for what is there for each tenant, always
    "work left": "SELECT count(*) FROM work WHERE kind NOT IN ('anchor', 'retention', 'liveness', 'release_check')",
    "under way": "SELECT count(*) FROM mission WHERE state NOT IN ('completed', 'failed', 'cancelled', 'denied')",
    "facts": "SELECT count(*) FROM ledger",
    "broken chains": "SELECT count(*) FROM (SELECT subject FROM ledger GROUP BY subject HAVING max(seq) <> count(*)) x",
}


LAST = "SELECT xid::text || '-' || id FROM ledger WHERE tenant = $1 ORDER BY ledger.xid DESC, id DESC LIMIT 1"


class Reader:
    """Reads everything of the tenant, goes on where it was when it is cut off, and counts."""

    def __init__(self, base_url: str, key: str, after: str) -> None:
        self.address, self.key, self.last = urlsplit(base_url), key, after
        self.events = self.completed = self.out_of_order = self.cut_off = 0

    async def run(self) -> None:
        while True:
            headers = {"Authorization": f"Bearer {self.key}", "Accept": "text/event-stream", "Last-Event-ID": self.last}
            try:
                reader, writer = await asyncio.open_connection(self.address.hostname, self.address.port, limit=2**22)
                writer.write(request("GET", "/v1/events", self.address.netloc, headers))
                await reader.readuntil(b"\r\n\r\n")
                rest = b""
                while data := await reader.read(2**18):
                    *whole, rest = (rest + data).split(b"\n\n")
                    for one in whole:
                        self.take(one)
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.2)
            self.cut_off += 1
            await asyncio.sleep(0.05)

    def take(self, event: bytes) -> None:
        begin = event.find(b"id: ")
        if begin < 0:
            return
        position = event[begin + 4 : event.index(b"\n", begin)].decode()
        self.out_of_order += place(position) <= place(self.last)
        self.last = position
        self.events += 1
        self.completed += b"event: mission.completed\n" in event


def place(position: str) -> tuple[int, int]:
    xid, _, id = position.partition("-")
    return int(xid), int(id)


async def read(base_url: str, key: str, after: str, readers: int) -> None:
    """What the readers' own process does: reads until everybody has seen the fact that stdin names, then says what was seen."""
    reading = [Reader(base_url, key, after) for _ in range(readers)]
    tasks = [asyncio.create_task(one.run()) for one in reading]
    end = place((await asyncio.to_thread(sys.stdin.readline)).strip())
    named = time.perf_counter()
    while min(place(one.last) for one in reading) < end and time.perf_counter() < named + LATE_S:
        await asyncio.sleep(0.01)
    late = round(time.perf_counter() - named, 2)
    for task in tasks:
        if task.done():
            task.result()  # it never ends by itself
        task.cancel()
    counted = ("events", "completed", "out_of_order", "cut_off", "last")
    print(json.dumps({"late_s": late, "each": [{name: getattr(one, name) for name in counted} for one in reading]}))


async def run(instance: Instance, missions: int, readers: int) -> dict[str, Any]:
    database = await asyncpg.connect(instance.superuser())
    key, after = instance.key_of("submitter"), await end_of_ledger(instance)
    words = [sys.executable, "-m", "bench.long_run", "--read", instance.base_url, key, after or "0-0", str(readers)]
    watching = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    memory: dict[str, list[float]] = {child.process.name: [] for child in instance.running}
    post = Post(
        f"{instance.base_url}/v1/missions", {"Authorization": f"Bearer {instance.key_of('submitter')}"}, keyed=False
    )
    began = time.perf_counter()
    posting = asyncio.create_task(by_sockets(post, "long", 32, most=missions, seconds=7200))
    accepting = 0.0
    while not posting.done() or await database.fetchval(UNDER_WAY, 0):
        await asyncio.sleep(min(LOOK_S, max(0.5, missions / 2000)))
        accepting = accepting or (time.perf_counter() - began if posting.done() else 0.0)
        for child in instance.running:
            assert child.running is not None
            memory[child.process.name].append(resident_mb(child.running.pid))
        done = await database.fetchval("SELECT count(*) FROM work WHERE kind = 'dispatch'")
        say(
            f"  {time.perf_counter() - began:6.0f} s  {done:,} wait to be dispatched; "
            + ", ".join(f"{name} {seen[-1]:.0f} MB" for name, seen in memory.items())
        )
    took = time.perf_counter() - began
    accepted = posting.result()
    wanted = await database.fetchval("SELECT count(*) FROM ledger WHERE type = 'mission.completed'")
    tenant = await database.fetchval("SELECT tenant FROM mission LIMIT 1")
    said, _ = watching.communicate(f"{await database.fetchval(LAST, tenant)}\n", timeout=LATE_S + 60)
    rows = {name: await database.fetchval(question) for name, question in MEASURES.items()}
    await database.close()
    auditor = Database(instance.folder.database_url("auditor"), pool_size=1)
    verdict = await chains(ledger.inside_of(auditor, tenant), tenant)
    await auditor.close()
    return {
        "accepted": accepted.accepted,
        "refused": accepted.refused,
        "accept_s": round(accepting, 1),
        "whole_s": round(took, 1),
        "completed_per_s": round(wanted / took, 1),
        "rows": rows,
        "readers": json.loads(said),
        "ledger": {"verified": verdict.verified, "facts": verdict.facts},
        "violators": httpx.get(
            f"{instance.base_url}/v1/status",
            headers={"Authorization": f"Bearer {instance.key_of('operator')}"},
            timeout=60,
            trust_env=False,
        ).json()["violators"],
        "memory_mb": {name: thirds(seen) for name, seen in memory.items()},
    }


def thirds(seen: list[float]) -> dict[str, float]:
    third = max(1, len(seen) // 3)
    return {
        "first": round(seen[0], 1),
        "second_third": round(max(seen[third : 2 * third] or seen), 1),
        "last_third": round(max(seen[-third:]), 1),
    }


def problems(found: dict[str, Any], missions: int) -> list[str]:
    """What does not add up."""
    rows, wrong = found["rows"], []
    for name in ("accepted", "mission", "result", "review", "fact"):
        if rows[name] != missions:
            wrong.append(f"{name}: {rows[name]} rows for {missions} missions")
    if found["accepted"] != missions or found["refused"]:
        wrong.append(f"{found['accepted']} answers 202, {found['refused']} others")
    for name in ("work left", "under way", "broken chains"):
        if rows[name]:
            wrong.append(f"{name}: {rows[name]}")
    for number, reader in enumerate(found["readers"]["each"]):
        if reader["completed"] != missions or reader["out_of_order"]:
            wrong.append(f"reader {number}: {reader}")
    if not found["ledger"]["verified"] or found["ledger"]["facts"] != rows["facts"]:
        wrong.append(f"ledger: {found['ledger']} of {rows['facts']} facts")
    if found["violators"]:
        wrong.append(f"violators: {found['violators'][:3]}")
    for name, said in found["memory_mb"].items():  # the stand-ins hold what waits for the root
        if name not in STAND_INS and said["last_third"] > GROWTH * said["second_third"]:
            wrong.append(f"memory of {name}: {said}")
    return wrong


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--missions", type=int, default=200_000)
    wanted.add_argument("--readers", type=int, default=10)
    wanted.add_argument("--read", nargs=4, help=argparse.SUPPRESS)
    given = wanted.parse_args()
    if given.read:
        asyncio.run(read(given.read[0], given.read[1], given.read[2], int(given.read[3])))
        return
    with (
        tempfile.TemporaryDirectory(prefix="mission-root-long-", ignore_cleanup_errors=True) as folder,
        trace_sink() as sink,
        Instance(Path(folder), EVERYTHING, sink) as instance,
    ):
        found = asyncio.run(run(instance, given.missions, given.readers))
    found["wrong"] = problems(found, given.missions)
    print(json.dumps(found))
    if found["wrong"]:
        raise SystemExit("bench: " + "; ".join(found["wrong"]))


if __name__ == "__main__":
    main()
