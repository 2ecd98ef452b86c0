"""Which role may take which action. Every route names its action; a test holds the two lists together."""

from app.caller import Caller

SUBMITTER, OPERATOR, AUDITOR, ADMIN = "submitter", "operator", "auditor", "admin"
POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER = "policy_owner", "release_owner", "product_owner"
BREAK_GLASS = "break_glass"
ROLES = (SUBMITTER, OPERATOR, POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER, AUDITOR, "colony", ADMIN, BREAK_GLASS)

OWNERS = frozenset({POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER})
READERS = frozenset({SUBMITTER, OPERATOR, AUDITOR, ADMIN, BREAK_GLASS}) | OWNERS
EVERYBODY = frozenset(ROLES)

ACTIONS: dict[str, frozenset[str]] = {
    "missions.create": frozenset({SUBMITTER, OPERATOR, PRODUCT_OWNER}),
    "missions.read": READERS,
    "missions.replay": frozenset({SUBMITTER, OPERATOR, PRODUCT_OWNER}),  # whoever may ask for one
    "missions.export": frozenset({OPERATOR, RELEASE_OWNER, AUDITOR, ADMIN}),
    "recordings.import": frozenset({OPERATOR, RELEASE_OWNER, ADMIN}),
    "missions.cancel": frozenset({SUBMITTER, OPERATOR}),
    "missions.fail": frozenset({OPERATOR}),
    "missions.redispatch": frozenset({OPERATOR}),
    "missions.extend": frozenset({OPERATOR}),
    "mission_types.read": READERS,
    "mission_types.write": frozenset({PRODUCT_OWNER}),
    "workspaces.read": READERS,
    "workspaces.write": frozenset({SUBMITTER, OPERATOR, PRODUCT_OWNER}),
    # What counts as authoritative is said by whoever says what a mission has to reach, not by whoever uploads.
    "workspaces.trust": frozenset({PRODUCT_OWNER, ADMIN}),
    "events.read": READERS,
    "ledger.read": READERS,
    "ledger.verify": READERS,
    "ledger.export": frozenset({OPERATOR, AUDITOR, ADMIN}),
    "policies.evaluate": READERS,
    "policies.write": frozenset({POLICY_OWNER}),
    "writebacks.read": READERS,
    "approvals.read": READERS,
    # Who may really decide is the wall's business; this only keeps passers-by from trying.
    "approvals.decide": READERS,
    "approvals.revise": READERS,
    "approvals.escalate": READERS,
    "approvals.ask": READERS,
    "approvals.answer": READERS,
    "approvals.break_glass": frozenset({BREAK_GLASS}),
    "approvals.cancel": frozenset({OPERATOR}),
    "approvals.reassign": frozenset({OPERATOR}),
    "writebacks.renew": frozenset({OPERATOR}),
    "writebacks.vouch": frozenset({OPERATOR}),
    "approval_rules.read": READERS,
    "approval_rules.write": frozenset({POLICY_OWNER}),
    "notices.read": READERS,
    "notices.see": READERS,
    "budgets.read": READERS,
    "budgets.write": frozenset({ADMIN}),
    "retention.read": READERS,
    "retention.write": frozenset({ADMIN, POLICY_OWNER}),
    # Why something is held is not for everybody; that it is, every reader sees on the mission.
    "holds.read": frozenset({ADMIN, POLICY_OWNER, AUDITOR}),
    "holds.place": frozenset({ADMIN, POLICY_OWNER, AUDITOR}),
    "holds.lift": frozenset({ADMIN, POLICY_OWNER}),
    "status.read": READERS,
    "drills.read": READERS,
    "drills.run": frozenset({OPERATOR, RELEASE_OWNER, ADMIN}),
    "self.read": EVERYBODY,
    "tenants.read": EVERYBODY,
    "tenants.write": frozenset({ADMIN}),
    "principals.read": frozenset({ADMIN, AUDITOR}),
    "principals.write": frozenset({ADMIN}),
    "grants.write": frozenset({ADMIN}),
    # Whoever holds a role may pass it on, and take back what they passed on; the database checks what and to whom.
    "grants.delegate": READERS,
    "grants.revoke": READERS,
    "identities.write": frozenset({ADMIN}),
    # Everybody looks after their own keys and sessions; those of others are an admin's.
    "keys.read": EVERYBODY,
    "keys.write": EVERYBODY,
    "sessions.create": EVERYBODY,
    "sessions.end": EVERYBODY,
    "webhooks.read": frozenset({ADMIN, AUDITOR}),
    "webhooks.write": frozenset({ADMIN}),
    "tool_layers.read": READERS,
    "tool_layers.check": frozenset({OPERATOR, ADMIN}),
    "tool_layers.halt": frozenset({OPERATOR, ADMIN}),
    "tool_layers.resume": frozenset({ADMIN}),
    "tool_layers.write": frozenset({ADMIN}),
    "connectors.read": READERS,
    "connectors.check": frozenset({OPERATOR, ADMIN}),
    "connectors.halt": frozenset({OPERATOR, ADMIN}),
    "connectors.resume": frozenset({ADMIN}),
    "connectors.write": frozenset({ADMIN}),
    "models.read": READERS,
    "release.read": READERS,
    "release.enable": frozenset({RELEASE_OWNER}),
    "release.lower": frozenset({RELEASE_OWNER, OPERATOR}),  # whoever is on call need not wait to stop something
    "release.attest": frozenset({PRODUCT_OWNER, RELEASE_OWNER}),
    "release.export": frozenset({OPERATOR, RELEASE_OWNER, AUDITOR, ADMIN}),
    "release.import": frozenset({RELEASE_OWNER}),
    "models.switch": frozenset({ADMIN}),  # of the operator's tenant: the database looks
}


def allow(action: str, caller: Caller) -> bool:
    """Whether one of the caller's roles may take the action. An unknown action is a bug, not a refusal."""
    return bool(ACTIONS[action] & caller.roles)
