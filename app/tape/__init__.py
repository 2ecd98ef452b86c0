"""What tools and models answered to a mission, call by call, so that it can be played again without them."""

from app.tape.actions import Call, Kind, Outcome, call, record
from app.tape.playing import Unreadable, answer, diverge, holds, played, reading, refused_here, source_of
from app.tape.queries import Taped, calls, find, next_ordinal

__all__ = [
    "Call",
    "Kind",
    "Outcome",
    "Taped",
    "Unreadable",
    "answer",
    "call",
    "calls",
    "diverge",
    "find",
    "holds",
    "next_ordinal",
    "played",
    "reading",
    "record",
    "refused_here",
    "source_of",
]
