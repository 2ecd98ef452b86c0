"""Copies of a mission are missions: their chains verify, their rows hold together, and every wall stands again afterwards."""

from uuid import UUID

from app import ledger
from app.ledger.verify import chains
from bench.multiply import Sample, multiply
from tests.world import World
from tests.world.checks import inspector

ASK = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?", "labels": {"a": "b"}}
GUARDS = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"


async def test_copies_are_whole(world: World) -> None:
    own = (await world.submitter.post("/v1/missions", json=ASK)).json()["id"]
    database = await inspector(world)
    guards = await database.fetch(GUARDS)
    await multiply(world.url("admin"), [Sample(own, 12)])
    assert await database.fetch(GUARDS) == guards
    page = (await world.submitter.get("/v1/missions?label=a:b")).json()["items"]
    assert len({one["id"] for one in page}) == 13 and page[0]["id"] == own, "copies are older"
    assert [one["created_at"] for one in page] == sorted((one["created_at"] for one in page), reverse=True)
    copy = page[5]["id"]
    facts = (await world.submitter.get(f"/v1/missions/{copy}/events")).json()["items"]
    assert [one["type"] for one in facts] == ["mission.accepted"]
    assert (await world.submitter.get(f"/v1/missions/{copy}/artifacts")).json()["items"]
    tenant = await world.tenant()
    verdict = await chains(ledger.inside_of(world.worker.database, UUID(str(tenant))), UUID(str(tenant)))
    assert verdict.verified and verdict.subjects >= 13
