"""Events of many missions in one call: each mission fares as if it had come alone, and the call counts once."""

import asyncio
import json
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from app.boundary import Callbacks, api
from colony.outbox import Outbox
from colony_client.client import RootClient
from colony_client.contract import MAX_MISSIONS_PER_CALL, Log, StageStarted
from colony_client.together import AT_ONCE
from tests.boundary.calls import batch, call, send_raw, token_of
from tests.boundary.test_callback_door import foreign_artifact
from tests.boundary.test_taken_together import begin_elsewhere, commits
from tests.world import World
from tests.world.checks import census, inspector, problem
from tests.world.life import Life, in_state
from tests.world.world import served

MANY = "/internal/v1/events"
WORD = {"seq": 1, "at": "2026-11-21T10:00:00Z", "type": "stage.started", "stage": "planner"}
ASKS = {"seq": 1, "at": "2026-11-21T10:00:00Z", "type": "signal", "signal": "escalate", "question": "May I?"}


@pytest.fixture(params=["lane", "framework"], autouse=True)
def way(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "framework":
        monkeypatch.setattr(world.internal, "lane", None)


def entry(life: Life, *events: Any, **other: Any) -> dict[str, Any]:
    dispatch = life.dispatch
    said = {"mission_id": str(life.id), "token": dispatch.mission_token, "attempt": dispatch.attempt}
    return said | {"events": list(events)} | other


def body(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"contract_version": "1.2", "missions": entries} | more).encode()


async def send(world: World, *entries: Any, **sign: Any) -> httpx.Response:
    return await call(world, MANY, body(*entries), None, **sign)


async def told(world: World, *entries: Any) -> list[Any]:
    """For each mission how far it was taken, or why not."""
    answer = await send(world, *entries)
    assert answer.status_code == 200, answer.text
    missions = answer.json()["missions"]
    assert [one["mission_id"] for one in missions] == [one["mission_id"] for one in entries]
    assert all((one["receipt"] is None) != (one["problem"] is None) for one in missions)
    return [one["receipt"]["accepted_seq"] if one["receipt"] else one["problem"]["code"] for one in missions]


async def running(world: World, n: int) -> list[Life]:
    return [await in_state(world, "running") for _ in range(n)]


async def reached(lives: list[Life]) -> list[int]:
    return [(await life.row())["last_seq"] for life in lives]


# --- each for itself


async def test_all_are_taken_in_one_commit_and_each_is_given_its_own_next_token(world: World) -> None:
    await world.another_tenant()
    lives = [*await running(world, 3), await begin_elsewhere(world)]
    before = await commits(world, "stage.started")
    answer = (await send(world, *(entry(life, WORD) for life in lives))).json()["missions"]
    assert [one["mission_id"] for one in answer] == [str(life.id) for life in lives]
    assert (await commits(world, "stage.started"))[len(before) :] == [4]
    assert await reached(lives) == [1, 1, 1, 1]
    for life, one in zip(lives, answer, strict=True):
        more = batch(life.dispatch, WORD | {"seq": 2})
        assert (await send_raw(world, life.dispatch, more, one["receipt"]["next_token"])).status_code == 200
        assert one["receipt"]["next_gateway_token"] and one["receipt"]["stop"] is False


async def test_what_is_said_again_by_the_other_way_changes_nothing(world: World) -> None:
    lives = await running(world, 2)
    assert await told(world, *(entry(life, WORD) for life in lives)) == [1, 1]
    before = await census(world)
    for life in lives:
        assert (await send_raw(world, life.dispatch, batch(life.dispatch, WORD))).json()["accepted_seq"] == 1
    assert await told(world, *(entry(life, WORD) for life in lives)) == [1, 1]
    after = await census(world)
    assert {table for table in after if after[table] != before[table]} <= {"nonce"}


async def test_one_that_is_refused_is_told_what_it_would_have_been_told_alone(world: World) -> None:
    """Everything that can be wrong about one mission, each between two good ones, compared with the call of one mission."""
    await world.another_tenant()
    first, last, gap, ended, foreign, old, other = *await running(world, 6), await begin_elsewhere(world)
    await ended.end("cancel")
    await old.lose_lease()
    superseded = old.dispatch
    await old.take()
    absent = first.dispatch.model_copy(update={"mission_id": uuid4()})
    wrong: dict[str, tuple[Any, Any, int, str]] = {
        "a gap": (gap.dispatch, entry(gap, WORD | {"seq": 3}), 409, "sequence_gap"),
        "an ended mission": (ended.dispatch, entry(ended, WORD), 410, "mission_closed"),
        "a superseded attempt": (
            superseded,
            entry(old, WORD, token=superseded.mission_token, attempt=1),
            409,
            "attempt_superseded",
        ),
        "another attempt than its token's": (gap.dispatch, entry(gap, WORD, attempt=2), 401, "unauthenticated"),
        "a token of another mission": (
            gap.dispatch,
            entry(gap, WORD, token=first.dispatch.mission_token),
            401,
            "unauthenticated",
        ),
        "a token of another tenant's mission": (
            gap.dispatch,
            entry(gap, WORD, token=other.dispatch.mission_token),
            401,
            "unauthenticated",
        ),
        "a token that is none": (gap.dispatch, entry(gap, WORD, token="not one!"), 401, "unauthenticated"),
        "no token": (
            gap.dispatch,
            {name: value for name, value in entry(gap, WORD).items() if name != "token"},
            401,
            "unauthenticated",
        ),
        "a mission that is not there": (
            absent,
            entry(first, WORD, mission_id=str(absent.mission_id), token=token_of(world, absent)),
            404,
            "not_found",
        ),
        "an unknown stage": (foreign.dispatch, entry(foreign, WORD | {"stage": "dreaming"}), 422, "validation"),
        "events out of order": (foreign.dispatch, entry(foreign, WORD, WORD | {"seq": 3}), 422, "validation"),
        "an artifact of another mission": (
            foreign.dispatch,
            entry(foreign, WORD, foreign_artifact(foreign, mission_id=str(uuid4()))),
            422,
            "validation",
        ),
        "a review by the root": (
            foreign.dispatch,
            entry(foreign, WORD, foreign_artifact(foreign, producer={"name": "root", "version": "1"})),
            422,
            "validation",
        ),
    }
    for seq, (name, (dispatch, bad, status, code)) in enumerate(wrong.items(), start=1):
        answer = await send(world, entry(first, WORD | {"seq": seq}), bad, entry(last, WORD | {"seq": seq}))
        assert answer.status_code == 200, (name, answer.text)
        one, refused, another = answer.json()["missions"]
        assert [one["receipt"]["accepted_seq"], another["receipt"]["accepted_seq"]] == [seq, seq], name
        found = refused["problem"]
        assert (refused["receipt"], found["status"], found["code"]) == (None, status, code), name
        alone = json.dumps({"attempt": bad["attempt"], "events": bad["events"]}).encode()
        said = (
            await call(world, f"/internal/v1/missions/{dispatch.mission_id}/events", alone, bad.get("token"))
        ).json()
        own = ("request_id", "instance", "errors", "detail")
        assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in said.items() if k not in own}, name
        pointers = [f"/missions/1{one['pointer']}" for one in said["errors"]]
        assert [one["pointer"] for one in found["errors"]] == pointers, name
    assert await reached([gap, foreign, ended]) == [0, 0, 0]
    assert (await other.row())["last_seq"] == 0


async def test_what_cannot_be_read_of_one_mission_is_kept_for_it_without_its_key(world: World) -> None:
    good, bad = await running(world, 2)
    wrong = entry(bad, WORD | {"mood": "fine"})
    sent = f'{{"missions": [{json.dumps(entry(good, WORD))}, \n {json.dumps(wrong, indent=1)} ]}}'
    answer = await call(world, MANY, sent.encode(), None)
    one, refused = answer.json()["missions"]
    assert one["receipt"]["accepted_seq"] == 1
    assert refused["problem"]["errors"][0]["pointer"] == "/missions/1/events/0/mood"
    [(origin, kept)] = await bad.quarantined()
    assert (origin, kept) == ("callback", json.dumps(wrong | {"token": ""}, indent=1).encode())
    assert await good.quarantined() == []
    assert (await bad.facts())[-1][0] == "payload.quarantined"
    assert bad.dispatch.mission_token.encode() not in kept


@pytest.mark.parametrize("spelled", ["value", "name", "both", "twice"])
async def test_a_key_is_not_kept_however_it_is_spelled(world: World, spelled: str) -> None:
    good, bad = await running(world, 2)
    wrong, key = entry(bad, WORD | {"mood": "fine"}), bad.dispatch.mission_token
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
    sent = json.dumps(wrong | ({"copy": key} if spelled == "twice" else {}))
    sent = sent.replace(f'"{key}"', f'"{escaped}"') if spelled in ("value", "both") else sent
    sent = sent.replace('"token"', '"t\\u006fken"') if spelled in ("name", "both") else sent
    answer = await call(world, MANY, f'{{"missions": [{json.dumps(entry(good, WORD))}, {sent}]}}'.encode(), None)
    assert [one["problem"] and one["problem"]["code"] for one in answer.json()["missions"]] == [None, "validation"]
    [(_, kept)] = await bad.quarantined()
    assert key not in json.dumps(json.loads(kept)) and key.encode() not in kept
    assert json.loads(kept)["events"] == wrong["events"]


async def test_what_cannot_be_kept_is_told_so_and_comes_again(world: World) -> None:
    good, bad = await running(world, 2)
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE quarantine ADD CONSTRAINT poison CHECK (mission <> '{bad.id}') NOT VALID")
    entries = [entry(good, WORD), entry(bad, WORD | {"mood": "fine"})]
    assert await told(world, *entries) == [1, "internal"]
    await admin.execute("ALTER TABLE quarantine DROP CONSTRAINT poison")
    assert await told(world, *entries) == [1, "validation"]
    assert len(await bad.quarantined()) == 1


async def test_who_is_refused_is_named_in_the_log(world: World) -> None:
    good, bad = await running(world, 2)
    with capture_logs() as lines:
        await told(world, entry(good, WORD), entry(bad, WORD | {"seq": 2}))
    [line] = [one for one in lines if one["event"] == "events refused"]
    tenant = str(bad.dispatch.envelope.tenant_id)
    assert (line["mission_id"], line["tenant_id"], line["code"]) == (str(bad.id), tenant, "sequence_gap")


# --- the call as a whole


def whole(lives: list[Life]) -> dict[str, tuple[bytes, str]]:
    """Bodies in which missions cannot be told apart, and where their fault is."""
    good = entry(lives[0], WORD)
    return {
        "nothing": (b"", ""),
        "a list": (b"[]", ""),
        "no missions": (body(), "/missions"),
        "a mission without a name": (body(good, {"token": "x", "attempt": 1}), "/missions/1/mission_id"),
        "a mission with a wrong name": (body(good, entry(lives[1], mission_id="x")), "/missions/1/mission_id"),
        "a mission that is no object": (body(good, 7), "/missions/1"),
        "the same mission twice": (body(good, good), ""),
        "the same mission twice, once wrongly": (body(good, entry(lives[0], 7)), ""),
        "a member too many": (body(good, mood="fine"), "/mood"),
        "the next contract": (body(good, contract_version="2.0"), "/contract_version"),
        "the same member twice": (body(good)[:-1] + b', "missions": []}', ""),
        "too many missions": (
            body(*(entry(lives[0], mission_id=str(UUID(int=n))) for n in range(MAX_MISSIONS_PER_CALL + 1))),
            "/missions",
        ),
    }


async def test_a_body_whose_missions_cannot_be_told_apart_is_one_problem(world: World) -> None:
    lives = await running(world, 2)
    for name, (sent, pointer) in whole(lives).items():
        nonce: dict[str, Any] = {"nonce": uuid4().hex}
        said = problem(await call(world, MANY, sent, None, **nonce), "validation")
        assert said["errors"][0]["pointer"] == pointer, (name, said)
        problem(await call(world, MANY, sent, None, **nonce), "unauthenticated")
    assert await reached(lives) == [0, 0]
    assert await lives[0].quarantined() == []


async def test_sixty_four_missions_are_taken(world: World) -> None:
    lives = await running(world, 2)
    absent = [token_of(world, lives[0].dispatch, mission=UUID(int=n)) for n in range(MAX_MISSIONS_PER_CALL - 2)]
    entries = [entry(lives[0], mission_id=str(UUID(int=n)), token=one) for n, one in enumerate(absent)]
    said = await told(world, entry(lives[0], WORD), *entries, entry(lives[1], WORD))
    assert said == [1, *["not_found"] * (MAX_MISSIONS_PER_CALL - 2), 1]


async def test_a_call_that_is_sent_again_is_refused_whole(world: World) -> None:
    """Whatever became of its missions the first time: all taken, some, or none."""
    lives = await running(world, 5)
    bad = entry(lives[1], WORD, token="x")
    for entries in (
        [entry(lives[0], WORD)],
        [bad, entry(lives[2], WORD)],
        [bad],
        [entry(lives[3], ASKS), entry(lives[4], WORD | {"mood": "fine"})],
    ):
        nonce: dict[str, Any] = {"nonce": uuid4().hex}
        assert (await send(world, *entries, **nonce)).status_code == 200
        before = await census(world)
        problem(await send(world, *entries, **nonce), "unauthenticated")
        assert await census(world) == before


async def test_the_nonce_of_another_call_takes_nothing(world: World) -> None:
    first, second = await running(world, 2)
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    assert (await send(world, entry(first, WORD), **nonce)).status_code == 200
    problem(await send(world, entry(second, WORD), **nonce), "unauthenticated")
    assert await reached([first, second]) == [1, 0]


async def test_an_unsigned_call_opens_nothing(world: World) -> None:
    [life] = await running(world, 1)
    problem(await world.inside.post(MANY, content=body(entry(life, WORD))), "unauthenticated")
    assert await reached([life]) == [0]


# --- failures inside


async def test_what_the_wall_refuses_fails_alone_and_the_call_still_counts_once(world: World) -> None:
    lives = await running(world, 4)
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{lives[0].id}') NOT VALID")
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    entries = [entry(life, WORD) for life in lives]
    answer = (await send(world, *entries, **nonce)).json()["missions"]
    assert [one["problem"] and one["problem"]["code"] for one in answer] == ["internal", None, None, None]
    assert await reached(lives) == [0, 1, 1, 1]
    problem(await send(world, *entries, **nonce), "unauthenticated")
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    assert await told(world, *entries) == [1, 1, 1, 1]


async def test_a_mission_that_somebody_holds_is_told_when_to_come_again(world: World) -> None:
    lives = await running(world, 3)
    admin = await world.connect("admin")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM mission WHERE id = $1 FOR UPDATE", lives[1].id)
        answer = (await send(world, *(entry(life, WORD) for life in lives))).json()["missions"]
    assert [one["receipt"] and one["receipt"]["accepted_seq"] for one in answer] == [1, None, 1]
    assert (answer[1]["problem"]["code"], answer[1]["retry_after_s"]) == ("database_busy", 1.0)
    assert await told(world, entry(lives[1], WORD)) == [1]


async def test_questions_to_humans_are_put_beside_what_others_say(world: World) -> None:
    lives = await running(world, 4)
    said = [ASKS, WORD, ASKS, WORD]
    assert await told(world, *(entry(life, one) for life, one in zip(lives, said, strict=True))) == [1, 1, 1, 1]
    assert [len(await life.approvals()) for life in lives] == [1, 0, 1, 0]


async def test_a_question_that_cannot_be_put_fails_alone(world: World) -> None:
    lives = await running(world, 3)
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{lives[0].id}') NOT VALID")
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    entries = [entry(lives[0], ASKS), entry(lives[1], ASKS), entry(lives[2], WORD)]
    answer = (await send(world, *entries, **nonce)).json()["missions"]
    assert [one["problem"] and one["problem"]["code"] for one in answer] == ["internal", None, None]
    assert [len(await life.approvals()) for life in lives] == [0, 1, 0]
    problem(await send(world, *entries, **nonce), "unauthenticated")
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")


async def test_a_question_after_others_have_failed_uses_the_nonce(world: World) -> None:
    """What is said plainly fails, mission by mission, and uses nothing: the question that comes after it does."""
    lives = await running(world, 4)
    admin = await inspector(world)
    poisoned = ", ".join(f"'{life.id}'" for life in lives[:2])
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject NOT IN ({poisoned})) NOT VALID")
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    plain = [entry(lives[0], WORD), entry(lives[1], WORD)]
    answer = (await send(world, *plain, entry(lives[2], ASKS), **nonce)).json()["missions"]
    assert [one["problem"] and one["problem"]["code"] for one in answer] == ["internal", "internal", None]
    before = await census(world)
    problem(await send(world, *plain, entry(lives[2], ASKS), **nonce), "unauthenticated")
    assert await census(world) == before
    # nothing was judged: the call may come again, unless something was kept of it
    nonce = {"nonce": uuid4().hex}
    for _ in range(2):
        answer = (await send(world, *plain, **nonce)).json()["missions"]
        assert [one["problem"]["code"] for one in answer] == ["internal", "internal"]
    nonce = {"nonce": uuid4().hex}
    misread = entry(lives[3], WORD | {"mood": "fine"})
    answer = (await send(world, *plain, misread, **nonce)).json()["missions"]
    assert [one["problem"]["code"] for one in answer] == ["internal", "internal", "validation"]
    before = await census(world)
    problem(await send(world, *plain, misread, **nonce), "unauthenticated")
    assert await census(world) == before
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    assert await told(world, *plain) == [1, 1]


@pytest.mark.parametrize("said", [WORD, ASKS], ids=["word", "question"])
async def test_the_only_one_that_is_understood_fails_and_the_others_are_told_all_the_same(
    world: World, said: dict[str, Any]
) -> None:
    """Alone it would have met an error of the server; here the misread one has its answer, is kept, and comes no more."""
    poor, bad = await running(world, 2)
    admin = await inspector(world)
    await admin.execute(f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (subject <> '{poor.id}') NOT VALID")
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    entries = [entry(poor, said), entry(bad, WORD | {"mood": "fine"})]
    answer = (await send(world, *entries, **nonce)).json()["missions"]
    assert [one["problem"]["code"] for one in answer] == ["internal", "validation"]
    assert (len(await bad.quarantined()), await reached([poor, bad])) == (1, [0, 0])
    problem(await send(world, *entries, **nonce), "unauthenticated")
    assert len(await bad.quarantined()) == 1
    await admin.execute("ALTER TABLE ledger DROP CONSTRAINT poison")
    assert await told(world, entry(poor, said)) == [1]


async def test_what_takes_too_long_is_told_to_come_again_before_its_call_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is taken, kept or asked about one by one waits for the others only so long; what was taken is told."""
    lives = await running(world, 6)
    monkeypatch.setattr(api, "KEEPING_S", 0.0)
    monkeypatch.setattr(world.root.callbacks, "patience", time.monotonic)
    wrong = [entry(life, WORD | {"mood": "fine"}) for life in lives[2:4]]
    asks = [entry(life, ASKS) for life in lives[4:]]
    said = await told(world, *(entry(life, WORD) for life in lives[:2]), *wrong, *asks)
    assert said == [1, 1, *["database_busy"] * 4]
    assert [await life.quarantined() for life in lives[2:4]] == [[], []]
    monkeypatch.undo()
    assert await told(world, *wrong, *asks) == ["validation", "validation", 1, 1]


async def test_a_database_that_is_away_takes_nothing_and_the_call_may_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = await running(world, 2)
    nonce: dict[str, Any] = {"nonce": uuid4().hex}

    async def lost(*_: Any) -> Any:
        raise ConnectionError("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(world.root.callbacks.batches, "run", lost)
        refused = await send(world, *(entry(life, WORD) for life in lives), **nonce)
        problem(refused, "database_unavailable")
    answer = await send(world, *(entry(life, WORD) for life in lives), **nonce)
    assert [one["receipt"]["accepted_seq"] for one in answer.json()["missions"]] == [1, 1]


async def test_a_process_that_ends_after_its_commit_has_used_the_nonce_and_what_it_took_is_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = await running(world, 3)
    entries, batches = [entry(life, WORD) for life in lives], world.root.callbacks.batches
    nonce: dict[str, Any] = {"nonce": uuid4().hex}

    async def taken_and_lost(connection: Any, calls: Any) -> Any:
        await Callbacks.run(world.root.callbacks, connection, calls)
        raise ConnectionError("the process has ended")

    with monkeypatch.context() as broken:
        broken.setattr(batches, "run", taken_and_lost)
        problem(await send(world, *entries, **nonce), "database_unavailable")
    before = await census(world)
    problem(await send(world, *entries, **nonce), "unauthenticated")
    assert await census(world) == before and await reached(lives) == [1, 1, 1]
    assert await told(world, *entries) == [1, 1, 1]


# --- and the colony's own side


async def test_outboxes_that_speak_at_once_share_calls_and_each_is_told_its_own(world: World) -> None:
    lives = await running(world, 24)
    gone, lost, odd = lives[5], lives[11], lives[17]
    tokens = {lost.id: gone.dispatch.mission_token, odd.id: "not a token"}
    await gone.end("cancel")
    paths: list[str] = []

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await world.internal(scope, receive, send)

    async with served(counted) as url, RootClient(url, world.colony.keys, timeout_s=10) as root:
        boxes = []
        for life in lives:
            root.hold(life.id, 1, tokens.get(life.id, life.dispatch.mission_token))
            boxes.append(Outbox(root, life.id, 1))
        await root.send_events(lives[0].id, 1)  # what the root speaks is known from its first answer
        speaking = [asyncio.create_task(box.run()) for box in boxes]
        paths.clear()
        for box in boxes:
            box.put(StageStarted, stage="planner")
            box.put(Log, level="info", message="begun")
        told = [box for box, life in zip(boxes, lives, strict=True) if life not in (gone, lost, odd)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(box.settled() for box in told))
            ended = await asyncio.gather(speaking[5], speaking[11], speaking[17], return_exceptions=True)
        assert [str(one) for one in ended] == [
            "the root has moved on",
            *["the root refuses our signature or token"] * 2,
        ]
        shared = paths.index(MANY)
        assert shared <= AT_ONCE and len(paths) < len(lives)
        for box, task in zip(boxes, speaking, strict=True):
            box.close()
            await asyncio.gather(task, return_exceptions=True)
    assert await reached(lives) == [0 if life in (gone, lost, odd) else 2 for life in lives]
