"""The colony that does nothing speaks the contract, and the CRM's door notes what arrives."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.supervisor.plan import Process
from app.supervisor.watch import Child
from bench.colony import EVENTS, Colony, closing, instant
from bench.crm import watched
from bench.instance import REPOSITORY, Instance, await_ready
from bench.wire import Client, Message, serve
from colony_client.artifacts import Budgets, Producer, sealed_envelope
from colony_client.contract import Dispatch, DispatchAnswers, EventBatch, EventsOfMany, MissionStatus
from colony_client.signing import parse_keys, sign

KEYS = "bench:0123456789abcdef0123456789abcdef"


def a_dispatch(**labels: str) -> Dispatch:
    mission = uuid4()
    envelope = sealed_envelope(
        mission_id=mission,
        tenant_id=uuid4(),
        actor_id=uuid4(),
        created_at="2026-01-01T00:00:00Z",
        producer=Producer(name="root", version="1"),
        mission_type="oracle_advisory",
        origin_surface="bench",
        actor_role="submitter",
        user_goal="a question",
        normalized_goal="a question",
        risk_level="low",
        sensitivity_class="internal",
        mode="assisted",
        environment="local",
        labels=labels,
        budget=Budgets(time_ms=1000, tokens=0, cost_usd=0),
    )
    return Dispatch(
        mission_id=mission,
        attempt=1,
        envelope=envelope,
        callback_base_url="http://127.0.0.1:1",
        mission_token="a.token",
        budgets=Budgets(time_ms=1000, tokens=0, cost_usd=0),
    )


def asked(method: str, path: str, body: bytes, keys: str = KEYS) -> Message:
    headers = {
        name.lower(): value for name, value in sign(parse_keys(keys, "KEY"), method, path, body, "colony").items()
    }
    return Message(f"{method} {path}", headers, body)


async def test_a_dispatch_is_answered_as_the_contract_says() -> None:
    colony, dispatch = Colony("http://127.0.0.1:1", KEYS), a_dispatch(bench="talk")
    body = json.dumps({"contract_version": "1.0", "missions": [dispatch.model_dump(mode="json")]}).encode()
    status, said = await colony.answer(asked("POST", "/v1/missions", body))
    answers = DispatchAnswers.model_validate_json(said)
    assert (status, answers.missions[0].outcome) == (200, "accepted")
    status, said = await colony.answer(asked("GET", f"/v1/missions/{dispatch.mission_id}", b""))
    assert (status, MissionStatus.model_validate_json(said).state) == (200, "running")


async def test_who_does_not_sign_is_refused() -> None:
    colony = Colony("http://127.0.0.1:1", KEYS)
    message = asked("POST", "/v1/missions", b"{}", keys="bench:another-secret-of-somebody")
    assert (await colony.answer(message))[0] == 401
    once = asked("GET", f"/v1/missions/{uuid4()}", b"")
    assert [(await colony.answer(once))[0] for _ in range(2)] == [404, 401], "a request is good once"


def test_its_events_are_the_contracts() -> None:
    dispatch = a_dispatch()
    events = closing(dispatch.model_dump(mode="json"), 1)
    batch = EventBatch.model_validate_json(json.dumps({"attempt": 1, "events": events}))
    assert [event.type for event in batch.events] == ["artifact.produced", "signal"]
    assert not batch.strangers(dispatch.mission_id, dispatch.envelope.tenant_id)
    assert instant().endswith("Z")


async def test_what_is_said_at_once_goes_together_and_each_is_told_its_own() -> None:
    asked_for: list[tuple[str, int]] = []
    receipt = {"accepted_seq": 1, "next_token": "next"}
    busy = {"status": 503, "code": "database_busy"}

    async def root(message: Message) -> tuple[int, bytes]:
        path, body = message.start.partition(" ")[2], json.loads(message.body)
        missions = body.get("missions", [body])
        asked_for.append((path, len(missions)))
        if path != EVENTS:
            return (200, json.dumps(receipt).encode()) if "wrong" not in path else (422, b'{"code": "validation"}')
        EventsOfMany.model_validate_json(message.body)
        said = [{"mission_id": one["mission_id"], "receipt": receipt, "problem": None} for one in missions]
        said[1] |= {"receipt": None, "problem": busy}
        said[2] |= {"receipt": None, "problem": {"status": 409, "code": "sequence_gap"}}
        return 200, json.dumps({"missions": said}).encode()

    server = await serve(root, 0)
    port = server.sockets[0].getsockname()[1]
    colony = Colony(f"http://127.0.0.1:{port}", KEYS)
    names = [str(uuid4()) for _ in range(70)]
    told = await asyncio.gather(*(colony.say(one, 1, "a.token", []) for one in names))
    assert [place for place, (status, _) in enumerate(told) if status != 200] == [2, 66], "who was busy is taken alone"
    assert sorted(asked_for)[:2] == [(EVENTS, 6), (EVENTS, 64)] and len(asked_for) == 4
    assert colony.refused == 2
    assert (await colony.say("wrong", 1, "a.token", []))[0] == 422
    colony.root.close()
    server.close()


RECEIPT = {"accepted_seq": 1, "next_token": "next"}


def each(missions: list[str]) -> bytes:
    return json.dumps(
        {"missions": [{"mission_id": one, "receipt": RECEIPT, "problem": None} for one in missions]}
    ).encode()


BROKEN: dict[str, Callable[[list[str]], bytes | None]] = {
    "the connection breaks": lambda missions: None,
    "no JSON": lambda missions: b"<html>",
    "others' answers": lambda missions: each(missions[::-1]),
    "one too few": lambda missions: each(missions[1:]),
    "nobody's": lambda missions: json.dumps({"missions": [{"receipt": RECEIPT}] * len(missions)}).encode(),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_lost_on_its_way_is_counted_for_each_mission(name: str) -> None:
    async def root(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:")]
        told = json.loads(await reader.readexactly(length))
        said = BROKEN[name]([one["mission_id"] for one in told["missions"]])
        if said is not None:
            writer.write(b"HTTP/1.1 200 .\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        writer.close()

    server = await asyncio.start_server(root, "127.0.0.1", 0)
    colony = Colony(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEYS)
    told = await asyncio.gather(*(colony.say(str(uuid4()), 1, "a.token", []) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, Exception) for one in told)
    state = json.loads(colony.state())
    assert state["refused"] == 5
    assert state["mixed"] == (0 if name in ("the connection breaks", "no JSON") else 1)
    assert colony.speaking == 0
    server.close()


async def test_a_busy_mission_that_is_lost_when_it_comes_again_is_lost_alone() -> None:
    async def root(message: Message) -> tuple[int, bytes]:
        if message.start.partition(" ")[2] != EVENTS:
            return 200, b"<html>"
        said = json.loads(each([one["mission_id"] for one in json.loads(message.body)["missions"]]))
        said["missions"][1] |= {"receipt": None, "problem": {"status": 503, "code": "database_busy"}}
        return 200, json.dumps(said).encode()

    server = await serve(root, 0)
    colony = Colony(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEYS)
    told = await asyncio.gather(*(colony.say(str(uuid4()), 1, "a.token", []) for _ in range(3)), return_exceptions=True)
    assert [isinstance(one, Exception) for one in told] == [False, True, False] and colony.refused == 1
    colony.root.close()
    server.close()


async def test_a_record_that_is_lost_on_its_way_is_counted_too() -> None:
    async def root(message: Message) -> tuple[int, bytes]:
        return 200, b"<html>"

    server = await serve(root, 0)
    colony = Colony(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEYS)
    asked_for = a_dispatch(bench="propose").model_dump(mode="json")
    asked_for["envelope"]["inputs"] = {"lead_ids": ["L-1001"]}
    colony.dispatched({"missions": [asked_for]})
    await asyncio.gather(*colony.tasks, return_exceptions=True)
    assert colony.refused == 1
    colony.root.close()
    server.close()


@pytest.mark.parametrize("stop", [Instance.stop_processes, Instance.__exit__])
async def test_a_run_whose_colony_was_given_others_answers_fails(
    stop: Callable[[Instance], None], tmp_path: Path
) -> None:
    async def root(message: Message) -> tuple[int, bytes]:
        return 200, each([one["mission_id"] for one in json.loads(message.body)["missions"]][::-1])

    server = await serve(root, 0)
    instance = Instance(tmp_path / "instance", ("colony",), "http://127.0.0.1:9")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "PORT": str(instance.folder.ports["colony"]),
        "ROOT_API_BASE_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "ROOT_API_KEY": KEYS,
    }
    process = Process("colony", "bench.colony", environment, f"{instance.url_of('colony')}/health", stops=2)
    child = Child(process, instance.folder.logs / "colony.log")
    instance.running.append(child)
    instance.folder.let_go()
    child.start()
    try:
        await asyncio.to_thread(await_ready, child)
        client, missions = Client(instance.url_of("colony")), [a_dispatch().model_dump(mode="json") for _ in range(3)]
        message = asked("POST", "/v1/missions", json.dumps({"missions": missions}).encode())
        assert (await client.ask("POST", "/v1/missions", message.headers, message.body)).status == 200
        async with asyncio.timeout(10):
            while json.loads((await client.ask("GET", "/bench/state", {})).body)["refused"] < 3:
                await asyncio.sleep(0.01)
        client.close()
        with pytest.raises(RuntimeError, match="other missions"):
            stop(instance)
    finally:
        assert child.running is not None
        child.running.kill()
        child.running.wait(5)
        server.close()


async def test_only_changes_are_noted_at_the_crms_door() -> None:
    arrivals: list[dict[str, Any]] = []
    reached: list[str] = []

    async def crm(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["method"])

    door = watched(crm, arrivals)
    for method in ("GET", "PATCH"):
        await door({"type": "http", "method": method, "path": "/records/lead/L-1"}, None, None)
    assert reached == ["GET", "PATCH"]
    assert [one["path"] for one in arrivals] == ["/records/lead/L-1"]
