"""Writing down what became of calls: those that end at the same moment in one transaction, in one round trip.

The accounts of a tenant and its day are rows for which all its calls queue until a commit; together they queue once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import asyncpg

from app import budgets, ledger, tape
from app.batch import Batches
from app.db import Database, after_commit
from app.ledger.actions import Told

CLOSE = f"SELECT close_model_calls({', '.join(f'${n}' for n in range(1, 18))})"  # $1, $2, ...


@dataclass(frozen=True)
class Said:
    """A call as it goes on the tape."""

    attempt: int
    call: tape.Call
    outcome: tape.Outcome
    answer: bytes


@dataclass(frozen=True)
class Ended:
    """A call that has ended: what it took, and its fact. provider: who was asked last; None when nobody was."""

    told: Told
    reservation: UUID
    tokens_in: int
    tokens_out: int
    cost_usd: Decimal
    took_ms: int
    provider: str | None
    failed: bool
    said: Said | None

    @property
    def size(self) -> int:
        """Bytes that are sent to the database."""
        taped = self.said
        return len(self.told.body) + (len(taped.call.arguments) + len(taped.answer) if taped else 0)


class Records:
    """Where calls end. nudge wakes whoever waits for facts."""

    def __init__(self, database: Database, nudge: Callable[[Iterable[str]], None], *, wait_ms: int = 1000) -> None:
        self.nudge = nudge
        self.batches: Batches[Ended, None] = Batches(
            database, self.run, lambda one: one.size, name="model calls", connections=1, wait_ms=wait_ms
        )

    async def put(self, one: Ended) -> None:
        """Counts and records a call, once however often it is put. Raises Problem database_busy or database_unavailable."""
        await self.batches.put(one)

    async def run(self, connection: asyncpg.Connection, ended: Sequence[Ended]) -> list[None]:
        """Everything that is pending; one statement is a transaction."""
        await connection.execute(
            CLOSE,
            [one.told.tenant for one in ended],
            [one.told.subject for one in ended],
            [one.reservation for one in ended],
            [one.tokens_in for one in ended],
            [one.tokens_out for one in ended],
            [one.cost_usd for one in ended],
            [one.took_ms for one in ended],
            [one.provider for one in ended],
            [one.failed for one in ended],
            [one.told.actor for one in ended],
            [one.told.body for one in ended],
            json.dumps(budgets.used_up()),
            [one.said.attempt if one.said else None for one in ended],
            [one.said.call.name if one.said else None for one in ended],
            [one.said.call.arguments if one.said else None for one in ended],
            [one.said.outcome if one.said else None for one in ended],
            [one.said.answer if one.said else None for one in ended],
        )
        with after_commit():
            self.nudge({ledger.FACTS})
        return [None] * len(ended)
