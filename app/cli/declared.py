"""What is declared in a file and has versions: rules, types of missions; and by name, with a switch: connectors, layers of tools."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import JSON, Client, Failed

Definition = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The definition, YAML or JSON.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the switch.")]
YAML = (".yaml", ".yml")


def body_in(file: Path, answered: Sequence[str]) -> dict[str, Any]:
    """What a JSON file declares, without what only answers carry."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        raise Failed(f"{file} cannot be read as JSON: {problem}", 2) from problem
    if not isinstance(found, dict):
        raise Failed(f"{file} holds no JSON object.", 2)
    return {name: value for name, value in found.items() if name not in answered}


def put(client: Client, path: str, file: Path, check_only: bool) -> dict[str, Any]:
    """Puts a file as it is, on the version that is there now."""
    kind = "application/yaml" if file.suffix in YAML else JSON
    asked = {"validate_only": "true"} if check_only else {}
    done: dict[str, Any] = client.put(path, file.read_bytes(), if_match=client.etag_of(path), kind=kind, **asked).body
    return done


def retire(client: Client, path: str) -> dict[str, Any]:
    done: dict[str, Any] = client.delete(path, if_match=client.get(path).etag).body
    return done


def switch(client: Client, path: str, verb: str, reason: str) -> dict[str, Any]:
    """halt or resume."""
    done: dict[str, Any] = client.post(f"{path}/{verb}", {"reason": reason}).body
    return done


def outcome(done: dict[str, Any]) -> str:
    """What putting or retiring came to."""
    version = f" v{done['version']}" if done["version"] and done["outcome"] != "valid" else ""
    return f"{done['name']}{version}: {done['outcome']}"


def versions(history: list[dict[str, Any]]) -> str:
    """The versions before the one in force."""
    return ", ".join(f"v{one['version']} {one['created_at']}" for one in history[1:])
