"""What policy obliges an approval to, beyond its rule: more approvers, a role more, less time, another group to escalate to.

Obligations can only tighten. The wall takes them with the approval, never afterwards, and computes what they come to.
"""

import re
from collections.abc import Mapping
from typing import Any

from app.identity import ROLES

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_APPROVERS = 9  # the wall has the same bound
HUMAN_ROLES = frozenset(ROLES) - {"colony"}


class BadObligations(ValueError):
    """What policy wants cannot be read, so nothing is asked: a weaker approval than was wanted must not be opened."""


def seconds(text: str) -> int:
    """`4h`, `90m`, `30s`, `2d` as seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text.strip())
    if found is None:
        raise BadObligations(f"{text!r} is no time such as 4h, 90m, 30s or 2d")
    return int(found[1]) * SECONDS[found[2]]


def parse(said: Mapping[str, Any] | None) -> dict[str, Any]:
    """The annotations of a policy as the wall takes them: approvals, approver_role, expires_s, escalate_to.

    Raises BadObligations for a name that is not known, or a value that cannot be meant.
    """
    found: dict[str, Any] = {}
    for name, value in (said or {}).items():
        text = str(value).strip()
        if name == "approvals":
            if not re.fullmatch(r"[1-9]", text):
                raise BadObligations(f"approvals is {text!r}, not a number from 1 to {MOST_APPROVERS}")
            found["approvals"] = int(text)
        elif name == "expires":
            found["expires_s"] = seconds(text)
        elif name in ("approver_role", "escalate_to"):
            if text not in HUMAN_ROLES:
                raise BadObligations(f"{name} is {text!r}, which is no role that a person holds")
            found[name] = text
        else:
            raise BadObligations(f"{name} is no obligation")
    return found
