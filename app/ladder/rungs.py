"""The rollout ladder as data: ladder.toml, read once and held against itself."""

import tomllib
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

AUTONOMY = ("nothing", "dry_run", "assisted", "autonomous")  # from the least; a mission's mode is one of the last three
ENVIRONMENTS = ("staging", "production")  # those that have rungs
EVERY_TYPE = "*"


@dataclass(frozen=True)
class Rung:
    """One step of the rollout: in these environments missions of a type may go so far, once its gates pass.

    before: the rungs that have to be enabled first, each with the environments in which that counts.
    """

    name: str
    title: str
    environments: tuple[str, ...]
    mission_type: str
    autonomy: str
    at_most: str
    gates: tuple[str, ...]
    checks: tuple[str, ...]
    before: tuple[str, ...]

    def is_for(self, mission_type: str) -> bool:
        return self.mission_type in (EVERY_TYPE, mission_type)


@dataclass(frozen=True)
class ErrorBudget:
    """Spent when more than `share` of at least `least` missions of a type were failed by the service within the window."""

    window: timedelta
    share: float
    least: int
    reasons: tuple[str, ...]

    def spent(self, ended: int, failed: int) -> bool:
        return ended >= self.least and failed > self.share * ended


@dataclass(frozen=True)
class Ladder:
    """Everything ladder.toml says. admits and why: of environments, before any rung is enabled."""

    admits: dict[str, str]
    why: dict[str, str]
    rungs: tuple[Rung, ...]
    error_budget: ErrorBudget

    def find(self, name: str) -> Rung | None:
        return next((rung for rung in self.rungs if rung.name == name), None)

    def of(self, environment: str) -> list[Rung]:
        """The rungs of an environment, from the lowest."""
        return [rung for rung in self.rungs if environment in rung.environments]

    def wanted(self, environment: str, mission_type: str, mode: str) -> Rung | None:
        """The lowest rung that would let such a mission run; None when no rung ever does."""
        fitting = (rung for rung in self.of(environment) if rung.is_for(mission_type))
        return next((rung for rung in fitting if reaches(rung.at_most, mode)), None)


def reaches(autonomy: str, mode: str) -> bool:
    return AUTONOMY.index(autonomy) >= AUTONOMY.index(mode)


@lru_cache(maxsize=1)
def ladder() -> Ladder:
    return read(tomllib.loads((Path(__file__).parent / "ladder.toml").read_text()))


def read(said: dict[str, Any]) -> Ladder:
    """Raises AssertionError for a ladder that contradicts itself."""
    rungs: list[Rung] = []
    for one in said["rung"]:
        rung = Rung(
            one["name"],
            one["title"],
            tuple(one["environments"]),
            one["mission_type"],
            one["autonomy"],
            one["at_most"],
            tuple(one["gates"]),
            tuple(one.get("checks", ())),
            tuple(lower.name for lower in rungs),
        )
        assert reaches(rung.at_most, rung.autonomy), rung.name
        assert set(rung.environments) <= set(ENVIRONMENTS), rung.name
        assert bool(rung.gates) != bool(rung.checks), f"{rung.name}: gates, or checks"
        rungs.append(rung)
    assert len({rung.name for rung in rungs}) == len(rungs)
    budget = said["error_budget"]
    places = said["environments"]
    return Ladder(
        {name: place["admits"] for name, place in places.items()},
        {name: place["why"] for name, place in places.items()},
        tuple(rungs),
        ErrorBudget(timedelta(hours=budget["window_h"]), budget["share"], budget["least"], tuple(budget["reasons"])),
    )
