"""Fifty missions of all kinds are played again while nothing may leave the process: the same, apart from ids and times; and one
changed rule shows exactly its effect on those that it touches."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from app.replay.play import Player
from tests.models.conftest import House, house
from tests.models.test_tape import heard
from tests.replay.test_recorded import diff, forbid
from tests.world.life import Life, give_guide

__all__ = ["house"]
MISSIONS = 50
QUERIES = ("rollback release", "Friday freeze", "größer", "nothing of that kind", "queue people")
allowed: set[Any] | None = None  # addresses; None: whoever wants to connect may
denied: list[Any] = []


def watch(event: str, args: tuple[Any, ...]) -> None:
    """Every outgoing connection of this process passes here, whatever library makes it."""
    if event == "socket.connect" and allowed is not None and args[1] not in allowed:
        denied.append(args[1])
        raise ConnectionRefusedError(f"nothing leaves now, and somebody wants to reach {args[1]}")
    if event == "socket.getaddrinfo" and allowed is not None and args[0] not in (None, "127.0.0.1"):
        denied.append(args[:2])
        raise ConnectionRefusedError(f"nothing leaves now, and somebody asks for the address of {args[0]}")


sys.addaudithook(watch)


@contextmanager
def nothing_leaves(*but: Any) -> Iterator[list[Any]]:
    global allowed
    denied.clear()
    allowed = set(but)
    try:
        yield denied
    finally:
        allowed = None


async def lived(house: House, dice: random.Random) -> Life:
    """A mission that does what the dice say, and ends."""
    life = await house.mission()
    world, dispatch = house.world, life.dispatch
    for stage in dice.sample(("planner", "librarian", "researcher"), dice.randint(0, 2)):
        await life.say(
            {"type": "stage.started", "stage": stage},
            {"type": "stage.completed", "stage": stage, "latency_ms": float(dice.randint(1, 500))},
        )
    for _ in range(dice.randint(0, 4)):
        match dice.randrange(6):
            case 0 | 1:
                await world.colony.tool(
                    dispatch, "workspace.search", query=dice.choice(QUERIES), limit=dice.randint(1, 4)
                )
            case 2:
                with pytest.raises(Exception):  # noqa: B017  # the tool says no
                    await world.colony.tool(dispatch, "workspace.read", source=dice.choice("0123") * 64)
            case 3:
                with pytest.raises(Exception):  # noqa: B017  # policy says no
                    await world.colony.tool(dispatch, "workspace.outline", workspace="somebody_elses")
            case 4:
                house.east.words = [f"word {dice.randrange(3)} ", "and more"]
                await heard(house, life, stream=dice.random() < 0.5, temperature=dice.choice((0.1, 0.2)))
            case 5:
                used = {"tokens_in": dice.randint(1, 90), "tokens_out": dice.randint(1, 90), "cost_usd": 0.01}
                await life.say({"type": "usage.reported", **used})
    match dice.randrange(8):
        case 0:
            await life.signal("blocked")
        case 1:
            await life.complete(honest=False)
        case _:
            await life.complete(proposals=dice.choice((0, 0, 1, 2)))
    await world.run_work("review")
    return life


@pytest.mark.long
async def test_fifty_missions_are_the_same_again_and_nothing_leaves(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    with capsys.disabled():
        print(f" seed {seed}", end="")
    world, dice = house.world, random.Random(seed)
    await give_guide(world)
    lives = [await lived(house, dice) for _ in range(MISSIONS)]
    asked = len(house.east.asked)
    again: list[Life] = []
    database = world.worker.database.engine.url  # the one address that may be reached
    with nothing_leaves((database.host, database.port)) as tried:
        for life in lives:
            answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
            assert answer.status_code == 202, answer.text
            again.append(Life(world, UUID(answer.json()["id"])))
        await world.run_work("replay", "review")
        found = [await diff(one) for one in again]
    assert tried == [] and len(house.east.asked) == asked
    for life, one in zip(lives, found, strict=True):
        assert one["same"] is True, (life.id, one)
    assert sum(one["calls"]["same"] for one in found) > MISSIONS and sum(one["changes"]["same"] for one in found) > 10

    await forbid(world, "no_read", "tool.call", '== Tool::"workspace.read"')
    for life, before in zip(lives[:20], found[:20], strict=True):
        answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
        one = Life(world, UUID(answer.json()["id"]))
        await world.run_work("replay", "review")
        said = await diff(one)
        read = any(name == "workspace.read" for name in await tools_of(life))
        assert said["same"] is not read
        assert {entry["resource"] for entry in said["todays_policy"] if entry["changed"]} == (
            {"workspace.read"} if read else set()
        )
        assert (said["divergence"] or {}).get("why") == ("denied_now" if read else None)
        assert read or said["calls"]["same"] == before["calls"]["same"]


async def tools_of(life: Life) -> set[str]:
    return {body["tool"] for type, body in await life.facts() if type in ("tool.called", "tool.failed")}


async def test_the_watch_sees_what_leaves(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof can fail: a player that asks somebody is found."""
    life = await lived(house, random.Random(1))
    whole = Player.play

    async def chatty(self: Player) -> None:
        await house.ask(life)
        await whole(self)

    monkeypatch.setattr(Player, "play", chatty)
    answer = await house.world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    assert answer.status_code == 202
    database = house.world.worker.database.engine.url
    with nothing_leaves((database.host, database.port)) as tried:
        await house.world.run_work("replay", rounds=1)
    assert tried
