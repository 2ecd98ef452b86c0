"""Reading limits and use."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from app.clock import iso, now
from app.db import ReadSession

LIMITS = ("day_tokens", "day_cost_usd", "day_time_ms", "total_tokens", "total_cost_usd", "total_time_ms")
RATES = ("rate_key_per_s", "rate_principal_per_s", "rate_tenant_per_s")
NEWEST = text("SELECT * FROM budget_limit WHERE tenant = :tenant ORDER BY version DESC LIMIT 1")
ACCOUNTS = text("""SELECT * FROM budget_account WHERE tenant = :tenant AND scope = :scope AND key >= :from ORDER BY key DESC
                   LIMIT :limit""")
MISSIONS = text("""SELECT * FROM budget_account WHERE tenant = :tenant AND scope = 'mission' ORDER BY opened_at DESC, key
                   LIMIT :limit""")


async def limits(session: ReadSession) -> dict[str, Any]:
    """The limits in force; version 0 and nulls when none were ever set."""
    row = await session.first(NEWEST, {"tenant": session.tenant})
    found: dict[str, Any] = {"version": 0, **dict.fromkeys(LIMITS + RATES), "set_by": None, "set_at": None}
    if row is not None:
        found |= {name: number(getattr(row, name)) for name in LIMITS + RATES}
        found |= {"version": row.version, "set_by": row.set_by, "set_at": iso(row.set_at)}
    return found


async def accounts(session: ReadSession, scope: str, since: str, limit: int) -> Sequence[Any]:
    return await session.rows(ACCOUNTS, {"tenant": session.tenant, "scope": scope, "from": since, "limit": limit})


async def mission_accounts(session: ReadSession, limit: int) -> Sequence[Any]:
    return await session.rows(MISSIONS, {"tenant": session.tenant, "limit": limit})


def today() -> str:
    return now().date().isoformat()


def number(value: Any) -> Any:
    return float(value) if value is not None and not isinstance(value, int) else value


def use(row: Any | None, limit: dict[str, Any] | None = None) -> dict[str, Any]:
    """An account as the API shows it. What was reported beyond the limit counts as used. limit wins over the row's own."""
    shown: dict[str, Any] = {}
    for name in ("tokens", "cost_usd", "time_ms"):
        used = reserved = 0
        most = limit[name] if limit else None
        if row is not None:
            used = getattr(row, f"settled_{name}") + getattr(row, f"over_{name}")
            reserved = getattr(row, f"reserved_{name}")
            most = most if limit else getattr(row, f"limit_{name}")
        left = None if most is None else max(0, float(most) - float(used) - float(reserved))
        shown[name] = {
            "used": number(used),
            "reserved": number(reserved),
            "limit": number(most),
            "left": left if left is None or name == "cost_usd" else int(left),
        }
    return shown | {"calls": row.calls if row else 0, "calls_ms": row.calls_ms if row else 0}
