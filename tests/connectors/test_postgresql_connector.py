"""The PostgreSQL connector against a real database of its own: one guarded UPDATE, exact receipts, lost connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.writebacks.connectors import (
    Ambiguous,
    NotApplied,
    NotConfigured,
    Payload,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    encode,
    verify,
)
from app.writebacks.connectors.postgresql import PostgreSqlReader, PostgreSqlWriter
from app.writebacks.connectors.registry import BadDefinition, parse
from tests.conftest import Cluster, numbers
from tests.connectors.outcome import outcome

TABLES = """
CREATE TABLE "Kunden" (
  "Nr" text PRIMARY KEY, version int NOT NULL DEFAULT 1, name text, stufe text CHECK (stufe <> 'verboten'), umsatz numeric(12, 2),
  aktiv boolean, seit date, gesehen timestamptz, eltern uuid, mehr jsonb, anzahl int, geheim text DEFAULT 'geheim', "o""dd; --" text);
CREATE TABLE by_time (id bigint PRIMARY KEY, changed timestamptz NOT NULL DEFAULT now(), note text);
CREATE TABLE by_xmin (id uuid PRIMARY KEY, note text UNIQUE);
CREATE TABLE doubled (id text, version int NOT NULL DEFAULT 1, note text);
CREATE TABLE mission_root_receipt (idempotency_key text PRIMARY KEY, record text NOT NULL, version text NOT NULL,
  payload_sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO "Kunden" ("Nr", name, umsatz, aktiv, seit, gesehen, mehr, anzahl)
  VALUES ('K-1', 'Anna', 1500.50, true, '2026-01-31', '2026-01-31 12:00:00.5+00', '{"a": [1, null]}', 3),
  ('K-2', NULL, 'NaN', NULL, NULL, NULL, NULL, NULL);
INSERT INTO by_time (id) VALUES (1);
INSERT INTO by_xmin VALUES ('00000000-0000-0000-0000-000000000001', 'x'),
  ('00000000-0000-0000-0000-000000000002', 'y');
INSERT INTO doubled VALUES ('d', 1, 'x'), ('d', 1, 'y');
"""
COLUMNS: dict[str, Any] = {
    "name": "text", "stufe": "text", "umsatz": "decimal", "aktiv": "boolean", "seit": "date", "gesehen": "timestamp", "eltern": "uuid",
    "mehr": "json", "anzahl": "integer", 'o"dd; --': "text",
}  # fmt: skip


def definition(host: str, port: int, database: str, **more: Any) -> dict[str, Any]:
    note = {"note": {"type": "text", "writable": True}}
    number = {"type": "integer", "column": "version"}
    return {
        "host": host, "port": port, "database": database, "tls": "off", "receipts": {"table": "mission_root_receipt"},
        "kinds": {
            "customer": {"table": "Kunden", "key": {"column": "Nr"}, "version": number,
                         "columns": {name: {"type": type, "writable": True} for name, type in COLUMNS.items()}},
            "timed": {"table": "by_time", "key": {"column": "id", "type": "integer"}, "version": {"type": "timestamp", "column": "changed"},
                      "columns": note},
            "plain": {"table": "by_xmin", "key": {"column": "id", "type": "uuid"}, "version": {"type": "xmin"}, "columns": note},
            "doubled": {"table": "doubled", "key": {"column": "id"}, "version": number, "columns": note},
        },
    } | more  # fmt: skip


@dataclass
class Books:
    """The target's database and who may enter it."""

    admin: asyncpg.Connection
    host: str
    port: int
    database: str

    def dsn(self, role: str, port: int | None = None) -> str:
        return f"postgresql://{role}:{role}-of-tests@{self.host}:{port or self.port}/{self.database}"

    def reader(self, **more: Any) -> PostgreSqlReader:
        return PostgreSqlReader(
            "books",
            parse("postgresql", definition(self.host, self.port, self.database, **more)),
            self.dsn("books_reads"),
        )

    def writer(self, port: int | None = None, **more: Any) -> PostgreSqlWriter:
        said = parse("postgresql", definition(self.host, port or self.port, self.database, **more))
        return PostgreSqlWriter("books", said, self.dsn("books_writes", port))

    async def receipts(self) -> list[str]:
        rows = await self.admin.fetch("SELECT idempotency_key FROM mission_root_receipt ORDER BY 1")
        return [row[0] for row in rows]


@pytest.fixture
async def books(cluster: Cluster) -> AsyncIterator[Books]:
    parts, name = urlsplit(cluster.admin_url), f"books_{next(numbers)}"
    admin = await asyncpg.connect(cluster.admin_url)
    await admin.execute(f"CREATE DATABASE {name}")
    for role in ("books_reads", "books_writes"):
        with contextlib.suppress(asyncpg.DuplicateObjectError):
            await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}-of-tests'")
    inside = await asyncpg.connect(cluster.url("admin", name))
    await inside.execute(TABLES)
    await inside.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO books_reads, books_writes")
    await inside.execute(
        "GRANT UPDATE ON ALL TABLES IN SCHEMA public TO books_writes; GRANT INSERT ON mission_root_receipt TO books_writes"
    )
    try:
        yield Books(inside, parts.hostname or "127.0.0.1", parts.port or 5432, name)
    finally:
        await inside.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


CHANGE = Payload("books", "customer", "K-1", "update", {"name": "Berta"}, "1")


# --- the change


async def test_every_type_is_written_and_read_back_as_it_was_approved(books: Books) -> None:
    changes = {
        "name": "Robert'); DROP TABLE \"Kunden\";--", "umsatz": "-12.5", "aktiv": False, "seit": "2024-02-29",
        "gesehen": "2026-01-31T23:59:59.000001Z", "eltern": "0192a1b2-0000-7000-8000-000000000000",
        "mehr": {"b": 1, "a": [True, None, "x"]},
        "anzahl": -7, 'o"dd; --': "$1", "stufe": None,
    }  # fmt: skip
    writer, reader = books.writer(), books.reader()
    before = await reader.read("customer", "K-1")
    assert before.value == {
        "name": "Anna", "stufe": None, "umsatz": "1500.5", "aktiv": True, "seit": "2026-01-31", "gesehen": "2026-01-31T12:00:00.500000Z",
        "eltern": None, "mehr": {"a": [1, None]}, "anzahl": 3, 'o"dd; --': None,
    }  # fmt: skip
    assert before.version == "1" and "geheim" not in before.value
    payload = replace(CHANGE, changes=changes)
    assert await writer.find("k-1", payload) is None
    applied = await writer.apply(encode(payload), "k-1")
    after = await reader.read("customer", "K-1")
    assert verify(payload, after).matches and after.version == "2" and not applied.replayed
    assert (applied.receipt["record"], applied.receipt["version"]) == ("customer/K-1", "2")
    assert await reader.find("k-1") == applied.receipt
    again = await writer.apply(encode(payload), "k-1")
    assert again.replayed and again.receipt == applied.receipt
    assert (await reader.read("customer", "K-1")).version == "2"
    assert (await reader.read("customer", "K-2")).value["umsatz"] == "NaN"


@pytest.mark.parametrize("kind", ["timed", "plain"])
async def test_timestamps_and_xmin_guard_as_well(books: Books, kind: str) -> None:
    record = "1" if kind == "timed" else "00000000-0000-0000-0000-000000000001"
    writer = books.writer()
    first = (await writer.read(kind, record)).version
    payload = Payload("books", kind, record, "update", {"note": "neu"}, first)
    applied = await writer.apply(encode(payload), "k-1")
    seen = await writer.read(kind, record)
    assert verify(payload, seen).matches and seen.version == applied.receipt["version"] != first
    stale = await outcome(writer.apply(encode(replace(payload, changes={"note": "x"})), "k-2"))
    assert isinstance(stale, Stale) and stale.current.version == seen.version
    assert await books.receipts() == ["k-1"]


async def test_a_moved_or_missing_row_is_not_touched(books: Books) -> None:
    writer = books.writer()
    await books.admin.execute("""UPDATE "Kunden" SET version = 2, name = 'schneller' WHERE "Nr" = 'K-1'""")
    stale = await outcome(writer.apply(encode(CHANGE), "k-1"))
    assert isinstance(stale, Stale) and stale.current.value["name"] == "schneller"
    assert isinstance(await outcome(writer.apply(encode(replace(CHANGE, record_id="K-9")), "k-1")), RecordMissing)
    assert isinstance(await outcome(books.reader().read("customer", "K-9")), RecordMissing)
    twice = await outcome(writer.apply(encode(Payload("books", "doubled", "d", "update", {"note": "z"}, "1")), "k-1"))
    assert isinstance(twice, Refused)
    assert await books.admin.fetchval("SELECT count(*) FROM doubled WHERE note = 'z'") == 0
    assert await books.receipts() == []


async def test_two_executions_of_one_key_at_once_make_one_change(books: Books) -> None:
    one, other = await asyncio.gather(
        books.writer().apply(encode(CHANGE), "k-1"), books.writer().apply(encode(CHANGE), "k-1")
    )
    assert one.receipt == other.receipt and sorted([one.replayed, other.replayed]) == [False, True]
    changes = [
        books.writer().apply(encode(replace(CHANGE, expected_version="2", changes={"name": str(n)})), f"k-{n}")
        for n in range(2, 8)
    ]
    said = await asyncio.gather(*(outcome(change) for change in changes))
    assert sum(isinstance(one, Stale) for one in said) == 5
    assert len(await books.receipts()) == 2


async def test_a_receipt_of_another_change_is_not_taken_for_this_ones(books: Books) -> None:
    """The key came back with other bytes: they were not applied, and are not said to be."""
    writer, other = books.writer(), replace(CHANGE, changes={"name": "Cora"})
    done = await writer.apply(encode(CHANGE), "k-1")
    assert await writer.find("k-1", CHANGE) == await writer.find("k-1") == done.receipt
    assert await writer.find("k-1", other) is None
    said = await outcome(writer.apply(encode(other), "k-1"))
    assert isinstance(said, Refused) and said.status == 409 and "another change under this key" in said.reason, said
    # likewise where the row itself would let the change through
    said = await outcome(writer.apply(encode(replace(other, expected_version="2")), "k-1"))
    assert isinstance(said, Refused) and "another change under this key" in said.reason, said
    assert (await writer.read("customer", "K-1")).value["name"] == "Berta"
    assert (await writer.apply(encode(CHANGE), "k-1")).replayed is True
    assert await books.receipts() == ["k-1"]


async def test_what_the_target_refuses_is_refused_and_what_passes_may_be_tried_again(books: Books) -> None:
    writer = books.writer(statement_s=0.5)
    for changes in ({"stufe": "verboten"}, {"umsatz": "99999999999.5"}):
        said = await outcome(writer.apply(encode(replace(CHANGE, changes=changes)), "k-1"))
        assert isinstance(said, Refused) and said.status in (400, 409), said
    taken = Payload("books", "plain", "00000000-0000-0000-0000-000000000001", "update", {"note": "y"}, "")
    taken = replace(taken, expected_version=(await writer.read("plain", taken.record_id)).version)
    assert isinstance(await outcome(writer.apply(encode(taken), "k-1")), Refused)
    async with books.admin.transaction():  # somebody else holds the row
        await books.admin.execute("""UPDATE "Kunden" SET name = 'x' WHERE "Nr" = 'K-1'""")
        said = await outcome(writer.apply(encode(CHANGE), "k-1"))
        assert type(said) is NotApplied and said.retryable
    assert await books.receipts() == []


async def test_only_declared_columns_and_spellings_are_sent(books: Books) -> None:
    writer = books.writer()
    for changes in (
        {"geheim": "x"}, {"version": 5}, {"Nr": "K-9"}, {"name; --": "x"}, {"umsatz": "1.50"}, {"umsatz": 1.5}, {"umsatz": "1e3"},
        {"umsatz": "-0"}, {"aktiv": "true"}, {"aktiv": 1}, {"anzahl": True}, {"anzahl": 1.5}, {"anzahl": "3"}, {"seit": "31.1.2026"},
        {"seit": "2026-02-30"}, {"gesehen": "2026-01-31"}, {"gesehen": "2026-01-31T12:00:00+01:00"}, {"eltern": "x"}, {"name": "a\0b"},
        {"name": 1}, {"mehr": {"a": "\0"}},
    ):  # fmt: skip
        said = await outcome(writer.apply(encode(replace(CHANGE, changes=changes)), "k-1"))
        assert isinstance(said, Refused) and said.status is None, (changes, said)
    for wrong in (
        replace(CHANGE, operation="delete"), replace(CHANGE, kind="pg_authid"), replace(CHANGE, connector="x"),
        replace(CHANGE, record_id="a\0"),
        replace(CHANGE, expected_version="1 OR true"), replace(CHANGE, kind="timed"), replace(CHANGE, kind="plain", record_id="1"),
    ):  # fmt: skip
        said = await outcome(writer.apply(encode(wrong), "k-1"))
        assert isinstance(said, Refused) and said.status is None, (wrong, said)
    assert isinstance(await outcome(writer.apply(encode(CHANGE), "two words")), Refused)
    assert await books.receipts() == []


# --- credentials


async def test_the_read_credential_changes_nothing_and_no_credential_enters_elsewhere(books: Books) -> None:
    said = parse("postgresql", definition(books.host, books.port, books.database))
    lesser = PostgreSqlWriter("books", said, books.dsn("books_reads"))
    assert isinstance(await outcome(lesser.apply(encode(CHANGE), "k-1")), Refused)
    assert not hasattr(books.reader(), "apply")
    async with books.reader()._connection() as connection:
        assert await connection.fetchval("SHOW default_transaction_read_only") == "on"
        assert await connection.fetchval("SHOW application_name") == "mission-root reads"
        assert await connection.fetchval("SHOW search_path") == "pg_catalog"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TEMP TABLE x (a int)")
    for dsn in (
        books.dsn("books_reads").replace(f":{books.port}/", ":1/"), books.dsn("books_reads").replace(books.database, "other"),
        books.dsn("books_reads").replace(f"@{books.host}", "@other.example"), books.dsn("books_reads") + "?host=/tmp", "books_reads",
        "http://a:b@c/d", f"postgresql://{books.host}:{books.port}/{books.database}", "postgresql://[",
    ):  # fmt: skip
        with pytest.raises(NotConfigured) as refused:
            PostgreSqlReader("books", said, dsn)
        assert "of-tests" not in refused.value.reason
    wrong = PostgreSqlReader("books", said, books.dsn("books_reads").replace("-of-tests", "-x"))
    failed = await outcome(wrong.read("customer", "K-1"))
    assert isinstance(failed, ReadFailed) and "books_reads" not in failed.reason
    refused_write = PostgreSqlWriter("books", said, books.dsn("books_writes").replace("-of-tests", "-x"))
    not_sent = await outcome(refused_write.apply(encode(CHANGE), "k-1"))
    assert type(not_sent) is NotApplied and not_sent.retryable


@pytest.mark.parametrize(
    "wrong",
    [{"host": "2130706433"}, {"host": "a b"}, {"host": "/tmp"}, {"host": "u@h"}, {"port": 0}, {"receipts": None}, {"kinds": {}},
     {"password": "x"},
     {"tls": "maybe"}, {"statement_s": 1000}],
)  # fmt: skip
def test_a_definition_that_could_go_wrong_is_refused(wrong: dict[str, Any]) -> None:
    parse("postgresql", definition("db.example", 5432, "x"))
    with pytest.raises(BadDefinition):
        parse("postgresql", definition("db.example", 5432, "x") | wrong)


def test_neither_key_nor_version_is_written() -> None:
    for column in ("Nr", "version"):
        said = definition("db.example", 5432, "x")
        said["kinds"]["customer"]["columns"][column] = {"type": "text", "writable": True}
        with pytest.raises(BadDefinition):
            parse("postgresql", said)


async def test_rows_are_listed_in_the_order_of_their_keys(books: Books) -> None:
    reader = books.reader()
    first = await reader.list("customer", 1)
    assert [one.record_id for one in first.items] == ["K-1"] and first.next_cursor == "K-1"
    rest = await reader.list("customer", 1, first.next_cursor)
    assert [one.record_id for one in rest.items] == ["K-2"] and rest.next_cursor is None
    for wrong in (reader.list("customer", 0), reader.list("customer", filters={"name": "x"}), reader.list("nothing")):
        assert isinstance(await outcome(wrong), Refused)


# --- connections that are lost

SLOW_COMMIT = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON "Kunden" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
"""


async def kill(books: Books, what: str) -> None:
    """Ends the connector's backend once it is doing that."""
    doing = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'mission-root executor' AND query LIKE $2"
    for _ in range(500):
        if pid := await books.admin.fetchval(doing, books.database, what):
            assert await books.admin.fetchval("SELECT pg_terminate_backend($1)", pid)
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody does that")


async def test_a_connection_ended_in_the_middle_of_the_commit_is_ambiguous_and_find_settles_it(books: Books) -> None:
    await books.admin.execute(SLOW_COMMIT)
    writing = asyncio.create_task(outcome(books.writer().apply(encode(CHANGE), "k-1")))
    await kill(books, "COMMIT%")
    assert isinstance(await writing, Ambiguous)
    assert await books.writer().find("k-1", CHANGE) is None  # the server had not committed
    await books.admin.execute('DROP TRIGGER slow ON "Kunden"')
    assert not (await books.writer().apply(encode(CHANGE), "k-1")).replayed


async def test_a_connection_ended_before_the_commit_is_proof_that_nothing_was_done(books: Books) -> None:
    await books.admin.execute(SLOW_COMMIT.replace("DEFERRABLE INITIALLY DEFERRED", "NOT DEFERRABLE"))
    writing = asyncio.create_task(outcome(books.writer(statement_s=20).apply(encode(CHANGE), "k-1")))
    await kill(books, "UPDATE%")
    said = await writing
    assert type(said) is NotApplied and said.retryable
    assert (await books.reader().read("customer", "K-1")).version == "1" and await books.receipts() == []


@asynccontextmanager
async def between(
    books: Books, cut: Callable[[bytes], bool], forward: bool, silent: bool = False
) -> AsyncIterator[int]:
    """A wire that is cut when the connector says something: before, or after, it has reached the server."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: asyncio.Event | None,
        mine: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if ends is not None and cut(data):
                    if silent:
                        await reader.read()  # until the connector itself gives up
                        break
                    mine.transport.abort()  # the connector sees the wire go dead before anything comes back
                    if forward:
                        writer.write(data)
                        await writer.drain()
                    ends.set()
                    await asyncio.sleep(0.3)
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, mine = await asyncio.open_connection(books.host, books.port)
        ends = asyncio.Event()
        for one in (pump(reader, mine, ends, writer), pump(theirs, writer, None, mine)):
            tasks.add(asyncio.create_task(one))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("arrives", [True, False])
async def test_an_answer_to_the_commit_that_got_lost_is_ambiguous_whichever_way_it_went(
    books: Books, arrives: bool
) -> None:
    async with between(books, lambda said: b"COMMIT;" in said, arrives) as port:
        said = await outcome(books.writer(port).apply(encode(CHANGE), "k-1"))
    assert isinstance(said, Ambiguous)
    for _ in range(100):
        receipt = await books.writer().find("k-1", CHANGE)
        if bool(receipt) == arrives:
            break
        await asyncio.sleep(0.02)
    assert bool(receipt) == arrives
    again = await books.writer().apply(encode(CHANGE), "k-1")
    assert again.replayed is arrives and (await books.reader().read("customer", "K-1")).version == "2"


async def test_a_commit_that_nobody_answers_is_given_up_as_ambiguous(books: Books) -> None:
    async with between(books, lambda said: b"COMMIT;" in said, False, silent=True) as port:
        said = await outcome(books.writer(port, statement_s=1.5).apply(encode(CHANGE), "k-1"))
    assert isinstance(said, Ambiguous) and "Timeout" in said.reason


async def test_a_wire_cut_before_the_commit_is_proof_that_nothing_was_done(books: Books) -> None:
    async with between(books, lambda said: b"INSERT INTO" in said, True) as port:
        said = await outcome(books.writer(port).apply(encode(CHANGE), "k-1"))
    assert type(said) is NotApplied and said.retryable
    await asyncio.sleep(0)
    assert await books.receipts() == [] and (await books.reader().read("customer", "K-1")).version == "1"


async def test_a_database_that_is_away_is_tried_again_and_cannot_be_read(books: Books) -> None:
    listening = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    for _ in range(2):
        said = await outcome(books.writer(port).apply(encode(CHANGE), "k-1"))
        assert type(said) is NotApplied and said.retryable
        assert isinstance(await outcome(books.writer(port).find("k-1", CHANGE)), ReadFailed)
        listening.close()
