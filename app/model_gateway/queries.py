"""Reading what a call needs to know first, the switches, and what a tenant used of whom."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import iso
from app.db import ReadSession
from app.missions import Mission
from app.missions.queries import COLUMNS, from_row

DAYS = 30
LOOK = text(f"""
  SELECT {COLUMNS}, ARRAY(SELECT provider FROM model_switches() WHERE off_at IS NOT NULL) AS switched_off
  FROM mission WHERE tenant = :tenant AND id = :id""")  # noqa: S608
SWITCHES = text("SELECT provider, off_at, reason, changed_at FROM model_switches()")
USE = text(f"""
  SELECT provider, sum(calls)::bigint AS calls, sum(failed)::bigint AS failed, sum(tokens_in)::bigint AS tokens_in,
         sum(tokens_out)::bigint AS tokens_out, sum(cost_usd) AS cost_usd
  FROM model_use WHERE tenant = :tenant AND day > (now() AT TIME ZONE 'UTC')::date - {DAYS} GROUP BY provider""")  # noqa: S608


@dataclass(frozen=True)
class Switch:
    """Whether a provider is off, since when and why."""

    off_at: datetime | None = None
    reason: str | None = None
    changed_at: datetime | None = None

    def view(self) -> dict[str, Any]:
        return {
            "off": self.off_at is not None,
            "off_at": iso(self.off_at) if self.off_at else None,
            "reason": self.reason,
            "changed_at": iso(self.changed_at) if self.changed_at else None,
        }


async def mission_and_switches(session: ReadSession, id: UUID) -> tuple[Mission | None, frozenset[str]]:
    """The mission and the names of all providers that are switched off, in one round trip."""
    row = await session.first(LOOK, {"tenant": session.tenant, "id": id})
    if row is None:
        return None, frozenset()
    return from_row(dict(row._mapping)), frozenset(row.switched_off)


async def switches(session: ReadSession) -> dict[str, Switch]:
    return {row.provider: Switch(row.off_at, row.reason, row.changed_at) for row in await session.rows(SWITCHES)}


async def usage(session: ReadSession) -> dict[str, dict[str, Any]]:
    """What the tenant used of each provider in the last 30 days."""
    rows = await session.rows(USE, {"tenant": session.tenant})
    return {
        row.provider: {
            "calls": row.calls,
            "failed": row.failed,
            "tokens_in": row.tokens_in,
            "tokens_out": row.tokens_out,
            "cost_usd": float(row.cost_usd),
        }
        for row in rows
    }
