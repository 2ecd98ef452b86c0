"""A past mission once more: live, or played from what was recorded, and what is different about the two.

A recording is everything that was said to and by a mission's colony in its last attempt: the envelope, the colony's events in the
order of the ledger, the answers of tools from the tape. It is read from a mission of this tenant, or from a signed
file of another environment.
"""

from app.replay.api import recordings, router
from app.replay.play import play
from app.replay.wiring import sides

__all__ = ["play", "recordings", "router", "sides"]
