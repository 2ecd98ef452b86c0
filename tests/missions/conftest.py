"""What tests of missions share."""

import pytest

from tests.tools.registered import entry, plant
from tests.world import World


@pytest.fixture
async def public_tool(world: World) -> None:
    """The tenant has a tool that reaches the public web, `web.search`."""
    await plant(world, "web", entry("search", reach="public"))
