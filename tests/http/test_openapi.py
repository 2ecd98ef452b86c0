"""OpenAPI is a product: it changes on purpose, hangs together, and says what is really answered.

After a wanted change: UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/http/test_openapi.py, and commit openapi.json.
"""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs

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
                examples = examples_of(document, body["schema"])
                if not examples:
                    lacking.append(f"{named}: an example of its body")
                for example in examples:
                    schema_of(document, body["schema"]).validate(example)
            if "probes" not in operation["tags"] and operation.get("security") != [{"api_key": []}]:
                lacking.append(f"{named}: what authenticates it")
            if method not in ("get", "post", "put", "delete"):
                lacking.append(f"{named}: a method we know")
    assert not lacking


def examples_of(document: dict[str, Any], schema: dict[str, Any]) -> list[Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("examples", []))


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
        ("operator", "POST", "/v1/policies/evaluate", {"json": {"action": "a", "resource": "b"}}),
        ("operator", "GET", "/v1/policies", {}),
        ("operator", "GET", "/v1/ledger", {}),
        ("operator", "POST", "/v1/ledger/verify", {}),
        ("operator", "GET", "/v1/events", {}),
        ("operator", "GET", "/v1/status", {}),
        ("operator", "PUT", "/v1/workspaces/w/documents?path=a.md", {"content": b"# A\n"}),
        ("operator", "GET", "/v1/workspaces", {}),
        ("operator", "GET", "/v1/workspaces/w/documents", {}),
        ("operator", "DELETE", "/v1/workspaces/w/documents?path=a.md", {}),
        ("operator", "DELETE", "/v1/workspaces/w/documents?path=a.md", {}),
        ("product_owner", "PUT", "/v1/mission-types/some_kind", {"json": definition}),
        ("product_owner", "PUT", "/v1/mission-types/some_kind", {"json": definition, "headers": match}),
        ("operator", "GET", "/v1/mission-types", {}),
        ("operator", "GET", "/v1/mission-types/some_kind", {}),
    ]
    seen = set()
    for person, method, url, more in asked:
        answer = await world.people[person].http.request(method, url, **more)
        seen.add(fits(document, answer))
    every = {operation["operationId"] for operations in document["paths"].values() for operation in operations.values()}
    missing = every - seen - {"livez", "healthz", "startupz", "readyz"}
    assert not missing, f"ask for these too: {missing}"


def fits(document: dict[str, Any], answer: httpx.Response) -> str:
    """Holds an answer against the document; gives its operation."""
    path = httpx.URL(str(answer.request.url)).path.split("/")

    def matches(template: str) -> bool:
        parts = template.split("/")
        return len(parts) == len(path) and all(a == b or a.startswith("{") for a, b in zip(parts, path, strict=True))

    [operations] = [value for template, value in document["paths"].items() if matches(template)]
    operation = operations[answer.request.method.lower()]
    named: str = operation["operationId"]
    published = operation["responses"].get(str(answer.status_code))
    assert published, (named, answer.status_code, answer.text)
    if answer.status_code == 204:
        assert not answer.content
        return named
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in published["content"], (named, answer.status_code, kind)
    validator = schema_of(document, published["content"][kind]["schema"])
    found = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(answer.json())]
    assert not found, (named, answer.status_code, found[:3])
    closed = published["content"][kind]["schema"]
    if "$ref" in closed:
        properties = document["components"]["schemas"][closed["$ref"].rpartition("/")[2]].get("properties", {})
        if kind == "application/json":
            assert set(answer.json()) <= set(properties), (named, set(answer.json()) - set(properties))
    return named
