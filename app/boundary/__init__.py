"""The colony's door: its calls in, each event handed to the room it concerns; dispatch, questions and cancels out."""

from app.boundary.callbacks import Callbacks
from app.boundary.colony import EFFECTS, Colony, colony_trouble, keep_looking
from app.boundary.dispatch import dispatch
from app.boundary.watch import cancel_in_colony, watch_attempt

__all__ = [
    "EFFECTS",
    "Callbacks",
    "Colony",
    "cancel_in_colony",
    "colony_trouble",
    "dispatch",
    "keep_looking",
    "watch_attempt",
]
