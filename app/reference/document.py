"""The OpenAPI document read for people: fields as rows, one curl line per operation."""

import json
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).with_name("examples.json")
DEEP = 2  # levels of members that are shown
KEY = "$MISSION_ROOT_API_KEY"
URL = "$MISSION_ROOT_URL"
Row = dict[str, Any]


@lru_cache(maxsize=1)
def examples() -> dict[str, Any]:
    """What was really answered, by operation: {request, status, body}. Recorded by tests/http/test_openapi.py."""
    found: dict[str, Any] = json.loads(EXAMPLES.read_text())
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of everything but the probes."""
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "probes" not in operation["tags"]
    ]


def resolved(document: dict[str, Any], schema: Any) -> dict[str, Any]:
    """A schema with its reference followed, and `or null` left out."""
    schema = schema if isinstance(schema, dict) else {}
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    some = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return resolved(document, some[0]) | {"nullable": True} if len(some) == 1 else schema


def rows(document: dict[str, Any], schema: Any, prefix: str = "", deep: int = DEEP) -> list[Row]:
    """The members of an object, those of their members below them."""
    schema = resolved(document, schema)
    found: list[Row] = []
    for name, member in schema.get("properties", {}).items():
        inner = resolved(document, member)
        items = resolved(document, inner.get("items")) if inner.get("type") == "array" else {}
        found.append({
            "name": prefix + name, "required": name in schema.get("required", ()), "type": type_of(document, member),
            "about": about(member, inner),
        })  # fmt: skip
        if deep > 1:
            mark = f"{prefix}{name}[]." if items else f"{prefix}{name}."
            found += rows(document, items or inner, mark, deep - 1)
    return found


def type_of(document: dict[str, Any], schema: Any) -> str:
    schema = resolved(document, schema)
    if "enum" in schema or "const" in schema:
        return " · ".join(str(one) for one in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(type_of(document, one) for one in schema["anyOf"])
    name = str(schema.get("format") or schema.get("type") or "any")
    if name == "array":
        name = f"list of {type_of(document, schema.get('items') or {})}"
    return name + (" or null" if schema.get("nullable") else "")


def about(member: dict[str, Any], inner: dict[str, Any]) -> str:
    """What a member is, with its bounds and its default."""
    bounds = {
        "minimum": "at least {}", "maximum": "at most {}", "minLength": "at least {} characters", "maxLength": "at most {} characters",
        "minItems": "at least {} items", "maxItems": "at most {} items", "pattern": "fits {}",
    }  # fmt: skip
    said = [str(member.get("description") or inner.get("description") or "").strip()]
    said += [words.format(inner[name]) for name, words in bounds.items() if name in inner]
    if member.get("default") not in (None, "", [], {}):
        said.append(f"default {json.dumps(member['default'])}")
    return "; ".join(one.rstrip(".") for one in said if one)


def body_of(operation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(content type, media object) of a request body, or two empty ones."""
    content = operation.get("requestBody", {}).get("content", {})
    return next(iter(content.items()), ("", {}))


def curl(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """The operation as a line that can be run: with the example's own body and ids."""
    seen = examples().get(operation["operationId"], {})
    kind, media = body_of(operation)
    lines = ["curl" if method == "GET" else f"curl -X {method}", f'  -H "Authorization: Bearer {KEY}"']
    if any(one["name"] == "If-Match" and one.get("required") for one in operation.get("parameters", ())):
        lines.append("""  -H 'If-Match: "v1"'""")
    if kind:
        body = seen.get("request") if "request" in seen else sample(document, media)
        lines.append(f"  -H 'Content-Type: {kind}'")
        lines.append(
            f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
            if kind.endswith("json")
            else "  --data-binary @FILE"
        )
    asked = seen.get("path") or path
    lines.append(f'  "{URL}{asked}"')
    return " \\\n".join(lines)


def sample(document: dict[str, Any], media: dict[str, Any]) -> Any:
    """An example of a body, as its schema or its media type gives one."""
    if "example" in media:
        return media["example"]
    return next(iter(resolved(document, media.get("schema")).get("examples", [])), {})
