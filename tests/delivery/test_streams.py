"""Server-sent events over a real socket: replay, then live, without a gap or a repeat, whatever happens."""

import asyncio
import json
import random
import time
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.caller import Caller
from app.clock import now
from app.db import Database
from app.delivery import api, rights, tail
from app.ledger import Fact, Position, fact_view
from app.main import Root
from app.nudge import wait
from tests.delivery.streams import SSE, Stream, Writer, client, in_reading_order, serving, stream
from tests.world import World
from tests.world.checks import hire, inspector, problem


async def test_a_stream_replays_then_lives(world: World) -> None:
    made = await world.create()
    path = f"/v1/missions/{made['id']}/events"
    async with serving(world) as base, client(base, world.people["auditor"].key) as http:
        async with stream(http, path) as events:
            first = await events.next()
            assert first and first["type"] == "mission.accepted"
            await world.run_work("dispatch")
            second = await events.next()
            assert second and (second["type"], second["seq"]) == ("mission.dispatched", 2)
        async with stream(http, path, last=first["id"]) as events:
            assert await events.next() == second
        page = (await http.get(path)).json()["items"]
        assert page == [first, second]


async def test_bad_places_to_resume_from(world: World) -> None:
    await world.create()
    for last in ("x", "1-", "", "-", "1-1-1", "99999999999999999999999-1"):
        problem(await world.submitter.get("/v1/events", headers={**SSE, "Last-Event-ID": last}), "validation")
    problem(await world.submitter.get("/v1/events?cursor=x", headers=SSE), "validation")
    problem(await world.anybody.get("/v1/events", headers=SSE), "unauthenticated")


async def test_nothing_is_missed_or_repeated(world: World) -> None:
    """Six writers in two tenants against readers that hang up and come back where they were, at random."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ours = await world.tenant()
    stranger = await world.another_tenant()
    theirs = await (await inspector(world)).fetchval("SELECT id FROM tenant WHERE name = 'other'")
    subjects, foreign = [uuid4() for _ in range(5)], [uuid4()]
    database = Database(world.url("api"), pool_size=7)
    database.on_commit = world.root.nudger.send
    writers = [Writer(database, ours) for _ in range(5)] + [Writer(database, theirs)]
    for writer, known in ((writers[0], subjects), (writers[-1], foreign)):
        await writer.write(*known)
    paths = ["/v1/events"] * 4 + [f"/v1/missions/{subject}/events" for subject in subjects[:3]]
    last: dict[str, str] = {}  # by path and tenant, once the writers are done: the fact after which a reader may stop

    async def follow(http: httpx.AsyncClient, path: str, whose: str, dice: random.Random) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        while not seen or last.get(whose + path) != seen[-1]["id"]:
            async with stream(http, path, seen[-1]["id"] if seen else None) as events:
                for _ in range(dice.randint(1, 60)):
                    if seen and last.get(whose + path) == seen[-1]["id"]:
                        break
                    try:
                        fact = await events.next(0.3)
                    except TimeoutError:
                        break
                    assert fact is not None, "the server ended the stream"
                    seen.append(fact)
        return seen

    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(serving(world))
        http = await stack.enter_async_context(client(base, world.people["auditor"].key))
        other = await stack.enter_async_context(client(base, stranger.key))
        readers = [asyncio.create_task(follow(http, path, "ours", random.Random(dice.random()))) for path in paths]
        readers.append(asyncio.create_task(follow(other, "/v1/events", "theirs", random.Random(dice.random()))))
        kinds = [foreign * 2 if writer is writers[-1] else subjects for writer in writers]
        every = zip(writers, kinds, strict=True)
        await asyncio.gather(*(one.keep_writing(known, 45, random.Random(dice.random())) for one, known in every))
        mine, alien = await in_reading_order(world, ours), await in_reading_order(world, theirs)
        last |= {
            f"ours{path}": [place for place, subject in mine if path == "/v1/events" or subject in path][-1]
            for path in paths
        }
        last["theirs/v1/events"] = alien[-1][0]
        async with asyncio.timeout(20):
            seen = await asyncio.gather(*readers)
    await database.close()
    assert len(mine) > 250, f"seed {seed}"
    for path, facts in zip(paths, seen, strict=False):
        got = [(fact["id"], fact["subject"]) for fact in facts]
        wanted = [one for one in mine if path == "/v1/events" or one[1] in path]
        assert got == wanted, f"seed {seed}: {path}"
        for subject in {fact["subject"] for fact in facts}:
            numbers = [fact["seq"] for fact in facts if fact["subject"] == subject]
            assert numbers == list(range(1, len(numbers) + 1)), f"seed {seed}: {path}"
    assert [(fact["id"], fact["subject"]) for fact in seen[-1]] == alien, f"seed {seed}"


async def test_a_held_transaction_loses_nothing(world: World) -> None:
    tenant = await world.tenant()
    writer, slow = Writer(world.root.database, tenant), await world.connect("api")
    subject = uuid4()
    await writer.write(subject)
    async with serving(world) as base, client(base, world.people["auditor"].key) as http:
        async with stream(http, "/v1/events") as events:
            seen = [await events.next() for _ in await in_reading_order(world, tenant)]
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
            await slow.execute(
                "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'test.held', 'system:api', '{}')",
                tenant,
                uuid4(),
            )
            for _ in range(5):
                await writer.write(subject)
            with pytest.raises(TimeoutError):
                await events.next(0.3)
            await transaction.commit()
            # whoever times out inside a line iterator loses it: come back as a client would
        async with stream(http, "/v1/events", seen[-1]["id"] if seen[-1] else None) as events:
            seen += [await events.next() for _ in range(6)]
    assert [fact and fact["id"] for fact in seen] == [place for place, _ in await in_reading_order(world, tenant)]
    assert sum(fact is not None and fact["type"] == "test.held" for fact in seen) == 1


async def test_a_body_of_several_lines_is_one_event(world: World) -> None:
    """JSON may hold line breaks between its words: who can write a fact past us must not end our event, and begin another, with them."""
    tenant, slow = await world.tenant(), await world.connect("api")
    lines = b'{"a": 1,\r\n\r\n"b"\n:2}'
    async with serving(world) as base, client(base, world.people["auditor"].key) as http:
        for live in (False, True):
            subject = uuid4()
            await Writer(world.root.database, tenant).write(subject)
            path = f"/v1/missions/{subject}/events"
            async with AsyncExitStack() as stack:
                if live:
                    events = await stack.enter_async_context(stream(http, path))
                    first = await events.next()
                async with slow.transaction():
                    await slow.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
                    statement = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, 'test.lines', 'system:api', $3)"
                    await slow.execute(statement, tenant, subject, lines)
                await Writer(world.root.database, tenant).write(subject)
                if not live:
                    events = await stack.enter_async_context(stream(http, path))
                    first = await events.next()
                assert [first, await events.next(), await events.next()] == (await http.get(path)).json()["items"]


@given(st.lists(st.integers(1, 40), unique=True, min_size=1), st.integers(0, 41))
def test_a_piece_is_cut_where_the_stream_is(places: list[int], seen: int) -> None:
    facts = [
        Fact(uuid4(), Position(7, place), uuid4(), 1, "test.happened", "system:api", now(), '{"a":"é\u2028"}'.encode())
        for place in sorted(places)
    ]
    whole = list(tail.pieces(facts))
    said = b"".join(piece.after(Position(7, seen)) for piece in whole if piece.end > Position(7, seen))
    assert said == b"".join(tail.event_of(fact) for fact in facts if fact.position.id > seen)
    for fact in facts:
        assert json.loads(fact.text) == fact_view(fact)
        assert len(fact.text.splitlines()) == 1  # as many readers of streams cut lines


async def test_a_slow_reader_catches_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may waits for it; it reads the rest from the database, in order and once, and others never wait."""
    monkeypatch.setattr(tail, "MOST_WAITING", 1500)  # five such events
    monkeypatch.setattr(api, "READ_AT_ONCE", 7)
    monkeypatch.setattr(api, "READ_ON", 11)
    writer = Writer(world.root.database, await world.tenant())
    subject = uuid4()
    await writer.write(subject)
    gate = asyncio.Event()
    gate.set()

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: Any) -> None:
            if b"slow=1" in scope["query_string"]:
                await gate.wait()
            await send(message)

        await world.public(scope, receive, slowly)

    async with serving(world, gated) as base, client(base, world.people["auditor"].key) as http:
        path = f"/v1/missions/{subject}/events"
        async with stream(http, f"{path}?slow=1") as slow, stream(http, path) as quick:
            assert (await slow.next(), await quick.next()) != (None, None)
            for round in range(3):
                gate.clear()
                for _ in range(30):
                    await writer.write(subject)
                    fact = await quick.next()
                    assert fact is not None
                subscriptions = [one for group in world.root.tail.wanted.values() for one in group]
                assert any(one.overflowed for one in subscriptions)
                gate.set()
                facts = [await slow.next() for _ in range(30)]
                assert [fact and fact["seq"] for fact in facts] == [2 + round * 30 + n for n in range(30)]


REVOKE = {
    "the key is revoked": "UPDATE api_key SET revoked_at = now() WHERE principal = $1",
    "the key expires": "UPDATE api_key SET expires_at = now() WHERE principal = $1",
    "the role is revoked": "UPDATE role_grant SET revoked_at = now() WHERE principal = $1",
    "the principal is suspended": "UPDATE principal SET suspended_at = now() WHERE id = $1",
    "the tenant is suspended": "UPDATE tenant SET suspended_at = now() FROM principal p WHERE p.tenant = tenant.id AND p.id = $1",
}


@pytest.mark.parametrize("statement", REVOKE.values(), ids=REVOKE)
async def test_a_stream_ends_with_the_right_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(api, "RECHECK_S", 0.1)
    watcher = await hire(world, "watcher", "auditor")
    connection = await inspector(world)
    principal = await connection.fetchval("SELECT id FROM principal WHERE name = 'watcher'")
    writer, stop = Writer(world.root.database, await world.tenant()), asyncio.Event()

    async def keep_busy() -> None:  # a busy stream has no quiet moment to notice in
        while not stop.is_set():
            await writer.write(uuid4())
            await asyncio.sleep(0.02)

    busy = asyncio.create_task(keep_busy())
    try:
        async with serving(world) as base, client(base, watcher.key) as http, stream(http, "/v1/events") as events:
            assert await events.next() is not None
            await connection.execute(statement, principal)
            revoked = time.monotonic()
            while await events.next() is not None:
                assert time.monotonic() - revoked < 5
            answer = await http.get("/v1/events", headers=SSE)
            assert answer.status_code == (403 if "role_grant" in statement else 401)
    finally:
        stop.set()
        await busy


async def test_a_stream_that_has_far_to_go_ends_with_the_right_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is still reading what was, and its reader takes its time."""
    monkeypatch.setattr(api, "RECHECK_S", 0.0)
    monkeypatch.setattr(api, "READ_AT_ONCE", 2)
    monkeypatch.setattr(api, "READ_ON", 2)
    monkeypatch.setattr(rights, "SHARED_S", 0.0)
    watcher = await hire(world, "watcher", "auditor")
    connection, writer, subject = await inspector(world), Writer(world.root.database, await world.tenant()), uuid4()
    for _ in range(20):
        await writer.write(subject)
    gate, sent = asyncio.Semaphore(3), 0  # the head, the first line, the first page

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: Any) -> None:
            nonlocal sent
            if scope["path"].endswith("/events"):
                await gate.acquire()
                sent += 1
            await send(message)

        await world.public(scope, receive, slowly)

    path = f"/v1/missions/{subject}/events"
    async with serving(world, gated) as base, client(base, watcher.key) as http, stream(http, path) as events:
        assert [(await events.next() or {})["seq"] for _ in range(2)] == [1, 2]
        principal = await connection.fetchval("SELECT id FROM principal WHERE name = 'watcher'")
        await connection.execute(REVOKE["the key is revoked"], principal)
        for _ in range(20):
            gate.release()
        seen = 2
        while await events.next() is not None:
            seen += 1
    assert seen <= 4  # the page that was waiting to be written


async def test_streams_of_one_credential_are_looked_at_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that hangs up in the middle of a look takes the answer from no other."""
    monkeypatch.setattr(api, "RECHECK_S", 0.05)
    monkeypatch.setattr(rights, "SHARED_S", 60)
    looks: list[str] = []
    look, gate = world.root.rights.look, asyncio.Event()

    async def counted(caller: Caller) -> bool:
        looks.append(caller.name)
        await gate.wait()
        return await look(caller)

    monkeypatch.setattr(world.root.rights, "look", counted)
    watcher = await hire(world, "watcher", "auditor")
    connection, path = await inspector(world), f"/v1/missions/{(await world.create())['id']}/events"
    async with (
        serving(world) as base,
        client(base, watcher.key) as http,
        client(base, world.people["auditor"].key) as other,
        AsyncExitStack() as stack,
    ):
        async with stream(http, path) as first:
            await first.next()
            opened = [await stack.enter_async_context(stream(http, path)) for _ in range(12)]
            opened.append(await stack.enter_async_context(stream(other, path)))
            for one in opened:
                await one.next()
            while len(looks) < 2:
                await asyncio.sleep(0.01)
        await connection.execute(
            REVOKE["the key is revoked"],
            await connection.fetchval("SELECT id FROM principal WHERE name = 'watcher'"),
        )
        gate.set()
        async with asyncio.timeout(5):
            assert [await one.next() for one in opened[:-1]] == [None] * 12
        with pytest.raises(TimeoutError):
            await opened[-1].next(0.2)
    assert looks.count("watcher") == 1


async def test_a_quiet_stream_is_kept_open_and_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RECHECK_S", 0.05)
    monkeypatch.setattr(api, "KEEP_ALIVE_S", 0.1)
    path = f"/v1/missions/{(await world.create())['id']}/events"
    async with serving(world) as base, client(base, world.people["auditor"].key) as http, stream(http, path) as events:
        await events.next()
        ended = asyncio.create_task(events.next())
        while len(events.comments) < 2:
            await asyncio.sleep(0.02)
        await world.root.tail.stop()  # what a process does first when it is told to stop
        assert await ended is None
    assert world.root.tail.wanted == {}


async def test_no_stream_begins_in_a_process_that_stops(world: World) -> None:
    await world.root.tail.stop()
    problem(await world.auditor.get("/v1/events", headers=SSE), "draining")
    cursor = (await world.auditor.get("/v1/events")).json()["next_cursor"]
    problem(await world.auditor.get("/v1/events", params={"cursor": cursor, "wait": 5}), "draining")


async def test_a_stream_ends_when_the_database_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends, instead of failing with a traceback: the client comes back where it was and nothing is missing."""
    monkeypatch.setattr(api, "RECHECK_S", 0.1)
    mission = (await world.create())["id"]
    path, connection = f"/v1/missions/{mission}/events", await inspector(world)
    async with serving(world) as base, client(base, world.people["auditor"].key) as http:
        async with stream(http, path) as events:
            first = await events.next()
            assert first
            for _ in range(50):  # until the stream meets a connection that is gone
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'mission-root api'"
                )
                try:
                    assert await events.next(0.2) is None
                    break
                except TimeoutError:
                    continue
            else:
                pytest.fail("the stream never noticed")
        await world.run_work("dispatch")
        async with stream(http, path, first["id"]) as events:
            second = await events.next()
            assert second and second["type"] == "mission.dispatched"


async def test_streams_hold_no_connection(world: World) -> None:
    async with serving(world) as base, client(base, world.people["auditor"].key) as http:
        opened: list[Stream] = []
        async with AsyncExitStack() as stack:
            for _ in range(world.root.settings.database_pool_size * 3):
                opened.append(await stack.enter_async_context(stream(http, "/v1/events")))
                assert await opened[-1].next() is not None
            made = await world.create()
            last = opened[-1]
            while (fact := await last.next()) is not None and fact["subject"] != made["id"]:
                pass
            assert fact is not None


async def test_another_process_wakes_the_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling is off here: only the other process's NOTIFY can bring the fact."""
    monkeypatch.setattr(tail, "IDLE_S", 3600)
    other = Root(world.settings())
    await other.open()
    subject = uuid4()
    await Writer(world.root.database, await world.tenant()).write(subject)
    try:
        key, path = world.people["auditor"].key, f"/v1/missions/{subject}/events"
        async with serving(world) as base, client(base, key) as http, stream(http, path) as events:
            assert await events.next() is not None
            while not (other.nudger.connected and world.root.nudger.connected):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # let the tail go to sleep
            await Writer(other.database, await world.tenant()).write(subject)
            fact = await events.next(5)
            assert fact and fact["seq"] == 2
    finally:
        await other.close()


async def test_without_any_nudge_polling_finds_it(world: World) -> None:
    subject = uuid4()
    await Writer(world.root.database, await world.tenant()).write(subject)
    silent = Database(world.url("api"), pool_size=2)
    key, path = world.people["auditor"].key, f"/v1/missions/{subject}/events"
    async with serving(world) as base, client(base, key) as http, stream(http, path) as events:
        assert await events.next() is not None
        await Writer(silent, await world.tenant()).write(subject)
        fact = await events.next(5)
        assert fact and fact["seq"] == 2
    await silent.close()


async def test_a_lost_listener_connection_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.nudge.RECONNECT_S", 0.05)
    while not world.root.nudger.connected:
        await asyncio.sleep(0.01)
    connection = await inspector(world)
    killed = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'mission-root nudger' AND usename = 'mission_root_api' AND datname = current_database()"
    )
    assert killed == 1, "the registrar and the worker have nudgers of their own"
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        while not world.root.nudger.connected:
            await asyncio.sleep(0.01)
    with world.root.nudger.listening("facts") as woken:
        woken.clear()
        await connection.execute("NOTIFY facts")
        async with asyncio.timeout(5):
            await woken.wait()


@pytest.mark.parametrize("ticks", range(5))
async def test_a_waiter_that_is_cancelled_stops(ticks: int) -> None:
    """Even when the event it waits for comes in the same moment (asyncio.wait_for of Python 3.11 loses such a cancel)."""
    event = asyncio.Event()

    async def wait_for_ever() -> None:
        while True:
            await wait(event, 60)

    task = asyncio.create_task(wait_for_ever())
    await asyncio.sleep(0.01)
    event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1)
    task.cancel()
    assert done
