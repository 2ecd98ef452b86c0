"""The same shared database and tenant of one's own as in tests/walls."""

from tests.walls.conftest import ground, walled

__all__ = ["ground", "walled"]
