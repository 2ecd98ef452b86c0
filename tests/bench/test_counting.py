"""What the harness reads off wires, programs and streams, it reads right."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bench.limit import understood
from bench.load import Post, by_sockets, load, request_bytes
from bench.peers.base import INSIDE, Driver, Unavailable, clean_environment
from bench.streams import Delays, events_of
from bench.wire import Client, Cut, Message, serve

PGBENCH = """
transaction type: bench/limit.sql
latency average = 3.125 ms
number of transactions actually processed: 20480
tps = 10240.000000 (without initial connection time)
"""


def test_pgbench_is_understood() -> None:
    found = understood(PGBENCH)
    assert (found.accepted, found.per_s, found.p50_ms) == (20480, 10240.0, 3.125)
    with pytest.raises(RuntimeError):
        understood("pgbench: error: it was something else")


def test_messages_are_cut_out_of_a_stream_of_bytes() -> None:
    cut, sent = Cut(), b"POST /a?b=c HTTP/1.1\r\nX-One:  1 \r\nContent-Length: 3\r\n\r\nabcGET /d HTTP/1.1\r\n\r\n"
    found = [message for byte in sent for message in cut.take(bytes([byte]))]
    assert [one.start for one in found] == ["POST /a?b=c", "GET /d"]
    assert (found[0].headers["x-one"], found[0].body) == ("1", b"abc")
    [answer] = Cut().take(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
    assert (answer.status, answer.body) == (202, b"{}")


def test_events_are_cut_across_packets_and_chunks() -> None:
    first = b"HTTP/1.1 200 OK\r\n\r\n10\r\nretry: 1000\n\n\r\n31\r\nid: 7-1\nevent: a\nda"
    then = b'ta: {"text":"id:9-9"}\n\n\r\n10\r\nid: 7-2\nevent: b\ndata: {}\n\n\r\n5\r\n: still here\n\n'
    assert events_of([(1.0, first), (2.0, then)]) == [("7-1", 2.0), ("7-2", 2.0)]


def test_what_was_not_seen_is_said() -> None:
    figures = Delays(ms=[1.0, 2.0, 3.0], facts=2, missed=1, facts_per_s=10.0).figures()
    assert (figures["p50_ms"], figures["p99_ms"], figures["missed"]) == (2.0, 3.0, 1)


def test_every_second_request_has_a_key_of_its_own() -> None:
    plain = request_bytes(Post("http://127.0.0.1:1/x?delay=1h", {"Authorization": "Bearer k"}, "ä"))
    assert plain.startswith(b"POST /x?delay=1h HTTP/1.1\r\n") and b"Content-Length: 2\r\n" in plain
    assert b"Idempotency-Key" not in plain
    assert b"Idempotency-Key: run-#NUMBER" in request_bytes(Post("http://127.0.0.1:1/x"), "run-#NUMBER")


async def test_the_client_counts_what_was_answered() -> None:
    """Of a server that refuses every fourth request, and is asked for exactly forty."""
    keys: list[str] = []

    async def answer(asked: Message) -> tuple[int, bytes]:
        keys.append(asked.headers.get("idempotency-key", ""))
        return (503 if len(keys) % 4 == 0 else 202), b"{}"

    server, port = await some_server(answer)
    found = await by_sockets(Post(f"http://127.0.0.1:{port}/x"), "run", 3, most=40)
    server.close()
    assert (found.accepted, found.refused, found.unanswered, len(found.times_ms)) == (30, 10, 0, 40)
    used = [key for key in keys if key]
    assert len(used) == len(set(used)) == 20


async def test_the_load_program_counts_what_was_answered() -> None:
    """wrk where it is installed; it leaves without its last answers, and says how many those may be."""
    taken = 0

    async def answer(asked: Message) -> tuple[int, bytes]:
        nonlocal taken
        taken += 1
        return (503 if taken % 4 == 0 else 202), b"{}"

    server, port = await some_server(answer)
    found = await asyncio.to_thread(load, Post(f"http://127.0.0.1:{port}/x"), "run", 2, 1)
    server.close()
    assert found.accepted + found.refused <= taken <= found.accepted + found.refused + found.unanswered
    assert found.refused == pytest.approx(taken / 4, abs=3)
    assert found.p50_ms <= found.p99_ms


async def test_kept_connections_are_used_again() -> None:
    async def answer(asked: Message) -> tuple[int, bytes]:
        return 200, json.dumps({"said": asked.body.decode()}).encode()

    server, port = await some_server(answer)
    client = Client(f"http://127.0.0.1:{port}", 2)
    answers = await asyncio.gather(*(client.ask("POST", "/", {}, b"%d" % number) for number in range(20)))
    assert [json.loads(one.body)["said"] for one in answers] == [str(number) for number in range(20)]
    client.close()
    server.close()


async def some_server(answer) -> tuple[asyncio.Server, int]:
    server = await serve(answer, 0)
    return server, server.sockets[0].getsockname()[1]


DRIVER = """
import asyncio
from loops import serve
live = set()

async def start():
    await asyncio.sleep(0.001)
    one = object()
    live.add(one)
    return one

async def done(one):
    await asyncio.sleep(0.01)
    live.remove(one)

async def main():
    await serve(start, done)
    assert not live, "something was started and not waited for"

asyncio.run(main())
"""


def test_a_driver_waits_for_everything_it_started(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    environ = clean_environment({"PYTHONPATH": str(INSIDE)})
    driver = Driver([sys.executable, str(tmp_path / "driver.py")], tmp_path / "log", environ)
    try:
        accepted = driver.accept(0.2, 4)
        assert accepted.accepted > 10 and accepted.refused == 0 and accepted.p50_ms >= 1
        done = driver.completed(25, 4)
        assert done.count == 25 and done.seconds >= 0.01
        assert len(driver.lone(3)) == 3 and min(driver.lone(3)) >= 10
    finally:
        driver.close()
    assert driver.process.returncode == 0, (tmp_path / "log").read_text()


def test_a_driver_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text("raise SystemExit('no such library')")
    with pytest.raises(Unavailable, match="no such library"):
        Driver([sys.executable, str(tmp_path / "driver.py")], tmp_path / "log", clean_environment({}))
