"""Bringing a database to the newest schema, and asking whether this code fits the schema that a database has.

Each migration says with `oldest` which code still runs beside it: the head that such code knows. A migration that only adds says
what the one before it said; one that takes something away names the first head whose code did without it. So the processes of
a version go on, ready, while the schema of the next one is already there, and so does an older image put back.
"""

import re
from ast import literal_eval
from functools import cache
from pathlib import Path

MIGRATIONS = Path(__file__).parent.parent / "migrations"
NAMED = re.compile(r"^(revision|down_revision|oldest) = (.+)$", re.MULTILINE)
ANEW = "Begin with an empty one (of `mission-root up`: another --data-dir, or this one moved away)"
FITS = "SELECT version_num, :head = ANY (fits) AS fits FROM migration"


class Unfit(Exception):
    """This code does not go with the database. The message is one sentence for the person at the terminal."""


class BeforeTheFirst(Unfit):
    """It was made before the first release: by a first migration that said other things than ours."""

    def __init__(self) -> None:
        super().__init__(
            f"The database is that of a build from before the first release, and no migration leads here. {ANEW}"
        )


class Ahead(Unfit):
    """A newer build has taken away what this code needs."""

    def __init__(self, found: str, head: str) -> None:
        super().__init__(
            f"The database is at {found}, where code that knows {head} does not run any more: use the newer build"
        )


def upgrade(admin_url: str, prefix: str) -> str:
    """Runs every missing migration; answers where the database is then. Safe to run twice, or twice at once.

    A database that a newer build has brought further stays as it is, and is answered for, as long as this code runs on it; else
    raises Unfit. Starts its own event loop.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes.update(url=admin_url, prefix=prefix)
    command.upgrade(config, "head")
    return str(config.attributes["at"])


@cache
def history(migrations: Path = MIGRATIONS) -> tuple[dict[str, str | None], ...]:
    """What every migration says of itself, first to newest. Read off the files, because every process asks, and importing alembic
    takes a tenth of a second. ValueError when they are not one line."""
    files = [dict(NAMED.findall(file.read_text())) for file in (migrations / "versions").glob("*.py")]
    said = [{name: literal_eval(value) for name, value in file.items()} for file in files]
    after = {one["down_revision"]: one for one in said}
    line, last = [], None
    while last in after:
        line.append(after[last])
        last = line[-1]["revision"]
    if len(line) != len(said) or not line:
        raise ValueError(f"the migrations in {migrations} are not one line")
    return tuple(line)


def head(migrations: Path = MIGRATIONS) -> str:
    """The newest migration this code knows: the one that none follows."""
    return str(history(migrations)[-1]["revision"])


def fitting(migrations: Path = MIGRATIONS) -> list[str]:
    """The heads of the code that runs on the newest schema, oldest first. ValueError when a migration names no head before its own."""
    heads = [str(one["revision"]) for one in history(migrations)]
    oldest = 0
    for place, one in enumerate(history(migrations)):
        if one.get("oldest") not in heads[: place + 1]:
            raise ValueError(f"migration {heads[place]} has to say with `oldest` which code runs beside it")
        oldest = max(oldest, heads.index(str(one["oldest"])))
    return heads[oldest:]
