"""`mission-root explain`: any story on one screen of 25 lines, whatever is in it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.cli.explain import MOST_STEPS
from tests.cli.test_client import Answer, Ended, Root, command, problem, root

__all__ = ["command", "root"]

HOSTILE = "\x1b[2Japproved\n\u202egnp [bold red]x[/bold red] " + "y" * 400
ID = "01a20162-b2c0-771f-a11f-34bb2ddbf3a8"


def step(n: int, **more: Any) -> dict[str, Any]:
    return {
        "what": "decided", "sentence": f"step {n}: {HOSTILE}", "at": f"2026-01-01T10:00:{n % 60:02}.000000Z",
        "until": "2026-01-01T10:00:00.000000Z", "actor": "principal:1", "actor_name": "anna", "mission_id": ID,
        "facts": [f"{n}-{n}"], "count": 1 + n % 2, "marked": False, "proof": None,
    } | more  # fmt: skip


def story(steps: list[dict[str, Any]], changes: int = 1, **more: Any) -> dict[str, Any]:
    mission = {
        "id": ID, "mission_type": "oracle_advisory", "mode": "assisted", "state": "failed", "risk_level": "low", "user_goal": HOSTILE,
        "reason": "review", "answer_status": None, "replay_of": None, "requested_by": {"id": ID, "name": HOSTILE},
        "created_at": "x", "closed_at": None, "links": {},
    }  # fmt: skip
    change = {
        "writeback_id": ID, "approval_id": ID, "mission_id": ID, "state": "succeeded", "connector": "crm", "operation": "update",
        "target": HOSTILE, "fields": ["stage"] * 30, "risk_level": "low", "payload_sha256": "ab", "approvals": 1, "required": 1,
        "predecessor": None, "read_back": "as_approved",
    }  # fmt: skip
    proof = {
        "verified": True, "facts": 9, "anchored": 4, "anchors": "ok", "numbers": [1], "first_bad": None, "finding": None,
    }  # fmt: skip
    return {
        "asked": ID, "kind": "mission", "missions": [mission] * 5, "changes": [change] * changes, "steps": steps, "left_out": 7,
        "proof": proof,
    } | more  # fmt: skip


@pytest.mark.parametrize(("steps", "changes"), [(0, 0), (3, 1), (MOST_STEPS, 3), (MOST_STEPS + 1, 4), (500, 1000)])
def test_any_story_fits_on_one_screen(root: Root, command: Callable[..., Ended], steps: int, changes: int) -> None:
    root.answers["GET /v1/explain"] = (200, {}, story([step(n) for n in range(steps)], changes))
    code, out, err = command("explain", ID)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 25 and all(len(line) <= 140 for line in lines)
    assert "\x1b" not in out and "\u202e" not in out and ("⟨U+001B⟩" in out)
    assert lines[-2] == "Every link of the chain recomputed; 4 of 9 facts: signed outside the database."
    assert lines[-1].startswith(f"Next: mission-root missions packet {ID} --zip FILE")
    if steps > MOST_STEPS:
        assert f"{steps - MOST_STEPS + 1} steps in between: --json" in out
    assert root.asked[-1][1] == f"id={ID}&verify=true"
    assert len(json.loads(command("explain", ID, "--json", "--no-verify")[1])["steps"]) == steps
    assert root.asked[-1][1] == f"id={ID}"


def test_what_was_asked_for_and_what_is_broken_is_never_left_out(root: Root, command: Callable[..., Ended]) -> None:
    steps = [step(n, sentence=f"step {n}.", proof="anchored") for n in range(100)]
    steps[40] |= {"marked": True, "proof": "chained"}
    steps[60] |= {"proof": "broken"}
    bad = {"position": "61-61", "finding": "does not follow its predecessor"}
    proof = story([])["proof"] | {"verified": False, "first_bad": bad}
    root.answers["GET /v1/explain"] = (200, {}, story(steps, proof=proof))
    code, out, err = command("explain", ID)
    assert code == 1 and "does not verify" in err
    assert "·▸ 2026-01-01 10:00:40.000  step 40.  [40-40]" in out
    assert "✗  2026-01-01 10:00:00.000  step 60." in out
    assert "Not what it was: 61-61 does not follow its predecessor" in out and len(out.splitlines()) <= 25


def test_however_many_steps_hold_what_was_asked_for_the_first_broken_one_is_shown(
    root: Root, command: Callable[..., Ended]
) -> None:
    steps = [step(n, sentence=f"step {n}.", marked=20 <= n < 30) for n in range(100)]
    for one in steps[60:]:
        one["proof"] = "broken"
    bad = {"position": "61-61", "finding": "does not follow its predecessor"}
    proof = story([])["proof"] | {"verified": False, "first_bad": bad}
    root.answers["GET /v1/explain"] = (200, {}, story(steps, proof=proof))
    _, out, _ = command("explain", ID)
    assert "step 60." in out and "step 20." in out and len(out.splitlines()) <= 25


def test_an_id_that_names_nothing_is_not_found(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/explain"] = (404, {}, problem("not_found"))
    assert command("explain", "lead/L-1")[0] == 3


@pytest.mark.parametrize(
    ("code", "words", "helps"),
    [
        ("not_found", ("missions", "get", "1"), "Try: mission-root missions list"),
        ("not_found", ("connectors", "show", "1"), "Try: mission-root connectors list"),
        ("unauthenticated", ("missions", "get", "1"), "Try: mission-root whoami"),
        ("wrong_state", ("missions", "get", "m-1"), "Try: mission-root explain m-1"),
        ("wrong_state", ("missions", "get", "$(reboot)"), None),  # what is pasted into a shell is an id or nothing
        ("wrong_state", ("connectors", "show", "c-1"), "Try: mission-root connectors list"),
        ("stale", ("principals", "suspend", "p-1"), "Try: mission-root principals list"),
        ("wrong_state", ("release", "lower", "beta", "--reason", "x"), None),
        ("own_request", ("missions", "get", "m-1"), "Try: mission-root missions list"),
        ("own_request", ("approvals", "show", "a-1"), "Try: mission-root approvals show a-1"),
        ("budget_exhausted", ("missions", "get", "1"), "Try: mission-root budgets show"),
        ("rate_limited", ("missions", "get", "1"), None),
    ],
)
def test_a_refusal_names_the_command_that_helps_on(
    root: Root, command: Callable[..., Ended], code: str, words: tuple[str, ...], helps: str | None
) -> None:
    from app.errors import KINDS

    segment = words[2].replace("$", "%24").replace("(", "%28").replace(")", "%29")
    refused: Answer = (KINDS[code].status, {}, problem(code) | {"detail": "No full stop at its end"})
    root.answers[f"GET /v1/{words[0]}/{segment}"] = refused
    root.answers[f"POST /v1/release/ladder/{segment}/lower"] = refused
    _, _, err = command(*words)
    assert "No full stop at its end. Next: " in err
    assert (helps in err) if helps else ("Try:" not in err), err
    assert err.count("\n") == 1


def test_every_command_that_a_refusal_names_exists() -> None:
    from app.cli.refusals import HELPS, LISTS
    from tests.runbooks.test_pages import refused

    for line in (*HELPS.values(), *LISTS.values()):
        words = line.replace("{id}", "ID").replace("''", "x").split()[1:]
        assert refused(words) is None, line


def test_the_name_of_a_role_will_do_where_an_instance_runs(
    root: Root, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    root.answers["GET /v1/explain"] = (200, {}, story([]))
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data/up.json").write_text(
        json.dumps({"base_url": root.url, "keys": {"auditor": "mr_of_the_auditor"}})
    )
    for given, sent in (("auditor", "mr_of_the_auditor"), ("mr_other", "mr_other"), ("nobody", "nobody")):
        assert command("explain", ID, "--api-key", given)[0] == 0
        assert root.asked[-1][2]["Authorization"] == f"Bearer {sent}"
    (tmp_path / ".data/up.json").write_text(
        json.dumps({"base_url": "http://127.0.0.1:1", "keys": {"auditor": "mr_of_the_auditor"}})
    )
    command("explain", ID, "--api-key", "auditor")
    assert root.asked[-1][2]["Authorization"] == "Bearer auditor", "no key goes to another address than its own"
