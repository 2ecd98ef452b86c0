"""Whatever route there is: described, guarded, blind to other tenants, and leaving a fact when it changes something.

The routes are read off the app, so a new one is tested, or fails here, without anybody remembering to add it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.identity import ACTIONS, ROLES
from app.main import Root, internal_app
from colony_client.contract import EventBatch, ToolCall
from colony_client.signing import Keys, parse_keys, sign
from tests.world import World
from tests.world.checks import census, hire, impersonal, pending_change, problem

PROBES = {"livez", "healthz", "startupz", "readyz"}
# POST routes that only look: they leave no fact.
ONLY_LOOK = {"evaluatePolicy", "verifyLedger"}
# PUT routes whose names are each tenant's own: the same name elsewhere is simply another thing.
OWN_NAMES = {"putDocument", "putMissionType"}


@dataclass(frozen=True)
class Route:
    """One operation of an app."""

    operation: str
    method: str
    path: str
    action: str | None
    summary: str | None
    told: str | None  # its docstring

    def url(self, **names: Any) -> str:
        """The path with its parameters filled: by name, or by an id that nothing has."""
        names = {"name": "nothing", "tool": "workspace.search"} | names
        for part in self.path.split("/"):
            if part.startswith("{"):
                self_named = part.strip("{}")
                names.setdefault(self_named, uuid4())
        return self.path.format(**names) + ("?path=nothing.md" if self.path.endswith("/documents") else "")


def routes(app: FastAPI) -> list[Route]:
    """Every operation with an id; what has none is a page for people (/docs, /problems/…)."""
    found = []
    for route in iter_route_contexts(app.routes):
        if getattr(route, "include_in_schema", False) and getattr(route, "dependant", None) is not None:
            actions = [getattr(one.call, "action", None) for one in route.dependant.dependencies]
            for method in route.methods or ():
                found.append(
                    Route(
                        route.operation_id,
                        method,
                        route.path or "",
                        next((action for action in actions if action), None),
                        route.summary,
                        getattr(route.endpoint, "__doc__", None),
                    )
                )
    return found


def guarded(world: World) -> list[Route]:
    return [route for route in routes(world.public) if route.operation not in PROBES]


async def call(client: httpx.AsyncClient, route: Route, url: str | None = None, **more: Any) -> httpx.Response:
    if route.method in ("POST", "PUT") and not more.keys() & {"json", "content"}:
        more["json"] = {}
    return await client.request(route.method, url or route.url(), **more)


async def test_every_route_is_described(world: World) -> None:
    operations = world.public.openapi()["paths"]
    assert {f"{r.method} {r.path}" for r in routes(world.public)} == {
        f"{method.upper()} {path}" for path, methods in operations.items() for method in methods
    }
    lacking = []
    for route in guarded(world):
        said = operations[route.path][route.method.lower()]
        wanted = {"401", "403", "422", "500", "503"}
        wanted |= {"404"} if "{" in route.path else set()
        wanted |= {"408", "409", "413"} if route.method in ("POST", "PUT") else set()
        for status in wanted:
            if "application/problem+json" not in said["responses"].get(status, {}).get("content", {}):
                lacking.append(f"{route.operation}: problem {status}")
        if not route.operation or said.get("operationId") != route.operation:
            lacking.append(f"{route.method} {route.path}: an operation_id of its own")
        if not said.get("summary") or not route.told:
            lacking.append(f"{route.operation}: a summary and a docstring")
        if not any(status.startswith("2") for status in said["responses"]):
            lacking.append(f"{route.operation}: a success")
        if not route.action:
            lacking.append(f"{route.operation}: a door, reading(action) or writing(action)")
    assert not lacking
    names = [route.operation for route in routes(world.public)]
    assert len(names) == len(set(names))


async def test_routes_and_actions_are_the_same_list(world: World) -> None:
    assert {route.action for route in guarded(world)} == set(ACTIONS)


async def test_every_route_needs_a_live_key(world: World) -> None:
    wrong = {
        "no header": {},
        "an unknown key": {"Authorization": "Bearer mr_00000000_" + "x" * 43},
        "a short key": {"Authorization": "Bearer x"},
        "an empty key": {"Authorization": "Bearer "},
        "another scheme": {"Authorization": "Basic c3VibWl0dGVyOnNlY3JldA=="},
        "letters beyond ASCII": {"Authorization": "Bearer \u00e4\u00f6\u00fc" + "x" * 40},
    }
    before = await census(world)
    for route in guarded(world):
        answers = []
        for case, headers in wrong.items():
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = await call(world.anybody, route, headers=raw)
            said = problem(answer, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer", (route.operation, case)
            answers.append({**said, "request_id": None, "instance": None, "detail": None})
        assert all(said == answers[0] for said in answers), route.operation
    assert await census(world) == before


async def test_every_route_is_closed_to_roles_without_its_action(world: World) -> None:
    people = {role: await hire(world, f"only-{role}", role) for role in ROLES}
    people["no role at all"] = await hire(world, "roleless")
    before = await census(world)
    for route in guarded(world):
        assert route.action is not None
        refused = [role for role in people if role not in ACTIONS[route.action]]
        assert refused, f"{route.operation}: nobody is refused"
        for role in refused:
            said = problem(await call(people[role].http, route), "forbidden")
            assert said["action"] == route.action, (route.operation, role)
    assert await census(world) == before


async def test_probes_need_nobody(world: World) -> None:
    assert {route.operation for route in routes(world.public)} >= PROBES
    for route in routes(world.public):
        if route.operation in PROBES:
            answer = await world.anybody.get(route.path)
            assert (answer.status_code, answer.text) == (200, "ok\n"), route.path


# --- other tenants ----------------------------------------------------------------------------------------------------


async def test_another_tenants_thing_is_an_absent_one(world: World) -> None:
    theirs = await theirs_and_absent(world)
    stranger = await world.another_tenant()
    before = await census(world)
    looked = set()
    for route in guarded(world):
        if "{" not in route.path or route.operation in OWN_NAMES:
            continue
        looked.add(route.operation)
        body: dict[str, Any] = {}
        if route.operation == "decide":
            body = {"json": {"decision": "approve", "payload_sha256": theirs["sha256"]}}
        elif route.method == "POST":
            body = {"json": {"reason": "not mine"}}
        for headers in ({}, {"If-Match": theirs["etag"]}, {"Accept": "text/event-stream"}):
            known = await call(stranger.http, route, place(route, theirs["there"]), headers=headers, **body)
            absent = await call(stranger.http, route, place(route, theirs["absent"]), headers=headers, **body)
            problem(known, "not_found")
            assert impersonal(known) == impersonal(absent), route.operation
    assert len(looked) >= 13
    assert await census(world) == before
    for query in ("writebacks?mission=", "approvals?mission=", "ledger?subject="):
        found = (await stranger.http.get(f"/v1/{query}{theirs['there']['mission_id']}")).json()
        assert found["items"] == []


async def theirs_and_absent(world: World) -> dict[str, Any]:
    """One of everything in the demo tenant: how its routes name it, and how they would name what is not there."""
    approval = await pending_change(world)
    mission = approval["mission_id"]
    [artifact] = (await world.submitter.get(f"/v1/missions/{mission}/artifacts?limit=1")).json()["items"]
    assert (await put_document(world)).status_code == 201
    assert (await put_type(world, "their_kind")).status_code == 201
    there = {
        "mission_id": mission,
        "artifact_id": artifact["id"],
        "approval_id": approval["id"],
        "writeback_id": approval["writeback_id"],
        "workspace": "their_kind",
        "mission_type": "their_kind",
    }
    absent = {name: "other_kind" if name in ("workspace", "mission_type") else uuid4() for name in there}
    return {"there": there, "absent": absent, "etag": approval["etag"], "sha256": approval["payload_sha256"]}


def place(route: Route, named: dict[str, Any]) -> str:
    names = {**named, "name": named["mission_type" if "mission-types" in route.path else "workspace"]}
    return route.url(**names).replace("nothing.md", "a.md")


async def test_names_are_each_tenants_own(world: World) -> None:
    assert (await put_document(world)).status_code == 201
    assert (await put_type(world, "their_kind")).status_code == 201
    stranger = await world.another_tenant()
    mine = await stranger.http.put("/v1/workspaces/their_kind/documents?path=a.md", content=b"# Mine\n")
    kind = await stranger.http.put("/v1/mission-types/their_kind", json={**DEFINITION, "title": "Mine"})
    assert (mine.status_code, kind.status_code, kind.json()["version"]) == (201, 201, 1)
    [document] = (await world.submitter.get("/v1/workspaces/their_kind/documents")).json()["items"]
    assert document["title"] == "Theirs"
    assert (await world.submitter.get("/v1/mission-types/their_kind")).json()["title"] == "A kind"


# --- facts ------------------------------------------------------------------------------------------------------------

DEFINITION: dict[str, Any] = {
    "title": "A kind",
    "description": "Made by a test.",
    "inputs_schema": {"type": "object"},
    "tools": ["workspace.search"],
    "defaults": {"risk_level": "low", "sensitivity_class": "internal", "mode": "assisted"},
    "limits": {"time_ms": 1000, "tokens": 1000, "cost_usd": 1},
    "review": {"min_coverage": 1.0},
}


async def put_type(world: World, name: str) -> httpx.Response:
    return await world.product_owner.put(f"/v1/mission-types/{name}", json=DEFINITION)


async def put_document(world: World) -> httpx.Response:
    return await world.submitter.put("/v1/workspaces/their_kind/documents?path=a.md", content=b"# Theirs\n\nA line.\n")


async def create(world: World) -> httpx.Response:
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    return await world.submitter.post("/v1/missions", json=ask)


async def end(world: World, verb: str) -> httpx.Response:
    mission = (await world.create())["id"]
    return await world.operator.post(
        f"/v1/missions/{mission}/{verb}", json={"reason": "a test"}, headers={"If-Match": '"v1"'}
    )


async def approve(world: World) -> httpx.Response:
    approval = await pending_change(world)
    return await world.operator.post(
        f"/v1/approvals/{approval['id']}/decisions",
        json={"decision": "approve", "payload_sha256": approval["payload_sha256"]},
        headers={"If-Match": approval["etag"]},
    )


async def remove(world: World) -> httpx.Response:
    await put_document(world)
    return await world.submitter.delete("/v1/workspaces/their_kind/documents?path=a.md")


# operation -> a request that succeeds, and the fact it must leave last
LEAVE_FACTS: dict[str, tuple[Callable[[World], Awaitable[httpx.Response]], str]] = {
    "createMission": (create, "mission.accepted"),
    "cancelMission": (lambda world: end(world, "cancel"), "mission.cancelled"),
    "failMission": (lambda world: end(world, "fail"), "mission.failed"),
    "decide": (approve, "approval.decided"),
    "putMissionType": (lambda world: put_type(world, "some_kind"), "mission_type.changed"),
    "putDocument": (put_document, "document.added"),
    "removeDocument": (remove, "document.removed"),
}


def unproven(found: list[Route]) -> set[str]:
    """Operations that may change something and have no request that proves it."""
    changing = {route.operation for route in found if route.method in ("POST", "PUT", "PATCH", "DELETE")}
    return changing - ONLY_LOOK - set(LEAVE_FACTS)


async def test_every_change_leaves_a_fact(world: World) -> None:
    missing = unproven(guarded(world))
    assert not missing, (
        f"{missing}: add to LEAVE_FACTS a request that succeeds and the fact it leaves (or to ONLY_LOOK, if it never writes)"
    )
    assert set(LEAVE_FACTS) | ONLY_LOOK <= {route.operation for route in guarded(world)}, (
        "a recipe for a route that is gone"
    )
    connection = await world.connect("admin")
    for operation, (request, fact) in LEAVE_FACTS.items():
        last = await connection.fetchval("SELECT COALESCE(max(id), 0) FROM ledger")
        answer = await request(world)
        assert answer.is_success, (operation, answer.text)
        rows = await connection.fetch("SELECT type FROM ledger WHERE id > $1", last)
        assert fact in {row["type"] for row in rows}, operation


async def test_routes_that_only_look_change_nothing(world: World) -> None:
    await world.create()
    before = await census(world)
    asked = {"action": "mission.create", "resource": "oracle_advisory", "context": {}}
    for answer in (
        await world.submitter.post("/v1/policies/evaluate", json=asked),
        await world.submitter.post("/v1/ledger/verify"),
        await world.submitter.post(
            "/v1/missions?validate_only=true", json={"mission_type": "oracle_advisory", "user_goal": "Well?"}
        ),
    ):
        assert answer.status_code == 200, answer.text
    assert await census(world) == before


# --- the internal app -------------------------------------------------------------------------------------------------

STRANGERS = parse_keys("local:not-the-secret-of-the-tests", "A_TEST")
UNKNOWN = parse_keys("stranger:colony-secret-of-the-tests", "A_TEST")


async def internal_calls(world: World) -> dict[str, tuple[str, str, bytes, dict[str, str]]]:
    """Method, path, body and further headers of a call to every internal route that is accepted when signed."""
    dispatch = await world.dispatch()
    path, bearer = f"/internal/v1/missions/{dispatch.mission_id}", {"Authorization": f"Bearer {dispatch.mission_token}"}
    heartbeat = EventBatch(attempt=1, events=[]).model_dump_json().encode()
    asked = ToolCall(arguments={}).model_dump_json().encode()
    return {
        "sendEvents": ("POST", f"{path}/events", heartbeat, bearer),
        "getRootView": ("GET", path, b"", {}),
        "callTool": ("POST", f"{path}/tools/workspace.outline/calls", asked, bearer),
    }


async def test_every_internal_route_wants_a_fresh_signature(world: World) -> None:
    calls = await internal_calls(world)
    missing = {route.operation for route in routes(world.internal)} ^ set(calls)
    assert not missing, f"{missing}: say in internal_calls() how it is called"
    right: Keys = world.root.colony_keys
    for operation, (method, path, body, more) in calls.items():

        async def send(headers: dict[str, str], data: bytes = body, to: str = path) -> httpx.Response:
            return await world.inside.request(method, to, content=data, headers={**more, **headers})  # noqa: B023

        accepted = sign(right, method, path, body, "root")
        assert (await send(accepted)).status_code == 200, operation
        before = await census(world)
        late, early = (datetime.now(UTC) + timedelta(seconds=s) for s in (-310, 310))
        refused = {
            "unsigned": await send({}),
            "a wrong secret": await send(sign(STRANGERS, method, path, body, "root")),
            "an unknown key": await send(sign(UNKNOWN, method, path, body, "root")),
            "a used nonce": await send(accepted),
            "too old": await send(sign(right, method, path, body, "root", now=late)),
            "from the future": await send(sign(right, method, path, body, "root", now=early)),
            "another body": await send(sign(right, method, path, body, "root"), data=body + b" "),
            "another path": await send(sign(right, method, path + "?x=1", body, "root")),
            "another method": await send(sign(right, "PUT", path, body, "root")),
            "meant for the colony": await send(sign(right, method, path, body, "colony")),
            "a bearer key instead": await send({"Authorization": f"Bearer {world.people['operator'].key}"}),
        }
        for case, answer in refused.items():
            problem(answer, "unauthenticated")
            assert impersonal(answer) == impersonal(refused["unsigned"]), (operation, case)
        assert await census(world) == before


async def test_a_call_is_not_taken_twice_by_two_processes(world: World) -> None:
    method, path, body, more = (await internal_calls(world))["getRootView"]
    other = Root(world.settings())
    headers = {**more, **sign(world.root.colony_keys, method, path, body, "root")}
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(internal_app(other)), base_url="http://b") as there:
            assert (await world.inside.request(method, path, headers=headers)).status_code == 200
            problem(await there.request(method, path, headers=headers), "unauthenticated")
    finally:
        await other.database.close()
        await other.reader.close()


async def test_public_and_internal_share_no_route(world: World) -> None:
    public, internal = ({route.path for route in routes(app)} for app in (world.public, world.internal))
    assert not public & internal
    assert (await world.submitter.get(f"/internal/v1/missions/{UUID(int=0)}")).status_code == 404
    assert (await world.inside.get("/v1/missions")).status_code == 404


def test_a_planted_route_is_noticed() -> None:
    app = FastAPI()

    @app.post("/v1/planted", operation_id="planted")
    async def planted() -> None: ...

    [found] = routes(app)
    assert (found.method, found.action, found.summary, found.told) == ("POST", None, None, None)
    assert unproven([found]) == {"planted"}
