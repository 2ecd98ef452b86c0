"""The real `openai` package as the client: whole, as a stream, with tools; and errors as it reads them."""

from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.models.conftest import ASK, House
from tests.models.provider import KEY, WORDS
from tests.world.checks import inspector

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
    }
]
CALLED = [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "guide.md"}'}}]


async def test_a_whole_answer_and_all_that_is_kept_of_it(house: House) -> None:
    life = await house.mission()
    said = await house.ask(life, temperature=0, seed=7, response_format={"type": "json_object"}, max_tokens=50)
    assert said.choices[0].message.content == "".join(WORDS) and said.model == "small"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (10, 5)
    [asked] = house.east.asked
    assert asked["model"] == "small-2026" and asked["max_tokens"] == 50 and "stream" not in asked
    assert (asked["temperature"], asked["seed"], asked["response_format"]) == (0, 7, {"type": "json_object"})
    assert house.east.keys == [f"Bearer {KEY}"] and house.west.asked == []
    [fact] = await house.calls(life)
    cost = (10 * 1.0 + 5 * 4.0) / 1e6
    assert fact | {"latency_ms": 0, "request_sha256": "", "answer_sha256": "", "policy_decision": ""} == {
        "model": "small", "provider": "east", "outcome": "ok", "tried": ["east:ok"], "tokens_in": 10, "tokens_out": 5,
        "estimated": False, "cost_usd": cost, "latency_ms": 0, "request_sha256": "", "answer_sha256": "",
        "policy_decision": "", "attempt": 1,
    }  # fmt: skip
    assert len(fact["request_sha256"]) == len(fact["answer_sha256"]) == 64
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["settled_cost_usd"]) == (15, Decimal("0.00003"))
    assert (account["reserved_tokens"], account["reserved_cost_usd"], account["calls"]) == (0, 0, 1)
    shown = await house.world.mission(life.id)
    assert shown["budget"]["used_tokens"] == 15
    [decision] = [
        one
        for one in (await house.world.auditor.get(f"/v1/missions/{life.id}/packet")).json()["policy_decisions"]
        if one["id"] == fact["policy_decision"]
    ]
    assert (decision["action"], decision["resource"], decision["rule"]) == (
        "model.call", "small", "models.outside_for_open_material",
    )  # fmt: skip


async def test_a_stream_is_the_same_answer_and_is_counted_before_its_end(house: House) -> None:
    life = await house.mission()
    async with house.client(life) as client:
        stream = await client.chat.completions.create(model="small", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        assert len(await house.calls(life)) == 1, "the end mark came before the record"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(WORDS)
    assert {chunk.model for chunk in chunks} == {"small"}
    assert all(chunk.usage is None and chunk.choices for chunk in chunks), "nobody asked for usage"
    assert house.east.asked[0]["stream_options"] == {"include_usage": True}
    [fact] = await house.calls(life)
    assert (fact["tokens_in"], fact["tokens_out"], fact["estimated"], fact["outcome"]) == (10, 5, False, "ok")
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"]) == (15, 0)


async def test_a_client_that_wants_to_know_what_a_stream_used_is_told(house: House) -> None:
    life = await house.mission()
    async with house.client(life) as client:
        stream = await client.chat.completions.create(
            model="small", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        *_, last = [chunk async for chunk in stream]
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == 15


async def test_tools_pass_both_ways(house: House) -> None:
    house.east.tool_calls = CALLED
    life = await house.mission()
    said = await house.ask(life, tools=TOOLS, tool_choice="auto")
    [call] = said.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "look", '{"at": "guide.md"}')
    assert house.east.asked[0]["tools"] == TOOLS
    async with house.client(life) as client:
        stream = await client.chat.completions.create(model="small", messages=ASK, tools=TOOLS, stream=True)
        found = [one for chunk in [c async for c in stream] for one in chunk.choices[0].delta.tool_calls or []]
    assert [one.function and one.function.arguments for one in found] == ['{"at": "guide.md"}']
    back: Any = [
        *ASK,
        {"role": "assistant", "tool_calls": CALLED},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    ]
    await house.ask(life, messages=back, tools=TOOLS)
    assert house.east.asked[-1]["messages"] == back


async def test_the_synchronous_client_works_too(house: House) -> None:
    import asyncio

    life = await house.mission()
    async with house.client(life) as client:
        url = str(client.base_url)

    def ask() -> tuple[str | None, list[str]]:
        with openai.OpenAI(base_url=url, api_key=life.dispatch.gateway_token, max_retries=0) as plain:
            said = plain.chat.completions.create(model="small", messages=ASK)
            parts = plain.chat.completions.create(model="small", messages=ASK, stream=True)
            return said.choices[0].message.content, [one.choices[0].delta.content or "" for one in parts]

    whole, parts = await asyncio.to_thread(ask)
    assert whole == "".join(parts) == "".join(WORDS)


async def test_models_are_those_that_this_mission_may_ask(house: House) -> None:
    small = {"upstream": "x", "input_usd": 0, "output_usd": 0, "context_tokens": 100, "output_tokens": 10}
    from tests.models.conftest import described

    await house.configure(
        described("east", house.urls["east"], classes=["public"], models={"open": small}),
        described("west", house.urls["west"], models={"small": small, "other": small}),
    )
    life = await house.mission()
    async with house.client(life) as client:
        found = [(one.id, one.owned_by, one.object) async for one in await client.models.list()]
    assert found == [("other", "west", "model"), ("small", "west", "model")]
    decisions = await (await inspector(house.world)).fetchval(
        "SELECT count(*) FROM policy_decision WHERE action = 'model.call'"
    )
    assert decisions == 0, "a list decides nothing"


async def test_a_denial_is_carried_back_and_on_record(house: House) -> None:
    life = await house.mission(sensitivity_class="confidential")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await house.ask(life)
    said: Any = refused.value.body
    assert said["code"] == "denied_by_policy" and said["rule"] == "models.not_seen_by_this_provider"
    assert said["would_change"] and said["policy_decision"] and said["type"] == "permission_error"
    assert said["request_id"] == refused.value.response.headers["request-id"]
    [(_, fact)] = await life.facts("model.denied")
    assert (fact["model"], fact["provider"], fact["rule"]) == ("small", "east", said["rule"])
    assert house.east.asked == house.west.asked == []
    assert await life.state() == "running", "the mission goes on"
    assert (await house.account(life.id)) is None


@pytest.mark.parametrize(
    ("more", "status", "code", "param"),
    [
        ({"model": "unheard-of"}, 404, "not_found", "model"),
        ({"messages": []}, 422, "validation", "messages"),
        ({"n": 2}, 422, "validation", "n"),
        ({"store": True}, 422, "validation", "store"),
        ({"extra_body": {"api_base": "http://elsewhere"}}, 422, "validation", "api_base"),
        ({"tools": [{"type": "web_search"}]}, 422, "validation", "tools.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            422, "validation", "messages.0.content.0.type",
        ),
    ],
)  # fmt: skip
async def test_what_is_refused_names_the_field_and_asks_nobody(
    house: House, more: dict[str, Any], status: int, code: str, param: str
) -> None:
    life = await house.mission()
    with pytest.raises(openai.APIStatusError) as refused:
        await house.ask(life, **more)
    said: Any = refused.value.body
    assert (refused.value.status_code, said["code"], said["param"]) == (status, code, param)
    assert house.east.asked == house.west.asked == [] and await house.calls(life) == []


async def test_a_used_up_budget_is_not_asked_for_again_by_a_client_that_repeats(house: House) -> None:
    life = await house.mission(budget={"tokens": 300})
    house.east.usage = {"prompt_tokens": 300, "completion_tokens": 10}
    async with house.client(life, max_retries=2) as client:
        with pytest.raises(openai.ConflictError) as refused:
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "x" * 400}])
    said: Any = refused.value.body
    assert (said["code"], said["account"], said["lacking"]) == ("budget_exhausted", "mission", ["tokens"])
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(await life.facts("budget.refused")) == 1, "it was repeated"
    assert house.east.asked == []
