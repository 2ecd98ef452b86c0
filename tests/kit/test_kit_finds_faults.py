"""The kit against a correct colony, which passes, and against colonies that are wrong in one thing each, which is found."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from colony_client.signing import parse_keys
from colony_kit.door import Door
from colony_kit.of_colony import REQUIREMENTS, run
from colony_kit.of_colony.play import Pace
from colony_kit.report import Report
from tests.kit.small_colony import SmallColony

KEYS = parse_keys("kit:key-of-the-conformance-tests,next:key-that-is-rotated-in", "TEST")
PATIENT = Pace(patience=30, answer=20, quiet=0.3, underway=0.5, slow=0.5, away=0.4, lease=5, time_budget=0.5, late=10)
QUICK = Pace(patience=3, answer=5, quiet=0.3, underway=0.3, slow=0.4, away=0.3, lease=1, time_budget=0.4, late=0.8)

# What is wrong with the colony, and the requirements that find it: these fail, and no other.
FAULTS: dict[str, set[str]] = {
    "wrong health": {"C-01"},
    "health says another contract version": {"C-02"},
    "ready answers 503 when ready": {"C-03"},
    "takes unsigned requests": {"C-05"},
    "signs without the body": {"C-06"},
    "ignores expiry": {"C-07"},
    "accepts replays": {"C-08"},
    "takes any audience": {"C-09"},
    "does not verify signatures": {"C-05", "C-06", "C-07", "C-08", "C-09"},
    "breaks on malformed JSON": {"C-10"},
    "ignores unknown fields": {"C-11"},
    "does not name fields": {"C-11", "C-12", "C-24"},
    "dies on a large body": {"C-13"},
    "unknown missions are fine": {"C-15"},
    "answers HTML": {"C-16"},
    "takes no batch": {"C-18"},
    "refuses all when one is refused": {"C-18"},
    "answers before storing the duplicate": {"C-19"},
    "works on duplicates again": {"C-19"},
    "takes lower attempts": {"C-20"},
    "accepts any callback origin": {"C-21"},
    "status lies": {"C-25"},
    "last_seq_sent is never counted": {"C-25"},
    "ignores cancel": {"C-26"},
    "cancels what has ended": {"C-27"},
    "busy without a time": {"C-28"},
    "signs callbacks with another key": {"C-29"},
    "reuses nonces": {"C-30"},
    "uses the token of another mission": {"C-31"},
    "keeps using the first token": {"C-32"},
    "invents fields": {"C-33"},
    "skips a seq": {"C-34"},
    "sends after complete": {"C-35"},
    "artifacts name another mission": {"C-36"},
    "cites what it was never shown": {"C-37"},
    "quotes wrongly": {"C-37"},
    "completes without a result": {"C-38"},
    "proposes on an old version": {"C-39"},
    "sends no heartbeat": {"C-40"},
    "gives up on a slow receiver": {"C-41"},
    "loses events when the receiver is down": {"C-42"},
    "ignores expected_seq": {"C-43"},
    "hammers on 429": {"C-44"},
    "ignores stop": {"C-45"},
    "ignores superseded": {"C-46"},
    "refuses unknown members in answers": {"C-47"},
    "follows redirects": {"C-48"},
    "hammers on denied tools": {"C-49"},
    "ignores the time budget": {"C-50"},
    "ignores the token budget": {"C-51"},
}


@asynccontextmanager
async def serving(*faults: str) -> AsyncIterator[str]:
    colony = SmallColony(KEYS, *faults)
    door = Door(colony.app, "127.0.0.1", 0)
    await door.open()
    try:
        yield door.url
    finally:
        await colony.close()
        await door.shut()


async def examined(*faults: str, only: Iterable[str] = (), pace: Pace = PATIENT) -> Report:
    async with serving(*faults) as url:
        return await run(url, KEYS, pace=pace, only=only)


async def test_the_correct_colony_passes() -> None:
    report = await examined()
    assert {one.id: one.evidence for one in report.results if one.outcome == "fail"} == {}
    assert {one.id for one in report.results if one.outcome == "not_applicable"} == {"C-23", "C-52"}
    assert [one.id for one in report.results] == [one.id for one in REQUIREMENTS]


AT_ONCE = 8  # runs side by side: most of a run is waiting


@pytest.fixture(scope="module")
def found() -> dict[str, Report]:
    """For every fault a run over the requirements that find it."""

    async def every() -> dict[str, Report]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(fault: str) -> tuple[str, Report]:
            async with places:
                return fault, await examined(fault, only=FAULTS[fault], pace=QUICK)

        return dict(await asyncio.gather(*(one(fault) for fault in FAULTS)))

    return asyncio.run(every())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_what_it_breaks(found: dict[str, Report], fault: str) -> None:
    report = found[fault]
    assert report.failed() == sorted(FAULTS[fault]) and not report.passed
    print([one.evidence for one in report.results])
