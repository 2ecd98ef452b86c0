"""Reading how long things are kept, and what holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text

from app.artifacts import removed
from app.clock import iso
from app.db import ReadSession
from app.listing import Place

CLASSES = ("public", "internal", "confidential", "restricted", "unread")
COLUMNS = ", ".join(f"{name}_days" for name in CLASSES)
NEWEST = text(f"""SELECT version, {COLUMNS}, set_by, set_at FROM retention_schedule
  WHERE tenant = :tenant ORDER BY version DESC LIMIT 1""")  # noqa: S608
HISTORY = text(f"""SELECT version, {COLUMNS}, set_by, set_at FROM retention_schedule
  WHERE tenant = :tenant AND (CAST(:before AS int) IS NULL OR version < :before) ORDER BY version DESC LIMIT :limit""")  # noqa: S608
DAYS = text("""SELECT c AS name, retention_days(:tenant, c) AS counted, shipped_retention(c) AS shipped
  FROM unnest(CAST(:classes AS text[])) c""")
HOLD = (
    """name, scope, mission, label_name, label_value, reason, placed_by, placed_at, lift_reason, lifted_by, lifted_at"""
)
ONE_HOLD = text(f"SELECT {HOLD} FROM legal_hold WHERE tenant = :tenant AND name = :name")  # noqa: S608
HOLDS = text(f"""SELECT {HOLD} FROM legal_hold
  WHERE tenant = :tenant AND name > :after AND (CAST(:standing AS boolean) IS NULL OR (lifted_at IS NULL) = :standing)
  ORDER BY name LIMIT :limit""")  # noqa: S608
OF_MISSION = text("""SELECT m.sensitivity_class, retention_days(m.tenant, m.sensitivity_class) AS days, m.closed_at,
    m.closed_at + make_interval(days => retention_days(m.tenant, m.sensitivity_class)) AS over_at,
    m.bytes_removed_at, holds_on(m.tenant, m.id) AS holds
  FROM mission m WHERE m.tenant = :tenant AND m.id = :mission""")


class RetentionView(BaseModel):
    """How long a mission's bytes are kept. days null: for good. over_at is known once it has closed; holds keep them longer."""

    sensitivity_class: str
    days: int | None
    over_at: str | None
    holds: list[str]
    removed_at: str | None
    note: str | None


@dataclass(frozen=True)
class Hold:
    """A legal hold, standing or lifted."""

    name: str
    scope: str
    mission: UUID | None
    label_name: str | None
    label_value: str | None
    reason: str
    placed_by: UUID
    placed_at: datetime
    lift_reason: str | None
    lifted_by: UUID | None
    lifted_at: datetime | None


async def of_mission(session: ReadSession, mission: UUID) -> dict[str, Any]:
    """RetentionView of an existing mission."""
    row = await session.first(OF_MISSION, {"tenant": session.tenant, "mission": mission})
    assert row is not None
    return {
        "sensitivity_class": row.sensitivity_class,
        "days": row.days,
        "over_at": iso(row.over_at) if row.over_at else None,
        "holds": list(row.holds),
        "removed_at": iso(row.bytes_removed_at) if row.bytes_removed_at else None,
        "note": phrase(row.bytes_removed_at),
    }


def phrase(at: datetime | None) -> str | None:
    """What stands where removed bytes stood."""
    return None if at is None else f"What this mission has said was {removed(at)}."


async def schedule(session: ReadSession) -> dict[str, Any]:
    """The times that were set last (version 0: those that are shipped), and those that count now."""
    row = await session.first(NEWEST, {"tenant": session.tenant})
    days = await session.rows(DAYS, {"tenant": session.tenant, "classes": list(CLASSES)})
    shipped = {f"{one.name}_days": one.shipped for one in days}
    said = view(row) if row else {"version": 0, **shipped, "set_by": None, "set_at": None}
    return said | {"counted": {f"{one.name}_days": one.counted for one in days}}


async def history(session: ReadSession, after: Place, limit: int) -> Sequence[Any]:
    """Every version that was set, newest first."""
    before = after[0] if after else None
    return await session.rows(HISTORY, {"tenant": session.tenant, "before": before, "limit": limit})


def view(row: Any) -> dict[str, Any]:
    said = dict(row._mapping)
    return said | {"set_at": iso(said["set_at"])}


async def hold(session: ReadSession, name: str) -> Hold | None:
    row = await session.first(ONE_HOLD, {"tenant": session.tenant, "name": name})
    return Hold(**row._mapping) if row else None


async def holds(session: ReadSession, standing: bool | None, after: Place, limit: int) -> list[Hold]:
    """By name; standing ones, lifted ones, or all."""
    [name] = after or [""]
    asked = {"tenant": session.tenant, "after": name, "standing": standing, "limit": limit}
    return [Hold(**row._mapping) for row in await session.rows(HOLDS, asked)]
