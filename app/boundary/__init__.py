"""The colony's door: its calls in, each event handed to the room it concerns; dispatch, questions and cancels out."""

from app.boundary.callbacks import Callbacks
from app.boundary.dispatch import cancel_in_colony, colony_trouble, dispatch, keep_looking, watch_attempt

__all__ = ["Callbacks", "cancel_in_colony", "colony_trouble", "dispatch", "keep_looking", "watch_attempt"]
