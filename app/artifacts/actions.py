"""Storing artifacts, blobs and readings. Content-addressed, so doing it twice is doing it once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import ledger
from app.artifacts.objects import Laid
from app.caller import Caller
from app.canonical import sha256
from app.clock import new_id
from app.db import WriteSession, sqlstate
from app.errors import Problem
from colony_client.artifacts import ArtifactBase, canonical

INSERT = text("""
  INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
  VALUES (:tenant, :id, :mission, :attempt, :schema_name, :schema_version, :producer, :bytes)
  ON CONFLICT (tenant, mission, sha256) DO NOTHING RETURNING id""")
FIND = text("SELECT id, attempt FROM artifact WHERE tenant = :tenant AND mission = :mission AND sha256 = :sha256")
KEEP_BLOB = text("SELECT keep_blob(:tenant, :sha256, :size, :inline, :object, :chunks)")
REMOVED = "RX022"
NOTE_READING = text("""
  INSERT INTO reading (tenant, mission, source_sha256, document, kind, version)
  VALUES (:tenant, :mission, :source, :document, :kind, :version) ON CONFLICT DO NOTHING""")


@dataclass(frozen=True)
class Stored:
    """Where an artifact's bytes are."""

    id: UUID
    sha256: bytes


@dataclass(frozen=True)
class Made:
    """An artifact in the bytes that are stored and hashed."""

    schema_name: str
    schema_version: str
    producer: str
    sha256: bytes
    bytes: bytes


def made(artifact: ArtifactBase) -> Made:
    data, name = canonical(artifact), artifact.schema_name  # type: ignore[attr-defined]
    return Made(name, artifact.schema_version, artifact.producer.name, sha256(data), data)


async def store(session: WriteSession, caller: Caller, mission: UUID, attempt: int, artifact: ArtifactBase) -> Stored:
    """Keeps an artifact in its canonical bytes and records `artifact.stored`.

    Bytes that an earlier attempt had produced are kept once; that this attempt says them too is `artifact.repeated`.
    """
    it = made(artifact)
    digest, name = it.sha256, it.schema_name
    values = {
        "tenant": caller.tenant,
        "id": new_id(),
        "mission": mission,
        "attempt": attempt,
        "schema_name": name,
        "schema_version": it.schema_version,
        "producer": it.producer,
        "bytes": it.bytes,
    }
    kept = await session.scalar(INSERT, values)
    if kept is None:
        known = await session.first(FIND, {"tenant": caller.tenant, "mission": mission, "sha256": digest})
        assert known is not None
        if known.attempt != attempt:
            await ledger.record(
                session, caller, "artifact.repeated", mission, artifact=known.id, schema_name=name, attempt=attempt
            )
        return Stored(known.id, digest)
    await ledger.record(
        session,
        caller,
        "artifact.stored",
        mission,
        artifact=kept,
        schema_name=name,
        sha256=digest.hex(),
        attempt=attempt,
    )
    return Stored(kept, digest)


async def keep_blob(session: WriteSession, tenant: UUID, laid: Laid) -> bytes:
    """Keeps bytes that were laid down under their SHA-256 and answers that; what was removed in time is back."""
    await session.execute(KEEP_BLOB, {"tenant": tenant, **vars(laid)})
    return laid.sha256


async def note_readings(
    session: WriteSession,
    tenant: UUID,
    mission: UUID,
    kind: Literal["document", "record"],
    shown: Iterable[tuple[bytes, str, str | None]],
) -> None:
    """Notes that a mission was shown sources: (sha256, document, version). Only these may be cited by it.

    Raises Problem database_busy when retention has removed one of them in this very moment.
    """
    rows: list[dict[str, Any]] = [
        {"tenant": tenant, "mission": mission, "source": source, "document": document, "kind": kind, "version": version}
        for source, document, version in sorted(set(shown), key=lambda item: (item[0], item[1]))
    ]
    if rows:
        try:
            await session.execute(NOTE_READING, rows)
        except DBAPIError as refused:
            if sqlstate(refused) != REMOVED:
                raise
            raise removed_meanwhile() from None


def removed_meanwhile() -> Problem:
    """What the caller of REMOVED is told: asked again, the bytes are read anew, or are found to be gone."""
    return Problem("database_busy", "A source was removed under retention while it was being read.", retry_after=1)
