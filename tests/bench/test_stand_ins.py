"""The colony that does nothing speaks the contract, and the CRM's door notes what arrives."""

import asyncio
import json
from typing import Any
from uuid import uuid4

from bench.colony import EVENTS, Colony, closing, instant
from bench.crm import watched
from bench.wire import Message, serve
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
