"""How fast the root is beside its own database's limit and beside Restate, in one interleaved run of a few minutes.

    make bench-quick                    three rounds, each half four seconds
    python -m bench.quick --seconds 1 --rounds 1

stdout carries one JSON object, stderr a table. What is compared, and where that is unfair: bench/README.md.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import approvals
from bench.arithmetic import calibration, percentile, spread
from bench.compare import Size, accept, completed, decided, p50, pair, per_s, start, streamed
from bench.instance import Instance
from bench.limit import Limit
from bench.load import client_name
from bench.peers.base import Counted, Unavailable
from bench.peers.product import Product
from bench.peers.restate import Restate
from bench.rounds import say
from bench.sink import trace_sink
from bench.table import absent, alone, compared, table

EVERYTHING = ("crm", "colony", "serve", "worker", "executor")


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes(wanted, Size())
    size = of_size(wanted.parse_args())
    with tempfile.TemporaryDirectory(prefix="mission-root-bench-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), size)
    print(json.dumps(found))
    if not found["rows_match"]:
        raise SystemExit("bench: rows in the database and answers to the clients do not match")


def sizes(wanted: argparse.ArgumentParser, usual: Size) -> None:
    """The options that both benchmarks have: every field of Size."""
    for name, value in asdict(usual).items():
        wanted.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")


def of_size(given: argparse.Namespace) -> Size:
    return replace(Size(), **{name: getattr(given, name) for name in asdict(Size())})


@contextlib.contextmanager
def product(place: Path) -> Iterator[Product]:
    """The product twice: a root that only accepts, and everything, with a database server each."""
    say("Starting PostgreSQL and the product, twice.")
    with (
        trace_sink() as sink,
        Instance(place / "accepting", ("serve",), sink) as accepting,
        Instance(place / "working", EVERYTHING, sink, commit_times=True) as working,
    ):
        yield Product(accepting, working)


def measure(place: Path, size: Size) -> dict[str, Any]:
    peer: Restate | None = Restate()
    why = ""
    with product(place) as ours, contextlib.ExitStack() as ending:
        limit = Limit(ours.accepting)
        try:
            assert peer is not None
            start(peer, place, ours.accepting.new_database)
            ending.callback(peer.stop)
        except Unavailable as reason:
            peer, why = None, str(reason)
            say(f"  restate: {why}")
        say("Accepting.")
        accepting = accept(size, "accept", ours, limit, peer)
        say("Completing.")
        completing = completed(size, "completed", ours, peer)
        say("Deciding.")
        deciding = decided(
            size, lambda times: ours.noting(approvals.latencies(ours.working, times)), peer and peer.resume
        )
        say("Streaming.")
        streaming = streamed(size, ours)
        counted = {"limit": limit.counted(), **({peer.name: peer.counted()} if peer else {})}
        server = ours.accepting.settings()
        ours.stop()
        counted |= ours.counted()
    figures = {
        "accept_vs_limit": pair(accepting, "ours", "limit", per_s),
        "accept_vs_peer": pair(accepting, "ours", Restate.name, per_s),
        "accept_vs_peer_parked": pair(accepting, "ours", Restate.parked_name, per_s),
        "completed_vs_peer": pair(completing, "ours", Restate.name, lambda half: half.many.per_s),
        "e2e_p50_vs_peer": pair(completing, "ours", Restate.name, lambda half: half.p50_ms),
        "approval_vs_peer": pair(deciding, "ours", "peer", p50),
    }
    accepted = accepting.found.get("ours", [])
    approved = deciding.found.get("ours", [])
    failed = (
        accepting.failed | completing.failed | deciding.failed | streaming.failed | ({Restate.name: why} if why else {})
    )
    quiet = calibration(accepting.calibration + completing.calibration + deciding.calibration)
    seen = streaming.found["ours"][0].figures() if streaming.have("ours") else None
    tell(figures, seen, failed, quiet, counted, approved)
    return {
        **{name: figure["ratio"]["median"] if figure else None for name, figure in figures.items()},
        "accept_p99_over_p50": round(statistics.median(one.p99_ms / one.p50_ms for one in accepted), 2)
        if accepted
        else None,
        "approval_p50_ms": round(statistics.median(percentile(times, 0.5) for times in approved), 2)
        if approved
        else None,
        "sse_p99_ms": seen["p99_ms"] if seen else None,
        "peer": f"restate {Restate.version}",
        "calibration": quiet,
        "rows_match": all(one.match for one in counted.values()),
        "rows": {name: asdict(one) for name, one in counted.items()},
        "refused": ours.refused,
        "figures": figures,
        "accept_ms": {"p50": spread([one.p50_ms for one in accepted]), "p99": spread([one.p99_ms for one in accepted])}
        if accepted
        else None,
        "sse": seen,
        "failed": failed,
        "how": how(size, server),
    }


def tell(
    figures: dict[str, Any],
    seen: dict[str, Any] | None,
    failed: dict[str, str],
    quiet: dict[str, Any],
    counted: dict[str, Counted],
    approved: list[list[float]],
) -> None:
    """The table, on stderr."""
    titles = {
        "accept_vs_limit": ("accept/s, theirs: L1", "≥ 1, floor 0.35"),
        "accept_vs_peer": ("accept/s, theirs: Restate", "≥ 3, floor 1.2"),
        "accept_vs_peer_parked": ("accept/s, theirs: Restate, calls that nobody takes up", ""),
        "completed_vs_peer": ("completed/s, theirs: Restate", "≥ 3, floor 1.5"),
        "e2e_p50_vs_peer": ("lone accept → completed, p50 ms", "≤ 0.5"),
        "approval_vs_peer": ("decision → call leaves, p50 ms", "≤ 0.6"),
    }
    rows = [
        compared(title, figure, target)
        if (figure := figures[name])
        else absent(title, failed.get(Restate.name, "not measured"))
        for name, (title, target) in titles.items()
    ]
    if approved and not figures["approval_vs_peer"]:
        rows.append(alone("decision → call leaves, p50 ms", spread([p50(times) for times in approved])))
    if seen:
        rows.append(alone("fact committed → seen, p99 ms", spread([seen["p99_ms"]]), "≤ 10"))
    say("\n" + table(rows))
    if seen:
        say(f"streams: {seen['facts_per_s']} facts/s, {seen['seen']} seen, {seen['missed']} missed")
    say(f"sha256/s: {quiet['min']:,.0f} to {quiet['max']:,.0f}{'' if quiet['quiet'] else ' (not a quiet machine)'}")
    for name, one in counted.items():
        if not one.match:
            say(f"rows of {name} do not match: {one}")
    for name, why in failed.items():
        say(f"{name}: {why}")


def how(size: Size, server: dict[str, str]) -> dict[str, Any]:
    return {
        **asdict(size),
        "client": client_name(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "postgresql": server,
        "arguments": sys.argv[1:],
    }


if __name__ == "__main__":
    main()
