"""The page about owners says what the code enforces: every role, and for what it claims the right action."""

import re
from pathlib import Path

from app.identity import ACTIONS, ROLES

PAGE = (Path(__file__).parents[2] / "docs/ownership.md").read_text()
# (role, action): what the page says a role may, and what it says it may not.
MAY = {
    "submitter": ("missions.create", "missions.cancel", "missions.replay", "workspaces.write"),
    "operator": (
        "missions.cancel", "missions.fail", "missions.replay", "connectors.halt", "tool_layers.halt", "writebacks.renew",
        "writebacks.vouch",
    ),
    "policy_owner": ("policies.write", "approval_rules.write"),
    "product_owner": ("mission_types.write", "workspaces.trust"),
    "release_owner": ("missions.export", "recordings.import"),
    "admin": (
        "principals.write", "grants.write", "budgets.write", "connectors.write", "tool_layers.write", "webhooks.write",
        "connectors.resume", "tool_layers.resume",
    ),
    "auditor": ("ledger.verify", "ledger.export", "missions.export"),
    "break_glass": ("approvals.break_glass",),
    "colony": (),
}  # fmt: skip
MAY_NOT = {
    "operator": ("connectors.resume", "tool_layers.resume", "approval_rules.write", "policies.write"),
    "product_owner": ("policies.write", "approval_rules.write"),
    "release_owner": ("policies.write", "mission_types.write"),
    "admin": ("policies.write", "approval_rules.write"),
    "colony": ("missions.create", "missions.read", "approvals.decide", "ledger.read"),
}
CHANGES = re.compile(
    r"\.(write|create|cancel|fail|halt|resume|import|replay|revise|renew|vouch|break_glass|trust|switch)$"
)


def test_every_role_has_its_line() -> None:
    told = re.findall(r"^\| ([a-z_]+) \|", PAGE.partition("## Role by role")[2].partition("## What nobody")[0], re.M)
    assert [role for role in told if role != "role"] and set(told) - {"role"} == set(ROLES)


def test_what_it_says_is_so() -> None:
    for role, actions in MAY.items():
        for action in actions:
            assert role in ACTIONS[action], (role, action)
    for role, actions in MAY_NOT.items():
        for action in actions:
            assert role not in ACTIONS[action], (role, action)
    changing = {action for action, roles in ACTIONS.items() if "auditor" in roles and CHANGES.search(action)}
    assert changing <= {"keys.write", "sessions.create", "approvals.revise"}, (
        "an auditor changes nothing but their own keys"
    )
