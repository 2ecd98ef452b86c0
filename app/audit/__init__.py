"""From any id to the whole story: what was asked, decided, written and read back, step by step, and what of it is proved.

`find` says what an id names, `explain` tells the story around it, `prove` marks each step with what its chain and the
anchors are worth. Everything is read from the ledger and the rows that its facts name; nothing here is kept.
"""

from app.audit.api import router
from app.audit.find import Found, find
from app.audit.story import explain, proved

__all__ = ["Found", "explain", "find", "proved", "router"]
