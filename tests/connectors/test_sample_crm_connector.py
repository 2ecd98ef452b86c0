"""The CRM connector against the real sample CRM over HTTP, and against a peer that answers with scripted bytes."""

import asyncio
import gzip
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import pytest
from pydantic import SecretStr

from app.outbound import allowed_hosts
from app.writebacks.connectors import (
    Ambiguous,
    BadPayload,
    ConnectorError,
    NotApplied,
    NotConfigured,
    NoWriteCredential,
    Observed,
    Payload,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    Writer,
    decimal_text,
    decode,
    encode,
    registry,
    verify,
)
from app.writebacks.connectors.sample_crm import SampleCrmReader, SampleCrmWriter
from app.writebacks.connectors.wire import LARGEST_ANSWER
from sample_crm.service import Failures
from tests.connectors.outcome import outcome
from tests.sample_crm.crm_process import READ, WRITE, as_process, client, in_thread

RAISE = Payload("sample_crm", "lead", "L-1001", "update", {"priority": "high", "stage": "proposal"}, "1")


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def url(tmp_path: Path, failures: Failures) -> Iterator[str]:
    with in_thread(tmp_path / "crm.sqlite", failures) as address:
        yield address


def history(url: str, lead: str = "L-1001") -> list[dict[str, Any]]:
    with client(url, READ) as crm:
        return crm.get(f"/changes/lead/{lead}").json()["items"]


# -- against the real CRM


def test_an_approved_payload_is_applied_and_read_back(url: str) -> None:
    async def run() -> None:
        async with SampleCrmWriter(url, WRITE) as crm:
            before = await crm.read("lead", "L-1001")
            assert before.version == "1" and before.value["priority"] == "normal"
            assert datetime.now(UTC) - before.read_at < timedelta(seconds=5)
            assert verify(RAISE, before) == (False, {"priority": "normal", "stage": "contacted"})
            assert await crm.find("wb-1") is None

            applied = await crm.apply(encode(RAISE), "wb-1")

            assert applied.receipt["version"] == 2 and not applied.replayed
            after = await crm.read("lead", "L-1001")
            assert after.version == "2" and verify(RAISE, after) == (True, RAISE.changes)
            assert await crm.find("wb-1") == applied.receipt
            assert (await crm.apply(encode(RAISE), "wb-1")).replayed

    asyncio.run(run())
    (change,) = history(url)
    assert change["after"] == RAISE.changes and change["idempotency_key"] == "wb-1"


def test_two_executions_of_one_key_at_once_make_one_change(url: str, failures: Failures) -> None:
    failures.before_apply_s = 0.05

    async def run() -> tuple[Any, Any]:
        async with SampleCrmWriter(url, WRITE) as one, SampleCrmWriter(url, WRITE) as other:
            return await asyncio.gather(one.apply(encode(RAISE), "wb-1"), other.apply(encode(RAISE), "wb-1"))

    first, second = asyncio.run(run())
    assert first.receipt == second.receipt and sorted([first.replayed, second.replayed]) == [False, True]
    assert len(history(url)) == 1


def test_a_moved_record_is_stale_and_shown_as_it_is_now(url: str) -> None:
    async def run() -> Any:
        async with SampleCrmWriter(url, WRITE) as crm:
            await crm.apply(encode(replace(RAISE, changes={"notes": "somebody was faster"})), "wb-1")
            return await outcome(crm.apply(encode(RAISE), "wb-2"))

    stale = asyncio.run(run())
    assert isinstance(stale, Stale) and isinstance(stale, NotApplied) and not stale.retryable
    assert (stale.current.version, stale.current.value["notes"]) == ("2", "somebody was faster")
    assert len(history(url)) == 1


def test_an_answer_lost_after_the_change_is_ambiguous_and_find_settles_it(url: str, failures: Failures) -> None:
    failures.drop_after_apply = True

    async def run() -> None:
        async with SampleCrmWriter(url, WRITE) as crm:
            assert isinstance(await outcome(crm.apply(encode(RAISE), "wb-1")), Ambiguous)
            receipt = await crm.find("wb-1")
            assert receipt is not None and receipt["version"] == 2
            assert verify(RAISE, await crm.read("lead", "L-1001")).matches

    asyncio.run(run())
    assert len(history(url)) == 1


def test_no_answer_in_time_is_ambiguous_and_the_same_key_never_applies_twice(url: str, failures: Failures) -> None:
    failures.before_apply_s = 0.6

    async def run() -> None:
        async with SampleCrmWriter(url, WRITE, total_s=0.2) as crm:
            started = time.monotonic()
            assert isinstance(await outcome(crm.apply(encode(RAISE), "wb-1")), Ambiguous)
            assert time.monotonic() - started < 0.5
            assert await crm.find("wb-1") is None  # not yet: the request is still under way
            await asyncio.sleep(0.6)
            failures.before_apply_s = 0
            assert await crm.find("wb-1") is not None
            assert (await crm.apply(encode(RAISE), "wb-1")).replayed

    asyncio.run(run())
    assert len(history(url)) == 1


def test_busy_answers_are_proof_that_nothing_was_applied(url: str, failures: Failures) -> None:
    async def run() -> None:
        async with SampleCrmWriter(url, WRITE) as crm:
            for failures.answer in (429, 503):
                busy = await outcome(crm.apply(encode(RAISE), "wb-1"))
                assert type(busy) is NotApplied and busy.retryable and busy.retry_after_s == 1
            assert history(url) == []
            failures.answer = None
            assert not (await crm.apply(encode(RAISE), "wb-1")).replayed

    asyncio.run(run())


def test_a_killed_crm_is_asked_again_after_its_restart(tmp_path: Path) -> None:
    data = tmp_path / "crm.sqlite"

    async def kill_during(failures: Failures, key: str, applied_by_then: bool) -> None:
        with as_process(data, failures) as (address, process):
            async with SampleCrmWriter(address, WRITE) as crm:
                writing = asyncio.create_task(outcome(crm.apply(encode(RAISE), key)))
                await asyncio.sleep(0.3)
                while applied_by_then and await crm.find(key) is None:
                    await asyncio.sleep(0.02)
                assert not writing.done()
                process.kill()
                process.wait(10)
                assert isinstance(await writing, Ambiguous)
                refused = await outcome(crm.apply(encode(RAISE), key))
                assert type(refused) is NotApplied and refused.retryable  # connect refused

    async def settle(address: str) -> None:
        async with SampleCrmWriter(address, WRITE) as crm:
            assert await crm.find("wb-lost") is None
            receipt = await crm.find("wb-1")
            assert receipt is not None and verify(RAISE, await crm.read("lead", "L-1001")).matches
            again = await crm.apply(encode(RAISE), "wb-1")
            assert again.replayed and again.receipt == receipt

    asyncio.run(kill_during(Failures(before_apply_s=30), "wb-lost", applied_by_then=False))
    asyncio.run(kill_during(Failures(after_apply_s=30), "wb-1", applied_by_then=True))
    with in_thread(data) as address:
        asyncio.run(settle(address))
        assert [change["idempotency_key"] for change in history(address)] == ["wb-1"]


def test_definite_refusals_name_their_reason_and_change_nothing(url: str) -> None:
    async def run() -> None:
        async with SampleCrmWriter(url, WRITE) as crm, SampleCrmWriter(url, READ) as lesser:
            unknown = await outcome(crm.apply(encode(replace(RAISE, changes={"colour": "red"})), "wb-1"))
            assert isinstance(unknown, Refused) and unknown.status == 422 and "colour" in unknown.reason
            missing = await outcome(crm.apply(encode(replace(RAISE, record_id="L-9")), "wb-1"))
            assert isinstance(missing, Refused) and missing.status == 404
            barred = await outcome(lesser.apply(encode(RAISE), "wb-1"))
            assert isinstance(barred, Refused) and barred.status == 403
            for never_sent, key in (
                (encode(replace(RAISE, connector="other")), "wb-1"),
                (encode(replace(RAISE, operation="delete")), "wb-1"),
                (encode(replace(RAISE, kind="account")), "wb-1"),
                (encode(replace(RAISE, record_id="..")), "wb-1"),
                (encode(replace(RAISE, expected_version='1", "v2')), "wb-1"),
                (encode(RAISE), "two words"),
                (encode(RAISE), "a/b"),
                (encode(RAISE)[:-1], "wb-1"),
            ):
                refused = await outcome(crm.apply(never_sent, key))
                assert isinstance(refused, Refused) and refused.status is None

    asyncio.run(run())
    assert history(url) == []


def test_reading_pages_filters_and_tells_missing_from_broken(url: str) -> None:
    async def run() -> None:
        async with SampleCrmReader(url, READ) as crm, SampleCrmReader(url, "not-the-read-token") as stranger:
            first = await crm.list("lead", limit=10)
            second = await crm.list("lead", limit=10, cursor=first.next_cursor)
            found = [lead.record_id for lead in first.items + second.items]
            assert found == [f"L-{number}" for number in range(1001, 1013)] and second.next_cursor is None
            own = await crm.list("activity", filters={"lead_id": "L-1006"})
            assert {activity.value["lead_id"] for activity in own.items} == {"L-1006"} and len(own.items) == 5
            assert isinstance(await outcome(crm.read("lead", "L-9999")), RecordMissing)
            odd = await outcome(crm.read("lead", "a/../b?c=d#e%2F é"))
            assert isinstance(odd, Refused) and odd.status == 404
            for kind, record_id in (("lead", ""), ("lead", "."), ("lead", "\ud800"), ("../changes", "L-1001")):
                refused = await outcome(crm.read(kind, record_id))
                assert isinstance(refused, Refused) and refused.status is None
            limit = await outcome(crm.list("lead", limit=1000))
            assert isinstance(limit, Refused) and limit.status == 422
            for asked in (stranger.read("lead", "L-1001"), stranger.list("lead"), stranger.find("wb-1")):
                unauthorized = await outcome(asked)
                assert isinstance(unauthorized, Refused) and unauthorized.status == 401

    asyncio.run(run())


def test_a_proxy_in_the_environment_is_not_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    async def run() -> Observed:
        async with SampleCrmReader(url, READ) as crm:
            return await crm.read("lead", "L-1001")

    assert asyncio.run(run()).record_id == "L-1001"


# -- against a peer that misbehaves


@asynccontextmanager
async def scripted(
    answer: bytes, *, pause: float = 0, forever: bytes = b"", ending: Literal["close", "reset", "second"] = "close"
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A peer that reads one request per connection and sends `answer` (then `forever`, every `pause` s).

    It ends by closing, by a TCP reset, or by closing only when a second request comes in on the same connection.
    """
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        seen.append(head + await reader.readexactly(int(length[1]) if length else 0))
        try:
            writer.write(answer)
            await writer.drain()
            if pause and not forever:
                await asyncio.sleep(pause)
            while forever:
                writer.write(forever)
                await writer.drain()
                await asyncio.sleep(pause)
            if ending == "second":
                await reader.read(1)
        except OSError:
            pass
        finally:
            if ending == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


def http(status: int, body: bytes | dict[str, Any], media_type: str = "application/json", *more: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {media_type}", f"Content-Length: {len(content)}", *more, "", ""]
    return "\r\n".join(lines).encode() + content


def problem(status: int, code: str, *more: str, **members: Any) -> bytes:
    return http(status, {"status": status, "code": code, "detail": "no", **members}, "application/problem+json", *more)


RECEIPT = {"idempotency_key": "wb-1", "kind": "lead", "id": "L-1001", "version": 2}
HTML = b"<html>no</html>"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SMTP ready\r\n",
        http(200, HTML, "text/html"),
        http(200, b"[1]"),
        http(200, b'{"idempotency_key": NaN}'),
        http(200, b"[" * 100_000),
        http(200, gzip.compress(json.dumps(RECEIPT).encode(), mtime=0), "application/json", "Content-Encoding: gzip"),
        http(200, RECEIPT | {"idempotency_key": "wb-2"}),
        http(200, RECEIPT | {"id": "L-1002"}),
        http(200, RECEIPT | {"version": "2"}),
        http(201, RECEIPT),
        http(202, b""),
        http(302, b"", "text/plain", "Location: /elsewhere"),
        http(307, b"", "text/plain", "Location: /elsewhere"),
        http(404, HTML, "text/html"),
        http(429, HTML, "text/html"),
        http(503, HTML, "text/html"),
        http(503, {"status": 503, "code": "busy"}),
        problem(412, "stale"),
        problem(412, "stale", current={"kind": "lead", "id": "L-2", "version": 2, "fields": {}}),
        problem(500, "internal"),
        problem(502, "bad_gateway"),
        problem(504, "late"),
        http(422, {"status": 409, "code": "other"}, "application/problem+json"),
    ],
)
def test_whatever_is_not_the_crms_own_word_about_a_change_is_ambiguous(answer: bytes) -> None:
    async def run() -> None:
        async with scripted(answer) as (url, seen), SampleCrmWriter(url, WRITE, total_s=5) as crm:
            assert isinstance(await outcome(crm.apply(encode(RAISE), "wb-1")), Ambiguous)
            assert len(seen) == 1  # neither retried nor redirected

    asyncio.run(run())


def test_a_connection_that_breaks_after_sending_is_ambiguous_and_kept_ones_are_not_trusted() -> None:
    async def run() -> None:
        async with scripted(b"", ending="reset") as (url, _), SampleCrmWriter(url, WRITE) as crm:
            assert isinstance(await outcome(crm.apply(encode(RAISE), "wb-1")), Ambiguous)
        async with scripted(http(200, RECEIPT), ending="second") as (url, seen), SampleCrmWriter(url, WRITE) as crm:
            for _ in range(2):
                assert (await crm.apply(encode(RAISE), "wb-1")).receipt == RECEIPT
            assert len(seen) == 2

    asyncio.run(run())


def test_slow_silent_and_endless_answers_are_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    peers = [
        scripted(b"", pause=2),
        scripted(head + b"Content-Length: 500\r\n\r\n{", forever=b" ", pause=0.05),
        scripted(head + b"\r\n", forever=b" " * 65536, pause=0),
        scripted(http(200, b" " * (LARGEST_ANSWER + 1) + json.dumps(RECEIPT).encode())),
    ]

    async def run() -> None:
        for peer in peers:
            async with peer as (url, _), SampleCrmWriter(url, WRITE, total_s=0.3) as crm:
                started = time.monotonic()
                assert isinstance(await outcome(crm.apply(encode(RAISE), "wb-1")), Ambiguous)
                assert time.monotonic() - started < 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "kind", "attributes"),
    [
        (problem(503, "busy", "Retry-After: 7"), NotApplied, {"retryable": True, "retry_after_s": 7}),
        (problem(429, "busy", "Retry-After: soon"), NotApplied, {"retryable": True, "retry_after_s": None}),
        (problem(422, "bad_fields"), Refused, {"status": 422}),
        (problem(401, "unauthorized"), Refused, {"status": 401}),
    ],
)
def test_the_crms_own_refusals_are_definite(answer: bytes, kind: type, attributes: dict[str, Any]) -> None:
    async def run() -> None:
        async with scripted(answer) as (url, _), SampleCrmWriter(url, WRITE) as crm:
            refused = await outcome(crm.apply(encode(RAISE), "wb-1"))
            assert type(refused) is kind
            assert {name: getattr(refused, name) for name in attributes} == attributes

    asyncio.run(run())


def test_the_request_carries_key_version_and_exactly_the_approved_changes() -> None:
    async def run() -> bytes:
        async with scripted(http(200, RECEIPT)) as (url, seen), SampleCrmWriter(url + "/base", WRITE) as crm:
            await crm.apply(encode(replace(RAISE, expected_version="17")), "wb-1")
            await outcome(crm.read("lead", "a/b?c#d%2F é"))
            assert seen[1].startswith(b"GET /base/records/lead/a%2Fb%3Fc%23d%252F%20%C3%A9 HTTP/1.1\r\n")
            return seen[0]

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "patch /base/records/lead/l-1001 http/1.1"
    assert {"idempotency-key: wb-1", 'if-match: "v17"', f"authorization: bearer {WRITE}"} <= set(lines)
    assert body == b'{"changes":{"priority":"high","stage":"proposal"}}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        http(404, HTML, "text/html"),
        problem(404, "no_such_route"),
        problem(503, "busy"),
        http(200, HTML, "text/html"),
        http(200, RECEIPT | {"idempotency_key": "wb-2"}),
        http(200, b'{"idempotency_key":"wb-1","version":NaN}'),
        http(302, b"", "text/plain", "Location: /elsewhere"),
    ],
)
def test_only_the_crm_itself_can_say_that_a_change_did_not_arrive(answer: bytes) -> None:
    async def run() -> None:
        async with scripted(answer) as (url, seen), SampleCrmWriter(url, WRITE) as crm:
            assert isinstance(await outcome(crm.find("wb-1")), ReadFailed | Refused)
            assert len(seen) == 1

    asyncio.run(run())


@pytest.mark.parametrize("code", ["receipt_not_found", "record_not_found"])
@pytest.mark.parametrize("status", [400, 500, 503])
def test_only_404_says_that_something_is_not_there(status: int, code: str) -> None:
    async def run() -> None:
        async with scripted(problem(status, code)) as (url, _), SampleCrmReader(url, READ) as crm:
            for asked in (crm.find("wb-1", RAISE), crm.read("lead", "L-1001"), crm.list("lead")):
                said = await outcome(asked)
                assert isinstance(said, ReadFailed | Refused) and not isinstance(said, RecordMissing), said

    asyncio.run(run())


def test_a_missing_receipt_is_no_answer_about_a_record() -> None:
    async def run() -> None:
        async with scripted(problem(404, "receipt_not_found")) as (url, _), SampleCrmReader(url, READ) as crm:
            assert await crm.find("wb-1", RAISE) is None
            for asked in (crm.read("lead", "L-1001"), crm.list("lead")):
                said = await outcome(asked)
                assert isinstance(said, ReadFailed | Refused) and not isinstance(said, RecordMissing), said

    asyncio.run(run())


@pytest.mark.parametrize("length", [501, 70_000, 2_000_000])
def test_what_no_address_can_carry_is_refused_unsent(length: int) -> None:
    async def run() -> None:
        async with scripted(problem(404, "record_not_found")) as (url, seen), SampleCrmWriter(url, WRITE) as crm:
            long = "é" * length
            for asked in (
                crm.read("lead", long), crm.list("lead", cursor=long), crm.list("activity", filters={"lead_id": long}),
                crm.list("activity", filters={"lead_id": "\ud800"}), crm.apply(encode(replace(RAISE, record_id=long)), "wb-1"),
            ):  # fmt: skip
                said = await outcome(asked)
                assert isinstance(said, Refused) and said.status is None and len(said.reason) < 1_000
            assert seen == []

    asyncio.run(run())


def test_the_crms_words_are_cut_before_they_are_kept() -> None:
    async def run() -> None:
        answer = problem(422, "c" * 500_000, detail="d" * 100_000)
        async with scripted(answer) as (url, _), SampleCrmWriter(url, WRITE) as crm:
            for asked in (crm.apply(encode(RAISE), "wb-1"), crm.read("lead", "L-1001")):
                said = await outcome(asked)
                assert isinstance(said, Refused) and len(said.reason) < 700, len(said.reason)

    asyncio.run(run())


@pytest.mark.parametrize("number", ["1E+999999999", "1E-999999999", "0E+999999999", "-7E+131073", "NaN", "Infinity"])
def test_a_number_that_nobody_can_write_out_is_not_written_out(number: str) -> None:
    with pytest.raises(ReadFailed):
        decimal_text(Decimal(number))


def test_a_number_is_written_out_as_far_as_a_target_may_hold_one() -> None:
    assert decimal_text(Decimal("1E+131072")) == "1" + "0" * 131_072
    assert [decimal_text(Decimal(one)) for one in ("1.50", "-0", "1E+3", "1E-3")] == ["1.5", "0", "1000", "0.001"]


def test_an_answer_about_another_record_is_no_observation() -> None:
    async def run() -> None:
        other = {"kind": "lead", "id": "L-1002", "version": 2, "fields": {}}
        async with scripted(http(200, other)) as (url, _), SampleCrmReader(url, READ) as crm:
            assert isinstance(await outcome(crm.read("lead", "L-1001")), ReadFailed)
            assert isinstance(await outcome(crm.list("lead")), ReadFailed)

    asyncio.run(run())


# -- payloads, comparison, registry


def test_a_payload_has_exactly_one_spelling() -> None:
    written = encode(RAISE)
    assert decode(written) == RAISE
    assert written == (
        b'{"changes":{"priority":"high","stage":"proposal"},"connector":"sample_crm","expected_version":"1",'
        b'"operation":"update","target":{"id":"L-1001","kind":"lead"}}'
    )
    document = json.loads(written)
    spellings: list[bytes] = [
        json.dumps(document).encode(),
        written + b"\n",
        written.replace(b'{"priority":"high",', b'{"priority":"low","priority":"high",'),
        b"[" * 100_000,
        b"\xff",
        b"null",
    ]
    different: list[Callable[[dict[str, Any]], object]] = [
        lambda d: d.pop("expected_version"),
        lambda d: d.update(expected_version=1),
        lambda d: d.update(changes={}),
        lambda d: d.update(more=1),
        lambda d: d["target"].update(more=1),
        lambda d: d.update(target="L-1001"),
    ]
    for alter in different:
        altered = json.loads(written)
        alter(altered)
        spellings.append(json.dumps(altered, sort_keys=True, separators=(",", ":")).encode())
    for spelling in spellings:
        with pytest.raises(BadPayload):
            decode(spelling)
    for unwritable in ({"employees": float("nan")}, {"owner": "\ud800"}, {"employees": 2**60}, {}):
        with pytest.raises(BadPayload):
            encode(replace(RAISE, changes=unwritable))


def test_verify_compares_values_as_json_and_reports_what_was_seen() -> None:
    def observed(value: dict[str, Any], record_id: str = "L-1001") -> Observed:
        return Observed("lead", record_id, value, "2", datetime.now(UTC))

    asked = replace(RAISE, changes={"employees": 1, "notes": None})
    assert verify(asked, observed({"employees": 1, "notes": None, "owner": "x"})) == (
        True,
        {"employees": 1, "notes": None},
    )
    for value in (
        {"employees": True, "notes": None},
        {"employees": "1", "notes": None},
        {"employees": 2**60, "notes": None},
        {"employees": 1},
        {},
    ):
        assert verify(asked, observed(value)) == (False, value)
    assert verify(asked, observed({"employees": 1, "notes": None}, "L-1002")) == (False, {})


def settings(hosts: str = "", **given: Any) -> Any:
    values = {
        "crm_base_url": None,
        "crm_read_token": None,
        "crm_write_token": None,
        "connector_credentials": {},
    } | given
    return SimpleNamespace(**values, outbound_hosts=lambda: allowed_hosts(hosts))


def definition(
    body: dict[str, Any] | None = None, kind: str = "sample_crm", name: str = "sample_crm"
) -> registry.Definition:
    return registry.Definition(name, 1, kind, body or {}, f"CONNECTOR_DEMO__{name.upper()}")


def test_the_registry_gives_a_writer_only_to_a_process_with_the_write_token() -> None:
    serving = settings(crm_base_url="http://127.0.0.1:9", crm_read_token=SecretStr(READ))
    reading = registry.reader(definition(), serving)
    assert reading.name == "sample_crm" and not hasattr(reading, "apply")
    with pytest.raises(NoWriteCredential):
        registry.writer(definition(), serving)
    with pytest.raises(NoWriteCredential):
        registry.writer(definition(), settings(crm_base_url="http://127.0.0.1:9", crm_write_token=SecretStr("")))
    writer: Writer = registry.writer(definition(), settings(crm_base_url="http://127.0.0.1:9", crm_write_token=WRITE))
    assert hasattr(writer, "apply")
    for body, given in (
        ({"address": "x"}, serving),
        ({}, settings(crm_read_token=READ)),
        ({}, settings(crm_base_url="http://127.0.0.1:9")),
        ({}, settings(crm_base_url="ftp://127.0.0.1", crm_read_token=READ)),
        ({}, settings(crm_base_url="http://127.0.0.1:70000", crm_read_token=READ)),
        ({}, settings(crm_base_url="http://127.0.0.1:9", crm_read_token="a\nb")),
        ({"read_by": "executor"}, serving),
    ):
        with pytest.raises(NotConfigured):
            registry.reader(definition(body), given)
    with pytest.raises(NotConfigured):
        registry.reader(definition(kind="other"), serving)


def test_credentials_come_from_the_environment_by_the_connectors_own_name() -> None:
    chosen = {"base_url": "http://127.0.0.1:9"}
    keys = {"CONNECTOR_DEMO__SAMPLE_CRM_READ": SecretStr(READ), "CONNECTOR_DEMO__SAMPLE_CRM_WRITE": SecretStr(WRITE)}
    theirs = {
        "CONNECTOR_OTHER__SAMPLE_CRM_READ": SecretStr(READ),
        "CONNECTOR_OTHER__SAMPLE_CRM_WRITE": SecretStr(WRITE),
    }
    allowed = {"hosts": "127.0.0.1:9", "connector_credentials": keys}
    assert registry.reader(definition(chosen), settings(**allowed)).name == "sample_crm"
    assert hasattr(registry.writer(definition(chosen), settings(**allowed)), "apply")
    assert registry.readable(definition(chosen), settings(**allowed))
    for given in (
        settings(connector_credentials=keys),  # the host is not allowed
        settings(hosts="127.0.0.1:10", connector_credentials=keys),
        settings(hosts="127.0.0.1:9", connector_credentials=theirs),
        # the deployment's own tokens never go to an address that a tenant chose
        settings(hosts="127.0.0.1:9", crm_base_url="http://127.0.0.1:9", crm_read_token=READ, crm_write_token=WRITE),
    ):
        with pytest.raises(NotConfigured):
            registry.reader(definition(chosen), given)
        with pytest.raises(NotConfigured):
            registry.writer(definition(chosen), given)
        assert not registry.readable(definition(chosen), given)


def test_reasons_never_hold_a_credential(url: str) -> None:
    async def run() -> list[ConnectorError]:
        async with SampleCrmWriter(url, READ) as lesser, SampleCrmWriter("http://127.0.0.1:9", WRITE) as nobody:
            return [
                await outcome(lesser.apply(encode(RAISE), "wb-1")),
                await outcome(nobody.apply(encode(RAISE), "wb-1")),
                await outcome(nobody.read("lead", "L-1001")),
            ]

    for refused in asyncio.run(run()):
        assert isinstance(refused, ConnectorError) and refused.reason == str(refused)
        assert READ not in refused.reason and WRITE not in refused.reason
        assert not isinstance(refused, httpx.HTTPError)
