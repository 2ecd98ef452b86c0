"""`mission-root console-link`: who may make one, and what it says when it cannot."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.console.desk import Desk
from tests.world import World

PROGRAM = Path(__file__).parents[2] / ".venv" / "bin" / "mission-root"


async def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Beside the loop, in which the world of the test lives on."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return await asyncio.to_thread(
        subprocess.run,
        [str(PROGRAM), "console-link", *words],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/tmp",
    )


@pytest.mark.long
async def test_a_link_from_the_command_line_opens_the_console(world: World, tmp_path: Path) -> None:
    url = world.url("registrar")
    made = await command("--as", "operator", "--url", "http://127.0.0.1:1", "--json", REGISTRAR_DATABASE_URL=url)
    assert made.returncode == 0, made.stderr
    link = urlsplit(json.loads(made.stdout)["link"])
    assert (link.netloc, link.path) == ("127.0.0.1:1", "/console/login")
    desk = Desk(world)
    answer = await desk.http.get("/console/login", params={"link": parse_qs(link.query)["link"][0]})
    assert answer.status_code == 303
    await desk.http.aclose()
    nobody = await command("--as", "nobody", REGISTRAR_DATABASE_URL=url)
    assert nobody.returncode == 3 and "There is no principal nobody" in nobody.stderr
    nowhere = await command("--as", "operator", "--data-dir", str(tmp_path))
    assert nowhere.returncode == 7 and "mission-root up" in nowhere.stderr
