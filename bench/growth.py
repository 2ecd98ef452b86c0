"""What becomes slower when a tenant's history grows: the same questions to two instances, one with a short history, one with a long.

    python -m bench.growth                                   1,000 beside 1,000,000 missions (ten million facts); half an hour
    python -m bench.growth --large 100000 --rounds 3         smaller
    python -m bench.growth --folder /var/tmp/grown           keeps what was loaded, and finds it there when the same is asked for again

stdout carries one JSON object, stderr a table. Each instance has a PostgreSQL of its own. What fills them are copies of missions
that the product itself has worked on (bench/multiply.py), so rows, facts and their hash chains have their real shapes.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from app.supervisor.plan import processes
from app.supervisor.watch import Child
from bench.approvals import Desk, asked
from bench.arithmetic import calibration, ratios, spread
from bench.instance import Instance, await_ready
from bench.load import BODY, Post, load
from bench.multiply import Sample, multiply
from bench.quick import EVERYTHING
from bench.rounds import interleave, say
from bench.sink import trace_sink
from bench.wire import Client

PENDING_SHARE = 100  # of a hundred missions one waits for a human,
PAGE = 60  # and never fewer than fill a page
TARGET = 1.3
Ask = Callable[[], Awaitable[None]]


class Grown(Instance):
    """An instance with a history. Loaded once; where its folder is kept, found again. pending: how many missions wait for a human."""

    afterwards: tuple[str, ...] = ("serve",)  # the processes that answer

    def __init__(self, place: Path, missions: int, trace_sink: str, pending: int | None = None) -> None:
        self.marker, self.missions = place / "grown.json", missions
        self.pending = pending or max(PAGE, missions // PENDING_SHARE)
        self.kept = self.found()
        super().__init__(place, EVERYTHING, trace_sink)

    def __enter__(self) -> "Grown":
        if self.kept is not None:
            self.samples = self.kept["samples"]
            self.folder.server.start()
        else:
            super().__enter__()
            self.samples = asyncio.run(self.grow())
            self.stop_processes()
            self.marker.write_text(json.dumps({**self.size, "samples": self.samples}))
        self.folder.let_go()
        for process in processes(self.folder, self.surroundings):
            if process.name in self.afterwards:
                self.running.append(Child(self.dressed(process), self.folder.logs / f"{process.name}.log"))
                self.running[-1].start()
        for child in self.running:
            await_ready(child)
        return self

    @property
    def size(self) -> dict[str, int]:
        return {"missions": self.missions, "pending": self.pending}

    def found(self) -> dict[str, Any] | None:
        """What is kept in the folder; None where nothing is. Of another size it would be measured as what it is not."""
        if not self.marker.exists():
            return None
        kept: dict[str, Any] = json.loads(self.marker.read_text())
        if (there := {name: kept.get(name) for name in self.size}) != self.size:
            raise SystemExit(
                f"{self.marker.parent} holds {there}, and {self.size} is asked for: name another folder, or remove it."
            )
        return kept

    async def grow(self) -> dict[str, Any]:
        """Has a few missions worked on, and multiplies them. Answers what the questions need to know."""
        submitter, operator = Desk(self, "submitter"), Desk(self, "operator")
        done = [await self.completed(submitter) for _ in range(4)]
        waiting = (await operator.ask("GET", f"/v1/approvals/{await asked(submitter, operator)}"))[0]["mission_id"]
        more = await self.more(submitter, operator)
        for child in self.running:  # nobody works on what is copied
            if child.process.name in ("worker", "executor") and child.running is not None:
                child.running.terminate()
                child.running.wait(15)
        rare, said = await submitter.ask("POST", "/v1/missions", {**json.loads(BODY), "labels": {"rare": "one"}})
        await operator.ask("POST", f"/v1/missions/{rare['id']}/cancel", {"reason": "benchmark"}, If_Match=said["etag"])
        for desk in (submitter, operator):
            desk.client.close()
        rest = self.missions - self.pending - sum(one.copies for one in more)
        samples = [Sample(one, rest // len(done)) for one in done]
        await multiply(self.superuser(), [*samples, *more, Sample(waiting, self.pending)])
        return {"done": done, "waiting": waiting, "rare": rare["id"], **await self.told()}

    async def more(self, submitter: Desk, operator: Desk) -> list[Sample]:
        """Further missions to be multiplied, for who asks about more."""
        return []

    async def told(self) -> dict[str, Any]:
        """What else the questions need to know."""
        return {}

    async def completed(self, submitter: Desk) -> str:
        mission, _ = await submitter.ask("POST", "/v1/missions", json.loads(BODY))
        await submitter.until(f"/v1/missions/{mission['id']}", lambda one: one["state"] == "completed")
        return str(mission["id"])

    def facts(self) -> int:
        return self.counts({"facts": "SELECT count(*) FROM ledger"})["facts"]


class Questions:
    """What is asked of one instance; every question once per call."""

    def __init__(self, grown: Grown) -> None:
        self.grown, self.client = grown, Client(grown.base_url, 1)
        self.keys = {
            who: {"Authorization": f"Bearer {grown.key_of(who)}"} for who in ("submitter", "operator", "auditor")
        }

    async def get(self, path: str, who: str = "operator", status: int = 200) -> Any:
        answer = await self.client.ask("GET", path, self.keys[who])
        if answer.status != status:
            raise RuntimeError(f"GET {path} was answered {answer.start}: {answer.body[:300].decode()}")
        return json.loads(answer.body) if answer.body else None

    async def post(self) -> None:
        headers = {**self.keys["submitter"], "Content-Type": "application/json"}
        answer = await self.client.ask("POST", "/v1/missions", headers, BODY.encode())
        if answer.status != 202:
            raise RuntimeError(f"a mission was answered {answer.start}")

    async def all(self) -> dict[str, Ask]:
        done, rare = self.grown.samples["done"][0], self.grown.samples["rare"]
        page = await self.get("/v1/missions?limit=50")
        who = page["items"][0]["requested_by"]
        middle = await self.middle()
        deep = await self.deep("/v1/missions?limit=50", 10)
        facts = await self.deep("/v1/ledger?limit=50", 10)
        paths = {
            "get a mission": f"/v1/missions/{done}",
            "its facts": f"/v1/missions/{done}/events",
            "its artifacts": f"/v1/missions/{done}/artifacts",
            "list": "/v1/missions",
            "list, 10 pages on": deep,
            "list, state=completed": "/v1/missions?state=completed",
            "list, state=cancelled (rare)": "/v1/missions?state=cancelled",
            "list, state=awaiting_approval": "/v1/missions?state=awaiting_approval",
            "list, mission_type": "/v1/missions?mission_type=oracle_advisory",
            "list, mission_type (rare)": "/v1/missions?mission_type=crm_pipeline_review",
            "list, requested_by": f"/v1/missions?requested_by={who}",
            "list, requested_by (nobody)": "/v1/missions?requested_by=01900000-0000-7000-8000-000000000000",
            "list, created_before": f"/v1/missions?created_before={quote(middle)}",
            "list, created_after": f"/v1/missions?created_after={quote(middle)}",
            "list, label": "/v1/missions?label=project:4711",
            "list, label (rare)": "/v1/missions?label=rare:one",
            "list, label and state": "/v1/missions?label=rare:one&state=cancelled",
            "inbox": "/v1/approvals?state=pending",
            "approvals, state=approved": "/v1/approvals?state=approved",
            "approvals, state=cancelled": "/v1/approvals?state=cancelled",
            "writebacks": "/v1/writebacks",
            "writebacks, awaiting": "/v1/writebacks?state=awaiting_approval",
            "writebacks, state=stale (none)": "/v1/writebacks?state=stale",
            "ledger page": "/v1/ledger",
            "ledger, 10 pages on": facts,
            "ledger of a mission": f"/v1/ledger?subject={rare}",
            "usage": "/v1/budgets/usage",
            "status": "/v1/status",
        }
        asks: dict[str, Ask] = {name: self.asking(path) for name, path in paths.items()}
        return {"accept one": self.post, **asks}

    def asking(self, path: str) -> Ask:
        async def ask() -> None:
            await self.get(path, "auditor" if path.startswith("/v1/ledger") else "operator")

        return ask

    async def middle(self) -> str:
        """An instant in the middle of the history."""
        newest = (await self.get("/v1/missions?limit=1"))["items"][0]["created_at"]
        return (datetime.fromisoformat(newest) - timedelta(days=15)).isoformat()

    async def deep(self, path: str, pages: int) -> str:
        """The address of a page that far down, or of the last one."""
        who, at = "auditor" if path.startswith("/v1/ledger") else "operator", path
        for _ in range(pages):
            cursor = (await self.get(at, who)).get("next_cursor")
            if cursor is None:
                break
            at = f"{path}&cursor={quote(cursor)}"
        return at


async def sql_asks(grown: Grown) -> tuple[dict[str, Ask], list[asyncpg.Connection]]:
    """What worker and executor ask the database all the time, and what the reconcilers do."""
    worker = await asyncpg.connect(grown.folder.database_url("worker"))
    kinds = ["ask", "progress", "attempt_timer", "review"]

    def asking(statement: str, *args: Any) -> Ask:
        async def ask() -> None:
            transaction = worker.transaction()
            await transaction.start()
            await worker.fetch(statement, *args)
            await transaction.rollback()

        return ask

    return {
        "take work": asking("SELECT * FROM take_worker_work($1, 64, '20 seconds')", kinds),
        "take work, a backlog": asking("SELECT * FROM take_worker_work($1, 64, '20 seconds')", ["dispatch"]),
        "when is work due": asking("SELECT next_worker_work($1)", kinds),
        "sweep: expired": asking("SELECT sweep_expired(5000)"),
        "reconcile: budgets": asking("SELECT reconcile_budgets(500)"),
        "reconcile: executor work": asking("SELECT restore_executor_work(500)"),
        "reconcile: approval timers": asking("SELECT restore_approval_timers()"),
        "reconcile: anchors": asking("SELECT restore_anchor_work()"),
        "sweep: deliveries": asking("SELECT sweep_webhook_deliveries(5000)"),
    }, [worker]


async def timed(ask: Ask, times: int, most_s: float) -> float:
    """Median milliseconds; fewer times when one takes long."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < times and (len(found) < 3 or time.perf_counter() - began < most_s):
        start = time.perf_counter()
        await ask()
        found.append((time.perf_counter() - start) * 1000)
    return statistics.median(found)


def measure(place: Path, small: int, large: int, rounds: int, times: int) -> dict[str, Any]:
    with trace_sink() as sink:
        sides = {"small": Grown(place / "small", small, sink), "large": Grown(place / "large", large, sink)}
        say(f"Loading {small:,} and {large:,} missions, where they are not there yet.")
        with sides["small"], sides["large"]:
            sizes = {name: {"missions": one.missions, "facts": one.facts()} for name, one in sides.items()}
            say(f"{sizes}")
            found = asyncio.run(asking(sides, rounds, times))
            found["accept"] = accepting(sides, rounds)
            return {"sizes": sizes, **found}


async def asking(sides: dict[str, Grown], rounds: int, times: int) -> dict[str, Any]:
    questions = {name: Questions(one) for name, one in sides.items()}
    asks, opened = {}, []
    for name, one in sides.items():
        more, connections = await sql_asks(one)
        asks[name] = {**await questions[name].all(), **more}
        opened += connections
    figures: dict[str, dict[str, list[float]]] = {ask: {"small": [], "large": []} for ask in asks["small"]}
    for number in range(rounds + 1):  # the first one warms
        for ask, sample in figures.items():
            for name in sides:
                took = await timed(asks[name][ask], times if number else 3, 3.0)
                if number:
                    sample[name].append(took)
    for connection in opened:
        await connection.close()
    return {
        "p50_ms": {ask: {name: spread(took) for name, took in sample.items()} for ask, sample in figures.items()},
        "times_as_long": {ask: ratios(sample["large"], sample["small"]) for ask, sample in figures.items()},
    }


def accepting(sides: dict[str, Grown], rounds: int) -> dict[str, Any]:
    """Accepted per second over 32 connections."""

    def turn(grown: Grown) -> Callable[[str], float]:
        post = Post(f"{grown.base_url}/v1/missions", {"Authorization": f"Bearer {grown.key_of('submitter')}"})
        return lambda name: load(post, f"growth-{time.time_ns()}-{name}", 32, 3.0).per_s

    found = interleave(rounds, {name: turn(one) for name, one in sides.items()})
    per_s = {name: found.of(name, float) for name in sides}
    return {
        **{name: spread(figures) for name, figures in per_s.items()},
        "times_as_long": ratios(per_s["small"], per_s["large"]),
        "calibration": calibration(found.calibration),
    }


def shown(found: dict[str, Any]) -> str:
    lines = [f"{'':36s}{'small ms':>10s}{'large ms':>10s}{'times':>8s}{'least':>8s}{'most':>8s}   target ≤ {TARGET}"]
    for ask, times in found["times_as_long"].items():
        took = found["p50_ms"][ask]
        mark = "" if times["median"] <= TARGET else "   over"
        lines.append(
            f"{ask:36s}{took['small']['median']:10.2f}{took['large']['median']:10.2f}"
            f"{times['median']:8.2f}{times['min']:8.2f}{times['max']:8.2f}{mark}"
        )
    accept = found["accept"]
    lines.append(
        f"accept/s at 32: {accept['small']['median']:,} beside {accept['large']['median']:,}: {accept['times_as_long']}"
    )
    return "\n".join(lines)


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--small", type=int, default=1_000)
    wanted.add_argument("--large", type=int, default=1_000_000)
    wanted.add_argument("--rounds", type=int, default=5)
    wanted.add_argument("--times", type=int, default=30, help="how often each question is asked in a round")
    wanted.add_argument("--folder", type=Path, help="where what was loaded is kept")
    given = wanted.parse_args()
    with tempfile.TemporaryDirectory(prefix="mission-root-growth-", ignore_cleanup_errors=True) as folder:
        found = measure(given.folder or Path(folder), given.small, given.large, given.rounds, given.times)
    print(shown(found), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
