"""What an environment says of itself, signed, for the others: made here, and checked there before it is believed.

The file is canonical JSON like every signed file of this service: a statement and the Ed25519 signature of the key that it
names. A key speaks for one environment, which its id begins with (`staging`, `staging-2`), so no key can speak for two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictStr, ValidationError
from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.canonical import canonical, sha256
from app.clock import iso, new_id
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.ladder import Standing
from app.ledger.keys import Signer, genuine, parse, sealed
from app.listing import Place, behind
from app.migrate import head
from app.release.gates import BY_NAME
from app.release.judge import GateResult, together
from app.release.looks import Result
from app.settings import Misconfigured, Settings

PURPOSE = "mission-root verdict 1"
MOST_BYTES = 262_144
LIFE = timedelta(days=1)
LONGEST = 600  # of a reason: twenty of them have to fit into the row of a gate
KEPT = text("SELECT * FROM keep_verdict(:tenant, :secret, :id, :environment, :file)")
LIST = """SELECT id, environment, build, result, signed_by, replayed, made_at, expires_at, imported_by, imported_at, sha256
          FROM verdict WHERE tenant = :tenant"""
Name = Annotated[StrictStr, Field(pattern=r"^[a-z*][a-z0-9_]{0,63}$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(Part):
    kind: Name
    id: StrictStr = Field(max_length=64)


class SaidCheck(Part):
    name: Name
    result: Result
    reason: StrictStr | None = Field(max_length=LONGEST)
    evidence: list[Reference] = Field(max_length=50)
    seen_at: AwareDatetime | None
    expires_at: AwareDatetime | None


class SaidGate(Part):
    gate: Name
    result: Result
    checks: list[SaidCheck] = Field(max_length=100)


class Statement(Part):
    """What a verdict says. evidence_sha256 is the hash of everything its checks name as evidence."""

    purpose: Literal["mission-root verdict 1"]
    by: StrictStr = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")
    tenant: StrictStr = Field(min_length=1, max_length=200)
    environment: Literal["local", "staging", "production"]
    build: StrictStr = Field(min_length=1, max_length=100)
    migration: StrictStr = Field(max_length=100)
    result: Result
    gates: list[SaidGate] = Field(min_length=1, max_length=20)
    evidence_sha256: StrictStr = Field(pattern=r"^[0-9a-f]{64}$")
    ladder: dict[Name, Literal["nothing", "dry_run", "assisted", "autonomous"]]
    replayed: list[Name] = Field(max_length=100)
    made_at: AwareDatetime
    expires_at: AwareDatetime


class Sides:
    """Who signs what leaves (None: nothing does), and whose files are believed."""

    def __init__(self, signing: Signer | None, trusted: Mapping[str, bytes]) -> None:
        self.signing, self.trusted = signing, trusted

    @classmethod
    def of(cls, settings: Settings) -> "Sides":
        """Raises Misconfigured."""
        signing = None
        try:
            trusted = dict(ledger.keyring(settings.release_trusted_keys).by_kid)
        except ValueError as wrong:
            raise Misconfigured(f"RELEASE_TRUSTED_KEYS {wrong}.") from None
        for kid in trusted:
            if speaks_for(kid) is None:
                raise Misconfigured(
                    f"RELEASE_TRUSTED_KEYS: {kid} must begin with the environment that the key speaks for, as staging-1 does."
                )
        if settings.release_signing_key is not None:
            try:
                signing = ledger.signer(settings.release_signing_key.get_secret_value())
            except ValueError as wrong:
                raise Misconfigured(f"RELEASE_SIGNING_KEY {wrong}.") from None
            if speaks_for(signing.kid) != settings.environment:
                raise Misconfigured(
                    f"RELEASE_SIGNING_KEY: {signing.kid} must begin with {settings.environment}, the ENVIRONMENT it speaks for."
                )
        return cls(signing, trusted)


def speaks_for(kid: str) -> str | None:
    """The environment a key may speak for."""
    name = kid.partition("-")[0]
    return name if name in ("local", "staging", "production") else None


async def make(
    session: ReadSession,
    signer: Signer,
    environment: str,
    build: str,
    gates: Sequence[GateResult],
    stands: Standing,
    at: datetime,
) -> bytes:
    """The file. It ends when the first evidence does that others read from it, and after a day at most."""
    evidence = [
        [one.check.name, *(f"{two.kind}:{two.id}" for two in one.evidence)] for gate in gates for one in gate.checks
    ]
    carried = [one for gate in gates for one in gate.checks if one.check.place == "staging" and one.result == "pass"]
    ends = [one.expires_at for one in carried if one.expires_at is not None]
    statement: dict[str, Any] = {
        "purpose": PURPOSE,
        "by": signer.kid,
        "tenant": await session.scalar("SELECT tenant_name(:tenant)", {"tenant": session.tenant}),
        "environment": environment,
        "build": build,
        "migration": head(),
        "result": together(gate.result for gate in gates),
        "gates": [
            {
                "gate": gate.gate,
                "result": gate.result,
                "checks": [
                    {
                        "name": one.check.name,
                        "result": one.result,
                        "reason": one.reason and one.reason[:LONGEST],
                        "evidence": [two.view() for two in one.evidence],
                        "seen_at": iso(one.seen_at) if one.seen_at else None,
                        "expires_at": iso(one.expires_at) if one.expires_at else None,
                    }
                    for one in gate.checks
                ],
            }
            for gate in gates
        ],
        "evidence_sha256": sha256(canonical(evidence)).hex(),
        "ladder": {rung: step.autonomy for rung, step in sorted(stands.steps.items())},
        "replayed": sorted(replayed(gates)),
        "made_at": iso(at),
        "expires_at": iso(max(min([at + LIFE, *ends]), at + timedelta(seconds=1))),
    }
    return sealed(statement, signer.by_kid[signer.kid])


REPLAYED = {"oracle_replayed": "oracle_advisory", "crm_replayed": "crm_lead_intelligence"}


def replayed(gates: Sequence[GateResult]) -> list[str]:
    """The mission types that were replayed here, on evidence that still counts."""
    assert REPLAYED.keys() <= BY_NAME.keys()
    return [
        REPLAYED[one.check.name]
        for gate in gates
        for one in gate.checks
        if one.check.name in REPLAYED and one.result == "pass"
    ]


# Why a file is not taken in: cause -> sentence. `cause` of the problem verdict_refused.
CAUSES = {
    "malformed": "The file is no verdict that mission-root release export has written.",
    "unknown_key": "The file is signed by a key that is not among RELEASE_TRUSTED_KEYS.",
    "altered": "The signature is wrong: the file was changed after it was signed.",
    "wrong_environment": "The file speaks for another environment than its key may, or for this one.",
    "expired": "The verdict has expired: export it again.",
    "early": "The verdict was made in the future: look at the clocks of both environments.",
    "other_tenant": "The verdict is about a tenant of another name.",
    "superseded": "A later verdict of that environment is known already.",
}


def refused(cause: str, more: str = "") -> Problem:
    return Problem("verdict_refused", " ".join([CAUSES[cause], *([more] if more else [])]), cause=cause)


def opened(data: bytes, trusted: Mapping[str, bytes], environment: str, at: datetime) -> Statement:
    """What a file says that a key of RELEASE_TRUSTED_KEYS has signed. Raises Problem verdict_refused."""
    found = parse(data)
    if found is None or found["statement"].get("purpose") != PURPOSE:
        raise refused("malformed")
    kid = str(found["statement"].get("by"))
    if kid not in trusted:
        raise refused("unknown_key", f"It names {kid[:40]!r}.")
    if not genuine(found, trusted[kid]):
        raise refused("altered")
    try:
        said = Statement.model_validate_json(json.dumps(found["statement"]), strict=True)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        raise refused("malformed", f"At {'/'.join(map(str, first['loc']))}: {first['msg']}.") from None
    if said.environment != speaks_for(kid):
        raise refused("wrong_environment", f"The key {kid} does not speak for {said.environment}.")
    if said.environment == environment:
        raise refused("wrong_environment", f"This is {environment} itself: its gates are computed, not told.")
    if said.expires_at <= at:
        raise refused("expired", f"It ended at {iso(said.expires_at)}.")
    if not said.made_at < said.expires_at <= said.made_at + timedelta(days=31):
        raise refused("malformed", "A verdict holds for 31 days at most.")
    if said.result != together(gate.result for gate in said.gates) or any(
        gate.result != together(one.result for one in gate.checks) for gate in said.gates
    ):
        raise refused("malformed", "Its results contradict each other.")
    return said


REFUSALS = {
    "unauthenticated": ("unauthenticated", "The key that imports the verdict is no longer live."),
    "not_entitled": ("forbidden", "A verdict is imported by a person who is release_owner."),
}


async def keep(session: WriteSession, caller: Caller, environment: str, data: bytes) -> UUID:
    """Keeps a file that was opened before; the same file is kept once. Raises Problem."""
    said = await session.first(
        KEPT,
        {"tenant": caller.tenant, "secret": caller.secret, "id": new_id(), "environment": environment, "file": data},
    )
    assert said is not None
    if said.outcome in REFUSALS:
        raise Problem(*REFUSALS[said.outcome])
    if said.outcome in CAUSES:
        raise refused(said.outcome)
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    id: UUID = said.id
    return id


@dataclass(frozen=True)
class Imported:
    """A verdict that was imported."""

    id: UUID
    environment: str
    build: str
    result: str
    signed_by: str
    replayed: list[str]
    made_at: datetime
    expires_at: datetime
    imported_by: UUID
    imported_at: datetime
    sha256: bytes

    def view(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "environment": self.environment,
            "build": self.build,
            "result": self.result,
            "signed_by": self.signed_by,
            "replayed": self.replayed,
            "made_at": iso(self.made_at),
            "expires_at": iso(self.expires_at),
            "imported_by": str(self.imported_by),
            "imported_at": iso(self.imported_at),
            "sha256": self.sha256.hex(),
        }


async def imported(session: ReadSession, after: Place, limit: int) -> list[Imported]:
    rows = await behind(session, LIST, after, limit, at="imported_at")
    return [Imported(**row._mapping) for row in rows]


async def one_imported(session: ReadSession, id: UUID) -> Imported | None:
    row = await session.first(f"{LIST} AND id = :id", {"tenant": session.tenant, "id": id})
    return Imported(**row._mapping) if row else None
