"""Interleaves: one turn of each player, then the next round (A B A B), with the machine's own speed noted before each."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bench.arithmetic import sha256_per_s

Found = TypeVar("Found")


@dataclass
class Rounds(Generic[Found]):
    """What each player found, round by round. A player that failed has no entry any more, and a reason instead."""

    found: dict[str, list[Found]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    calibration: list[float] = field(default_factory=list)

    def of(self, player: str, figure: Callable[[Found], float]) -> list[float]:
        return [figure(one) for one in self.found[player]]

    def have(self, *players: str) -> bool:
        return all(self.found.get(player) for player in players)


WARM = "warm"


def interleave(number: int, players: Mapping[str, Callable[[str], Found]]) -> Rounds[Found]:
    """`number` rounds, after one called WARM that counts for nothing and may be shorter.

    Each turn is given the name of its round. Whoever raises drops out and is told; the rest go on.
    """
    rounds: Rounds[Found] = Rounds({player: [] for player in players})
    for name in (WARM, *(f"round{one}" for one in range(1, number + 1))):
        if name != WARM:
            rounds.calibration.append(sha256_per_s())
        for player, turn in players.items():
            if player in rounds.failed:
                continue
            try:
                found = turn(name)
                if name != WARM:
                    rounds.found[player].append(found)
            except Exception as error:
                say(f"  {player} dropped out: {error}")
                rounds.failed[player] = f"{type(error).__name__}: {error}"[:500]
                del rounds.found[player]
    return rounds


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
