"""Rules in, a recorded policy decision out: allow, deny, or ask a human.

The rules are Cedar text: those shipped (baseline.cedar) and a tenant's own, versioned. Nothing is allowed that no rule
permits, and a forbid always wins. `decide` judges and records; `admit` does so for what operators do.
"""

from app.policy.actions import Draft, PolicyDecision, admit, consult, count, decide, draft, judge, refusal, renew
from app.policy.api import router
from app.policy.engine import PolicySet, Verdict
from app.policy.queries import SHELF, recorded, recorded_page, rule_then

__all__ = [
    "SHELF",
    "Draft",
    "PolicyDecision",
    "PolicySet",
    "Verdict",
    "admit",
    "consult",
    "count",
    "decide",
    "draft",
    "judge",
    "recorded",
    "recorded_page",
    "refusal",
    "renew",
    "router",
    "rule_then",
]
