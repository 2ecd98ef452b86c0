"""Which role may take which action. Every route names its action; a test holds the two lists together."""

from app.caller import Caller

SUBMITTER, OPERATOR, AUDITOR, ADMIN = "submitter", "operator", "auditor", "admin"
POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER = "policy_owner", "release_owner", "product_owner"
ROLES = (SUBMITTER, OPERATOR, POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER, AUDITOR, "colony", ADMIN)

OWNERS = frozenset({POLICY_OWNER, RELEASE_OWNER, PRODUCT_OWNER})
READERS = frozenset({SUBMITTER, OPERATOR, AUDITOR, ADMIN}) | OWNERS

ACTIONS: dict[str, frozenset[str]] = {
    "missions.create": frozenset({SUBMITTER, OPERATOR, PRODUCT_OWNER}),
    "missions.read": READERS,
    "missions.cancel": frozenset({SUBMITTER, OPERATOR}),
    "missions.fail": frozenset({OPERATOR}),
    "mission_types.read": READERS,
    "mission_types.write": frozenset({PRODUCT_OWNER}),
    "workspaces.read": READERS,
    "workspaces.write": frozenset({SUBMITTER, OPERATOR, PRODUCT_OWNER}),
    "events.read": READERS,
    "ledger.read": READERS,
    "ledger.verify": READERS,
    "policies.evaluate": READERS,
    "writebacks.read": READERS,
    "approvals.read": READERS,
    # Who may really decide is the wall's business; this only keeps passers-by from trying.
    "approvals.decide": READERS,
    "status.read": READERS,
}


def allow(action: str, caller: Caller) -> bool:
    """Whether one of the caller's roles may take the action. An unknown action is a bug, not a refusal."""
    return bool(ACTIONS[action] & caller.roles)
