"""How the service is, and how the desk does."""

from fastapi import Response

from app.console.inside import Refused
from app.console.pages.base import Visit
from app.console.words import usd


async def shown(visit: Visit) -> Response:
    status, desk, limits, usage = await visit.gather(
        visit.inside.get("/v1/status"),
        visit.inside.get("/v1/desk"),
        visit.inside.try_get("/v1/budgets"),
        visit.inside.try_get("/v1/budgets/usage", days=14, limit=1),
    )
    accounts = []
    if not isinstance(limits, Refused) and not isinstance(usage, Refused):
        accounts = budgets(limits, usage)
    return visit.page("health.html", "health", service=status, desk=desk, accounts=accounts)


def budgets(limits: dict[str, float | None], usage: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """What is used and held of each limit that is set; of those that are not, what was used."""
    found = []
    for scope, name in (("day", "today"), ("total", "total")):
        for unit, told in (("tokens", "{:,.0f} tokens"), ("cost_usd", None), ("time_ms", "{:,.0f} ms")):
            limit, account = limits[f"{scope}_{unit}"], usage[name][unit]
            used, held = float(account["used"]), float(account["reserved"])
            say = usd if told is None else told.format
            title = f"{'Today' if scope == 'day' else 'In all'}: {say(used)} used, {say(held)} held"
            title += f", of {say(float(limit))}" if limit is not None else ", no limit is set"
            if limit is not None or used or held:
                found.append(
                    {"used": used, "held": held, "limit": float(limit) if limit is not None else 0.0, "says": title}
                )
    return found
