"""Where sources say different things about the same matter: deterministic, explained, and silent when in doubt."""

from app.evidence.contradictions.find import MOST_BYTES, MOST_OTHERS, Place, Source, find

__all__ = ["MOST_BYTES", "MOST_OTHERS", "Place", "Source", "find"]
