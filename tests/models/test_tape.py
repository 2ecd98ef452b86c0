"""What models answered is on the mission's tape, and a replay hears the same again: with or without its colony, and nobody is asked."""

import asyncio
import json
from typing import Any
from uuid import UUID

import openai
import pytest

from tests.models.conftest import ASK, House, described
from tests.replay.test_recorded import diff, forbid, replay
from tests.world.checks import inspector
from tests.world.life import Life

OTHER: list[Any] = [{"role": "user", "content": "And how long is a freeze?"}]


async def heard(house: House, life: Life, **more: Any) -> Any:
    """What the real client got: the text of an answer, of a stream, or how it was refused."""
    try:
        async with house.client(life) as client:
            said = await client.chat.completions.create(**({"model": "small", "messages": ASK} | more))
            if not more.get("stream"):
                return said.choices[0].message.content, said.usage.completion_tokens
            parts = [part async for part in said]
        return [part.choices[0].delta.content for part in parts if part.choices], [
            part.usage for part in parts if part.usage
        ]
    except openai.APIError as error:
        return getattr(error, "status_code", None), str(error.message).split("request")[0]


CALLS: list[dict[str, Any]] = [
    {},
    {},  # the same again: told apart by how many there were before
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}, "messages": OTHER},
    {"messages": OTHER, "max_tokens": 20},
    {"model": "nobody_has_it"},
]


async def spoken(house: House) -> tuple[Life, list[Any]]:
    """A mission that asked a model in every way, on good and bad days, and what it heard."""
    life, got = await house.mission(), []
    for number, more in enumerate(CALLS):
        house.east.words = [f"answer {number} ", "in parts"]
        got.append(await heard(house, life, **more))
    house.east.mood = "400"
    got.append(await heard(house, life, temperature=0.5))
    house.east.mood = "cut"
    got.append(await heard(house, life, stream=True, temperature=0.6))
    house.east.mood = "good"
    return life, got


ALL = [*CALLS, {"temperature": 0.5}, {"stream": True, "temperature": 0.6}]


async def test_a_replay_without_its_colony_hears_every_model_again(house: House) -> None:
    life, _ = await spoken(house)
    await life.complete()
    await house.world.run_work("review")
    asked = len(house.east.asked)
    again = await replay(life, house.world)
    found = await diff(again)
    assert found["same"] is True, found
    assert found["calls"]["same"] == len(ALL) + 1 and found["cost"]["before"] == found["cost"]["after"]
    assert found["cost"]["before"]["models"]["tokens"] > 0
    row = await again.row()
    assert (row["state"], row["used_tokens"], row["used_cost_usd"]) == ("completed", 0, 0), "a replay spends nothing"
    assert len(house.east.asked) == asked and house.west.asked == []
    before, after = [
        [{name: value for name, value in body.items() if name != "policy_decision"} for body in await house.calls(one)]
        for one in (life, again)
    ]
    assert before == after


async def test_a_live_colony_hears_every_model_again_from_the_tape(house: House) -> None:
    life, got = await spoken(house)
    await life.complete()
    await house.world.run_work("review")
    asked = len(house.east.asked)
    answer = await house.world.submitter.post(
        f"/v1/missions/{life.id}/replay", json={"mode": "recorded", "colony": "live"}
    )
    again = Life(house.world, UUID(answer.json()["id"]))
    await again.take()
    await again.say()
    assert [await heard(house, again, **more) for more in ALL] == got
    assert len(house.east.asked) == asked and house.west.asked == [], "nobody was asked"
    kept = await (await inspector(house.world)).fetch(
        "SELECT mission, name, arguments_sha256, ordinal, outcome, answer_sha256 FROM tape WHERE kind = 'model'"
    )
    assert {tuple(row)[1:] for row in kept if row["mission"] == again.id} == {
        tuple(row)[1:] for row in kept if row["mission"] == life.id
    }
    # the third of a call that was made twice is not on the tape
    assert (await heard(house, again))[0] == 410
    assert (await diff(again))["divergence"]["why"] == "not_on_tape"


@pytest.mark.parametrize("live", [False, True])
async def test_numbers_that_the_root_would_not_write_are_heard_again(house: House, live: bool) -> None:
    """A seed of 64 bits, a moment in nanoseconds: what a provider says so is its client's, and no fact."""
    house.east.created = 2**63 - 1
    life, got = await house.mission(), []
    for more in CALLS[:3]:
        got.append(await heard(house, life, **more))
    await life.complete()
    await house.world.run_work("review")
    if not live:
        assert (await diff(await replay(life, house.world)))["same"] is True
        return
    body = {"mode": "recorded", "colony": "live"}
    answer = await house.world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
    again = Life(house.world, UUID(answer.json()["id"]))
    await again.take()
    assert [await heard(house, again, **more) for more in CALLS[:3]] == got
    assert len(house.east.asked) == 3, "nobody was asked"


SPOILED: dict[str, Any] = {
    "nothing": {}, "no object": [1], "no answer": {"whole": None}, "a word": {"whole": "word"}, "no parts": {"chunks": 5},
    "a part that is none": {"chunks": ["word"]}, "a part without choices": {"chunks": [{"usage": {}}]},
    "a provider that is no name": {"fact": {"provider": ["east"]}}, "half a problem": {"problem": {"code": "not_found"}},
    "a fact that nobody can write": {"fact": {"provider": None, "n": 2.0**70}},
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
async def test_a_live_colony_is_told_that_its_tape_is_not_whole(house: House, what: str) -> None:
    """As a file of another environment may have it."""
    life = await house.mission()
    await heard(house, life)
    await life.complete()
    await house.world.run_work("review")
    connection = await inspector(house.world)
    kept = json.loads(
        await connection.fetchval("SELECT answer FROM tape WHERE mission = $1 AND kind = 'model'", life.id)
    )
    whole = isinstance(SPOILED[what], dict) and SPOILED[what]
    spoiled = json.dumps(kept | SPOILED[what] if whole else SPOILED[what]).encode()
    async with connection.transaction():
        await connection.execute("ALTER TABLE tape DISABLE TRIGGER tape_keep")
        await connection.execute(
            "UPDATE tape SET answer = $2, answer_sha256 = sha256($2) WHERE mission = $1 AND kind = 'model'",
            life.id,
            spoiled,
        )
        await connection.execute("ALTER TABLE tape ENABLE ALWAYS TRIGGER tape_keep")
    body = {"mode": "recorded", "colony": "live"}
    answer = await house.world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
    again = Life(house.world, UUID(answer.json()["id"]))
    await again.take()
    assert (await heard(house, again))[0] == 410
    row = await again.row()
    assert (row["state"], row["reason"]) == ("failed", "replay_unplayable")
    why = "refused" if what == "a fact that nobody can write" else "not_whole"
    assert (await diff(again))["divergence"]["why"] == why
    assert len(house.east.asked) == 1, "nobody was asked"


async def test_what_nobody_waited_for_is_on_no_tape_and_nothing_goes_by_it(house: House) -> None:
    life = await house.mission()
    house.east.hold.clear()
    async with house.client(life) as client:
        stream = await client.chat.completions.create(model="small", messages=ASK, stream=True)
        await anext(stream)
        await house.east.begun.wait()
        await stream.close()
    async with asyncio.timeout(30):
        while not await house.calls(life):
            await asyncio.sleep(0.01)
    house.east.hold.set()
    assert (await house.calls(life))[0]["outcome"] == "abandoned"
    assert await heard(house, life) == ("".join(house.east.words), len(house.east.words))
    await life.complete()
    await house.world.run_work("review")
    again = await replay(life, house.world)
    found = await diff(again)
    assert found["calls"]["same_in_all"] and found["calls"]["same"] == 2, found["calls"]
    assert (await again.row())["state"] == "completed"


async def test_a_denial_is_played_and_one_that_is_none_any_more_ends_the_replay(house: House) -> None:
    await house.configure(described("east", house.urls["east"], classes=["public"]))
    life = await house.mission()
    assert (await heard(house, life))[0] == 403
    await life.complete()
    await house.world.run_work("review")
    again = await replay(life, house.world)
    assert (await diff(again))["same"] is True
    [(_, denied)] = await again.facts("model.denied")
    assert denied["provider"] == "east" and denied["request_sha256"]


@pytest.mark.parametrize("live", [False, True])
async def test_a_rule_that_denies_now_ends_the_replay_at_the_call(house: House, live: bool) -> None:
    life = await house.mission()
    await heard(house, life)
    await life.complete()
    await house.world.run_work("review")
    await forbid(house.world, "no_models", "model.call", '== Model::"small"')
    if live:
        body = {"mode": "recorded", "colony": "live"}
        answer = await house.world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
        again = Life(house.world, UUID(answer.json()["id"]))
        await again.take()
        assert (await heard(house, again))[0] == 410
    else:
        again = await replay(life, house.world)
    row = await again.row()
    assert (row["state"], row["reason"]) == ("failed", "replay_diverged")
    assert "model small, call 1" in row["reason_note"] and "policy denies it now" in row["reason_note"]
    assert (await diff(again))["divergence"]["why"] == "denied_now"


async def test_a_budget_that_was_used_up_is_played_too(house: House) -> None:
    life = await house.mission(budget={"time_ms": 60000, "tokens": 300, "cost_usd": 1.0})
    got = await heard(house, life, messages=[{"role": "user", "content": "x" * 400}])
    assert got[0] == 409
    await life.complete()
    await house.world.run_work("review")
    again = await replay(life, house.world)
    found = await diff(again)
    assert found["calls"]["same_in_all"] and found["calls"]["same"] == 2, found
    assert [body["code"] for _, body in await again.facts("model.refused")] == ["budget_exhausted"]


async def test_a_replay_elsewhere_needs_no_provider_of_that_name(house: House) -> None:
    life, got = await spoken(house)
    await life.complete()
    await house.world.run_work("review")
    await house.configure(described("elsewhere", house.urls["west"], models={"large": {
        "upstream": "l", "input_usd": 1.0, "output_usd": 1.0, "context_tokens": 100, "output_tokens": 10}}))  # fmt: skip
    assert (await diff(await replay(life, house.world)))["same"] is True
    body = {"mode": "recorded", "colony": "live"}
    answer = await house.world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
    again = Life(house.world, UUID(answer.json()["id"]))
    await again.take()
    assert await heard(house, again) == got[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_words_of_a_call_are_on_the_tape_alone(house: House, stream: bool) -> None:
    life, canary = await house.mission(), "canary of a prompt"
    await heard(house, life, messages=[{"role": "user", "content": canary}], stream=stream)
    connection = await inspector(house.world)
    held = []
    for row in await connection.fetch(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = "
        "'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"
    ):
        column = f"position(convert_to($1, 'UTF8') IN convert_to(x.\"{row['attname']}\"::text, 'UTF8'))"
        if row["relname"] == "tape" and row["attname"] in ("arguments", "answer"):
            continue
        if await connection.fetchval(f'SELECT count(*) FROM "{row["relname"]}" x WHERE {column} > 0', canary):
            held.append((row["relname"], row["attname"]))
    assert held == []
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM tape WHERE position($1::bytea IN arguments) > 0", canary.encode()
        )
        == 1
    )
