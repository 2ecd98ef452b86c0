import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from badly_behaved import HEALTH, PADDED, BadPeer
from boundary_samples import KEYS, MISSION, NOW, dispatch, few
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

from colony_client import contract as c
from colony_client.client import KEPT_BYTES, MAX_COLONY_ANSWER_BYTES, ColonyClient, RootClient, parse_retry_after
from colony_client.errors import (
    BoundaryError,
    Busy,
    Malformed,
    Refused,
    SequenceGap,
    Superseded,
    TimedOut,
    Unauthorized,
    Unreachable,
)

pytestmark = pytest.mark.anyio
Kind = TypeVar("Kind", bound=BoundaryError)

LOG = c.Log(seq=1, at=NOW, level="info", message="hello")


async def health(peer: BadPeer, manner: str, timeout_s: float = 5) -> c.Health:
    async with ColonyClient(f"{peer.url}/{manner}", KEYS, timeout_s=timeout_s) as colony:
        return await colony.health()


async def events(peer: BadPeer, manner: str) -> c.EventReceipt:
    async with RootClient(f"{peer.url}/{manner}", KEYS, timeout_s=5) as root:
        root.hold(MISSION, 1, "token")
        return await root.send_events(MISSION, 1, [LOG])


async def failure(kind: type[Kind], call: Awaitable[Any]) -> Kind:
    with pytest.raises(BoundaryError) as raised:
        await call
    assert type(raised.value) is kind, repr(raised.value)
    return raised.value


# --- a peer that keeps the contract: it verifies every signature and reads every body strictly


async def test_the_root_talks_to_a_colony(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/good", KEYS) as colony:
        assert (await colony.health()).service == "colony"
        assert (await colony.ready()).providers["research"].state == "ok"
        assert (await colony.status(MISSION)).last_seq_sent == 3
        assert (await colony.cancel(MISSION, "no longer needed")).state == "cancelled"


async def test_many_missions_travel_in_one_call_and_are_answered_in_order(peer: BadPeer) -> None:
    before = len(peer.seen)
    missions = [dispatch(uuid4(), attempt) for attempt in range(1, 65)]
    async with ColonyClient(f"{peer.url}/good", KEYS) as colony:
        answers = await colony.dispatch(missions)
    assert [path for path, _, _ in peer.seen[before:]] == ["/good/health", "/good/v1/missions"]
    assert [(one.mission_id, one.attempt) for one in answers] == [(one.mission_id, one.attempt) for one in missions]
    assert {one.outcome for one in answers} == {"accepted"}


async def test_a_colony_talks_to_the_root_and_carries_the_newest_token(peer: BadPeer) -> None:
    async with RootClient(f"{peer.url}/root", KEYS) as root:
        root.hold(MISSION, 1, "first")
        root.hold(MISSION, 2, "second")
        receipt = await root.send_events(MISSION, 1, [LOG])
        assert (receipt.accepted_seq, receipt.next_token) == (1, "first-1")
        await root.send_events(MISSION, 1)
        assert peer.seen[-1][1]["authorization"] == "Bearer first-1"
        assert await root.call_tool(MISSION, 1, "workspace.search", {"query": "ü"}) == {"echo": {"query": "ü"}}
        assert peer.seen[-1][1]["authorization"] == "Bearer first-1-1"
        await root.send_events(MISSION, 2)
        assert peer.seen[-1][1]["authorization"] == "Bearer second"

        root.forget(MISSION, 1)
        with pytest.raises(ValueError, match="no token is held"):
            await root.send_events(MISSION, 1)
        assert (await root.mission_view(MISSION)).last_seq == 4
        assert "authorization" not in peer.seen[-1][1]
        with pytest.raises(ValueError, match="pattern"):
            await root.call_tool(MISSION, 2, "../../../v1/missions", {})


async def test_neither_secret_nor_foreign_headers_leave(peer: BadPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # would fail, were it used
    await health(peer, "good")
    path, headers, body = peer.seen[-1]
    assert b"correct-horse" not in f"{path}{headers}".encode() + body
    assert headers["accept-encoding"] == "gzip"
    assert headers["colony-contract-version"] == c.CONTRACT_VERSION
    assert headers["x-colony-key"] == "k1"


async def test_the_trace_goes_along_and_baggage_stays(peer: BadPeer) -> None:
    span = TracerProvider().get_tracer("test").start_span("mission")
    attached = context.attach(baggage.set_baggage("private", "yes", trace.set_span_in_context(span)))
    try:
        await health(peer, "good")
    finally:
        context.detach(attached)
    headers = peer.seen[-1][1]
    assert headers["traceparent"].split("-")[1] == f"{span.get_span_context().trace_id:032x}"
    assert "baggage" not in headers


async def test_cookies_are_not_kept(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/cookies", KEYS) as colony:
        await colony.health()
        await colony.health()
    assert "cookie" not in peer.seen[-1][1]


async def test_gzip_is_understood(peer: BadPeer) -> None:
    assert (await health(peer, "gzipped")).service == "colony"


async def test_a_newer_peer_may_say_more_but_not_another_major(peer: BadPeer) -> None:
    assert (await health(peer, "newer")).contract_version == "1.9"
    assert "/contract_version" in str(await failure(Malformed, health(peer, "next_major")))


async def test_an_unready_colony_still_answers(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/unready", KEYS) as colony:
        ready = await colony.ready()
    assert not ready.ready and ready.providers["research"].detail == "no route"
    async with ColonyClient(f"{peer.url}/resting", KEYS) as colony:
        await failure(Busy, colony.ready())


# --- a peer that does not


async def test_redirects_are_not_followed(peer: BadPeer) -> None:
    before = len(peer.seen)
    error = await failure(Malformed, health(peer, "redirect"))
    assert error.status == 307
    assert [path for path, *_ in peer.seen[before:]] == ["/redirect/health"]


@pytest.mark.parametrize(
    ("manner", "kept"),
    [
        ("html200", b"<html>Welcome"),
        ("truncated", b'{"status": "o'),
        ("truncated_gzip", b'{"status": "ok"'),
        ("damaged_gzip", b""),
        ("two_gzips", b'{"status": "ok"'),
        ("brotli", b""),
        ("deep", b"[[[["),
        ("empty", b""),
        ("unknown_state", b""),
    ],
)
async def test_answers_that_cannot_be_trusted_are_kept_as_bytes(peer: BadPeer, manner: str, kept: bytes) -> None:
    error = await failure(Malformed, health(peer, manner))
    assert error.body.startswith(kept)
    assert len(error.body) <= KEPT_BYTES
    assert error.kind == "malformed" and error.status in (200, 204)


async def test_answers_about_others_are_malformed(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/wrong_mission", KEYS) as colony:
        await failure(Malformed, colony.status(MISSION))
        await failure(Malformed, colony.cancel(MISSION, "stop"))
    async with ColonyClient(f"{peer.url}/wrong_answers", KEYS) as colony:
        assert (await failure(Malformed, colony.dispatch([dispatch()]))).body
    async with ColonyClient(f"{peer.url}/twice_answered", KEYS) as colony:
        await failure(Malformed, colony.dispatch([dispatch()]))
    async with ColonyClient(f"{peer.url}/unknown_state", KEYS) as colony:
        assert "/state" in str(await failure(Malformed, colony.status(MISSION)))


@pytest.mark.parametrize("manner", ["bomb", "flood"])
async def test_no_answer_fills_the_memory(peer: BadPeer, manner: str) -> None:
    started = time.monotonic()
    tracemalloc.start()
    error = await failure(Malformed, health(peer, manner))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MAX_COLONY_ANSWER_BYTES  # the bomb's first chunk alone would unpack to twice as much
    assert "larger than" in str(error)
    assert len(error.body) == KEPT_BYTES
    assert time.monotonic() - started < 5


async def test_a_problem_that_is_too_large_is_malformed_too(peer: BadPeer) -> None:
    assert (await failure(Malformed, health(peer, "flood_with_problem"))).status == 500


async def test_the_limit_is_the_callers_and_is_exact(peer: BadPeer) -> None:
    for manner, size in (("good", len(json.dumps(HEALTH))), ("gzipped", PADDED)):
        async with ColonyClient(f"{peer.url}/{manner}", KEYS, max_answer_bytes=size) as colony:
            await colony.health()
        async with ColonyClient(f"{peer.url}/{manner}", KEYS, max_answer_bytes=size - 1) as colony:
            await failure(Malformed, colony.health())


@pytest.mark.parametrize("manner", ["hang", "drip"])
async def test_one_deadline_holds_for_the_whole_exchange(peer: BadPeer, manner: str) -> None:
    started = time.monotonic()
    await failure(TimedOut, health(peer, manner, timeout_s=0.3))
    assert 0.25 < time.monotonic() - started < 1  # the promise is 0.25 s over; the rest is for a busy machine


async def test_the_deadline_of_one_call_overrides_the_clients(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/hang", KEYS, timeout_s=60) as colony:
        await failure(TimedOut, colony.health(timeout_s=0.2))


async def test_a_client_survives_its_failures_with_a_small_pool(peer: BadPeer) -> None:
    async with ColonyClient(peer.url + "/drip", KEYS, timeout_s=0.05, max_connections=2) as colony:
        for _ in range(4):
            await failure(TimedOut, colony.health())
        cancelled = asyncio.ensure_future(colony.health(timeout_s=30))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        colony._base_url = peer.url + "/good"
        await asyncio.gather(*(colony.health(timeout_s=3) for _ in range(20)))


async def test_an_answer_left_unread_gives_its_connection_back(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/brotli", KEYS, timeout_s=1, max_connections=1) as colony:
        for _ in range(3):
            await failure(Malformed, colony.health())


async def test_nobody_there() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        async with ColonyClient(f"http://127.0.0.1:{reserved.getsockname()[1]}", KEYS) as colony:
            assert (await failure(Unreachable, colony.dispatch([dispatch()]))).before_body


async def test_hung_up_without_a_word() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ColonyClient(f"http://127.0.0.1:{port}", KEYS) as colony:
        assert not (await failure(Unreachable, colony.dispatch([dispatch()]))).before_body


async def test_refusals_are_told_apart(peer: BadPeer) -> None:
    html = await failure(Refused, health(peer, "html"))
    assert (html.status, html.problem, html.retryable) == (500, None, True)
    assert html.body.startswith(b"<html>")
    missing = await failure(Refused, health(peer, "not_found"))
    assert (missing.status, missing.code, missing.retryable) == (404, "not_found", False)
    assert "because of not_found" in str(missing)
    assert (await failure(Unauthorized, health(peer, "unknown_key"))).status == 401
    assert (await failure(Unauthorized, health(peer, "forbidden"))).status == 403
    assert (await failure(Busy, health(peer, "limited"))).retry_after == 7
    wait = (await failure(Busy, health(peer, "resting"))).retry_after
    assert wait is not None and 55 < wait <= 60


async def test_the_root_tells_a_colony_where_to_go_on_or_to_stop(peer: BadPeer) -> None:
    assert (await failure(SequenceGap, events(peer, "gap"))).expected_seq == 5
    assert (await failure(Superseded, events(peer, "superseded"))).status == 409
    assert (await failure(Superseded, events(peer, "gone"))).status == 410
    assert (await failure(Refused, events(peer, "odd_gap"))).status == 409
    assert (await failure(Busy, events(peer, "limited"))).retry_after == 7


async def test_a_refused_batch_leaves_the_token(peer: BadPeer) -> None:
    async with RootClient(f"{peer.url}/gap", KEYS) as root:
        root.hold(MISSION, 1, "mine")
        await failure(SequenceGap, root.send_events(MISSION, 1, [LOG]))
        await failure(SequenceGap, root.send_events(MISSION, 1, [LOG]))
    assert peer.seen[-1][1]["authorization"] == "Bearer mine"
    assert peer.seen[-1][1]["x-colony-nonce"] != peer.seen[-2][1]["x-colony-nonce"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("9" * 400, 86_400.0),
        ("Mon, 04 May 2026 03:02:31 GMT", 30.0),
        ("Mon, 04 May 2026 03:02:31 -0000", 30.0),
        ("Mon, 04 May 2026 05:02:31 +0200", 30.0),
        ("Mon, 04 May 1998 03:02:31 GMT", 0.0),
        ("Mon, 04 May 2099 03:02:31 GMT", 86_400.0),
    ],
)
async def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@few
@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,5} [A-Z][a-z]{2} \d{1,6} \d+:\d+:\d+ [+-]?\w{0,6}"))
def test_any_retry_after_is_a_wait_or_nothing(value: str) -> None:
    wait = parse_retry_after(value)
    assert wait is None or 0 <= wait <= 86_400


@pytest.mark.parametrize("url", ["ftp://colony", "colony:8080", "http://u:p@colony", "http://colony?x=1", ""])
async def test_a_base_url_is_checked_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        ColonyClient(url, KEYS)


async def test_a_clock_that_is_wrong_is_refused_by_the_peer(peer: BadPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    import colony_client.client as module

    real = module.sign
    late = datetime.now(UTC) - timedelta(minutes=6)
    monkeypatch.setattr(module, "sign", lambda *what: real(*what, now=late))
    assert (await failure(Refused, health(peer, "good"))).status == 500  # the test peer has no finer answer
