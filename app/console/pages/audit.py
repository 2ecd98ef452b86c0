"""Any id in, the whole story out: one line from the request to the read-back, then the proof of it."""

from typing import Any

from fastapi import Response

from app.console.pages.base import Visit, actor
from app.console.pages.mission import people_of, timeline, told

MOST = 400  # steps on one page
AT_ONCE = 200


async def shown(visit: Visit) -> Response:
    said = visit.asked("q").strip()
    if not said:
        return visit.page(
            "audit.html", "audit", q="", found=[], mission=None, story=[], many=0, verdict=None, more=False, targets=[]
        )
    found = await visit.inside.get("/v1/trace", q=said)
    missions = list(dict.fromkeys(one["mission_id"] for one in found["items"]))
    if len(missions) == 1:
        return await story(visit, missions[0], said, found["items"])
    return visit.page(
        "audit.html", "audit", 200 if missions else 404, q=said, found=found["items"], mission=None, story=[], many=0, verdict=None,
        more=False, targets=[],
    )  # fmt: skip


async def of_mission(visit: Visit) -> Response:
    return await story(visit, str(visit.id), visit.asked("q"), [])


async def story(
    visit: Visit, mission: str, said: str, found: list[dict[str, Any]], verdict: dict[str, Any] | None = None
) -> Response:
    """A mission's facts as one line, with what was looked for marked in it."""
    shown = await visit.inside.get(f"/v1/missions/{mission}")
    facts, more = await all_facts(visit, mission)
    targets = {one["id"] for one in found} | ({said} if said else set())
    names = await visit.names(shown["requested_by"], *people_of(facts))
    steps = [
        {**one, "by": actor(one["actor"], names), "sought": sought(one, targets), "proof": proof(one, verdict)}
        for one in timeline(facts)
    ]
    changes = await visit.inside.get("/v1/writebacks", mission=mission, limit=50)
    return visit.page(
        "audit.html", "audit", q=said or mission, found=found, mission=shown, story=told(steps), many=len(steps),
        verdict=verdict, more=more,
        targets=[{"target": one["target"], "connector": one["connector"], "state": one["state"]} for one in changes["items"]],
    )  # fmt: skip


async def all_facts(visit: Visit, mission: str) -> tuple[list[dict[str, Any]], bool]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while len(found) < MOST:
        page = await visit.inside.get(f"/v1/missions/{mission}/events", limit=AT_ONCE, cursor=cursor)
        found += page["items"]
        if not page["has_more"]:
            return found, False
        cursor = page["next_cursor"]
    return found, True


def sought(step: dict[str, Any], targets: set[str]) -> bool:
    return any(isinstance(value, str) and value in targets for value in step["body"].values())


async def proved(visit: Visit) -> Response:
    """Every hash of the tenant's facts recomputed, and held against the anchors; each step of this story is marked by it."""
    sent = await visit.form()
    verdict = await visit.inside.post("/v1/ledger/verify")
    return await story(visit, str(visit.id), sent.get("q"), [], verdict)


def position(said: str | None) -> tuple[int, int]:
    xid, _, number = (said or "0-0").partition("-")
    return int(xid), int(number)


def proof(step: dict[str, Any], verdict: dict[str, Any] | None) -> dict[str, str] | None:
    """What verification says of one step: broken, anchored outside the database, or in the chain and not anchored yet."""
    if verdict is None:
        return None
    bad = verdict["first_bad"]
    if bad and position(step["id"]) >= position(bad["position"]):
        here = step["subject"] == bad["subject"] and step["seq"] == bad["seq"]
        return {
            "mark": "bad",
            "says": f"not what it was: {bad['finding']}" if here else "after the first fact that is not what it was",
        }
    anchors = verdict["anchors"]
    if anchors["failed"]:
        return {"mark": "warn", "says": "in the chain; an anchor does not hold"}
    if anchors["covered_to"] and position(step["id"]) <= position(anchors["covered_to"]):
        return {"mark": "good", "says": "recomputed, and signed by an anchor outside the database"}
    return {"mark": "chain", "says": "recomputed; newer than the newest anchor"}
