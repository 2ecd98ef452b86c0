"""What tools answered to a mission, call by call, so that it can be played again without them."""

from app.tape.actions import Call, call, record
from app.tape.playing import answer, diverge, source_of
from app.tape.queries import Taped, calls, find, next_ordinal

__all__ = ["Call", "Taped", "answer", "call", "calls", "diverge", "find", "next_ordinal", "record", "source_of"]
