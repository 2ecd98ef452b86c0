"""OpenAPI is a product: it changes on purpose, hangs together, and says what is really answered.

After a wanted change: UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/http/test_openapi.py, and commit openapi.json.
"""

import json
import os
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jsonschema_rs

from app.clock import iso, now
from app.reference.document import EXAMPLES
from tests.http.examples import note, same, write
from tests.release.scene import bring, look_after, signed
from tests.rooms.test_routes import LEAVE_FACTS, PROBES, attest
from tests.tools.registered import entry, plant
from tests.world import World
from tests.world.checks import pending_change

SNAPSHOT = Path(__file__).with_name("openapi.json")
REFRESH = "tests/http/openapi.json is out of date: look at the difference, then refresh it with UPDATE_SNAPSHOTS=1"


async def test_the_document_is_the_one_we_published(world: World) -> None:
    served = (await world.anybody.get("/openapi.json")).json()
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(served, indent=1, ensure_ascii=False) + "\n")
    assert json.loads(SNAPSHOT.read_text()) == served, REFRESH


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A validator for a schema of the document, with its components in reach."""
    return jsonschema_rs.validator_for({**schema, "components": document["components"]}, validate_formats=True)


async def test_the_document_hangs_together(world: World) -> None:
    document = (await world.anybody.get("/openapi.json")).json()
    for reference in references(document):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][kind], reference
    lacking = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = operation["operationId"]
            if {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"} != {
                part[1:-1] for part in path.split("/") if part.startswith("{")
            }:
                lacking.append(f"{named}: its path parameters")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                examples = examples_of(document, body["schema"]) or example_of_body(body)
                if not examples:
                    lacking.append(f"{named}: an example of its body")
                for example in examples:
                    schema_of(document, body["schema"]).validate(example)
            if "probes" not in operation["tags"] and operation.get("security") != [{"api_key": []}]:
                lacking.append(f"{named}: what authenticates it")
            if method not in ("get", "post", "put", "patch", "delete"):
                lacking.append(f"{named}: a method we know")
    assert not lacking


def examples_of(document: dict[str, Any], schema: dict[str, Any]) -> list[Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("examples", []))


def example_of_body(body: dict[str, Any]) -> list[Any]:
    """The example that stands beside a schema instead of in it."""
    return [body["example"]] if "example" in body else []


async def test_answers_fit_what_is_published(world: World) -> None:
    """Replies are written by hand for speed; their shapes are held against the document here."""
    document = (await world.anybody.get("/openapi.json")).json()
    change = await pending_change(world)
    mission, approval = change["mission_id"], change["id"]
    decision = {"decision": "approve", "payload_sha256": change["payload_sha256"]}
    [artifact, *_] = (await world.submitter.get(f"/v1/missions/{mission}/artifacts")).json()["items"]
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    definition = (await world.submitter.get("/v1/mission-types/oracle_advisory")).json()
    definition = {name: definition[name] for name in definition if name not in ("name", "version", "shipped")}
    match = {"If-Match": '"v1"'}
    one, two = (await world.create())["id"], (await world.create())["id"]
    policies = (await world.submitter.post("/v1/missions?validate_only=true", json=ask)).json()["policy"][
        "policy_version"
    ]
    policy = '@id("own.a") @reason("A test.") forbid (principal, action == Action::"model.call", resource);'
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("operator", "POST", "/v1/missions", {"json": ask}),
        ("operator", "POST", "/v1/missions?validate_only=true", {"json": ask}),
        ("operator", "POST", "/v1/missions", {"json": {}}),
        ("operator", "GET", "/v1/missions", {}),
        ("operator", "GET", f"/v1/missions/{mission}", {}),
        ("operator", "GET", f"/v1/missions/{mission}/events", {}),
        ("operator", "GET", f"/v1/missions/{mission}/artifacts", {}),
        ("operator", "GET", f"/v1/missions/{mission}/artifacts/{artifact['id']}", {}),
        ("operator", "GET", f"/v1/missions/{mission}/packet", {}),
        ("operator", "GET", "/v1/writebacks", {}),
        ("operator", "GET", f"/v1/writebacks/{change['writeback_id']}", {}),
        ("operator", "GET", "/v1/approvals", {}),
        ("operator", "GET", f"/v1/approvals/{approval}", {}),
        ("operator", "POST", f"/v1/approvals/{approval}/decisions", {"json": decision}),
        (
            "operator",
            "POST",
            f"/v1/approvals/{approval}/decisions",
            {"json": decision, "headers": {"If-Match": change["etag"]}},
        ),
        ("operator", "POST", f"/v1/missions/{one}/cancel", {"json": {"reason": "x"}, "headers": {"If-Match": '"v9"'}}),
        ("operator", "POST", f"/v1/missions/{one}/cancel", {"json": {"reason": "x"}, "headers": match}),
        ("operator", "POST", f"/v1/missions/{two}/fail", {"json": {"reason": "x"}, "headers": match}),
        ("operator", "POST", "/v1/policies/evaluate", {"json": {"action": "mission.create", "resource": "b"}}),
        ("operator", "POST", "/v1/policies/evaluate", {"json": {"action": "nothing", "resource": "b"}}),
        ("operator", "GET", "/v1/policy-vocabulary", {}),
        ("operator", "GET", f"/v1/policy-sets/{policies}", {}),
        ("policy_owner", "PUT", "/v1/policies/own", {"json": {"text": policy}}),
        ("policy_owner", "PUT", "/v1/policies/own", {"json": {"text": "permit"}}),
        ("operator", "GET", "/v1/policies/own", {}),
        ("operator", "POST", "/v1/policies/own/preview", {"json": {"text": policy}}),
        ("policy_owner", "DELETE", "/v1/policies/own", {"headers": match}),
        ("operator", "GET", "/v1/policies", {}),
        ("operator", "GET", "/v1/ledger", {}),
        ("operator", "GET", f"/v1/explain?id={mission}", {}),
        ("operator", "GET", f"/v1/explain?id={approval}&verify=true", {}),
        ("operator", "POST", "/v1/ledger/verify", {}),
        ("operator", "GET", "/v1/events", {}),
        ("operator", "GET", "/v1/status", {}),
        ("operator", "PUT", "/v1/workspaces/w/documents?path=a.md", {"content": b"# A\n"}),
        ("operator", "GET", "/v1/workspaces", {}),
        ("operator", "GET", "/v1/workspaces/w/documents", {}),
        ("operator", "GET", "/v1/workspaces/w/trust", {}),
        ("operator", "DELETE", "/v1/workspaces/w/documents?path=a.md", {}),
        ("operator", "DELETE", "/v1/workspaces/w/documents?path=a.md", {}),
        ("product_owner", "PUT", "/v1/mission-types/some_kind", {"json": definition}),
        ("product_owner", "PUT", "/v1/mission-types/some_kind", {"json": definition, "headers": match}),
        ("operator", "GET", "/v1/mission-types", {}),
        ("operator", "GET", "/v1/mission-types/some_kind", {}),
    ]
    seen = set()
    examples: dict[str, Any] = {}
    await plant(world, "some_tools", entry("echo"))
    hook = (await world.admin.post("/v1/webhooks", json={"url": "https://example.com/hook"})).json()
    tried = (await world.admin.post(f"/v1/webhooks/{hook['id']}/test")).json()
    [fact] = (await world.auditor.get("/v1/ledger?limit=1")).json()["items"]
    lead = change["payload"]["target"]
    [source] = (await world.submitter.get(f"/v1/missions/{mission}/sources")).json()["items"]
    attested = (await attest(world)).json()["id"]
    verdict = (await bring(world, signed("staging"))).json()["id"]
    await look_after(world)
    asked += [
        ("admin", "GET", "/v1/webhooks", {}),
        ("admin", "GET", f"/v1/webhooks/{hook['id']}", {}),
        ("admin", "GET", f"/v1/webhooks/{hook['id']}/deliveries", {}),
        ("admin", "GET", f"/v1/webhooks/{hook['id']}/deliveries/{tried['id']}", {}),
        ("admin", "GET", "/v1/model-providers", {}),
        ("admin", "GET", "/v1/connectors", {}),
        ("admin", "GET", "/v1/connectors/sample_crm", {}),
        ("admin", "POST", "/v1/connectors/sample_crm/check", {"json": {"kind": lead["kind"], "id": lead["id"]}}),
        ("admin", "GET", "/v1/tool-layers", {}),
        ("admin", "GET", "/v1/tool-layers/some_tools", {}),
        ("admin", "POST", "/v1/tool-layers/some_tools/check", {}),
        ("admin", "GET", "/v1/budgets", {}),
        ("admin", "GET", "/v1/budgets/usage", {}),
        ("operator", "GET", "/v1/approval-rules", {}),
        ("operator", "GET", f"/v1/approval-rules/{change['rule']['id']}", {}),
        ("operator", "POST", "/v1/approval-rules/choose",
         {"json": {"subject": "writeback", "connector": "sample_crm", "operation": "update", "risk": "low"}}),
        ("operator", "GET", "/v1/notices", {}),
        ("operator", "GET", f"/v1/missions/{mission}/sources", {}),
        ("operator", "GET", f"/v1/missions/{mission}/sources/{source['source']}", {}),
        ("operator", "GET", "/v1/retention", {}),
        ("operator", "GET", "/v1/retention/versions", {}),
        ("auditor", "PUT", "/v1/legal-holds/a-case", {"json": {"scope": "tenant", "reason": "a case"}}),
        ("auditor", "GET", "/v1/legal-holds", {}),
        ("auditor", "GET", "/v1/legal-holds/a-case", {}),
        ("operator", "GET", "/v1/inbox", {}),
        ("operator", "GET", "/v1/ledger/head", {}),
        ("operator", "GET", f"/v1/approvals/{change['id']}/briefing", {}),
        ("operator", "GET", "/v1/desk", {}),
        ("operator", "GET", f"/v1/names?id={change['requested_by']}", {}),
        ("auditor", "GET", "/v1/ledger/anchors", {}),
        ("auditor", "GET", f"/v1/ledger/facts/{fact['id']}/proof", {}),
        ("auditor", "GET", "/v1/ledger/export", {}),
        ("auditor", "GET", f"/v1/missions/{mission}/recording", {}),
        ("auditor", "GET", f"/v1/missions/{mission}/diff?against={one}", {}),
        ("auditor", "GET", "/v1/recordings", {}),
        ("auditor", "GET", "/v1/release/gates", {}),
        ("auditor", "GET", "/v1/release/gates?environment=staging", {}),
        ("auditor", "GET", "/v1/release/ladder", {}),
        ("auditor", "GET", "/v1/release/history", {}),
        ("auditor", "GET", "/v1/release/verdict", {}),
        ("auditor", "GET", "/v1/release/verdicts", {}),
        ("auditor", "GET", f"/v1/release/verdicts/{verdict}", {}),
        ("auditor", "GET", "/v1/release/attestations", {}),
        ("auditor", "GET", f"/v1/release/attestations/{attested}", {}),
        ("release_owner", "POST", "/v1/release/ladder/dry_run/enable", {"json": {}}),
        ("release_owner", "POST", "/v1/release/verdicts", {"json": {}}),
    ]  # fmt: skip
    for person, method, url, more in asked:
        answer = await world.people[person].http.request(method, url, **more)
        seen.add(operation := fits(document, answer))
        note(examples, operation, answer)
    for recipe, _ in LEAVE_FACTS.values():
        answer = await recipe(world)
        seen.add(operation := fits(document, answer))
        note(examples, operation, answer)
    for path in ("/v1/drills", "/v1/drills/replay/runs"):  # which a recipe has prepared
        answer = await world.auditor.get(path)
        seen.add(operation := fits(document, answer))
        note(examples, operation, answer)
    [recording, *_] = (await world.auditor.get("/v1/recordings")).json()["items"]
    answer = await world.auditor.get(f"/v1/recordings/{recording['id']}")
    seen.add(operation := fits(document, answer))
    note(examples, operation, answer)
    mine = (await world.admin.get("/v1/whoami")).json()
    person, key = f"/v1/principals/{mine['principal_id']}", mine["credential"]["id"]
    for path in (
        "/v1/whoami", "/v1/tenants", f"/v1/tenants/{mine['tenant_id']}", "/v1/principals", person, f"{person}/grants",
        f"{person}/identities", "/v1/api-keys", f"/v1/api-keys/{key}",
    ):  # fmt: skip
        answer = await world.admin.get(path)
        seen.add(operation := fits(document, answer))
        note(examples, operation, answer)
    every = {operation["operationId"] for operations in document["paths"].values() for operation in operations.values()}
    missing = every - seen - PROBES
    assert not missing, f"ask for these too: {missing}"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        write(examples, EXAMPLES)


def fits(document: dict[str, Any], answer: httpx.Response) -> str:
    """Holds an answer against the document; gives its operation."""
    path = httpx.URL(str(answer.request.url)).path.split("/")

    def matches(template: str) -> bool:
        parts = template.split("/")
        return len(parts) == len(path) and all(a == b or a.startswith("{") for a, b in zip(parts, path, strict=True))

    found_paths = sorted(filter(matches, document["paths"]), key=lambda template: template.count("{"))
    operations = document["paths"][found_paths[0]]  # what is named outright goes before what a parameter also fits
    operation = operations[answer.request.method.lower()]
    named: str = operation["operationId"]
    published = operation["responses"].get(str(answer.status_code))
    assert published, (named, answer.status_code, answer.text)
    if answer.status_code == 204:
        assert not answer.content
        return named
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in published["content"], (named, answer.status_code, kind)
    if not kind.endswith("json"):  # lines of JSON are looked at where they are made
        return named
    validator = schema_of(document, published["content"][kind]["schema"])
    found = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(answer.json())]
    assert not found, (named, answer.status_code, found[:3])
    closed = published["content"][kind]["schema"]
    if "$ref" in closed:
        properties = document["components"]["schemas"][closed["$ref"].rpartition("/")[2]].get("properties", {})
        if kind == "application/json":
            assert set(answer.json()) <= set(properties), (named, set(answer.json()) - set(properties))
    return named


def test_an_example_stays_only_when_what_it_says_is_the_same() -> None:
    def said(**more: Any) -> dict[str, Any]:
        body = {
            "id": str(uuid4()),
            "took_ms": random.random(),
            "time_ms": {"used": random.random(), "limit": 5},
            "days": 30,
        }
        return {"path": f"/v1/missions/{uuid4()}", "status": 201, "body": body | {"at": iso(now())} | more}

    assert same(said(), said())
    assert not same(said(), said() | {"status": 202})
    assert not same(said(), said(days=90))
    assert not same(said(), said(time_ms={"used": 1, "limit": 6}))
    assert not same(said(days=None), said())
