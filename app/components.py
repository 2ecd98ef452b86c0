"""What this process knows of the things it depends on: state, since when, and a breaker that stops useless calls."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from app.clock import iso, now

State = Literal["unknown", "up", "degraded", "down", "off"]  # off: the operator has not switched it on


@dataclass
class Component:
    """One dependency. effect says what its absence means to users, in words for a person."""

    name: str
    effect: str
    opens_after: int = 3  # consecutive failures
    stays_open: timedelta = timedelta(seconds=5)
    state: State = "unknown"
    since: datetime = field(default_factory=now)
    detail: str | None = None
    failures: int = 0
    opened_at: datetime | None = None

    def succeeded(self) -> None:
        self.failures, self.opened_at = 0, None
        self._move("up", None)

    def failed(self, detail: str) -> None:
        """Counts a failure; enough of them in a row open the breaker."""
        self.failures += 1
        if self.failures >= self.opens_after:
            self.opened_at = now()
        self._move("down" if self.failures >= self.opens_after else "degraded", detail)

    def switched_off(self, detail: str) -> None:
        self.failures, self.opened_at = 0, None
        self._move("off", detail)

    def retry_at(self) -> datetime | None:
        """When the next trial call is due, while the breaker is open; None when calls may be made."""
        if self.opened_at is None or now() >= self.opened_at + self.stays_open:
            return None
        return self.opened_at + self.stays_open

    def turned_away(self) -> datetime | None:
        """The same for one of many callers at once: of those who come when a trial is due, the first makes it.

        The others wait as long again, or until it has succeeded; so does whoever comes after one that never ended.
        """
        until = self.retry_at()
        if until is None and self.opened_at is not None:
            self.opened_at = now()
        return until

    def untried(self) -> None:
        """The trial that was let through was not made, for a reason that is not the dependency's: who comes next makes it."""
        if self.opened_at is not None:
            self.opened_at = now() - self.stays_open

    def degraded(self, code: str) -> dict[str, object] | None:
        """What whoever asks for something that needs it is told while its breaker has opened; None while it works."""
        if self.state != "down":
            return None
        return {"code": code, "effect": self.effect, "since": iso(self.since)}

    def view(self, queued: dict[str, int] | None = None) -> dict[str, object]:
        """queued: what waits for it, of whoever asks; a component that several tenants share remembers nobody's."""
        return {
            "name": self.name,
            "state": self.state,
            "since": iso(self.since),
            "detail": self.detail,
            "effect": self.effect if self.state in ("down", "degraded", "off") else None,
            "queued": queued or None,
        }

    def _move(self, state: State, detail: str | None) -> None:
        if state != self.state:
            self.state, self.since = state, now()
        self.detail = detail
