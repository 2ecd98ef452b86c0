"""Tools that change something never run: their calls become proposals that humans decide and the executor carries out."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from colony_client.artifacts import quote_sha256
from tests.tools.odd_server import Odd, served_odd
from tests.tools.registered import ask, entry, mission_with, put, register
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life, approve_all

BECOMES = {"connector": "sample_crm", "kind": "lead", "id": "/lead", "changes": {"priority": "/priority"}}
CRM = ("crm.read", "crm.update")


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


async def lead(world: World, life: Life) -> dict[str, Any]:
    found: dict[str, Any] = await world.colony.tool(life.dispatch, "crm.read", kind="lead", id="L-1001")
    return found


def cited(record: dict[str, Any]) -> dict[str, Any]:
    quote = record["text"].encode()[:40]
    return {
        "source": record["source"], "document": record["document"], "start": 0, "end": len(quote), "quote": quote.decode(),
        "quote_sha256": quote_sha256(quote),
    }  # fmt: skip


def update(record: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": "lead", "id": "L-1001", "changes": {"priority": "high"}, "expected_version": record["version"],
        "summary": "Call them first", "rationale": "They asked twice.", "evidence": [cited(record)], **more,
    }  # fmt: skip


async def finish(world: World, life: Life) -> None:
    """The colony has nothing to add; the root reviews."""
    from tests.world.colony import aggregation

    packet = aggregation(life.dispatch.envelope, [], 1)
    await life.say({"type": "artifact.produced", "artifact": packet}, {"type": "signal", "signal": "complete"})
    await world.run_work("review")


async def carried_out(world: World, life: Life) -> dict[str, Any]:
    """Approved by an operator, executed and read back; the lead as the CRM has it then."""
    await world.no_undo_window()
    await finish(world, life)
    assert await life.state() == "awaiting_approval"
    await approve_all(life)
    await world.run_executor()
    await world.run_work("progress")
    assert await life.state() == "completed"
    [writeback] = await life.writebacks()
    assert writeback["state"] == "succeeded"
    other = await mission_with(world, *CRM)
    return await lead(world, other)


async def test_crm_update_becomes_a_change_that_was_approved(world: World) -> None:
    await world.with_crm()
    life = await mission_with(world, *CRM)
    record = await lead(world, life)
    answer = await ask(world, life.dispatch, "crm.update", update(record))
    assert answer.status_code == 202
    said = answer.json()["result"]
    assert (said["status"], said["connector"], said["target"]) == ("proposed", "sample_crm", "lead/L-1001")
    assert (await lead(world, life))["fields"]["priority"] == record["fields"]["priority"], "nothing is changed yet"
    [(_, fact)] = await life.facts("writeback.proposed")
    assert (fact["proposal"], fact["tool"]) == (said["proposal"], "crm.update")
    assert (await carried_out(world, life))["fields"]["priority"] == "high"


async def test_the_same_call_again_is_the_same_proposal(world: World) -> None:
    await world.with_crm()
    life = await mission_with(world, *CRM)
    record = await lead(world, life)
    answers = await asyncio.gather(*(ask(world, life.dispatch, "crm.update", update(record)) for _ in range(4)))
    assert len({answer.json()["result"]["proposal"] for answer in answers}) == 1
    assert len(await life.facts("writeback.proposed")) == 1
    other = await ask(world, life.dispatch, "crm.update", update(record, summary="Another reason"))
    assert other.json()["result"]["proposal"] != answers[0].json()["result"]["proposal"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"evidence": []}, "/arguments/evidence"),
        ({"changes": {}}, "/arguments/changes"),
        ({"summary": ""}, "/arguments/summary"),
        ({"expected_version": None}, "/arguments/expected_version"),
        ({"reason": "x"}, "/arguments/reason"),
    ],
)
async def test_a_change_that_cannot_be_proposed_is_refused_by_its_field(
    world: World, change: Any, pointer: str
) -> None:
    await world.with_crm()
    life = await mission_with(world, *CRM)
    record = await lead(world, life)
    said = problem(await ask(world, life.dispatch, "crm.update", update(record) | change), "validation")
    assert said["errors"][0]["pointer"].startswith(pointer)
    assert await life.facts("writeback.proposed") == []


async def test_a_tool_of_a_server_becomes_a_proposal_and_its_server_hears_nothing(world: World, odd: Odd) -> None:
    await world.with_crm()
    await register(world, odd, entry("set_priority", access="mutate", becomes=BECOMES))
    life = await mission_with(world, "odd.set_priority", *CRM)
    arguments = {"lead": "L-1001", "priority": "high"}
    asked = len(odd.said)
    grounds = {"summary": "Call them first", "rationale": "They asked twice."}
    answer = await ask(world, life.dispatch, "odd.set_priority", arguments, grounds=grounds)
    assert answer.status_code == 202 and answer.json()["result"]["status"] == "proposed"
    again = await ask(world, life.dispatch, "odd.set_priority", arguments, grounds=grounds)
    assert again.json() == answer.json()
    assert odd.server.calls == [] and len(odd.said) == asked  # type: ignore[attr-defined]
    assert (await carried_out(world, life))["fields"]["priority"] == "high"
    shown = (await world.operator.get(f"/v1/approvals?mission={life.id}&state=approved")).json()["items"]
    assert len(shown) == 1


async def test_arguments_that_name_no_record_or_no_change_are_refused(world: World, odd: Odd) -> None:
    await world.with_crm()
    mapped = BECOMES | {"expected_version": "/version", "changes": {"priority": "/tone"}}
    await register(world, odd, entry("set_priority", access="mutate", becomes=mapped))
    life = await mission_with(world, "odd.set_priority")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"lead": "", "priority": "x", "version": 1}, "/arguments/lead"),
        ({"lead": "L-1001", "priority": "x", "version": 1}, "/arguments"),
        ({"lead": 1, "priority": "x"}, "/arguments/lead"),
    ]
    for arguments, pointer in cases:
        said = problem(await ask(world, life.dispatch, "odd.set_priority", arguments), "validation")
        assert said["errors"][0]["pointer"] == pointer
    mapped["changes"] = {"priority": "/priority"}
    body = {"kind": "mcp", "owner": "x", "transport": "streamable_http", "url": odd.url}
    assert (
        await put(world, "odd", body | {"tools": [entry("set_priority", access="mutate", becomes=mapped)]}, '"v1"')
    ).status_code == 200
    said = problem(
        await ask(world, life.dispatch, "odd.set_priority", {"lead": "L-1001", "priority": "x", "version": 1}),
        "validation",
    )
    assert said["errors"][0]["pointer"] == "/grounds/evidence"


async def test_a_changing_tool_that_becomes_nothing_is_refused_with_the_remedy(world: World, odd: Odd) -> None:
    await register(world, odd, entry("set_priority", access="mutate"))
    life = await mission_with(world, "odd.set_priority")
    said = problem(await ask(world, life.dispatch, "odd.set_priority", {"lead": "a", "priority": "b"}), "tool_unmapped")
    assert "becomes" in said["next_actions"][0]


async def test_a_dry_run_says_what_it_would_have_proposed(world: World) -> None:
    await world.with_crm()
    life = await mission_with(world, *CRM, mode="dry_run")
    record = await lead(world, life)
    answer = await ask(world, life.dispatch, "crm.update", update(record))
    assert (answer.status_code, answer.json()["result"]["status"]) == (202, "would_propose")
    await finish(world, life)
    assert [kind for kind, _ in await life.facts("writeback.")] == ["writeback.proposed", "writeback.would_propose"]
    assert await life.writebacks() == []


async def test_what_has_ended_proposes_nothing(world: World) -> None:
    await world.with_crm()
    life = await mission_with(world, *CRM)
    record = await lead(world, life)
    await life.end("cancel")
    problem(await ask(world, life.dispatch, "crm.update", update(record)), "mission_closed")
    assert await life.facts("writeback.proposed") == []


async def test_a_colony_that_makes_the_call_again_in_a_replay_leaves_a_shadow(world: World, odd: Odd) -> None:
    """Answered from the tape; nothing is read or changed anywhere, and what would have been proposed is reviewed as a shadow."""
    await world.with_crm()
    await register(world, odd, entry("set_priority", access="mutate", becomes=BECOMES))
    life = await mission_with(world, "odd.set_priority", *CRM)
    arguments = {"lead": "L-1001", "priority": "high"}
    grounds = {"summary": "Call them first", "rationale": "They asked twice."}
    first = await ask(world, life.dispatch, "odd.set_priority", arguments, grounds=grounds)
    await finish(world, life)
    await world.run_work("review")
    body = {"mode": "recorded", "colony": "live"}
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json=body)
    again = Life(world, UUID(answer.json()["id"]))
    await again.take()
    await again.say()
    said = await ask(world, again.dispatch, "odd.set_priority", arguments, grounds=grounds)
    assert said.status_code == 202 and said.json() == first.json()
    await finish(world, again)
    [(_, fact)] = await again.facts("writeback.proposed")
    assert fact["tool"] == "odd.set_priority"
    connection = await inspector(world)
    shadows = await connection.fetch("SELECT payload FROM shadow_writeback WHERE mission = $1", again.id)
    real = await connection.fetch("SELECT payload FROM writeback WHERE mission = $1", life.id)
    assert [json.loads(row["payload"])["changes"] for row in shadows] == [
        json.loads(row["payload"])["changes"] for row in real
    ]
    assert await again.approvals() == [] and odd.server.calls == []  # type: ignore[attr-defined]
