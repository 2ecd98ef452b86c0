"""Whatever the network does to callbacks, a mission ends as if each event had come once and in order.

Two root processes stand on one database, many missions tell their stories at once, and each has a twin that tells the same
story in order. CALLBACK_SEQUENCES sets how many stories are told (make callback-sequences: 3,000), CALLBACK_SEED which.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from app.http.serving import opened
from app.main import Root, internal_app, public_app
from tests.boundary.deliveries import ENDS, FATES, MIDDLE, Delivery, Door, Teller, bodies
from tests.boundary.remains import remains
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import event, stuck

SEQUENCES = int(os.environ.get("CALLBACK_SEQUENCES", "300"))
SEED = int(os.environ.get("CALLBACK_SEED", str(random.SystemRandom().randrange(2**32))))
WAVE = 15  # stories that are told at one time
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Story:
    """One mission. lost: the events of an attempt that falls silent after `reached` of them, before the one that ends.

    look_after: after how many events a tool is called; None: never.
    """

    script: list[str]
    end: str
    deliveries: list[Delivery]
    look_after: int | None
    lost: list[str] | None
    reached: int
    early: list[Delivery]


deliveries = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 1), st.sampled_from(FATES), st.booleans()),
    max_size=6,
)
stories = st.builds(
    Story,
    script=st.lists(st.sampled_from(MIDDLE), min_size=1, max_size=7),
    end=st.sampled_from(sorted(ENDS)),
    deliveries=deliveries,
    look_after=st.none() | st.none() | st.integers(0, 7),
    lost=st.none() | st.none() | st.lists(st.sampled_from(MIDDLE), min_size=1, max_size=4),
    reached=st.integers(0, 4),
    early=deliveries,
)


class Stage:
    """Two doors to one database, and the missions that come through them."""

    def __init__(self, world: World, doors: list[Door]) -> None:
        self.world, self.doors, self.stories = world, doors, 0
        world.worker.colony.lease = HOUR
        for door in doors:
            door.root.callbacks.lease = HOUR

    async def taken(self, many: int) -> list[UUID]:
        """Missions that the colony has taken."""
        made = await asyncio.gather(*(self.world.create() for _ in range(many)))
        await self.world.run_work("dispatch", rounds=100)
        return [UUID(one["id"]) for one in made]

    def teller(self, mission: UUID, script: list[str], end: str) -> Teller:
        dispatch = next(one for one in reversed(self.world.colony.dispatched) if one.mission_id == mission)
        made = bodies(dispatch, script, end)
        return Teller(self.world, self.doors, dispatch, [event(n, **body) for n, body in enumerate(made, 1)])

    async def lose(self, missions: list[UUID]) -> None:
        """These attempts fall silent, the colony knows nothing of them, and the next ones begin."""
        connection = await inspector(self.world)
        past = "clock_timestamp() - interval '1 second'"
        await connection.execute(f"UPDATE mission SET lease_until = {past} WHERE id = ANY($1)", missions)
        await connection.execute(f"UPDATE work SET next_at = {past} WHERE subject = ANY($1)", missions)
        await self.world.run_work("attempt_timer", "dispatch", rounds=100)

    async def told(self, wave: list[Story]) -> None:
        """Tells every story twice, in disorder and in order, and compares what is left."""
        self.stories += len(wave)
        ids = await self.taken(2 * len(wave))
        disorderly, orderly = ids[: len(wave)], ids[len(wave) :]
        silent = [(story, id) for story, id in zip(wave, disorderly, strict=True) if story.lost is not None]
        silent_twins = [(story, id) for story, id in zip(wave, orderly, strict=True) if story.lost is not None]
        early = {id: self.teller(id, story.lost or [], "") for story, id in silent + silent_twins}
        await asyncio.gather(
            *(early[id].tell(story.early, min(story.reached, len(story.lost or []))) for story, id in silent),
            *(early[id].settle(min(story.reached, len(story.lost or []))) for story, id in silent_twins),
        )
        if early:
            await self.lose(list(early))
        await asyncio.gather(
            *(self.in_disorder(story, id, early.get(id)) for story, id in zip(wave, disorderly, strict=True)),
            *(self.at_once(story, id) for story, id in zip(wave, orderly, strict=True)),
        )
        await self.world.run_work("review", rounds=100)
        left = await remains(self.world, ids)
        for story, one, twin in zip(wave, disorderly, orderly, strict=True):
            for table in left[one]:
                assert left[one][table] == left[twin][table], (table, story)
        assert await stuck(self.world) == []

    async def in_disorder(self, story: Story, mission: UUID, before: Teller | None) -> None:
        now = self.teller(mission, story.script, story.end)
        looks = None if story.look_after is None else min(story.look_after, len(story.script))
        if before is not None:
            before.superseded = True
            late = [before.telling(before.events[k:]) for k in (0, story.reached)]
            await asyncio.gather(before.straggle(*late), now.tell(story.deliveries[::2], looks or 0))
        if looks is not None:
            await now.tell(story.deliveries, looks)
            await now.look()
        await now.tell(story.deliveries, len(now.events))
        await now.straggle()

    async def at_once(self, story: Story, mission: UUID) -> None:
        now = self.teller(mission, story.script, story.end)
        if story.look_after is not None:
            looks = min(story.look_after, len(story.script))
            await now.settle(looks)
            await now.look()
        await now.settle(len(now.events))


EVERYTHING = Story(
    script=["started", "artifact", "usage", "proposal", "usage", "completed"],
    end="complete",
    deliveries=[(2, 2, 0, "late", False), (0, 3, 1, "sent twice", False), (0, 3, 0, "answer lost", True),
                (2, 5, 1, "dies after", False), (1, 2, 0, "answered", False)],
    look_after=3,
    lost=["artifact", "usage", "usage"],
    reached=2,
    early=[(1, 1, 0, "answered", False), (0, 2, 1, "late", False), (0, 3, 0, "sent twice", True)],
)  # fmt: skip


@pytest.fixture
async def stage(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Stage]:
    """When all is told, the ledger of all of it verifies."""
    other = Root(world.settings())
    async with opened(other, public_app(other)):
        made = Stage(world, [Door(world.root, world.internal), Door(other, internal_app(other))])
        yield made
    verdict = (await world.auditor.post("/v1/ledger/verify")).json()
    assert verdict["verified"], verdict
    if SEQUENCES > 300:
        with capsys.disabled():
            print(
                f"\n{made.stories} sequences of callbacks, {sum(door.knocks for door in made.doors)} requests; CALLBACK_SEED={SEED}"
            )


@pytest.mark.long
@pytest.mark.anyio
@seed(SEED)
@settings(
    max_examples=-(-SEQUENCES // WAVE),
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@example(wave=[EVERYTHING])
@given(wave=st.lists(stories, min_size=WAVE, max_size=WAVE))
async def test_any_delivery_ends_like_the_one_in_order(stage: Stage, wave: list[Story]) -> None:
    try:
        await stage.told(wave)
    except Exception as error:
        error.add_note(f"CALLBACK_SEED={SEED}, wave={wave}")
        raise
