"""What a mission may look at through the root: policy first, then budget, then the tool, then a note of what was shown.

Some tools are the root's own (`builtin`); others belong to layers that a tenant registers, whose servers speak the Model Context
Protocol (`layers`, `mcp`). Every call leaves a fact, and every source whose bytes were shown is noted, because only those may
be cited. A tool that changes something never runs: its call becomes a proposal (`proposals`).
"""

from app.tools import known
from app.tools.api import WAY, router
from app.tools.builtin import TOOLS
from app.tools.judging import block, judge, needs
from app.tools.known import Register
from app.tools.layers_api import router as registering
from app.tools.noting import noted_again, said_again, switched_off_then
from app.tools.sessions import Sessions
from app.tools.watch import check_layers

__all__ = [
    "TOOLS",
    "WAY",
    "Register",
    "Sessions",
    "block",
    "check_layers",
    "judge",
    "known",
    "needs",
    "noted_again",
    "registering",
    "router",
    "said_again",
    "switched_off_then",
]
