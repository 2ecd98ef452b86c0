"""How many missions a second the root accepts, beside what the database alone can take, in one interleaved run.

    make bench-quick                    three rounds of five seconds each, about a minute
    python -m bench.quick --seconds 10 --rounds 5

stdout carries one JSON object, stderr a table. What is compared, and where that is unfair: bench/README.md.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from app import embedded
from app.bootstrap import bootstrap
from app.identity import seed_demo
from app.migrate import upgrade
from app.supervisor.folder import Folder, open_folder
from app.supervisor.plan import processes
from app.supervisor.watch import Child
from bench.load import Loaded, client_name, load

HERE = Path(__file__).parent
LIMIT_DATABASE, PRODUCT_DATABASE = "bench_limit", "mission_root"
WARM_UP_S = 2.0
LIMIT_ROWS = {name: f"SELECT count(*) FROM {name}" for name in ("mission", "fact", "audit", "work")}
# What one accepted mission leaves in the product's own tables.
TRACES = {
    "mission": "SELECT count(*) FROM mission",
    "envelope": "SELECT count(*) FROM artifact WHERE schema_name = 'mission_envelope'",
    "policy_decision": "SELECT count(*) FROM policy_decision WHERE mission IS NOT NULL",
    "fact": "SELECT count(*) FROM ledger WHERE type = 'mission.accepted'",
    "work": "SELECT count(*) FROM work WHERE kind = 'dispatch'",
}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--rounds", type=int, default=3)
    wanted.add_argument("--seconds", type=float, default=5.0, help="length of each half of a round")
    wanted.add_argument("--connections", type=int, default=32)
    asked = wanted.parse_args()
    with tempfile.TemporaryDirectory(prefix="mission-root-bench-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), asked.rounds, asked.seconds, asked.connections)
    print(json.dumps(found))
    if not found["rows_match"]:
        raise SystemExit("bench: rows in the database and answers to the clients do not match")


def measure(place: Path, rounds: int, seconds: float, connections: int) -> dict[str, Any]:
    """Rounds of limit, then accept, on one server; durable, as `up` runs it."""
    with database(place) as folder:
        pgbench(folder, connections, WARM_UP_S)
        warm_rows = asyncio.run(counts(folder, LIMIT_DATABASE, LIMIT_ROWS))["mission"]
        with served(folder) as base_url:
            api_key = folder.secrets["api_keys"]["submitter"]
            warm = load(base_url, api_key, "warm", connections, WARM_UP_S)
            answered, unanswered, transactions = warm.accepted, warm.unanswered, warm_rows
            rows = []
            say("round   limit/s  accept/s   ratio   p50 ms   p99 ms   sha256/s")
            for number in range(1, rounds + 1):
                calibration = sha256_per_s()
                limit_per_s, done = pgbench(folder, connections, seconds)
                accept = load(base_url, api_key, f"round{number}", connections, seconds)
                answered, unanswered = answered + accept.accepted, unanswered + accept.unanswered
                transactions += done
                rows.append(figures(limit_per_s, accept, calibration))
                say("{:>5} {:>9} {:>9} {:>7} {:>8} {:>8} {:>10}".format(number, *rows[-1].values()))
        # serve has drained: whatever it was still doing for a client that left is in the tables now
        traces = asyncio.run(counts(folder, PRODUCT_DATABASE, TRACES))
        limit_rows = asyncio.run(counts(folder, LIMIT_DATABASE, LIMIT_ROWS))
    whole = len(set(traces.values())) == 1 and answered <= traces["mission"] <= answered + unanswered
    return {
        **{name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0] if name != "refused"},
        "accept_p99_over_p50": round(statistics.median(row["accept_p99_ms"] / row["accept_p50_ms"] for row in rows), 2),
        "rounds": rows,
        "rows_match": whole and set(limit_rows.values()) == {transactions},
        "rows": {"answered_202": answered, "unanswered_at_most": unanswered, **traces},
        "refused": sum(row["refused"] for row in rows),
        "how": {
            "connections": connections,
            "seconds": seconds,
            "client": client_name(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


def figures(limit_per_s: float, accept: Loaded, calibration: float) -> dict[str, Any]:
    """One round; the order is the table's."""
    return {
        "limit_per_s": round(limit_per_s, 1),
        "accept_per_s": round(accept.per_s, 1),
        "accept_vs_limit": round(accept.per_s / limit_per_s, 4),
        "accept_p50_ms": round(accept.p50_ms, 2),
        "accept_p99_ms": round(accept.p99_ms, 2),
        "calibration_sha256_per_s": round(calibration),
        "refused": accept.refused,
    }


@contextmanager
def database(place: Path) -> Iterator[Folder]:
    """PostgreSQL with the product's schema and people in one database and the four bare tables in another."""
    folder = open_folder(place, embedded.free_port())  # 8080 may be somebody's instance in a moment
    try:
        say("Starting PostgreSQL and laying both schemas.")
        asyncio.run(databases(folder))
        upgrade(folder.owner_url(), PRODUCT_DATABASE)
        asyncio.run(seed_demo(folder.database_url("registrar"), folder.secrets["api_keys"]))
        folder.let_go()
        yield folder
    finally:
        folder.server.stop()


@contextmanager
def served(folder: Folder) -> Iterator[str]:
    """The process `serve` exactly as `up` starts it, and nothing beside it: no worker, executor or colony.

    Nobody takes up what is accepted, so that accepting alone is measured.
    """
    [process] = [one for one in processes(folder, {"PATH": os.environ["PATH"]}) if one.name == "serve"]
    child = Child(process, folder.logs / "serve.log")
    child.start()
    assert child.running
    try:
        await_ready(child)
        yield f"http://127.0.0.1:{folder.ports['public']}"
    finally:
        child.running.terminate()
        child.running.wait(15)


async def databases(folder: Folder) -> None:
    connection = await asyncpg.connect(folder.server.start())
    for name in (PRODUCT_DATABASE, LIMIT_DATABASE):
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    passwords = folder.secrets["database_passwords"]
    await bootstrap(folder.owner_url(), "mission_root", passwords, PRODUCT_DATABASE)
    connection = await asyncpg.connect(superuser(folder, LIMIT_DATABASE))
    await connection.execute((HERE / "limit_schema.sql").read_text())
    await connection.close()


def await_ready(child: Child) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if child.running is None or child.running.poll() is not None:
            raise SystemExit(f"bench: serve did not start: {child.last_words()}")
        try:
            if httpx.get(child.process.ready_url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"bench: serve was not ready in time: {child.last_words()}")


def pgbench(folder: Folder, clients: int, seconds: float) -> tuple[float, int]:
    """Transactions per second without the time to connect, and how many there were."""
    done = subprocess.run(
        [
            str(embedded._binaries() / "pgbench"),
            *("--no-vacuum", "--protocol", "prepared", "--client", str(clients), "--jobs", "2"),
            *("--time", str(max(1, round(seconds))), "--file", str(HERE / "limit.sql")),
            superuser(folder, LIMIT_DATABASE),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: pgbench failed: {done.stderr.strip()}")
    per_s = re.search(r"^tps = ([\d.]+)", done.stdout, re.M)
    number = re.search(r"^number of transactions actually processed: (\d+)", done.stdout, re.M)
    assert per_s and number, done.stdout
    return float(per_s[1]), int(number[1])


async def counts(folder: Folder, database: str, questions: dict[str, str]) -> dict[str, int]:
    connection = await asyncpg.connect(superuser(folder, database))
    found = {name: await connection.fetchval(question) for name, question in questions.items()}
    await connection.close()
    return found


def superuser(folder: Folder, database: str) -> str:
    return folder.server.url("postgres", folder.server.password(), database)


def sha256_per_s(seconds: float = 0.2) -> float:
    """SHA-256 of 4 KiB on one core: when this figure moves between rounds, something else was using the machine."""
    block, done, began = b"x" * 4096, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(200):
            hashlib.sha256(block).digest()
        done += 200
    return done / (time.perf_counter() - began)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
