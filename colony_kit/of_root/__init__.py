"""The requirements of a root, in the order of their numbers, and the run that asks them."""

from colony_kit.of_root.requirements import REQUIREMENTS
from colony_kit.of_root.run import run

__all__ = ["REQUIREMENTS", "run"]
