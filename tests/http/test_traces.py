"""One trace runs from the caller through root, worker and colony and back to the root."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from colony.service import create_app
from colony.settings import Settings as ColonySettings
from colony_client.client import ColonyClient
from tests.boundary.calls import batch, call, events_path
from tests.world import World
from tests.world.checks import inspector
from tests.world.world import COLONY_KEY, lifespan, served

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{CALLER}-b7ad6b7169203331-01"
ASK = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of this process go. A provider can be set once per process, so it stays; the exporter does not."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    kept = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    yield kept
    kept.shutdown()


@pytest.fixture
async def spans(exporter: InMemorySpanExporter) -> AsyncIterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter


def of_trace(spans: InMemorySpanExporter, trace_id: str) -> dict[str, list[ReadableSpan]]:
    """The finished spans of a trace by name."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        if f"{span.context.trace_id:032x}" == trace_id:
            found.setdefault(span.name, []).append(span)
    return found


async def test_one_trace_from_the_caller_to_the_callback(world: World, spans: InMemorySpanExporter) -> None:
    """The real colony answers over HTTP; whatever is not in the caller's trace is not found here."""
    async with served(world.internal) as root_url:
        colony = create_app(ColonySettings(port=1, root_api_base_url=root_url, root_api_key=COLONY_KEY))  # type: ignore[arg-type]
        world.worker.colony.callback_base_url = root_url
        world.worker.colony.client = ColonyClient(
            "http://colony", world.root.colony_keys, transport=httpx.ASGITransport(colony)
        )
        async with lifespan(colony):
            ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
            answer = await world.submitter.post("/v1/missions", json=ask, headers={"traceparent": PARENT})
            assert answer.headers["traceparent"].split("-")[1] == CALLER
            await world.run_work("dispatch")
            async with asyncio.timeout(15):
                while (await world.mission(answer.json()["id"]))["state"] not in ("in_review", "failed"):
                    await asyncio.sleep(0.05)
    found = of_trace(spans, CALLER)
    accepted = found["POST /v1/missions"]
    attempt = found["mission attempt"]
    callbacks = found["POST /internal/v1/missions/{mission_id}/events"]
    assert f"{accepted[0].parent.span_id:016x}" == "b7ad6b7169203331"  # type: ignore[union-attr]
    assert len(accepted) == 2, "once at the root, once at the colony"
    assert found["dispatch"] and len(attempt) == 1 and callbacks
    parents = {span.context.span_id: span for group in found.values() for span in group}

    def ancestors(span: ReadableSpan) -> list[str]:
        names: list[str] = []
        while span.parent is not None and span.parent.span_id in parents:
            span = parents[span.parent.span_id]
            names.append(span.name)
        return names

    for callback in callbacks:
        assert ancestors(callback)[0] == "mission attempt"
        assert ancestors(callback)[-1] == "POST /v1/missions"


async def test_a_caller_without_a_trace_gets_one(world: World, spans: InMemorySpanExporter) -> None:
    ids = set()
    for path in ("/v1/missions", "/v1/nothing", "/v1/missions?limit=0"):
        answer = await world.submitter.get(path)
        version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
        assert (version, len(trace_id), len(span_id), int(flags, 16) & 1) == ("00", 32, 16, 1)
        ids.add(trace_id)
    assert len(ids) == 3
    assert not [name for name in ids if of_trace(spans, name) == {}]


async def test_probes_are_not_traced(world: World, spans: InMemorySpanExporter) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/healthz"):
        await world.anybody.get(path)
    assert not spans.get_finished_spans()


async def test_a_mission_remembers_its_trace(world: World, spans: InMemorySpanExporter) -> None:
    """Hours later, in another process, the dispatch belongs to the trace of the request."""
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    await world.submitter.post("/v1/missions", json=ask, headers={"traceparent": PARENT})
    await world.run_work("dispatch")
    assert world.colony.last().traceparent is not None
    assert (world.colony.last().traceparent or "").split("-")[1] == CALLER


async def test_a_damaged_traceparent_is_ignored(world: World, spans: InMemorySpanExporter) -> None:
    for bad in (
        "x",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "00-zz-11-01",
        "00-" + "f" * 5000,
    ):
        answer = await world.submitter.get("/v1/missions", headers={"traceparent": bad})
        assert answer.status_code == 200
        assert len(answer.headers["traceparent"].split("-")[1]) == 32


def take(app: Any, patched: pytest.MonkeyPatch, lane: bool) -> None:
    """From now on every call leaves a trace, those of busy routes in the lane alone or in the framework alone."""

    async def never(*_: Any) -> None:
        raise AssertionError("it went the framework's way")

    if lane:
        patched.setattr(app.lane, "sample", 1.0)
        patched.setattr(app.lane, "framework", never)
    else:
        patched.setattr(app, "lane", None)


def named(span: ReadableSpan, parent: str | None) -> str:
    """The span's traceparent, once it is seen to hang below the parent."""
    context, above = span.context, span.parent
    assert (None if above is None else f"00-{above.trace_id:032x}-{above.span_id:016x}-01") == parent
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def told(span: ReadableSpan) -> dict[str, Any]:
    """What a span says of itself, apart from its ids and times."""
    said = json.loads(span.to_json())
    for name in ("context", "parent_id", "start_time", "end_time"):
        del said[name]
    scope = span.instrumentation_scope
    assert scope is not None
    return said | {"scope": (scope.name, scope.version, scope.schema_url)}


@pytest.mark.parametrize("parent", [None, PARENT], ids=["begun here", "continued"])
@pytest.mark.parametrize(
    "ask", [{}, {"mission_type": "nothing_known"}, {"inputs": {"workspace": 5}}], ids=["taken", "no type", "wrong"]
)
async def test_a_mission_has_the_same_span_either_way(
    world: World, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, parent: str | None, ask: dict[str, Any]
) -> None:
    await world.submitter.post("/v1/missions", json=ASK)  # seen before
    said, headers = [], {} if parent is None else {"traceparent": parent}
    for lane in (True, False):
        spans.clear()
        with monkeypatch.context() as patched:
            take(world.public, patched, lane)
            answer = await world.submitter.post("/v1/missions", json=ASK | ask, headers=headers)
        [span] = spans.get_finished_spans()
        own = named(span, parent)
        assert answer.headers["traceparent"] == own
        if answer.status_code == 202:
            stored = "SELECT traceparent FROM mission WHERE id::text = $1"
            assert await (await inspector(world)).fetchval(stored, answer.json()["id"]) == own
        said.append((answer.status_code, told(span), sorted(answer.headers)))
    assert said[0] == said[1]


@pytest.mark.parametrize("parent", [None, PARENT], ids=["begun here", "continued"])
async def test_a_callback_has_the_same_span_either_way(
    world: World, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, parent: str | None
) -> None:
    await world.submitter.post("/v1/missions", json=ASK)
    await world.run_work("dispatch")
    dispatch, said = world.colony.last(), []
    headers = {} if parent is None else {"traceparent": parent}
    via = httpx.AsyncClient(transport=httpx.ASGITransport(world.internal), base_url="http://root", headers=headers)
    for lane in (True, False):
        with monkeypatch.context() as patched:
            take(world.internal, patched, lane)
            for token in (dispatch.mission_token, "none"):
                spans.clear()
                answer = await call(world, events_path(dispatch), batch(dispatch), token, via=via)
                [span] = spans.get_finished_spans()
                assert answer.headers["traceparent"] == named(span, parent)
                said.append((answer.status_code, told(span), sorted(answer.headers)))
    assert said[:2] == said[2:] and [status for status, *_ in said[:2]] == [200, 401]


def test_a_collector_that_does_not_answer_holds_up_no_stop() -> None:
    """It takes connections and says nothing: spans are waiting, and the process ends all the same."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = f"""if True:
            from app import telemetry
            telemetry.setup("test", otlp_endpoint="http://127.0.0.1:{silent.getsockname()[1]}", sample=1.0)
            with telemetry.span("one"):
                pass"""
        assert subprocess.run([sys.executable, "-c", code], timeout=8, check=False).returncode == 0
