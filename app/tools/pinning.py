"""Registering what a server offers: its schemas as they are now, pinned, and how they compare with what was pinned before."""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from app.tools.definition import BadDefinition, Definition, Layer
from app.tools.mcp import Offered
from app.tools.schemas import validator


def pin(
    definition: Definition, body: Mapping[str, Any], server_name: str | None, offered: Mapping[str, Offered]
) -> dict[str, Any]:
    """The definition with what its server offers now. Raises BadDefinition for a tool that cannot be pinned."""
    pinned: dict[str, Any] = {}
    errors: list[dict[str, str]] = []
    for number, tool in enumerate(definition.tools):
        found = offered.get(tool.theirs)
        if found is None:
            some = ", ".join(sorted(offered)[:20]) or "none"
            errors.append(
                {
                    "pointer": f"/tools/{number}/server_name",
                    "detail": f"the server has no such tool; it has {some}"[:500],
                }
            )
            continue
        if tool.schema_sha256 not in (None, found.schema_sha256):
            detail = f"the server's schema is {found.schema_sha256} now: look at it again"
            errors.append({"pointer": f"/tools/{number}/schema_sha256", "detail": detail})
            continue
        try:
            validator(found.schema_sha256, found.input_schema)
        except (jsonschema_rs.ValidationError, ValueError) as refused:
            said = getattr(refused, "message", str(refused))
            errors.append({"pointer": f"/tools/{number}", "detail": f"its schema cannot be used: {said}"[:300]})
            continue
        pinned[tool.name] = {
            "input_schema": found.input_schema,
            "schema_sha256": found.schema_sha256,
            "description": tool.description or found.description or tool.theirs,
        }
    if errors:
        raise BadDefinition(errors[:20])
    return {**body, "server_name": server_name, "pinned": pinned}


def compared(layer: Layer, server_name: str | None, offered: Mapping[str, Offered]) -> list[dict[str, Any]]:
    """Each tool of a layer beside what its server offers now: same, changed or gone."""
    rows = []
    for tool in layer.definition.tools:
        found, was = offered.get(tool.theirs), layer.pinned[tool.name].schema_sha256
        outcome = "gone" if found is None else "same" if found.schema_sha256 == was else "changed"
        if server_name != layer.server_name:
            outcome = "other_server"
        rows.append(
            {
                "name": f"{layer.name}.{tool.name}",
                "outcome": outcome,
                "pinned_sha256": was,
                "schema_sha256": found.schema_sha256 if found else None,
                "input_schema": found.input_schema if found and outcome != "same" else None,
            }
        )
    return rows
