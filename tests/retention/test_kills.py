"""kill -9 between the steps: no row ever speaks of bytes that are not there, and what is left over is swept."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from uuid import UUID

from app.artifacts.verify import verify
from tests.retention.house import LARGE, House

HERE = Path(__file__).parents[2]


async def test_a_killed_process_leaves_at_most_an_object_that_no_row_names(house: House) -> None:
    kept = await house.keep(b"k" * LARGE)
    await house.document(kept, LARGE)
    mortals = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.retention.dies",
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        for step in ("written", "named", "removed", "half"):
            await killed_at(step, house, mortals, kept)
    finally:
        mortals.kill()
        await mortals.wait()


async def killed_at(step: str, house: House, mortals: asyncio.subprocess.Process, kept: bytes) -> None:
    missions, sources = [], []
    for number in range(3):
        mission, source = await house.mission(), await house.keep(f"{step}{number}".encode() * LARGE)
        await house.read(mission, source)
        await house.end(mission, days_ago=91)
        await house.age(source)
        missions.append(mission)
        sources.append(source)
    item = await house.item()
    removing = step in ("removed", "half")
    said = {
        "step": step, "tenant": str(house.tenant), "place": str(house.place), "large": LARGE, "fence": item.fence,
        "url": house.ground.url("worker" if removing else "api"),
    }  # fmt: skip
    assert mortals.stdin and mortals.stdout
    mortals.stdin.write(json.dumps(said).encode() + b"\n")
    assert int(await asyncio.wait_for(mortals.stdout.readline(), 60)) == -signal.SIGKILL, step
    # nothing is claimed that is not there
    assert (await verify(house.api, house.objects, house.tenant)).findings == []
    states = [await house.state(source) for source in sources]
    assert states == (["removed"] * 3 if removing else ["kept"] * 3), step
    assert len(await house.stored()) == {"written": 5, "named": 5, "removed": 4, "half": 3}[step]
    # the next sweep does what is left, and takes up what no row names once it is old enough
    await house.sweep()
    assert [await house.state(source) for source in sources] == ["removed"] * 3
    assert not any([any(await house.said(mission)) for mission in missions])
    await grow_old(house)
    house.sweeper.listed.clear()
    await house.sweep()
    assert await house.state(kept) == "kept"
    assert {label[:64] for label in await house.stored()} == {kept.hex()}, step


async def grow_old(house: House) -> None:
    """A day passes for the objects that no row names: their names say when they were written."""
    folder = house.objects.store.folder  # type: ignore[union-attr]
    assert folder is not None
    for label in await house.stored():
        sha256, _, name = label.partition(".")
        if await house.ground.run("admin", "SELECT 1 FROM blob WHERE object = $1", UUID(name)):
            continue
        older = UUID(int=UUID(name).int - (25 * 3600 * 1000 << 80))
        place = folder / str(house.tenant) / label[:2]
        (place / label).rename(place / f"{sha256}.{older}")
