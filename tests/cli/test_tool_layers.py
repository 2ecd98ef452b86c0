"""`mission-root tool-layers`: what it shows, and that it puts a file as it is on the version it has seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_client import Ended, Root, command, problem, root

__all__ = ["command", "root"]

SWITCH: dict[str, Any] = {"halted": False, "halted_at": None, "reason": None, "changed_by": None, "changed_at": None}
ONE: dict[str, Any] = {
    "name": "odd", "version": 2, "kind": "mcp", "owner": "Research", "description": None, "transport": "streamable_http",
    "place": "odd.example:443", "state": "drifted", "retired": False,
    "tools": [{"name": "odd.echo", "server_name": "say", "description": "Says it.", "access": "mutate", "reach": "internal",
               "sensitivity": "public", "schema_sha256": "ab" * 32, "drifted": True,
               "becomes": {"operation": "update", "kind": "lead", "connector": "crm"}}],
    "drifted": ["odd.echo"], "drifted_at": "2026-01-02", "answered_at": None, "failed_at": "2026-01-03", "failure": "tool_timed_out",
    "breaker": {"name": "odd", "state": "down", "since": "", "detail": None, "effect": None}, "calls": 7, "refusals": 3,
    "key": "TOOL_D__ODD_KEY", "switch": SWITCH, "created_by": "0", "created_at": "2026-01-01", "definition": {"owner": "Research"},
    "schemas": {}, "history": [{"version": 2, "created_at": "2026-01-01"}, {"version": 1, "created_at": "2025-01-01"}],
}  # fmt: skip
PUT = {"outcome": "changed", "name": "odd", "version": 3, "key": "TOOL_D__ODD_KEY", "schemas": {"odd.echo": "cd" * 32}}


@pytest.fixture(autouse=True)
def answers(root: Root) -> None:
    root.answers["GET /v1/tool-layers"] = (200, {}, {"items": [ONE], "next_cursor": None, "has_more": False})
    root.answers["GET /v1/tool-layers/odd"] = (200, {"ETag": '"v2"'}, ONE)
    root.answers["PUT /v1/tool-layers/odd"] = (200, {"ETag": '"v3"'}, PUT)
    root.answers["DELETE /v1/tool-layers/odd"] = (200, {}, PUT | {"outcome": "retired", "key": None, "schemas": {}})
    for verb in ("halt", "resume"):
        done = {"name": "odd", "outcome": f"{verb}ed".replace("ee", "e"), "switch": SWITCH | {"halted": verb == "halt"}}
        root.answers[f"POST /v1/tool-layers/odd/{verb}"] = (200, {}, done)


def test_list_and_show_say_how_it_fares(command: Callable[..., Ended]) -> None:
    code, out, err = command("tool-layers", "list")
    assert (code, err) == (0, "") and all(
        word in out for word in ("odd", "v2", "Research", "drifted", "echo", "7", "tool_timed_out")
    )
    code, out, err = command("tool-layers", "show", "odd")
    assert code == 0 and all(
        word in out
        for word in (
            "TOOL_D__ODD_KEY",
            "odd.example:443",
            "update lead in crm",
            "3 refused",
            "v1 2025-01-01",
            "abababab",
        )
    )
    assert json.loads(command("tool-layers", "show", "odd", "--json")[1]) == ONE


def test_a_file_is_put_as_it_is(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    for name, kind in (("a.yaml", "application/yaml"), ("a.json", "application/json")):
        file = tmp_path / name
        file.write_text("kind: mcp  # as it is\n")
        code, out, _ = command("tool-layers", "put", "odd", str(file), "--check-only")
        what, query, headers, body = root.asked[-1]
        assert (code, what, query, headers["If-Match"], headers["Content-Type"]) == (
            0, "PUT /v1/tool-layers/odd", "validate_only=true", '"v2"', kind,
        )  # fmt: skip
        assert body == file.read_bytes() and "odd.echo  schema cdcd" in out
    root.answers["GET /v1/tool-layers/odd"] = (404, {}, problem("not_found"))
    assert command("tool-layers", "put", "odd", str(file))[0] == 0
    assert "If-Match" not in root.asked[-1][2]


def test_switching_needs_a_reason_and_says_what_follows(root: Root, command: Callable[..., Ended]) -> None:
    assert command("tool-layers", "halt", "odd")[0] == 2
    code, out, err = command("tool-layers", "halt", "odd", "--reason", "broken")
    assert (code, err) == (0, "") and "refused" in out
    assert json.loads(root.asked[-1][3]) == {"reason": "broken"}
    assert "called" in command("tool-layers", "resume", "odd", "--reason", "mended")[1]
    assert "retired" in command("tool-layers", "retire", "odd")[1]
    assert root.asked[-1][2]["If-Match"] == '"v2"'


def test_a_check_that_finds_drift_fails(root: Root, command: Callable[..., Ended]) -> None:
    tool = {"name": "odd.echo", "outcome": "same", "pinned_sha256": "a", "schema_sha256": "a", "input_schema": None}
    seen = {
        "ok": True,
        "problem": None,
        "server": "odd",
        "protocol": "x",
        "tools": [tool],
        "offered": {"say": "a"},
        "took_ms": 5.0,
    }
    root.answers["POST /v1/tool-layers/odd/check"] = (200, {}, seen)
    code, out, _ = command("tool-layers", "check", "odd")
    assert code == 0 and "as registered" in out
    changed = seen | {
        "ok": False,
        "problem": "a tool is not what was registered",
        "tools": [tool | {"outcome": "changed"}],
    }
    root.answers["POST /v1/tool-layers/odd/check"] = (200, {}, changed)
    code, out, _ = command("tool-layers", "check", "odd")
    assert code == 1 and "odd.echo  changed" in out
