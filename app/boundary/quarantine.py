"""What of the colony's words could not be understood: kept as it came, so many of each mission."""

from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller, system
from app.db import Database, WriteSession
from app.errors import Problem
from app.telemetry import QUARANTINED, begin
from app.work import Item
from colony_client.contract import MAX_BODY_BYTES
from colony_client.errors import BoundaryError, Refused

MOST_KEPT, MOST_KEPT_BYTES = 50, 4 * MAX_BODY_BYTES  # of what could not be understood about one mission
ORIGINS = ("callback", "dispatch_answer", "status_answer", "cancel_answer")
DRILLED = text("SELECT drill_tenant() = :tenant")
begin(QUARANTINED, ORIGINS)


async def quarantine(database: Database, item: Item, origin: str, error: BoundaryError) -> None:
    """Keeps an answer that is not what the contract says; a problem document is, whatever it refuses."""
    if error.body and not (isinstance(error, Refused) and error.problem is not None):
        async with database.write() as session:
            await session.enter(item.tenant)
            caller = system(item.tenant, "worker")
            await keep_refused(session, caller, item.subject, origin, str(error), error.body)


async def quarantine_callback(database: Database, caller: Caller, mission: UUID, refused: Problem, data: bytes) -> None:
    """Keeps what a colony has sent of a mission and was refused."""
    async with database.write() as session:
        await session.enter(caller.tenant)
        await keep_refused(session, caller, mission, "callback", refused.detail, data)


async def keep_refused(
    session: WriteSession, caller: Caller, mission: UUID, origin: str, problem: str, data: bytes
) -> None:
    """Keeps a payload that could not be taken, as it came, and records that it is there.

    The same bytes are kept once, and of one mission so many payloads and bytes: who repeats the same mistake in other words
    fills no disk.
    """
    if not await session.scalar(DRILLED, {"tenant": caller.tenant}):  # what is wrong on purpose alarms nobody
        QUARANTINED.labels(origin).inc()
    row = await session.first(
        """INSERT INTO quarantine (tenant, mission, origin, problem, bytes)
           SELECT :tenant, :mission, :origin, :problem, CAST(:bytes AS bytea)
           FROM (SELECT count(*) AS n, COALESCE(sum(octet_length(q.bytes)), 0) AS size,
                        COALESCE(bool_or(q.sha256 = sha256(CAST(:bytes AS bytea))), false) AS known
                 FROM quarantine q WHERE q.tenant = :tenant AND q.mission = :mission) kept
           WHERE NOT kept.known AND kept.n < :most AND kept.size + octet_length(CAST(:bytes AS bytea)) <= :most_bytes
           RETURNING id, sha256""",
        {
            "tenant": caller.tenant,
            "mission": mission,
            "origin": origin,
            "problem": problem[:1000],
            "bytes": data,
            "most": MOST_KEPT,
            "most_bytes": MOST_KEPT_BYTES,
        },
    )
    if row is None:
        return
    await ledger.record(
        session, caller, "payload.quarantined", mission, quarantine=row.id, sha256=row.sha256.hex(), origin=origin
    )
