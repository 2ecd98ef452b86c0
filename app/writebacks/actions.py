"""Writing down what would be changed."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from app.canonical import sha256
from app.clock import new_id
from app.db import WriteSession
from app.missions import Mission
from app.writebacks.connectors import BadPayload, Payload, encode
from colony_client.artifacts import WritebackProposal

MAX_PAYLOAD = 262_144  # bytes; the wall has the same bound

INSERT = text("""
  INSERT INTO writeback (tenant, id, mission, requested_by, risk, payload, proposal)
  VALUES (:tenant, :id, :mission, :requested_by, :risk, :payload, :proposal)
  ON CONFLICT (tenant, proposal, revision) DO NOTHING RETURNING id""")


@dataclass(frozen=True)
class Written:
    """A writeback row and the hash of the bytes a human will be asked about."""

    id: UUID
    payload_sha256: bytes


def payload_of(proposal: WritebackProposal) -> bytes:
    """The exact bytes to be approved and executed. Raises BadPayload when the proposal cannot be one."""
    kind, slash, record = proposal.target.partition("/")
    if not slash or not kind or not record:
        raise BadPayload("target must be kind/id, such as lead/L-1001")
    payload = encode(
        Payload(
            connector=proposal.connector,
            kind=kind,
            record_id=record,
            operation=proposal.operation,
            changes=dict(proposal.changes),
            expected_version=str(proposal.expected_version),
        )
    )
    if len(payload) > MAX_PAYLOAD:
        raise BadPayload(f"The payload has {len(payload)} bytes; at most {MAX_PAYLOAD} are taken.")
    return payload


async def write(session: WriteSession, mission: Mission, artifact: UUID, proposal: WritebackProposal) -> Written | None:
    """Keeps the writeback of a stored proposal; None when that proposal already has one."""
    payload = payload_of(proposal)
    made = await session.scalar(
        INSERT,
        {
            "tenant": session.tenant,
            "id": new_id(),
            "mission": mission.id,
            "payload": payload,
            "requested_by": mission.requested_by,
            "risk": proposal.risk_level,
            "proposal": artifact,
        },
    )
    return Written(made, sha256(payload)) if made else None
