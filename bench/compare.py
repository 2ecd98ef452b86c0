"""The measurements themselves, each a few interleaved rounds: accept, completed, lone, approval, streams."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import streams
from bench.arithmetic import percentile, ratios, spread
from bench.limit import Limit
from bench.load import Loaded
from bench.peers.base import Completed, Peer
from bench.peers.product import Product
from bench.peers.restate import Restate
from bench.rounds import WARM, Rounds, interleave, say

PROBE = 48  # completed before the rounds, to learn how many fill one
ALONE_S = 4.0  # the lone ones of one half of a round
TENANTS = (10, 1000)  # whose requests come in turns


@dataclass(frozen=True)
class Size:
    """How much of everything. Seconds are those of one half of a round."""

    rounds: int = 3
    seconds: float = 4.0
    connections: int = 32
    lone: int = 30
    approvals: int = 15
    streams: int = 100
    tenant_wide: int = 10
    facts_per_s: float = 200.0
    stream_seconds: float = 5.0


Turn = Callable[[str], Loaded]


def accept(size: Size, run: str, ours: Product, limit: Limit | None, peer: Peer | None) -> Rounds[Loaded]:
    """Limit, ours, peer; again; again."""
    players: dict[str, Turn] = {}
    if limit:
        players["limit"] = accepting(size, lambda _, seconds: limit.single(seconds, size.connections))
    players["ours"] = accepting(size, lambda name, seconds: ours.accept(f"{run}-{name}", seconds, size.connections))
    if peer and "accept" in peer.rows:
        players[peer.name] = accepting(
            size, lambda name, seconds: peer.accept(f"{run}-{name}", seconds, size.connections)
        )
    if isinstance(peer, Restate):
        parked = peer.accept_parked
        players[peer.parked_name] = accepting(
            size, lambda name, seconds: parked(f"{run}-{name}", seconds, size.connections)
        )
    return interleave(size.rounds, players)


def limits(size: Size, ours: Product, limit: Limit) -> Rounds[Loaded]:
    """Both limits of the database and ours: alone, with streams that are told of everything, for many tenants at once."""
    players: dict[str, Turn] = {
        "L1": accepting(size, lambda _, seconds: limit.single(seconds, size.connections)),
        "ours": accepting(size, lambda name, seconds: ours.accept(f"limits-{name}", seconds, size.connections)),
        "watched": accepting(
            size,
            lambda name, seconds: ours.accept_watched(f"watched-{name}", seconds, size.connections, size.tenant_wide),
        ),
        "L2": accepting(size, lambda _, seconds: limit.batched(seconds, size.connections)),
    }
    for count in TENANTS:
        players[of_tenants(count)] = accepting(
            size,
            lambda name, seconds, count=count: ours.accept_of_tenants(
                f"tenants-{count}-{name}", seconds, size.connections, count
            ),
        )
    return interleave(size.rounds, players)


def of_tenants(count: int) -> str:
    """The name of the player that accepts for so many."""
    return f"{count:,} tenants"


def accepting(size: Size, load: Callable[[str, float], Loaded]) -> Turn:
    """A turn of accepting; the warm one takes a second. One in which nothing was accepted is a failure."""

    def turn(name: str) -> Loaded:
        found = load(name, 1.0 if name == WARM else size.seconds)
        if not found.accepted and name != WARM:
            raise RuntimeError(f"nothing was accepted in {size.seconds:g} s, {found.refused} refused")
        return found

    return turn


@dataclass(frozen=True)
class Finished:
    """One side's half of a round of completing: many at once, then one at a time."""

    many: Completed
    lone_ms: list[float]

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.lone_ms)


def completed(size: Size, run: str, ours: Product, peer: Peer | None) -> Rounds[Finished]:
    """So many that a half takes about `size.seconds`, on each side as many as fit it."""
    players: dict[str, Callable[[str], Finished]] = {ours.name: finishing(size, run, ours)}
    if peer and "completed" in peer.rows:
        players[peer.name] = finishing(size, run, peer)
    return interleave(size.rounds, players)


def finishing(size: Size, run: str, side: Product | Peer) -> Callable[[str], Finished]:
    """A turn of completing; the warm one finds out how many fill a half. So few as it begins with tell how long they take to get
    under way more than how fast they go then, so that it looks once more, with as many as seem to fill half a half."""
    count, times = PROBE, 3

    def turn(name: str) -> Finished:
        nonlocal count, times
        found = Finished(side.completed(f"{run}-{name}", count, size.connections), side.lone(times))
        if name == WARM:
            again = side.completed(f"{run}-{name}-again", fitting(found.many, size.seconds / 2), size.connections)
            count, times = fitting(again, size.seconds), fewer(size.lone, found.lone_ms)
        return found

    return turn


def fitting(probe: Completed, seconds: float) -> int:
    """How many a half of a round takes, when they go as they went in the probe."""
    return max(16, min(20_000, round(probe.per_s * seconds)))


def fewer(times: int, probe_ms: list[float]) -> int:
    """As many lone ones as asked, or what fits into ALONE_S, but never less than three."""
    return max(3, min(times, int(ALONE_S * 1000 / statistics.median(probe_ms))))


def decided(
    size: Size, ours: Callable[[int], list[float]], resume: Callable[[int], list[float]] | None
) -> Rounds[list[float]]:
    """Ours: decision to the call at the business system. Theirs: decision to the step after it."""
    turns: dict[str, Callable[[str], list[float]]] = {"ours": lambda name: ours(3 if name == WARM else size.approvals)}
    if resume:
        turns["peer"] = lambda name: resume(3 if name == WARM else size.approvals)
    return interleave(size.rounds, turns)


def streamed(size: Size, ours: Product) -> Rounds[streams.Delays]:
    """How long facts are on their way to streams; the warm round is a short one."""

    def turn(name: str) -> streams.Delays:
        seconds, many = (1.0, 10) if name == WARM else (size.stream_seconds, size.streams)
        return streams.delays(ours.working, many, size.tenant_wide, size.facts_per_s, seconds)

    return interleave(1, {"ours": turn})


def pair(rounds: Rounds[Any], one: str, other: str, figure: Callable[[Any], float]) -> dict[str, Any] | None:
    """Ours, theirs, and ours ÷ theirs of the same round; None when one of them has nothing."""
    if not rounds.have(one, other):
        return None
    ours, theirs = rounds.of(one, figure), rounds.of(other, figure)
    return {"ours": spread(ours), "theirs": spread(theirs), "ratio": ratios(ours, theirs)}


def per_s(found: Any) -> float:
    return float(found.per_s)


def p50(times: list[float]) -> float:
    return percentile(times, 0.5)


def start(peer: Peer, place: Path, new_database: Callable[[str], str]) -> None:
    """Installed when it is not yet, and started. Raises Unavailable, having stopped what did start."""
    say(f"{peer.name} ({peer.version}): installing and starting.")
    try:
        peer.install()
        peer.start(place / peer.name, new_database)
    except BaseException:
        peer.stop()
        raise
