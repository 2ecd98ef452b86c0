"""Many missions at once: locked in one statement, changed in memory, kept in one statement.

Whoever has many of them in hand (a batch of callbacks, of dispatches, of reviews) holds them, lets each become what it
becomes, and keeps all of it. The verbs here are those of `actions`, for missions that are held.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from app import budgets, ledger
from app.artifacts import Made, Stored
from app.caller import Caller
from app.clock import iso, new_id, now
from app.db import Database, Fetch, after_commit
from app.errors import Problem
from app.missions.moves import CLOSED, FROM, State
from app.missions.queries import Mission, from_row
from app.missions.types import label
from app.telemetry import MISSIONS
from app.work import Item

HOLD = "SELECT (h.m).*, h.known FROM hold_missions($1, $2, $3, $4) h"
KEEP = f"SELECT keep_missions({', '.join(f'${n}' for n in range(1, 33))})"  # $1, $2, ...
WORKERS = "work_worker"


@dataclass
class Held:
    """Missions that are locked, and what becomes of them. fetch runs statements in the transaction that locks them."""

    fetch: Fetch
    missions: dict[UUID, Mission] = field(default_factory=dict)
    tenants: dict[UUID, UUID] = field(default_factory=dict)
    nudges: set[str] = field(default_factory=set)
    _known: dict[tuple[UUID, bytes], tuple[UUID, int]] = field(default_factory=dict)
    _changed: dict[UUID, None] = field(default_factory=dict)
    _made: list[tuple[Any, ...]] = field(default_factory=list)
    _facts: list[ledger.Told] = field(default_factory=list)
    _work: dict[tuple[str, UUID], tuple[Any, ...]] = field(default_factory=dict)
    _afterwards: list[Callable[[], object]] = field(default_factory=list)

    async def hold(
        self, wanted: Iterable[tuple[UUID, UUID]], shown: Iterable[tuple[UUID, bytes]] = ()
    ) -> dict[UUID, Mission]:
        """Locks (tenant, mission) pairs until commit; absent ones are left out. shown: (mission, sha256) of what they bring."""
        pairs, brought = list(dict.fromkeys(wanted)), list(dict.fromkeys(shown))
        values = [list(column) for column in zip(*pairs, strict=True)] or [[], []]
        values += [list(column) for column in zip(*brought, strict=True)] or [[], []]
        for row in await self.fetch(HOLD, *values):
            found = from_row(row)
            self.missions[found.id], self.tenants[found.id] = found, row["tenant"]
            known = row["known"] or "[]"
            for digest, artifact, attempt in json.loads(known) if isinstance(known, str) else known:
                self._known[found.id, bytes.fromhex(digest)] = UUID(artifact), attempt
        return self.missions

    def change(self, mission: UUID, **changes: Any) -> Mission:
        self._changed[mission] = None
        changed = self.missions[mission] = replace(self.missions[mission], **changes)
        return changed

    def tell(self, caller: Caller, type: str, mission: UUID, /, **body: Any) -> None:
        """Records a fact about a held mission."""
        self._facts.append(ledger.fact(caller, type, mission, **body))

    def move(
        self, caller: Caller, mission: UUID, to: State, cause: str, facts: dict[str, Any] | None = None, **changes: Any
    ) -> Mission:
        """Moves a held mission for a cause and records `mission.<to>`. Raises Problem wrong_state."""
        before = self.missions[mission]
        if before.state not in FROM[f"{cause}>{to}"]:
            raise Problem(
                "wrong_state",
                f"The mission is {before.state}; from there it cannot become {to}.",
                current={"id": str(mission), "state": before.state},
            )
        moved = self.change(mission, state=to, **changes)
        self.tell(
            caller, f"mission.{to}", mission, was=before.state, cause=cause, attempt=moved.attempt, **(facts or {})
        )
        self.afterwards(partial(count, moved.mission_type, to))
        return moved

    def store(self, caller: Caller, mission: UUID, attempt: int, made: Made) -> Stored:
        """Keeps an artifact and records `artifact.stored`; the same bytes of an earlier attempt are `artifact.repeated`."""
        known = self._known.get((mission, made.sha256))
        if known is not None:
            id, of_attempt = known
            if of_attempt != attempt:
                self.tell(
                    caller, "artifact.repeated", mission, artifact=id, schema_name=made.schema_name, attempt=attempt
                )
            return Stored(id, made.sha256)
        id = new_id()
        self._known[mission, made.sha256] = id, attempt
        self._made.append(
            (caller.tenant, id, mission, attempt, made.schema_name, made.schema_version, made.producer, made.bytes)
        )
        self.tell(
            caller,
            "artifact.stored",
            mission,
            artifact=id,
            schema_name=made.schema_name,
            sha256=made.sha256.hex(),
            attempt=attempt,
        )
        return Stored(id, made.sha256)

    # --- work

    def add(self, kind: str, mission: UUID, at: datetime | None = None) -> None:
        """Wants it done; of two wishes the earlier one counts."""
        wished = self._work.get((kind, mission))
        if wished is not None and wished[1] == "add":
            at = None if at is None or wished[4] is None else min(at, wished[4])
        self._work[kind, mission] = (self.tenants[mission], "add", kind, mission, at, None, None)
        if at is None:  # what is for later is found when it is due
            self.nudges.add(WORKERS)

    def drop(self, kind: str, mission: UUID) -> None:
        self._work[kind, mission] = (self.tenants[mission], "drop", kind, mission, None, None, None)

    def finish(self, item: Item) -> None:
        """Ends an item; when it was wanted again meanwhile it becomes due instead."""
        self._held(item, "done", None)

    def again(self, item: Item, at: datetime | None, *, failed: bool = False) -> None:
        """Gives an item back, due at a time: done for now, or failed, and then its attempts count on."""
        self._held(item, "failed" if failed else "again", at)
        if at is None:
            self.nudges.add(WORKERS)

    def _held(self, item: Item, what: str, at: datetime | None) -> None:
        if (
            item.kind,
            item.subject,
        ) not in self._work:  # a verb that took the wish back, or has a new one, has the last word
            self._work[item.kind, item.subject] = (
                item.tenant, what, item.kind, item.subject, at, item.fence, item.wanted,
            )  # fmt: skip

    # --- verbs

    def taken_by_colony(self, caller: Caller, mission: UUID, lease: timedelta) -> None:
        """The colony has the current attempt: accepted -> dispatched, with a lease and a timer that watches it.

        A call that overtook the answer may have used the budget up: that stays said, and its grace ends when it would have.
        """
        moment, found = now(), self.missions[mission]
        deadline = found.deadline_at or moment + timedelta(milliseconds=found.budget_time_ms)
        until, over = moment + lease, budgets.over_until(found.degraded)
        said = found.degraded if over else None
        self.move(caller, mission, "dispatched", "dispatch", lease_until=until, deadline_at=deadline, degraded=said)
        self.add("attempt_timer", mission, min(until, deadline, over or until))

    def into_review(self, caller: Caller, mission: UUID) -> None:
        """The colony says it is complete: the root looks for itself."""
        self.move(caller, mission, "in_review", "complete", lease_until=None)
        self.drop("attempt_timer", mission)
        self.add("review", mission)

    def fail(self, caller: Caller, mission: UUID, cause: str, *, reason: str, note: str | None = None) -> None:
        """Ends a mission without success, and takes back what was to be done for it."""
        was = self.missions[mission].state
        self.move(
            caller,
            mission,
            "failed",
            cause,
            {"reason": reason},
            reason=reason,
            reason_note=note[:2000] if note else None,
            degraded=None,
            lease_until=None,
        )
        for kind in STOPPED:
            self.drop(kind, mission)
        if was in AT_COLONY:
            self.add("colony_cancel", mission)

    def complete(self, caller: Caller, mission: UUID, answer_status: str) -> None:
        """Reviewed, and nothing to write: the end one wishes for."""
        self.move(
            caller,
            mission,
            "completed",
            "reviewed",
            {"answer_status": answer_status},
            answer_status=answer_status,
            degraded=None,
            lease_until=None,
        )

    def degrade(self, caller: Caller, mission: UUID, code: str, effect: str) -> None:
        """Says why an accepted mission waits, once per reason."""
        found = self.missions[mission]
        if found.state == "accepted" and (found.degraded is None or found.degraded.get("code") != code):
            self.change(mission, degraded={"code": code, "effect": effect, "since": iso(now())})
            self.tell(caller, "mission.degraded", mission, code=code)

    # --- the end

    async def keep(self) -> None:
        """Writes what became of them."""
        if not (self._changed or self._made or self._facts or self._work):
            return
        changed = [row_of(self.tenants[id], self.missions[id]) for id in self._changed]
        facts = [(one.tenant, one.subject, one.type, one.actor, one.body) for one in self._facts]
        columns: list[Any] = []
        for rows, width in ((changed, 12), (self._made, 8), (facts, 5), (list(self._work.values()), 7)):
            columns += [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
        await self.fetch(KEEP, *columns)
        if self._facts:
            self.nudges.add(ledger.FACTS)
        for done in (self._changed, self._made, self._facts, self._work):
            done.clear()

    def afterwards(self, say: Callable[[], object]) -> None:
        """What is to be counted or logged once the transaction is committed, and not when it goes back."""
        self._afterwards.append(say)

    def committed(self) -> None:
        """Whoever has committed the transaction says so."""
        for say in self._afterwards:
            with after_commit():
                say()
        self._afterwards.clear()


def count(mission_type: str, state: str) -> None:
    MISSIONS.labels(label(mission_type), state).inc()


# What is taken back when a mission ends, and the states in which a colony may be working on it.
STOPPED = ("ask", "dispatch", "replay", "attempt_timer", "review")
AT_COLONY = ("accepted", "dispatched", "running")


def row_of(tenant: UUID, mission: Mission) -> tuple[Any, ...]:
    return (
        tenant,
        mission.id,
        mission.state,
        mission.attempt,
        mission.last_seq,
        mission.stage,
        None if mission.state in CLOSED else mission.lease_until,
        mission.deadline_at,
        None if mission.degraded is None else json.dumps(mission.degraded),
        mission.answer_status,
        mission.reason,
        mission.reason_note,
    )


@asynccontextmanager
async def holding(database: Database, wanted: Iterable[tuple[UUID, UUID]]) -> AsyncIterator[Held]:
    """A transaction that holds missions, and keeps what the block makes of them."""
    nudges = set[str]()
    async with database.together(nudges) as fetch:
        held = Held(fetch, nudges=nudges)
        await held.hold(wanted)
        yield held
        await held.keep()
    held.committed()


async def hold_each(database: Database, items: Sequence[Item], become: Callable[[Held, Item], None]) -> None:
    """Does to the mission of each item what becomes of it, together, and one by one when that fails.

    Whoever is to blame fails alone: the first failure is raised when all others are kept.
    """
    try:
        async with holding(database, ((item.tenant, item.subject) for item in items)) as held:
            for item in items:
                become(held, item)
    except Exception:
        if len(items) == 1:
            raise
        failures: list[Exception] = []
        for item in items:
            try:
                await hold_each(database, [item], become)
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0] from None
