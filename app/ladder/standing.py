"""How far a tenant's missions may go here: the newest change of each rung, remembered, and confirmed by whoever uses it."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import Database, ReadSession
from app.ladder.rungs import AUTONOMY, ENVIRONMENTS, Rung, ladder, reaches
from app.together import Together

MOST = 10_000  # tenants that are remembered
CHANGES = text("""
  SELECT DISTINCT ON (c.rung) c.rung, c.mission_type, c.autonomy, c.cause, c.changed_by, c.at, c.change,
    (SELECT COALESCE(max(n.change), 0) FROM rung_change n WHERE n.tenant = :tenant) AS newest
  FROM rung_change c WHERE c.tenant = :tenant AND c.environment = :environment ORDER BY c.rung, c.change DESC""")
NEWEST = text("SELECT COALESCE(max(change), 0) FROM rung_change WHERE tenant = :tenant")
BOUND = text("SELECT ladder_binds(:tenant)")
GATES = text("SELECT gate, result, checks FROM gate_state WHERE tenant = :tenant AND environment = :environment")


@dataclass(frozen=True)
class Step:
    """The newest change of a rung. changed_by is None when the service itself lowered it."""

    rung: str
    mission_type: str
    autonomy: str
    cause: str
    changed_by: UUID | None
    at: datetime

    def view(self) -> dict[str, Any]:
        return {
            "autonomy": self.autonomy,
            "cause": self.cause,
            "changed_by": str(self.changed_by) if self.changed_by else None,
            "changed_at": iso(self.at),
        }


@dataclass(frozen=True)
class Standing:
    """What a tenant's ladder says in one environment. change is the tenant's newest; None where no ladder binds."""

    environment: str
    change: int | None
    steps: Mapping[str, Step] = field(default_factory=dict)

    def autonomy(self, mission_type: str) -> str:
        """How far missions of a type may go."""
        if self.change is None:
            return AUTONOMY[-1]
        said = [one.autonomy for one in self.steps.values() if one.mission_type in ("*", mission_type)]
        return max([ladder().admits[self.environment], *said], key=AUTONOMY.index)

    def admits(self, mission_type: str, mode: str) -> bool:
        return reaches(self.autonomy(mission_type), mode)

    def enabled(self, rung: str) -> bool:
        return rung in self.steps and self.steps[rung].autonomy != "nothing"


async def standing(session: ReadSession, environment: str) -> Standing:
    """As this transaction sees it."""
    if environment not in ENVIRONMENTS or not await session.scalar(BOUND, {"tenant": session.tenant}):
        return Standing(environment, None)
    rows = await session.rows(CHANGES, {"tenant": session.tenant, "environment": environment})
    newest = rows[0].newest if rows else await session.scalar(NEWEST, {"tenant": session.tenant})
    steps = {
        row.rung: Step(row.rung, row.mission_type, row.autonomy, row.cause, row.changed_by, row.at) for row in rows
    }
    return Standing(environment, newest, steps)


class Standings:
    """Where tenants stood when last looked at. What it says is confirmed by the transaction that uses it."""

    def __init__(self, database: Database, environment: str) -> None:
        self.database, self.environment = database, environment
        self.known: OrderedDict[UUID, Standing] = OrderedDict()
        self.asking: Together[UUID, Standing] = Together()
        self.free = None if environment in ENVIRONMENTS else Standing(environment, None)

    async def get(self, tenant: UUID) -> Standing:
        """What is remembered; looked up for a tenant that is not."""
        found = self.free or self.known.get(tenant)
        return found if found is not None else await self.look_up(tenant)

    async def look_up(self, tenant: UUID) -> Standing:
        return await self.asking.ask(tenant, partial(self._look_up, tenant))

    async def _look_up(self, tenant: UUID) -> Standing:
        async with self.database.read() as session:
            await session.enter(tenant)
            found = await standing(session, self.environment)
        self.known[tenant] = found
        self.known.move_to_end(tenant)
        while len(self.known) > MOST:
            self.known.popitem(last=False)
        return found


# --- what is missing

Results = Mapping[str, Mapping[str, Any]]  # gate -> {"result": ..., "checks": [{"name", "result", "reason"}]}
Elsewhere = Mapping[str, Mapping[str, str]]  # environment -> rung -> autonomy, as its verdict in force says


@dataclass(frozen=True)
class Missing:
    """One thing that keeps a rung from being enabled. kind: gate, check, rung, error_budget or rule."""

    kind: str
    name: str
    reason: str

    def view(self) -> dict[str, str]:
        return {"kind": self.kind, "name": self.name, "reason": self.reason}


def lacking(rung: Rung, here: Standing, elsewhere: Elsewhere, results: Results) -> list[Missing]:
    """What a rung still wants: rungs before it, then gates or checks."""
    found = []
    for name in rung.before:
        lower = ladder().find(name)
        assert lower is not None
        if here.environment in lower.environments:
            if not here.enabled(name):
                found.append(Missing("rung", name, f"{lower.title} is not enabled."))
            continue
        for place in lower.environments:
            if elsewhere.get(place, {}).get(name, "nothing") == "nothing":
                found.append(
                    Missing("rung", name, f"No verdict in force of {place} says that {lower.title} is enabled.")
                )
    for gate in rung.gates:
        result = results.get(gate, {"result": "inconclusive", "checks": []})
        if result["result"] != "pass":
            wrong = [one for one in result["checks"] if one["result"] != "pass"]
            why = " ".join(f"{one['name']}: {one['reason']}" for one in wrong) or "It was not computed yet."
            found.append(Missing("gate", gate, f"The gate is {said(result['result'])}. {why}"))
    known = {one["name"]: one for result in results.values() for one in result["checks"]}
    for name in rung.checks:
        one = known.get(name, {"result": "inconclusive", "reason": "It was not computed yet."})
        if one["result"] != "pass":
            found.append(Missing("check", name, f"The check is {said(one['result'])}: {one['reason']}"))
    return found


def said(result: str) -> str:
    return {"fail": "failing", "inconclusive": "inconclusive"}.get(result, result)


async def last_results(session: ReadSession, environment: str) -> dict[str, dict[str, Any]]:
    """The gates as they were computed last."""
    rows = await session.rows(GATES, {"tenant": session.tenant, "environment": environment})
    return {row.gate: {"result": row.result, "checks": row.checks} for row in rows}


async def why_not(session: ReadSession, found: Standing, mission_type: str, mode: str) -> "Refused":
    """What stands between a mission and its admission, as it is known now."""
    rung = ladder().wanted(found.environment, mission_type, mode)
    if rung is None:
        return Refused(None, found.autonomy(mission_type), ())
    missing = lacking(rung, found, await elsewhere(session), await last_results(session, found.environment))
    return Refused(rung, found.autonomy(mission_type), tuple(missing))


VERDICTS = text("""
  SELECT DISTINCT ON (environment) environment, expires_at > clock_timestamp() AS live, ladder FROM verdict
  WHERE tenant = :tenant ORDER BY environment, made_at DESC""")


async def elsewhere(session: ReadSession) -> dict[str, dict[str, str]]:
    """The rungs of other environments, as the newest verdict of each says, as long as it is in force."""
    rows = await session.rows(VERDICTS, {"tenant": session.tenant})
    return {row.environment: row.ladder for row in rows if row.live}


@dataclass(frozen=True)
class Refused:
    """Why the ladder does not admit a mission: the rung it would take (None: there is none), and what that wants."""

    rung: Rung | None
    autonomy: str
    missing: tuple[Missing, ...]

    def sentence(self, environment: str, mission_type: str, mode: str) -> str:
        goes = "may not run here at all" if self.autonomy == "nothing" else f"go no further than {self.autonomy} here"
        begin = f"In {environment} missions of type {mission_type} {goes}."
        if self.rung is None:
            return f"{begin} No rung of the ladder lets them be {mode}."
        if not self.missing:
            return f"{begin} The rung {self.rung.name} ({self.rung.title}) is not enabled for {mode}; a release owner can do that now."
        wants = "; ".join(one.name for one in self.missing)
        return f"{begin} The rung {self.rung.name} ({self.rung.title}) is not enabled for {mode}, and wants first: {wants}."

    def view(self) -> dict[str, Any]:
        return {
            "rung": self.rung.name if self.rung else None,
            "autonomy": self.autonomy,
            "missing": [one.view() for one in self.missing],
        }
