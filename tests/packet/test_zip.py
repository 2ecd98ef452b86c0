"""The packet as one zip: complete, the same bytes for the same state, and verified offline by what is in it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.packet import offline
from tests.packet.zips import KEY, ZIP, Contents, anchor, closed, edited, fetched, opened, with_store, written
from tests.world import World
from tests.world.checks import problem
from tests.world.life import in_state
from tests.life.test_moves import REACH

GIVEN = {"old": offline.public_key("", KEY.partition(":")[2])}
MADE: dict[str, bytes] = {}


@pytest.fixture
async def contents(request: pytest.FixtureRequest, tmp_path: Path) -> Contents:
    """The files of one packet that is made once for all tests."""
    if not MADE:
        world: World = request.getfixturevalue("world")
        with_store(world, tmp_path / "anchors")
        life = await written(world)
        await anchor(world)
        MADE["zip"] = await fetched(life)
    return opened(MADE["zip"])
