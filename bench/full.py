"""Everything: the limits, the usual way to write it, and each peer, every one interleaved with ours. At most 40 minutes.

    make bench                           three rounds of three seconds for each pair
    python -m bench.full --only dbos temporal --rounds 1 --seconds 1

Writes bench/results/results.json and bench/results/results.txt (--into DIR), prints the table on stderr and the name of
the JSON file on stdout. Only one peer runs at a time, beside the product.
"""

import argparse
import contextlib
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import approvals
from bench.arithmetic import calibration, spread
from bench.compare import (
    TENANTS,
    Size,
    accept,
    completed,
    decided,
    limits,
    of_tenants,
    p50,
    pair,
    per_s,
    start,
    streamed,
)
from bench.limit import Limit
from bench.peers.aegra import Aegra
from bench.peers.base import Peer, Unavailable
from bench.peers.dbos import Dbos
from bench.peers.idiom import Idiom
from bench.peers.langgraph import Langgraph
from bench.peers.prefect import Prefect
from bench.peers.procrastinate import Procrastinate
from bench.peers.product import Product
from bench.peers.restate import Restate
from bench.peers.temporal import Temporal
from bench.quick import how, of_size, product, sizes
from bench.rounds import say
from bench.table import absent, alone, compared, table

PEERS: tuple[type[Peer], ...] = (Idiom, Restate, Dbos, Procrastinate, Temporal, Langgraph, Prefect, Aegra)
LONGEST_S = 36 * 60  # no peer is begun after this
TARGETS = {
    ("accept", "restate"): "≥ 3",
    ("accept", "dbos"): "≥ 10",
    ("accept", "procrastinate"): "≥ 5",
    ("accept", "prefect"): "≥ 50",
    ("accept", "langgraph"): "≥ 10",
    ("completed", "restate"): "≥ 3",
    ("completed", "dbos"): "≥ 10",
    ("completed", "temporal"): "≥ 30",
    ("lone", "restate"): "≤ 0.5",
}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes(wanted, Size(seconds=3.0, streams=1000, facts_per_s=500.0, stream_seconds=10.0, approvals=20))
    wanted.add_argument("--only", nargs="*", help="these peers: " + " ".join(peer.name for peer in PEERS))
    wanted.add_argument("--into", type=Path, default=Path(__file__).with_name("results"), help="default %(default)s")
    given = wanted.parse_args()
    peers = [peer for peer in PEERS if given.only is None or peer.name in given.only]
    with tempfile.TemporaryDirectory(prefix="mission-root-bench-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), of_size(given), peers)
    text = readable(found)
    given.into.mkdir(parents=True, exist_ok=True)
    (given.into / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.into / "results.txt").write_text(text + "\n")
    say("\n" + text)
    print(given.into / "results.json")
    if not found["rows_match"]:
        raise SystemExit("bench: rows in the database and answers to the clients do not match")


def measure(place: Path, size: Size, peers: list[type[Peer]]) -> dict[str, Any]:
    began, against, quiet = time.monotonic(), {}, []
    with product(place) as ours:
        say("The limits.")
        limit = Limit(ours.accepting)
        api = {"ready_s": ours.accepting.ready_s["serve"], "ready_mb": ours.accepting.memory_mb("serve")}
        bare = limits(size, ours, limit)
        api["loaded_mb"] = ours.accepting.memory_mb("serve")
        quiet += bare.calibration
        say("Approvals and streams.")
        deciding = decided(size, lambda times: ours.noting(approvals.latencies(ours.working, times)), None)
        streaming = streamed(size, ours)
        quiet += deciding.calibration
        for kind in peers:
            if time.monotonic() - began > LONGEST_S:
                against[kind.name] = {"version": kind.version, "absent": "there was no time left for it"}
                continue
            against[kind.name] = beside(place, size, ours, kind(), quiet)
        server, counted = ours.accepting.settings(), {"limit": limit.counted()}
        ours.stop()
        counted |= ours.counted()
    seen = streaming.found["ours"][0].figures() if streaming.have("ours") else None
    return {
        "limits": {
            "accept_vs_l1": pair(bare, "ours", "L1", per_s),
            "accept_vs_l2": pair(bare, "ours", "L2", per_s),
            "accept_watched_vs_alone": pair(bare, "watched", "ours", per_s),
            "accept_p99_over_p50": spread([one.p99_ms / one.p50_ms for one in bare.found["ours"]])
            if bare.have("ours")
            else None,
        },
        "tenants": {of_tenants(count): pair(bare, of_tenants(count), "ours", per_s) for count in TENANTS},
        "api": api,
        "approval_ms": spread([p50(times) for times in deciding.found["ours"]]) if deciding.have("ours") else None,
        "sse": seen,
        "peers": against,
        "calibration": calibration(quiet),
        "rows_match": all(one.match for one in counted.values()),
        "rows": {name: asdict(one) for name, one in counted.items()},
        "refused": ours.refused,
        "failed": bare.failed | deciding.failed | streaming.failed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "how": how(size, server),
    }


def beside(place: Path, size: Size, ours: Product, peer: Peer, quiet: list[float]) -> dict[str, Any]:
    """One peer and the product in turns. What it cannot do is said, and is no failure of the run."""
    about = {"version": peer.version, "durable": peer.durable}
    with contextlib.ExitStack() as ending:
        try:
            start(peer, place, ours.accepting.new_database)
            ending.callback(peer.stop)
            accepting = accept(size, peer.name, ours, None, peer)
            completing = completed(size, peer.name, ours, peer) if "completed" in peer.rows else None
            counted = peer.counted()
        except Unavailable as why:
            say(f"  {peer.name}: {why}")
            return {**about, "absent": str(why)}
        except Exception as error:  # its row says so; the others are still measured
            say(f"  {peer.name}: {type(error).__name__}: {error}")
            return {**about, "absent": f"{type(error).__name__}: {error}"[:500]}
    found = {**about, "accept": pair(accepting, "ours", peer.name, per_s), "failed": accepting.failed}
    quiet += accepting.calibration
    if completing:
        quiet += completing.calibration
        found["completed"] = pair(completing, "ours", peer.name, lambda half: half.many.per_s)
        found["lone"] = pair(completing, "ours", peer.name, lambda half: half.p50_ms)
        found["failed"] |= completing.failed
    if isinstance(peer, Restate):
        found["accept_parked"] = pair(accepting, "ours", peer.parked_name, per_s)
    if counted:
        found |= {"rows": asdict(counted), "rows_match": counted.match}
    return found


def readable(found: dict[str, Any]) -> str:
    """One table for a reader: every comparison with its ratio and the spread of that."""
    bare = found["limits"]
    rows = []
    if bare["accept_vs_l1"]:
        rows.append(compared("accept/s : L1, one mission a statement", bare["accept_vs_l1"], "≥ 1, floor 0.35"))
    if bare["accept_vs_l2"]:
        rows.append(compared("accept/s : L2, 32 missions a statement", bare["accept_vs_l2"]))
    for title, what in (("accept/s", "accept"), ("completed/s", "completed"), ("lone, p50 ms", "lone")):
        for name, one in found["peers"].items():
            if one.get(what):
                rows.append(compared(f"{title} : {name}", one[what], TARGETS.get((what, name), "")))
            elif what == "accept" or one.get("failed", {}).get(name):
                why = one.get("absent") or "; ".join(f"{who} {what}" for who, what in one["failed"].items())
                rows.append(absent(f"{title} : {name}", why))
    for name, one in found["peers"].items():
        if one.get("accept_parked"):
            rows.append(compared(f"accept/s : {name}, calls that nobody takes up", one["accept_parked"]))
    for count, one in found["tenants"].items():
        if one:
            rows.append(compared(f"accept/s of {count} in turns : of one", one))
    if bare["accept_watched_vs_alone"]:
        title = "accept/s with tenant-wide streams : without"
        rows.append(compared(title, bare["accept_watched_vs_alone"], "≥ 0.9"))
    if bare["accept_p99_over_p50"]:
        rows.append(alone("accept p99 / p50", bare["accept_p99_over_p50"], "≤ 3, floor 6"))
    api = found["api"]
    rows.append(alone("API, start to ready, s", spread([api["ready_s"]]), "≤ 4"))
    rows.append(alone("API, MB after the rounds at the limits", spread([api["loaded_mb"]]), "≤ 220"))
    if found["approval_ms"]:
        rows.append(alone("decision → call leaves, p50 ms", found["approval_ms"]))
    if found["sse"]:
        rows.append(alone("fact committed → seen, p99 ms", spread([found["sse"]["p99_ms"]]), "≤ 10"))
    quiet = found["calibration"]
    said = [
        table(rows),
        "",
        f"streams: {found['sse']}",
        f"sha256/s: {quiet['min']:,.0f} to {quiet['max']:,.0f}, median {quiet['median']:,.0f}"
        + ("" if quiet["quiet"] else " (not a quiet machine)"),
        f"rows match: {found['rows_match']}; refused: {found['refused']}; {found['minutes']} minutes",
    ]
    said += [f"{what}: {why}" for what, why in found["failed"].items()]
    said += [
        f"{name}: its rows do not match its answers, so its figures stand for nothing: {one['rows']}"
        for name, one in found["peers"].items()
        if not one.get("rows_match", True)
    ]
    said += [f"{name} {one['version']}: {one['durable']}" for name, one in found["peers"].items() if "durable" in one]
    return "\n".join(said)


if __name__ == "__main__":
    main()
