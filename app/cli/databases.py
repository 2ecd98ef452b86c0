"""A database that a verifier is given by its URL, without the service; what goes wrong with it leaves as one sentence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.cli.client import Failed

if TYPE_CHECKING:
    from app.db import Database


@asynccontextmanager
async def opened(url: str, pool_size: int) -> AsyncIterator["Database"]:
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    from app.db import Database

    try:
        database = Database(url, pool_size=pool_size, name="mission-root verify")
    except (ArgumentError, IndexError, ValueError) as wrong:
        raise Failed("--database-url is no postgresql:// URL.", 2) from wrong
    try:
        yield database
    except OSError as away:
        raise Failed(f"The database cannot be reached: {away}.", 7) from away
    except SQLAlchemyError as refused:  # the driver's own words; the library's would quote the statement
        said = getattr(getattr(refused, "orig", None), "__cause__", None) or type(refused).__name__
        raise Failed(f"The database cannot be read as this role: {said}.", 7) from refused
    finally:
        await database.close()
