"""The human desk: asking for an approval, deciding it, and what follows for the mission.

`ask_writeback` is the one way to propose a change: it writes the writeback and opens its approval in one transaction.
Whether a decision counts is the wall's business; this room says the outcome in words and moves the mission.
"""

from app.approvals.actions import (
    ask_mission,
    ask_writeback,
    cancel_open,
    climb,
    conclude,
    conclude_changes,
    open_intake,
    progress,
    refused,
)
from app.approvals.api import router
from app.approvals.decide import Decided, decide
from app.approvals.interventions_api import router as interventions
from app.approvals.queries import Approval, of_mission, one
from app.approvals.questions_api import router as questions
from app.approvals.rules_api import router as rules

__all__ = [
    "Approval",
    "Decided",
    "ask_mission",
    "ask_writeback",
    "cancel_open",
    "climb",
    "conclude",
    "conclude_changes",
    "decide",
    "interventions",
    "of_mission",
    "one",
    "open_intake",
    "progress",
    "questions",
    "refused",
    "router",
    "rules",
]
