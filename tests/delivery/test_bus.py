"""The ledger on NATS JetStream, against the real server: every fact once by id and in order, whoever dies in between."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from app.db import Database
from app.delivery import bus
from app.delivery.bus import cursor, publisher
from app.delivery.bus.publisher import Publisher
from app.delivery.bus.stream import Message, Place, StartOver, Unreachable, opened
from app.embedded import ends_with_parent, free_port
from app.ledger import Position
from app.nudge import Nudger
from app.settings import Misconfigured
from app.telemetry import BUS_LAG
from app.worker import Worker
from tests.delivery.nats import (
    STREAM,
    Consumer,
    NatsServer,
    certified,
    consuming,
    jetstream,
    nats_server,
    operated,
    stored,
    stream_is_there,
)
from tests.delivery.streams import Writer, client, serving, stream
from tests.world import World
from tests.world.world import COLONY_KEY, SIGNING_KEY

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits here waits for an event; what is left to time is short."""
    monkeypatch.setattr(publisher, "PAUSE_S", 0.05)
    monkeypatch.setattr(publisher, "LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(publisher, "STANDBY_S", 0.05)
    monkeypatch.setattr(publisher, "BEAT_S", 0.2)


def place(server: NatsServer, **more: Any) -> Place:
    return Place(
        **({"urls": [server.url], "credentials": None, "stream": STREAM, "replicas": 1, "max_age_s": 3600} | more)
    )


@asynccontextmanager
async def publishing(world: World, where: Place) -> AsyncIterator[Publisher]:
    """A publisher as a worker runs it, over connections of its own."""
    nudger = Nudger(world.url("worker"), ["facts"])
    nudger.start()
    database = Database(world.url("worker"), pool_size=3, wait_ms=5000)
    made = Publisher(database, Database(world.url("reader"), pool_size=1, wait_ms=5000), nudger, where)
    task = asyncio.create_task(made.run())
    try:
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close()
        await nudger.stop()
        await database.close()


async def ledger_of(world: World) -> list[tuple[str, str, int]]:
    """(id, subject on the bus, seq) of every fact of everybody, in reading order."""
    connection = await world.connect("admin")
    rows = await connection.fetch(
        "SELECT xid::text || '-' || id AS place, tenant, subject, seq FROM ledger ORDER BY xid, id"
    )
    return [(row["place"], f"{STREAM}.{row['tenant']}.{row['subject']}", row["seq"]) for row in rows]


async def row(world: World) -> Any:
    connection = await world.connect("admin")
    return await connection.fetchrow("SELECT *, after_xid::text || '-' || after_id AS place FROM bus")


async def becomes(world: World, holds: Callable[[Any], bool], seconds: float = 20) -> Any:
    """The cursor's row, once it is as wished: Postgres does not tell when a row changes."""
    connection = await world.connect("admin")
    async with asyncio.timeout(seconds):
        while True:
            found = await connection.fetchrow("SELECT *, after_xid::text || '-' || after_id AS place FROM bus")
            if holds(found):
                return found
            await asyncio.sleep(0.01)


async def all_published(world: World) -> Any:
    last = (await ledger_of(world))[-1][0]
    return await becomes(world, lambda found: found["place"] == last)


async def everything_once(world: World, consumer: Consumer) -> None:
    """Waits until every fact was consumed; then each mission's are there in the order of its chain, and nothing else is.

    So they are on the stream, too: a consumer puts right what a broken connection has mixed up, and would hide a wrong order.
    """
    facts = await ledger_of(world)
    wanted = {id for id, _, _ in facts}
    await consumer.until(lambda: wanted <= consumer.ids)
    assert consumer.ids == wanted
    for where, got in (("consumed", consumer.got), ("on the stream", await stored(consumer.server))):
        seqs: dict[str, list[int]] = {}
        for one in got:
            seqs.setdefault(one.subject, []).append(json.loads(one.payload)["seq"])
        assert len(seqs) == len({subject for _, subject, _ in facts})
        for subject, each in seqs.items():
            assert each == list(range(1, len(each) + 1)), (where, subject)


@asynccontextmanager
async def facts_coming(world: World, missions: int = 8) -> AsyncIterator[list[UUID]]:
    """Facts about some subjects from three writers at a time, for as long as the block lasts."""
    subjects = [uuid4() for _ in range(missions)]
    writer, done = Writer(world.root.database, await world.tenant()), asyncio.Event()

    async def write(dice: random.Random) -> None:
        while not done.is_set():
            await writer.write(*dice.sample(subjects, 2), hold=dice.choice([0, 0, 0.01]))
            await asyncio.sleep(0.01)  # others want the machine, too

    writers = [asyncio.create_task(write(random.Random(n))) for n in range(3)]
    try:
        yield subjects
    finally:
        done.set()
        await asyncio.gather(*writers)


async def test_a_fact_is_published_as_streams_show_it(world: World, server: NatsServer) -> None:
    stranger = await world.another_tenant()
    mission = await world.create()
    async with publishing(world, place(server)), consuming(server) as consumer:
        await everything_once(world, consumer)
        assert (await stranger.http.get("/v1/events")).json()["items"], "another tenant's are there, too"
        [accepted] = [one for one in consumer.got if b'"mission.accepted"' in one.payload]
        assert accepted.subject == f"{STREAM}.{await world.tenant()}.{mission['id']}"
        path = f"/v1/missions/{mission['id']}/events"
        async with (
            serving(world) as base,
            client(base, world.people["auditor"].key) as http,
            stream(http, path) as events,
        ):
            shown: Any = await events.next()
            while shown["type"] != "mission.accepted":
                shown = await events.next()
        assert accepted.payload == json.dumps(shown, separators=(",", ":")).encode() and accepted.id == shown["id"]
        assert accepted in await stored(server), "byte for byte"
        before = len(consumer.got)
        await world.create()
        await consumer.until(lambda: len(consumer.got) > before)
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


async def test_the_server_is_killed_in_mid_stream(world: World, server: NatsServer) -> None:
    async with publishing(world, place(server)), consuming(server) as consumer:
        async with facts_coming(world):
            for _ in range(3):
                enough = len(consumer.got) + 60
                await consumer.until(lambda enough=enough: len(consumer.got) >= enough)
                await server.kill()
                await becomes(world, lambda found: found["state"] == "down")
                await server.start()
                await becomes(world, lambda found: found["state"] == "up")
        await everything_once(world, consumer)
    facts = await ledger_of(world)
    assert [one.id for one in await stored(server)] == [id for id, _, _ in facts], "in reading order, without a repeat"
    assert (await row(world))["place"] == facts[-1][0]


async def test_the_network_is_cut_without_a_word(
    world: World, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.delivery.bus.stream.ANSWER_S", 0.5)
    monkeypatch.setattr("app.delivery.bus.stream.ASK_S", 0.5)
    async with publishing(world, place(server)), consuming(server) as consumer:
        async with facts_coming(world):
            await consumer.until(lambda: len(consumer.got) > 60)
            server.signal(signal.SIGSTOP)  # it accepts bytes and says nothing: what a cut looks like from here
            found = await becomes(world, lambda found: found["state"] == "down")
            assert "did not answer" in found["detail"] or "no connection" in found["detail"]
            server.signal(signal.SIGCONT)
        await everything_once(world, consumer)
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


class Process:
    """A real worker process with a short lease, and what it logged."""

    def __init__(self, world: World, server: NatsServer, folder: Path) -> None:
        self.log = folder / f"worker-{uuid4()}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "WORKER_DATABASE_URL": world.url("worker"),
            "READER_DATABASE_URL": world.url("reader"),
            "WORKER_METRICS_PORT": str(free_port()),
            "COLONY_SERVICE_API_KEY": COLONY_KEY,
            "ROOT_SIGNING_KEY": SIGNING_KEY,
            "BUS_URL": server.url,
        }
        code = (
            "from app.delivery.bus import publisher, stream\n"
            "publisher.LEASE_S, publisher.ANSWER_S, stream.ANSWER_S, publisher.STANDBY_S = 2.0, 0.6, 0.6, 0.1\n"
            "publisher.LONGEST_PAUSE_S = 0.5\n"
            "from app.worker import run; run()"
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=environment, cwd=folder, stdout=log, stderr=log,
                preexec_fn=ends_with_parent(signal.SIGKILL),
            )  # fmt: skip

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def fence(self) -> int:
        """The last turn that it says it had; 0: none."""
        said = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return max((one["fence"] for one in said if one["event"] == "this worker publishes to the bus"), default=0)


def kill_the_publisher(running: list[Process]) -> None:
    alive = [one for one in running if one.process.poll() is None]
    max(alive, key=lambda one: one.fence()).end()


@contextlib.contextmanager
def workers(world: World, server: NatsServer, folder: Path) -> Iterator[list[Process]]:
    """Three worker processes, of which one publishes."""
    running = [Process(world, server, folder) for _ in range(3)]
    try:
        yield running
    finally:
        for one in running:
            if one.process.poll() is None:
                one.end()


@pytest.mark.long
async def test_the_publisher_is_killed_in_mid_stream(world: World, tmp_path: Path) -> None:
    """kill -9 of the worker, then of worker and server together; the last worker is told to stop. No log knows the password."""
    password = "password-of-the-bus"
    options = ("--user", "root", "--pass", password)
    async with nats_server(tmp_path / "nats", *options, login=f"root:{password}@") as server:
        with workers(world, server, tmp_path) as running:
            async with consuming(server) as consumer:
                await becomes(world, lambda found: found["state"] == "up", 60)  # processes take their time to begin
                async with facts_coming(world):
                    await consumer.until(lambda: len(consumer.got) > 100)
                    found = await row(world)
                    kill_the_publisher(running)
                    found = await becomes(world, lambda now: now["fence"] > found["fence"])
                    enough = len(consumer.got) + 100
                    await consumer.until(lambda: len(consumer.got) >= enough)
                    await server.kill()
                    kill_the_publisher(running)
                    await becomes(world, lambda now: now["state"] == "down" and now["fence"] > found["fence"])
                    await server.start()
                    await becomes(world, lambda now: now["state"] == "up")
                await everything_once(world, consumer)
            assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]
            [last] = [one for one in running if one.process.poll() is None]
            assert await asyncio.to_thread(last.end, signal.SIGTERM) == 0
            assert (await row(world))["lease_until"] is None
        logs = [file.read_text() for file in tmp_path.glob("worker-*.log")]
        assert any("facts cannot be published" in log for log in logs)
        assert not any(password in log or "Traceback" in log for log in logs)


async def test_two_publishers_do_not_interleave(world: World, server: NatsServer) -> None:
    """The cursor is torn from whoever holds it, again and again, in the middle of what it does."""
    connection = await world.connect("admin")
    async with publishing(world, place(server)), publishing(world, place(server)), consuming(server) as consumer:
        async with facts_coming(world):
            for _ in range(12):
                enough = len(consumer.got) + 20
                await consumer.until(lambda enough=enough: len(consumer.got) >= enough)
                fence = await connection.fetchval(
                    "UPDATE bus SET fence = fence + 1, lease_until = NULL RETURNING fence"
                )
                await becomes(world, lambda found, fence=fence: found["fence"] > fence)
        await everything_once(world, consumer)
        assert (await row(world))["fence"] > 24
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


async def test_only_one_publishes_and_another_takes_over_at_once_when_it_ends(world: World, server: NatsServer) -> None:
    async with publishing(world, place(server)) as second, contextlib.AsyncExitStack() as stack:
        found = await becomes(world, lambda found: found["state"] == "up")
        assert await cursor.take(second.database, publisher.timedelta(seconds=1)) is None
        await stack.enter_async_context(publishing(world, place(server)))
        for _ in range(3):  # it looks, and leaves it where it is
            await becomes(world, lambda now, before=found: now["heard_at"] > before["heard_at"])
            found = await row(world)
        assert found["fence"] == 1
    found = await row(world)
    assert found["lease_until"] is None, "who ends gives it back"


async def test_an_old_turn_moves_nothing(world: World) -> None:
    database, lease = world.worker.database, publisher.timedelta(seconds=5)
    old = await cursor.take(database, lease)
    assert old and await cursor.take(database, lease) is None
    connection = await world.connect("admin")
    await connection.execute("UPDATE bus SET lease_until = clock_timestamp()")  # it has run out
    new = await cursor.take(database, lease)
    assert new and new.fence == old.fence + 1
    old.after = Position(1, 1)
    with pytest.raises(cursor.Lost):
        await cursor.keep(database, old, lease)
    await cursor.give_back(database, old, "late")
    found = await row(world)
    assert (found["place"], found["state"]) == ("0-0", "off") and found["lease_until"] is not None


async def test_what_was_sent_without_the_turn_is_refused_by_the_stream(world: World, server: NatsServer) -> None:
    """A process that stood still sends what it held: the stream went on without it and takes none of that."""
    async with opened(place(server)) as slept:
        end = (await slept.look()).seq
        async with publishing(world, place(server)), consuming(server) as consumer:
            await everything_once(world, consumer)
        late = [Message(f"9-{n}", f"{STREAM}.late", b"{}") for n in range(5)]
        outcome = await slept.put(late, end)
        assert outcome.stored == 0 and isinstance(outcome.error, StartOver)
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


async def test_a_publisher_died_before_it_moved_the_cursor(world: World, server: NatsServer) -> None:
    """Also after the bus has forgotten the ids: the stream's own end says what is there."""
    async with jetstream(server) as js:  # an operator's stream stays as it was made
        await js.add_stream(name=STREAM, subjects=[f"{STREAM}.>"], duplicate_window=0.1, max_age=3600)
    await world.create()
    async with publishing(world, place(server)):
        await all_published(world)
    connection = await world.connect("admin")
    await connection.execute("UPDATE bus SET after_xid = '0', after_id = 0")
    await asyncio.sleep(0.3)  # the bus forgets; nothing tells when
    await world.create()
    async with publishing(world, place(server)):
        await all_published(world)
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "publishing"])
async def test_a_stream_that_was_deleted_is_made_again_and_that_is_said(
    world: World, server: NatsServer, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not idle:
        monkeypatch.setattr(publisher, "BEAT_S", 30)
    await world.create()
    with capture_logs() as logs:
        async with publishing(world, place(server)):
            first = await all_published(world)
            async with jetstream(server) as js:
                await js.delete_stream(STREAM)
                if not idle:
                    await world.create()
                found = await becomes(world, lambda found: found["stream_made"] != first["stream_made"])
                assert await stream_is_there(js)
            await world.create()
            await all_published(world)
    facts = [id for id, _, _ in await ledger_of(world)]
    assert [one.id for one in await stored(server)] == facts[facts.index(first["place"]) + 1 :], "on from the cursor"
    [said] = [one for one in logs if "made again" in one["event"]]
    assert (said["log_level"], said["after"], found["state"]) == ("error", first["place"], "up")


async def heard_of(world: World, consumer: Consumer, subjects: list[UUID]) -> None:
    """Waits for all facts about these subjects; then the consumer has each of them once and in order."""
    facts, tenant = await ledger_of(world), await world.tenant()
    for about in (f"{STREAM}.{tenant}.{subject}" for subject in subjects):
        wanted = [id for id, subject, _ in facts if subject == about]
        await consumer.until(lambda wanted=wanted: set(wanted) <= consumer.ids)
        assert [one.id for one in consumer.got if one.subject == about] == wanted


async def test_a_stream_is_deleted_under_a_consumer(world: World, server: NatsServer) -> None:
    """With facts on it that the consumer has not had. It takes them from the ledger, and goes on with the stream that is made again."""
    writer, subjects = Writer(world.root.database, await world.tenant()), [uuid4() for _ in range(3)]
    keys = {str(await world.tenant()): world.people["auditor"].key}
    async with serving(world) as base, consuming(server, base, keys) as consumer:
        async with publishing(world, place(server)):
            await writer.write(*subjects)
            await heard_of(world, consumer, subjects)
        consumer.names["handle"] = busy  # it handles nothing more until the stream is gone
        async with publishing(world, place(server)):
            for _ in range(3):
                await writer.write(*subjects)
            first = await all_published(world)
            async with jetstream(server) as js:
                await js.delete_stream(STREAM)
            await becomes(world, lambda found: found["stream_made"] != first["stream_made"])
            consumer.names["handle"] = consumer.handle
            await writer.write(*subjects)
            await heard_of(world, consumer, subjects)
            assert len(await stored(server)) == len(subjects), "the others were on the old one alone"


def busy(_subject: str, _fact: dict[str, Any]) -> None:
    raise ConnectionError("the consumer's own database is away")


async def test_a_consumer_that_begins_when_a_stream_is_old(world: World, server: NatsServer) -> None:
    """The stream has lost its oldest facts, as by their age; about some subjects it has the last ones only, about one all."""
    writer, subjects = Writer(world.root.database, await world.tenant()), [uuid4() for _ in range(3)]
    keys = {str(await world.tenant()): world.people["auditor"].key}
    async with serving(world) as base, publishing(world, place(server)):
        for _ in range(4):
            await writer.write(*subjects[:2])
        await all_published(world)
        async with jetstream(server) as js:
            await js.purge_stream(STREAM)
        for _ in range(2):
            await writer.write(*subjects)
        await all_published(world)
        async with consuming(server, base, keys) as consumer:
            await heard_of(world, consumer, subjects)
        assert len(await stored(server)) == 6


async def test_what_the_bus_acknowledged_and_lost_is_sent_again(world: World, server: NatsServer) -> None:
    """Its machine lost power before the store was on the disk: the stream is the same, and shorter."""
    await world.create()
    async with publishing(world, place(server)):
        await all_published(world)
    await server.kill()
    server.keep()
    await server.start()
    await world.create()
    async with publishing(world, place(server)):
        await all_published(world)
    await server.kill()
    server.go_back()
    await server.start()
    with capture_logs() as logs:
        async with publishing(world, place(server)), consuming(server) as consumer:
            await everything_once(world, consumer)
    assert [one["lost"] > 0 for one in logs if "lost messages" in one["event"]] == [True]
    assert [one.id for one in await stored(server)] == [id for id, _, _ in await ledger_of(world)]


async def test_much_to_read_is_read_in_bites(world: World, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BATCH", 7)
    writer, subjects = Writer(world.root.database, await world.tenant()), [uuid4() for _ in range(10)]
    for _ in range(5):
        await writer.write(*subjects)
    held: list[int] = []
    async with publishing(world, place(server)) as one, consuming(server) as consumer:
        hand_on = one.hand_on

        async def watched(*args: Any) -> None:
            held.append(len(args[2]))
            await hand_on(*args)

        monkeypatch.setattr(one, "hand_on", watched)
        await everything_once(world, consumer)
    assert max(held) == 7 and sum(held) == len(await ledger_of(world))


async def component(world: World) -> dict[str, Any]:
    answer = await world.auditor.get("/v1/status")
    assert answer.status_code == 200
    [found] = [one for one in answer.json()["components"] if one["name"] == "bus"]
    return dict(found) | {"status": answer.json()["status"]}


async def test_status_and_lag_say_how_the_bus_is_and_the_product_goes_on(world: World, tmp_path: Path) -> None:
    found = await component(world)
    assert (found["state"], found["detail"], found["status"]) == ("off", "no worker has a BUS_URL", "ok")
    server = NatsServer(tmp_path / "nats")
    await server.start()
    await server.kill()  # its port is known, and nobody is there
    async with publishing(world, place(server)) as one, consuming(server) as consumer:
        await becomes(world, lambda found: found["state"] == "down")
        assert (await world.create())["state"] == "accepted"
        found = await component(world)
        assert (found["state"], found["status"]) == ("down", "degraded")
        assert found["detail"].startswith("no connection: ") and "127.0.0.1" not in found["detail"]
        await one.measure()
        assert BUS_LAG._value.get() > 0
        await server.start()
        await everything_once(world, consumer)
        await becomes(world, lambda found: found["state"] == "up")
        assert (await component(world))["state"] == "up"
        assert BUS_LAG._value.get() == 0
    connection = await world.connect("admin")
    await connection.execute("UPDATE bus SET heard_at = clock_timestamp() - interval '1 minute'")
    found = await component(world)
    assert found["state"] == "down" and found["detail"].startswith("no worker has looked after it for 6")
    await bus.switch_off(world.worker.database)
    assert (await component(world))["state"] == "off"
    await server.kill()


async def test_a_worker_without_a_bus_leaves_that_of_another_alone(world: World, server: NatsServer) -> None:
    async with publishing(world, place(server)):
        await becomes(world, lambda found: found["state"] == "up")
        await bus.switch_off(world.worker.database)
        assert (await row(world))["state"] == "up"


async def test_a_bus_that_refuses_is_told_without_its_words(world: World, tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats", "--user", "root", "--pass", "right", login="root:wrong@") as server:
        with capture_logs() as logs:
            async with publishing(world, place(server)):
                found = await becomes(world, lambda found: found["state"] == "down")
        assert found["detail"] == "the bus refuses the credentials"
        assert "wrong" not in str(logs)


async def test_tls_is_believed_only_from_whom_the_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, options = certified(tmp_path)
    async with nats_server(tmp_path / "nats", *options) as server:
        secure = place(server, urls=[server.url.replace("nats:", "tls:")])
        with pytest.raises(Unreachable, match=r"^no connection: SSLCertVerificationError$"):
            async with opened(secure):
                raise AssertionError("nobody vouches for it")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with opened(secure) as stream:
            assert (await stream.look()).fresh


async def test_nothing_secret_is_said_to_a_server_that_does_not_encrypt_when_it_should() -> None:
    heard = b""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        heard = await reader.read()
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        where = Place([f"tls://root:password-of-the-bus@127.0.0.1:{port}"], None, STREAM, 1, 3600)
        with pytest.raises(Unreachable, match=r"^the bus offers no TLS$"):
            async with opened(where):
                raise AssertionError("it is not the server that was meant")
    assert b"password" not in heard and b"CONNECT" not in heard


async def test_credentials_of_a_nats_operator(tmp_path: Path, world: World) -> None:
    credentials, options = operated(tmp_path)
    (tmp_path / "bus.creds").write_text(credentials)
    async with nats_server(tmp_path / "nats", *options) as server:
        for said in (credentials, str(tmp_path / "bus.creds")):
            made = Worker(world.settings(bus_url=server.url, bus_credentials=said)).bus
            assert made and "SEED" not in repr(made.place) and server.url not in repr(made.place)
            async with opened(made.place) as stream:
                await stream.look()
            await made.close()
        with pytest.raises(Unreachable, match=r"^the bus refuses the credentials$"):
            async with opened(place(server, credentials=operated(tmp_path)[0])) as stream:
                raise AssertionError("they are another operator's")
        with pytest.raises(Unreachable, match=r"^no connection: Err\w+$"):
            async with opened(place(server, credentials=credentials.replace("\nSU", "\nSX"))):
                raise AssertionError("they are broken")


async def test_another_stream_in_the_way_is_told_by_its_error_number(world: World, server: NatsServer) -> None:
    async with jetstream(server) as js:
        await js.add_stream(name="other", subjects=[f"{STREAM}.>"])
    async with publishing(world, place(server)):
        found = await becomes(world, lambda found: found["state"] == "down")
    assert found["detail"] == "the bus refused the stream (its error 10065)"


async def test_a_worker_with_a_bus_needs_the_readers_url_and_readable_credentials(world: World, tmp_path: Path) -> None:
    url = "nats://root:password-of-the-bus@127.0.0.1:1"
    with pytest.raises(Misconfigured, match=r"^READER_DATABASE_URL is not set"):
        Worker(world.settings(bus_url=url, reader_database_url=None))
    (tmp_path / "half.creds").write_text("-----BEGIN NATS USER JWT-----\nsecret-of-the-user\n")
    for wrong in (tmp_path / "nowhere.creds", tmp_path / "half.creds", "user-and-secret"):
        with pytest.raises(Misconfigured, match=r"^BUS_CREDENTIALS [^\n]+\.$") as refused:
            Worker(world.settings(bus_url=url, bus_credentials=str(wrong)))
        assert "secret" not in str(refused.value)


def test_without_a_bus_its_client_is_not_imported() -> None:
    code = "import sys, app.main, app.worker, app.cli.main; print([one for one in sys.modules if one.split('.')[0] == 'nats'])"
    said = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "[]", said.stderr
