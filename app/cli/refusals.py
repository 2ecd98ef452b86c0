"""What cannot end well, as one sentence with an exit code, and the command that helps on."""

import re
from typing import Any

# Exit codes of problem documents: by code where it says more than the status does.
BY_CODE = {"idempotency_mismatch": 5, "too_slow": 6, "denied_by_policy": 4, "rung_not_ready": 4, "verdict_refused": 4}
BY_STATUS = {
    400: 2,
    401: 4,
    403: 4,
    404: 3,
    405: 2,
    406: 2,
    408: 6,
    409: 5,
    410: 5,
    412: 5,
    413: 2,
    415: 2,
    422: 2,
    428: 2,
    429: 7,
    502: 7,
    503: 7,
    504: 6,
}
# The command that shows what the refusal is about. {id}: the id that the request named.
HELPS = {
    "unauthenticated": "mission-root whoami",
    "forbidden": "mission-root whoami",
    "denied_by_policy": "mission-root policies list",
    "budget_exhausted": "mission-root budgets show",
    "own_request": "mission-root approvals show {id}",
    "already_decided": "mission-root approvals show {id}",
    "already_answered": "mission-root approvals show {id}",
    "other_payload": "mission-root approvals show {id}",
    "expired": "mission-root approvals show {id}",
    "stale": "mission-root explain {id}",
    "wrong_state": "mission-root explain {id}",
    "colony_disabled": "mission-root status",
    "database_unavailable": "mission-root status",
    "upstream_unavailable": "mission-root status",
    "internal": "mission-root status",
    "tool_halted": "mission-root tool-layers list",
    "tool_drifted": "mission-root tool-layers list",
}
# What the id has to be of.
OF = {
    "mission-root approvals show {id}": ("approvals",),
    "mission-root explain {id}": ("missions", "approvals", "writebacks"),
}
# Where what there is can be seen, when something was not there: by the list that it would be in.
LISTS = {
    "missions": "mission-root missions list",
    "approvals": "mission-root approvals list --state ''",
    "writebacks": "mission-root writebacks list",
    "connectors": "mission-root connectors list",
    "tool-layers": "mission-root tool-layers list",
    "model-providers": "mission-root models list",
    "policies": "mission-root policies list",
    "approval-rules": "mission-root rules list",
    "workspaces": "mission-root workspace list",
    "webhooks": "mission-root webhooks list",
    "mission-types": "mission-root mission-types list",
    "recordings": "mission-root replay list",
    "principals": "mission-root principals list",
    "api-keys": "mission-root keys list",
    "notices": "mission-root notices list",
    "tenants": "mission-root tenants list",
}
PLAIN_ID = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class Failed(Exception):
    """A command that cannot end well: a sentence, an exit code, and the problem document when there is one."""

    def __init__(self, sentence: str, exit_code: int = 1, document: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.document = document


def refused(status: int, body: Any, asked: str) -> Failed:
    """A problem document as one sentence that ends with what to do next. asked: method and path."""
    if not isinstance(body, dict) or "title" not in body:
        return Failed(f"{asked} was answered {status} without a problem document; is --url the root?", 1)
    detail = str(body.get("detail") or "").strip()
    detail += "." if detail and detail[-1] not in ".!?" else ""
    found = [f"{_where(error)}: {error.get('detail', '')}" for error in body.get("errors") or []]
    wrong = "; ".join(one for one in found if one not in detail)  # the first of them often is the detail
    rule = f"rule {body['rule']}" if isinstance(body.get("rule"), str) else ""
    said = " ".join([f"{body['title']}: {detail}", *(f"({one})" for one in (wrong, rule) if one)])
    next_actions = body.get("next_actions") or []
    code = str(body.get("code", ""))
    helps = command_for(code, asked.partition(" ")[2])
    more = [f"Next: {next_actions[0]}"] * bool(next_actions) + [f"Try: {helps}"] * bool(helps)
    return Failed(" ".join([said, *more]), BY_CODE.get(code, BY_STATUS.get(status, 1)), body)


def command_for(code: str, path: str) -> str:
    """The command that helps on after a refusal, or nothing."""
    _, _, room, *rest = [*path.split("/"), "", "", ""]
    if code == "not_found":
        return LISTS.get(room, "")
    helps = HELPS.get(code, "")
    if "{id}" not in helps:
        return helps
    if room not in OF[helps]:
        return LISTS.get(room, "")
    return helps.replace("{id}", rest[0]) if rest and PLAIN_ID.fullmatch(rest[0]) else ""


def _where(error: dict[str, Any]) -> str:
    return str(error.get("pointer") or error.get("parameter") or error.get("header") or "request")
