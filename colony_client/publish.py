"""Writes the published form of the contract: `python -m colony_client.publish`.

Two OpenAPI 3.1 documents (the colony's API, and the root's internal API) and a JSON Schema 2020-12 for every message, event
and artifact, into `published/<version>/`. Everything is made from the models, `calls` and `examples`; nothing is written by
hand. The folders of earlier versions are left as they were published.
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from colony_client import calls, examples, signing
from colony_client import contract as c
from colony_client.artifacts import ARTIFACT_TYPES, SINCE
from colony_client.calls import Call, Refusal, Service

PUBLISHED = Path(__file__).with_name("published")
TAGS = ("type", "schema_name")
DIALECT = "https://json-schema.org/draft/2020-12/schema"

MESSAGES: dict[str, type[BaseModel]] = {
    "dispatch": c.Dispatch,
    "dispatch_batch": c.DispatchBatch,
    "dispatch_answers": c.DispatchAnswers,
    "mission_status": c.MissionStatus,
    "cancel_request": c.CancelRequest,
    "health": c.Health,
    "ready": c.Ready,
    "event_batch": c.EventBatch,
    "event_receipt": c.EventReceipt,
    "events_of_many": c.EventsOfMany,
    "event_answers": c.EventAnswers,
    "tool_call": c.ToolCall,
    "tool_answer": c.ToolAnswer,
    "tool_offers": c.ToolOffers,
    "root_view": c.RootView,
    "problem": c.ProblemDocument,
}
EVENTS: dict[str, type[BaseModel]] = {
    kind.model_fields["type"].default: kind for kind in get_args(get_args(c.Event)[0])
}

HEADERS = {
    signing.KEY_HEADER: (r"^[A-Za-z0-9_-]{1,32}$", "k1", "The id of the key that signs."),
    signing.TIMESTAMP_HEADER: (r"^[0-9]{10,11}$", "1795255920", "Unix time in seconds; good for five minutes either way."),
    signing.NONCE_HEADER: (r"^[A-Za-z0-9_-]{16,64}$", "q83vEjRWeJCrze8SNFZ4kA", "Random, and never used twice."),
    signing.SIGNATURE_HEADER: (r"^v1=[0-9a-f]{64}$", "v1=" + "5e" * 32, "HMAC-SHA256 over the request, in hex."),
}  # fmt: skip
VERSION = {
    "name": c.VERSION_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,2}\.(0|[1-9][0-9]{0,2})$"},
    "description": "The newest version of the contract that the caller speaks; absent means 1.0.",
    "example": c.CONTRACT_VERSION,
}
RETRY_AFTER = {"description": "Seconds to wait, or an HTTP date.", "schema": {"type": "string"}, "example": "2"}
ABOUT: dict[Service, tuple[str, str]] = {
    "colony": ("Colony", "What a colony answers to the root. Any language may implement it."),
    "root-internal": (
        "Mission root, internal API",
        "What the root answers to a colony, on a port that is never public.",
    ),
}


def documents() -> dict[str, Any]:
    """Every published document of the current version, by its path under its folder."""
    made: dict[str, Any] = {f"{service}.openapi.json": openapi(service) for service in ABOUT}
    named = examples.messages() | examples.events() | examples.artifacts()
    for name, model in (MESSAGES | EVENTS | ARTIFACT_TYPES).items():
        found = [_plain(named[name])] if name in named else []
        made[f"schemas/{name}.json"] = schema(name, model, found)
    return made


def schema(name: str, model: type[BaseModel], found: list[Any]) -> dict[str, Any]:
    """One self-contained JSON Schema."""
    made = model.model_json_schema()
    head = {"$schema": DIALECT, "$id": f"urn:mission-root:contract:{c.CONTRACT_VERSION}:{name}"}
    return head | _readable(made) | ({"examples": found} if found else {})


def openapi(service: Service) -> dict[str, Any]:
    title, about = ABOUT[service]
    own = calls.of(service)
    models: list[Any] = [model for call in own for model in (call.asks, call.answers) if model is not None]
    _, defined = models_json_schema(
        [(model, "validation") for model in [*models, c.ProblemDocument]], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for call in own:
        paths.setdefault(call.path, {})[call.method] = operation(call)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": title, "version": c.CONTRACT_VERSION, "description": about},
        "paths": paths,
        "components": {
            "schemas": _readable(defined)["$defs"],
            "parameters": {
                name: _header(name, *said) for name, said in HEADERS.items()
            } | {c.VERSION_HEADER: VERSION},
            "securitySchemes": {
                "mission_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The newest mission token of the attempt: from its dispatch, then from each receipt.",
                }
            },
        },
    }  # fmt: skip


def operation(call: Call) -> dict[str, Any]:
    """One call as OpenAPI says it."""
    inside = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    parameters = [_path_parameter(name) for name in inside]
    headers = [*HEADERS, c.VERSION_HEADER] if call.signed else [c.VERSION_HEADER]
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in headers]
    made: dict[str, Any] = {"operationId": call.operation, "summary": call.summary, "parameters": parameters}
    made["security"] = [{"mission_token": []}] if call.token else []
    if call.since != c.FIRST_VERSION:
        made[SINCE] = call.since
    if call.asks is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": _content(call.asks)}}
    answer = {"description": "Done.", "content": {"application/json": _content(call.answers)}}
    made["responses"] = {"200": answer} | {str(status): {**answer, "description": "Not now."} for status in call.also}
    for status in sorted({one.status for one in call.refusals} - set(call.also)):
        made["responses"][str(status)] = _refused(call, [one for one in call.refusals if one.status == status])
    return made


def problem(call: Call, refusal: Refusal) -> dict[str, Any]:
    """What a refusal looks like."""
    said: dict[str, Any] = {
        "type": f"/problems/{refusal.code}",
        "title": refusal.code.replace("_", " "),
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.when,
    }
    return said | dict(refusal.members)


def _refused(call: Call, refusals: list[Refusal]) -> dict[str, Any]:
    shown = {one.code: {"summary": one.remedy, "value": problem(call, one)} for one in refusals}
    content = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}, "examples": shown}
    said: dict[str, Any] = {
        "description": " ".join(f"`{one.code}`: {one.when}" for one in refusals),
        "x-codes": [one.code for one in refusals],
        "content": {"application/problem+json": content},
    }
    return said | ({"headers": {"Retry-After": RETRY_AFTER}} if any(one.retry_after for one in refusals) else {})


def _content(model: type[BaseModel]) -> dict[str, Any]:
    shown = {name: {"value": _plain(one)} for name, one in examples.messages().items() if type(one) is model}
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "examples": shown}


def _header(name: str, pattern: str, example: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": True, "schema": schema, "description": description, "example": example}  # fmt: skip


def _path_parameter(name: str) -> dict[str, Any]:
    kinds = {
        "mission_id": ({"type": "string", "format": "uuid"}, str(examples.MISSION)),
        "tool": ({"type": "string", "pattern": r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", "maxLength": 64}, "workspace.search"),
    }  # fmt: skip
    schema, example = kinds[name]
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _plain(message: BaseModel) -> Any:
    return message.model_dump(mode="json")


def _readable(node: Any) -> Any:
    """The schema without titles, which repeat the names of fields, with descriptions on one line, and tags required."""
    if isinstance(node, list):
        return [_readable(one) for one in node]
    if not isinstance(node, dict):
        return node
    made: dict[str, Any] = {}
    for name, value in node.items():
        if name == "title" and isinstance(value, str):
            continue
        if name == "description" and isinstance(value, str):
            made[name] = " ".join(value.split())
        elif name in ("properties", "$defs"):  # names of fields and models, whatever they are called
            made[name] = {inner: _readable(one) for inner, one in value.items()}
        else:
            made[name] = _readable(value)
    tags = [name for name in TAGS if "const" in made.get("properties", {}).get(name, {})]
    if tags:  # by them a receiver tells one from the other: left out, nothing else is looked at
        made["required"] = [*tags, *(name for name in made.get("required", []) if name not in tags)]
    return made


def text(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Writes all documents under a folder and removes what is no longer among them; the files written."""
    made = documents()
    for old in folder.rglob("*.json"):
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for path, document in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text(document))
    return [folder / path for path in made]


if __name__ == "__main__":
    written = write(PUBLISHED / c.CONTRACT_VERSION)
    print(f"{len(written)} documents in {PUBLISHED / c.CONTRACT_VERSION}", file=sys.stderr)
