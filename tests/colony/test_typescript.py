"""The example colony in TypeScript, against our root and against one that misbehaves: the contract's page is enough to write one."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fake_root import KEYS, SECRET, FakeRoot, House, problem, served, settings
from harbor_docs import harbor

from colony_client.artifacts import Budgets, parse_artifact, quote_sha256
from colony_client.client import ColonyClient
from colony_client.contract import CONTRACT_VERSION, STAGES, VERSION_HEADER, DispatchBatch
from colony_client.errors import Refused, Unauthorized
from colony_client.signing import parse_keys, sign
from colony_client.versions import written
from tests.world import World, typescript
from tests.world.life import give_guide
from tests.world.world import served as served_root

pytestmark = [pytest.mark.node, pytest.mark.xdist_group("typescript")]

ASK = "What is a berth?"
Scene = Callable[[House], Awaitable[None]]


@pytest.fixture(scope="session")
def compiled() -> Path:
    return typescript.build()


@pytest.fixture(scope="module")
def typescript_colony(compiled: Path) -> Iterator[typescript.Running]:
    """The example colony as a running process: its base URL and its key."""
    with typescript.running(compiled, SECRET, MAX_CONCURRENT_MISSIONS="8", TASK_TIMEOUT_MS="2000") as colony:
        yield colony


@asynccontextmanager
async def house_of(root: FakeRoot, colony: typescript.Running) -> Any:
    async with asyncio.timeout(30), served(root.app()) as port, ColonyClient(colony.base_url, KEYS) as client:
        root_url = f"http://127.0.0.1:{port}"
        yield House(root, client, colony.base_url, root_url, settings(root_url))


# --- our own root


async def test_a_mission_of_our_root_completes_with_every_citation_verified(
    world: World, typescript_colony: typescript.Running
) -> None:
    text = (
        "# Häfen – das Handbuch\n\nA rollback needs two people – „vier Augen“ 🚢 – and a café.\n\nThe port is 8080.\n"
    )
    await give_guide(world, text)
    world.internal.state.colony_keys = KEYS
    async with served_root(world.internal) as url, ColonyClient(typescript_colony.base_url, KEYS) as client:
        world.worker.colony.client, world.worker.colony.callback_base_url = client, url
        asked = [
            await world.create(user_goal=goal)
            for goal in ("Who is needed for a rollback?", "How deep is the Mariana trench?")
        ]
        await world.run_work("dispatch")
        async with asyncio.timeout(20):
            for one in asked:
                while (await world.mission(one["id"]))["state"] in ("dispatched", "running"):
                    await asyncio.sleep(0.02)
        await world.run_work()
    answered, lacking = [(await world.submitter.get(f"/v1/missions/{one['id']}/packet")).json() for one in asked]
    assert (answered["mission"]["state"], answered["answer_status"]) == ("completed", "answered"), answered["review"]
    assert "two people – „vier Augen“ 🚢 – and a café" in answered["answer"]
    assert answered["review"]["coverage"] == 1 and not answered["review"]["problems"]
    cited = [one for claim in answered["claims"] for one in claim["citations"]]
    assert cited and all(one["verified"] for one in cited)
    for one in cited:
        assert text.encode()[one["start"] : one["end"]].decode() == one["quote"]
    assert (lacking["mission"]["state"], lacking["answer_status"]) == ("completed", "not_found")
    assert [one["stage"] for one in answered["stages"]] == list(STAGES)


# --- a root that is watched


async def test_a_mission_leaves_every_stage_artifact_and_signal_in_order(typescript_colony: typescript.Running) -> None:
    async with house_of(FakeRoot(harbor()), typescript_colony) as built:
        asked = built.dispatch(ASK, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        assert [answer.outcome for answer in await built.colony.dispatch([asked])] == ["accepted"]
        assert await built.ended(asked.mission_id) == "completed"
        told = built.root.of(asked.mission_id)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        assert [event["stage"] for event in told if event["type"] == "stage.started"] == list(STAGES)
        assert [event["stage"] for event in told if event["type"] == "stage.completed"] == list(STAGES)
        made = [event["artifact"]["schema_name"] for event in told if event["type"] == "artifact.produced"]
        assert made == [
            "mission_task_graph", "prompt_package", "librarian_pass", "research_artifact", "worker_result",
            "aggregation_packet", "review_packet",
        ]  # fmt: skip
        assert (told[-1]["type"], told[-1]["signal"]) == ("signal", "complete")
        assert len(built.root.tokens) > 1, "the newest token is used"
        assert built.root.traceparents == {f"00-{'a' * 32}-{'b' * 16}-01"}
        status = await built.colony.status(asked.mission_id)
        assert (status.last_seq_sent, status.stage) == (len(told), "reviewer")
        [packet] = built.root.artifacts(asked.mission_id, "aggregation_packet")
        assert packet["claims"], "the harbor's documents say what a berth is"
        for claim in packet["claims"]:
            for cited in claim["citations"]:
                assert quote_sha256(cited["quote"].encode()) == cited["quote_sha256"]
                read = built.root.workspace.read(cited["source"], cited["start"], cited["end"])
                assert read["text"] == cited["quote"] == claim["text"]
            parse_artifact(packet)


async def test_the_same_attempt_again_gets_the_same_answer_and_no_second_run(
    typescript_colony: typescript.Running,
) -> None:
    async with house_of(FakeRoot(harbor()), typescript_colony) as built:
        asked = built.dispatch(ASK)
        first, again = await asyncio.gather(built.colony.dispatch([asked]), built.colony.dispatch([asked]))
        assert first == again
        await built.ended(asked.mission_id)
        told = len(built.root.of(asked.mission_id))
        assert await built.colony.dispatch([asked]) == first
        await asyncio.sleep(0.1)
        assert len(built.root.of(asked.mission_id)) == told


async def test_a_higher_attempt_supersedes_and_a_lower_one_is_refused(typescript_colony: typescript.Running) -> None:
    async with house_of(FakeRoot(harbor(), tool_seconds=0.05), typescript_colony) as built:
        first = built.dispatch(ASK)
        second = built.dispatch(ASK, attempt=2, mission_id=first.mission_id)
        await built.colony.dispatch([first])
        await built.colony.dispatch([second])
        assert await built.ended(first.mission_id) == "completed"
        assert (await built.colony.status(first.mission_id)).attempt == 2
        assert not any(event["type"] == "signal" for event in built.root.of(first.mission_id, 1))
        (late,) = await built.colony.dispatch([first])
        assert (late.outcome, late.code) == ("refused", "attempt_superseded")


async def test_a_root_that_is_away_and_comes_back_loses_nothing(typescript_colony: typescript.Running) -> None:
    root = FakeRoot(harbor(), tool_seconds=0.05)
    async with served(root.app()) as port:
        url = f"http://127.0.0.1:{port}"
    async with house_of(FakeRoot(), typescript_colony) as built:
        asked = built.dispatch(ASK, callback_base_url=url)  # nobody listens there yet
        await built.colony.dispatch([asked])
        await asyncio.sleep(0.2)
        async with served(root.app(), port):
            async with asyncio.timeout(5):
                while not root.of(asked.mission_id):
                    await asyncio.sleep(0.01)
        assert (await built.colony.status(asked.mission_id)).state == "running"
        async with served(root.app(), port):
            assert await built.ended(asked.mission_id) == "completed"
    told = root.of(asked.mission_id)
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1)) and told[-1]["signal"] == "complete"


@pytest.mark.parametrize(
    ("trouble", "first"), [({"forget_at": 5}, 0), ({"already": 9}, 9)], ids=["gap", "earlier life"]
)
async def test_events_go_on_where_the_root_stands(
    typescript_colony: typescript.Running, trouble: dict[str, int], first: int
) -> None:
    async with house_of(FakeRoot(harbor(), **trouble), typescript_colony) as built:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "completed"
        told = built.root.of(asked.mission_id)[first:]
        assert [event["seq"] for event in told] == list(range(first + 1, first + 1 + len(told)))
        assert told[-1]["signal"] == "complete" and built.root.forget_at is None


async def test_stop_and_cancel_end_it_without_another_word(typescript_colony: typescript.Running) -> None:
    async with house_of(FakeRoot(harbor(), stop=True), typescript_colony) as built:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "cancelled"
        assert (await built.colony.status(asked.mission_id)).reason == "the test says so"
        assert not any(event["type"] == "signal" for event in built.root.of(asked.mission_id))
    async with house_of(FakeRoot(harbor(), tool_seconds=0.1), typescript_colony) as built:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        for _ in range(2):
            status = await built.colony.cancel(asked.mission_id, "changed our minds")
            assert (status.state, status.reason) == ("cancelled", "changed our minds")
        await asyncio.sleep(0.05)
        told, calls = len(built.root.of(asked.mission_id)), len(built.root.tool_calls)
        await asyncio.sleep(0.25)
        assert (len(built.root.of(asked.mission_id)), len(built.root.tool_calls)) == (told, calls)
        with pytest.raises(Refused) as unknown:
            await built.colony.cancel(uuid4(), "x")
        assert (unknown.value.status, unknown.value.code) == (404, "mission_unknown")


@pytest.mark.parametrize(
    ("trouble", "budget_ms", "words", "retryable"),
    [
        ({"refuse_tools": {"workspace.search": 403}}, 60_000, "refused_for_the_test", False),
        ({"refuse_tools": {"workspace.search": 503}}, 900, "refused_for_the_test", True),
        ({"refuse_tools": {"workspace.search": 429}}, 900, "refused_for_the_test", True),
        ({"refuse_tools": {"workspace.search": 409}}, 60_000, "refused_for_the_test", False),
        ({"tool_seconds": 1.0}, 300, "not finished in its time", None),
    ],
    ids=["denied", "provider away", "limited", "budget", "time"],
)  # fmt: skip
async def test_trouble_is_told_and_blocks(
    typescript_colony: typescript.Running, trouble: dict[str, Any], budget_ms: int, words: str, retryable: bool | None
) -> None:
    async with house_of(FakeRoot(harbor(), **trouble), typescript_colony) as built:
        asked = built.dispatch(ASK, budgets=Budgets(time_ms=budget_ms, tokens=0, cost_usd=0))
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "blocked"
        told = built.root.of(asked.mission_id)
        assert told[-1]["signal"] == "blocked" and words in told[-1]["reason"]
        failed = [(one["provider"], one["retryable"]) for one in told if one["type"] == "provider.failed"]
        assert failed == ([] if retryable is None else [("workspace.search", retryable)])


async def test_events_that_the_root_refuses_end_the_attempt_with_one_word_about_it(
    typescript_colony: typescript.Running,
) -> None:
    root = FakeRoot(harbor())
    async with house_of(root, typescript_colony) as built:
        taken, root._take = root._take, lambda mission, batch: refuse_log(taken, mission, batch)  # type: ignore[method-assign]
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "failed"
        (only,) = root.of(asked.mission_id)
        assert only["signal"] == "blocked" and "refuses our events" in only["reason"]


def refuse_log(taken: Any, mission: str, batch: Any) -> Any:
    only_signals = all(event.type == "signal" for event in batch.events)
    return taken(mission, batch) if only_signals else problem(422, "validation")


# --- at its door


async def send(colony: typescript.Running, body: bytes, path: str = "/v1/missions", **more: Any) -> httpx.Response:
    headers = more.pop("headers", None) or sign(KEYS, "POST", path, body, more.pop("audience", "colony"), **more)
    async with httpx.AsyncClient(base_url=colony.base_url) as http:
        return await http.post(path, content=body, headers=headers)


async def test_a_call_is_heard_once_and_only_when_it_is_signed_for_the_colony_now(
    typescript_colony: typescript.Running,
) -> None:
    path, body = f"/v1/missions/{uuid4()}/cancel", b'{"reason": "x"}'
    genuine = sign(KEYS, "POST", path, body, "colony")
    now = datetime.now(UTC)
    assert (await send(typescript_colony, body, path, headers=genuine)).status_code == 404
    for wrong in (
        {"headers": genuine},  # again
        {"audience": "root"},
        {"now": now - timedelta(seconds=310)},
        {"now": now + timedelta(seconds=310)},
        {"headers": sign(KEYS, "POST", path, b"{}", "colony")},
        {"headers": sign(KEYS, "POST", f"{path}?a=1", body, "colony")},
        {"headers": genuine | {"X-Colony-Signature": "v1=" + "0" * 64}},
        {"headers": genuine | {"X-Colony-Key": "other"}},
        {"headers": {"X-Colony-Key": "test"}},
    ):
        answer = await send(typescript_colony, body, path, **wrong)
        assert answer.status_code == 401, wrong
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthorized" and SECRET.partition(":")[2] not in answer.text
    assert (await send(typescript_colony, body, path, now=now - timedelta(seconds=290))).status_code == 404
    async with ColonyClient(typescript_colony.base_url, KEYS) as client:
        with pytest.raises(Refused):
            await client.status(uuid4())
    with pytest.raises(Unauthorized):
        async with ColonyClient(typescript_colony.base_url, parse_keys("test:" + "x" * 32, "K")) as stranger:
            await stranger.status(uuid4())


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"surprise": 1}, "/surprise"),
        ({"missions": []}, "/missions"),
        ({"contract_version": "2.0"}, "/contract_version"),
        ({("missions", 0, "mood"): "fine"}, "/missions/0/mood"),
        ({("missions", 0, "attempt"): 0}, "/missions/0/attempt"),
        ({("missions", 0, "attempt"): "1"}, "/missions/0/attempt"),
        ({("missions", 0, "attempt"): 1.5}, "/missions/0/attempt"),
        ({("missions", 0, "envelope", "mode"): "reckless"}, "/missions/0/envelope/mode"),
        ({("missions", 0, "envelope", "inputs"): []}, "/missions/0/envelope/inputs"),
        ({("missions", 0, "envelope", "created_at"): "yesterday"}, "/missions/0/envelope/created_at"),
        ({("missions", 0, "envelope", "user_goal"): ""}, "/missions/0/envelope/user_goal"),
        ({("missions", 0, "envelope", "mission_id"): str(uuid4())}, "/missions/0/mission_id"),
        ({("missions", 0, "traceparent"): "x"}, "/missions/0/traceparent"),
        ({("missions", 0, "budgets", "time_ms"): 0}, "/missions/0/budgets/time_ms"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_whole_and_the_field_named(
    typescript_colony: typescript.Running, change: dict[Any, Any], pointer: str
) -> None:
    async with house_of(FakeRoot(), typescript_colony) as built:
        asked = built.dispatch(ASK)
        body = json.loads(written(DispatchBatch(missions=[asked]), CONTRACT_VERSION))
        for where, value in change.items():
            *steps, last = where if isinstance(where, tuple) else (where,)
            target = body
            for step in steps:
                target = target[step]
            target[last] = value
        answer = await send(typescript_colony, json.dumps(body).encode())
        said = answer.json()
        assert (answer.status_code, said["code"]) == (422, "invalid_body"), said
        assert pointer in [one["pointer"] for one in said["errors"]]
        with pytest.raises(Refused, match="404"):
            await built.colony.status(asked.mission_id)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b'{"missions": NaN}', b"[" * 100_000, b'{"missions": [], "missions": []}',
        b'{"missions": "\\u0000"}', b'{"missions": "\\ud800"}', b'"' + b'\\"' * 200_000,
    ],
)  # fmt: skip
async def test_a_body_that_is_no_json_is_refused_quickly(typescript_colony: typescript.Running, body: bytes) -> None:
    async with asyncio.timeout(3):
        answer = await send(typescript_colony, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")


async def test_a_body_that_is_too_large_is_refused(typescript_colony: typescript.Running) -> None:
    answer = await send(typescript_colony, b" " * (8 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    async with httpx.AsyncClient(base_url=typescript_colony.base_url) as http:
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("version", "answered"), [(None, "1.0"), ("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.2"), ("1.7", "1.2")]
)
async def test_the_older_of_two_versions_is_spoken(
    typescript_colony: typescript.Running, version: str | None, answered: str
) -> None:
    async with house_of(FakeRoot(harbor()), typescript_colony) as built:
        asked = built.dispatch(ASK)
        body = written(DispatchBatch(missions=[asked]), answered)
        headers = sign(KEYS, "POST", "/v1/missions", body, "colony")
        del headers[VERSION_HEADER]
        answer = await send(typescript_colony, body, headers=headers | ({VERSION_HEADER: version} if version else {}))
        assert answer.status_code == 200, answer.text
        assert (answer.json()["contract_version"], answer.headers[VERSION_HEADER]) == (answered, CONTRACT_VERSION)
        assert await built.ended(asked.mission_id) == "completed"


async def test_another_major_version_is_refused_and_both_are_named(typescript_colony: typescript.Running) -> None:
    for version in ("2.0", "0.9", "x"):
        headers = sign(KEYS, "POST", "/v1/missions", b"{}", "colony") | {VERSION_HEADER: version}
        answer = await send(typescript_colony, b"{}", headers=headers)
        said = answer.json()
        assert (answer.status_code, said["code"]) == (400, "version_unsupported")
        assert version in said["detail"] and CONTRACT_VERSION in said["detail"]


# --- as a process


async def test_beyond_its_places_it_is_busy_and_elsewhere_it_does_not_call(compiled: Path) -> None:
    with typescript.running(compiled, SECRET, MAX_CONCURRENT_MISSIONS="1", ENVIRONMENT="production") as colony:
        async with house_of(FakeRoot(harbor(), tool_seconds=0.3), colony) as built:
            (answer,) = await built.colony.dispatch([built.dispatch(ASK)])
            assert (answer.outcome, answer.code) == ("refused", "callback_not_allowed")
    with typescript.running(compiled, SECRET, MAX_CONCURRENT_MISSIONS="1") as colony:
        async with house_of(FakeRoot(harbor(), tool_seconds=0.3), colony) as built:
            asked = [built.dispatch(ASK) for _ in range(7)]
            answers = await built.colony.dispatch(asked)
            assert [answer.outcome for answer in answers] == ["accepted"] * 5 + ["busy"] * 2
            assert all((answer.retry_after_s or 0) > 0 for answer in answers[5:])
            assert not (await built.colony.ready()).ready
            for one in asked[:4]:
                await built.colony.cancel(one.mission_id, "enough")
            assert await built.ended(asked[4].mission_id) == "completed", "its turn comes when others are gone"
            assert (await built.colony.ready()).ready


async def test_after_a_restart_it_knows_nothing_and_says_so(compiled: Path) -> None:
    root = FakeRoot(harbor(), tool_seconds=0.2)
    with typescript.running(compiled, SECRET) as colony:
        async with house_of(root, colony) as built:
            asked = built.dispatch(ASK)
            await built.colony.dispatch([asked])
            await asyncio.wait_for(root.sent.wait(), 5)
    with typescript.running(compiled, SECRET) as colony:
        async with house_of(root, colony) as built:
            with pytest.raises(Refused, match="404"):
                await built.colony.status(asked.mission_id)
            await built.colony.dispatch(
                [built.dispatch(ASK, mission_id=asked.mission_id)]
            )  # the same attempt once more
            assert await built.ended(asked.mission_id) == "completed"
    told = root.of(asked.mission_id)
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1)) and told[-1]["signal"] == "complete"


@pytest.mark.parametrize(
    ("wrong", "variable"),
    [
        ({"PORT": "eighty"}, "PORT"),
        ({"ROOT_API_KEY": ""}, "ROOT_API_KEY"),
        ({"ROOT_API_KEY": "bare-secret-without-a-kid"}, "ROOT_API_KEY"),
        ({"ROOT_API_BASE_URL": "ftp://root"}, "ROOT_API_BASE_URL"),
        ({"ENVIRONMENT": "moon"}, "ENVIRONMENT"),
        ({"MAX_CONCURRENT_MISSIONS": "0"}, "MAX_CONCURRENT_MISSIONS"),
    ],
)
def test_a_wrong_setting_stops_it_with_one_sentence(compiled: Path, wrong: dict[str, str], variable: str) -> None:
    right = {"ROOT_API_KEY": SECRET, "ROOT_API_BASE_URL": "http://127.0.0.1:9"}
    process = typescript.start(compiled, 1, **(right | wrong))
    _, said = process.communicate(timeout=15)
    assert process.returncode == 2 and variable in said and said.count("\n") == 1 and "bare-secret" not in said


def test_it_ends_when_it_is_told_to(compiled: Path) -> None:
    with typescript.running(compiled, SECRET) as colony:
        colony.process.send_signal(signal.SIGTERM)
        assert colony.process.wait(10) == 0


# --- as a project


def test_its_only_dependency_is_the_compiler_and_pinned() -> None:
    package = json.loads((typescript.PROJECT / "package.json").read_text())
    assert set(package["devDependencies"]) == {"typescript"} and "dependencies" not in package
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["devDependencies"]["typescript"])
    assert not list(typescript.PROJECT.glob("*lock*"))
    for file in (typescript.PROJECT / "src").glob("*.ts"):
        for imported in re.findall(r'from "([^"]+)"', file.read_text()):
            assert imported.startswith(("./", "node:")), (file.name, imported)
    assert json.loads((typescript.PROJECT / "tsconfig.json").read_text())["compilerOptions"]["strict"]
