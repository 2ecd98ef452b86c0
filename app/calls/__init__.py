"""Calls that a mission makes through the root, of tools and of models: opened before anybody is asked, closed after.

The ordinary call is judged from memory and opened by one statement, which looks again at all that may have changed; what
is not ordinary is judged at length by the gateway that it came to. Those of one moment share a commit (record 0059).
"""

from app.calls.attempt import check_attempt, left_over, over
from app.calls.closing import Closings, Ended, Said
from app.calls.opening import Layered, Opening, Openings, Outcome

__all__ = [
    "Closings",
    "Ended",
    "Layered",
    "Opening",
    "Openings",
    "Outcome",
    "Said",
    "check_attempt",
    "left_over",
    "over",
]
