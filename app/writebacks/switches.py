"""What the definitions of a tenant share, connectors and tool layers: the switch of each, and what is told when the wall refuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.clock import iso
from app.errors import Problem

ANY = "*"  # the switch of all


@dataclass(frozen=True)
class Switch:
    """Whether something is halted, since when and by whom."""

    halted_at: datetime | None = None
    reason: str | None = None
    changed_by: UUID | None = None
    changed_at: datetime | None = None

    def view(self) -> dict[str, Any]:
        return {
            "halted": self.halted_at is not None,
            "halted_at": iso(self.halted_at) if self.halted_at else None,
            "reason": self.reason,
            "changed_by": self.changed_by,
            "changed_at": iso(self.changed_at) if self.changed_at else None,
        }


DONE = ("created", "changed", "retired", "halted", "resumed", "unchanged")
NO_REASON = {"pointer": "/reason", "detail": "say why"}
UNKNOWN = {"pointer": "", "detail": "the database refuses it"}


@dataclass(frozen=True)
class Refusals:
    """What the caller is told when the wall does not take a definition or a switch.

    said: the code of the problem and its detail, by outcome. fields: what is wrong where, by the constraint that is broken, or
    by an outcome that is about one field.
    """

    said: Mapping[str, tuple[str, str]]
    fields: Mapping[str, dict[str, str]]

    def raise_for(self, outcome: str, name: str, version: int | None = None, broken: str | None = None) -> None:
        """Raises the Problem of every outcome that is not one of DONE."""
        if outcome in DONE:
            return
        if outcome not in self.said:
            error = self.fields.get(broken or outcome, UNKNOWN)
            place = error.get("pointer") or error.get("parameter") or "the body"
            raise Problem("validation", f"{place}: {error['detail']}.", errors=[error])
        code, detail = self.said[outcome]
        current: dict[str, Any] = {"current": {"name": name, "version": version}} if code == "stale" else {}
        raise Problem(code, detail, **current)
