"""Which proposals ask for what is so already: looked at before the review, while nothing is open in Postgres."""

import asyncio
import contextlib
from collections.abc import Sequence
from uuid import UUID

import structlog

from app import missions
from app.artifacts import Artifact
from app.clock import now
from app.db import Database
from app.settings import Settings
from app.writebacks.actions import payload_of
from app.writebacks.book import reading
from app.writebacks.connectors import BadPayload, decode, verify
from colony_client.artifacts import WritebackProposal

log = structlog.get_logger("approvals")

ENOUGH_S = 5.0  # a target that does not answer in this time is not waited for: the human is asked
AT_ONCE = 8


async def already_so(
    database: Database, tenant: UUID, mission_id: UUID, proposed: Sequence[Artifact], settings: Settings
) -> frozenset[UUID]:
    """Those of a mission's proposals (by artifact) whose target shows every wanted value already, while it is in review.

    A target that cannot be read, or not by this process, shows nothing; the executor looks once more before it writes.
    """
    async with database.read() as session:
        await session.enter(tenant)
        mission = await missions.find(session, mission_id)
    if mission is None or mission.state != "in_review" or mission.mode == "dry_run":
        return frozenset()
    found: set[UUID] = set()
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(proposal: Artifact) -> None:
        async with turns:
            if await is_so(database, tenant, proposal, settings):
                found.add(proposal.id)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENOUGH_S):
            await asyncio.gather(*(look(proposal) for proposal in proposed))
    return frozenset(found)


async def is_so(database: Database, tenant: UUID, proposal: Artifact, settings: Settings) -> bool:
    """Nothing that goes wrong here may keep the proposal from being judged."""
    began = now()
    try:
        payload = decode(payload_of(WritebackProposal.model_validate_json(proposal.bytes)))
        async with reading(database, settings, tenant, payload.connector) as target:
            observed = await target.read(payload.kind, payload.record_id)
    except BadPayload:
        return False
    except Exception as error:
        log.info("a target cannot be read before the review", error=type(error).__name__)
        return False
    # what the executor read some time ago says nothing about now
    return observed.read_at >= began and verify(payload, observed).matches
