"""The command line against a root that answers what it is told to: exit codes, sentences, JSON, documents sent."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from app.cli import main, show, workspace
from app.cli.client import Client, Failed, connection
from app.clock import now
from app.errors import KINDS, Problem

Answer = tuple[int, dict[str, str], Any]
Ended = tuple[int, str, str]  # exit code, stdout, stderr


class Root:
    """`answers` maps 'METHOD /path' to what is answered; `asked` keeps every request."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        root = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path, _, query = self.path.partition("?")
                root.asked.append((f"{self.command} {path}", query, dict(self.headers), body))
                found = root.answers.get(f"{self.command} {path}", (404, {}, problem("not_found")))
                status, headers, said = found.pop(0) if isinstance(found, list) else found
                content = json.dumps(said).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def root() -> Iterator[Root]:
    root = Root()
    yield root
    root.server.shutdown()
    root.server.server_close()


@pytest.fixture
def command(root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    monkeypatch.setenv("MISSION_ROOT_URL", root.url)
    monkeypatch.setenv("MISSION_ROOT_API_KEY", "mr_test")

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mission-root", *words])
        for screen, stream in ((show.out, sys.stdout), (show.err, sys.stderr)):
            monkeypatch.setattr(screen.console, "_file", stream)
        with pytest.raises(SystemExit) as ended:
            main.run()
        said = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else int(code is not None), said.out, said.err

    return run


def problem(code: str, **members: Any) -> dict[str, Any]:
    return Problem(code, "The detail.", **members).document("/v1/missions/1", "request-1")


MISSION = {
    "id": "1",
    "mission_type": "oracle_advisory",
    "state": "running",
    "stage": "planner",
    "pending_approvals": [],
}

EXIT_CODES = {
    "validation": 2, "malformed": 2, "too_large": 2, "unsupported_media_type": 2, "precondition_required": 2,
    "not_found": 3,
    "unauthenticated": 4, "forbidden": 4, "denied_by_policy": 4, "own_request": 4,
    "stale": 5, "wrong_state": 5, "idempotency_mismatch": 5, "idempotency_in_flight": 5, "already_decided": 5,
    "other_payload": 5, "expired": 5, "mission_closed": 5,
    "too_slow": 6,
    "database_unavailable": 7, "database_busy": 7, "colony_disabled": 7, "rate_limited": 7,
    "internal": 1,
}  # fmt: skip


@pytest.mark.parametrize("code", sorted(EXIT_CODES.keys() & KINDS.keys()))
def test_every_problem_has_its_exit_code_and_says_what_to_do(
    root: Root, command: Callable[..., Ended], code: str
) -> None:
    root.answers["GET /v1/missions/1"] = (KINDS[code].status, {}, problem(code))
    exit_code, out, err = command("missions", "get", "1")
    assert exit_code == EXIT_CODES[code]
    assert out == ""
    assert err.startswith(f"mission-root: {KINDS[code].title}: The detail.") and err.count("\n") == 1
    assert f"Next: {KINDS[code].next_actions[0]}" in err


def test_with_json_the_problem_document_itself_is_on_stderr(root: Root, command: Callable[..., Ended]) -> None:
    exit_code, out, err = command("missions", "get", "1", "--json")
    assert (exit_code, out) == (3, "")
    assert json.loads(err)["code"] == "not_found"


def test_wrong_fields_are_named(root: Root, command: Callable[..., Ended]) -> None:
    wrong = [{"pointer": "/inputs/workspace", "detail": "is not a name"}]
    root.answers["POST /v1/missions"] = (422, {}, problem("validation", errors=wrong))
    exit_code, _, err = command("missions", "create", "oracle_advisory", "What?")
    assert exit_code == 2 and "/inputs/workspace: is not a name" in err


def test_a_field_that_the_detail_names_is_said_once(root: Root, command: Callable[..., Ended]) -> None:
    """As the root answers 422: the detail is the first finding."""
    wrong = [{"pointer": "/mode", "detail": "is none"}, {"pointer": "/inputs", "detail": "is a list"}]
    said = problem("validation", errors=wrong) | {"detail": "/mode: is none"}
    root.answers["POST /v1/missions"] = (422, {}, said)
    _, _, err = command("missions", "create", "oracle_advisory", "What?")
    assert err.count("/mode: is none") == 1 and err.count("/inputs: is a list") == 1
    root.answers["POST /v1/missions"] = (422, {}, said | {"errors": wrong[:1]})
    _, _, err = command("missions", "create", "oracle_advisory", "What?")
    assert err.count("/mode: is none") == 1 and "(" not in err


def test_a_used_up_budget_tells_a_person_what_a_person_can_do(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["POST /v1/missions"] = (409, {}, problem("budget_exhausted"))
    _, _, err = command("missions", "create", "oracle_advisory", "What?")
    assert "Next: Ask for less, wait until renews_at" in err and "colony" not in err.lower()


PACKET: dict[str, Any] = {"mission": MISSION | {"reason": None}, "answer": "", "claims": [], "review": None}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "The mission 1 has no answer and no claims yet; it is running."),
        (
            {"state": "failed", "reason": "blocked", "reason_note": "planner: crm.list: no answer"},
            "The mission 1 has no answer and no claims; it is failed (blocked: planner: crm.list: no answer).",
        ),
    ],
)
def test_a_packet_without_an_answer_says_so(
    root: Root, command: Callable[..., Ended], more: dict[str, Any], said: str
) -> None:
    packet = PACKET | {"mission": PACKET["mission"] | more}
    root.answers["GET /v1/missions/1/packet"] = (200, {}, packet)
    assert command("missions", "packet", "1") == (0, f"{said}\n", "")
    exit_code, out, _ = command("missions", "packet", "1", "--json")
    assert (exit_code, json.loads(out)) == (0, packet)


@pytest.mark.parametrize(("verb", "now"), [("suspend", "is suspended"), ("resume", "is suspended no more")])
def test_a_switched_principal_is_told_as_a_sentence(
    root: Root, command: Callable[..., Ended], verb: str, now: str
) -> None:
    root.answers["GET /v1/principals/p1"] = (200, {"ETag": '"v1"'}, {"name": "Nina"})
    root.answers[f"POST /v1/principals/p1/{verb}"] = (200, {}, {"id": "p1"})
    assert command("principals", verb, "p1") == (0, f"Nina {now}.\n", "")


def test_nobody_listening_is_unavailable_and_says_how_to_start(command: Callable[..., Ended]) -> None:
    exit_code, _, err = command("missions", "get", "1", "--url", "http://127.0.0.1:1")
    assert exit_code == 7 and "mission-root up" in err and err.count("\n") == 1


def test_an_answer_that_is_no_problem_document_is_said_so(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/missions/1"] = (502, {}, "<html>")
    exit_code, _, err = command("missions", "get", "1")
    assert exit_code == 1 and "is --url the root?" in err


def test_without_a_key_nothing_is_sent(
    root: Root, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISSION_ROOT_API_KEY")
    exit_code, _, err = command("missions", "get", "1")
    assert exit_code == 2 and "MISSION_ROOT_API_KEY" in err and not root.asked


@pytest.mark.parametrize("words", [["missions", "nonsense"], ["missions", "get"], ["up", "--port", "99999"]])
def test_wrong_usage_is_exit_code_2(command: Callable[..., Ended], words: list[str]) -> None:
    assert command(*words)[0] == 2


def test_create_sends_what_was_asked(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    root.answers["POST /v1/missions"] = (202, {}, MISSION)
    (tmp_path / "inputs.json").write_text('{"max_claims": 3}')
    words = [
        "--inputs",
        f"@{tmp_path}/inputs.json",
        "--workspace",
        "docs",
        "--mode",
        "dry_run",
        "--idempotency-key",
        "k1",
    ]
    exit_code, out, _ = command("missions", "create", "oracle_advisory", "What?", *words, "--json")
    assert (exit_code, json.loads(out)) == (0, MISSION)
    _, _, headers, body = root.asked[0]
    assert json.loads(body) == {
        "mission_type": "oracle_advisory",
        "user_goal": "What?",
        "inputs": {"max_claims": 3, "workspace": "docs"},
        "mode": "dry_run",
    }
    assert headers["Idempotency-Key"] == "k1" and headers["Authorization"] == "Bearer mr_test"


@pytest.mark.parametrize("inputs", ["{", "[1]", "@/no/such/file"])
def test_inputs_that_are_no_object_are_refused_here(root: Root, command: Callable[..., Ended], inputs: str) -> None:
    assert command("missions", "create", "oracle_advisory", "What?", "--inputs", inputs)[0] == 2
    assert not root.asked


def test_an_id_cannot_leave_its_path_segment(root: Root, command: Callable[..., Ended]) -> None:
    assert command("missions", "get", "../approvals?x=1")[0] == 3
    assert root.asked[0][:2] == ("GET /v1/missions/..%2Fapprovals%3Fx%3D1", "")


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1), ("denied", 1)])
def test_wait_follows_events_to_the_end(root: Root, command: Callable[..., Ended], state: str, code: int) -> None:
    ended = {**MISSION, "state": state, "reason": "review"}
    restarting: Answer = (503, {}, problem("draining"))
    root.answers["GET /v1/missions/1"] = [restarting, (200, {}, MISSION), (200, {}, ended)]
    events = [{"type": "stage.started", "body": {}}, {"type": f"mission.{state}", "body": {}}]
    page = {"items": events, "next_cursor": "c2", "has_more": False}
    root.answers["GET /v1/missions/1/events"] = [restarting, (200, {}, page)]
    exit_code, out, err = command("missions", "wait", "1", "--json")
    assert (exit_code, json.loads(out)["state"]) == (code, state)
    assert (state in err) == (code != 0)


def test_wait_runs_out_of_time(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/missions/1"] = (200, {}, MISSION)
    root.answers["GET /v1/missions/1/events"] = (200, {}, {"items": [], "next_cursor": "c", "has_more": False})
    exit_code, _, err = command("missions", "wait", "1", "--timeout", "0.3")
    assert exit_code == 6 and "still running" in err


def test_cancel_names_the_version_it_saw(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/missions/1"] = (200, {"ETag": '"v7"'}, MISSION)
    root.answers["POST /v1/missions/1/cancel"] = (200, {}, {**MISSION, "state": "cancelled"})
    assert command("missions", "cancel", "1", "--reason", "changed my mind")[0] == 0
    _, _, headers, body = root.asked[-1]
    assert headers["If-Match"] == '"v7"' and json.loads(body) == {"reason": "changed my mind"}


APPROVAL = {
    "id": "a1", "subject": "writeback", "mission_id": "1", "state": "pending", "payload_sha256": "ab" * 32,
    "questions": [], "handed": [], "asked_before": [], "approvals": 0, "required": 1, "expires_at": "2030-01-01T00:00:00Z",
    "summary": "Raise the score", "rationale": "It opened \x1b[2Jall mails",
    "payload": {"connector": "crm", "operation": "update", "target": {"kind": "lead", "id": "L-1"},
                "expected_version": "4", "changes": {"score": 80}},
    "current": {"value": {"score": 20}, "version": "5", "drifted": True},
}  # fmt: skip


def test_an_approval_shows_the_difference_and_disarms_the_terminal(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, APPROVAL)
    exit_code, out, _ = command("approvals", "show", "a1")
    assert exit_code == 0
    for shown in ("score", "- 20", "+ 80", "lead L-1", "ab" * 32, "moved on to version 5"):
        assert shown in out
    assert "\x1b" not in out


def test_a_decision_needs_the_hash_that_was_seen(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, APPROVAL)
    root.answers["POST /v1/approvals/a1/decisions"] = (
        201,
        {},
        {"state": "approved", "not_before": None, "open_questions": 0},
    )
    exit_code, _, err = command("approvals", "decide", "a1", "approve")
    assert exit_code == 2 and "--payload-sha256" in err, "nobody can be asked here"
    assert command("approvals", "decide", "a1", "reject", "--payload-sha256", "ab" * 32)[0] == 2, "a reason is due"
    assert [asked for asked, *_ in root.asked if asked.startswith("POST")] == []
    assert command("approvals", "decide", "a1", "approve", "--payload-sha256", "cd" * 32)[0] == 0
    _, _, headers, body = root.asked[-1]
    assert json.loads(body) == {"decision": "approve", "payload_sha256": "cd" * 32, "comment": None}, (
        "as typed, not as read"
    )
    assert headers["If-Match"] == '"v1"'


def test_what_else_a_person_does_to_an_approval_names_what_was_seen(root: Root, command: Callable[..., Ended]) -> None:
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, APPROVAL)
    root.answers["POST /v1/approvals/a1/break-glass"] = (
        201,
        {},
        {"state": "pending", "expires_at": "2030-01-01T00:15:00Z"},
    )
    root.answers["POST /v1/approvals/a1/revisions"] = (201, {}, {"approval_id": "a2"})
    root.answers["POST /v1/approvals/a1/cancel"] = (200, {}, {"state": "cancelled"})
    sha256, why = "ab" * 32, ("--reason", "it burns")
    assert command("approvals", "break-glass", "a1", *why)[0] == 2, "nobody can be asked here"
    assert command("approvals", "revise", "a1", "--changes", "{", *why, "--payload-sha256", sha256)[0] == 2
    assert [asked for asked, *_ in root.asked if asked.startswith("POST")] == []
    for verb, options, body in (
        ("break-glass", ("--payload-sha256", sha256), {"payload_sha256": sha256, "reason": "it burns"}),
        ("cancel", (), {"reason": "it burns"}),
        ("revise", ("--payload-sha256", sha256, "--changes", '{"score": 70}'),
         {"payload_sha256": sha256, "changes": {"score": 70}, "reason": "it burns"}),
    ):  # fmt: skip
        exit_code, out, err = command("approvals", verb, "a1", *why, *options)
        assert exit_code == 0 and out, err
        _, _, headers, sent = root.asked[-1]
        assert (headers["If-Match"], json.loads(sent)) == ('"v1"', body)


def test_a_rule_that_was_shown_can_be_put_back(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    rule = {
        "id": "r1",
        "version": 2,
        "subject": "writeback",
        "required": 2,
        "life_s": 60,
        "created_by": None,
        "created_at": "x",
    }
    root.answers["GET /v1/approval-rules/r1"] = (200, {"ETag": '"v2"'}, rule | {"history": []})
    root.answers["PUT /v1/approval-rules/r1"] = (200, {}, rule | {"version": 3})
    root.answers["POST /v1/approval-rules"] = (201, {}, rule)
    _, out, _ = command("rules", "show", "r1")
    (tmp_path / "rule.json").write_text(out)
    assert command("rules", "put", str(tmp_path / "rule.json"), "--id", "r1", "--validate-only")[0] == 0
    asked, query, headers, sent = root.asked[-1]
    assert (asked, query, headers["If-Match"]) == ("PUT /v1/approval-rules/r1", "validate_only=true", '"v2"')
    assert json.loads(sent) == {"subject": "writeback", "required": 2, "life_s": 60}
    assert command("rules", "put", str(tmp_path / "rule.json"))[0] == 0
    assert root.asked[-1][0] == "POST /v1/approval-rules"
    (tmp_path / "rule.json").write_text("[]")
    assert command("rules", "put", str(tmp_path / "rule.json"))[0] == 2


def test_ledger_verify_fails_when_the_ledger_does(root: Root, command: Callable[..., Ended]) -> None:
    verdict = {"verified": False, "facts": 9, "subjects": 2, "first_bad": {"subject": "s", "seq": 3}}
    root.answers["POST /v1/ledger/verify"] = (200, {}, verdict)
    exit_code, out, err = command("ledger", "verify", "--json")
    assert exit_code == 1 and json.loads(out) == verdict and "'seq': 3" in err


def test_ingest_sends_documents_and_counts_what_became_of_them(
    root: Root, command: Callable[..., Ended], tmp_path: Path
) -> None:
    for name, text in {"a.md": "# A", "sub/b.rst": "B", "sub/c.html": "<p>", "d.png": "", ".git/e.md": "E"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    busy: Answer = (503, {}, problem("database_busy"))
    added: Answer = (201, {}, {"outcome": "added"})
    refused: Answer = (422, {}, problem("validation"))
    root.answers["PUT /v1/workspaces/docs/documents"] = [busy, added, refused, added]
    exit_code, out, _ = command("workspace", "ingest", str(tmp_path), "--workspace", "docs", "--json")
    assert exit_code == 0
    told = json.loads(out)
    assert (told["added"], told["updated"], told["unchanged"]) == (2, 0, 0)
    assert [refusal["reason"] for refusal in told["refused"]] == ["The detail."]
    sent = {query.partition("&written_at=20")[0]: headers["Content-Type"] for _, query, headers, _ in root.asked}
    assert sent == {"path=a.md": "text/markdown", "path=sub%2Fb.rst": "text/x-rst", "path=sub%2Fc.html": "text/html"}


@pytest.mark.parametrize("name", ["all.dump", "README"])
def test_a_file_of_no_kind_that_is_taken_is_named(
    root: Root, command: Callable[..., Ended], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("x")
    exit_code, out, err = command("workspace", "ingest", str(tmp_path / name), "--workspace", "g")
    assert (exit_code, out, err.count("\n")) == (2, "", 1) and not root.asked
    assert err.startswith(f"mission-root: {tmp_path / name} is of no kind that is taken (") and ".md" in err


def test_documents_beside_one_of_no_kind_are_ingested(root: Root, tmp_path: Path) -> None:
    """As the demo hands over a set of its own."""
    for name in ("a.md", "b.dump"):
        (tmp_path / name).write_text("x")
    root.answers["PUT /v1/workspaces/g/documents"] = (201, {}, {"outcome": "added"})
    with Client(root.url, "mr_test") as client:
        done = workspace.ingest_documents(client, "g", {name: tmp_path / name for name in ("b.dump", "a.md")})
    assert dict(done.counts) == {"added": 1}
    assert "no kind that is taken" in done.refused["b.dump"] and list(done.refused) == ["b.dump"]


def test_ingest_stops_at_a_refused_key(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A")
    root.answers["PUT /v1/workspaces/default/documents"] = (403, {}, problem("forbidden"))
    assert command("workspace", "ingest", str(tmp_path))[0] == 4


def test_a_folder_without_documents_is_wrong_usage(root: Root, command: Callable[..., Ended], tmp_path: Path) -> None:
    assert command("workspace", "ingest", str(tmp_path))[0] == 2
    assert not root.asked


def test_brackets_in_a_packet_hide_nothing_and_end_nothing(root: Root, command: Callable[..., Ended]) -> None:
    def passage(quote: str) -> dict[str, Any]:
        return {"document": "notes[a", "start": 1, "end": 2, "quote": quote, "verified": True}

    claim = {"text": "Ask [/b", "citations": [passage("x] it [/y"), passage("[bold")], "trust": "untrusted"}
    sides = {
        side: {"document": "d[red", "start": 1, "end": 2, "quote": f"{side}]", "value": value}
        for side, value in (("one", "5 [/z"), ("other", "6]"))
    }
    root.answers["GET /v1/missions/1/packet"] = (
        200, {}, PACKET | {"answer": "Ask [/b", "claims": [claim], "review": {"contradictions": [sides]}},
    )  # fmt: skip
    code, out, err = command("missions", "packet", "1")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    for words in (
        "1. Ask [/b",
        "✓ notes[a:1-2 “x] it [/y”",
        "“[bold”",
        "contradiction 5 [/z or 6]?",
        "d[red:1-2 “other]”",
    ):
        assert words in said, words


def test_an_answer_within_a_second_does_not_pay_for_rich() -> None:
    asked = """if True:
        import sys
        from app.cli import show
        show.watched = lambda: True
        with show.patience("asking"):
            pass
        sys.exit("rich.console" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", asked], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("text", [None, "nothing of the kind"])
def test_authorities_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    file = tmp_path / "authority.pem"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(Failed, match=r"SSL_CERT_FILE .*authority.pem holds no certificates") as refused:
        connection("https://root.example", {})
    assert refused.value.exit_code == 2
    connection("http://root.example", {})


def test_the_authority_that_the_environment_names_is_the_one_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, name = (
        Ed25519PrivateKey.generate(),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of ours")]),
    )
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now()).not_valid_after(now() + timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = tmp_path / "authority.pem"
    file.write_bytes(made.sign(key, None).public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    contexts = list[Any]()
    monkeypatch.setattr("httpx.Client", lambda **given: contexts.append(given["verify"]))
    connection("https://root.example", {})
    [trusted] = contexts[0].get_ca_certs()
    assert trusted["subject"] == ((("commonName", "an authority of ours"),),)
