"""Bringing a database to the newest schema, and asking how far it is."""

import re
from ast import literal_eval
from functools import cache
from pathlib import Path

MIGRATIONS = Path(__file__).parent.parent / "migrations"
NAMED = re.compile(r"^(revision|down_revision) = (.+)$", re.MULTILINE)


def upgrade(admin_url: str, prefix: str) -> None:
    """Runs every missing migration. Safe to run twice, or twice at once. Starts its own event loop."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes.update(url=admin_url, prefix=prefix)
    command.upgrade(config, "head")


@cache
def head(migrations: Path = MIGRATIONS) -> str:
    """The newest migration this code knows: the one that none follows. Read off the files, because every process asks, and
    importing alembic takes a tenth of a second."""
    files = [dict(NAMED.findall(file.read_text())) for file in (migrations / "versions").glob("*.py")]
    said = [{name: literal_eval(value) for name, value in file.items()} for file in files]
    [newest] = {one["revision"] for one in said} - {one["down_revision"] for one in said}
    return str(newest)
