"""Requirements as data, the run over them, and what is reported of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from colony_client.contract import CONTRACT_VERSION
from colony_kit.environment import Misuse
from colony_kit.evidence import clean

Outcome = Literal["pass", "fail", "not_applicable"]
When = Literal["together", "alone", "after"]
Play = TypeVar("Play")


class Failed(Exception):
    """The requirement is not met; the message is the evidence."""


class NotApplicable(Exception):
    """The requirement cannot be asked here; the message says why."""


@dataclass(frozen=True)
class Requirement(Generic[Play]):
    """One thing that has to hold. `check` answers what was seen, or raises Failed or NotApplicable.

    when: beside others, with nothing else going on, or over what all the others have left behind.
    """

    id: str
    sentence: str
    check: Callable[[Play], Awaitable[str]]
    when: When = "together"


@dataclass(frozen=True)
class Result:
    id: str
    sentence: str
    outcome: Outcome
    evidence: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a run has found. kit is `colony` or `root`, target the address that was asked."""

    kit: str
    target: str
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not any(one.outcome == "fail" for one in self.results)

    def failed(self) -> list[str]:
        return [one.id for one in self.results if one.outcome == "fail"]

    def counts(self) -> dict[str, int]:
        counted = Counter(one.outcome for one in self.results)
        return {outcome: counted[outcome] for outcome in ("pass", "fail", "not_applicable")}

    def document(self) -> dict[str, Any]:
        """The object that --json prints; members are added over time, never renamed."""
        return {
            "kit": self.kit,
            "target": self.target,
            "contract_version": CONTRACT_VERSION,
            "passed": self.passed,
            "counts": self.counts(),
            "seconds": round(self.seconds, 3),
            "requirements": [
                {
                    "id": one.id,
                    "sentence": one.sentence,
                    "result": one.outcome,
                    "evidence": one.evidence,
                    "seconds": round(one.seconds, 3),
                }
                for one in self.results
            ],
        }


def chosen(requirements: Sequence[Requirement[Play]], only: Iterable[str]) -> list[Requirement[Play]]:
    """All of them, or those named. Raises Misuse for an id that does not exist."""
    wanted = {one.strip().upper() for one in only}
    known = {one.id for one in requirements}
    if unknown := sorted(wanted - known):
        first, last = requirements[0].id, requirements[-1].id
        raise Misuse(f"There is no requirement {unknown[0]}; they are {first} to {last}.")
    return [one for one in requirements if not wanted or one.id in wanted]


async def judge(
    requirements: Sequence[Requirement[Play]],
    play: Play,
    longest_s: float,
    heard: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Runs each requirement in its time and answers the results in the order given; no check takes longer than `longest_s`."""
    found: dict[str, Result] = {}

    async def one(requirement: Requirement[Play]) -> None:
        found[requirement.id] = result = await _ask(requirement, play, longest_s)
        heard(result)

    at_once = [one(requirement) for requirement in requirements if requirement.when == "together"]
    await asyncio.gather(*at_once)
    for when in ("alone", "after"):
        for requirement in requirements:
            if requirement.when == when:
                await one(requirement)
    return [found[requirement.id] for requirement in requirements]


async def _ask(requirement: Requirement[Play], play: Play, longest_s: float) -> Result:
    began = time.perf_counter()
    outcome: Outcome = "pass"
    try:
        async with asyncio.timeout(longest_s):
            evidence = await requirement.check(play)
    except Failed as failed:
        outcome, evidence = "fail", str(failed)
    except NotApplicable as reason:
        outcome, evidence = "not_applicable", str(reason)
    except TimeoutError:
        outcome, evidence = "fail", f"it could not be found out within {longest_s:g} s"
    except Exception as error:  # whatever the other side does, the others are still asked
        outcome, evidence = "fail", f"it could not be found out: {type(error).__name__}: {error}"
    return Result(requirement.id, requirement.sentence, outcome, clean(evidence), time.perf_counter() - began)
