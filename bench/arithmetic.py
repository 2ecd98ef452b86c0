"""What a run of rounds comes to: medians, spread, and ratios of things that were measured in the same round."""

import hashlib
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

SLOWEST_SHARE = 0.85  # a calibration below this share of the best one: something else was using the machine


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank). Raises ValueError when there are none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    rank = -(-len(ordered) * round(share * 10_000) // 10_000)  # rounded up, in whole numbers
    return ordered[max(0, rank - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the rounds."""
    return {"median": rounded(statistics.median(values)), "min": rounded(min(values)), "max": rounded(max(values))}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The spread of ours ÷ theirs, each pair out of one round: outside load that lasted longer than a round cancels out."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def rounded(value: float) -> float:
    """Four significant digits, which is more than any of these figures carries."""
    return float(f"{value:.4g}")


def sha256_per_s(seconds: float = 0.2) -> float:
    """SHA-256 of 4 KiB on one core: when this figure moves between rounds, something else was using the machine."""
    block, done, began = b"x" * 4096, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(200):
            hashlib.sha256(block).digest()
        done += 200
    return done / (time.perf_counter() - began)


def calibration(figures: Sequence[float]) -> dict[str, Any]:
    """The spread of `sha256_per_s` over a run, and whether the machine was quiet enough to believe it."""
    return {**spread(figures), "quiet": min(figures) >= SLOWEST_SHARE * max(figures)}
