"""From any id to the whole story: what was asked, decided, written and read back, step by step, and what of it is proved.

`find` says what an id names, `story.explain` tells the story around it, `story.proved` marks each step with what its chain
and the anchors are worth. Everything is read from the ledger and the rows that its facts name; nothing here is kept.
"""

from app.audit.api import AT_ONCE, router

__all__ = ["AT_ONCE", "router"]
