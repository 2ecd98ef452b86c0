"""Which build of the product this process is. Drills, attestations and verdicts name theirs, and say nothing about another one.

Missions and their replays name none: what they show counts by its age alone.
"""

from functools import cache
from importlib.metadata import version


@cache
def name_of(made_from: str | None) -> str:
    """The package's version, with what it was made from where that is told: `0.1.0+3f2c9e1`."""
    return version("mission-root") + (f"+{made_from}" if made_from else "")
