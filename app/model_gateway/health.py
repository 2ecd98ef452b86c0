"""How a provider is, as this process has met it: a breaker that lets one probe through, and rest when it asked for some."""

import time
from dataclasses import dataclass
from datetime import timedelta

from app.clock import now
from app.components import Component

LONGEST_REST_S = 60.0  # that a provider may ask for by Retry-After


@dataclass
class Health:
    """One provider. While the breaker is open nobody asks it; then one call does, and what comes of it decides."""

    component: Component
    resting_until: float = 0.0
    probing: bool = False

    @classmethod
    def of(cls, provider: str, stays_open_s: float = 5.0) -> "Health":
        effect = "Its models are asked of others that have them, or not at all."
        return cls(Component(f"model provider {provider}", effect, stays_open=timedelta(seconds=stays_open_s)))

    def admits(self) -> bool:
        """Whether a call may be made now. A yes is followed by one of the three below."""
        if time.monotonic() < self.resting_until or self.component.retry_at() is not None:
            return False
        if self.component.opened_at is not None:
            if self.probing:
                return False
            self.probing = True
        return True

    def succeeded(self) -> None:
        self._ended()
        self.component.succeeded()

    def failed(self, detail: str) -> None:
        self._ended()
        self.component.failed(detail)

    def rests(self, seconds: float) -> None:
        """It answered that it is asked too much: that is no failure, and no use in asking on."""
        self._ended()
        self.resting_until = time.monotonic() + min(max(seconds, 0.0), LONGEST_REST_S)

    def given_up(self) -> None:
        """Whoever asked went away before anybody knew."""
        self._ended()

    def wait_s(self) -> float:
        """How long until it may be asked again, as far as is known; 0 when it may."""
        rest = self.resting_until - time.monotonic()
        closed = self.component.retry_at()
        until = (closed - now()).total_seconds() if closed else 0.0
        return max(rest, until, 1.0 if self.probing else 0.0)

    def _ended(self) -> None:
        self.probing = False
