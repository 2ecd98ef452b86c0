"""Mission types are data: read, changed by version, and a tenant's own work without a line of code."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.world import World
from tests.world.checks import census, fact_types, problem
from tests.world.world import served

DEFINITION: dict[str, Any] = {
    "title": "Supplier check",
    "description": "Looks a supplier up.",
    "inputs_schema": {
        "type": "object",
        "properties": {"supplier": {"$ref": "#/$defs/name"}, "depth": {"type": "integer", "maximum": 3}},
        "required": ["supplier"],
        "additionalProperties": False,
        "$defs": {"name": {"type": "string", "minLength": 2}},
    },
    "tools": ["workspace.search", "workspace.read"],
    "defaults": {"risk_level": "medium", "sensitivity_class": "confidential", "mode": "dry_run"},
    "limits": {"time_ms": 5000, "tokens": 100, "cost_usd": 0.25},
    "review": {"min_coverage": 0.5},
}
ASK = {"mission_type": "supplier_check", "user_goal": "Is Acme sound?", "inputs": {"supplier": "Acme"}}


async def put(world: World, name: str = "supplier_check", tag: str | None = None, **changes: Any) -> httpx.Response:
    headers = {"If-Match": tag} if tag else {}
    return await world.product_owner.put(f"/v1/mission-types/{name}", json={**DEFINITION, **changes}, headers=headers)


async def test_shipped_types_are_there(world: World) -> None:
    listed = (await world.auditor.get("/v1/mission-types")).json()
    assert [kind["name"] for kind in listed] == ["catalyst_strategy_brief", "crm_lead_intelligence", "oracle_advisory"]
    for kind in listed:
        one = await world.auditor.get(f"/v1/mission-types/{kind['name']}")
        assert (one.json(), one.headers["etag"], kind["shipped"]) == (kind, '"v1"', True)
    problem(await world.auditor.get("/v1/mission-types/no_such_type"), "not_found")


async def test_a_tenants_own_type_is_used_without_code(world: World) -> None:
    problem(await world.submitter.post("/v1/missions", json=ASK), "validation")
    made = await put(world)
    assert (made.status_code, made.headers["etag"]) == (201, '"v1"')
    assert made.json() == {**DEFINITION, "needs": [], "name": "supplier_check", "version": 1, "shipped": False}
    assert (await fact_types(world, await world.tenant()))[-1] == "mission_type.changed"
    accepted = await world.submitter.post("/v1/missions", json=ASK)
    assert accepted.status_code == 202, accepted.text
    mission = accepted.json()
    assert (mission["mode"], mission["risk_level"], mission["sensitivity_class"]) == (
        "dry_run",
        "medium",
        "confidential",
    )
    assert mission["budget"]["tokens"] == 100
    await world.run_work("dispatch")
    sent = world.colony.last().envelope
    assert (sent.mission_type, sent.inputs, sent.tools) == ("supplier_check", {"supplier": "Acme"}, DEFINITION["tools"])
    for inputs in ({}, {"supplier": "A"}, {"supplier": "Acme", "depth": 4}, {"supplier": "Acme", "more": 1}):
        problem(await world.submitter.post("/v1/missions", json={**ASK, "inputs": inputs}), "validation")


async def test_a_type_changes_by_version(world: World) -> None:
    await put(world)
    problem(await put(world, title="Unseen"), "precondition_required")
    stale = problem(await put(world, tag='"v7"', title="Unseen"), "stale")
    assert stale["current"]["title"] == "Supplier check"
    first = (await world.submitter.post("/v1/missions", json=ASK)).json()["id"]
    changed = await put(world, tag='"v1"', title="Supplier check, new", inputs_schema={"type": "object"})
    assert (changed.status_code, changed.json()["version"], changed.headers["etag"]) == (200, 2, '"v2"')
    problem(await put(world, tag='"v1"'), "stale")
    now = (await world.submitter.get("/v1/mission-types/supplier_check")).json()
    assert now["title"] == "Supplier check, new"
    second = (await world.submitter.post("/v1/missions", json={**ASK, "inputs": {}})).json()["id"]
    versions = []
    for mission in (first, second):
        body = (await world.facts(mission))[0]["body"]
        versions.append('"type_version":1' in body or '"type_version": 1' in body)
    assert versions == [True, False]


async def test_a_shipped_type_can_be_replaced_by_a_tenant(world: World) -> None:
    changed = await put(world, "oracle_advisory", tag='"v1"')
    assert (changed.status_code, changed.json()["version"], changed.json()["shipped"]) == (200, 2, False)
    stranger = await world.another_tenant()
    theirs = (await stranger.http.get("/v1/mission-types/oracle_advisory")).json()
    assert (theirs["version"], theirs["shipped"]) == (1, True)


async def test_two_at_once_make_one_version(world: World) -> None:
    for tag, name in ((None, "supplier_check"), ('"v1"', "supplier_check"), ('"v1"', "oracle_advisory")):
        answers = await asyncio.gather(*(put(world, name, tag, title=f"Nr {n}") for n in range(4)))
        won = [answer for answer in answers if answer.is_success]
        assert len(won) == 1, [answer.text for answer in answers]
        for answer in answers:
            if answer not in won:
                assert answer.status_code in (409, 412, 428), answer.text
                problem(answer, answer.json()["code"])


# What could not be used later is refused when it is made: (path in the definition, value, where the problem points).
UNUSABLE: dict[str, tuple[list[str], Any, str]] = {
    "a schema that is none": (["inputs_schema"], {"type": "objekt"}, "/inputs_schema"),
    "a pattern that is none": (["inputs_schema"], {"properties": {"a": {"pattern": "(["}}}, "/inputs_schema"),
    "a reference to nowhere": (["inputs_schema"], {"$ref": "#/$defs/nowhere"}, "/inputs_schema"),
    "a reference to a file": (["inputs_schema"], {"$ref": "file:///etc/hostname"}, "/inputs_schema"),
    "a reference to the network": (["inputs_schema"], {"$ref": "http://127.0.0.1:9/schema.json"}, "/inputs_schema"),
    "a reference through an id": (
        ["inputs_schema"],
        {"$id": "http://127.0.0.1:9/", "properties": {"a": {"$ref": "other.json"}}},
        "/inputs_schema",
    ),
    "a dialect from the network": (["inputs_schema"], {"$schema": "http://127.0.0.1:9/meta.json"}, "/inputs_schema"),
    "a tool that is no name": (["tools"], ["rm -rf"], "/tools"),
    "a risk that is none": (["defaults", "risk_level"], "none", "/defaults/risk_level"),
    "no default mode": (["defaults"], {"risk_level": "low", "sensitivity_class": "public"}, "/defaults/mode"),
    "no limit": (["limits"], {"time_ms": 1, "tokens": 1}, "/limits/cost_usd"),
    "a limit of nothing": (["limits", "tokens"], 0, "/limits/tokens"),
    "a limit below a millisecond": (["limits", "time_ms"], 0.4, "/limits/time_ms"),
    "a limit beyond a week": (["limits", "time_ms"], 1e12, "/limits/time_ms"),
    "a limit beyond money": (["limits", "cost_usd"], 1e300, "/limits/cost_usd"),
    "a limit beyond tokens": (["limits", "tokens"], 1e18, "/limits/tokens"),
    "coverage above all": (["review", "min_coverage"], 1.5, "/review/min_coverage"),
    "no coverage": (["review"], {}, "/review/min_coverage"),
    "an unknown field": (["surprise"], 1, "/surprise"),
}


@pytest.mark.parametrize(("where", "value", "pointer"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_type_that_could_not_be_used_is_refused(
    world: World, where: list[str], value: Any, pointer: str
) -> None:
    before = await census(world)
    definition = copy.deepcopy(DEFINITION)
    inner = definition
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    said = problem(await world.product_owner.put("/v1/mission-types/supplier_check", json=definition), "validation")
    assert said["errors"][0]["pointer"].startswith(pointer), said["errors"]
    assert await census(world) == before


async def test_a_schema_is_not_followed_out_of_itself(world: World, tmp_path: Path) -> None:
    """Following a reference would read the root's files, and call hosts that the caller cannot reach."""
    asked: list[str] = []

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(scope["path"])
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": b'{"type": "object"}'})

    (tmp_path / "schema.json").write_text('{"type": "object"}')
    async with served(elsewhere) as url:
        for reference in (f"{url}/schema.json", f"file://{tmp_path}/schema.json"):
            answer = await put(world, inputs_schema={"$ref": reference})
            assert problem(answer, "validation")["errors"][0]["pointer"] == "/inputs_schema"
    assert asked == []


async def test_whatever_a_wide_schema_lets_in_is_still_bounded(world: World) -> None:
    await put(world, inputs_schema={"type": "object"})
    before = await census(world)
    for inputs in (
        {"workspace": 5},
        {"workspace": "../../etc"},
        {"workspace": "w" * 200},
        {"workspace": None},
        {"deep": eval("[" * 20 + "]" * 20)},
        {"big": 2**60},
        {"big": 1e300},
        {f"n{n}": n for n in range(101)},
    ):
        for query in ("", "?validate_only=true"):
            answer = await world.submitter.post(f"/v1/missions{query}", json={**ASK, "inputs": inputs})
            said = problem(answer, "validation")
            assert said["errors"][0]["pointer"].startswith("/inputs"), said
    assert await census(world) == before
