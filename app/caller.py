"""Who is asking: a frozen value that every verb takes, whatever door it came through."""

from dataclasses import dataclass, field
from uuid import UUID

SYSTEM = UUID(int=0)


@dataclass(frozen=True)
class Caller:
    """An authenticated principal, the colony, or the service itself.

    actor is how the ledger names it: `principal:<uuid>`, `colony:<kid>` or `system:<process>`.
    secret is the presented credential, kept only as long as the request: the wall asks for it when a human decides.
    """

    tenant: UUID
    principal: UUID
    actor: str
    name: str = ""
    kind: str = "service"
    roles: frozenset[str] = frozenset()
    secret: str = field(default="", repr=False)
    credential: UUID | None = None  # the api key or session that was presented
    credential_kind: str = ""

    def presenting(self, secret: str) -> "Caller":
        """The same caller with the secret of this request."""
        same = object.__new__(Caller)
        same.__dict__.update(self.__dict__, secret=secret)
        return same


def system(tenant: UUID, process: str) -> Caller:
    """The service acting on its own: timers, reconcilers, the worker."""
    return Caller(tenant=tenant, principal=SYSTEM, actor=f"system:{process}", name=process)
