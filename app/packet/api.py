"""The packet as JSON for programs, as one HTML page for people, and as one zip that proves itself."""

import json
import os
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel
from pydantic_core import to_json

from app import ledger
from app.db import ReadSession
from app.errors import Problem
from app.http import Door, Reply, Routes, reading
from app.ledger.store import UNREACHABLE
from app.packet.archive import chunks, pack
from app.packet.assemble import assemble
from app.packet.page import rendered
from app.retention import RetentionView
from colony_client.artifacts import Contradiction, ReviewedSource, SourceAge, Trust

router = Routes(tags=["packet"])
CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Format = Literal["json", "html", "zip"]
KINDS: dict[str, Format] = {"application/json": "json", "text/html": "html", "application/zip": "zip"}


class PacketCitation(BaseModel):
    document: str
    source: str
    start: int
    end: int
    quote: str
    quote_sha256: str
    verified: bool
    problem: str | None


class PacketClaim(BaseModel):
    id: str
    text: str
    supported: bool
    age: SourceAge | None
    trust: Trust | None
    citations: list[PacketCitation]


class PacketReview(BaseModel):
    """What the root's review found. unsupported: the claims that no stored bytes support."""

    verdict: Literal["passed", "failed"]
    coverage: float
    unsupported: list[str]
    problems: list[str]
    minimum: dict[str, Any] | None
    sources: list[ReviewedSource] | None
    age: SourceAge | None
    trust: Trust | None
    contradictions: list[Contradiction] | None
    left_uncompared: int | None
    artifact_id: str
    sha256: str


class PacketView(BaseModel):
    """Answer, claims with evidence, what could not be verified, stages, decisions, writebacks, and the whole timeline."""

    mission: dict[str, Any]
    retention: RetentionView
    answer_status: Literal["answered", "not_found"]
    answer: str
    claims: list[PacketClaim]
    sections: list[dict[str, Any]]
    leads: list[dict[str, Any]]
    not_found: list[str]
    review: PacketReview | None
    stages: list[dict[str, Any]]
    policy_decisions: list[dict[str, Any]]
    approvals: list[dict[str, Any]]
    writebacks: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    timeline: list[dict[str, Any]]


@router.get(
    "/v1/missions/{mission_id}/packet",
    operation_id="getPacket",
    response_model=PacketView,
    summary="The reviewer packet",
    responses={
        200: {
            "content": {
                "text/html": {"schema": {"type": "string"}},
                "application/zip": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    },
)
async def get_packet(
    mission_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("missions.read")],
    format: Annotated[Format | None, Query(description="Instead of what the Accept header prefers.")] = None,
) -> Response:
    """JSON by default, a self-contained page, or one zip with all that stands behind it and `verify.py`, which runs offline.

    Without `format` the first of application/json, text/html and application/zip in the Accept header counts.
    """
    wanted = format or preferred(request.headers.get("accept", ""))
    if wanted == "zip":
        return await zipped(request, door, mission_id)
    packet = await assemble(door.session, mission_id)
    if packet is None:
        raise no_mission()
    if wanted == "html":
        return inert(rendered(json.loads(to_json(packet))))
    return Reply(packet).response()


def inert(page: str) -> HTMLResponse:
    """A page on which nothing runs and from which nothing is asked."""
    return HTMLResponse(page, headers={"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff"})


def preferred(accept: str) -> Format:
    """The format that is named first; JSON where none is."""
    places = {found: accept.find(kind) for kind, found in KINDS.items() if kind in accept}
    return min(places, key=lambda found: places[found], default="json")


async def zipped(request: Request, door: Door[ReadSession], mission_id: UUID) -> Response:
    """The zip, once it is whole. No transaction is open meanwhile but its own short ones."""
    if not await ledger.known(door.session, mission_id):
        raise no_mission()
    await door.session.connection.close()
    state = request.app.state
    try:
        async with state.packing:
            file = await pack(
                state.database, door.caller.tenant, mission_id, state.anchor_store, state.anchor_keys, state.objects
            )
    except UNREACHABLE as away:
        raise Problem("upstream_unavailable", "The store of anchors cannot be read.", retry_after=5) from away
    headers = {
        "Content-Disposition": f'attachment; filename="packet-{mission_id}.zip"',
        "Content-Length": str(file.seek(0, os.SEEK_END)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    file.seek(0)
    return StreamingResponse(chunks(file), media_type="application/zip", headers=headers)


def no_mission() -> Problem:
    return Problem("not_found", "There is no such mission.")
