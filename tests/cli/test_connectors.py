"""`mission-root connectors`: what it shows, and that it puts a file as it is on the version it has seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_client import Ended, Root, command, problem, root

__all__ = ["command", "root"]

SWITCH: dict[str, Any] = {"halted": False, "halted_at": None, "reason": None, "changed_by": None, "changed_at": None}
ONE: dict[str, Any] = {
    "name": "crm", "version": 2, "kind": "sample_crm", "retired": False, "description": None, "hosts": ["crm.example:443"],
    "capabilities": {"read": "api", "lists": True, "version": "an integer", "idempotency": "a key", "verify": "read back",
                     "operations": {"lead": ["update"]}},
    "read_by": "api", "readable": True, "credentials": {"read": "CONNECTOR_D__CRM_READ", "write": "CONNECTOR_D__CRM_WRITE"},
    "switch": SWITCH, "created_by": "0", "created_at": "2026-01-01T00:00:00.000000Z", "definition": {"base_url": "https://crm.example"},
    "history": [{"version": 2, "created_at": "2026-01-01"}, {"version": 1, "created_at": "2025-01-01"}],
}  # fmt: skip
PUT = {
    "outcome": "changed",
    "name": "crm",
    "version": 3,
    "hosts": [],
    "capabilities": None,
    "credentials": ONE["credentials"],
}


@pytest.fixture(autouse=True)
def answers(root: Root) -> None:
    root.answers["GET /v1/connectors"] = (200, {}, {"items": [ONE], "next_cursor": None, "has_more": False})
    root.answers["GET /v1/connectors/crm"] = (200, {"ETag": '"v2"'}, ONE)
    root.answers["PUT /v1/connectors/crm"] = (200, {"ETag": '"v3"'}, PUT)
    root.answers["DELETE /v1/connectors/crm"] = (200, {}, PUT | {"outcome": "retired"})
    for verb in ("halt", "resume"):
        done = {"name": "crm", "outcome": f"{verb}ed".replace("ee", "e"), "switch": SWITCH | {"halted": verb == "halt"}}
        root.answers[f"POST /v1/connectors/crm/{verb}"] = (200, {}, done)


def test_list_and_show_say_what_it_can_do(command: Callable[..., Ended]) -> None:
    code, out, err = command("connectors", "list")
    assert (code, err) == (0, "") and all(
        word in out for word in ("crm", "sample_crm", "v2", "crm.example:443", "lead: update")
    )
    code, out, err = command("connectors", "show", "crm")
    assert code == 0 and all(
        word in out for word in ("CONNECTOR_D__CRM_WRITE", "https://crm.example", "v1 2025-01-01", "read back")
    )
    assert json.loads(command("connectors", "show", "crm", "--json")[1]) == ONE


def test_a_file_is_put_as_it_is(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    for name, kind in (("a.yaml", "application/yaml"), ("a.json", "application/json")):
        file = tmp_path / name
        file.write_text("kind: sample_crm  # as it is\n")
        code, out, _ = command("connectors", "put", "crm", str(file), "--check-only")
        what, query, headers, body = root.asked[-1]
        assert (code, what, query, headers["If-Match"], headers["Content-Type"]) == (
            0, "PUT /v1/connectors/crm", "validate_only=true", '"v2"', kind,
        )  # fmt: skip
        assert body == file.read_bytes() and "changed" in out
    root.answers["GET /v1/connectors/crm"] = (404, {}, problem("not_found"))
    assert command("connectors", "put", "crm", str(file))[0] == 0
    assert "If-Match" not in root.asked[-1][2]


def test_halting_needs_a_reason_and_says_what_follows(root: Root, command: Callable[..., Ended]) -> None:
    code, _, err = command("connectors", "halt", "crm")
    assert code == 2
    code, out, err = command("connectors", "halt", "crm", "--reason", "broken")
    assert (code, err) == (0, "") and "nothing is written" in out
    assert json.loads(root.asked[-1][3]) == {"reason": "broken"}
    assert "writing goes on" in command("connectors", "resume", "crm", "--reason", "mended")[1]
    assert "retired" in command("connectors", "retire", "crm")[1]
    assert root.asked[-1][2]["If-Match"] == '"v2"'


def test_a_check_that_sees_nothing_fails(root: Root, command: Callable[..., Ended]) -> None:
    seen = {
        "ok": True,
        "problem": None,
        "missing": False,
        "version": "7",
        "fields": {"a": 1},
        "read_at": "x",
        "age_s": 0.1,
        "took_ms": 5.0,
    }
    root.answers["POST /v1/connectors/crm/check"] = (200, {}, seen)
    code, out, _ = command("connectors", "check", "crm", "lead", "L-1")
    assert code == 0 and "0.1 s ago" in out and '"a": 1' in out
    root.answers["POST /v1/connectors/crm/check"] = (200, {}, seen | {"ok": False, "problem": "It is away."})
    code, out, _ = command("connectors", "check", "crm", "lead", "L-1")
    assert code == 1 and "It is away." in out
