"""The Tryton connector against a real Tryton: what it reads, what it changes, and what it says when it cannot."""

import asyncio
import gzip
import json
from collections.abc import Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from app.writebacks.connectors import (
    Ambiguous,
    Applied,
    ConnectorError,
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
from app.writebacks.connectors.tryton import LARGEST_ANSWER, TrytonReader, TrytonWriter, _unzipped
from tests.tryton.office import Desk, decimal
from tests.tryton.prepare import DATABASE, USERS
from tests.tryton.server import Tryton
from tests.tryton.wire import wire

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("tryton")]
LOCAL = frozenset({"127.0.0.1"})


def reader(url: str, login: str = "root-read", **more: Any) -> TrytonReader:
    return TrytonReader("tryton", url, DATABASE, f"{login}:{USERS[login]}", allowed=LOCAL, **more)


def writer(url: str, login: str = "root-write", **more: Any) -> TrytonWriter:
    return TrytonWriter("tryton", url, DATABASE, f"{login}:{USERS[login]}", allowed=LOCAL, **more)


def change(id: str, version: str, operation: str = "update", **changes: Any) -> Payload:
    return Payload("tryton", "opportunity", id, operation, changes, version)


async def version(url: str, id: str) -> str:
    async with reader(url) as tryton:
        return (await tryton.read("opportunity", id)).version


async def said(asked: Awaitable[Any]) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        await asked
    return caught.value


# --- reading


async def test_an_opportunity_is_read_with_the_names_a_human_needs(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead(employee=olga.employee())
    async with reader(tryton.url) as connector:
        seen = await connector.read("opportunity", id)
    shown = olga.shows(id, "number", "start_date")
    day = shown["start_date"]
    assert seen.value == {
        "number": shown["number"],
        "reference": None,
        "description": "Twelve trucks",
        "comment": "Met at the fair.",
        "lost_reason": None,
        "amount": "1500",
        "currency": "EUR",
        "conversion_probability": 0.5,
        "state": "lead",
        "start_date": f"{day['year']}-{day['month']:02}-{day['day']:02}",
        "end_date": None,
        "party": olga.party(),
        "party_name": "Acme Freight",
        "employee": olga.employee(),
        "employee_name": "Olga Petrova",
        "company_name": "Harbor Analytics",
    }
    assert (seen.kind, seen.record_id, seen.version) == ("opportunity", id, shown["_timestamp"])


async def test_lists_come_in_pages_and_can_be_narrowed(tryton: Tryton, olga: Desk) -> None:
    party = olga.call("model.party.party.search", [["name", "=", "Borealis Shipping"]], 0, 1, None)[0]
    made = [olga.lead(party=party, description="A long story. " * 40) for _ in range(5)]
    won = olga.lead(party=party, employee=olga.employee())
    olga.call("model.sale.opportunity.opportunity", [int(won)])
    async with reader(tryton.url) as connector:
        narrow = {"party": str(party), "state": "lead"}
        first = await connector.list("opportunity", limit=3, filters=narrow)
        rest = await connector.list("opportunity", limit=3, cursor=first.next_cursor, filters=narrow)
        further = await connector.list("opportunity", filters={"party": str(party), "state": "opportunity"})
        parties = await connector.list("party", filters={"name": "Borealis Shipping"})
        for odd in ({"state": "asleep"}, {"colour": "red"}):
            assert (await said(connector.list("opportunity", filters=odd))).__class__ is Refused
        assert isinstance(await said(connector.list("invoice")), Refused)
        assert isinstance(await said(connector.read("opportunity", "1 OR 1=1")), Refused)
        assert isinstance(await said(connector.read("opportunity", "999999")), RecordMissing)
    assert [one.record_id for one in (*first.items, *rest.items)] == made
    assert (first.next_cursor, rest.next_cursor) == (made[2], None)
    assert [one.record_id for one in further.items] == [won]
    assert parties.items[0].value["name"] == "Borealis Shipping"


# --- changing


async def test_an_update_is_written_once_and_read_back(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead()
    changes = {
        "amount": "18250.5",
        "comment": "Wants an offer\nby Friday, «soon».",
        "conversion_probability": 0.65,
        "description": "Fifteen trucks",
        "employee": olga.employee(),
        "end_date": "2027-02-28",
        "reference": None,
    }
    async with writer(tryton.url) as connector:
        payload = change(id, (await connector.read("opportunity", id)).version, **changes)
        applied = await connector.apply(encode(payload), "key-1")
        again = await connector.apply(encode(payload), "key-1")
        seen = await connector.read("opportunity", id)
        found = await connector.find("key-1", payload)
    assert verify(payload, seen).matches
    shown = olga.shows(id, "amount", "comment", "description")
    assert shown["amount"] == decimal("18250.5")
    assert (shown["description"], shown["comment"]) == (changes["description"], changes["comment"])
    assert olga.revisions(id) == ["root-write", "olga"]  # twice asked, once done
    assert applied.receipt == again.receipt == found
    assert (applied.replayed, again.replayed) == (False, True)
    assert applied.receipt == {
        "idempotency_key": "key-1",
        "record": f"sale.opportunity,{id}",
        "follows": payload.expected_version,
        "revision": seen.version,
    }


async def test_a_lead_is_taken_through_its_states_by_trytons_own_buttons(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead(employee=olga.employee())
    async with writer(tryton.url) as connector:
        for state in ("opportunity", "lead", "lost", "lead", "cancelled"):
            payload = change(id, (await connector.read("opportunity", id)).version, "transition", state=state)
            await connector.apply(encode(payload), f"to-{state}")
            assert verify(payload, await connector.read("opportunity", id)).matches
            assert olga.shows(id, "state")["state"] == state
        before = await connector.read("opportunity", id)
        for state in ("converted", "won"):
            payload = change(id, before.version, "transition", state=state)
            assert (await refused(connector, payload)).status is None
        not_from_here = change(id, before.version, "transition", state="opportunity")
        assert (await refused(connector, not_from_here)).status == 400  # Tryton's word
    assert olga.shows(id, "state") == {
        "id": int(id), "state": "cancelled", "_timestamp": before.version, "write_uid": 5
    }  # fmt: skip


async def refused(connector: TrytonWriter, payload: Payload) -> Refused:
    found = await said(connector.apply(encode(payload), "key"))
    assert isinstance(found, Refused), found
    return found


BEFORE_SENDING: list[dict[str, Any]] = [
    {"description": " spaces around "},
    {"description": ""},
    {"description": 5},
    {"comment": "nul \0 inside"},
    {"amount": 1500},
    {"amount": "1500.00"},
    {"amount": "-0"},
    {"amount": "1e3"},
    {"conversion_probability": 1.5},
    {"conversion_probability": True},
    {"conversion_probability": None},
    {"conversion_probability": 0.12345},
    {"end_date": "20270228"},
    {"end_date": "2027-02-30"},
    {"employee": "1"},
    {"employee": True},
    {"state": "won"},
    {"write_uid": 1},
    {"lines": [["delete", [1]]]},
]


@pytest.mark.parametrize("changes", BEFORE_SENDING, ids=lambda changes: str(changes)[:30].replace("\0", "0"))
async def test_what_would_not_be_read_back_as_approved_is_not_sent(changes: dict[str, Any]) -> None:
    async with writer("http://127.0.0.1:9") as connector:  # nobody is there: an attempt would be NotApplied
        assert (await refused(connector, change("1", "1.000000", **changes))).status is None
        wrong = Payload("another", "opportunity", "1", "update", {"comment": "x"}, "1.000000")
        assert (await refused(connector, wrong)).status is None
        assert (await refused(connector, change("1", "7", comment="x"))).status is None
        assert (await refused(connector, change("1", "1.000000", "delete", comment="x"))).status is None


async def test_what_tryton_refuses_is_said_in_its_words_and_nothing_is_changed(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead()
    async with writer(tryton.url) as connector:
        seen = await connector.read("opportunity", id)
        too_fine = await refused(connector, change(id, seen.version, amount="1.255"))
        nobody = await refused(connector, change(id, seen.version, employee=4711))
        no_employee = await refused(connector, change(id, seen.version, "transition", state="opportunity"))
        assert (await connector.read("opportunity", id)).version == seen.version
    assert "number of digits" in too_fine.reason
    assert "does not exist" in nobody.reason
    assert "Employee" in no_employee.reason
    assert {one.status for one in (too_fine, nobody, no_employee)} == {400}
    assert olga.revisions(id) == ["olga"]


async def test_a_record_that_somebody_changed_meanwhile_is_left_alone(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead(employee=olga.employee())
    read_at = await version(tryton.url, id)
    olga.change(id, description="Olga was faster")
    async with writer(tryton.url) as connector:
        for payload in (
            change(id, read_at, description="Too late"),
            change(id, read_at, description="Olga was faster"),  # even when it says the same
            change(id, read_at, "transition", state="opportunity"),
        ):
            stale = await said(connector.apply(encode(payload), "key"))
            assert isinstance(stale, Stale)
            assert stale.current.value["description"] == "Olga was faster"
            assert await connector.find("key", payload) is None
        olga.discard(id)
        assert isinstance(await said(connector.apply(encode(payload), "key")), RecordMissing)
    gone = olga.call("model.sale.opportunity.search_count", [["id", "=", int(id)]], 0, None)
    assert (gone, olga.revisions(id)) == (0, ["olga"] * 4)


async def test_writers_at_the_same_moment_leave_one_change(tryton: Tryton, olga: Desk) -> None:
    """Tryton's guard and its repeatable reads hold under concurrency: the record moves on exactly once."""
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(writer(tryton.url)) for _ in range(4)]
        for _ in range(4):
            id = olga.lead()
            seen = await asyncio.gather(*(one.read("opportunity", id) for one in writers))
            payloads = [change(id, seen[n].version, description=f"by {n}") for n in range(4)]
            attempts = [one.apply(encode(payload), "key") for one, payload in zip(writers, payloads, strict=True)]
            ends = await asyncio.gather(*attempts, return_exceptions=True)
            [winner] = [n for n, end in enumerate(ends) if isinstance(end, Applied)]
            assert [type(end) for end in ends].count(Stale) == 3, ends
            assert olga.shows(id, "description")["description"] == f"by {winner}"
            assert olga.revisions(id) == ["root-write", "olga"]


async def test_the_read_account_cannot_change_anything(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead(employee=olga.employee())
    before = olga.shows(id, "description")
    account = Desk(tryton, "root-read")
    party = olga.party()
    for method, *params in (
        ("model.sale.opportunity.write", [int(id)], {"description": "x"}),
        ("model.sale.opportunity.opportunity", [int(id)]),
        ("model.sale.opportunity.create", [{"description": "x"}]),
        ("model.sale.opportunity.delete", [int(id)]),
        ("model.party.party.write", [party], {"name": "x"}),
        ("model.party.party.create", [{"name": "x"}]),
        ("model.ir.note.create", [{"resource": f"sale.opportunity,{id}", "message": "x"}]),
        ("model.ir.attachment.create", [{"resource": f"sale.opportunity,{id}", "name": "x"}]),
    ):
        assert account.answer(method, *params)["error"][0] == "UserError", method
    async with writer(tryton.url, "root-read") as connector:
        refusal = await refused(connector, change(id, before["_timestamp"], description="x"))
    assert "not allowed" in refusal.reason
    assert olga.shows(id, "description") == before


async def test_the_write_account_can_do_no_more_than_it_must(tryton: Tryton, olga: Desk) -> None:
    id, account = olga.lead(), Desk(tryton, "root-write")
    for method, *params in (
        ("model.sale.opportunity.create", [{"description": "x"}]),
        ("model.sale.opportunity.delete", [int(id)]),
        ("model.party.party.write", [olga.party()], {"name": "x"}),
        ("model.res.user.write", [account.user], {"groups": []}),
    ):
        assert account.answer(method, *params)["error"][0] == "UserError", method


# --- not getting through


async def test_without_a_login_nothing_is_asked(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead()
    read_at = await version(tryton.url, id)
    wrong = TrytonWriter("tryton", tryton.url, DATABASE, "root-nobody:wrong", allowed=LOCAL)
    async with wrong as connector:
        outside = await said(connector.apply(encode(change(id, read_at, comment="x")), "key"))
        assert isinstance(outside, NotApplied) and outside.retryable and outside.retry_after_s == 60
        assert isinstance(await said(connector.read("opportunity", id)), ReadFailed)
    async with writer("http://127.0.0.1:9") as connector:
        away = await said(connector.apply(encode(change(id, read_at, comment="x")), "key"))
        assert isinstance(away, NotApplied) and away.retryable
    for url, database, credential, allowed in (
        (tryton.url, DATABASE, "no-colon", LOCAL),
        (tryton.url, "", "a:b", LOCAL),
        ("http://127.0.0.1:9/", DATABASE, "a:b", frozenset[str]()),
        ("http://10.0.0.8:8000", DATABASE, "a:b", LOCAL),
        ("ftp://127.0.0.1", DATABASE, "a:b", LOCAL),
    ):
        with pytest.raises(NotConfigured):
            TrytonReader("tryton", url, database, credential, allowed=allowed)


async def test_a_session_that_has_ended_is_replaced(tryton: Tryton, olga: Desk) -> None:
    id = olga.lead()
    async with writer(tryton.url) as connector:
        seen = await connector.read("opportunity", id)
        await forget_sessions(tryton)
        assert isinstance(await connector.apply(encode(change(id, seen.version, comment="x")), "key"), Applied)
    assert Desk(tryton).revisions(id) == ["root-write", "olga"]


async def forget_sessions(server: Tryton) -> None:
    postgres = server.postgres
    connection = await asyncpg.connect(postgres.url("postgres", postgres.password(), DATABASE))
    await connection.execute("DELETE FROM ir_session")
    await connection.close()


# --- answers that prove nothing


@asynccontextmanager
async def impostor(answer: bytes) -> Any:
    """Something that lets the account in like Tryton and answers every further call with these bytes."""

    async def serve(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        asked = json.loads(await reader.readexactly(length))
        if asked["method"] == "common.db.login":
            out.write(reply(json.dumps({"id": asked["id"], "result": [5, "token", None]}).encode()))
        else:
            out.write(answer.replace(b"NUMBER", str(asked["id"]).encode()))
        await out.drain()
        out.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


def reply(body: bytes, status: str = "200 OK", kind: str = "application/json", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


MUTE = {
    "nothing": b"",
    "half an answer": reply(b'{"id": NUMBER, "res', length=400),
    "502 in HTML": reply(b"<html>Bad Gateway</html>", "502 Bad Gateway", "text/html"),
    "503 in JSON": reply(b'{"id": NUMBER, "error": ["UserError", ["no", "", null]]}', "503 Busy"),
    "a login page": reply(b"<html>Welcome</html>", kind="text/html"),
    "another's answer": reply(b'{"id": 777777, "result": []}'),
    "an error that is none": reply(b'{"id": NUMBER, "error": 5}'),
    "401 of a proxy": reply(b"", "401 Unauthorized"),
    "403 of a proxy": reply(b"", "403 Forbidden"),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "too much": reply(b'{"id": NUMBER, "result": "' + b"x" * 5_000_000 + b'"}'),
    "a bomb": reply(gzip.compress(b'{"id": NUMBER, "result": "' + b"x" * 50_000_000 + b'"}')),
    "half a gzip": reply(gzip.compress(b'{"id": 2, "result": null}')[:-6]),
}


@pytest.mark.parametrize("answer", MUTE.values(), ids=MUTE.keys())
async def test_an_answer_that_is_not_trytons_own_settles_nothing(answer: bytes) -> None:
    payload = change("1", "1.000000", comment="x")
    async with impostor(answer) as url, writer(url, total_s=3) as connector:
        assert type(await said(connector.apply(encode(payload), "key"))) is Ambiguous
        assert type(await said(connector.find("key", payload))) is ReadFailed
        assert type(await said(connector.read("opportunity", "1"))) is ReadFailed


def test_a_small_answer_does_not_grow_without_bound() -> None:
    assert _unzipped(gzip.compress(b"x" * LARGEST_ANSWER)) == b"x" * LARGEST_ANSWER
    assert _unzipped(gzip.compress(b"x" * (LARGEST_ANSWER + 1))) == b""
    assert _unzipped(b"plain, whatever the label says") == b"plain, whatever the label says"


async def test_a_warning_is_a_refusal_that_names_the_warning(tryton: Tryton, olga: Desk) -> None:
    """Tryton's client would let a person click a warning away; the root never does."""
    id = olga.lead()
    read_at = await version(tryton.url, id)
    warning = {"error": ["UserWarning", ["reopen_old_lead.7", "This lead is old.", ""]]}
    async with wire(tryton) as line:
        line.instead = json.dumps(warning)[1:-1]
        async with writer(line.url) as connector:
            refusal = await refused(connector, change(id, read_at, comment="x"))
    assert (refusal.status, "reopen_old_lead.7" in refusal.reason) == (409, True)


# --- the call that nobody knows the end of


async def test_lost_before_it_happened(tryton: Tryton, olga: Desk) -> None:
    """Tryton stands still when the change arrives, and dies: nothing was changed, and the same key does it afterwards."""
    id = olga.lead()
    payload = change(id, await version(tryton.url, id), comment="after the fall")
    async with wire(tryton) as line:
        line.before = tryton.freeze
        async with writer(line.url, total_s=4) as connector:  # of which signing in has its share
            assert isinstance(await said(connector.apply(encode(payload), "key")), Ambiguous)
            assert isinstance(await said(connector.find("key", payload)), ReadFailed)  # nobody can tell yet
        tryton.kill()
        tryton.start()
        async with writer(line.url) as connector:
            assert await connector.find("key", payload) is None
            applied = await connector.apply(encode(payload), "key")
            assert await connector.find("key", payload) == applied.receipt
    assert not applied.replayed
    assert olga.revisions(id) == ["root-write", "olga"]


async def test_lost_after_it_happened(tryton: Tryton, olga: Desk) -> None:
    """Tryton has committed and dies with the answer: the change is found, also after somebody else's next one."""
    id = olga.lead()
    payload = change(id, await version(tryton.url, id), comment="before the fall")
    async with wire(tryton) as line:
        line.after = tryton.kill
        async with writer(line.url) as connector:
            assert isinstance(await said(connector.apply(encode(payload), "key")), Ambiguous)
        tryton.start()
        olga.change(id, comment="and after it")
        async with writer(line.url) as connector:
            receipt = await connector.find("key", payload)
            again = await connector.apply(encode(payload), "key")
    assert receipt is not None and again == Applied(receipt, replayed=True)
    assert olga.shows(id, "comment")["comment"] == "and after it"
    assert olga.revisions(id) == ["olga", "root-write", "olga"]


async def test_late_but_after_all(tryton: Tryton, olga: Desk) -> None:
    """Tryton stands still, the root gives up, Tryton goes on with the call that nobody waits for: done once, and found."""
    id = olga.lead()
    payload = change(id, await version(tryton.url, id), comment="better late")
    async with wire(tryton) as line:
        line.before = tryton.freeze
        async with writer(line.url, total_s=4) as connector:  # of which signing in has its share
            assert isinstance(await said(connector.apply(encode(payload), "key")), Ambiguous)
            tryton.thaw()
            async with asyncio.timeout(20):
                again = await connector.apply(encode(payload), "key")  # at once: it may well meet the late one
                while len(olga.revisions(id)) < 2:
                    await asyncio.sleep(0.05)
            assert await connector.find("key", payload) == again.receipt
    assert olga.revisions(id) == ["root-write", "olga"]


async def test_a_crash_in_the_middle_of_trytons_transaction_undoes_it(tryton: Tryton, olga: Desk) -> None:
    """The record is locked by another transaction, Tryton waits for it inside its own, and is killed there."""
    id = olga.lead()
    payload = change(id, await version(tryton.url, id), comment="half way")
    postgres = tryton.postgres
    other = await asyncpg.connect(postgres.url("postgres", postgres.password(), DATABASE))
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM sale_opportunity WHERE id = $1 FOR UPDATE", int(id))
    async with writer(tryton.url, total_s=20) as connector:
        call = asyncio.create_task(said(connector.apply(encode(payload), "key")))
        async with asyncio.timeout(15):
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.02)
        tryton.kill()
        assert isinstance(await call, Ambiguous)
    await transaction.rollback()
    tryton.start()
    async with writer(tryton.url) as connector:
        assert await connector.find("key", payload) is None
        assert (await connector.read("opportunity", id)).version == payload.expected_version
    await other.close()
    assert olga.revisions(id) == ["olga"]


async def test_what_cannot_be_told_is_not_told(tryton: Tryton, olga: Desk) -> None:
    """The root's own account made the next change, with other values in the same field: only a person can know why."""
    id = olga.lead()
    read_at = await version(tryton.url, id)
    async with writer(tryton.url) as connector:
        await connector.apply(encode(change(id, read_at, comment="one")), "key-1")
        other = change(id, read_at, comment="two")
        assert isinstance(await said(connector.find("key-2", other)), ReadFailed)
        assert isinstance(
            await said(connector.apply(encode(other), "key-2")), Stale
        )  # but of this call Tryton has told
        assert await connector.find("key-3", change(id, read_at, description="three")) is None  # certainly not this one
        assert isinstance(await said(connector.find("key-4", change(id, "1.000000", comment="one"))), ReadFailed)
    async with reader(tryton.url) as connector:
        assert isinstance(await said(connector.find("key-1", change(id, read_at, comment="one"))), ReadFailed)
