"""What a mission may look at through the root: policy first, then the tool, then a note of what was shown.

For now the tools are built-in reads of the workspace and the CRM; every call leaves a fact, and every source whose
bytes were shown is noted, because only those may be cited.
"""

from app.tools.api import judge, noted_again, router
from app.tools.builtin import TOOLS

__all__ = ["TOOLS", "judge", "noted_again", "router"]
