"""Facts as JSON: pages, cursors that always go on, and polls that wait."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

from tests.delivery.streams import SSE, Writer, in_reading_order
from tests.world import World
from tests.world.checks import inspector, problem


async def test_a_missions_facts_come_in_order(world: World) -> None:
    dispatch = await world.dispatch()
    await world.colony.complete(dispatch)
    await world.run_work()
    page = (await world.submitter.get(f"/v1/missions/{dispatch.mission_id}/events")).json()
    stored = await world.facts(dispatch.mission_id)
    assert [(one["seq"], one["type"], one["actor"]) for one in page["items"]] == [
        (fact["seq"], fact["type"], fact["actor"]) for fact in stored
    ]
    assert [one["seq"] for one in page["items"]] == list(range(1, len(stored) + 1))
    assert page["items"][-1]["type"] == "mission.completed"
    assert all(one["subject"] == str(dispatch.mission_id) for one in page["items"])
    assert page["has_more"] is False and page["next_cursor"]


async def test_pages_follow_one_another_and_the_last_cursor_goes_on(world: World) -> None:
    for _ in range(5):
        await world.create()
    expected = await in_reading_order(world, await world.tenant())
    for path in ("/v1/events", "/v1/ledger"):
        for limit in (1, 3, 7, 200):
            seen: list[tuple[str, str]] = []
            answer = await world.submitter.get(path, params={"limit": limit})
            while True:
                page = answer.json()
                seen += [(one["id"], one["subject"]) for one in page["items"]]
                assert page["has_more"] == ("link" in answer.headers)
                if not page["has_more"]:
                    break
                assert len(page["items"]) == limit
                answer = await world.submitter.get(answer.links["next"]["url"])
            assert seen == expected, (path, limit)
            assert (await world.submitter.get(path, params={"cursor": page["next_cursor"]})).json()["items"] == []
    made = await world.create()
    later = (await world.submitter.get("/v1/events", params={"cursor": page["next_cursor"]})).json()
    assert [one["subject"] for one in later["items"]] == [made["id"]]


async def test_the_ledger_of_one_subject(world: World) -> None:
    made, _ = await world.create(), await world.create()
    await world.run_work("dispatch")
    page = (await world.auditor.get("/v1/ledger", params={"subject": made["id"]})).json()
    assert [one["seq"] for one in page["items"]] == [1, 2]
    verdict = (await world.auditor.post("/v1/ledger/verify")).json()
    assert (verdict["verified"], verdict["first_bad"]) == (True, None)
    assert verdict["facts"] == len(await in_reading_order(world, await world.tenant()))


async def test_a_poll_waits_and_wakes(world: World) -> None:
    writer = Writer(world.root.database, await world.tenant())
    mission = UUID((await world.create())["id"])
    for path, subject in ((f"/v1/missions/{mission}/events", mission), ("/v1/events", uuid4())):
        cursor = (await world.submitter.get(path)).json()["next_cursor"]
        began = time.monotonic()
        nothing = (await world.submitter.get(path, params={"cursor": cursor, "wait": 1})).json()
        assert nothing == {"items": [], "next_cursor": cursor, "has_more": False}
        assert time.monotonic() - began >= 0.9
        poll = asyncio.create_task(world.submitter.get(path, params={"cursor": cursor, "wait": 30}))
        while not world.root.tail.wanted:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await writer.write(subject)
        [fact] = (await poll).json()["items"]
        assert (fact["subject"], fact["type"]) == (str(subject), "test.happened")
        assert time.monotonic() - began < 5


async def test_a_poll_does_not_wait_for_what_is_there(world: World) -> None:
    mission = (await world.create())["id"]
    began = time.monotonic()
    assert len((await world.submitter.get(f"/v1/missions/{mission}/events?wait=30")).json()["items"]) == 1
    assert time.monotonic() - began < 5


async def test_polls_hold_no_connection(world: World) -> None:
    """More polls than the pool has connections wait at once, and everybody else is served."""
    cursor = (await world.submitter.get("/v1/events")).json()["next_cursor"]
    polls = [
        asyncio.create_task(world.submitter.get("/v1/events", params={"cursor": cursor, "wait": 30}))
        for _ in range(world.root.settings.database_pool_size * 3)
    ]
    while sum(map(len, world.root.tail.wanted.values())) < len(polls):
        await asyncio.sleep(0.01)
    made = await world.create()
    for poll in polls:
        assert (await poll).json()["items"][0]["subject"] == made["id"]


async def test_a_mission_without_facts_is_none(world: World) -> None:
    for headers in ({}, SSE):
        problem(await world.submitter.get(f"/v1/missions/{uuid4()}/events", headers=headers), "not_found")
    for bad in ("61", "-1", "x"):
        problem(await world.submitter.get("/v1/events", params={"wait": bad}), "validation")


async def test_what_is_not_committed_is_not_shown_and_not_skipped(world: World) -> None:
    """An open transaction holds back what came after it began; nothing written meanwhile is lost when it ends."""
    tenant = await world.tenant()
    writer, slow = Writer(world.root.database, tenant), await world.connect("api")
    first, second, third = uuid4(), uuid4(), uuid4()
    seen: list[str] = []
    cursor: str | None = None

    async def look() -> None:
        nonlocal cursor
        page = (await world.submitter.get("/v1/events", params={"cursor": cursor} if cursor else {})).json()
        cursor = page["next_cursor"]
        seen.extend(one["id"] for one in page["items"])

    await look()
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
    insert = (
        "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'test.happened', 'system:api', '{}')"
    )
    await slow.execute(insert, tenant, first)
    await writer.write(second)
    await look()
    await writer.write(second)
    await look()
    await slow.execute(insert, tenant, third)
    await transaction.commit()
    await writer.write(third)
    await look()
    assert seen == [place for place, _ in await in_reading_order(world, tenant)]


async def test_places_are_numbers_not_texts(world: World) -> None:
    """9 comes before 10: facts written when the transaction counter gains a digit are neither lost nor swapped."""
    tenant, connection = await world.tenant(), await inspector(world)
    await connection.execute("ALTER TABLE ledger DISABLE TRIGGER ledger_chain")
    places = [(9, 9), (9, 10), (10, 8), (99, 7), (100, 6), (101, 5)]
    for seq, (xid, id) in enumerate(places, 1):
        await connection.execute(
            """INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
               VALUES ($1, $2::text::xid8, $3, $4, $5, 'test.happened', 'system:test', now(), '{}', '', sha256(''))""",
            tenant, str(xid), id, UUID(int=1), seq,
        )  # fmt: skip
    for limit in (1, 2, 4, 200):
        for path in ("/v1/events", "/v1/ledger", f"/v1/missions/{UUID(int=1)}/events"):
            seen: list[str] = []
            page: dict[str, Any] = {"next_cursor": None}
            while len(seen) < len(places):
                cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
                page = (await world.submitter.get(path, params={"limit": limit, **cursor})).json()
                assert page["items"], (path, limit, seen)
                seen += [one["id"] for one in page["items"]]
            assert seen[: len(places)] == [f"{xid}-{id}" for xid, id in places], (path, limit)
