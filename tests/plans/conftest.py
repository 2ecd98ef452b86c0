"""Plans are judged at the doors of the shared database of tests/walls."""

from tests.walls.conftest import ground, walled

__all__ = ["ground", "walled"]
