"""The kit that plays a colony: the root passes, and a root that is wrong in one thing is found by what it breaks."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.embedded import free_port
from colony_kit.environment import Misuse
from colony_kit.of_root import REQUIREMENTS, run
from colony_kit.of_root.play import Pace
from colony_kit.report import Report
from tests.conftest import DEMO, Cluster, fresh, numbers
from tests.kit import wrong_roots as wrong
from tests.kit.wrong_roots import KEYS, Lane, Switch, one_root
from tests.world import World

together = pytest.mark.xdist_group("wrong-roots")  # one worker asks them all
COMMAND = [sys.executable, "-m", "app.cli.main"]


@pytest.mark.long
@pytest.mark.xdist_group("instance")  # a whole instance, one at a time
def test_the_root_passes(tmp_path: Path) -> None:
    """`up` with the kit in the place of the colony, then the kit with what `up` says in kit_env."""
    colony = f"http://127.0.0.1:{free_port()}"
    words = ["up", "--json", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"), "--colony", colony]
    environment = os.environ | {"MISSION_LEASE_MS": "1500", "COLONY_TIMEOUT_MS": "3000"}
    with (tmp_path / "up.err").open("w") as err:
        up = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
    try:
        assert up.stdout is not None
        told = json.loads(up.stdout.readline())
        assert (
            told["colony_url"] == told["kit_env"]["COLONY_SERVICE_BASE_URL"] == colony and "colony" not in told["pids"]
        )
        kit = [*COMMAND, "root-kit", "--json", "--junit", str(tmp_path / "kit.xml")]
        done = subprocess.run(
            kit, env=os.environ | told["kit_env"], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(40)
    assert done.stderr == "", done.stderr
    document = json.loads(done.stdout)
    assert {one["id"]: one["evidence"] for one in document["requirements"] if one["result"] != "pass"} == {}
    assert [one["id"] for one in document["requirements"]] == [one.id for one in REQUIREMENTS]
    assert done.returncode == 0 and (tmp_path / "kit.xml").exists()
    for key in (told["kit_env"]["MISSION_ROOT_API_KEY"], told["kit_env"]["COLONY_SERVICE_API_KEY"].partition(":")[2]):
        assert key not in done.stdout


# --- roots that are wrong

# What is wrong with the root: every requirement that fails with it, and words of its evidence.
WRONG: dict[type[Lane], dict[str, str]] = {
    wrong.GivesMoreThanAsked: {"R-01": "more than the envelope's"},
    wrong.GivesEverybodyOneToken: {"R-01": "with the token of the dispatch); came back: 401"},
    wrong.BeginsWithTheSecondAttempt: {"R-01": "came as attempt 2"},
    wrong.InventsMembers: {"R-02": "a dispatch does not fit the contract: /mood"},
    wrong.WritesNumbersAsText: {"R-02": "a dispatch does not fit the contract: /missions/0/attempt"},
    wrong.CancelsWithoutAReason: {"R-02": "a cancel does not fit the contract: /reason"},
    wrong.SignsWithAnotherKey: {"R-03": "the key id is not configured here"},
    wrong.UsesOneNonce: {"R-04": "a nonce that was used before"},
    wrong.NamesNoVersion: {"R-05": "came with Colony-Contract-Version: nothing"},
    wrong.OffersWhatIsTaken: {"R-06": "a mission that was accepted was dispatched"},
    wrong.ForgetsWhatIsSaidOfTime: {"R-07": "it was told to wait", "R-11": "it was told to wait"},
    wrong.SaysNotThatItWaits: {"R-07": "expected: accepted, with a degraded reason", "R-13": "expected: accepted, with a degraded reason"},
    wrong.HearsNoRefusal: {"R-08": "expected: failed"},
    wrong.OffersWhatWasRefused: {"R-08": "was dispatched 2 times"},
    wrong.KnowsEveryMember: {"R-09": "expected: dispatched"},
    wrong.TakesALostAnswerForYes: dict.fromkeys(("R-10", "R-12"), "had been offered 1 times; expected: 2"),
    wrong.CountsWhatWasLost: {"R-10": "it was offered as attempt 1, 2"},
    wrong.FollowsRedirects: {"R-12": "repeated at the address that Location named"},
    wrong.GivesUpWhenNobodyIsThere: {"R-13": '"state": "failed"'},
    wrong.CountsOneTooFew: {"R-14": "answered with accepted_seq 1", "R-17": "answered accepted_seq 1, then 2", "R-37": "accepted_seq 0"},
    wrong.SendsUselessTokens: {"R-15": "came back: 401"},
    wrong.SaysNotWhereAGapBegins: {"R-16": "expected: expected_seq 2"},
    wrong.TakesAgainWhatItHas: {"R-17": "was applied 3 times"},
    wrong.RefusesWhatItHas: {"R-17": "(the same events again); came back: 409"},
    wrong.BelievesEverySignature: {"R-18": "(unsigned); came back: 200", "R-19": "the same request again"},
    wrong.BelievesToolCalls: {"R-18": "workspace.outline/calls (unsigned); came back: 200"},
    wrong.ForgetsNonces: {"R-19": "the same request again"},
    wrong.BelievesEveryToken: {"R-20": "with the token of another mission"},
    wrong.AsksNoTokenOfTools: {"R-20": "workspace.outline/calls (without a token); came back: 200"},
    wrong.KeepsNothingRefused: {"R-21": "expected: payload.quarantined"},
    wrong.NamesNoFields: {"R-21": "names kit_unknown", "R-27": "names contract_version", "R-29": "names query"},
    wrong.TakesUnknownMembers: {"R-21": "with a member kit_unknown); came back: 200"},
    wrong.TakesHalfOfABatch: {"R-22": "what was refused was applied: the root holds event 1"},
    wrong.BreaksOnWhatItCannotRead: {"R-22": "(not JSON); came back: 500"},
    wrong.TakesAnyNumber: {"R-23": "(501 events); came back: 200"},
    wrong.FallsOverALargeBody: {"R-23": "came back: 503"},
    wrong.LetsAColonySpeakAsTheRoot: {"R-24": "an artifact by the root"},
    wrong.GivesOneLease: {"R-25": "two heartbeats"},
    wrong.ForgetsEvents: {"R-26": '"last_seq":0'},
    wrong.SaysAnotherState: {"R-26": '"state":"completed"'},
    wrong.SpeaksEveryVersion: {"R-27": "(contract_version 2.0); came back: 200"},
    wrong.AnswersToolsWithNothing: {"R-28": "expected: documents"},
    wrong.AsksNoPolicy: {"R-29": "expected: 403"},
    wrong.NeverAsksToStop: {"R-30": "did not ask to stop", "R-33": "without stop"},
    wrong.HearsNoSignal: {"R-31": "(an event after complete); came back: 200", "R-32": "expected: failed"},
    wrong.KeepsAReasonToItself: {"R-32": "expected: the colony's words"},
    wrong.TellsNobodyOfACancel: {"R-33": "the colony had not been told"},
    wrong.GivesUpNoAttempt: {"R-34": "no second attempt"},
    wrong.AsksNobodyAboutSilence: {"R-34": "nobody had asked for the status", "R-35": "nobody had asked for the status"},
    wrong.BelievesNoColonyThatItRuns: {"R-35": "was dispatched again"},
    wrong.AnswersHtml: {"R-36": "as text/html"},
    wrong.GivesProblemsNoTitle: {"R-36": "with status, code and title"},
    wrong.SpeaksOneVersion: {"R-37": "(contract_version 1.1); came back: 422"},
    wrong.RefusesManyForOne: {"R-38": "three of them wrong); came back: 401"},
    wrong.TellsManyTheSame: {"R-38": "expected: accepted_seq 1, 401, 409, 422, accepted_seq 1"},
    wrong.TakesManyAgain: {"R-39": "(the same request again); came back: 200"},
    wrong.TakesAMissionTwice: {"R-39": "(the same mission twice); came back: 200"},
}  # fmt: skip
# What else fails, or may, where everything is asked: it stands on what is broken.
EVERYTHING = {one.id for one in REQUIREMENTS}
FOLLOWS: dict[type[Lane], set[str]] = {
    wrong.GivesEverybodyOneToken: EVERYTHING,  # no other mission goes on
    wrong.BeginsWithTheSecondAttempt: EVERYTHING,
    wrong.FallsOverALargeBody: EVERYTHING,  # whatever comes after it
    wrong.KnowsEveryMember: EVERYTHING,  # whatever is answered in one body with such a member
    wrong.OffersWhatIsTaken: {"R-07", "R-08", "R-35"},
    wrong.CountsWhatWasLost: {"R-11", "R-12", "R-13"},
    wrong.SendsUselessTokens: {"R-16", "R-17", "R-25", "R-30", "R-31", "R-33"},
    wrong.BelievesEveryToken: {"R-34"},
    wrong.BelievesEverySignature: {"R-39"},
    wrong.ForgetsNonces: {"R-39"},
    wrong.KeepsNothingRefused: {"R-38"},
    wrong.TakesUnknownMembers: {"R-38"},
    wrong.BreaksOnWhatItCannotRead: {"R-21", "R-27", "R-29", "R-39"},
    wrong.ForgetsEvents: {"R-16", "R-38"},
    wrong.RefusesManyForOne: {"R-39"},
    wrong.HearsNoSignal: {"R-09", "R-34"},
    wrong.AnswersHtml: {"R-16", "R-29", "R-31", "R-33", "R-34"},
}
QUICK = Pace(patience=30, answer=20, away=0.3)
# Asked of these instead of what is meant to fail; where nothing can be read R-02 says so, whatever is asked.
ASKED = {wrong.InventsMembers: ["R-01", "R-02"], wrong.WritesNumbersAsText: ["R-01"]}
WHOLE = bool(os.environ.get("ROOT_KIT_WHOLE"))  # every requirement is asked of every wrong root: `make wrong-roots`
AT_ONCE = 2 if WHOLE else 8  # kits side by side: most of a run is waiting


async def examined(switch: Switch, world: World, kind: type[Lane], only: Iterable[str]) -> Report:
    lane = kind(world)
    switch.lanes.append(lane)
    async with lane.open() as url:
        patience = QUICK.patience if WHOLE else kind.patience
        pace = replace(QUICK, patience=patience, first=kind.first, quiet=kind.quiet, retry_after=kind.retry_after)
        key = world.people["submitter"].key
        return await run(url, key, KEYS, listen=("127.0.0.1", lane.port), only=only, pace=pace)


@pytest.fixture(scope="module")
def found(cluster: Cluster, demo: dict[str, str]) -> dict[type[Lane], Report]:
    """What the kit says of the root as it is, and of every wrong one: of the requirements that are meant to fail, or of all."""

    async def every() -> dict[type[Lane], Report]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(kind: type[Lane]) -> tuple[type[Lane], Report]:
            async with places:
                only = () if WHOLE else ASKED.get(kind, WRONG.get(kind, ()))
                return kind, await examined(switch, world, kind, only)

        async with own_world(cluster, demo) as world, one_root(world) as switch:
            longest_first = sorted((Lane, *WRONG), key=lambda kind: (kind is not Lane, kind.patience))
            return dict(await asyncio.gather(*(one(kind) for kind in longest_first)))

    return asyncio.run(every())


@asynccontextmanager
async def own_world(cluster: Cluster, demo: dict[str, str]) -> AsyncIterator[World]:
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_{next(numbers)}") as name:
        world = World(
            lambda role: cluster.url(role, name),
            mission_lease_ms=2000,
            database_pool_size=20,
            database_pool_wait_ms=10_000,
        )
        await world.open(demo)
        try:
            yield world
        finally:
            await world.close()


@pytest.mark.long
@together
@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_root_that_is_wrong_is_found(found: dict[type[Lane], Report], kind: type[Lane]) -> None:
    meant, failed = WRONG[kind], {one.id: one.evidence for one in found[kind].results if one.outcome == "fail"}
    assert meant.keys() <= failed.keys() <= meant.keys() | FOLLOWS.get(kind, set()), failed
    for id, words in meant.items():
        assert words in failed[id]


@pytest.mark.long
@together
def test_the_root_behind_a_lane_passes(found: dict[type[Lane], Report]) -> None:
    """What is found of the wrong ones is not of the lanes."""
    assert {one.id: one.evidence for one in found[Lane].results if one.outcome != "pass"} == {}


@pytest.mark.long
@together
def test_a_member_too_many_is_read_and_what_cannot_be_read_is_asked_nothing_else(
    found: dict[type[Lane], Report],
) -> None:
    for kind, outcome in {wrong.InventsMembers: "pass", wrong.WritesNumbersAsText: "not_applicable"}.items():
        said = {one.id: one.outcome for one in found[kind].results}
        assert (said["R-01"], said["R-02"]) == (outcome, "fail")


async def test_a_root_that_cannot_be_asked_is_said_in_one_sentence(world: World) -> None:
    """One that does not know the key, one that dispatches elsewhere, and one that is not there."""
    here, lane = free_port(), Lane(world)  # where nobody listens
    key = world.people["submitter"].key
    hurried = Pace(patience=1, answer=5)
    async with one_root(world) as switch, lane.open() as url:
        switch.lanes.append(lane)
        with pytest.raises(Misuse, match="does not take the key of MISSION_ROOT_API_KEY"):
            await run(url, "mr_00000000_nobody", KEYS, listen=("127.0.0.1", here), pace=hurried)
        with pytest.raises(
            Misuse, match=f"COLONY_SERVICE_BASE_URL lead to http://127.0.0.1:{here}, with the same key"
        ) as told:
            await run(url, key, KEYS, listen=("127.0.0.1", here), pace=hurried)
        assert "no dispatch came for 1 s" in str(told.value)
        shown = (await world.submitter.get("/v1/missions")).json()["items"]
        assert [one["state"] for one in shown] == ["cancelled"], "the kit leaves a mission behind"
    with pytest.raises(Misuse, match=f"The root at {lane.colony_url} cannot be reached"):
        await run(lane.colony_url, key, KEYS, listen=("127.0.0.1", here), pace=hurried)
