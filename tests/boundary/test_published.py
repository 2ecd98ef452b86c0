"""The services that run are the services that are published: the same calls, the same shapes, the same refusals."""

from typing import Any

import pytest
from fastapi import FastAPI

from app.errors import KINDS, Problem
from app.tools import TOOLS
from colony.service import create_app
from colony.settings import Settings
from colony_client import calls, examples, publish
from colony_client.contract import ToolAnswer, ToolCall
from tests.world import World
from tests.world.life import give_guide, under_way

UNSAID = ("title", "description", "examples", "discriminator", "default", "$defs")  # words, and what FastAPI leaves out
OPENAIS = "/internal/v1/missions/{mission_id}/openai/v1"  # a protocol that others publish: docs/models.md
UNPUBLISHED = ("/metrics", "/problems/{code}", f"{OPENAIS}/chat/completions", f"{OPENAIS}/models")


@pytest.fixture
def services(world: World) -> dict[str, FastAPI]:
    settings = Settings(port=1, root_api_base_url="http://127.0.0.1:9", root_api_key="test:" + "s" * 32)
    return {"root-internal": world.internal, "colony": create_app(settings)}


@pytest.mark.parametrize("service", publish.ABOUT)
async def test_a_service_answers_exactly_the_calls_that_are_published(
    services: dict[str, FastAPI], service: calls.Service
) -> None:
    published, own = publish.openapi(service), services[service].openapi()
    said = {
        (path, method): operation
        for path, operations in own["paths"].items()
        for method, operation in operations.items()
        if path not in UNPUBLISHED
    }
    known = {(call.path, call.method): call for call in calls.of(service)}
    assert set(said) == set(known), "name a new call in colony_client/calls.py and publish it"
    for where, call in known.items():
        operation = said[where]
        assert operation["operationId"] == call.operation
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert plain(answer, own) == plain(published_answer(published, call), published), call.operation
        if service == "root-internal" and call.asks is not None:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            shape = published["paths"][call.path][call.method]["requestBody"]["content"]["application/json"]["schema"]
            assert plain(body, body) == plain(shape, published), call.operation


def published_answer(document: dict[str, Any], call: calls.Call) -> Any:
    return document["paths"][call.path][call.method]["responses"]["200"]["content"]["application/json"]["schema"]


def plain(schema: Any, document: dict[str, Any], depth: int = 0) -> Any:
    """A schema with its references followed and without words: what two documents have in common if they agree."""
    if depth > 40:
        return "…"
    if isinstance(schema, list):
        return [plain(one, document, depth + 1) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return plain(target, document, depth + 1)
    kept = {name: value for name, value in schema.items() if name not in UNSAID and value is not False}
    made = {
        name: {inner: plain(one, document, depth + 1) for inner, one in value.items()}
        if name == "properties"
        else plain(value, document, depth + 1)
        for name, value in kept.items()
    }
    if "required" in made:  # the published form requires tags outright
        made["required"] = sorted({*made["required"]} - {*publish.TAGS})
    return {name: value for name, value in made.items() if not (name == "required" and not value)}


async def test_every_tool_answers_as_its_example_says(world: World) -> None:
    """Arguments are taken as they are shown, and answers have exactly the members that are shown."""
    messages = examples.messages()
    shown = {name.partition(".")[2]: one for name, one in messages.items() if name.startswith("tool_call.")}
    assert {*shown, "workspace.search"} == set(TOOLS)
    shown["workspace.search"] = messages["tool_call"]
    await world.with_crm()
    source = await give_guide(world, examples.TEXT, examples.DOCUMENT)
    assert source == examples.SOURCE, "the example's document has the hash that the root gives it"
    life = await under_way(world, mission_type="crm_lead_intelligence")
    for tool, call in shown.items():
        if TOOLS[tool].access == "mutate":  # its evidence has to be what this mission was shown: tests/tools
            continue
        assert isinstance(call, ToolCall)
        said = await world.colony.tool(life.dispatch, tool, **call.arguments)
        answer = messages["tool_answer" if tool == "workspace.search" else f"tool_answer.{tool}"]
        assert isinstance(answer, ToolAnswer)
        assert members(said) == members(answer.result), tool
        if tool.startswith("workspace."):
            without = {"score"}
            assert plainly(said, without) == plainly(answer.result, without), tool


def members(value: Any) -> Any:
    """The names of all members, wherever they stand; of records' own fields only that they are there."""
    if isinstance(value, dict):
        return {name: None if name == "fields" else members(one) for name, one in value.items()}
    return [members(value[0])] if isinstance(value, list) and value else None


def plainly(value: Any, without: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: plainly(one, without) for name, one in value.items() if name not in without}
    return [plainly(one, without) for one in value] if isinstance(value, list) else value


def test_the_roots_refusals_are_its_own() -> None:
    for call in calls.of("root-internal"):
        for one in call.refusals:
            assert KINDS[one.code].status == one.status, one


def test_every_example_of_a_refusal_is_a_problem_document_of_the_root() -> None:
    for call in calls.of("root-internal"):
        for one in call.refusals:
            real = Problem(one.code, one.when).document("/", None)
            shown = publish.problem(call, one)
            assert {name for name in shown if name not in dict(one.members)} <= set(real)
            assert (shown["type"], shown["status"]) == (real["type"], real["status"])
