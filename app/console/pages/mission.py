"""One mission: where it is, what it did, what it made, what it wants to change."""

import secrets
from typing import Any

from fastapi import Response
from fastapi.responses import RedirectResponse

from app import missions
from app.console.inside import Refused
from app.console.pages.base import Visit, actor
from app.console.render import address
from app.console.words import TURNS, between, fact, hashes, pretty, said
from app.identity import allow

PAGE = 100
PIECE, MOST_TEXT = 1_900, 38_000  # what a page shows of a long text, and in what portions


async def shown(visit: Visit) -> Response:
    return await render(visit)


async def render(visit: Visit, status: int = 200, problem: dict[str, Any] | None = None, typed: str = "") -> Response:
    after = await visit.end()
    own, cursor = f"/v1/missions/{visit.id}", visit.asked("cursor", 1000)
    seen, events, made, asked, changes = await visit.gather(
        visit.inside.seen(own),
        visit.inside.get(f"{own}/events", limit=PAGE, cursor=cursor),
        visit.inside.get(f"{own}/artifacts", limit=100),
        visit.inside.get("/v1/approvals", mission=visit.id, limit=100),
        visit.inside.get("/v1/writebacks", mission=visit.id, limit=100),
    )
    found = seen.body
    names = await visit.names(found["requested_by"], *people_of(events["items"]))
    mine = found["requested_by"] == str(visit.caller.principal)
    may_fail = allow("missions.fail", visit.caller)
    return visit.page(
        "mission.html",
        "missions",
        status,
        after,
        found=found,
        etag=seen.etag,
        story=told(timeline(events["items"], names)),
        became={one["approval_id"]: one["state"] for one in changes["items"]},
        events=events,
        artifacts=made["items"],
        approvals=asked["items"],
        stages=stages_of(events["items"]),
        names=names,
        closed=found["state"] in missions.CLOSED,
        may_end=may_fail or (mine and allow("missions.cancel", visit.caller)),
        may_fail=may_fail,
        may_replay=allow("missions.replay", visit.caller),
        problem=problem,
        typed=typed,
        once=secrets.token_hex(16),
        cursor=cursor,
    )


def timeline(facts: list[dict[str, Any]], names: dict[str, str]) -> list[dict[str, Any]]:
    """Facts as steps: what it was in words and by whom, whether the story turned there, and what is worth reading of it."""
    return [
        {"at": one["at"], "title": fact(one["type"]), "by": actor(one["actor"], names), "type": one["type"],
         "turn": one["type"] in TURNS, "said": said(one["body"]), "hashes": hashes(one["body"])}
        for one in facts
    ]  # fmt: skip


def told(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps as a story: each turn by itself, what lies between two turns together."""
    found: list[dict[str, Any]] = []
    for one in steps:
        if one["turn"] or not found or found[-1]["turn"]:
            found.append({"turn": one["turn"], "steps": []})
        found[-1]["steps"].append(one)
    for part in found:
        part["summary"] = "" if part["turn"] else between(part["steps"])
    return found


def people_of(facts: list[dict[str, Any]]) -> set[str]:
    return {one["actor"].partition(":")[2] for one in facts if one["actor"].startswith("principal:")}


def stages_of(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = [one["body"] for one in facts if one["type"] == "stage.completed"]
    return [{"stage": one["stage"], "latency_ms": float(one["latency_ms"])} for one in done]


async def packet(visit: Visit) -> Response:
    return visit.handed_on(f"/v1/missions/{visit.id}/packet", "text/html", format="html")


async def packet_zip(visit: Visit) -> Response:
    return visit.handed_on(f"/v1/missions/{visit.id}/packet", "application/zip", format="zip")


async def diff(visit: Visit) -> Response:
    return visit.handed_on(f"/v1/missions/{visit.id}/diff", "text/html", against=visit.asked("against", 36))


async def artifact(visit: Visit) -> Response:
    found = await visit.inside.get(f"/v1/missions/{visit.id}/artifacts/{visit.request.path_params['artifact']}")
    text = pretty(found["content"])
    return visit.page("artifact.html", "missions", found=found, pieces=pieces(text), cut=max(0, len(text) - MOST_TEXT))


def pieces(text: str) -> list[str]:
    """A long text in portions that each fit on a page, as much of it as does."""
    return [text[at : at + PIECE] for at in range(0, min(len(text), MOST_TEXT), PIECE)]


async def ended(visit: Visit) -> Response:
    """Cancel or fail, with a reason."""
    sent = await visit.form()
    verb = "fail" if sent.get("verb") == "fail" else "cancel"
    return await acted(
        visit, sent.get("etag"), verb, {"reason": sent.get("reason")}, sent.get("once"), sent.get("reason")
    )


async def replayed(visit: Visit) -> Response:
    sent = await visit.form()
    mode = "recorded" if sent.get("mode") == "recorded" else "rerun"
    try:
        made = await visit.inside.post(
            f"/v1/missions/{visit.id}/replay", {"mode": mode}, idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        return await render(visit, refused.status, refused.document)
    return RedirectResponse(address("missions", made["id"]), 303)


async def acted(visit: Visit, etag: str, verb: str, body: Any, once: str, typed: str) -> Response:
    try:
        await visit.inside.post(f"/v1/missions/{visit.id}/{verb}", body, if_match=etag, idempotency_key=once)
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        return await render(visit, refused.status, refused.document, typed)
    return RedirectResponse(address("missions", visit.id), 303)
