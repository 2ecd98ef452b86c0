"""Missions through the colony's real HTTP door against a root that answers over HTTP too."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_root import FakeRoot, House, house, plain_get, served
from harbor_docs import harbor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from colony import attempt, outbox
from colony_client.artifacts import Budgets
from colony_client.client import ColonyClient
from colony_client.contract import STAGES
from colony_client.errors import Refused
from colony_client.signing import parse_keys

ASK = "What is a berth?"
SAMPLE = Path(__file__).parents[2] / "sample_crm" / "sample_data.json"
Scene = Callable[[House], Awaitable[None]]


def play(scene: Scene, root: FakeRoot | None = None, **settings: Any) -> FakeRoot:
    root = root or FakeRoot(harbor())

    async def go() -> None:
        async with asyncio.timeout(30):
            async with house(root, **settings) as built:
                await scene(built)

    asyncio.run(go())
    return root


def test_an_oracle_mission_leaves_every_stage_artifact_and_signal_in_order() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        assert [answer.outcome for answer in await built.colony.dispatch([asked])] == ["accepted"]
        assert await built.ended(asked.mission_id) == "completed"
        told = built.root.of(asked.mission_id)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        assert [event["stage"] for event in told if event["type"] == "stage.started"] == list(STAGES)
        assert [event["stage"] for event in told if event["type"] == "stage.completed"] == list(STAGES)
        assert all(event["latency_ms"] >= 0 for event in told if event["type"] == "stage.completed")
        made = [event["artifact"]["schema_name"] for event in told if event["type"] == "artifact.produced"]
        assert made == [
            "mission_task_graph", "prompt_package", "librarian_pass", "research_artifact", "worker_result",
            "aggregation_packet", "review_packet",
        ]  # fmt: skip
        assert (told[-1]["type"], told[-1]["signal"]) == ("signal", "complete")
        assert len(built.root.tokens) > 1, "the token of the dispatch was never replaced by the root's next one"
        status = await built.colony.status(asked.mission_id)
        assert (status.last_seq_sent, status.stage) == (len(told), "reviewer")

    play(scene)


def test_the_same_attempt_again_gets_the_same_answer_and_no_second_run() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        first = await built.colony.dispatch([asked])
        await built.ended(asked.mission_id)
        told = len(built.root.of(asked.mission_id))
        assert await built.colony.dispatch([asked]) == first
        await asyncio.sleep(0.2)
        assert len(built.root.of(asked.mission_id)) == told

    play(scene)


def test_a_higher_attempt_supersedes_and_a_lower_one_is_refused() -> None:
    async def scene(built: House) -> None:
        first = built.dispatch(ASK)
        second = built.dispatch(ASK, attempt=2, mission_id=first.mission_id)
        await built.colony.dispatch([first])
        await built.colony.dispatch([second])
        assert await built.ended(first.mission_id) == "completed"
        assert (await built.colony.status(first.mission_id)).attempt == 2
        assert not any(event["type"] == "signal" for event in built.root.of(first.mission_id, 1))
        (late,) = await built.colony.dispatch([first])
        assert (late.outcome, late.code) == ("refused", "attempt_superseded")

    play(scene, FakeRoot(harbor(), tool_seconds=0.05))


def test_the_root_may_be_gone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second in two parts here; nothing in the code knows the difference to ten."""
    monkeypatch.setattr(outbox, "HEARTBEAT_S", 0.2)

    async def go() -> None:
        root = FakeRoot(harbor(), tool_seconds=0.1)
        async with served(root.app()) as port:
            url = f"http://127.0.0.1:{port}"
        async with house(FakeRoot()) as built:
            asked = built.dispatch(ASK, callback_base_url=url)  # nobody listens there yet
            await built.colony.dispatch([asked])
            await asyncio.sleep(0.5)
            async with served(root.app(), port):
                await asyncio.wait_for(root.sent.wait(), 5)
                await asyncio.sleep(0.2)
            assert (await built.colony.status(asked.mission_id)).state == "running"
            assert (await plain_get(f"{built.colony_url}/ready")).json()["providers"]["root"]["state"] in (
                "ok",
                "degraded",
            )
            await asyncio.sleep(0.5)
            async with served(root.app(), port):
                assert await built.ended(asked.mission_id) == "completed"
        told = root.of(asked.mission_id)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))

    asyncio.run(go())


def test_a_gap_is_filled_from_where_the_root_asks() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "completed"
        told = built.root.of(asked.mission_id)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        assert told[0]["type"] == "stage.started" and told[-1]["type"] == "signal"

    root = play(scene, FakeRoot(harbor(), forget_at=5))
    assert root.forget_at is None, "the root never forgot anything, so nothing was tested"


def test_a_restarted_colony_goes_on_numbering_where_the_root_stands() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "completed"
        told = built.root.of(asked.mission_id)[9:]
        assert [event["seq"] for event in told] == list(range(10, 10 + len(told)))
        assert told[-1]["signal"] == "complete"

    play(scene, FakeRoot(harbor(), already=9))


def test_a_root_that_says_stop_is_obeyed_quietly() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "cancelled"
        assert (await built.colony.status(asked.mission_id)).reason == "the test says so"
        assert not any(event["type"] == "signal" for event in built.root.of(asked.mission_id))

    play(scene, FakeRoot(harbor(), stop=True, tool_seconds=0.05))


def test_cancel_stops_is_idempotent_and_unknown_missions_are_not_found() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        for _ in range(2):
            status = await built.colony.cancel(asked.mission_id, "changed our minds")
            assert (status.state, status.reason) == ("cancelled", "changed our minds")
        calls = len(built.root.tool_calls)
        await asyncio.sleep(0.4)
        assert len(built.root.tool_calls) <= calls + 4  # those that were under way
        with pytest.raises(Refused) as unknown:
            await built.colony.status(built.dispatch(ASK).mission_id)
        assert (unknown.value.status, unknown.value.code) == (404, "mission_unknown")

    play(scene, FakeRoot(harbor(), tool_seconds=0.2))


def test_beyond_its_places_the_colony_is_busy_and_says_when_to_come_back() -> None:
    async def scene(built: House) -> None:
        asked = [built.dispatch(ASK) for _ in range(7)]
        answers = await built.colony.dispatch(asked)
        assert [answer.outcome for answer in answers] == ["accepted"] * 5 + ["busy"] * 2
        assert all((answer.retry_after_s or 0) > 0 for answer in answers[5:])
        ready = await built.colony.ready()
        assert not ready.ready and ready.providers["desk"].state == "degraded"
        assert built.root.tool_calls.count("workspace.outline") <= 1, "more missions ran than MAX_CONCURRENT_MISSIONS"
        for one in asked[:5]:
            await built.colony.cancel(one.mission_id, "enough")

    play(scene, FakeRoot(harbor(), tool_seconds=0.3), max_concurrent_missions=1)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"refuse_tools": {"workspace.outline": 404}}, "workspace.outline"),
        ({"refuse_tools": {"workspace.search": 403}}, "workspace.search"),
        ({"tool_seconds": 5.0}, "took longer than"),
    ],
)
def test_trouble_in_a_stage_is_told_and_blocks(trouble: dict[str, Any], words: str) -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "blocked"
        told = built.root.of(asked.mission_id)
        assert told[-1]["signal"] == "blocked" and words in told[-1]["reason"]
        if "refuse_tools" in trouble:
            (failed,) = [event for event in told if event["type"] == "provider.failed"]
            assert (failed["provider"], failed["retryable"]) == (words, False)

    play(scene, FakeRoot(harbor(), **trouble), task_timeout_ms=400)


@pytest.mark.parametrize("limit", ["task", "mission"])
def test_a_tool_that_fails_until_the_time_is_over_is_told_as_the_cause(limit: str) -> None:
    """As the root answers for a CRM that takes connections and never says anything."""

    async def scene(built: House) -> None:
        more = {"budgets": Budgets(time_ms=400, tokens=0, cost_usd=0)} if limit == "mission" else {}
        asked = built.dispatch(ASK, **more)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "blocked"
        told = built.root.of(asked.mission_id)
        (failed,) = [event for event in told if event["type"] == "provider.failed"]
        assert (failed["provider"], failed["code"]) == ("workspace.search", "connector_timed_out")
        assert failed["retryable"] and "The CRM did not answer" in failed["detail"]
        reason = told[-1]["reason"]
        assert "workspace.search: 503: The CRM did not answer" in reason
        assert ("took longer than" if limit == "task" else "within 400 ms") in reason

    refused = {"cause": "connector_timed_out", "detail": "The CRM did not answer within 10 s."}
    root = FakeRoot(harbor(), refuse_tools={"workspace.search": 503}, refused_with=refused)
    play(scene, root, task_timeout_ms=400 if limit == "task" else 60_000)


def test_a_mission_ends_when_its_time_is_over() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK, budgets=Budgets(time_ms=300, tokens=0, cost_usd=0))
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "blocked"
        assert "300 ms" in built.root.of(asked.mission_id)[-1]["reason"]

    play(scene, FakeRoot(harbor(), tool_seconds=0.2))


def test_a_mistake_in_a_stage_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(attempt, "line_for", broken)

    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "blocked"
        reason = built.root.of(asked.mission_id)[-1]["reason"]
        assert "RuntimeError" in reason and "secret detail" not in reason

    play(scene)


def test_events_that_the_root_refuses_end_the_attempt_with_one_word_about_it() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK)
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "failed"
        (only,) = built.root.of(asked.mission_id)
        assert only["signal"] == "blocked" and "refuses our events" in only["reason"]

    play(scene, FakeRoot(harbor(), refuse_events=422))


def test_only_signed_requests_from_a_known_key_are_heard_and_only_once() -> None:
    async def scene(built: House) -> None:
        for path in ("/v1/missions/x", f"/v1/missions/{built.dispatch(ASK).mission_id}"):
            answer = await plain_get(built.colony_url + path)
            assert answer.status_code in (401, 404)
            assert answer.headers["content-type"] == "application/problem+json"
        async with ColonyClient(built.colony_url, parse_keys("test:" + "x" * 32, "K")) as stranger:
            with pytest.raises(Refused) as refused:
                await stranger.dispatch([built.dispatch(ASK)])
            assert refused.value.status == 401
        assert (await plain_get(f"{built.colony_url}/health")).json()["status"] == "ok"
        assert "colony_missions_held" in (await plain_get(f"{built.colony_url}/metrics")).text

    play(scene)


def test_a_callback_elsewhere_is_refused_in_production() -> None:
    async def scene(built: House) -> None:
        asked = built.dispatch(ASK, callback_base_url="http://127.0.0.1:1")
        (answer,) = await built.colony.dispatch([asked])
        assert (answer.outcome, answer.code) == ("refused", "callback_not_allowed")
        (answer,) = await built.colony.dispatch([built.dispatch(ASK)])
        assert answer.outcome == "accepted"

    play(scene, environment="production")


def test_a_lead_mission_scores_cites_and_proposes_once() -> None:
    root = FakeRoot(records=json.loads(SAMPLE.read_text()))

    async def scene(built: House) -> None:
        asked = built.dispatch("Which leads deserve a call?", "crm_lead_intelligence")
        await built.colony.dispatch([asked])
        assert await built.ended(asked.mission_id) == "completed"
        (packet,) = root.artifacts(asked.mission_id, "aggregation_packet")
        (verdict,) = root.artifacts(asked.mission_id, "review_packet")
        assert verdict["coverage"] == 1.0 and len(packet["leads"]) == 10
        for lead in packet["leads"]:
            assert lead["score"] == max(0, min(100, sum(factor["points"] for factor in lead["factors"])))
        proposals = [event["proposal"] for event in root.of(asked.mission_id) if event["type"] == "writeback.proposed"]
        assert len(proposals) == packet["proposals"] >= 2
        leads = {fields["id"]: fields for fields in root.records["lead"]}
        for proposal in proposals:
            kind, _, name = proposal["target"].partition("/")
            assert (kind, proposal["connector"], proposal["expected_version"]) == ("lead", "sample_crm", "1")
            assert proposal["evidence"]
            assert all(leads[name][field] != value for field, value in proposal["changes"].items())
            leads[name].update(proposal["changes"])
        again = built.dispatch("Which leads deserve a call?", "crm_lead_intelligence")
        await built.colony.dispatch([again])
        assert await built.ended(again.mission_id) == "completed"
        assert not [event for event in root.of(again.mission_id) if event["type"] == "writeback.proposed"]

    play(scene, root)


def test_one_trace_from_the_dispatch_to_the_callbacks() -> None:
    spans = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    async def scene(built: House) -> None:
        asked = built.dispatch(ASK, traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
        await built.colony.dispatch([asked])
        await built.ended(asked.mission_id)

    root = play(scene)
    names = {span.name for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == trace_id}
    assert "mission attempt" in names and {f"stage {stage}" for stage in STAGES} <= names
    assert any(trace_id in value for value in root.traceparents)
