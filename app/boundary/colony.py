"""The colony as the root knows it: how it is called, what is wrong with it, and who looks whether it is there."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from app.boundary.quarantine import quarantine
from app.components import Component
from app.db import Database
from app.http.probes import PROBE_S
from app.telemetry import COLONY_FAILURES, COMPONENT_UP, begin
from app.work import Item
from colony_client.client import ColonyClient
from colony_client.errors import BoundaryError, Busy, Incompatible, Malformed, Refused, Unauthorized
from colony_client.signing import Keys

MOST_PATIENCE_S = 300.0

EFFECTS = {
    "colony_unavailable": "The colony does not answer. The mission waits and is dispatched when it does.",
    "colony_unauthorized": "The colony refuses the root's key. The mission waits until the keys agree.",
    "colony_incompatible": "The colony speaks another version of the contract. The mission waits until one of the two is replaced.",
    "colony_malformed": "The colony's answer could not be read. The mission waits and is dispatched again.",
    "approval_queue_full": "As many approvals wait as may. The mission could add to them, and is dispatched when they are fewer.",
    "colony_busy": "The colony takes no more missions at the moment. The mission waits its turn.",
}

SILENT = "The colony does not say how the mission is getting on. It is asked again."
begin(COLONY_FAILURES, EFFECTS)


@dataclass
class Colony:
    """The colony as the worker knows it: the client, the breaker, and the terms of every dispatch."""

    client: ColonyClient
    keys: Keys  # the root's own, for mission tokens
    callback_base_url: str
    lease: timedelta
    max_attempts: int
    component: Component
    queue_limit: int = (
        0  # pending approvals of a tenant, from which on nothing is dispatched that could add to them; 0: none
    )
    trouble: str = "colony_unavailable"  # code of the last failure: why missions wait while the breaker is open
    counted: bool = True  # whether its state is the one that metrics show; a drill's is not

    def show(self) -> None:
        if self.counted:
            COMPONENT_UP.labels("colony").set(0 if self.component.opened_at else 1)


def degraded_code(error: BoundaryError) -> str:
    match error:
        case Unauthorized():
            return "colony_unauthorized"
        case Incompatible():
            return "colony_incompatible"
        case Malformed():
            return "colony_malformed"
        case Busy():
            return "colony_busy"
        case _:
            return "colony_unavailable"


async def faulted(database: Database, colony: Colony, item: Item, origin: str, error: BoundaryError) -> str:
    """A call that got no answer of the contract: counted by the breaker, unless the colony is only busy; its bytes are kept.

    Answers the code of the degraded state.
    """
    code = degraded_code(error)
    COLONY_FAILURES.labels(code).inc()
    if code != "colony_busy":
        colony.trouble = code
        colony.component.failed(str(error))
        colony.show()
    await quarantine(database, item, origin, error)
    return code


def answered(colony: Colony) -> None:
    colony.component.succeeded()
    colony.show()


def settled(error: BoundaryError) -> bool:
    """Whether a refusal is the colony's own word on the mission: it does not know it, or has ended it."""
    return isinstance(error, Refused) and error.problem is not None and error.status in (404, 409, 410)


def asked_for(error: BoundaryError) -> float:
    """The seconds that the colony wants to be left alone, at most five minutes."""
    return min(error.retry_after or 0.0, MOST_PATIENCE_S) if isinstance(error, Refused) else 0.0


async def colony_trouble(client: ColonyClient) -> str:
    """What is wrong with the colony, in a sentence; empty when it says that it is ready. No transaction is open meanwhile."""
    try:
        ready = await client.ready(timeout_s=min(PROBE_S, client.timeout_s))
    except BoundaryError as error:
        return f"The colony's /ready gives no answer ({type(error).__name__})."
    return "" if ready.ready else "The colony says that it is not ready."


async def keep_looking(colony: Colony, period_s: float) -> None:
    """Asks the colony whether it is there, until cancelled: nobody else finds out while no mission has to be offered.

    An open breaker is closed by this only where silence had opened it, and the colony says that it is ready; the probe is not
    signed and proves nothing else.
    """
    while True:
        if await colony_trouble(colony.client):
            COMPONENT_UP.labels("colony").set(0)
        elif colony.component.opened_at is None:
            colony.show()  # failures that are counted stay: whether the keys agree, only a signed call finds out
        elif colony.trouble == "colony_unavailable":
            answered(colony)
        await asyncio.sleep(period_s)
