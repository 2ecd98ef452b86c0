"""`mission-root release`: what it prints, its exit codes, and that a refusal says everything that is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_client import Ended, Root, command, problem, root

__all__ = ["command", "root"]


def gate(name: str, result: str, *checks: dict[str, Any]) -> dict[str, Any]:
    return {"gate": name, "title": f"{name.capitalize()} integrity", "result": result, "checks": list(checks)}


def one(name: str, result: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "name": name, "sentence": "-", "looks_at": "-", "result": result, "reason": reason, "limit_s": 600, "age_s": 7300.0,
        "expires_at": "2030-01-01T00:00:00.000000Z", "evidence": [{"kind": "mission", "id": "m-1"}] if result == "pass" else [],
    }  # fmt: skip


GREEN = {
    "environment": "staging", "build": "1", "result": "pass", "computed_at": "-", "verdict": None,
    "items": [gate("technical", "pass", one("schema_applies", "pass"))],
}  # fmt: skip
RED = GREEN | {
    "result": "fail",
    "items": [gate("sales", "fail", one("stable_for_demo", "fail", "The newest attestation was withdrawn."))],
}
RUNG = {
    "rung": "oracle_staging", "title": "Oracle assisted in staging", "environment": "staging", "mission_type": "oracle_advisory",
    "enables": "assisted", "at_most": "autonomous", "gates": ["technical"], "checks": [], "state": "not_enabled",
    "autonomy": "nothing", "last_change": None, "ready": False,
    "missing": [{"kind": "rung", "name": "dry_run", "reason": "Health and dry runs is not enabled."}],
}  # fmt: skip
LADDER = {
    "environment": "staging",
    "build": "1",
    "bound": True,
    "why": "Staging admits its rungs.",
    "admits": {},
    "items": [RUNG],
}
Command = Callable[..., Ended]


def test_gates_are_shown_line_by_line_and_decide_the_exit_code(root: Root, command: Command) -> None:
    root.answers["GET /v1/release/gates"] = (200, {}, GREEN)
    code, out, err = command("release", "gates")
    assert (code, err) == (0, "") and "schema_applies" in out and "mission m-1, 2 h old, good until 2030" in out
    code, out, _ = command("release", "gates", "--json")
    assert code == 0 and json.loads(out) == GREEN
    root.answers["GET /v1/release/gates"] = (200, {}, RED)
    code, out, err = command("release", "gates", "--json")
    assert (code, json.loads(out), err) == (4, RED, "")
    code, out, _ = command("release", "gates")
    assert code == 4 and "FAIL" in out and "The newest attestation was withdrawn." in out
    told = RED | {"verdict": {"id": "1", "build": "1", "made_at": "-", "expires_at": "-", "age_s": 90_000.0}}
    root.answers["GET /v1/release/gates"] = (200, {}, told)
    _, out, _ = command("release", "gates", "--environment", "staging")
    assert "As the verdict of staging says, 1 d old." in out and root.asked[-1][1] == "environment=staging"


def test_the_ladder_says_what_is_missing_and_how_to_go_on(root: Root, command: Command) -> None:
    root.answers["GET /v1/release/ladder"] = (200, {}, LADDER)
    code, out, _ = command("release", "ladder")
    assert code == 0 and "not enabled" in out and "- rung dry_run: Health and dry runs is not enabled." in out
    root.answers["GET /v1/release/ladder"] = (200, {}, LADDER | {"items": [RUNG | {"ready": True, "missing": []}]})
    _, out, _ = command("release", "ladder")
    assert "ready: mission-root release enable oracle_staging" in out


def test_enabling_and_lowering(root: Root, command: Command) -> None:
    enabled = {"outcome": "enabled", "lowered": 0, "rung": RUNG | {"autonomy": "assisted", "state": "enabled"}}
    root.answers["POST /v1/release/ladder/oracle_staging/enable"] = (200, {}, enabled)
    code, out, _ = command("release", "enable", "oracle_staging", "--autonomy", "assisted", "--idempotency-key", "k")
    assert (code, out) == (0, "oracle_staging is enabled: assisted.\n")
    assert json.loads(root.asked[-1][3]) == {"autonomy": "assisted"} and root.asked[-1][2]["Idempotency-Key"] == "k"
    missing = [{"kind": "gate", "name": "sales", "reason": "The gate is failing."}]
    root.answers["POST /v1/release/ladder/oracle_staging/enable"] = (
        409,
        {},
        problem("rung_not_ready", missing=missing),
    )
    code, out, err = command("release", "enable", "oracle_staging", "--json")
    assert (code, out) == (4, "") and json.loads(err)["missing"] == missing
    root.answers["POST /v1/release/ladder/dry_run/lower"] = (200, {}, enabled | {"outcome": "lowered", "lowered": 3})
    code, out, _ = command("release", "lower", "dry_run", "--reason", "odd")
    assert code == 0 and "is lowered" in out and "and with it 2 more" in out
    assert command("release", "lower", "dry_run")[0] == 2  # it says why, or it is not done


def test_attesting(root: Root, command: Command) -> None:
    made = {
        "id": "a-1",
        "sentence": "It is stable.",
        "role": "product_owner",
        "expires_at": "2030",
        "sha256": "ab",
        "state": "live",
    }
    root.answers["POST /v1/release/attestations"] = (201, {}, made)
    code, out, _ = command("release", "attest", "stable_for_demo", "--comment", "Twice.", "--valid-s", "3600")
    assert code == 0 and "as product_owner, until 2030, sha256 ab" in out
    assert json.loads(root.asked[-1][3]) == {"claim": "stable_for_demo", "comment": "Twice.", "valid_s": 3600}
    root.answers["POST /v1/release/attestations/a-1/withdraw"] = (200, {}, made | {"state": "withdrawn"})
    assert command("release", "withdraw", "a-1")[1] == "a-1 is withdrawn.\n"
    root.answers["GET /v1/release/attestations"] = (200, {}, {"items": [], "next_cursor": None, "has_more": False})
    code, out, _ = command("release", "attestations")
    assert code == 0 and "mission-root release attest" in out


def test_verdicts_leave_and_come(root: Root, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    root.answers["GET /v1/release/verdict"] = (200, {}, {"signature": "x", "statement": {}})
    assert command("release", "export", "--out", str(file))[0] == 0
    kept = {
        "id": "v-1",
        "environment": "staging",
        "build": "1",
        "result": "pass",
        "signed_by": "staging-1",
        "expires_at": "2030",
    }
    root.answers["POST /v1/release/verdicts"] = (201, {}, kept)
    code, out, _ = command("release", "import", str(file))
    assert code == 0 and "signed by staging-1" in out and root.asked[-1][3] == file.read_bytes()
    root.answers["POST /v1/release/verdicts"] = (422, {}, problem("verdict_refused", cause="expired"))
    assert command("release", "import", str(file))[0] == 4
    assert command("release", "import", str(tmp_path / "none"))[0] == 2
    root.answers["GET /v1/release/verdict"] = (503, {"Retry-After": "300"}, problem("not_configured"))
    assert command("release", "export", "--out", str(tmp_path / "other"))[0] == 7
    assert not (tmp_path / "other").exists()
    page = {"items": [kept], "next_cursor": None, "has_more": False}
    root.answers["GET /v1/release/verdicts"] = (200, {}, page)
    assert "v-1" in command("release", "verdicts")[1]


@pytest.mark.parametrize("words", [("history",), ("history", "--gate", "sales")])
def test_history(root: Root, command: Command, words: tuple[str, ...]) -> None:
    changed = {
        "id": "1", "environment": "staging", "gate": "sales", "result": "fail", "was": None, "at": "2026",
        "checks": [{"name": "stable_for_demo", "result": "fail", "reason": "No."}, {"name": "other", "result": "pass", "reason": None}],
    }  # fmt: skip
    root.answers["GET /v1/release/history"] = (200, {}, {"items": [changed], "next_cursor": None, "has_more": False})
    code, out, _ = command("release", *words)
    assert code == 0 and "-> fail" in out and out.rstrip().endswith("stable_for_demo")
    root.answers["GET /v1/release/history"] = (200, {}, {"items": [], "next_cursor": None, "has_more": False})
    assert "once a minute" in command("release", *words)[2]
