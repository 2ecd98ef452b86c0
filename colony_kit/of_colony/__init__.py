"""The requirements of a colony, in the order of their numbers, and the run that asks them.

`play` is what a check works with; the other modules hold the checks, by what they look at.
"""

from colony_kit.of_colony.requirements import REQUIREMENTS
from colony_kit.of_colony.run import run

__all__ = ["REQUIREMENTS", "run"]
