"""The kit against a correct colony, which passes, and against colonies that are wrong in one thing each, which is found."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from colony_client.signing import parse_keys
from colony_kit.door import Door
from colony_kit.of_colony import REQUIREMENTS, run
from colony_kit.of_colony.play import Pace
from colony_kit.report import Report
from tests.kit.small_colony import SmallColony

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("wrong-colonies")]  # one worker asks them all
KEYS = parse_keys("kit:key-of-the-conformance-tests,next:key-that-is-rotated-in", "TEST")
PATIENT = Pace(patience=30, answer=20, quiet=0.3, underway=0.5, slow=0.5, away=0.4, lease=5, time_budget=0.5, late=10)
QUICK = Pace(patience=3, answer=5, quiet=0.3, underway=0.3, slow=0.4, away=0.3, lease=1, time_budget=0.4, late=0.8)

# What is wrong with the colony: the requirements that find it, and words of their evidence.
FAULTS: dict[str, dict[str, str]] = {
    "wrong health": {"C-01": "that is no Health"},
    "health says another contract version": {"C-02": '"contract_version":"2.0"'},
    "ready answers 503 when ready": {"C-03": "503 when it is not"},
    "takes only the first key": {"C-04": "(signed with key next); came back: 401"},
    "takes unsigned requests": {"C-05": "(unsigned); came back: 200"},
    "signs without the body": {"C-06": "signed with another secret"},
    "ignores expiry": {"C-07": "signed 6 minutes ago"},
    "accepts replays": {"C-08": "the same request again"},
    "takes any audience": {"C-09": "signed for the audience root"},
    "does not verify signatures": dict.fromkeys(("C-05", "C-06", "C-07", "C-08", "C-09"), "expected: 401"),
    "breaks on malformed JSON": {"C-10": "(not JSON); came back: 500"},
    "ignores unknown fields": {"C-11": "with a member kit_unknown"},
    "does not name fields": {"C-11": "names the field kit_unknown", "C-12": "names the field attempt", "C-24": "names contract_version"},
    "dies on a large body": {"C-13": "still alive"},
    "takes any number": {"C-14": "a dispatch of 65"},
    "unknown missions are fine": {"C-15": "came back: 409"},
    "answers HTML": {"C-16": "as text/html"},
    "loses missions": {"C-17": "had not ended after 3 s"},
    "takes no batch": {"C-18": "one answer for each of the 5 attempts"},
    "refuses all when one is refused": {"C-18": "no mission refused because another one"},
    "answers before storing the duplicate": {"C-19": "worked on more than once"},
    "works on duplicates again": {"C-19": "worked on more than once"},
    "takes lower attempts": {"C-20": "attempt 1 after attempt 2 was taken"},
    "accepts any callback origin": {"C-21": "callback_base_url http://198.51.100.7:8081"},
    "takes only an old version": {"C-22": "came back: 422"},
    "takes only the newest version": {"C-23": "came back: 422"},
    "status lies": {"C-25": "said state completed"},
    "last_seq_sent is never counted": {"C-25": "last_seq_sent 0"},
    "ignores cancel": {"C-26": "expected: cancelled"},
    "cancels what has ended": {"C-27": "was cancelled after a cancel"},
    "busy without a time": {"C-28": "say no retry_after_s"},
    "ready lies": {"C-28": "expected: 503, ready false"},
    "signs callbacks with another key": {"C-29": "the key id is not configured here"},
    "reuses nonces": {"C-30": "a nonce that was used before"},
    "uses the token of another mission": {"C-31": "came with a token of mission"},
    "keeps using the first token": {"C-32": "2 tokens old"},
    "invents fields": {"C-33": "/events/0/mood"},
    "skips a seq": {"C-34": "event 4 came in one batch after event 2"},
    "sends after complete": {"C-35": "(log) came after the signal"},
    "artifacts name another mission": {"C-36": "an artifact of another mission"},
    "cites what it was never shown": {"C-37": "no tool has shown this mission"},
    "quotes wrongly": {"C-37": "these bytes are not its quote"},
    "completes without a result": {"C-38": "without an aggregation_packet"},
    "proposes on an old version": {"C-39": "expects version 0"},
    "sends no heartbeat": {"C-40": "no batch of events came"},
    "gives up on a slow receiver": {"C-41": "had not ended"},
    "loses events when the receiver is down": {"C-42": "s without a root"},
    "ignores expected_seq": {"C-43": "after 409 with expected_seq"},
    "hammers on 429": {"C-44": "Retry-After: 1 the next batch came"},
    "ignores stop": {"C-45": "after the root had asked to stop"},
    "ignores superseded": {"C-46": "after the root had asked to stop"},
    "refuses unknown members in answers": {"C-47": "had not ended"},
    "follows redirects": {"C-48": "repeated at the address that Location named"},
    "hammers on denied tools": {"C-49": "the same call of workspace.search"},
    "ignores the time budget": {"C-50": "nothing had ended the attempt"},
    "ignores the token budget": {"C-51": "500 tokens were reported of a budget of 10"},
    "believes to run what it has lost": {"C-52": "had not ended"},
}  # fmt: skip

CALL = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], method='POST'))"


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
        restart = [sys.executable, "-c", CALL, f"{url}/restart"]
        return await run(url, KEYS, pace=pace, only=only, restart=restart)


async def test_the_correct_colony_passes() -> None:
    report = await examined()
    assert {one.id: one.evidence for one in report.results if one.outcome == "fail"} == {}
    assert {one.id for one in report.results if one.outcome == "not_applicable"} == set()
    assert [one.id for one in report.results] == [one.id for one in REQUIREMENTS]


STUCK = (
    "invents fields",
    "skips a seq",
    "ignores expected_seq",
    "hammers on denied tools",
    "loses events when the receiver is down",
)  # and never get to an end
AT_ONCE = 8  # runs side by side: most of a run is waiting


@pytest.fixture(scope="module")
def found() -> dict[str, Report]:
    """For every fault a run over the requirements that find it. Patience is short where nothing else than its end is waited for."""

    def pace(fault: str) -> Pace:
        stuck = fault in STUCK or any("had not ended" in words for words in FAULTS[fault].values())
        return QUICK if stuck else replace(QUICK, patience=15)

    async def every() -> dict[str, Report]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(fault: str) -> tuple[str, Report]:
            async with places:
                return fault, await examined(fault, only=FAULTS[fault], pace=pace(fault))

        return dict(await asyncio.gather(*(one(fault) for fault in FAULTS)))

    return asyncio.run(every())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_what_it_breaks(found: dict[str, Report], fault: str) -> None:
    report, meant = found[fault], FAULTS[fault]
    assert report.failed() == sorted(meant) and not report.passed
    for one in report.results:
        assert meant[one.id] in one.evidence and len(one.evidence) <= 1_500


async def test_a_colony_that_takes_one_of_two_keys_is_asked_the_rest() -> None:
    report = await examined("takes only the first key", only=("C-04", "C-15"))
    assert [one.outcome for one in report.results] == ["fail", "pass"]
