"""Which build of the product this process is: evidence about another one says nothing about it."""

from functools import cache
from importlib.metadata import version


@cache
def name_of(made_from: str | None) -> str:
    """The package's version, with what it was made from where that is told: `0.1.0+3f2c9e1`."""
    return version("mission-root") + (f"+{made_from}" if made_from else "")
