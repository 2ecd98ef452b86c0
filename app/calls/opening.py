"""Opening calls: what allows them is kept and what they may cost is held, for all that begin at the same moment in one commit."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from app import policy
from app.batch import Batches
from app.budgets import Amounts
from app.db import Database
from app.missions import Terms, terms_of

LOOK = "SELECT * FROM terms_of_missions($1, $2)"
OPEN = f"SELECT n, outcome, reservation FROM open_calls({', '.join(f'${n}' for n in range(1, 27))})"  # noqa: S608  # $1, $2, ...
REMEMBERED = 4096  # missions


@dataclass(frozen=True)
class Layered:
    """The version of a layer that a tool was found in; tool: its name there."""

    layer: str
    version: int
    tool: str


@dataclass(frozen=True)
class Opening:
    """A call that was judged from memory. drafts: the decisions about it, at least one of which allows it.

    off: the providers that were taken to be switched off, for a call of a model. nonce: key id and nonce of a signed call.
    """

    tenant: UUID
    terms: Terms
    attempt: int
    purpose: str
    amounts: Amounts
    life: timedelta
    drafts: Sequence[policy.Draft]
    layer: Layered | None = None
    off: frozenset[str] | None = None
    nonce: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        """Bytes that are sent to the database."""
        return 512 + sum(1024 + len(one.inputs) for one in self.drafts)


Outcome = UUID | Literal["again", "replayed"]  # a reservation; to be judged at length; the nonce was seen before


class Openings:
    """Where ordinary calls begin."""

    def __init__(self, database: Database, *, connections: int = 2, wait_ms: int = 1000) -> None:
        self.known: dict[tuple[UUID, UUID], Terms] = {}
        self.looks: Batches[tuple[UUID, UUID], Terms | None] = Batches(
            database.connect, self.look, lambda _: 32, name="terms of missions", connections=1, wait_ms=wait_ms
        )
        self.batches: Batches[Opening, Outcome] = Batches(
            database.connect,
            self.run,
            lambda one: one.size,
            name="openings of calls",
            connections=connections,
            wait_ms=wait_ms,
        )

    def start(self) -> None:
        self.looks.start()
        self.batches.start()

    async def stop(self) -> None:
        await asyncio.gather(self.looks.stop(), self.batches.stop())

    async def terms(self, tenant: UUID, mission: UUID) -> Terms | None:
        """What a tenant's mission was accepted with, from memory when this process has seen it.

        None when there is no such mission, or its envelope is removed: then it has ended. Raises Problem as `open`.
        """
        found = self.known.get((tenant, mission))
        if found is None:
            found = await self.looks.put((tenant, mission))
            if found is not None:
                if len(self.known) >= REMEMBERED:
                    self.known.clear()
                self.known[tenant, mission] = found
        return found

    async def open(self, one: Opening) -> Outcome:
        """Keeps the decisions of a call and holds what it may cost, if all that it was judged by is still so.

        Raises Problem database_busy or database_unavailable.
        """
        outcome = await self.batches.put(one)
        if isinstance(outcome, UUID):
            for said in one.drafts:
                policy.count(said.decision.action, said.decision.verdict)
        return outcome

    async def look(self, connection: asyncpg.Connection, wanted: Sequence[tuple[UUID, UUID]]) -> list[Terms | None]:
        rows = await connection.fetch(LOOK, [tenant for tenant, _ in wanted], [mission for _, mission in wanted])
        found = {(row["tenant"], row["id"]): row for row in rows}
        return [terms_of(found[which]) if which in found else None for which in wanted]

    async def run(self, connection: asyncpg.Connection, calls: Sequence[Opening]) -> list[Outcome]:
        """Everything that is pending; one statement is a transaction."""
        drafts = [(n, said) for n, one in enumerate(calls, 1) for said in one.drafts]
        verdicts = [said.decision.verdict for _, said in drafts]
        rows = await connection.fetch(
            OPEN,
            [one.nonce[0] if one.nonce else None for one in calls],
            [one.nonce[1] if one.nonce else None for one in calls],
            [one.tenant for one in calls],
            [one.terms.id for one in calls],
            [one.attempt for one in calls],
            [one.drafts[0].change for one in calls],
            [bytes.fromhex(one.drafts[0].policies.version) for one in calls],
            [one.layer.layer if one.layer else None for one in calls],
            [one.layer.version if one.layer else None for one in calls],
            [one.layer.tool if one.layer else None for one in calls],
            [None if one.off is None else ",".join(sorted(one.off)) for one in calls],
            [one.purpose for one in calls],
            [one.amounts.tokens for one in calls],
            [one.amounts.cost_usd for one in calls],
            [one.life for one in calls],
            [n for n, _ in drafts],
            [said.decision.id for _, said in drafts],
            [said.principal for _, said in drafts],
            [said.decision.action for _, said in drafts],
            [said.decision.resource for _, said in drafts],
            [verdict.effect for verdict in verdicts],
            [verdict.rule for verdict in verdicts],
            [verdict.policy_version for verdict in verdicts],
            [verdict.reason for verdict in verdicts],
            [said.inputs for _, said in drafts],
            [json.dumps(verdict.obligations) for verdict in verdicts],
        )
        return [row["reservation"] or row["outcome"] for row in sorted(rows, key=lambda row: row["n"])]
