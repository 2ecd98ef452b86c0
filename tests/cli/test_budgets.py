"""`mission-root budgets`: what it shows, and that it changes only what was named, on the version it has seen."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.test_client import Ended, Root, command, problem, root

__all__ = ["command", "root"]

LIMITS: dict[str, Any] = {
    "day_tokens": 1000, "day_cost_usd": 2.5, "day_time_ms": None, "total_tokens": None, "total_cost_usd": None,
    "total_time_ms": None, "rate_key_per_s": None, "rate_principal_per_s": None, "rate_tenant_per_s": 20.0, "version": 4,
    "set_by": "0", "set_at": "2026-01-01T00:00:00.000000Z",
}  # fmt: skip
USED = {"used": 250, "reserved": 50, "limit": 1000, "left": 700}
NONE = {"used": 0, "reserved": 0, "limit": None, "left": None}
ACCOUNT = {"tokens": USED, "cost_usd": NONE, "time_ms": NONE, "calls": 3, "calls_ms": 12}
USAGE = {
    "today": {"day": "2026-01-02", **ACCOUNT},
    "total": ACCOUNT,
    "days": [{"day": "2026-01-02", **ACCOUNT}],
    "missions": [],
}


@pytest.fixture(autouse=True)
def answers(root: Root) -> None:
    root.answers["GET /v1/budgets"] = (200, {"ETag": '"v4"'}, LIMITS)
    root.answers["GET /v1/budgets/usage"] = (200, {}, USAGE)
    root.answers["PUT /v1/budgets"] = (200, {"ETag": '"v5"'}, {**LIMITS, "version": 5})


def test_show_says_limits_and_use(root: Root, command: Callable[..., Ended]) -> None:
    code, out, err = command("budgets", "show", "--days", "3")
    assert (code, err) == (0, "")
    assert "day tokens" in out and "2026-01-02" in out
    assert all(figure in out for figure in ("1000", "250", "50", "700"))
    assert ("GET /v1/budgets/usage", "days=3&limit=10") in [(asked[0], asked[1]) for asked in root.asked]
    code, out, _ = command("budgets", "show", "--json")
    assert json.loads(out) == {"limits": LIMITS, "usage": USAGE}


def test_counts_are_whole_and_costs_are_money(root: Root, command: Callable[..., Ended]) -> None:
    tokens = {"used": 2_000_000, "reserved": 1_234_567, "limit": 12_345_678, "left": 9_111_111}
    cost = {"used": 0.25, "reserved": 0, "limit": 1_234_567.5, "left": 0.000123}
    account = ACCOUNT | {"tokens": tokens, "cost_usd": cost}
    root.answers["GET /v1/budgets/usage"] = (200, {}, USAGE | {"total": account, "days": []})
    root.answers["GET /v1/budgets"] = (200, {}, LIMITS | {"day_tokens": 2_000_000, "total_cost_usd": 1_000_000.0})
    _, out, _ = command("budgets", "show")
    rows = [line.split() for line in out.splitlines()]
    assert ["in", "all", "tokens", "2000000", "1234567", "12345678", "9111111"] in rows, out
    assert ["cost_usd", "0.25", "0.00", "1234567.50", "0.000123"] in rows, out
    assert ["day", "tokens", "2000000"] in rows and ["day", "cost", "usd", "2.50"] in rows, out
    assert ["total", "cost", "usd", "1000000.00"] in rows and "e+" not in out


def test_set_changes_what_was_named_and_nothing_else(root: Root, command: Callable[..., Ended]) -> None:
    code, out, err = command(
        "budgets", "set", "--day-tokens", "5000", "--day-cost-usd", "none", "--rate-key-per-s", "0.5", "--json"
    )
    assert (code, err, json.loads(out)["version"]) == (0, "", 5)
    what, _, headers, body = root.asked[-1]
    assert (what, headers["If-Match"]) == ("PUT /v1/budgets", '"v4"')
    kept = {name: value for name, value in LIMITS.items() if name not in ("version", "set_by", "set_at")}
    assert json.loads(body) == {**kept, "day_tokens": 5000, "day_cost_usd": None, "rate_key_per_s": 0.5}


@pytest.mark.parametrize("words", [(), ("--day-tokens", "many"), ("--day-tokens", "1.5")])
def test_set_without_a_number_is_wrong_usage(root: Root, command: Callable[..., Ended], words: tuple[str, ...]) -> None:
    code, out, err = command("budgets", "set", *words)
    assert (code, out) == (2, "") and err.startswith("mission-root: ")
    assert not [asked for asked in root.asked if asked[0].startswith("PUT")]


def test_somebody_who_may_not_is_told_so(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["PUT /v1/budgets"] = (403, {}, problem("forbidden"))
    assert command("budgets", "set", "--day-tokens", "1")[0] == 4
