"""Definitions as they are put, in JSON or YAML.

YAML is another spelling of JSON, and nothing more: no aliases, no tags, no dates, no double names.
"""

import re
from collections.abc import Collection
from typing import Any

import yaml
from fastapi import Request

from app.errors import Problem
from app.http import read_body
from app.http.bodies import MAX_DEPTH
from app.http.bodies import parse as parse_json

LARGEST = 65_536


class Plain(yaml.SafeLoader):
    """SafeLoader with JSON's values only. An alias could make a small text a huge document."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # the base class declares it for instances

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        event = self.peek_event()
        if getattr(event, "tag", None) is not None or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("tags and anchors are not taken")
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError("it is nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        if not all(isinstance(name, str) for name in names):
            raise yaml.YAMLError("a name that is no text: write it in quotes")
        if len(set(names)) < len(names):
            raise yaml.YAMLError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


for tag, pattern, first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:int", r"^-?(?:0|[1-9][0-9]{0,17})$", "-0123456789"),
    ("tag:yaml.org,2002:float", r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$", "-0123456789"),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
):
    Plain.add_implicit_resolver(tag, re.compile(pattern), list(first))


def parse_yaml(body: bytes) -> Any:
    """The document in a YAML body. Raises Problem malformed."""
    try:
        return yaml.load(body.decode("utf-8"), Loader=Plain)  # noqa: S506  # a SafeLoader, made stricter
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as bad:
        mark = getattr(bad, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        said = getattr(bad, "problem", None) or (str(bad) if isinstance(bad, yaml.YAMLError) else type(bad).__name__)
        raise Problem("malformed", f"The body is not YAML that stands for JSON: {said[:200]}{where}.") from None


async def read_document(request: Request) -> Any:
    """What a body says, in JSON or YAML. Raises Problem too_large, malformed or unsupported_media_type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, LARGEST)
    if kind == "application/json":
        return parse_json(body)
    if kind in ("application/yaml", "application/x-yaml", "text/yaml"):
        return parse_yaml(body)
    raise Problem(
        "unsupported_media_type", f"This route takes application/json and application/yaml, not {kind or 'nothing'}."
    )


def split(document: Any, kinds: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The kind and the rest of a definition. Raises Problem validation."""
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        errors = [{"pointer": "/kind", "detail": f"must be one of {', '.join(kinds)}"}]
        raise Problem("validation", f"/kind: {errors[0]['detail']}", errors=errors)
    return document["kind"], {name: value for name, value in document.items() if name != "kind"}


def put_body(kinds: Collection[str], example: dict[str, Any]) -> dict[str, Any]:
    """The body of a route that takes a definition, for the OpenAPI document."""
    schema = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": list(kinds)}}}
    said = {"schema": schema, "example": example}
    return {"requestBody": {"required": True, "content": dict.fromkeys(("application/json", "application/yaml"), said)}}
