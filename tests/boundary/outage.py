"""What is said of a mission that waits for a colony, wherever it is said."""

from datetime import datetime

from app.clock import now
from tests.world.checks import inspector
from tests.world.life import Life, due


async def origins(life: Life) -> list[str]:
    """Where the bytes came from that are kept of a mission; there is a fact for each."""
    found = [origin for origin, _ in await life.quarantined()]
    assert [body["origin"] for _, body in await life.facts("payload.quarantined")] == found
    return found


async def says(life: Life, code: str) -> None:
    """Checks that a mission says why it waits, where people see it and in the ledger."""
    degraded = (await life.world.mission(life.id))["degraded"]
    assert set(degraded) == {"code", "effect", "since"} and degraded["code"] == code
    assert degraded["effect"].endswith(".") and datetime.fromisoformat(degraded["since"]) <= now()
    assert [body for _, body in await life.facts("mission.degraded")] == [{"code": code}], "once, not at every attempt"


async def waits(life: Life, code: str) -> None:
    """Checks that a mission that was offered waits for a colony."""
    shown = await life.world.mission(life.id)
    assert (shown["state"], shown["attempt"]) == ("accepted", 1), code
    await says(life, code)


async def retry_in_s(life: Life) -> float:
    return float(
        await (await inspector(life.world)).fetchval(
            "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM work WHERE kind = 'dispatch' AND subject = $1",
            life.id,
        )
    )


async def again(life: Life) -> None:
    await due(life.world, "dispatch", life.id)
    await life.take()
