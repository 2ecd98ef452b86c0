"""The mission and its life: request, progress, close.

Later rooms call down into these verbs; nothing here knows who follows. The drawing of the life is in moves.py.
"""

from app.missions.actions import (
    answered,
    await_decision,
    cancel,
    complete,
    degrade,
    deny,
    escalated,
    fail,
    into_review,
    lock,
    note_pending,
    requeue,
    resume,
    take_events,
    taken_by_colony,
    to_executing,
    to_waiting,
    undegrade,
)
from app.missions.api import router
from app.missions.intake import Ask, Asked, Intake
from app.missions.moves import CLOSED, MOVES, State
from app.missions.queries import Mission, MissionView, envelope, find, view

__all__ = [
    "CLOSED",
    "MOVES",
    "Ask",
    "Asked",
    "Intake",
    "Mission",
    "MissionView",
    "State",
    "answered",
    "await_decision",
    "cancel",
    "complete",
    "degrade",
    "deny",
    "envelope",
    "escalated",
    "fail",
    "find",
    "into_review",
    "lock",
    "note_pending",
    "requeue",
    "resume",
    "router",
    "take_events",
    "taken_by_colony",
    "to_executing",
    "to_waiting",
    "undegrade",
    "view",
]
