"""One approval: facts by the root first, the agent's words last, and the decision."""

import json
import secrets
import time
from collections import defaultdict
from typing import Any

from fastapi import Response
from fastapi.responses import RedirectResponse

from app.canonical import canonical
from app.console.door import Form
from app.console.inside import Refused
from app.console.pages.base import Visit
from app.console.pages.mission import pieces
from app.console.render import address
from app.console.words import sentence
from app.errors import Problem

DWELL_S = {"low": 0.0, "medium": 1.0, "high": 1.0}
OPENED = "console-opened"
PRESETS = (
    "The evidence does not support it.",
    "The value is wrong.",
    "Not now: somebody has to look first.",
    "Already done elsewhere.",
)


async def shown(visit: Visit) -> Response:
    return await render(visit)


async def render(
    visit: Visit,
    status: int = 200,
    conflict: dict[str, Any] | None = None,
    typed: dict[str, str] | None = None,
    panel: str = "",
) -> Response:
    """The page; typed is what a form held that was not taken, and panel which of them is open."""
    path = f"/v1/approvals/{visit.id}"
    seen, briefing = await visit.gather(visit.inside.seen(path), visit.inside.get(f"{path}/briefing"))
    found: dict[str, Any] = seen.body
    if found["state"] == "pending" and briefing["you"]["may_decide"]:
        await visit.inside.try_post(f"{path}/looks")
    writeback = None
    if found["writeback_id"] and found["state"] != "pending":
        writeback = await visit.inside.get(f"/v1/writebacks/{found['writeback_id']}")
    receipt = await receipt_of(visit, found) if found["decisions"] else None
    more = [one["approver"] for one in found["decisions"]]
    if conflict:
        more += [one["approver"] for one in conflict.get("current", {}).get("decisions", [])]
    names = {key: one["name"] for key, one in briefing["people"].items()} | await visit.names(*more)
    current = found["current"] or {}
    says = sentence(found, visit.environment, current.get("value"))
    return visit.page(
        "approval.html",
        "",
        status,
        found=found,
        etag=seen.etag,
        briefing=briefing,
        names=names,
        says=says,
        diff=differences(says, found["payload"] or {}),
        raw=pieces(canonical(found["payload"]).decode() if found["payload"] else ""),
        buttons=buttons(visit, found, briefing, writeback),
        writeback=writeback,
        receipt=receipt,
        conflict=conflict,
        typed=defaultdict(str, typed or {}),
        panel=panel,
        presets=PRESETS,
        dwell=DWELL_S.get(found["risk_level"], 1.0),
        opened=opened(visit),
        once=secrets.token_hex(16),
        command=command(visit, found),
    )


def differences(says: dict[str, Any], payload: dict[str, Any]) -> list[dict[str, Any]]:
    """Each field as it is now and as it would be. A value that is the same already is said to be."""
    return [{**one, "same": one["known"] and one["before"] == one["after"]} for one in says["changes"]]


def buttons(
    visit: Visit, found: dict[str, Any], briefing: dict[str, Any], writeback: dict[str, Any] | None
) -> dict[str, str | None]:
    """For every button why it cannot be pressed; None when it can."""
    closed = None if found["state"] == "pending" else f"It is {found['state']} already."
    why = briefing["you"]["why_not"]
    signed = (
        "This rule counts signed approvals only: the command below signs with your key."
        if found["signature_required"]
        else None
    )
    moving = found["state"] in ("pending", "approved") and (writeback is None or writeback["started_at"] is None)
    edit = None if moving else "What was claimed or closed is not edited any more."
    if found["subject"] != "writeback":
        edit = "This asks about the mission itself: there is nothing to edit."
    glass = closed or (
        None
        if "break_glass" in visit.caller.roles
        else "The ladder escalates it; a holder of break_glass can break the glass."
    )
    if found["glass"]:
        glass = "The glass is broken already."
    back = (
        None
        if moving and "operator" in visit.caller.roles
        else "Taking back is an operator's, until the executor has claimed it."
    )
    return {"approve": why or signed, "reject": why, "edit": edit, "escalate": glass, "ask": closed, "back": back}


def command(visit: Visit, found: dict[str, Any]) -> str:
    """What completes a decision that has to be signed: the key never comes near this page."""
    return f"mission-root approvals decide {found['id']} approve --payload-sha256 {found['payload_sha256']} --signing-key KEY.pem"


def opened(visit: Visit) -> str:
    """When this page was made, sealed: a decision comes back with it."""
    sealed: str = visit.request.app.state.cursors.seal(
        OPENED, [str(visit.id), str(visit.caller.principal), time.time()]
    )
    return sealed


def looked_s(visit: Visit, sent: Form) -> float:
    """How long the page of this approval was open. 0 for a form that no page of ours made."""
    try:
        said = visit.request.app.state.cursors.open(OPENED, sent.get("opened"), 3)
    except Problem:
        return 0.0
    return time.time() - said[2] if said and said[:2] == [str(visit.id), str(visit.caller.principal)] else 0.0


async def receipt_of(visit: Visit, found: dict[str, Any]) -> dict[str, Any]:
    """The ledger rows of its decisions, newest last."""
    cursor, rows = "", []
    for _ in range(5):
        page = await visit.inside.get(f"/v1/missions/{found['mission_id']}/events", limit=200, cursor=cursor)
        rows += [
            one
            for one in page["items"]
            if one["type"] == "approval.decided" and one["body"].get("approval") == found["id"]
        ]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    return {"rows": rows}


async def decided(visit: Visit) -> Response:
    """Approve or reject exactly what the form shows."""
    sent = await visit.form()
    verdict = sent.get("decision")
    risk = (await visit.inside.get(f"/v1/approvals/{visit.id}"))["risk_level"] if verdict == "approve" else "low"
    comment = " ".join(filter(None, (sent.get("preset"), sent.get("comment").strip())))
    typed = {"comment": sent.get("comment"), "preset": sent.get("preset"), "name": sent.get("name")}
    if verdict == "approve" and (held := await held_back(visit, sent, risk)):
        return await render(visit, 422, held, typed, "approve")
    body = {"decision": verdict, "payload_sha256": sent.get("sha256"), "comment": comment or None}
    return await take(visit, sent, "decisions", body, typed, verdict)


async def held_back(visit: Visit, sent: Form, risk: str) -> dict[str, Any] | None:
    """Why an approval is not passed on yet: it came too fast to have been read, or the record's name is not typed."""
    if looked_s(visit, sent) < DWELL_S.get(risk, 1.0):
        return said("Look at it for a second first. Nothing was decided.")
    if risk == "high" and sent.get("name").strip() != sent.get("record"):
        return said("Type the record's name exactly as it is shown to approve at high risk. Nothing was decided.")
    return None


def said(detail: str) -> dict[str, Any]:
    return {"title": "Not sent", "detail": detail, "code": "held", "errors": [], "current": {}}


async def take(
    visit: Visit, sent: Form, verb: str, body: dict[str, Any], typed: dict[str, str], panel: str
) -> Response:
    """One verb of the API. What it will not do is said on the page, with what was typed still there."""
    try:
        await visit.inside.post(
            f"/v1/approvals/{visit.id}/{verb}", body, if_match=sent.get("etag"), idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.code in ("unauthenticated", "not_found", "rate_limited") or refused.status >= 500:
            raise
        return await render(visit, refused.status, refused.document, typed, panel)
    return RedirectResponse(address("approvals", visit.id, done=panel), 303)


async def revised(visit: Visit) -> Response:
    """Asks about other values instead: a new writeback, with an approval of its own."""
    sent = await visit.form()
    fields = sent.under("field:")
    typed = {"reason": sent.get("reason"), **{f"field:{name}": value for name, value in fields.items()}}
    changes = {name: value_of(value) for name, value in fields.items()}
    body = {"payload_sha256": sent.get("sha256"), "changes": changes, "reason": sent.get("reason")}
    try:
        made = await visit.inside.post(
            f"/v1/approvals/{visit.id}/revisions", body, if_match=sent.get("etag"), idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.code in ("unauthenticated", "not_found", "rate_limited") or refused.status >= 500:
            raise
        return await render(visit, refused.status, refused.document, typed, "edit")
    return RedirectResponse(address("approvals", made["approval_id"], done="edit"), 303)


def value_of(text: str) -> Any:
    """A field's value as the form holds it: JSON, and what is no JSON is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


async def taken_back(visit: Visit) -> Response:
    sent = await visit.form()
    reason = sent.get("reason")
    return await take(visit, sent, "cancel", {"reason": reason}, {"back_reason": reason}, "back")


async def glass_broken(visit: Visit) -> Response:
    sent = await visit.form()
    reason = sent.get("reason")
    body = {"payload_sha256": sent.get("sha256"), "reason": reason}
    return await take(visit, sent, "break-glass", body, {"glass_reason": reason}, "escalate")
