"""The budget around a call: bounded before, counted after, never exceeded, whatever happens in between."""

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.errors import Problem
from app.model_gateway.actions import room
from app.model_gateway.providers import Model, Provider, Target
from tests.calls.test_opening import run_out
from tests.models.conftest import ASK, MODEL, House, described


async def test_an_answer_is_bounded_by_what_is_left(house: House) -> None:
    life = await house.mission(budget={"tokens": 700})
    said = await house.ask(life, max_tokens=500)
    bound = house.east.asked[0]["max_tokens"]
    assert 0 < bound < 500 and said.choices
    account = await house.account(life.id)
    assert account["settled_tokens"] == 15
    await house.ask(life, max_tokens=500)
    assert house.east.asked[1]["max_tokens"] == bound - 15, "what was used is not there any more, and nothing else"


async def test_money_bounds_an_answer_too(house: House) -> None:
    dear = described("east", house.urls["east"], models={"small": MODEL | {"output_usd": 1000.0}})
    await house.configure(dear)
    life = await house.mission(budget={"cost_usd": 0.1})
    async with house.client(life) as client:
        raw = await client.chat.completions.with_raw_response.create(model="small", messages=ASK)
    bound = house.east.asked[0]["max_tokens"]
    assert 90 <= bound < 100 and raw.headers["max-tokens"] == str(bound)
    for _ in range(30):
        try:
            await house.ask(life)
        except openai.ConflictError as refused:
            body: Any = refused.body
            assert body["lacking"] == ["cost_usd"]
            break
    account = await house.account(life.id)
    assert account["over_cost_usd"] == 0 and account["settled_cost_usd"] <= Decimal("0.1")
    assert account["settled_cost_usd"] > Decimal("0.08"), "it was refused too early"


async def test_the_limit_is_spelled_as_the_provider_wants_it(house: House) -> None:
    newer = described("east", house.urls["east"], models={"small": MODEL | {"limit_field": "max_completion_tokens"}})
    await house.configure(newer)
    life = await house.mission()
    await house.ask(life, max_tokens=20)
    assert house.east.asked[0]["max_completion_tokens"] == 20 and "max_tokens" not in house.east.asked[0]
    await house.ask(life)
    assert house.east.asked[1]["max_completion_tokens"] == 500, "a model's own limit holds where nobody names one"


async def test_many_at_once_never_use_more_than_there_is(house: House) -> None:
    life = await house.mission(budget={"tokens": 2500})
    house.east.words = ["x"] * 100  # the truth: 110 tokens a call

    async def one(number: int) -> None:
        async with house.client(life, max_retries=3) as client:  # 503 database_busy may be repeated
            if number % 3:
                await client.chat.completions.create(model="small", messages=ASK, max_tokens=100)
                return
            async for _ in await client.chat.completions.create(
                model="small", messages=ASK, max_tokens=100, stream=True
            ):
                pass

    answers = await asyncio.gather(*(one(number) for number in range(40)), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, BaseException)]
    assert all(isinstance(one, openai.ConflictError) for one in refused), {str(one) for one in refused}
    assert refused and len(refused) < 40
    calls = await house.calls(life)
    account = await house.account(life.id)
    used = sum(one["tokens_in"] + one["tokens_out"] for one in calls)
    assert len(calls) == 40 - len(refused) == account["calls"]
    assert (account["settled_tokens"], account["reserved_tokens"], account["over_tokens"]) == (used, 0, 0)
    assert used <= 2500


async def test_fifty_at_once_on_a_budget_for_ten_are_ten(house: House) -> None:
    house.east.hold.clear()
    probe = await house.mission()
    asking = asyncio.create_task(house.ask(probe, max_tokens=100))
    await house.east.begun.wait()
    each = (await house.account(probe.id))["reserved_tokens"]
    life = await house.mission(budget={"tokens": 10 * each})
    tasks = [asyncio.create_task(house.ask(life, max_tokens=100)) for _ in range(50)]
    refused: set[asyncio.Task[Any]] = set()
    while len(refused) < 40:
        done, _ = await asyncio.wait(set(tasks) - refused, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done and all(isinstance(one.exception(), openai.ConflictError) for one in done)
        refused |= done
    house.east.hold.set()
    assert all([(await one).choices for one in {*tasks, asking} - refused])
    assert len(refused) == 40 and len(house.east.asked) == 11
    account = await house.account(life.id)
    assert (account["calls"], account["settled_tokens"], account["reserved_tokens"]) == (10, 150, 0)


async def test_a_day_that_is_used_up_stops_calls_of_missions_from_before(house: House) -> None:
    life = await house.mission()
    seen = await house.world.admin.get("/v1/budgets")
    await house.world.admin.put("/v1/budgets", json={"day_tokens": 10}, headers={"If-Match": seen.headers["etag"]})
    with pytest.raises(openai.ConflictError) as refused:
        await house.ask(life)
    body: Any = refused.value.body
    assert (body["account"], body["lacking"]) == ("tenant_day", ["tokens"]) and body["renews_at"]
    assert house.east.asked == []


async def test_what_a_crash_leaves_reserved_counts_as_used(house: House) -> None:
    house.east.hold.clear()
    life = await house.mission()
    asking = asyncio.create_task(house.ask(life))
    await house.east.begun.wait()
    held = (await house.account(life.id))["reserved_tokens"]
    assert held > 500
    await run_out(house.world)  # the process is gone, and time passes: nobody settles, and the reconciler comes
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"], account["calls"]) == (held, 0, 1)
    [(_, said)] = await life.facts("budget.presumed")
    assert (said["purpose"], said["tokens"]) == ("model", held)
    # it was not gone after all, only late: what it held was counted for it, and its fact and its answer are kept
    house.east.hold.set()
    await asking
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"]) == (held, 0)
    assert len(await house.calls(life)) == 1


async def busy(*_: Any) -> Any:
    """What the database says to each closing while somebody holds its rows."""
    raise asyncpg.LockNotAvailableError


async def test_what_a_stop_cannot_write_is_counted_by_the_reconciler(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.world.root.closings.batches, "run", busy)
    life = await house.mission()
    with capture_logs() as logs:
        asking = asyncio.create_task(house.ask(life))
        async with asyncio.timeout(30):
            while not house.gateway.settling:
                await asyncio.sleep(0.01)
        for one in house.gateway.settling:  # as at the end of the event loop
            one.cancel()
        with pytest.raises(openai.OpenAIError):
            await asking
    assert [one["mission"] for one in logs if "is not known to be written" in one["event"]] == [str(life.id)]
    held = (await house.account(life.id))["reserved_tokens"]
    await run_out(house.world)
    account = await house.account(life.id)
    assert held > 500 and (account["settled_tokens"], account["reserved_tokens"]) == (held, 0)


async def test_the_end_waits_also_for_calls_that_end_meanwhile(house: House) -> None:
    ends = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(end.wait()) for end in ends]

    def put(task: asyncio.Task[Any]) -> None:
        house.gateway.settling.add(task)
        task.add_done_callback(house.gateway.settling.discard)

    put(tasks[0])
    tasks[0].add_done_callback(lambda _: put(tasks[1]))
    closing = asyncio.create_task(house.gateway.close())
    ends[0].set()
    done, _ = await asyncio.wait([closing], timeout=0.1)
    assert not done
    ends[1].set()
    await closing


async def test_a_busy_database_costs_nobody_the_answer_and_nothing_is_counted_twice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, records, failures = await house.mission(), house.world.root.closings, iter(("before", "after", "not"))
    run = records.batches.run

    async def failing(connection: Any, ended: Any) -> Any:
        when = next(failures)
        if when == "before":
            raise asyncpg.LockNotAvailableError
        done = await run(connection, ended)
        if when == "after":  # the commit is done, and its answer is lost
            raise ConnectionError
        return done

    monkeypatch.setattr(records.batches, "run", failing)
    assert (await house.ask(life)).choices
    assert len(await house.calls(life)) == 1
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"], account["calls"]) == (15, 0, 1)


async def test_what_a_call_used_is_written_when_the_database_is_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, batches, away = await house.mission(), house.world.root.closings.batches, asyncio.Event()
    run, tried = batches.run, asyncio.Event()
    monkeypatch.setattr("app.model_gateway.api.PAUSES_S", (0.001,))
    monkeypatch.setattr("app.model_gateway.api.LATER_S", 0.001)
    away.set()

    async def failing(connection: Any, ended: Any) -> Any:
        if away.is_set():
            tried.set()
            raise asyncpg.LockNotAvailableError
        return await run(connection, ended)

    monkeypatch.setattr(batches, "run", failing)
    with capture_logs() as logs:
        with pytest.raises(openai.InternalServerError):
            await house.ask(life, max_tokens=20)
        [late] = house.gateway.late
        tried.clear()
        await tried.wait()
        assert await house.calls(life) == []
        away.clear()
        await late
    assert [one for one in logs if "not known to be written" in one["event"]] == []
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["tried"], fact["tokens_in"] + fact["tokens_out"]) == ("abandoned", ["east:ok"], 15)
    account = await house.account(life.id)
    assert (account["settled_tokens"], account["reserved_tokens"], account["calls"]) == (15, 0, 1)
    assert not house.gateway.late and not house.gateway.settling


async def test_what_waits_to_be_written_is_tried_at_once_when_the_process_ends(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, batches = await house.mission(), house.world.root.closings.batches
    run, tried = batches.run, 0
    monkeypatch.setattr("app.model_gateway.api.PAUSES_S", ())
    monkeypatch.setattr("app.model_gateway.api.LATER_S", 60.0)
    monkeypatch.setattr("app.model_gateway.api.LAST_S", 0.001)
    with monkeypatch.context() as away:
        away.setattr(batches, "run", busy)
        with pytest.raises(openai.InternalServerError):
            await house.ask(life, max_tokens=20)

    async def failing_once(connection: Any, ended: Any) -> Any:
        nonlocal tried
        tried += 1
        if tried == 1:  # it is back a moment later, and there are a few seconds
            raise asyncpg.LockNotAvailableError
        return await run(connection, ended)

    monkeypatch.setattr(batches, "run", failing_once)
    await asyncio.wait_for(house.gateway.close(), 10)
    assert tried == 2
    [fact] = await house.calls(life)
    assert (fact["outcome"], fact["tokens_in"] + fact["tokens_out"]) == ("abandoned", 15)


async def test_it_is_tried_until_what_it_holds_is_over_and_for_so_many_calls(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.world.root.closings.batches, "run", busy)
    monkeypatch.setattr("app.model_gateway.api.PAUSES_S", ())
    monkeypatch.setattr("app.model_gateway.api.LATER_S", 0.001)
    monkeypatch.setattr("app.model_gateway.actions.Opened.until", 0.0)
    life = await house.mission()
    for most in (1, 0):
        monkeypatch.setattr("app.model_gateway.api.MOST_LATE", most)
        with capture_logs() as logs:
            with pytest.raises(openai.InternalServerError):
                await house.ask(life)
            assert len(house.gateway.late) == most
            await asyncio.gather(*house.gateway.late)
        assert [one["mission"] for one in logs if "not known to be written" in one["event"]] == [str(life.id)]


TARGETS = st.builds(
    lambda name, i, o: Target(
        name, Provider.model_construct(name="p"),
        Model(upstream="x", input_usd=i, output_usd=o, context_tokens=10_000, output_tokens=5_000),
    ),
    st.just("m"), *[st.decimals(0, 100, places=6).map(float)] * 2,
)  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(TARGETS, min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.none() | st.integers(0, 20_000),
    st.none() | st.decimals(0, 2, places=8),
)
def test_what_fits_fits_and_is_not_much_less_than_could(
    targets: list[Target], prompt: int, tokens: int | None, cost: Decimal | None
) -> None:
    left = {"tokens": tokens, "cost_usd": None if cost is None else float(cost), "time_ms": None}
    fits = room(targets, prompt, Problem("budget_exhausted", "x", account="mission", lacking=[], left=left))
    if fits <= 0:
        return
    if tokens is not None:
        assert prompt + fits <= tokens
    if cost is not None:
        assert max(one.model.cost(prompt, fits) for one in targets) <= cost
