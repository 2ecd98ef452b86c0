"""Attestations and verdicts over HTTP: what people sign, what this environment says of itself, and what others say."""

from datetime import timedelta
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.build import name_of
from app.caller import Caller
from app.clock import now
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, read_body, reading, writing
from app.http.doors import admitting
from app.release.actions import attest, claim_of, withdraw
from app.release.api import Environment, picture_of, probes_of, reads
from app.release.looks import Result
from app.release.queries import attestation, attestations
from app.release.verdicts import MOST_BYTES, PURPOSE, Sides, imported, keep, make, one_imported, opened

router = Routes(tags=["release"])


class AttestAsk(BaseModel):
    """What is attested: a check that nothing can compute. comment: what the judgement rests on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"claim": "stable_for_demo", "comment": "Twelve demo questions, asked twice, answered alike."}]
        },
    )
    claim: str = Field(min_length=1, max_length=63, description="The check's name, as in getGates.")
    comment: str = Field(min_length=1, max_length=2000)
    valid_s: int | None = Field(
        None, ge=60, description="How long it holds; as long as the check allows when left out."
    )


class AttestationView(BaseModel):
    """What a person signed by presenting their secret. sha256 is the hash of the signed statement."""

    id: UUID
    environment: Environment
    claim: str
    sentence: str
    comment: str
    build: str
    role: Literal["product_owner", "release_owner"]
    sha256: str
    state: Literal["live", "expired", "withdrawn"]
    signed_by: UUID
    signed_at: str
    expires_at: str
    withdrawn_by: UUID | None
    withdrawn_at: str | None


class VerdictView(BaseModel):
    """A verdict of another environment that was imported."""

    id: UUID
    environment: Environment
    build: str
    result: Result
    signed_by: str
    replayed: list[str]
    made_at: str
    expires_at: str
    imported_by: UUID
    imported_at: str
    sha256: str


@router.post(
    "/v1/release/attestations",
    operation_id="attest",
    status_code=201,
    response_model=AttestationView,
    summary="Attest what only a person can judge",
)
async def post_attestation(
    ask: AttestAsk, request: Request, door: Annotated[Door[WriteSession], writing("release.attest")]
) -> Response:
    """Signs the check's sentence for this environment and build, as a person of the role that the check asks for."""
    settings = request.app.state.settings

    async def run() -> Reply:
        life = None if ask.valid_s is None else timedelta(seconds=ask.valid_s)
        check = claim_of(ask.claim)
        build = name_of(settings.build)
        id = await attest(door.session, door.caller, settings.environment, build, check, ask.comment, life)
        made = await attestation(door.session, id)
        assert made is not None
        return Reply(made.view(), 201, {"Location": f"/v1/release/attestations/{id}"})

    return await once(door, "release.attest", run)


@router.get(
    "/v1/release/attestations",
    operation_id="listAttestations",
    response_model=Page[AttestationView],
    summary="Attestations, newest first",
)
async def list_attestations(
    request: Request,
    door: Annotated[Door[ReadSession], reading("release.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    claim: Annotated[str | None, Query(max_length=63, description="Only those of this check.")] = None,
) -> Response:
    """A page of what people attested, with what ended or was withdrawn."""
    found = partial(attestations, door.session, claim=claim)
    scope = f"attestations.{claim or ''}"
    return await paged(request, scope, limit, cursor, found, view=lambda one: one.view(), by=("signed_at", "id"))


@router.get(
    "/v1/release/attestations/{attestation_id}",
    operation_id="getAttestation",
    response_model=AttestationView,
    summary="One attestation",
)
async def get_attestation(
    attestation_id: UUID, door: Annotated[Door[ReadSession], reading("release.read")]
) -> Response:
    """Who signed what, until when."""
    found = await attestation(door.session, attestation_id)
    if found is None:
        raise Problem("not_found", "There is no such attestation.")
    return Reply(found.view()).response()


@router.post(
    "/v1/release/attestations/{attestation_id}/withdraw",
    operation_id="withdrawAttestation",
    response_model=AttestationView,
    summary="Take an attestation back",
)
async def withdraw_attestation(
    attestation_id: UUID, door: Annotated[Door[WriteSession], writing("release.attest")]
) -> Response:
    """By a person of the role it was signed in, or a release owner. Its check fails until it is attested anew."""

    async def run() -> Reply:
        await withdraw(door.session, door.caller, attestation_id)
        found = await attestation(door.session, attestation_id)
        assert found is not None
        return Reply(found.view())

    return await once(door, "release.withdraw", run)


@router.get(
    "/v1/release/verdict",
    operation_id="exportVerdict",
    summary="This environment's verdict as one signed file",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def get_verdict(request: Request, caller: Annotated[Caller, admitting("release.export")]) -> Response:
    """Gates, ladder and build, computed now and signed with RELEASE_SIGNING_KEY: for other environments and for pipelines."""
    state = request.app.state
    sides: Sides = state.release
    if sides.signing is None:
        raise Problem(
            "not_configured", "RELEASE_SIGNING_KEY is not set: verdicts cannot be signed here.", retry_after=300
        )
    probes = await probes_of(state)
    async with reads(request, caller) as session:
        seen = await picture_of(session, state, probes)
        around = seen.around
        data = await make(session, sides.signing, around.environment, around.build, seen.gates, seen.stands, around.at)
    name = f'attachment; filename="verdict-{seen.around.environment}.json"'
    return Response(data, 200, {"Content-Disposition": name}, "application/json")


@router.post(
    "/v1/release/verdicts",
    operation_id="importVerdict",
    status_code=201,
    response_model=VerdictView,
    summary="Import the verdict of another environment",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {"signature": "base64", "statement": {"by": "staging-1", "purpose": PURPOSE}},
                }
            },
        }
    },
)
async def import_verdict(request: Request, caller: Annotated[Caller, admitting("release.import")]) -> Response:
    """Takes a file of exportVerdict, when a key of RELEASE_TRUSTED_KEYS that speaks for its environment has signed it."""
    state = request.app.state
    data = await read_body(request, MOST_BYTES)
    environment = state.settings.environment
    opened(data, state.release.trusted, environment, now())
    async with state.database.write() as session:
        await session.enter(caller.tenant)

        async def run() -> Reply:
            id = await keep(session, caller, environment, data)
            kept = await one_imported(session, id)
            assert kept is not None
            return Reply(kept.view(), 201, {"Location": f"/v1/release/verdicts/{id}"})

        return await once(Door(session, caller, request), "release.import", run)


@router.get(
    "/v1/release/verdicts",
    operation_id="listVerdicts",
    response_model=Page[VerdictView],
    summary="Imported verdicts, newest first",
)
async def list_verdicts(
    request: Request,
    door: Annotated[Door[ReadSession], reading("release.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """A page of what other environments have said."""
    found = partial(imported, door.session)
    return await paged(request, "verdicts", limit, cursor, found, view=lambda one: one.view(), by=("imported_at", "id"))


@router.get(
    "/v1/release/verdicts/{verdict_id}", operation_id="getVerdict", response_model=VerdictView, summary="One verdict"
)
async def get_one_verdict(verdict_id: UUID, door: Annotated[Door[ReadSession], reading("release.read")]) -> Response:
    """What it says in short, and who signed it."""
    found = await one_imported(door.session, verdict_id)
    if found is None:
        raise Problem("not_found", "There is no such verdict.")
    return Reply(found.view()).response()
