"""Limits and use over HTTP."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.budgets.actions import set_limits
from app.budgets.queries import accounts, limits, mission_accounts, today, use
from app.clock import now
from app.db import ReadSession, WriteSession
from app.http import Door, Limit, Reply, Routes, etag, once, reading, require_version, writing

router = Routes(tags=["budgets"])

Whole = Annotated[int | None, Field(ge=0, le=10**15)]
Money = Annotated[float | None, Field(ge=0, le=1e12, allow_inf_nan=False)]
Rate = Annotated[float | None, Field(ge=0.01, le=1e6, allow_inf_nan=False)]


class LimitsAsk(BaseModel):
    """All limits of the tenant; what is left out or null is no limit (for rates: the deployment's setting holds)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"day_tokens": 2_000_000, "day_cost_usd": 50, "rate_tenant_per_s": 200}]},
    )
    day_tokens: Whole = Field(None, description="Of one UTC day, reserved and used together.")
    day_cost_usd: Money = None
    day_time_ms: Whole = Field(None, description="Run time of missions, summed up.")
    total_tokens: Whole = Field(None, description="Of all time, until somebody raises it.")
    total_cost_usd: Money = None
    total_time_ms: Whole = None
    rate_key_per_s: Rate = Field(None, description="Requests a second of one API key.")
    rate_principal_per_s: Rate = None
    rate_tenant_per_s: Rate = None


class LimitsView(LimitsAsk):
    """The limits in force. Version 0: none were ever set."""

    model_config = ConfigDict(json_schema_extra={})
    version: int
    set_by: UUID | None
    set_at: str | None


class Use(BaseModel):
    """used counts what was reported beyond the limit too; left is null where there is no limit."""

    used: float
    reserved: float
    limit: float | None
    left: float | None


class AccountView(BaseModel):
    """One account."""

    tokens: Use
    cost_usd: Use
    time_ms: Use
    calls: int
    calls_ms: int


class DayView(AccountView):
    day: str


class MissionUse(AccountView):
    mission: UUID


class UsageView(BaseModel):
    """What was used: today, in all, day by day, and by the missions that used something last."""

    today: DayView
    total: AccountView
    days: list[DayView]
    missions: list[MissionUse]


@router.get("/v1/budgets", operation_id="getBudgets", response_model=LimitsView, summary="The tenant's limits")
async def get_budgets(door: Annotated[Door[ReadSession], reading("budgets.read")]) -> Response:
    """Limits of a day and in all, and request rates. The ETag is what a change wants as If-Match."""
    found = await limits(door.session)
    return Reply(found, headers={"ETag": etag(found["version"])}).response()


@router.put("/v1/budgets", operation_id="putBudgets", response_model=LimitsView, summary="Set the tenant's limits")
async def put_budgets(
    ask: LimitsAsk, request: Request, door: Annotated[Door[WriteSession], writing("budgets.write")]
) -> Response:
    """Replaces all limits by a new version. Missions under way keep what they hold; what is used stays used."""

    async def run() -> Reply:
        present = await limits(door.session)
        require_version(request, present["version"], present)
        await set_limits(door.session, door.caller, present["version"], ask.model_dump())
        found = await limits(door.session)
        return Reply(found, headers={"ETag": etag(found["version"])})

    return await once(door, "budgets.put", run)


@router.get("/v1/budgets/usage", operation_id="getBudgetUsage", response_model=UsageView, summary="What was used")
async def get_usage(
    door: Annotated[Door[ReadSession], reading("budgets.read")],
    days: Annotated[int, Query(ge=1, le=366, description="How many days back.")] = 30,
    limit: Limit = 50,
) -> Response:
    """Today, in all, each day on which something was used, and the missions whose accounts were opened last."""
    present, day = await limits(door.session), today()
    daily = {name: present[f"day_{name}"] for name in ("tokens", "cost_usd", "time_ms")}
    total = {name: present[f"total_{name}"] for name in ("tokens", "cost_usd", "time_ms")}
    since = (now() - timedelta(days=days - 1)).date().isoformat()
    found = await accounts(door.session, "tenant_day", since, days)
    whole = await accounts(door.session, "tenant", "", 1)
    latest: dict[str, Any] = {row.key: row for row in found}
    return Reply(
        {
            "today": {"day": day, **use(latest.get(day), daily)},
            "total": use(whole[0] if whole else None, total),
            "days": [{"day": row.key, **use(row, daily if row.key == day else None)} for row in found],
            "missions": [{"mission": row.key, **use(row)} for row in await mission_accounts(door.session, limit)],
        }
    ).response()
