"""The pinned schemas of registered tools, compiled once."""

from typing import Any

import jsonschema_rs

from app.errors import Problem
from app.http.edge import entry
from app.missions.normalize import refuse_to_fetch
from app.tools.definition import Pin

MOST_ERRORS = 20
REMEMBERED = 1000


def fit(pin: Pin, arguments: dict[str, Any]) -> None:
    """Raises Problem validation for every argument that does not fit the pinned schema."""
    check = validator(pin.schema_sha256, pin.input_schema)
    found = [
        entry(("body", "arguments", *error.instance_path), error.message[:300])
        for error, _ in zip(check.iter_errors(arguments), range(MOST_ERRORS), strict=False)
    ]
    if found:
        raise Problem("validation", f"{found[0]['pointer']}: {found[0]['detail']}", errors=found)


_SCHEMAS: dict[str, Any] = {}


def validator(schema_sha256: str, schema: dict[str, Any]) -> Any:
    """A compiled schema, by its hash. Raises jsonschema_rs.ValidationError or ValueError when it is none that can be used."""
    found = _SCHEMAS.get(schema_sha256)
    if found is None:
        found = jsonschema_rs.validator_for(schema, retriever=refuse_to_fetch)
        if len(_SCHEMAS) >= REMEMBERED:
            _SCHEMAS.clear()
        _SCHEMAS[schema_sha256] = found
    return found
