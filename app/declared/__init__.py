"""What tenants declare by name and in versions, each with a switch: connectors, and layers of tools.

Both are put, retired, halted and resumed alike, by functions of the wall. The rooms that have them say what a definition is and what
is shown of it; how it is read from a body, put and switched stands here once.
"""

from app.declared.actions import Declared, Switch, in_force, put, switches
from app.declared.api import NAME, SwitchedView, SwitchView, WhySwitch, expect, missing, turned

__all__ = [
    "NAME",
    "Declared",
    "Switch",
    "SwitchView",
    "SwitchedView",
    "WhySwitch",
    "expect",
    "in_force",
    "missing",
    "put",
    "switches",
    "turned",
]
