"""The packet as JSON for programs and as one HTML page for people."""

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import jinja2
from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from app.db import ReadSession
from app.errors import Problem
from app.http import Door, Reply, Routes, reading
from app.packet.assemble import assemble
from app.retention import RetentionView

router = Routes(tags=["packet"])
CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # controls, formats, private use, surrogates, line and paragraph ends


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
    citations: list[PacketCitation]


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
    review: dict[str, Any] | None
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
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def get_packet(
    mission_id: UUID, request: Request, door: Annotated[Door[ReadSession], reading("missions.read")]
) -> Response:
    """JSON by default, a self-contained page when the client accepts text/html first."""
    packet = await assemble(door.session, mission_id)
    if packet is None:
        raise Problem("not_found", "There is no such mission.")
    wanted = request.headers.get("accept", "")
    if "text/html" in wanted and "application/json" not in wanted.split("text/html")[0]:
        page = template().render(packet=packet, flaws=flaws(packet))
        return HTMLResponse(page, headers={"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff"})
    return Reply(packet).response()


def flaws(packet: dict[str, Any]) -> list[str]:
    """Everything that could not be verified, in one list."""
    if packet["review"]:
        return list(packet["review"]["problems"])
    return [packet["retention"]["note"] or "The root has not reviewed this mission."]


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    environment.filters["when"] = lambda instant: f"{instant[:10]} {instant[11:19]} UTC"
    return environment.from_string((Path(__file__).parent / "packet.html").read_text())


def visible(text: str) -> str:
    """Control, direction and other invisible characters as their names: evidence is shown as what it is."""
    if text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if hidden(c) else c for c in text)


def hidden(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in INVISIBLE
