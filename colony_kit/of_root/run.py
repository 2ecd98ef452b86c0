"""One run of the kit against one root."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import httpx

from colony_client.signing import Keys
from colony_kit.door import Door
from colony_kit.environment import Misuse
from colony_kit.evidence import keep_secret
from colony_kit.line import LIMITS, authorities
from colony_kit.of_root.play import Pace, Play
from colony_kit.of_root.requirements import REQUIREMENTS
from colony_kit.played_colony import PlayedColony
from colony_kit.report import Failed, NotApplicable, Report, Result, chosen, judge

OF_CALLS = ("R-02", "R-03", "R-05")  # what is asked of calls also when they cannot be read
AROUND = 3  # of the patience for one thing: no requirement takes longer


async def run(
    url: str,
    api_key: str,
    keys: Keys,
    *,
    listen: tuple[str, int],
    only: Iterable[str] = (),
    pace: Pace | None = None,
    heard: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Plays the colony for a root and reports. The root has to dispatch to `listen`; heard is told each result as it is found.

    Raises Misuse when the root cannot be reached, does not know the key, or does not dispatch to the kit.
    """
    asked, pace = chosen(REQUIREMENTS, only), pace or Pace()
    keep_secret([api_key])
    began = time.perf_counter()
    colony = PlayedColony(keys)
    door = colony.door = Door(colony.app, *listen)
    headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=pace.answer, trust_env=False, verify=authorities(), limits=LIMITS
    ) as public:
        await _known(public, url)
        await door.open()
        play = Play(public, keys, colony, door, pace)
        try:
            if not await _readable(play):
                named = [
                    one for one in REQUIREMENTS if one in asked or one.id == "R-02"
                ]  # nobody passes by not being asked
                asked = [one if one.id in OF_CALLS else replace(one, check=_not_asked) for one in named]
            results = await judge(asked, play, AROUND * pace.patience, heard)
        finally:
            await _tidy(play)
            await door.shut()
    return Report("root", url, results, time.perf_counter() - began)


async def _known(public: httpx.AsyncClient, url: str) -> None:
    try:
        answer = await public.get("/v1/missions", params={"limit": 1})
    except httpx.HTTPError as error:
        raise Misuse(f"The root at {url} cannot be reached: {type(error).__name__}.") from None
    if answer.status_code in (401, 403):
        raise Misuse(f"The root at {url} does not take the key of MISSION_ROOT_API_KEY ({answer.status_code}).")
    if answer.status_code != 200:
        raise Misuse(f"{url} answers GET /v1/missions with {answer.status_code}: is that the root?")


async def _readable(play: Play) -> bool:
    """A first mission, to see whether the root dispatches to the kit at all, and what can be read."""
    try:
        await play.taken()
    except Failed as failed:
        if play.colony.found("shape"):
            return False
        raise Misuse(
            f"Nothing can be asked of the root: {failed}. Does its COLONY_SERVICE_BASE_URL lead to {play.door.url}, with the same key?"
        ) from None
    return True


async def _not_asked(_: Play) -> str:
    raise NotApplicable("no dispatch of the root can be read (R-02), so nothing can be asked of it")


async def _tidy(play: Play) -> None:
    """Leaves no mission behind that waits for a colony which has gone."""
    for mission in play.missions:
        with contextlib.suppress(httpx.HTTPError):
            await play.cancel(mission)
    if play.inside is not None:
        await play.inside.close()
