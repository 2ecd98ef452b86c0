"""What tools and models answered to a mission, call by call, so that it can be played again without them."""

from app.tape.actions import Call, Kind, Outcome, call, record
from app.tape.playing import answer, diverge, holds, source_of
from app.tape.queries import Taped, calls, find, next_ordinal

__all__ = [
    "Call",
    "Kind",
    "Outcome",
    "Taped",
    "answer",
    "call",
    "calls",
    "diverge",
    "find",
    "holds",
    "next_ordinal",
    "record",
    "source_of",
]
