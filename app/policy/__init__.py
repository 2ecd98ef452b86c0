"""Rules in, a recorded policy decision out: allow, deny, or ask a human.

The rules are Cedar text (baseline.cedar): nothing is allowed that no rule permits, and a forbid always wins.
"""

from app.policy.actions import PolicyDecision, decide, recorded
from app.policy.api import router
from app.policy.engine import Verdict, evaluate

__all__ = ["PolicyDecision", "Verdict", "decide", "evaluate", "recorded", "router"]
