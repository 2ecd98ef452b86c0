"""The commands by enumeration: each answers JSON, each operation of the API has one, and none speaks past its stream."""

import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from app.cli import main
from tests.cli.terminal import Terminal
from tests.cli.test_client import Ended, Root, command, root
from tests.http.test_openapi import SNAPSHOT

__all__ = ["command", "root"]

# What runs here until it is ended, and so has nothing to answer.
NO_JSON = {"serve", "registrar", "worker", "executor", "colony", "crm"}

# How each operation is asked for. ID stands for whatever id the command takes.
POLICY, JSON_FILE = "@policy", "@json"
ASKED: dict[str, tuple[str, ...]] = {
    "createMission": ("missions", "create", "oracle_advisory", "What?"),
    "listMissions": ("missions", "list"),
    "getMission": ("missions", "get", "ID"),
    "listMissionTypes": ("mission-types", "list"),
    "getMissionType": ("mission-types", "show", "ID"),
    "putMissionType": ("mission-types", "put", "ID", JSON_FILE),
    "cancelMission": ("missions", "cancel", "ID", "--reason", "x"),
    "failMission": ("missions", "fail", "ID", "--reason", "x"),
    "getStatus": ("status",),
    "listMissionEvents": ("missions", "events", "ID"),
    "listLedger": ("ledger", "list"),
    "explain": ("explain", "ID"),
    "verifyLedger": ("ledger", "verify"),
    "listAnchors": ("ledger", "anchors"),
    "proveFact": ("ledger", "prove", "ID"),
    "exportLedger": ("ledger", "export", "--out", "@new"),
    "createWebhook": ("webhooks", "create", "https://example.com"),
    "listWebhooks": ("webhooks", "list"),
    "getWebhook": ("webhooks", "show", "ID"),
    "changeWebhook": ("webhooks", "pause", "ID"),
    "deleteWebhook": ("webhooks", "delete", "ID"),
    "rotateWebhookSecret": ("webhooks", "rotate", "ID"),
    "testWebhook": ("webhooks", "test", "ID"),
    "listDeliveries": ("webhooks", "deliveries", "ID"),
    "getDelivery": ("webhooks", "delivery", "ID", "ID"),
    "redeliver": ("webhooks", "redeliver", "ID"),
    "listArtifacts": ("missions", "artifacts", "ID"),
    "getArtifact": ("missions", "artifacts", "ID", "ID"),
    "getPacket": ("missions", "packet", "ID"),
    "replayMission": ("replay", "run", "ID"),
    "diffMission": ("replay", "diff", "ID"),
    "exportRecording": ("replay", "export", "ID", "--out", "@new"),
    "replayRecording": ("replay", "run", "ID", "--recording"),
    "importRecording": ("replay", "import", JSON_FILE),
    "listRecordings": ("replay", "list"),
    "getRecording": ("replay", "show", "ID"),
    "listWritebacks": ("writebacks", "list"),
    "getWriteback": ("writebacks", "show", "ID"),
    "renewWriteback": ("writebacks", "renew", "ID"),
    "vouchForWriteback": ("writebacks", "vouch", "ID", "--found", "applied", "--comment", "x"),
    "listConnectors": ("connectors", "list"),
    "getConnector": ("connectors", "show", "ID"),
    "putConnector": ("connectors", "put", "ID", JSON_FILE),
    "retireConnector": ("connectors", "retire", "ID"),
    "haltConnector": ("connectors", "halt", "ID", "--reason", "x"),
    "resumeConnector": ("connectors", "resume", "ID", "--reason", "x"),
    "checkConnector": ("connectors", "check", "ID", "lead", "1"),
    "listToolLayers": ("tool-layers", "list"),
    "getToolLayer": ("tool-layers", "show", "ID"),
    "putToolLayer": ("tool-layers", "put", "ID", JSON_FILE),
    "retireToolLayer": ("tool-layers", "retire", "ID"),
    "haltToolLayer": ("tool-layers", "halt", "ID", "--reason", "x"),
    "resumeToolLayer": ("tool-layers", "resume", "ID", "--reason", "x"),
    "checkToolLayer": ("tool-layers", "check", "ID"),
    "listModelProviders": ("models", "list"),
    "switchModelProviderOff": ("models", "off", "ID", "--reason", "x"),
    "switchModelProviderOn": ("models", "on", "ID", "--reason", "x"),
    "listApprovals": ("approvals", "list"),
    "listInbox": ("approvals", "review"),
    "getApproval": ("approvals", "show", "ID"),
    "decide": ("approvals", "decide", "ID", "approve", "--payload-sha256", "ab"),
    "breakGlass": ("approvals", "break-glass", "ID", "--reason", "x", "--payload-sha256", "ab"),
    "cancelApproval": ("approvals", "cancel", "ID", "--reason", "x"),
    "reviseApproval": ("approvals", "revise", "ID", "--reason", "x", "--changes", "{}", "--payload-sha256", "ab"),
    "listNotices": ("notices", "list"),
    "seeNotice": ("notices", "seen", "ID"),
    "listApprovalRules": ("rules", "list"),
    "createApprovalRule": ("rules", "put", JSON_FILE),
    "getApprovalRule": ("rules", "show", "ID"),
    "putApprovalRule": ("rules", "put", JSON_FILE, "--id", "ID"),
    "chooseApprovalRule": ("rules", "choose", "update"),
    "evaluatePolicy": ("policies", "evaluate", "mission.create", "oracle_advisory"),
    "listPolicies": ("policies", "list"),
    "getPolicyVocabulary": ("policies", "vocabulary"),
    "getPolicySet": ("policies", "set", "ID"),
    "getPolicy": ("policies", "show", "ID"),
    "putPolicy": ("policies", "put", "ID", POLICY),
    "retirePolicy": ("policies", "retire", "ID"),
    "previewPolicy": ("policies", "preview", "ID", POLICY),
    "getBudgets": ("budgets", "show"),
    "putBudgets": ("budgets", "set", "--day-tokens", "5"),
    "getBudgetUsage": ("budgets", "show"),
    "listWorkspaces": ("workspace", "list"),
    "listDocuments": ("workspace", "documents", "ID"),
    "putDocument": ("workspace", "ingest", POLICY, "--workspace", "ID"),
    "removeDocument": ("workspace", "remove", "a.md", "--workspace", "ID"),
    "getTrust": ("workspace", "trust", "ID"),
    "putTrust": ("workspace", "trust", "ID", "wiki/**=normal"),
    "listTenants": ("tenants", "list"),
    "createTenant": ("tenants", "create", "acme"),
    "getTenant": ("tenants", "show", "ID"),
    "suspendTenant": ("tenants", "suspend", "ID"),
    "resumeTenant": ("tenants", "resume", "ID"),
    "listPrincipals": ("principals", "list"),
    "createPrincipal": ("principals", "create", "Nina"),
    "getPrincipal": ("principals", "show", "ID"),
    "suspendPrincipal": ("principals", "suspend", "ID"),
    "resumePrincipal": ("principals", "resume", "ID"),
    "listIdentities": ("principals", "show", "ID"),
    "linkIdentity": ("principals", "link", "ID", "https://id.example.com", "x"),
    "unlinkIdentity": ("principals", "unlink", "ID", "ID"),
    "endSessions": ("principals", "end-sessions", "ID"),
    "listGrants": ("principals", "show", "ID"),
    "grantRole": ("principals", "grant", "ID", "operator"),
    "delegateRole": ("principals", "delegate", "ID", "operator", "--expires-at", "2030-01-31T12:00:00Z"),
    "revokeGrant": ("principals", "revoke", "ID", "ID"),
    "listApiKeys": ("keys", "list"),
    "createApiKey": ("keys", "create"),
    "getApiKey": ("keys", "show", "ID"),
    "revokeApiKey": ("keys", "revoke", "ID"),
    "rotateApiKey": ("keys", "rotate", "ID"),
    "whoami": ("whoami",),
    "redispatchMission": ("missions", "redispatch", "ID", "--reason", "x"),
    "extendMission": ("missions", "extend", "ID", "--reason", "x", "--minutes", "5"),
    "escalateApproval": ("approvals", "escalate", "ID", "--role", "admin", "--reason", "x"),
    "askAboutApproval": ("approvals", "ask", "ID", "Why?"),
    "answerQuestion": ("approvals", "answer", "ID", "ID", "So."),
    "reassignApproval": ("approvals", "reassign", "ID", "admin", "--reason", "x"),
    "listDrills": ("drills", "list"),
    "listDrillRuns": ("drills", "show", "ID"),
    "runDrill": ("drills", "run", "ID", "--no-wait"),
    "getGates": ("release", "gates"),
    "listGateChanges": ("release", "history"),
    "getLadder": ("release", "ladder"),
    "enableRung": ("release", "enable", "ID"),
    "lowerRung": ("release", "lower", "ID", "--reason", "x"),
    "attest": ("release", "attest", "ID", "--comment", "x"),
    "listAttestations": ("release", "attestations"),
    "withdrawAttestation": ("release", "withdraw", "ID"),
    "exportVerdict": ("release", "export", "--out", "@new"),
    "importVerdict": ("release", "import", JSON_FILE),
    "listVerdicts": ("release", "verdicts"),
    "getRetention": ("retention", "show"),
    "putRetention": ("retention", "set", "--restricted", "30"),
    "listLegalHolds": ("holds", "list"),
    "putLegalHold": ("holds", "place", "ID", "--tenant", "--reason", "x"),
    "liftLegalHold": ("holds", "lift", "ID", "--reason", "x"),
}
# Which operations have no command, and why.
WITHOUT = {
    "listEvents": "the tenant's stream is for programs; `ledger list` reads the same facts, `missions events --follow` one mission's",
    "createSession": "a session is what a token stands for behind the API; here the token itself is given as --api-key",
    "getAttestation": "`release attestations` shows all that is known of each", "getVerdict": "likewise, `release verdicts`",
    "releaseHealth": "a probe, for a pipeline that asks without a key",
    "listRetentionVersions": "`ledger list` shows who set which times, and when", "getLegalHold": "`holds list` shows all of each",
    "listSources": "what a mission was shown is in its packet", "getSource": "likewise, in the zip",
    "getLedgerHead": "where the record ends is for pages that follow it",
    "getBriefing": "`approvals review` shows what stands behind each",
    "noteLook": "a screen's", "getDesk": "charts are for screens", "listNames": "the commands show names with what they list",
    "endSession": "see createSession; `principals end-sessions` ends somebody's",
    "livez": "a probe, for whoever runs processes", "healthz": "a probe", "startupz": "a probe", "readyz": "a probe",
}  # fmt: skip

# An answer that every command finds enough in, with --json.
ANYTHING: dict[str, Any] = {
    "items": [], "next_cursor": None, "has_more": False, "id": "ID", "name": "ID", "state": "completed", "version": 1, "same": True,
    "outcome": "changed", "status": "ok", "verified": True, "ok": True, "proof": None, "claims": [], "answer": "", "reason": None,
    "payload_sha256": "ab", "subject": "mission", "anchors": {"state": "ok"}, "schemas": {}, "key": None, "divergence": None,
    "ended": 0, "result": "pass", "public_days": None, "internal_days": 1, "confidential_days": 1, "restricted_days": 1,
    "unread_days": 1, "role": "operator", "roles": [], "kind": "human", "environment": "local", "components": [], "violators": [],
}  # fmt: skip


def commands(of: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    of = of or get_command(main.app)
    for name, one in getattr(of, "commands", {}).items():
        yield from commands(one, (*words, name)) if hasattr(one, "commands") else [((*words, name), one)]


def operations() -> dict[str, tuple[str, str]]:
    """(method, path) of every operation of the published document."""
    paths = json.loads(SNAPSHOT.read_text())["paths"]
    return {one["operationId"]: (m.upper(), path) for path, methods in paths.items() for m, one in methods.items()}


def test_every_command_answers_json() -> None:
    lacking = {" ".join(words) for words, one in commands() if "--json" not in [o for p in one.params for o in p.opts]}
    assert lacking == NO_JSON


def test_every_command_says_what_it_does() -> None:
    for words, one in commands():
        assert one.help and one.help.strip().endswith((".", ":", "`")), words
        for parameter in one.params:
            said = getattr(parameter, "help", "")
            assert said or parameter.name in ("role", "name", "tenant"), (words, parameter.name)


def test_every_operation_has_a_command_or_a_reason() -> None:
    assert set(operations()) == set(ASKED) | set(WITHOUT)
    assert not set(ASKED) & set(WITHOUT)


@pytest.fixture
def anything(root: Root) -> None:
    class Everything(dict):  # type: ignore[type-arg]
        def get(self, asked: str, _: Any = None) -> Any:
            method, _, path = asked.partition(" ")
            if method == "GET" and path.endswith(("/mission-types", "/policies")):
                return 200, {}, []
            if method == "DELETE" and path.endswith("/documents"):
                return 204, {}, None
            return 200, {"ETag": '"v1"'}, ANYTHING

    root.answers = Everything()


@pytest.mark.parametrize("operation", ASKED)
def test_each_command_asks_for_its_operation_and_answers_json(
    root: Root, command: Callable[..., Ended], anything: None, tmp_path: Path, operation: str
) -> None:
    files = {POLICY: "rules.md", JSON_FILE: "body.json", "@new": "new.bin"}
    (tmp_path / "rules.md").write_text("# Rules\n")
    (tmp_path / "body.json").write_text("{}")
    words = [str(tmp_path / files[word]) if word in files else word for word in ASKED[operation]]
    code, out, err = command(*words, "--json")
    method, path = operations()[operation]
    asked = {what for what, *_ in root.asked}
    wanted = "/".join("ID" if part.startswith("{") else part for part in path.split("/"))
    assert f"{method} {wanted}" in asked, (asked, out, err)
    assert (code, err) == (0, ""), (code, out, err)
    for line in out.splitlines():
        json.loads(line)


def test_nothing_is_coloured_where_nobody_wants_it(root: Root) -> None:
    """At a terminal, where it is coloured otherwise."""
    mission = {
        "id": "1",
        "mission_type": "oracle_advisory",
        "state": "failed",
        "created_at": "2030-01-01T00:00",
        "user_goal": "What?",
    }
    root.answers["GET /v1/missions"] = (200, {}, {"items": [mission], "next_cursor": None, "has_more": False})
    known = {"MISSION_ROOT_URL": root.url, "MISSION_ROOT_API_KEY": "mr_test"}
    for words in (("missions", "list"), ("--help",)):
        for asked in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
            with Terminal(*words, environment=known | asked) as at:
                assert at.ended() == 0
                assert ("failed" if words[0] == "missions" else "approvals") in at.screen
                colours = re.findall(rb"\x1b\[[0-9;]*m", at.raw)
            assert any(has_colour(one) for one in colours) == (not asked), (words, asked, set(colours))


def has_colour(escape: bytes) -> bool:
    """Whether it is more than bold, dim or back to plain."""
    return any(30 <= int(number) <= 107 for number in re.findall(rb"\d+", escape))


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, offered in (("mission-root appr", "approvals"), ("mission-root approvals re", "review")):
        known = {"_MISSION_ROOT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = CliRunner().invoke(main.app, [], env=known, prog_name="mission-root")
        assert offered in done.output.split(), done.output


def test_it_says_which_build_it_is() -> None:
    done = CliRunner().invoke(main.app, ["--version"], env={"BUILD": "3f2c9e1"})
    assert (done.exit_code, done.output) == (0, f"mission-root {version('mission-root')}+3f2c9e1\n")
