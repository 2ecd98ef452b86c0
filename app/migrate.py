"""Bringing a database to the newest schema, and asking how far it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def configuration(url: str = "", prefix: str = "") -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    config.attributes["prefix"] = prefix
    return config


def upgrade(admin_url: str, prefix: str) -> None:
    """Runs every missing migration. Safe to run twice, or twice at once. Starts its own event loop."""
    command.upgrade(configuration(admin_url, prefix), "head")


def head() -> str:
    """The newest migration this code knows."""
    newest = ScriptDirectory.from_config(configuration()).get_current_head()
    assert newest is not None, "the repository holds at least one migration"
    return newest
