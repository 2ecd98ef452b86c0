"""The root's own review of a mission: what it holds against what it stored, and what follows from it."""

from typing import Any

import pytest

from colony_client.artifacts import (
    MAX_CLAIMS,
    AggregationPacket,
    Citation,
    Claim,
    WorkerResult,
    quote_sha256,
)
from tests.world import World
from tests.world.colony import base
from tests.world.life import GUIDE, Life, change, cited, give_guide, under_way


async def asked(world: World, **ask: Any) -> tuple[Life, Citation, Citation]:
    """A mission under way that was shown the guide; a true citation of it, and a false one."""
    life = await under_way(world, **ask)
    [true, *_] = await life.show()
    return life, true, true.model_copy(update={"quote": true.quote[:-1] + "!"})


def claim(number: int, *citations: Citation) -> Claim:
    return Claim(id=f"c{number}", text=f"Claim {number}.", citations=list(citations))


def packet(life: Life, claims: list[Claim], **more: Any) -> dict[str, Any]:
    fields = {"answer_status": "answered", "answer": " ".join(one.text for one in claims), "claims": claims} | more
    return {"type": "artifact.produced", "artifact": AggregationPacket(**base(life.dispatch.envelope), **fields)}


def result(life: Life, claims: list[Claim], task: str = "t1") -> dict[str, Any]:
    return {
        "type": "artifact.produced",
        "artifact": WorkerResult(**base(life.dispatch.envelope), task_id=task, claims=claims),
    }


COMPLETE = {"type": "signal", "signal": "complete"}


async def reviewed(life: Life, *events: dict[str, Any]) -> dict[str, Any]:
    """Completes the attempt, lets the root review it, and answers the packet."""
    await life.say(*events, COMPLETE)
    await life.world.run_work("review")
    answer = await life.world.auditor.get(f"/v1/missions/{life.id}/packet")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    [fact] = [body for _, body in await life.facts("mission.reviewed")]
    assert fact["verdict"] == found["review"]["verdict"] and fact["coverage"] == found["review"]["coverage"]
    assert (
        fact["problems"] == len(found["review"]["problems"]) and fact["review_packet"] == found["review"]["artifact_id"]
    )
    return found


async def own_type(world: World, minimum: float) -> str:
    """A mission type that asks for a certain share of supported claims."""
    shipped = (await world.product_owner.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: shipped[name] for name in ("title", "description", "inputs_schema", "tools", "defaults", "limits")}
    made = await world.product_owner.put("/v1/mission-types/lenient", json=own | {"review": {"min_coverage": minimum}})
    assert made.status_code == 201, made.text
    return "lenient"


async def test_honest_claims_pass_to_the_byte(world: World) -> None:
    source = await give_guide(world)
    life = await under_way(world)
    read = await world.colony.tool(life.dispatch, "workspace.read", source=source, start=0, end=100_000)
    assert read["text"] == GUIDE
    start = GUIDE.encode().index("größer".encode())
    quote = "größer ist"
    true = Citation(source=source, document="guide.md", start=start, end=start + len(quote.encode()), quote=quote,
                    quote_sha256=quote_sha256(quote.encode()))  # fmt: skip
    found = await reviewed(life, packet(life, [claim(1, true)]))
    assert (found["mission"]["state"], found["answer_status"]) == ("completed", "answered")
    assert found["review"]["problems"] == [] and found["review"]["coverage"] == 1.0
    [shown] = found["claims"]
    assert shown["supported"] and [one["verified"] for one in shown["citations"]] == [True]
    assert shown["citations"][0] | {"verified": True, "problem": None} == true.model_dump() | {
        "verified": True,
        "problem": None,
    }


@pytest.mark.parametrize(
    ("minimum", "false", "state"),
    [(1.0, 0, "completed"), (1.0, 1, "failed"), (0.75, 1, "completed"), (0.75, 2, "failed"), (0.0, 4, "completed")],
)
async def test_the_types_minimum_decides(world: World, minimum: float, false: int, state: str) -> None:
    life, true, lie = await asked(world, mission_type=await own_type(world, minimum))
    claims = [claim(number, lie if number < false else true) for number in range(4)]
    found = await reviewed(life, packet(life, claims))
    assert found["mission"]["state"] == state
    assert found["mission"]["reason"] == ("review" if state == "failed" else None)
    assert found["review"]["coverage"] == (4 - false) / 4
    assert found["review"]["minimum"] == {"min_coverage": minimum}
    assert [one["supported"] for one in found["claims"]] == [number >= false for number in range(4)]
    assert len(found["review"]["problems"]) == false


async def test_a_document_the_mission_was_not_shown_is_no_evidence(world: World) -> None:
    await give_guide(world, "# Holidays\n\nThe office is closed in the last week of December.\n", "holidays.md")
    other = await under_way(world)
    [passage, *_] = (await world.colony.tool(other.dispatch, "workspace.search", query="office closed December"))[
        "passages"
    ]
    true = cited(passage)

    life = await under_way(world)  # it cites what another mission was shown
    found = await reviewed(life, packet(life, [claim(1, true)]))
    assert found["mission"]["state"] == "failed"
    assert found["review"]["problems"] == ["claim c1: the mission was never shown this document"]
    found = await reviewed(other, packet(other, [claim(1, true)]))
    assert found["mission"]["state"] == "completed"


async def test_a_document_under_another_name_is_no_evidence(world: World) -> None:
    life, true, _ = await asked(world)
    found = await reviewed(life, packet(life, [claim(1, true.model_copy(update={"document": "official.md"}))]))
    assert found["review"]["problems"] == ["claim c1: the mission was never shown this document"]


async def test_an_answer_without_a_single_claim_fails(world: World) -> None:
    life, _, _ = await asked(world, mission_type=await own_type(world, 0.0))
    found = await reviewed(life, packet(life, [], answer="Trust me."))
    assert (found["mission"]["state"], found["mission"]["reason"]) == ("failed", "review")
    assert found["review"]["problems"] == ["an answer without a single claim"]


async def test_not_found_is_an_honest_end(world: World) -> None:
    life, _, _ = await asked(world)
    found = await reviewed(life, packet(life, [], answer_status="not_found", answer="", not_found=["the price"]))
    assert (found["mission"]["state"], found["answer_status"], found["claims"]) == ("completed", "not_found", [])
    assert found["not_found"] == ["the price"] and found["mission"]["answer_status"] == "not_found"


async def test_without_an_aggregation_the_workers_results_are_the_claims(world: World) -> None:
    life, true, lie = await asked(world, mission_type=await own_type(world, 0.5))
    found = await reviewed(life, result(life, [claim(1, true)]), result(life, [claim(2, lie)], "t2"))
    assert (found["mission"]["state"], found["answer_status"]) == ("completed", "answered")
    assert [(one["id"], one["supported"]) for one in found["claims"]] == [("c1", True), ("c2", False)]

    nothing = await under_way(world)
    found = await reviewed(nothing, result(nothing, []))
    assert (found["mission"]["state"], found["answer_status"]) == ("completed", "not_found")
    silent = await under_way(world)
    assert (await reviewed(silent))["answer_status"] == "not_found"


async def test_with_an_aggregation_the_workers_results_do_not_count(world: World) -> None:
    life, true, lie = await asked(world)
    found = await reviewed(life, result(life, [claim(1, lie)]), packet(life, [claim(2, true)]))
    assert found["mission"]["state"] == "completed"
    assert [one["id"] for one in found["claims"]] == ["c2"]


async def test_the_last_aggregation_of_an_attempt_is_the_one_that_counts(world: World) -> None:
    life, true, lie = await asked(world)
    found = await reviewed(life, packet(life, [claim(1, lie)]), packet(life, [claim(2, true)]))
    assert found["mission"]["state"] == "completed"
    assert [one["id"] for one in found["claims"]] == ["c2"]


async def test_more_claims_than_a_review_holds_are_not_passed_over(world: World) -> None:
    """Two workers with more claims together than one review may list: what was not looked at is not supported."""
    life, true, _ = await asked(world, mission_type=await own_type(world, 0.9))
    many = [claim(number, true) for number in range(300)]
    found = await reviewed(life, result(life, many), result(life, many, "t2"))
    assert found["mission"]["state"] == "failed"
    assert len(found["claims"]) == MAX_CLAIMS
    assert found["review"]["coverage"] == pytest.approx(MAX_CLAIMS / 600)
    assert any("600" in problem for problem in found["review"]["problems"])


async def test_what_an_attempt_says_again_counts_for_it(world: World) -> None:
    """A colony that kept its work sends the same bytes in its next attempt: they are that attempt's answer."""
    life, true, _ = await asked(world)
    said = packet(life, [claim(1, true)])
    proposed = {"type": "writeback.proposed", "proposal": change(life.dispatch.envelope, [true])}
    await life.say(said, proposed)
    await life.lose_lease()
    await life.take()
    found = await reviewed(life, said, proposed)
    assert found["answer_status"] == "answered"
    assert [one["id"] for one in found["claims"]] == ["c1"]
    assert len(await life.approvals()) == 1


# --- leads and proposals


async def test_a_leads_factors_are_held_against_the_stored_bytes(world: World) -> None:
    life, true, lie = await asked(world)
    factor = {"name": "budget", "points": 5.0, "explanation": "said so"}
    leads = [
        {"record_id": "L-1", "name": "One", "score": 5.0, "factors": [factor | {"citation": true}]},
        {"record_id": "L-2", "name": "Two", "score": 5.0, "factors": [factor | {"citation": lie}, factor]},
    ]
    found = await reviewed(life, packet(life, [claim(1, true)], leads=leads))
    assert found["review"]["problems"] == ["a lead's factor: the quote is not what the span says"]
    assert [lead["record_id"] for lead in found["leads"]] == ["L-1", "L-2"]


async def test_only_proposals_with_evidence_that_holds_come_before_a_human(world: World) -> None:
    life, true, lie = await asked(world)
    envelope = life.dispatch.envelope
    made = [
        change(envelope, [true], 0),
        change(envelope, [true, lie], 1),
        change(envelope, [], 2),
        change(envelope, [true], 3),
    ]
    await life.say(
        *({"type": "writeback.proposed", "proposal": one} for one in made), packet(life, [claim(1, true)]), COMPLETE
    )
    await world.run_work("review")
    targets = {one["payload"]["target"]["id"] for one in await life.approvals()}
    assert targets == {"L-1001", "L-1004"}
    withheld = [body for _, body in await life.facts("writeback.withheld")]
    assert [body["reason"] for body in withheld] == ["evidence_not_verified"] * 2
    problems = (await world.auditor.get(f"/v1/missions/{life.id}/packet")).json()["review"]["problems"]
    assert {problem.split(": ", 1)[1] for problem in problems} == {
        "the quote is not what the span says", "it cites no evidence",
    }  # fmt: skip
    assert all(str(one.proposal_id) in " ".join(problems) for one in made[1:3])


async def test_a_proposal_that_cannot_be_a_writeback_is_withheld_and_the_rest_goes_on(world: World) -> None:
    life, true, _ = await asked(world)
    envelope = life.dispatch.envelope
    made = [
        change(envelope, [true], 0, target="no slash"),
        change(envelope, [true], 1, connector="mainframe"),
        change(envelope, [true], 2, changes={"note": "ä" * 200_000}),  # more bytes than a payload may have
        change(envelope, [true], 3),
    ]
    await life.say(
        *({"type": "writeback.proposed", "proposal": one} for one in made), packet(life, [claim(1, true)]), COMPLETE
    )
    await world.run_work("review")
    assert await life.state() == "awaiting_approval"
    assert [one["payload"]["target"]["id"] for one in await life.approvals()] == ["L-1004"]
    said = [(type, body.get("reason")) for type, body in await life.facts("writeback.") if type != "writeback.proposed"]
    assert sorted(said, key=str) == [
        ("writeback.denied", None), ("writeback.withheld", "not_a_payload"), ("writeback.withheld", "not_a_payload"),
    ]  # fmt: skip


async def test_no_proposal_is_left_behind_however_many_there_are(world: World) -> None:
    life, true, _ = await asked(world)
    envelope = life.dispatch.envelope
    lost = [{"type": "writeback.proposed", "proposal": change(envelope, [true], n)} for n in range(450)]
    await life.say(*lost)
    await life.lose_lease()
    await life.take()
    made = [{"type": "writeback.proposed", "proposal": change(envelope, [true], n)} for n in range(80)]
    await life.say(*made, packet(life, [claim(1, true)]), COMPLETE)
    await world.run_work("review")
    assert len(await life.writebacks()) == 80


async def test_a_rehearsal_says_what_it_would_have_proposed(world: World) -> None:
    life, true, _ = await asked(world, mode="dry_run")
    await life.say(
        {"type": "writeback.proposed", "proposal": change(life.dispatch.envelope, [true])},
        packet(life, [claim(1, true)]),
        COMPLETE,
    )
    await world.run_work("review")
    assert await life.state() == "completed"
    assert await life.writebacks() == [] and await life.approvals() == []
    assert [type for type, _ in await life.facts("writeback.would_propose")] == ["writeback.would_propose"]


async def test_a_failed_review_proposes_nothing(world: World) -> None:
    life, true, lie = await asked(world)
    await life.say(
        {"type": "writeback.proposed", "proposal": change(life.dispatch.envelope, [true])},
        packet(life, [claim(1, lie)]),
        COMPLETE,
    )
    await world.run_work("review")
    assert await life.state() == "failed"
    assert await life.writebacks() == [] and await life.approvals() == []


@pytest.mark.parametrize("own", [False, True])
async def test_a_mission_is_measured_by_the_type_it_began_with(world: World, own: bool) -> None:
    """Whoever lowers a type's minimum does not lower it for missions under way, nor does raising it fail them."""
    name = await own_type(world, 1.0) if own else "oracle_advisory"
    life, _, lie = await asked(world, mission_type=name)
    shown = (await world.product_owner.get(f"/v1/mission-types/{name}")).json()
    changed = {k: v for k, v in shown.items() if k not in ("name", "version", "shipped")} | {
        "review": {"min_coverage": 0.0}
    }
    answer = await world.product_owner.put(f"/v1/mission-types/{name}", json=changed, headers={"If-Match": '"v1"'})
    assert answer.status_code == 200, answer.text
    found = await reviewed(life, packet(life, [claim(1, lie)]))
    assert found["review"]["minimum"] == {"min_coverage": 1.0} and found["mission"]["state"] == "failed"
    later, _, lie = await asked(world, mission_type=name)
    found = await reviewed(later, packet(later, [claim(1, lie)]))
    assert found["review"]["minimum"] == {"min_coverage": 0.0} and found["mission"]["state"] == "completed"
