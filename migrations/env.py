"""Alembic's entry: runs as the admin connection, builds as the owner role, one migrator at a time."""

import asyncio

from alembic import context
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.db import metadata, plain_url
from app.migrate import FITS, Ahead, BeforeTheFirst, fitting, head, history

MIGRATION_LOCK = 7_041_776_001  # any constant: two migrators queue up on it


def run(connection: object) -> None:
    context.configure(
        connection=connection, target_metadata=metadata, version_table="migration", transaction_per_migration=False
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate(url: str, prefix: str) -> None:
    engine = create_async_engine(plain_url(url), poolclass=NullPool)
    fits = fitting()  # first: a migration that does not say who fits is not run
    try:
        async with engine.connect() as connection:
            await prepare(connection, prefix)
            arguments["at"] = await ahead(connection)
            if arguments["at"] is None:
                await connection.run_sync(run)
                await connection.execute(text("UPDATE migration SET fits = :heads"), {"heads": fits})
                arguments["at"] = head()
            await connection.commit()
    finally:
        await engine.dispose()


async def ahead(connection: AsyncConnection) -> str | None:
    """Where a newer build has brought this database already; None when it did not. Raises Unfit."""
    if not (await connection.execute(text("SELECT to_regclass('migration')"))).scalar():
        return None
    columns = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'migration'::regclass AND attname = 'fits')"
    if not (await connection.execute(text(columns))).scalar():
        raise BeforeTheFirst
    found = (await connection.execute(text(FITS), {"head": head()})).one_or_none()
    if found is None or found.version_num in [one["revision"] for one in history()]:
        return None
    if not found.fits:
        raise Ahead(found.version_num, head())
    return str(found.version_num)


async def prepare(connection: AsyncConnection, prefix: str) -> None:
    # A migration that would wait behind a long transaction gives up instead of queueing everybody behind itself.
    await connection.execute(text("SET lock_timeout = '5s'"))
    await connection.execute(text("SET statement_timeout = '10min'"))
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    await connection.execute(text(f'SET ROLE "{prefix}_owner"'))


arguments = context.config.attributes
asyncio.run(migrate(arguments["url"], arguments["prefix"]))
