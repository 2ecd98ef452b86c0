"""The shared database of tests/walls, with a tenant of one's own."""

from tests.walls.conftest import ground, walled

__all__ = ["ground", "walled"]
