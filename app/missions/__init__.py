"""The mission and its life: request, progress, close.

Later rooms call down into these verbs; nothing here knows who follows. The drawing of the life is in moves.py.
"""

from app.missions.actions import (
    await_decision,
    cancel,
    complete,
    degrade,
    deny,
    escalated,
    extend,
    fail,
    lock,
    note_pending,
    note_reason,
    prolong,
    redispatch,
    requeue,
    resume,
    to_executing,
    to_waiting,
    watch,
)
from app.missions.api import router
from app.missions.ask import Ask, Wish
from app.missions.held import Held, hold_each, holding
from app.missions.intake import Intake
from app.missions.moves import CLOSED, MOVES, State, move
from app.missions.queries import Mission, MissionView, envelope, envelopes, find, view
from app.missions.rows import Asked
from app.missions.terms import Terms, terms_of

__all__ = [
    "CLOSED",
    "MOVES",
    "Ask",
    "Asked",
    "Held",
    "Intake",
    "Mission",
    "MissionView",
    "State",
    "Terms",
    "Wish",
    "await_decision",
    "cancel",
    "complete",
    "degrade",
    "deny",
    "envelope",
    "envelopes",
    "escalated",
    "extend",
    "fail",
    "find",
    "hold_each",
    "holding",
    "lock",
    "move",
    "note_pending",
    "note_reason",
    "prolong",
    "redispatch",
    "requeue",
    "resume",
    "router",
    "terms_of",
    "to_executing",
    "to_waiting",
    "view",
    "watch",
]
