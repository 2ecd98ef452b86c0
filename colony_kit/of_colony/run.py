"""One run of the kit against one colony."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from colony_client.signing import Keys
from colony_kit.door import Door
from colony_kit.environment import Misuse
from colony_kit.line import Line
from colony_kit.of_colony.doors import taken
from colony_kit.of_colony.play import Pace, Play
from colony_kit.of_colony.requirements import REQUIREMENTS
from colony_kit.played_root import PlayedRoot
from colony_kit.report import Failed, NotApplicable, Report, Result, chosen, judge

WITHOUT_A_KEY = ("C-01", "C-03", "C-04")
AROUND = 3  # of the patience for one mission: no requirement takes longer


async def run(
    base_url: str,
    keys: Keys,
    *,
    listen: tuple[str, int] = ("127.0.0.1", 0),
    callback_base_url: str | None = None,
    restart: Sequence[str] = (),
    only: Iterable[str] = (),
    pace: Pace | None = None,
    heard: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Plays the root for a colony and reports. heard is told each result as it is found.

    Raises Misuse when the colony cannot be reached, the address is taken, or a requirement does not exist.
    """
    asked, pace = chosen(REQUIREMENTS, only), pace or Pace()
    began = time.perf_counter()
    root = PlayedRoot(keys, pace.underway)
    door = Door(root.app, *listen)
    async with Line(base_url, keys, "colony", pace.answer) as line:
        reached = await line.ask("GET", "/health")
        if reached.status == 0:
            raise Misuse(f"The colony at {line.base_url} cannot be reached: {reached.body.decode()}.")
        await door.open()
        try:
            play = Play(line, root, door, pace, callback_base_url or door.url, restart)
            if await _deaf(play):
                named = [
                    one for one in REQUIREMENTS if one in asked or one.id == "C-04"
                ]  # nobody passes by not being asked
                asked = [one if one.id in WITHOUT_A_KEY else replace(one, check=_not_asked) for one in named]
            results = await judge(asked, play, AROUND * pace.patience, heard)
            await _tidy(play)
        finally:
            await door.shut()
    return Report("colony", line.base_url, results, time.perf_counter() - began)


async def _deaf(play: Play) -> bool:
    """Whether the colony does not know the key that signs: then it takes nothing, whatever is asked."""
    try:
        await taken(play, play.keys.signing_kid)
    except Failed:
        return True
    return False


async def _not_asked(_: Play) -> str:
    raise NotApplicable(
        "the colony does not take a rightly signed request (C-04), so nothing signed can be asked of it"
    )


async def _tidy(play: Play) -> None:
    """Lets go of missions that are still worked on: their root is about to be gone."""
    left = [one for one in play.root.attempts.values() if one.heard and one.terminal is None]
    body = b'{"reason": "the kit is done"}'
    await asyncio.gather(*(play.line.ask("POST", f"/v1/missions/{one.mission_id}/cancel", body) for one in left))
