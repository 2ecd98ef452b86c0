"""A tenant of its own with a store in a folder."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.retention.house import House
from tests.walls.conftest import ground, walled

__all__ = ["ground", "walled"]


@pytest.fixture
async def house(ground: Any, tmp_path: Path) -> AsyncIterator[House]:  # the fixture above
    made = House(ground, tmp_path / "artifacts")
    await ground.run(
        "registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'policy_owner')",
        made.tenant, ground.ids["paul"],
    )  # fmt: skip
    yield made
    await made.close()
