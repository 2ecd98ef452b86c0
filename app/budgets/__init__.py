"""What a mission, a tenant's day and a tenant may use: reserved before, settled after, released when nothing came of it.

The accounts are moved by functions in Postgres, one guarded UPDATE each, and a CHECK refuses an overspend by itself. A
mission is inserted with its whole budget held, and gives back the rest when it ends, by triggers: no door goes around it.
"""

from app.budgets.actions import (
    GRACE,
    RECONCILED,
    USED_UP_CODE,
    Amounts,
    Hold,
    Spent,
    charge,
    hold,
    note_used_up,
    over_until,
    reconcile,
    refusal,
    release,
    reserve,
    set_limits,
    settle,
    spend,
    used_up,
)
from app.budgets.api import router

__all__ = [
    "GRACE",
    "RECONCILED",
    "USED_UP_CODE",
    "Amounts",
    "Hold",
    "Spent",
    "charge",
    "hold",
    "note_used_up",
    "over_until",
    "reconcile",
    "refusal",
    "release",
    "reserve",
    "router",
    "set_limits",
    "settle",
    "spend",
    "used_up",
]
