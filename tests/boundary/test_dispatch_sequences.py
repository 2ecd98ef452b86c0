"""Whatever becomes of the calls that offer missions: one current attempt at most, no other writes, and nothing is lost.

Two workers stand on one database before a colony whose answers are lost, late or refuse, while leases run out and workers die.
DISPATCH_SEQUENCES sets how many sequences are tried (make callback-sequences: 1,000), DISPATCH_SEED which.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from app import work
from app.worker import Worker
from colony_client.contract import Dispatch, DispatchAnswer, MissionStatus
from colony_client.errors import Busy, Refused, Superseded, TimedOut, Unreachable
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, begin, due, event, stuck

SEQUENCES = int(os.environ.get("DISPATCH_SEQUENCES", "30"))
SEED = int(os.environ.get("DISPATCH_SEED", str(random.SystemRandom().randrange(2**32))))
MISSIONS = 3
MANNERS = ("answered", "answer lost", "unheard", "busy for one", "busy", "late", "worker dies")


class Colony:
    """Takes what it is offered, and remembers it; what becomes of its answer is up to the manner."""

    def __init__(self) -> None:
        self.manner = "answered"
        self.offered: list[Dispatch] = []  # what it has heard of and taken
        self.parked: list[asyncio.Event] = []  # answers under way
        self.answered = asyncio.Event()

    async def dispatch(self, missions: Sequence[Dispatch]) -> list[DispatchAnswer]:
        manner, self.manner = self.manner, "answered"
        if manner == "unheard":
            raise Unreachable("nobody is there", before_body=True)
        if manner == "busy":
            raise Busy(429, {"code": "busy"}, b"", None)
        full = missions[:1] if manner == "busy for one" else []
        self.offered += [one for one in missions if one not in full]
        answers = [
            DispatchAnswer(
                mission_id=one.mission_id, attempt=one.attempt, outcome="busy" if one in full else "accepted"
            )
            for one in missions
        ]
        self.answered.set()
        if manner == "answer lost":
            raise TimedOut("no complete answer")
        if manner in ("late", "worker dies"):
            self.parked.append(asyncio.Event())
            await self.parked[-1].wait()
        return answers

    async def status(self, mission: UUID) -> MissionStatus:
        held = [one.attempt for one in self.offered if one.mission_id == mission]
        if not held:
            raise Refused(404, {"code": "mission_unknown"}, b"", None)
        return MissionStatus(mission_id=mission, attempt=max(held), state="running")

    async def cancel(self, mission: UUID, reason: str) -> MissionStatus:
        raise Refused(404, {"code": "mission_unknown"}, b"", None)

    def forget(self, mission: UUID) -> None:
        """It was started anew, and knows nothing of what it has been told."""
        self.offered = [one for one in self.offered if one.mission_id != mission]


@dataclass
class Play:
    """One sequence: its missions, what the colony has sent of each attempt, and what the root must have counted."""

    world: World
    workers: list[Worker]
    colony: Colony
    lives: list[Life]
    heard: list[Dispatch] = field(default_factory=list)  # all that ever reached the colony, also what it has forgotten
    sent: Counter[tuple[UUID, int]] = field(default_factory=Counter)
    used: Counter[UUID] = field(default_factory=Counter)
    calls: list[asyncio.Task[None]] = field(default_factory=list)

    async def offer(self, by: int, manner: str) -> None:
        worker = self.workers[by]
        items, _ = await work.turn(worker.database, ["dispatch"], 50, worker.lease)
        if not items:
            return
        self.colony.manner = manner
        self.colony.answered.clear()
        call = asyncio.create_task(worker.dispatch(items))
        if manner in ("late", "worker dies"):
            waiting = asyncio.create_task(self.colony.answered.wait())
            await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if manner == "worker dies":
                call.cancel()
            else:
                self.calls.append(call)
        await asyncio.gather(*([] if call in self.calls else [call]), return_exceptions=True)
        self.note()

    def note(self) -> None:
        self.heard += [one for one in self.colony.offered if one not in self.heard]

    async def arrive(self) -> None:
        """What was late arrives."""
        for answer in self.colony.parked:
            answer.set()
        self.colony.parked.clear()
        await asyncio.gather(*self.calls)
        self.calls.clear()

    async def lapse(self) -> None:
        """The leases on the work run out, however busy their holders are, and what was put off is due."""
        await (await inspector(self.world)).execute(
            "UPDATE work SET next_at = clock_timestamp(), lease_until = NULL WHERE kind = 'dispatch' AND subject = ANY($1)",
            [life.id for life in self.lives],
        )

    async def silent(self, number: int, forgets: bool) -> None:
        """An attempt's lease is over. The colony is asked, and either works on it or knows nothing of it."""
        life = self.lives[number]
        before = await life.row()
        if forgets:
            self.colony.forget(life.id)
        held = [one.attempt for one in self.colony.offered if one.mission_id == life.id]
        works = bool(held) and max(held) == before["attempt"]
        await life.past("lease_until")
        await due(self.world, "attempt_timer", life.id)
        await self.world.run_work("attempt_timer")
        after = await life.row()
        lost = before["state"] in ("dispatched", "running") and not works
        assert after["attempt"] == before["attempt"] + lost
        assert after["state"] == ("accepted" if lost else before["state"])

    async def speak(self, number: int, newest: bool, ends: bool) -> None:
        """An attempt says something; only the current one is heard."""
        life = self.lives[number]
        known = [one for one in self.heard if one.mission_id == life.id]
        if not known:
            return
        dispatch, row = known[-1 if newest else 0], await life.row()
        key = (life.id, dispatch.attempt)
        self.world.colony.root.hold(*key, dispatch.mission_token)  # type: ignore[union-attr]
        said: list[Any] = [event(self.sent[key] + 1, type="usage.reported", tokens_in=1, tokens_out=0, cost_usd=0)]
        if ends:
            said.append(event(self.sent[key] + 2, type="signal", signal="complete"))
        if row["attempt"] != dispatch.attempt or row["state"] not in ("accepted", "dispatched", "running"):
            with pytest.raises(Superseded):
                await self.world.colony.send(dispatch, *said)
            return
        receipt = await self.world.colony.send(dispatch, *said)
        self.sent[key] += len(said)
        self.used[life.id] += 1
        assert receipt.accepted_seq == self.sent[key] and receipt.stop == ends

    async def check(self) -> None:
        """What holds at every moment."""
        reached = {(one.mission_id, one.attempt) for one in self.heard}
        for life in self.lives:
            row = await life.row()
            moves = [body["attempt"] for type, body in await life.facts("mission.dispatched")]
            assert moves == sorted(set(moves)), "an attempt was taken twice, or an older one after a newer"
            if row["state"] in ("dispatched", "running"):
                assert (life.id, row["attempt"]) in reached, (
                    "the colony has never heard of the attempt it is said to have"
                )
            assert max([attempt for id, attempt in reached if id == life.id], default=0) <= row["attempt"]
            assert row["used_tokens"] == self.used[life.id]
        assert await stuck(self.world) == []

    async def heal(self) -> None:
        """Everybody is well again: what was begun comes to its end."""
        await self.arrive()
        for _ in range(4):
            await self.lapse()
            await self.offer(0, "answered")
            for number in range(len(self.lives)):
                if await self.lives[number].state() in ("dispatched", "running"):
                    await self.speak(number, newest=True, ends=True)
            await self.world.run_work("review")
        assert {await life.state() for life in self.lives} == {"completed"}
        await self.check()


Step = tuple[Any, ...]
which = st.integers(0, MISSIONS - 1)
steps = st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 1), st.sampled_from(MANNERS)),
    st.tuples(st.just("offer"), st.integers(0, 1), st.sampled_from(MANNERS)),
    st.tuples(st.just("lapse")),
    st.tuples(st.just("arrive")),
    st.tuples(st.just("silent"), which, st.booleans()),
    st.tuples(st.just("speak"), which, st.booleans(), st.booleans()),
)


@pytest.fixture
async def workers(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[list[Worker]]:
    other = Worker(world.worker.settings)
    for worker in (world.worker, other):
        worker.colony.max_attempts = 1000
        worker.colony.component.opens_after = 10**9
    yield [world.worker, other]
    await other.database.close()
    verdict = (await world.auditor.post("/v1/ledger/verify")).json()
    assert verdict["verified"], verdict
    if SEQUENCES > 30:
        with capsys.disabled():
            print(f"\n{SEQUENCES} sequences of dispatches; DISPATCH_SEED={SEED}")


@pytest.mark.long
@pytest.mark.anyio
@seed(SEED)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@example(  # an answer that comes when another worker has offered the same attempt, and the colony is at it already
    play=[("offer", 0, "late"), ("lapse",), ("offer", 1, "answered"), ("speak", 0, True, False), ("arrive",)]
)
@example(  # an answer that comes when its attempt is lost: it is not taken for the next one's
    play=[("offer", 0, "late"), ("lapse",), ("offer", 1, "answered"), ("silent", 0, True), ("arrive",), ("speak", 0, True, False),
          ("offer", 1, "busy for one"), ("speak", 0, False, True)]
)  # fmt: skip
@example(  # the worker dies with the answer in its hands, and the colony has ended before anybody asks again
    play=[
        ("offer", 0, "worker dies"),
        ("speak", 1, True, True),
        ("lapse",),
        ("offer", 1, "answer lost"),
        ("speak", 2, True, False),
    ]
)
@given(play=st.lists(steps, min_size=3, max_size=14))
async def test_whatever_becomes_of_the_answers_one_attempt_counts(
    world: World, workers: list[Worker], play: list[Step]
) -> None:
    colony = Colony()
    for worker in workers:
        worker.colony.client = colony  # type: ignore[assignment]
    this = Play(world, workers, colony, list(await asyncio.gather(*(begin(world) for _ in range(MISSIONS)))))
    try:
        for name, *arguments in play:
            await getattr(this, name)(*arguments)
            await this.check()
        await this.heal()
    except Exception as error:
        error.add_note(f"DISPATCH_SEED={SEED}, play={play}")
        raise
    finally:
        for call in this.calls:
            call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*this.calls, return_exceptions=True)
