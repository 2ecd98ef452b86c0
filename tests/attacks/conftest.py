"""Attacks at the wall's own doors run in the shared database of tests/walls."""

from tests.walls.conftest import ground, walled

__all__ = ["ground", "walled"]
