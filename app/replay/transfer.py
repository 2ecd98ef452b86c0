"""One mission in one signed file, from one environment to another.

The file is canonical JSON: a statement and the Ed25519 signature of a key that the receiving side was told to trust. In the
statement are the recording and the bytes that the mission was shown, so that its citations can be checked again.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import text

from app import artifacts, ledger, tape
from app.artifacts import Laid, Located, Objects, keep_blob
from app.caller import Caller
from app.canonical import sha256
from app.clock import new_id
from app.db import Database, ReadSession, WriteSession
from app.errors import Problem
from app.ledger.keys import Signer, genuine, parse, sealed
from app.replay.recording import Recording
from colony_client.artifacts import MissionEnvelope

PURPOSE = "mission-root recording 1"
MOST_BYTES = 48 * 1024 * 1024
KEEP = text("""
  INSERT INTO recording (tenant, id, mission, attempt, mission_type, environment, signed_by, sensitivity_class, file_sha256, file, size,
    imported_by)
  VALUES (:tenant, :id, :mission, :attempt, :mission_type, :environment, :signed_by, :sensitivity, :sha256, :file, :size, :imported_by)
  ON CONFLICT (tenant, file_sha256) WHERE removed_at IS NULL DO NOTHING RETURNING id""")
KNOWN = text("SELECT id FROM recording WHERE tenant = :tenant AND file_sha256 = :sha256 AND removed_at IS NULL")


@dataclass(frozen=True)
class Contents:
    """What a file holds. sources: the bytes that the mission was shown."""

    recording: Recording
    envelope: MissionEnvelope
    sources: Sequence[bytes]
    signed_by: str


async def shown_to(session: ReadSession, mission: UUID) -> list[Located]:
    """Where the bytes are that a mission was shown, in the order of their hashes. Raises Problem too_large."""
    found = await artifacts.places(session, {row.source_sha256 for row in await artifacts.readings(session, mission)})
    if (size := sum(place.size for place in found.values())) > MOST_BYTES:
        raise too_large(size)
    return [found[one] for one in sorted(found)]


async def export(recording: Recording, shown: Sequence[Located], objects: Objects, signer: Signer) -> bytes:
    """The file of a recording. No transaction is open meanwhile. Raises Problem too_large, and what reading objects raises."""
    statement: dict[str, Any] = {
        "purpose": PURPOSE,
        "by": signer.kid,
        "recording": recording.model_dump(mode="json"),
        "sources": [base64.b64encode(await objects.read(place)).decode() for place in shown],
    }
    data = await asyncio.to_thread(sealed, statement, signer.by_kid[signer.kid])
    if len(data) > MOST_BYTES:
        raise too_large(len(data))
    return data


def too_large(size: int) -> Problem:
    return Problem("too_large", f"The recording has {size} bytes; a file holds at most {MOST_BYTES}.")


async def bring_sources(database: Database, objects: Objects, tenant: UUID, sources: Sequence[bytes]) -> None:
    """Keeps what a recorded mission was shown, where it is not kept already: a replay cites it, and its file alone is not enough."""
    async with database.read() as session:
        await session.enter(tenant)
        known = await artifacts.places(session, map(sha256, sources))
    absent = [one for one in sources if (place := known.get(sha256(one))) is None or place.removed_at is not None]
    laid: list[Laid] = [await objects.lay_down(tenant, one) for one in absent]
    if laid:
        async with database.write() as session:
            await session.enter(tenant)
            for one in sorted(laid, key=lambda laid: laid.sha256):  # one order for all, so that nobody waits in a ring
                await keep_blob(session, tenant, one)


def contents(data: bytes) -> Contents:
    """What a file says, its signature unchecked: for files that were checked when they came. Raises Problem validation."""
    return understood(read(data))


def read(data: bytes) -> dict[str, Any]:
    found = parse(data)
    if found is None or found["statement"].get("purpose") != PURPOSE:
        raise unusable("The file is not a recording that mission-root replay export has written.")
    return found


def understood(found: dict[str, Any]) -> Contents:
    statement = found["statement"]
    try:
        recording = Recording.model_validate_json(json.dumps(statement["recording"]), strict=True)
        envelope = MissionEnvelope.model_validate_json(json.dumps(recording.envelope))
        sources = [base64.b64decode(one, validate=True) for one in statement["sources"]]
        for one in recording.calls:
            _ = one.call, one.answer_bytes
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        raise unusable(f"The recording is malformed at {'/'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise unusable("The recording is malformed.") from None
    return Contents(recording, envelope, sources, str(statement["by"]))


def trusted(data: bytes, keys: Mapping[str, bytes]) -> Contents:
    """What a file says that one of the trusted keys has signed. Raises Problem validation or forbidden."""
    found = read(data)
    signed_by = str(found["statement"].get("by"))
    if signed_by not in keys:
        raise Problem(
            "forbidden", f"The recording is signed by {signed_by[:40]!r}, which is not among TRANSFER_TRUSTED_KEYS."
        )
    if not genuine(found, keys[signed_by]):
        raise Problem("forbidden", "The signature of the recording is wrong: it was changed after it was exported.")
    return understood(found)


async def keep(session: WriteSession, caller: Caller, data: bytes, found: Contents) -> UUID:
    """Keeps an imported recording; the same file is kept once. Its calls become a tape of their own."""
    digest, recording, id = sha256(data), found.recording, new_id()
    kept = await session.scalar(
        KEEP,
        {
            "tenant": caller.tenant,
            "id": id,
            "mission": recording.mission,
            "attempt": recording.attempt,
            "mission_type": recording.mission_type,
            "environment": recording.environment,
            "signed_by": found.signed_by,
            "sensitivity": found.envelope.sensitivity_class,
            "sha256": digest,
            "file": data,
            "size": len(data),
            "imported_by": caller.principal,
        },
    )
    if kept is None:
        known: UUID = await session.scalar(KNOWN, {"tenant": caller.tenant, "sha256": digest})
        return known
    for one in recording.calls:
        await tape.record(session, id, recording.attempt, one.call, one.outcome, one.answer_bytes, one.took_ms)  # type: ignore[arg-type]
    await ledger.record(
        session,
        caller,
        "recording.imported",
        caller.tenant,
        recording=id,
        sha256=digest.hex(),
        size=len(data),
        signed_by=found.signed_by,
    )
    return id


def unusable(sentence: str) -> Problem:
    return Problem(
        "validation", sentence, errors=[{"pointer": "", "detail": "send a file of mission-root replay export"}]
    )
