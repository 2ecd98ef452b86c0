"""Whatever route there is: described, guarded, blind to other tenants, and leaving a fact when it changes something.

The routes are read off the app, so a new one is tested, or fails here, without anybody remembering to add it.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app import drills
from app.canonical import sha256
from app.http.serving import opened
from app.identity import ACTIONS, ROLES
from app.main import Root, internal_app
from app.model_gateway.providers import Provider as ModelProvider
from app.model_gateway.providers import Registry
from colony_client.contract import EventBatch, EventsOfMany, MissionEvents, ToolCall
from colony_client.signing import Keys, parse_keys, sign
from tests.approvals.test_vouching import left_unknown
from tests.identity.tokens import AUDIENCE, ISSUER, Provider, token
from tests.release.scene import bring, signed
from tests.tools.odd_server import served_odd
from tests.tools.registered import definition, entry, plant
from tests.tools.registered import put as register_layer
from tests.world import World
from tests.world.checks import census, hire, impersonal, pending_change, problem
from tests.world.life import Life

PROBES = {"livez", "healthz", "startupz", "readyz", "releaseHealth"}
# POST routes that only look: they leave no fact.
ONLY_LOOK = {
    "evaluatePolicy",
    "previewPolicy",
    "verifyLedger",
    "checkConnector",
    "checkToolLayer",
    "chooseApprovalRule",
}
# PUT routes whose names are each tenant's own: the same name elsewhere is simply another thing.
OWN_NAMES = {
    "putDocument",
    "putTrust",
    "putMissionType",
    "putPolicy",
    "previewPolicy",
    "putConnector",
    "putToolLayer",
    "putLegalHold",
    "enableRung",
    "lowerRung",
}


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
            ready = route.operation != "releaseHealth"  # no gate passes where nothing has happened yet
            assert (answer.status_code, answer.text) == ((200, "ok\n") if ready else (503, "not ok\n")), route.path


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
        elif route.method in ("POST", "PUT", "PATCH") or route.operation == "liftLegalHold":
            body = {"json": example_of(world, route)}
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
    assert (await put_policy(world, "their_kind")).status_code == 201
    assert (await put_connector(world, "their_kind")).status_code == 201
    await plant(world, "their_kind", entry("echo"))
    assert (await place_hold(world, "their_kind")).status_code == 201
    [shown] = (await world.submitter.get(f"/v1/missions/{mission}/sources?limit=1")).json()["items"]
    [fact] = (await world.auditor.get(f"/v1/ledger?subject={mission}&limit=1")).json()["items"]
    policies = (await world.auditor.post("/v1/policies/evaluate", json=ASK_POLICY)).json()["policy_version"]
    there = {
        "notice_id": await notice(world, approval["id"]),
        "question_id": (
            await world.operator.post(f"/v1/approvals/{approval['id']}/questions", json={"question": "Why now?"})
        ).json()["id"],
        "version": policies,
        **await somebody(world),
        **await somewhere(world),
        "position": fact["id"],
        "mission_id": mission,
        "artifact_id": artifact["id"],
        "source": shown["source"],
        "approval_id": approval["id"],
        "writeback_id": approval["writeback_id"],
        "recording_id": (await imported(world)).json()["id"],
        "rule_id": approval["rule"]["id"],
        "attestation_id": (await attest(world)).json()["id"],
        "verdict_id": (await bring(world, signed("staging"))).json()["id"],
        "workspace": "their_kind",
        "mission_type": "their_kind",
    }
    absent = {name: "other_kind" if name in ("workspace", "mission_type") else uuid4() for name in there}
    absent["source"] = sha256(b"no such source").hex()
    absent["version"] = sha256(b"no such set").hex()
    absent["position"] = re.sub(r"\d", "9", fact["id"])  # of the same length: answers are compared with their headers
    return {"there": there, "absent": absent, "etag": approval["etag"], "sha256": approval["payload_sha256"]}


async def notice(world: World, approval: str) -> UUID:
    """A reminder for the operator."""
    admin = await world.connect("admin")
    made: UUID = await admin.fetchval(
        """INSERT INTO notice (tenant, principal, approval, kind, step)
           SELECT a.tenant, p.id, a.id, 'reminder', 1 FROM approval a JOIN principal p ON p.tenant = a.tenant AND p.name = 'operator'
           WHERE a.id = $1 RETURNING id""",
        UUID(approval),
    )
    return made


ASK_POLICY = {"action": "mission.create", "resource": "oracle_advisory", "context": {}}


def example_of(world: World, route: Route) -> Any:
    """The body that the document itself gives as an example: well-formed, whatever the route."""
    document = world.public.openapi()
    content = document["paths"][route.path][route.method.lower()].get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return next(iter(schema.get("examples", [])), {})


async def somewhere(world: World) -> dict[str, Any]:
    """A webhook of the demo tenant, and a message for it."""
    made = (await webhook(world)).json()
    sent = await world.admin.post(f"/v1/webhooks/{made['id']}/test")
    assert sent.status_code == 202, sent.text
    return {"webhook_id": made["id"], "delivery_id": sent.json()["id"]}


async def somebody(world: World) -> dict[str, Any]:
    """Somebody of the demo tenant with everything that identity keeps of people."""
    person = await hire(world, "somebody", "auditor")
    principal = (await person.http.get("/v1/whoami")).json()
    link = {"issuer": "https://id.example", "subject": "somebody"}
    path = f"/v1/principals/{principal['principal_id']}/identities"
    # who approves nothing may get a further way in from an admin
    linked = await world.admin.post(path, json=link)
    assert linked.status_code == 201, linked.text
    return {
        "tenant_id": principal["tenant_id"],
        "principal_id": principal["principal_id"],
        "grant_id": principal["grants"][0]["id"],
        "key_id": principal["credential"]["id"],
        "identity_id": linked.json()["id"],
    }


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


async def put_trust(world: World) -> httpx.Response:
    rules = [{"pattern": "policies/**", "trust": "authoritative"}]
    return await world.product_owner.put("/v1/workspaces/their_kind/trust", json={"rules": rules})


async def put_policy(world: World, name: str) -> httpx.Response:
    text = f'@id("{name}.none") @reason("None.") forbid (principal, action == Action::"model.call", resource);'
    return await world.policy_owner.put(f"/v1/policies/{name}", json={"text": text})


async def retire_policy(world: World, name: str) -> httpx.Response:
    made = await put_policy(world, name)
    return await world.policy_owner.delete(f"/v1/policies/{name}", headers={"If-Match": made.headers["etag"]})


async def put_connector(world: World, name: str, retire: bool = False) -> httpx.Response:
    path = f"/v1/connectors/{name}"
    made = await world.admin.put(path, json={"kind": "sample_crm", "base_url": "http://127.0.0.1:9"})
    return await world.admin.delete(path, headers={"If-Match": made.headers["etag"]}) if retire else made


async def switch_provider(world: World, *verbs: str) -> httpx.Response:
    """Verbs in a row at the one provider of a deployment whose file there never was."""
    world.root.models.registry = Registry({"some": ModelProvider.model_construct(name="some")})
    for verb in verbs:
        answer = await world.admin.post(f"/v1/model-providers/some/{verb}", json={"reason": "a test"})
    return answer


async def switch_connector(world: World, *verbs: str) -> httpx.Response:
    for verb in verbs:
        answer = await world.admin.post(f"/v1/connectors/*/{verb}", json={"reason": "a test"})
        if verb != verbs[-1] or verb == "resume":
            assert answer.status_code == 200, answer.text
    if verbs[-1] == "halt":
        await world.admin.post("/v1/connectors/*/resume", json={"reason": "a test"})
    return answer


async def put_tool_layer(world: World, name: str, retire: bool = False) -> httpx.Response:
    async with served_odd() as odd:
        made = await register_layer(world, name, definition(odd))
    path = f"/v1/tool-layers/{name}"
    return await world.admin.delete(path, headers={"If-Match": made.headers["etag"]}) if retire else made


async def switch_tool_layer(world: World, *verbs: str) -> httpx.Response:
    for verb in verbs:
        answer = await world.admin.post(f"/v1/tool-layers/*/{verb}", json={"reason": "a test"})
    if verbs[-1] == "halt":
        await world.admin.post("/v1/tool-layers/*/resume", json={"reason": "a test"})
    return answer


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


async def extend(world: World) -> httpx.Response:
    mission = (await world.dispatch()).mission_id
    version = (await world.mission(mission))["version"]
    return await world.operator.post(
        f"/v1/missions/{mission}/extend",
        json={"reason": "a test", "time_ms": 60_000},
        headers={"If-Match": f'"v{version}"'},
    )


async def run_drill(world: World) -> httpx.Response:
    await drills.prepare(world.url("registrar"), parse_keys("one:drill-secret-of-the-tests", "DRILL_KEY"))
    return await world.operator.post("/v1/drills/replay/run", json={})


async def replayed(world: World) -> httpx.Response:
    ended = (await end(world, "cancel")).json()["id"]
    return await world.submitter.post(f"/v1/missions/{ended}/replay", json={"mode": "recorded"})


async def imported(world: World) -> httpx.Response:
    ended = (await end(world, "cancel")).json()["id"]
    file = (await world.operator.get(f"/v1/missions/{ended}/recording")).content
    return await world.operator.post("/v1/recordings", content=file)


async def replayed_recording(world: World) -> httpx.Response:
    recording = (await imported(world)).json()["id"]
    return await world.submitter.post(f"/v1/recordings/{recording}/replay", json={"mode": "recorded"})


async def approve(world: World) -> httpx.Response:
    approval = await pending_change(world)
    return await world.operator.post(
        f"/v1/approvals/{approval['id']}/decisions",
        json={"decision": "approve", "payload_sha256": approval["payload_sha256"]},
        headers={"If-Match": approval["etag"]},
    )


A_RULE = {"subject": "writeback", "connector": "sample_crm", "required": 1, "life_s": 60}


async def put_rule(world: World, new: bool) -> httpx.Response:
    if new:
        return await world.policy_owner.post("/v1/approval-rules", json=A_RULE)
    made = (await put_rule(world, True)).json()
    return await world.policy_owner.put(f"/v1/approval-rules/{made['id']}", json=A_RULE, headers={"If-Match": '"v1"'})


async def about_approval(world: World, verb: str, who: str = "operator", **body: Any) -> httpx.Response:
    approval = await pending_change(world)
    body = {name: approval["payload_sha256"] if value is None else value for name, value in body.items()}
    return await world.people[who].http.post(
        f"/v1/approvals/{approval['id']}/{verb}",
        json={"reason": "a test"} | body,
        headers={"If-Match": approval["etag"]},
    )


async def ask_about(world: World) -> httpx.Response:
    approval = await pending_change(world)
    return await world.operator.post(f"/v1/approvals/{approval['id']}/questions", json={"question": "Why now?"})


async def answer_question(world: World) -> httpx.Response:
    asked = await ask_about(world)
    path = f"{asked.headers['location']}/questions/{asked.json()['id']}/answer"
    return await world.submitter.post(path, json={"answer": "The customer called."})


async def note_look(world: World) -> httpx.Response:
    approval = await pending_change(world)
    return await world.operator.post(f"/v1/approvals/{approval['id']}/looks", json={})


async def break_glass(world: World) -> httpx.Response:
    await hire(world, "glass holder", "break_glass")
    return await about_approval(world, "break-glass", "glass holder", payload_sha256=None)


async def vouch(world: World) -> httpx.Response:
    writeback, _ = await left_unknown(world)
    return await world.operator.post(f"/v1/writebacks/{writeback}/vouch", json={"found": "applied", "comment": "seen"})


async def renew(world: World) -> httpx.Response:
    approval = await pending_change(world)
    life = Life(world, UUID(approval["mission_id"]))
    await life.decide("approve", approval)
    await life.settle(await life.claim(approval["writeback_id"]), approval["writeback_id"], "stale")
    return await world.operator.post(f"/v1/writebacks/{approval['writeback_id']}/renew", json={})


async def see_notice(world: World) -> httpx.Response:
    await break_glass_once(world)
    [notice, *_] = (await world.admin.get("/v1/notices")).json()["items"]
    return await world.admin.post(f"/v1/notices/{notice['id']}/seen")


async def break_glass_once(world: World) -> None:
    await hire(world, "another holder", "break_glass")
    answer = await about_approval(world, "break-glass", "another holder", payload_sha256=None)
    assert answer.status_code == 201, answer.text


async def remove(world: World) -> httpx.Response:
    await put_document(world)
    return await world.submitter.delete("/v1/workspaces/their_kind/documents?path=a.md")


async def put_budgets(world: World) -> httpx.Response:
    return await world.admin.put("/v1/budgets", json={"day_tokens": 10**9}, headers={"If-Match": '"v0"'})


async def put_retention(world: World) -> httpx.Response:
    days = {
        "public_days": None,
        "internal_days": 1095,
        "confidential_days": 365,
        "restricted_days": 90,
        "unread_days": 7,
    }
    return await world.policy_owner.put("/v1/retention", json=days, headers={"If-Match": '"v0"'})


async def place_hold(world: World, name: str) -> httpx.Response:
    return await world.auditor.put(f"/v1/legal-holds/{name}", json={"scope": "tenant", "reason": "a case"})


async def lift_hold(world: World) -> httpx.Response:
    await place_hold(world, "passing_kind")
    return await world.admin.request("DELETE", "/v1/legal-holds/passing_kind", json={"reason": "no case"})


async def webhook(world: World, then: Callable[[str], Awaitable[httpx.Response]] | None = None) -> httpx.Response:
    """Makes a webhook, and goes on with its path."""
    made = await world.admin.post("/v1/webhooks", json={"url": "https://example.com/hook", "types": ["mission.*"]})
    return made if then is None else await then(f"/v1/webhooks/{made.json()['id']}")


async def redelivered(world: World, path: str) -> httpx.Response:
    tried = (await world.admin.post(f"{path}/test")).json()["id"]
    admin = await world.connect("admin")
    await admin.execute("UPDATE webhook_delivery SET state = 'dead', settled_at = now() WHERE id = $1", UUID(tried))
    return await world.admin.post(f"{path}/redeliver", json={})


FIRST = {"If-Match": '"v1"'}

# --- identity


async def nina(world: World, *roles: str) -> str:
    """Somebody new, in a path."""
    person = await hire(world, f"nina-{uuid4()}", *(roles or ("auditor",)))
    connection = await world.connect("admin")
    return f"/v1/principals/{await connection.fetchval('SELECT id FROM principal WHERE name = $1', person.name)}"


async def switched(world: World, path: str, *verbs: str) -> httpx.Response:
    """The answer of the last verb: suspend, or suspend and resume."""
    for verb in verbs:
        seen = (await world.admin.get(path)).headers["etag"]
        answer = await world.admin.post(f"{path}/{verb}", headers={"If-Match": seen})
    return answer


async def new_tenant(world: World) -> httpx.Response:
    return await world.admin.post("/v1/tenants", json={"name": f"tenant-{uuid4()}", "admin": "Ada"})


async def switched_tenant(world: World, *verbs: str) -> httpx.Response:
    return await switched(world, (await new_tenant(world)).headers["location"], *verbs)


async def granted(world: World) -> httpx.Response:
    return await world.admin.post(f"{await nina(world)}/grants", json={"role": "submitter"})


async def delegated(world: World) -> httpx.Response:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ask = {"role": "operator", "expires_at": until}
    return await world.operator.post(f"{await nina(world)}/delegations", json=ask)


async def revoked(world: World) -> httpx.Response:
    made = await granted(world)
    return await world.admin.delete(f"{made.headers['location']}/{made.json()['id']}")


async def linked(world: World) -> httpx.Response:
    body = {"issuer": "https://id.example", "subject": str(uuid4())}
    return await world.admin.post(f"{await nina(world)}/identities", json=body)


async def unlinked(world: World) -> httpx.Response:
    made = await linked(world)
    return await world.admin.delete(f"{made.headers['location']}/{made.json()['id']}")


async def rotated(world: World) -> httpx.Response:
    made = (await world.auditor.post("/v1/api-keys", json={})).json()
    return await world.auditor.post(f"/v1/api-keys/{made['id']}/rotate", json={})


async def key_ended(world: World) -> httpx.Response:
    made = (await world.auditor.post("/v1/api-keys", json={})).json()
    return await world.auditor.delete(f"/v1/api-keys/{made['id']}")


async def tokens_bearer(world: World) -> httpx.AsyncClient:
    """A client with a good token of an identity provider."""
    made = await world.with_registrar(oidc_issuer=ISSUER, oidc_audience=AUDIENCE)
    assert made.verifier is not None
    made.verifier.jwks.transport = Provider().transport
    subject, path = str(uuid4()), await nina(world)
    body = {"issuer": ISSUER, "subject": subject}
    assert (await world.admin.post(f"{path}/identities", json=body)).status_code == 201
    return world.client(token(sub=subject))


async def session_opened(world: World) -> httpx.Response:
    return await (await tokens_bearer(world)).post("/v1/sessions")


async def session_ended(world: World) -> httpx.Response:
    return await world.client((await session_opened(world)).json()["secret"]).delete("/v1/sessions/current")


IDENTITY_FACTS: dict[str, tuple[Callable[[World], Awaitable[httpx.Response]], str]] = {
    "createTenant": (new_tenant, "tenant.created"),
    "suspendTenant": (lambda world: switched_tenant(world, "suspend"), "tenant.suspended"),
    "resumeTenant": (lambda world: switched_tenant(world, "suspend", "resume"), "tenant.resumed"),
    "createPrincipal": (
        lambda world: world.admin.post("/v1/principals", json={"name": str(uuid4()), "kind": "agent"}),
        "principal.created",
    ),
    "suspendPrincipal": (lambda world: then(nina(world), lambda at: switched(world, at, "suspend")), "principal.suspended"),
    "resumePrincipal": (
        lambda world: then(nina(world), lambda at: switched(world, at, "suspend", "resume")), "principal.resumed",
    ),
    "grantRole": (granted, "role.granted"),
    "delegateRole": (delegated, "role.delegated"),
    "revokeGrant": (revoked, "role.revoked"),
    "linkIdentity": (linked, "principal.linked"),
    "unlinkIdentity": (unlinked, "principal.unlinked"),
    "createApiKey": (lambda world: world.auditor.post("/v1/api-keys", json={}), "key.issued"),
    "rotateApiKey": (rotated, "key.rotated"),
    "revokeApiKey": (key_ended, "key.revoked"),
    "createSession": (session_opened, "session.started"),
    "endSession": (session_ended, "session.ended"),
    "endSessions": (
        lambda world: then(nina(world), lambda at: world.admin.delete(f"{at}/sessions")), "session.all_ended",
    ),
}  # fmt: skip


async def then(first: Awaitable[str], second: Callable[[str], Awaitable[httpx.Response]]) -> httpx.Response:
    return await second(await first)


# operation -> a request that succeeds, and the fact it must leave last
async def move_rung(world: World, verb: str, **ask: Any) -> httpx.Response:
    """The lowest rung of staging: a developer's machine has none."""
    state = world.public.state
    here, state.settings = state.settings, world.settings(environment="staging")
    try:
        return await world.release_owner.post(f"/v1/release/ladder/dry_run/{verb}", json=ask)
    finally:
        state.settings = here


async def attest(world: World) -> httpx.Response:
    ask = {"claim": "stable_for_demo", "comment": "Asked twice, answered alike."}
    return await world.product_owner.post("/v1/release/attestations", json=ask)


async def withdraw_attestation(world: World) -> httpx.Response:
    made = (await attest(world)).json()
    return await world.product_owner.post(f"/v1/release/attestations/{made['id']}/withdraw", json={})


LEAVE_FACTS: dict[str, tuple[Callable[[World], Awaitable[httpx.Response]], str]] = {
    **IDENTITY_FACTS,
    "createMission": (create, "mission.accepted"),
    "replayMission": (replayed, "mission.accepted"),
    "importRecording": (imported, "recording.imported"),
    "replayRecording": (replayed_recording, "mission.accepted"),
    "cancelMission": (lambda world: end(world, "cancel"), "mission.cancelled"),
    "failMission": (lambda world: end(world, "fail"), "mission.failed"),
    "redispatchMission": (lambda world: end(world, "redispatch"), "mission.redispatched"),
    "extendMission": (extend, "mission.extended"),
    "runDrill": (run_drill, "drill.asked"),
    "reassignApproval": (lambda world: about_approval(world, "reassign", role="admin"), "approval.reassigned"),
    "escalateApproval": (lambda world: about_approval(world, "escalate", role="admin"), "approval.escalated"),
    "askAboutApproval": (ask_about, "approval.questioned"),
    "answerQuestion": (answer_question, "approval.answered"),
    "decide": (approve, "approval.decided"),
    "noteLook": (note_look, "approval.seen"),
    "breakGlass": (break_glass, "approval.glass_broken"),
    "cancelApproval": (lambda world: about_approval(world, "cancel"), "approval.closed"),
    "reviseApproval": (
        lambda world: about_approval(world, "revisions", payload_sha256=None, changes={"priority": "low"}),
        "approval.superseded",
    ),
    "renewWriteback": (renew, "writeback.renewed"),
    "vouchForWriteback": (vouch, "writeback.settled"),
    "seeNotice": (see_notice, "notice.seen"),
    "createApprovalRule": (lambda world: put_rule(world, True), "rule.changed"),
    "putApprovalRule": (lambda world: put_rule(world, False), "rule.changed"),
    "putMissionType": (lambda world: put_type(world, "some_kind"), "mission_type.changed"),
    "putDocument": (put_document, "document.added"),
    "putTrust": (put_trust, "workspace.trust_changed"),
    "removeDocument": (remove, "document.removed"),
    "putBudgets": (put_budgets, "budget.limits_changed"),
    "putRetention": (put_retention, "retention.changed"),
    "putLegalHold": (lambda world: place_hold(world, "some_kind"), "hold.placed"),
    "liftLegalHold": (lift_hold, "hold.lifted"),
    "createWebhook": (webhook, "webhook.created"),
    "changeWebhook": (
        lambda world: webhook(world, lambda at: world.admin.patch(at, json={"state": "paused"}, headers=FIRST)),
        "webhook.changed",
    ),
    "deleteWebhook": (
        lambda world: webhook(world, lambda at: world.admin.delete(at, headers=FIRST)),
        "webhook.deleted",
    ),
    "rotateWebhookSecret": (
        lambda world: webhook(world, lambda at: world.admin.post(f"{at}/rotate", json={})),
        "webhook.secret_rotated",
    ),
    "testWebhook": (lambda world: webhook(world, lambda at: world.admin.post(f"{at}/test")), "webhook.tested"),
    "redeliver": (lambda world: webhook(world, lambda at: redelivered(world, at)), "webhook.redelivered"),
    "putConnector": (lambda world: put_connector(world, "some_kind"), "connector.changed"),
    "retireConnector": (lambda world: put_connector(world, "passing_kind", retire=True), "connector.changed"),
    "putToolLayer": (lambda world: put_tool_layer(world, "some_kind"), "tool_layer.changed"),
    "retireToolLayer": (lambda world: put_tool_layer(world, "passing_kind", retire=True), "tool_layer.changed"),
    "haltToolLayer": (lambda world: switch_tool_layer(world, "halt"), "tool_layer.halted"),
    "resumeToolLayer": (lambda world: switch_tool_layer(world, "halt", "resume"), "tool_layer.resumed"),
    "haltConnector": (lambda world: switch_connector(world, "halt"), "connector.halted"),
    "resumeConnector": (lambda world: switch_connector(world, "halt", "resume"), "connector.resumed"),
    "switchModelProviderOff": (lambda world: switch_provider(world, "off"), "model_provider.switched_off"),
    "switchModelProviderOn": (lambda world: switch_provider(world, "off", "on"), "model_provider.switched_on"),
    "enableRung": (lambda world: move_rung(world, "enable"), "rung.enabled"),
    "lowerRung": (lambda world: move_rung(world, "lower", reason="As the test says."), "rung.lowered"),
    "attest": (attest, "attestation.signed"),
    "withdrawAttestation": (withdraw_attestation, "attestation.withdrawn"),
    "importVerdict": (lambda world: bring(world, signed("production")), "verdict.imported"),
    "putPolicy": (lambda world: put_policy(world, "some_kind"), "policy.changed"),
    "retirePolicy": (lambda world: retire_policy(world, "passing_kind"), "policy.changed"),
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
    rule = '@id("a_policy.a") @reason("None.") forbid (principal, action, resource);'
    for answer in (
        await world.submitter.post("/v1/policies/a_policy/preview", json={"text": rule}),
        await world.submitter.post("/v1/policies/evaluate", json=asked),
        await world.submitter.post("/v1/ledger/verify"),
        await world.submitter.post("/v1/approval-rules/choose", json={"operation": "update", "risk": "low"}),
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
    one = MissionEvents(mission_id=dispatch.mission_id, token=dispatch.mission_token, attempt=1)
    of_many = EventsOfMany(missions=[one]).model_dump_json().encode()
    asked = ToolCall(arguments={}).model_dump_json().encode()
    return {
        "sendEvents": ("POST", f"{path}/events", heartbeat, bearer),
        "sendEventsOfMany": ("POST", "/internal/v1/events", of_many, {}),
        "getRootView": ("GET", path, b"", {}),
        "listTools": ("GET", f"{path}/tools", b"", bearer),
        "callTool": ("POST", f"{path}/tools/workspace.outline/calls", asked, bearer),
    }


BY_TOKEN_ALONE = {
    "createChatCompletion",
    "listModels",
}  # any OpenAI client calls them: see tests/models/test_who_may_ask.py


async def test_every_internal_route_wants_a_fresh_signature(world: World) -> None:
    calls = await internal_calls(world)
    missing = {route.operation for route in routes(world.internal)} ^ set(calls) ^ BY_TOKEN_ALONE
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
    app = internal_app(other)
    transport = httpx.ASGITransport(app)
    async with opened(other, app), httpx.AsyncClient(transport=transport, base_url="http://b") as there:
        assert (await world.inside.request(method, path, headers=headers)).status_code == 200
        problem(await there.request(method, path, headers=headers), "unauthenticated")


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
