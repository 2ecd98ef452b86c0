"""The one row that says how far the ledger is on the bus, and whose turn it is: a lease with a fence, like leased work."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from app.db import Database
from app.ledger import Position

TAKE = text("""
  UPDATE bus SET fence = fence + 1, lease_until = clock_timestamp() + :lease, heard_at = clock_timestamp()
  WHERE lease_until IS NULL OR lease_until <= clock_timestamp()
  RETURNING fence, after_xid::text AS xid, after_id AS id, stream_made, stream_seq""")
KEEP = text("""
  UPDATE bus SET after_xid = CAST(CAST(:xid AS text) AS xid8), after_id = :id, stream_made = :made, stream_seq = :seq,
    state = 'up', detail = NULL, heard_at = clock_timestamp(), lease_until = clock_timestamp() + :lease
  WHERE fence = :fence""")
GIVE_BACK = text("""
  UPDATE bus SET lease_until = NULL, heard_at = clock_timestamp(), state = CASE WHEN CAST(:why AS text) IS NULL THEN state ELSE 'down' END,
    detail = CAST(:why AS text)
  WHERE fence = :fence""")
OFF = text("""UPDATE bus SET state = 'off', detail = NULL, lease_until = NULL
              WHERE state <> 'off' AND (lease_until IS NULL OR lease_until <= clock_timestamp())""")
REACHED = text("SELECT after_xid::text AS xid, after_id AS id FROM bus")


class Lost(Exception):
    """Somebody else holds the cursor now: this process must not publish any more."""


@dataclass
class Hold:
    """The right to publish, and how far that has come. made, seq: the stream that the position speaks of, and its end."""

    fence: int
    after: Position
    made: datetime | None
    seq: int


async def take(database: Database, lease: timedelta) -> Hold | None:
    """The cursor for the length of a lease, or None while another process holds it."""
    async with database.write() as session:
        row = await session.first(TAKE, {"lease": lease})
    return Hold(row.fence, Position(int(row.xid), row.id), row.stream_made, row.stream_seq) if row else None


async def keep(database: Database, hold: Hold, lease: timedelta) -> None:
    """Writes down how far it has come, and begins the lease anew. Raises Lost."""
    async with database.write() as session:
        kept = await session.execute(
            KEEP,
            {
                "fence": hold.fence,
                "xid": str(hold.after.xid),
                "id": hold.after.id,
                "made": hold.made,
                "seq": hold.seq,
                "lease": lease,
            },
        )
    if not kept.rowcount:
        raise Lost


async def give_back(database: Database, hold: Hold, why: str | None = None) -> None:
    """Lets another process try at once. why: what keeps this one from publishing; None when it only ends."""
    async with database.write() as session:
        await session.execute(GIVE_BACK, {"fence": hold.fence, "why": why[:200] if why else None})


async def reached(database: Database) -> Position:
    async with database.read() as session:
        row = await session.first(REACHED)
    assert row is not None
    return Position(int(row.xid), row.id)


async def switch_off(database: Database) -> None:
    """What a worker without a bus says, unless another one is publishing."""
    async with database.write() as session:
        await session.execute(OFF)
