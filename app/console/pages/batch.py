"""Several changes of one kind, decided together: the same operation under the same policy, and every difference on the page."""

import secrets
from typing import Any
from uuid import UUID

from fastapi import Response

from app.console.inside import Refused
from app.console.pages.approval import differences, looked_s, opened
from app.console.pages.base import Visit
from app.console.pages.inbox import kind_of
from app.console.words import sentence
from app.errors import Problem

MOST = 10  # each is read live: what nobody would look through is not read


async def shown(visit: Visit) -> Response:
    return await render(visit, [])


async def render(visit: Visit, results: list[dict[str, Any]], status: int = 200, held: str = "") -> Response:
    whole = await visit.inside.seen(f"/v1/approvals/{like(visit)}")
    first = whole.body
    why = undecidable(first)
    alike = [] if why else [one["id"] for one in await waiting(visit, first)]
    others = [id for id in alike if id != first["id"]]
    read = await visit.gather(*(visit.inside.seen(f"/v1/approvals/{id}") for id in others))
    seen = dict(zip(others, read, strict=True)) | {first["id"]: whole}
    items = []
    for answer in (seen[id] for id in alike):
        found = answer.body
        says = sentence(found, visit.environment, (found["current"] or {}).get("value"))
        items.append({"found": found, "etag": answer.etag, "says": says, "diff": differences(says)})
    return visit.page(
        "batch.html", "", status, first=first, why=why, items=items, results=results, held=held,
        opened=opened(visit, like(visit)), once=secrets.token_hex(12), dwell=len(items),
    )  # fmt: skip


def like(visit: Visit) -> UUID:
    try:
        return UUID(visit.asked("like"))
    except ValueError:
        raise Problem("not_found", "There is no such approval.") from None


def undecidable(first: dict[str, Any]) -> str:
    """Why changes like this one are not decided together; empty when they are."""
    if first["subject"] != "writeback":
        return "A question about a mission is answered by itself."
    if first["signature_required"]:
        return "Signed approvals are made one by one."
    if first["risk_level"] == "high":
        return "At high risk each change is decided by itself."
    return ""


async def waiting(visit: Visit, first: dict[str, Any]) -> list[dict[str, Any]]:
    """Pending changes of the same kind, under the same version of the same rule, at the same risk."""
    found = await visit.inside.get(
        "/v1/inbox", limit=40, connector=first["payload"]["connector"], operation=first["payload"]["operation"],
        rule=first["rule"]["id"], rule_version=first["rule"]["version"], risk=first["risk_level"],
    )  # fmt: skip
    same = [
        one for one in found["items"] if kind_of(one) == kind_of(first) and one["obligations"] == first["obligations"]
    ]
    return [one for one in same if not one["you_decided"]][:MOST]


async def decided(visit: Visit) -> Response:
    """Each by itself, with its own hash and version: what cannot be taken does not hold up the others."""
    sent, about = await visit.form(), like(visit)
    chosen = sent.all("approval")[:MOST]
    verdict = sent.get("decision")
    comment = sent.get("comment").strip() or None
    if not chosen:
        return await render(visit, [], 422, "Choose at least one change.")
    if verdict == "approve" and looked_s(visit, sent, about) < len(chosen):
        return await render(
            visit, [], 422, f"Look at them first: {len(chosen)} changes take {len(chosen)} seconds at least."
        )
    results = []
    for one in chosen:
        id, etag, digest = [*one.split(" "), "", "", ""][:3]
        body = {"decision": verdict, "payload_sha256": digest, "comment": comment}
        try:
            UUID(id)
            done = await visit.inside.post(
                f"/v1/approvals/{id}/decisions", body, if_match=etag, idempotency_key=f"{sent.get('once')}-{id}"
            )
            results.append({"id": id, "state": done["outcome"], "detail": "", "not_before": done["not_before"]})
        except Refused as refused:
            results.append(
                {"id": id, "state": "not decided", "detail": refused.document.get("detail", ""), "not_before": None}
            )
        except ValueError:
            results.append({"id": id, "state": "not decided", "detail": "This is no approval.", "not_before": None})
    return await render(visit, results)
