"""One approval: facts by the root first, the agent's words last, and the decision."""

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import Response
from fastapi.responses import RedirectResponse

from app.canonical import canonical
from app.console.door import Form
from app.console.inside import Refused
from app.console.pages import edits
from app.console.pages.base import Visit
from app.console.pages.mission import pieces
from app.console.render import MOST, address
from app.console.words import sentence
from app.errors import Problem
from app.identity import allow

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
    path, after = f"/v1/approvals/{visit.id}", await visit.end()
    seen, briefing = await visit.gather(visit.inside.seen(path), visit.inside.get(f"{path}/briefing"))
    found: dict[str, Any] = seen.body
    if found["state"] == "pending" and briefing["you"]["may_decide"]:
        await visit.inside.try_post(f"{path}/looks")
    writeback, rows = await visit.gather(writeback_of(visit, found), rows_of(visit, found))
    more = [found["withdrawn_by"], *(one["approver"] for one in found["decisions"])]
    if vouched := vouched_for(writeback):
        more.append(vouched["by"])
    for about in (found, *found["asked_before"]):
        more += [one["by"] for one in about["handed"]]
        more += [one[name] for one in about["questions"] for name in ("asked_by", "to", "answered_by")]
    if conflict:
        more += [one["approver"] for one in conflict.get("current", {}).get("decisions", [])]
    names = {key: one["name"] for key, one in briefing["people"].items()} | await visit.names(*more)
    current = found["current"] or {}
    says = sentence(found, visit.environment, current.get("value"))
    return visit.page(
        "approval.html",
        "",
        status,
        after,
        found=found,
        etag=seen.etag,
        briefing=briefing,
        names=names,
        says=says,
        diff=differences(says),
        raw=pieces(canonical(found["payload"]).decode() if found["payload"] else ""),
        buttons=buttons(visit, found, briefing, writeback),
        further=[one for one in found["rule"]["may_escalate_to"] if one not in found["may_decide"]],
        writeback=writeback,
        vouched=vouched,
        rows=rows,
        conflict=conflict,
        typed=defaultdict(str, typed or {}),
        panel=panel,
        presets=PRESETS,
        dwell=DWELL_S.get(found["risk_level"], 1.0),
        opened=opened(visit, visit.id),
        once=secrets.token_hex(16),
        command=command(found),
        longest_value=MOST,
        editable=edits.fields(changes_of(found)),
    )


def changes_of(found: dict[str, Any]) -> dict[str, Any]:
    """What the change would set; nothing for a question about a mission."""
    changes: dict[str, Any] = found["payload"]["changes"] if found["subject"] == "writeback" else {}
    return changes


async def writeback_of(visit: Visit, found: dict[str, Any]) -> dict[str, Any] | None:
    """What became of the change since the approval closed; None before."""
    if not found["writeback_id"] or found["state"] == "pending":
        return None
    became: dict[str, Any] = await visit.inside.get(f"/v1/writebacks/{found['writeback_id']}")
    return became


def vouched_for(writeback: dict[str, Any] | None) -> dict[str, Any] | None:
    """The receipt of a change that was ended by a human's word."""
    receipt: dict[str, Any] = (writeback or {}).get("receipt") or {}
    return receipt if receipt.get("finding") == "vouched" else None


async def rows_of(visit: Visit, found: dict[str, Any]) -> dict[str, str]:
    """Where each decision stands on the ledger, by who made it: everybody decides once."""
    if not found["decisions"]:
        return {}
    story = await visit.inside.try_get("/v1/explain", id=found["id"])
    steps = [] if isinstance(story, Refused) else story["steps"]
    # several in one step are of several approvals, and which is this one's cannot be told
    told = [one for one in steps if one["what"] == "decided" and one["marked"] and one["count"] == 1]
    return {one["actor"].partition(":")[2]: one["facts"][0] for one in told}


def differences(says: dict[str, Any]) -> list[dict[str, Any]]:
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
    edit = briefing["you"]["why_not_edit"]
    glass = closed or (
        None
        if allow("approvals.break_glass", visit.caller)
        else "Only a holder of break_glass can break the glass. An admin gives that role beforehand."
    )
    if found["glass"]:
        glass = "The glass is broken already."
    back = (
        None
        if moving and allow("approvals.cancel", visit.caller)
        else "Taking back is an operator's, until the executor has claimed it."
    )
    became, you = (writeback or {}).get("state"), briefing["you"]
    return {
        "vouch": None
        if became == "unknown" and allow("writebacks.vouch", visit.caller) and not you["took_part"]
        else "Only an operator can say so who had no part in asking for it.",
        "renew": None
        if became == "stale" and not found["successor_approval"] and allow("writebacks.renew", visit.caller)
        else "Renewing is an operator's, once.",
        "approve": why or signed,
        "reject": why,
        "edit": edit,
        "ask": you["why_not_ask"],
        "escalate": you["why_not_escalate"],
        "glass": glass,
        "back": back,
    }


def command(found: dict[str, Any]) -> str:
    """What completes a decision that has to be signed: the key never comes near this page."""
    return f"mission-root approvals decide {found['id']} approve --payload-sha256 {found['payload_sha256']} --signing-key KEY.pem"


def opened(visit: Visit, approval: UUID) -> str:
    """When the page about this approval was made, sealed: a decision comes back with it."""
    sealed: str = visit.request.app.state.cursors.seal(
        OPENED, [str(approval), str(visit.caller.principal), time.time()]
    )
    return sealed


def looked_s(visit: Visit, sent: Form, approval: UUID) -> float:
    """How long the page about this approval was open. 0 for a form that no page of ours made."""
    try:
        said = visit.request.app.state.cursors.open(OPENED, sent.get("opened"), 3)
    except Problem:
        return 0.0
    return time.time() - said[2] if said and said[:2] == [str(approval), str(visit.caller.principal)] else 0.0


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
    if looked_s(visit, sent, visit.id) < DWELL_S.get(risk, 1.0):
        return said("Look at it for a second first. Nothing was decided.")
    if risk == "high" and sent.get("name").strip() != sent.get("record"):
        return said("Type the record's name exactly as it is shown to approve at high risk. Nothing was decided.")
    return None


def said(detail: str, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    return {"title": "Not sent", "detail": detail, "code": "held", "errors": errors, "current": {}}


async def take(
    visit: Visit, sent: Form, verb: str, body: dict[str, Any], typed: dict[str, str], panel: str, part: str = ""
) -> Response:
    """One verb of the API. What it will not do is said on the page, with what was typed still there; part: where to go on."""
    try:
        await visit.inside.post(
            f"/v1/approvals/{visit.id}/{verb}", body, if_match=sent.get("etag"), idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.code in ("unauthenticated", "not_found", "rate_limited") or refused.status >= 500:
            raise
        return await render(visit, refused.status, refused.document, typed, panel)
    return RedirectResponse(address("approvals", visit.id) + part, 303)


async def revised(visit: Visit) -> Response:
    """Asks about other values instead: a new writeback, with an approval of its own."""
    sent = await visit.form()
    fields = sent.under("field:")
    typed = {"reason": sent.get("reason"), **{f"field:{name}": value for name, value in fields.items()}}
    old = changes_of(await visit.inside.get(f"/v1/approvals/{visit.id}"))
    changes, errors = edits.merged(old, fields)
    if errors:
        return await render(visit, 422, said("A value cannot be taken. Nothing was asked for.", errors), typed, "edit")
    body = {"payload_sha256": sent.get("sha256"), "changes": changes, "reason": sent.get("reason")}
    try:
        made = await visit.inside.post(
            f"/v1/approvals/{visit.id}/revisions", body, if_match=sent.get("etag"), idempotency_key=sent.get("once")
        )
    except Refused as refused:
        if refused.code in ("unauthenticated", "not_found", "rate_limited") or refused.status >= 500:
            raise
        return await render(visit, refused.status, refused.document, typed, "edit")
    return RedirectResponse(address("approvals", made["approval_id"]), 303)


async def taken_back(visit: Visit) -> Response:
    sent = await visit.form()
    reason = sent.get("reason")
    return await take(visit, sent, "cancel", {"reason": reason}, {"back_reason": reason}, "back")


async def vouched_by(visit: Visit) -> Response:
    """What a person found in a target that cannot say what became of the change."""
    sent = await visit.form()
    body = {"found": sent.get("found"), "comment": sent.get("comment")}
    typed = {"found": body["found"], "vouch_comment": body["comment"]}
    return await about_writeback(visit, sent, "vouch", body, typed)


async def renewed(visit: Visit) -> Response:
    """The same changes again, for the version that the record has now."""
    return await about_writeback(visit, await visit.form(), "renew", {}, {})


async def about_writeback(visit: Visit, sent: Form, verb: str, body: dict[str, Any], typed: dict[str, str]) -> Response:
    """One verb on what became of the change. Goes on to what is asked now, where that is another approval."""
    found = await visit.inside.get(f"/v1/approvals/{visit.id}")
    if not found["writeback_id"]:
        return await render(visit, 422, said("It asks about a mission, not about a change."), typed, verb)
    path = f"/v1/writebacks/{found['writeback_id']}/{verb}"
    try:
        done = await visit.inside.post(path, body, idempotency_key=sent.get("once"))
    except Refused as refused:
        if refused.code in ("unauthenticated", "not_found", "rate_limited") or refused.status >= 500:
            raise
        return await render(visit, refused.status, refused.document, typed, verb)
    return RedirectResponse(address("approvals", done["approval_id"]), 303)


async def glass_broken(visit: Visit) -> Response:
    sent = await visit.form()
    reason = sent.get("reason")
    body = {"payload_sha256": sent.get("sha256"), "reason": reason}
    return await take(visit, sent, "break-glass", body, {"glass_reason": reason}, "glass")


async def escalated(visit: Visit) -> Response:
    """Another role is asked as well."""
    sent = await visit.form()
    body = {"role": sent.get("role"), "reason": sent.get("reason")}
    typed = {"role": body["role"], "escalate_reason": body["reason"]}
    return await take(visit, sent, "escalate", body, typed, "escalate")


async def asked(visit: Visit) -> Response:
    sent = await visit.form()
    body = {"question": sent.get("question"), "to": sent.get("to") or None}
    typed = {"question": sent.get("question"), "to": sent.get("to")}
    return await take(visit, sent, "questions", body, typed, "ask", "#questions")


async def answered(visit: Visit) -> Response:
    sent = await visit.form()
    question, words = str(visit.request.path_params["question"]), sent.get("answer")
    typed = {"answered": question, "answer": words}
    return await take(visit, sent, f"questions/{question}/answer", {"answer": words}, typed, "answer", "#questions")
