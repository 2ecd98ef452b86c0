"""Providers on bad days: who is asked instead, what the client hears, what is counted, and when nobody is asked any more."""

import asyncio
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from app.components import Component
from app.model_gateway.health import Health
from tests.models.conftest import ASK, House, described
from tests.models.provider import KEY
from tests.world.checks import inspector

FELL_BACK = {
    "429": "rate_limited",
    "500": "server_error",
    "503": "server_error",
    "hang": "timed_out",
    "error in 200": "server_error",
}
GAVE_UP = {
    "400": ("refused", 400, "provider_refused"),
    "401": ("unauthorized", 502, "provider_unusable"),
    "redirect": ("unusable", 502, "provider_unusable"),
    "html": ("unusable", 502, "provider_unusable"),
    "bad json": ("unusable", 502, "provider_unusable"),
    "no completion": ("unusable", 502, "provider_unusable"),
    "huge": ("unusable", 502, "provider_unusable"),
    "gzip": ("unusable", 502, "provider_unusable"),
}


async def streamed(house: House, life: Any) -> str:
    async with house.client(life) as client:
        stream = await client.chat.completions.create(model="small", messages=ASK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mood", FELL_BACK)
async def test_what_may_be_asked_again_is_asked_of_the_next(house: House, mood: str, stream: bool) -> None:
    if mood == "hang":
        short = {"first_byte_ms": 200} if stream else {"whole_ms": 200}
        await house.configure(
            described("east", house.urls["east"], timeouts=short), described("west", house.urls["west"])
        )
    house.east.mood, life = mood, await house.mission()
    if stream:
        assert await streamed(house, life)
    else:
        assert (await house.ask(life)).choices
    assert len(house.west.asked) == 1
    [fact] = await house.calls(life)
    assert (fact["provider"], fact["outcome"], fact["tokens_in"]) == ("west", "ok", 10)
    assert fact["tried"] == [f"east:{FELL_BACK[mood]}", "west:ok"]
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"], account["calls"]) == (15, 0, 1)


async def test_a_provider_that_is_not_there_is_passed_over(house: House) -> None:
    await house.configure(
        described("east", "http://127.0.0.1:9"),
        described("west", house.urls["west"]),
        fallback={"small": ["east", "west"]},
    )
    life = await house.mission()
    await house.ask(life)
    [fact] = await house.calls(life)
    assert fact["tried"] == ["east:unreachable", "west:ok"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mood", GAVE_UP)
async def test_what_may_not_be_asked_again_is_told(house: House, mood: str, stream: bool) -> None:
    outcome, status, code = GAVE_UP[mood]
    house.east.mood, life = mood, await house.mission()
    with pytest.raises(openai.APIStatusError) as refused:
        await (streamed(house, life) if stream else house.ask(life))
    said: Any = refused.value.body
    assert (refused.value.status_code, said["code"], said["cause"]) == (status, code, outcome)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert KEY not in refused.value.response.text
    assert house.west.asked == [], "somebody else was asked"
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["provider"], fact["tokens_in"], fact["cost_usd"]) == (outcome, "east", 0, 0)
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"]) == (0, 0)
    if mood == "400":
        assert "Unsupported value: 'temperature'" in said["message"]


async def test_a_stream_of_nothing_but_its_end_mark_is_a_failure_to_whoever_counts(house: House) -> None:
    def counted(outcome: str) -> float:
        labels = {"provider": "east", "outcome": outcome}
        return REGISTRY.get_sample_value("mission_root_model_calls_total", labels) or 0

    house.east.mood, life, before = "only the end", await house.mission(), (counted("ok"), counted("unusable"))
    with pytest.raises(openai.APIStatusError) as refused:
        await streamed(house, life)
    said: Any = refused.value.body
    assert (refused.value.status_code, said["code"], said["cause"]) == (502, "provider_unusable", "unusable")
    assert (counted("ok"), counted("unusable")) == (before[0], before[1] + 1)
    assert house.gateway.health["east"].component.state == "degraded"
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["tried"], fact["tokens_out"]) == ("unusable", ["east:unusable"], 0)


async def test_when_nobody_answers_the_client_may_come_again(house: House) -> None:
    house.east.mood, house.west.mood, life = "500", "429", await house.mission()
    with pytest.raises(openai.InternalServerError) as refused:
        await house.ask(life)
    said: Any = refused.value.body
    assert (refused.value.status_code, said["code"], said["cause"]) == (503, "upstream_unavailable", "rate_limited")
    assert refused.value.response.headers["retry-after"] == "7"
    assert refused.value.response.headers["x-should-retry"] == "true"
    [fact] = await house.calls(life)
    assert fact["tried"] == ["east:server_error", "west:rate_limited"]
    with pytest.raises(openai.InternalServerError):  # west rests for as long as it said; east is asked again
        await house.ask(life)
    assert (len(house.east.asked), len(house.west.asked)) == (2, 1)


@pytest.mark.parametrize("mood", ["cut", "no end mark", "error inside", "stall"])
async def test_a_stream_that_broke_off_is_told_counted_and_not_begun_anew(house: House, mood: str) -> None:
    if mood == "stall":
        await house.configure(described("east", house.urls["east"], timeouts={"first_byte_ms": 1500}))
    house.east.mood, life = mood, await house.mission()
    with pytest.raises(openai.APIError) as broken:
        await streamed(house, life)
    said: Any = broken.value.body
    assert (said["code"], said["cause"]) == ("provider_unusable", "cut")
    assert house.west.asked == [], "half an answer was followed by another"
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["estimated"]) == ("cut", True)
    asked = fact["tokens_in"]
    assert 10 <= asked <= 600 and fact["tokens_out"] == len(b"A rollback ")
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"]) == (asked + fact["tokens_out"], 0)


async def test_a_client_that_goes_away_ends_the_stream_and_it_is_counted(house: House) -> None:
    house.east.hold.clear()
    life = await house.mission()
    async with house.client(life) as client:
        stream = await client.chat.completions.create(model="small", messages=ASK, stream=True)
        await anext(stream)
        await house.east.begun.wait()
        await stream.close()
    async with asyncio.timeout(30):
        while not await house.calls(life):
            await asyncio.sleep(0.01)
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["estimated"], fact["tried"]) == ("abandoned", True, ["east:abandoned"])
    account = await house.account(life.id)
    assert account["reserved_tokens"] == 0 and account["settled_tokens"] > 0
    async with asyncio.timeout(30):
        while not house.east.gone:
            await asyncio.sleep(0.01)
    assert not house.gateway.health["east"].probing


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, [], "many", {"prompt_tokens": -5, "completion_tokens": 5}, {"prompt_tokens": 10},
        {"prompt_tokens": 10**12, "completion_tokens": 5}, {"prompt_tokens": 10, "completion_tokens": 501},
        {"prompt_tokens": True, "completion_tokens": 5}, {"prompt_tokens": 10.5, "completion_tokens": 5},
        {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 10, "completion_tokens": 0},
    ],
)  # fmt: skip
async def test_numbers_that_cannot_be_true_are_replaced_by_our_own(house: House, usage: Any) -> None:
    house.east.usage, life = usage, await house.mission()
    await house.ask(life)
    await streamed(house, life)
    whole, stream = await house.calls(life)
    written = len("".join(house.east.words).encode())
    for fact in (whole, stream):
        assert (fact["outcome"], fact["estimated"], fact["tokens_out"]) == ("ok", True, written)
        assert 10 <= fact["tokens_in"] <= 600
    account = await house.account(life.id)
    assert account["reserved_tokens"] == account["over_tokens"] == 0
    assert account["settled_tokens"] == sum(fact["tokens_in"] + fact["tokens_out"] for fact in (whole, stream))


async def test_the_breaker_opens_and_one_probe_closes_it(house: House) -> None:
    house.east.mood, life = "500", await house.mission()
    for _ in range(5):
        await house.ask(life)
    assert len(house.east.asked) == 3, "it was asked on and on"
    assert (await house.calls(life))[-1]["tried"] == ["east:not_asked", "west:ok"]
    status = (await house.world.auditor.get("/v1/status")).json()
    [shown] = [one for one in status["components"] if one["name"] == "model provider east"]
    assert (shown["state"], status["status"]) == ("down", "degraded")
    component = house.gateway.health["east"].component
    component.stays_open *= 0
    house.east.mood = "good"
    house.east.hold.clear()
    probe = asyncio.create_task(house.ask(life))
    house.east.begun.clear()
    await house.east.begun.wait()
    await house.ask(life)
    assert len(house.east.asked) == 4, "more than one probe"
    house.east.hold.set()
    await probe
    await house.ask(life)
    assert len(house.east.asked) == 5 and component.state == "up"


def test_a_probe_that_nobody_waited_for_makes_room_for_the_next() -> None:
    health = Health(Component("p", "x", opens_after=1))
    assert health.admits()
    health.failed("no")
    assert not health.admits() and health.wait_s() > 0
    health.component.stays_open *= 0
    assert health.admits() and not health.admits()
    health.given_up()
    assert health.admits()
    health.succeeded()
    assert health.admits() and health.admits()


async def test_whoever_was_asked_is_counted_for_the_list(house: House) -> None:
    life = await house.mission()
    await house.ask(life)
    house.east.mood = "400"
    with pytest.raises(openai.BadRequestError):
        await house.ask(life)
    shown = (await house.world.auditor.get("/v1/model-providers")).json()["items"]
    assert [one["name"] for one in shown] == ["east", "west"]
    east = shown[0]
    assert east["use"] == {"calls": 2, "failed": 1, "tokens_in": 10, "tokens_out": 5, "cost_usd": 0.00003}
    assert (east["owner"], east["health"]["state"], east["switch"]["off"]) == ("the east team", "up", False)
    assert (east["models"][0]["place"], shown[1]["models"][0]["place"]) == (1, 2)
    assert shown[1]["use"]["calls"] == 0 and "MODEL_KEY" not in str(shown) and KEY not in str(shown)
    await house.world.another_tenant()
    theirs = (await house.world.other.get("/v1/model-providers")).json()["items"]
    assert theirs[0]["use"]["calls"] == 0
    facts = await (await inspector(house.world)).fetchval("SELECT count(*) FROM ledger WHERE type = 'model.called'")
    assert facts == 2


async def test_metrics_and_spans_speak_of_the_call_and_of_no_word_in_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("app.model_gateway.gateway.tracer", provider.get_tracer("tests"))
    counted = {"provider": "east", "outcome": "ok"}
    before = REGISTRY.get_sample_value("mission_root_model_calls_total", counted) or 0
    life = await house.mission()
    await house.ask(life)
    house.east.mood = "500"
    await house.ask(life)
    assert REGISTRY.get_sample_value("mission_root_model_calls_total", counted) == before + 1
    assert REGISTRY.get_sample_value("mission_root_model_calls_total", counted | {"outcome": "server_error"})
    assert (
        REGISTRY.get_sample_value("mission_root_model_tokens_total", {"provider": "east", "direction": "in"}) or 0
    ) >= 10
    good, bad, other = exporter.get_finished_spans()
    assert (good.name, dict(good.attributes or {})) == (
        "chat small",
        {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "east", "gen_ai.request.model": "small",
            "gen_ai.response.model": "small-2026", "gen_ai.request.max_tokens": 500,
            "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5,
        },
    )  # fmt: skip
    assert (bad.attributes or {})["error.type"] == "server_error" and not bad.status.is_ok
    assert (other.attributes or {})["gen_ai.provider.name"] == "west"
