"""The queue, most urgent first."""

from collections import Counter

from fastapi import Response

from app.console.pages.base import Visit
from app.console.words import sentence

PAGE = 50


async def shown(visit: Visit) -> Response:
    after = await visit.end()
    risk, cursor = visit.asked("risk"), visit.asked("cursor", 1000)
    asked = {"limit": PAGE, "cursor": cursor, "risk": risk if risk in ("low", "medium", "high") else ""}
    found = await visit.inside.get("/v1/inbox", **asked)
    items = [{**one, "says": sentence(one, visit.environment)} for one in found["items"]]
    alike = Counter(kind_of(one) for one in items if one["subject"] == "writeback")
    for one in items:  # said once, at the first of its kind
        one["alike"] = alike.pop(kind_of(one), 0) if one["subject"] == "writeback" else 0
    return visit.page("inbox.html", "", after=after, found=found, items=items, risk=risk, cursor=cursor)


def kind_of(one: dict[str, object]) -> tuple[object, ...]:
    """What has to be the same for two changes to be decided together."""
    payload, rule = one["payload"], one["rule"]
    assert isinstance(payload, dict) and isinstance(rule, dict)
    return (
        payload["connector"],
        payload["operation"],
        payload["target"]["kind"],
        rule["id"],
        rule["version"],
        one["risk_level"],
    )
