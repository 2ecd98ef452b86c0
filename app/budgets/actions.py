"""Reserve, settle, release, spend; and the limits they keep.

Lock order: a mission's row, its account, its reservation, the day's account, the tenant's account, the ledger. The functions
in Postgres take the first by themselves, so call these verbs before a transaction records its first fact.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.clock import iso, now
from app.db import Database, Fetch, ReadSession, WriteSession
from app.errors import Problem

log = structlog.get_logger("budgets")

USED_UP_CODE = "budget_exhausted"
RECONCILED = 50  # reservations in one transaction
GRACE = timedelta(seconds=30)  # how long a colony may take to finish with what it has, once the budget is used up
NAMES = {"mission": "mission's budget", "tenant_day": "tenant's budget of the day", "tenant": "tenant's budget"}

RESERVE = text("""SELECT reservation, lacking FROM reserve_budget(:tenant, :mission, :tokens, CAST(:cost_usd AS numeric), :time_ms,
                  :purpose, :life)""")
SETTLE = text("""SELECT is_over, was_over FROM settle_budget(:tenant, :reservation, :tokens, CAST(:cost_usd AS numeric), :time_ms,
                 :calls_ms)""")
RELEASE = text("SELECT release_budget(:tenant, :reservation)")
SPEND = """SELECT s.is_over, s.was_over, s.used_tokens, s.used_cost_usd
           FROM set_config('app.tenant', $1, true) t CROSS JOIN LATERAL spend_budget(t::uuid, $2, $3, $4) s"""
USED_UP = "SELECT budget_used_up(t::uuid, $2, $3, $4) FROM set_config('app.tenant', $1, true) t"
HOLD = "SELECT hold_budgets($1, $2)"
WOULD_LACK = text("SELECT budget_would_lack(:tenant, :tokens, CAST(:cost_usd AS numeric), :time_ms)")
PUT = text("SELECT outcome, version FROM put_budget_limits(:tenant, :secret, :version, CAST(:limits AS jsonb))")


@dataclass(frozen=True)
class Amounts:
    """How much of each is held or used."""

    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    time_ms: int = 0

    def parameters(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "cost_usd": self.cost_usd, "time_ms": self.time_ms}


@dataclass(frozen=True)
class Spent:
    """What a mission has used after something was counted. newly_over: this is what went beyond the budget."""

    over: bool
    newly_over: bool
    used_tokens: int | None = None
    used_cost_usd: Decimal | None = None


def refusal(lacking: dict[str, Any]) -> Problem:
    """The Problem for what Postgres says stands in the way."""
    account, what = str(lacking["account"]), [str(one) for one in lacking["lacking"]]
    renews = lacking.get("renews_at")
    when = f" It renews at {renews}." if renews else ""
    wait = None
    if renews:
        wait = max(1, int((datetime.fromisoformat(renews.replace("Z", "+00:00")) - now()).total_seconds()) + 1)
    said = ", ".join(what) or "nothing"
    return Problem(
        "budget_exhausted",
        f"The {NAMES[account]} is used up: too little left of {said}.{when}",
        retry_after=wait,
        account=account,
        lacking=what,
        left=lacking["left"],
        renews_at=renews,
    )


async def note_refused(session: WriteSession, caller: Caller, refused: Problem) -> None:
    """The fact of a mission that did not fit into its tenant's budget: what kept the mission is lost with it."""
    await ledger.record(
        session,
        caller,
        "budget.refused",
        caller.tenant,
        account=refused.members["account"],
        lacking=refused.members["lacking"],
    )


async def foresee(session: ReadSession, amounts: Amounts) -> None:
    """Raises Problem budget_exhausted where a new mission with this budget would meet it; nothing is held."""
    lacking = await session.scalar(WOULD_LACK, {"tenant": session.tenant, **amounts.parameters()})
    if lacking is not None:
        raise refusal(lacking if isinstance(lacking, dict) else json.loads(lacking))


async def reserve(
    session: WriteSession, caller: Caller, mission: UUID, amounts: Amounts, purpose: str, *, life: timedelta
) -> UUID:
    """Holds an amount for one call of a mission, at most for `life`. Raises Problem budget_exhausted or mission_closed."""
    row = await session.first(
        RESERVE,
        {"tenant": caller.tenant, "mission": mission, "purpose": purpose, "life": life, **amounts.parameters()},
    )
    assert row is not None
    if row.lacking is not None:
        raise refusal(row.lacking if isinstance(row.lacking, dict) else json.loads(row.lacking))
    if row.reservation is None:
        raise Problem("mission_closed", "The mission has ended; no further call is made for it.")
    reservation: UUID = row.reservation
    return reservation


async def settle(
    session: WriteSession, caller: Caller, mission: UUID, reservation: UUID, actual: Amounts, *, calls_ms: int = 0
) -> Spent | None:
    """Counts what a call really used. More than was reserved is taken while there is any; None when it had ended already."""
    row = await session.first(
        SETTLE,
        {"tenant": caller.tenant, "reservation": reservation, "calls_ms": calls_ms, **actual.parameters()},
    )
    if row is None or row.was_over is None:
        return None
    spent = Spent(row.is_over, row.is_over and not row.was_over)
    if spent.newly_over:
        await note_used_up(session.fetch, caller, mission)
        session.nudge(ledger.FACTS)
    return spent


async def release(session: WriteSession, caller: Caller, reservation: UUID) -> bool:
    """Gives back a reservation of which nothing came. False when it had ended already."""
    return bool(await session.scalar(RELEASE, {"tenant": caller.tenant, "reservation": reservation}))


async def hold(fetch: Fetch, missions: Sequence[tuple[UUID, UUID]]) -> None:
    """Locks what (tenant, mission) pairs share with others, before many of them are moved in one transaction."""
    tenants, ids = zip(*missions, strict=True)
    await fetch(HOLD, list(tenants), list(ids))


async def spend(fetch: Fetch, tenant: UUID, mission: UUID, amounts: Amounts) -> Spent:
    """Counts what a held mission has used without having reserved it: the colony's own reports.

    What is beyond the budget is kept apart. The transaction is in whichever tenant it was last; it is in this one then.
    """
    [row] = await fetch(SPEND, str(tenant), mission, amounts.tokens, amounts.cost_usd)
    assert row["was_over"] is not None, "the caller holds the mission"
    return Spent(row["is_over"], row["is_over"] and not row["was_over"], row["used_tokens"], row["used_cost_usd"])


async def note_used_up(fetch: Fetch, caller: Caller, mission: UUID) -> dict[str, Any]:
    """Says once, on the ledger and on the mission, that the budget is used up and until when the colony may still finish; answers
    what the mission says of itself now."""
    said = used_up()
    await fetch(USED_UP, str(caller.tenant), mission, caller.actor, json.dumps(said))
    return said


def used_up() -> dict[str, Any]:
    """What a mission says of itself from then on."""
    moment = now()
    return {
        "code": USED_UP_CODE,
        "effect": "The budget is used up. No further call is made; the colony may finish with what it has.",
        "since": iso(moment),
        "until": iso(moment + GRACE),
    }


def over_until(degraded: dict[str, Any] | None) -> datetime | None:
    """Until when a mission that has used up its budget may finish; None for any other mission."""
    if degraded is None or degraded.get("code") != USED_UP_CODE or "until" not in degraded:
        return None
    return datetime.fromisoformat(str(degraded["until"])).astimezone(UTC)


@dataclass
class Hold:
    """A reservation around one call."""

    caller: Caller
    mission: UUID
    reservation: UUID
    began: float
    settled: bool = False  # whoever settles it by other means says so here

    @property
    def took_ms(self) -> int:
        return max(0, round((time.monotonic() - self.began) * 1000))

    async def settle(self, session: WriteSession, actual: Amounts | None = None) -> Spent | None:
        """Counts the call in a transaction of the caller's; call it before the transaction's first fact."""
        spent = await settle(
            session, self.caller, self.mission, self.reservation, actual or Amounts(), calls_ms=self.took_ms
        )
        self.settled = True
        return spent


@asynccontextmanager
async def charge(database: Database, caller: Caller, mission: UUID, reservation: UUID) -> AsyncIterator[Hold]:
    """Around the call that a reservation was made for. A block that fails without settling releases; a crash is left to
    the reconciler. No session is open while the block runs.

        reservation = await budgets.reserve(session, caller, mission, Amounts(tokens=4000), "model", life=…)
        ... the transaction ends ...
        async with budgets.charge(database, caller, mission, reservation) as hold:
            answer = await the_call()
            async with database.write() as session:
                await session.enter(caller.tenant)
                await hold.settle(session, Amounts(tokens=answer.tokens))
    """
    hold = Hold(caller, mission, reservation, time.monotonic())
    try:
        yield hold
    except BaseException:
        hold.settled = False  # in whatever transaction it was, it may have been taken back
        raise
    finally:
        if not hold.settled:
            try:
                async with database.write() as session:
                    await session.enter(caller.tenant)
                    await release(session, caller, reservation)
            except (
                Exception
            ) as error:  # the call's own failure is what the caller hears of; the hold runs out by itself
                log.warning("a reservation was not released", mission=str(mission), error=type(error).__name__)


async def set_limits(session: WriteSession, caller: Caller, seen: int, limits: dict[str, Any]) -> int:
    """A new version of the tenant's limits; Postgres checks the admin by the presented secret. Answers the version."""
    row = await session.first(
        PUT,
        {"tenant": caller.tenant, "secret": caller.secret, "version": seen, "limits": json.dumps(limits)},
    )
    assert row is not None
    match row.outcome:
        case "set":
            session.nudge(ledger.FACTS)
            version: int = row.version
            return version
        case "stale":
            raise Problem("stale", f"The limits are at version {row.version}.", current={"version": row.version})
        case "not_entitled":
            raise Problem("forbidden", "Limits are set by a human who is admin.", action="budgets.write")
        case _:
            raise Problem("unauthenticated", "The credential is unknown, expired or revoked.")


async def reconcile(session: WriteSession) -> int:
    """Counts what a crash left reserved as used, and forgets old history: up to RECONCILED of each. Serves every tenant, and holds
    the accounts of all that it meets."""
    done: int = await session.scalar("SELECT reconcile_budgets(:most)", {"most": RECONCILED})
    return done
