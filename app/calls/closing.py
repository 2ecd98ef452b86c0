"""Closing calls: what came of them is settled, told and put on the tape, for all that end at the same moment in one commit.

The accounts of a tenant and its day are rows for which all its calls queue until a commit, and so are the bytes that many calls
show; together they queue once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal
from uuid import UUID

import asyncpg

from app import budgets, ledger, tape
from app.artifacts import REMOVED, Laid, removed_meanwhile
from app.batch import Batches
from app.db import Database
from app.ledger import Told

CLOSE = f"SELECT close_calls({', '.join(f'${n}' for n in range(1, 32))})"  # $1, $2, ...


@dataclass(frozen=True)
class Said:
    """A call as it goes on the tape."""

    attempt: int
    call: tape.Call
    outcome: tape.Outcome
    answer: bytes
    took_ms: float


@dataclass(frozen=True)
class Ended:
    """A call that has ended: what it took, its fact, and what was shown.

    provider: of a model, who was asked last; None when nobody was. keep: bytes that are not kept yet. shown: (sha256, document, version).
    """

    kind: tape.Kind
    told: Told
    reservation: UUID
    calls_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: Decimal = Decimal(0)
    provider: str | None = None
    failed: bool = False
    said: Said | None = None
    keep: Sequence[Laid] = ()
    shown: Sequence[tuple[bytes, str, str | None]] = ()
    shown_as: Literal["document", "record"] = "document"

    @property
    def size(self) -> int:
        """Bytes that are sent to the database."""
        taped = len(self.said.call.arguments) + len(self.said.answer) if self.said else 0
        return len(self.told.body) + taped + sum(len(one.inline or b"") for one in self.keep) + 128 * len(self.shown)


class Closings:
    """Where calls end. nudge wakes whoever waits for facts."""

    def __init__(self, database: Database, nudge: Callable[[Iterable[str]], None], *, wait_ms: int = 1000) -> None:
        self.nudge = nudge
        self.batches: Batches[Ended, None] = Batches(
            database.connect,
            self.run,
            lambda one: one.size,
            name="closings of calls",
            told=self.tell,
            connections=1,
            wait_ms=wait_ms,
        )

    async def put(self, one: Ended) -> None:
        """Counts and records a call, once however often it is put. Raises Problem database_busy or database_unavailable."""
        try:
            await self.batches.put(one)
        except asyncpg.PostgresError as refused:
            if refused.sqlstate != REMOVED:
                raise
            raise removed_meanwhile() from None

    async def run(self, connection: asyncpg.Connection, ended: Sequence[Ended]) -> list[None]:
        """Everything that is pending; one statement is a transaction."""
        kept = [(n, laid) for n, one in enumerate(ended, 1) for laid in one.keep]
        shown = [(n, one.shown_as, *source) for n, one in enumerate(ended, 1) for source in one.shown]
        await connection.execute(
            CLOSE,
            [one.told.tenant for one in ended],
            [one.told.subject for one in ended],
            [one.reservation for one in ended],
            [one.kind for one in ended],
            [one.tokens_in for one in ended],
            [one.tokens_out for one in ended],
            [one.cost_usd for one in ended],
            [one.calls_ms for one in ended],
            [one.provider for one in ended],
            [one.failed for one in ended],
            [one.told.type for one in ended],
            [one.told.actor for one in ended],
            [one.told.body for one in ended],
            json.dumps(budgets.used_up()),
            [one.said.attempt if one.said else None for one in ended],
            [one.said.call.name if one.said else None for one in ended],
            [one.said.call.arguments if one.said else None for one in ended],
            [one.said.outcome if one.said else None for one in ended],
            [one.said.answer if one.said else None for one in ended],
            [one.said.took_ms if one.said else None for one in ended],
            [n for n, _ in kept],
            [laid.sha256 for _, laid in kept],
            [laid.size for _, laid in kept],
            [laid.inline for _, laid in kept],
            [laid.object for _, laid in kept],
            [laid.chunks for _, laid in kept],
            [n for n, _, _, _, _ in shown],
            [source for _, _, source, _, _ in shown],
            [document for _, _, _, document, _ in shown],
            [kind for _, kind, _, _, _ in shown],
            [version for _, _, _, _, version in shown],
        )
        return [None] * len(ended)

    def tell(self, *_: object) -> None:
        self.nudge({ledger.FACTS})
