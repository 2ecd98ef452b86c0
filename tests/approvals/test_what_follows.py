"""What decisions, and time running out, make of the mission; and which proposals reach a human at all."""

from typing import Any
from uuid import UUID

from colony_client.artifacts import Citation
from tests.approvals.desk import awaiting, post, seen
from tests.world import World
from tests.world.life import Life, asked_at_intake, change, escalated, under_way


async def test_a_mission_that_policy_asks_about_waits_runs_or_is_denied(world: World) -> None:
    for verdict, state in (("approve", "dispatched"), ("reject", "denied"), (None, "denied")):
        life = await asked_at_intake(world)
        await life.take()
        assert await life.state() == "awaiting_approval"  # nothing is dispatched before somebody agreed
        [approval] = await life.approvals()
        if verdict is None:
            await life.outlive(approval["id"])
        else:
            assert (await post(world.operator, approval, verdict)).status_code == 201
        await life.take()
        assert await life.state() == state
        reason = (await life.row())["reason"]
        assert reason == {"approve": None, "reject": "approval_rejected", None: "approval_expired"}[verdict]


async def test_an_escalation_leads_to_the_next_attempt_or_to_failure(world: World) -> None:
    for verdict, state in (("approve", "dispatched"), ("reject", "failed"), (None, "failed")):
        life = await escalated(world)
        assert await life.state() == "awaiting_approval"
        [approval] = await life.approvals()
        assert approval["payload"]["action"] == "mission.continue"
        if verdict is None:
            await life.outlive(approval["id"])
        else:
            assert (await post(world.operator, approval, verdict)).status_code == 201
        await life.take()
        row = await life.row()
        assert row["state"] == state
        assert (row["attempt"], row["reason"]) == {
            "approve": (2, None), "reject": (1, "approval_rejected"), None: (1, "approval_expired"),
        }[verdict]  # fmt: skip


async def test_a_writeback_nobody_decided_expires_and_the_mission_completes(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    await life.outlive(approval["id"])
    assert await life.state() == "completed"
    assert (await life.row())["writebacks"] == {"expired": 1}
    [closed] = [body for _, body in await life.facts("approval.closed")]
    assert (closed["state"], closed["was"]) == ("expired", "pending")


async def test_an_approved_writeback_that_nobody_carries_out_in_time_expires(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    await post(world.operator, approval)
    assert await life.state() == "executing"
    await life.outlive(approval["id"])
    assert (await life.state(), (await life.row())["writebacks"]) == ("completed", {"expired": 1})
    assert (await life.claim(approval["writeback_id"]))["why"] == "expired"


async def test_a_mission_waits_for_every_decision_then_executes_then_completes(world: World) -> None:
    life = await awaiting(world, proposals=4)
    first, second, third, fourth = await life.approvals()
    for approval, verdict in ((first, "approve"), (second, "reject"), (third, "approve")):
        assert (await post(world.operator, approval, verdict)).status_code == 201
        assert await life.state() == "awaiting_approval"
    assert (await life.row())["pending_approvals"] == [UUID(fourth["id"])]
    # a claimed writeback does not make the mission executing while a human still has to decide
    claimed = await life.claim(first["writeback_id"])
    await world.run_work("progress")
    assert await life.state() == "awaiting_approval"
    await life.outlive(fourth["id"])
    assert await life.state() == "executing"
    await life.settle(claimed, first["writeback_id"], "succeeded")
    await world.run_work("progress")
    assert await life.state() == "executing"
    await life.settle(await life.claim(third["writeback_id"]), third["writeback_id"], "failed")
    await world.run_work("progress")
    row = await life.row()
    assert (row["state"], row["pending_approvals"]) == ("completed", [])
    assert row["writebacks"] == {"succeeded": 1, "rejected": 1, "failed": 1, "expired": 1}
    [completed] = [body for _, body in await life.facts("mission.completed")]
    assert completed["writebacks"] == row["writebacks"]


async def test_an_unknown_outcome_keeps_the_mission_executing(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    await post(world.operator, approval)
    writeback = approval["writeback_id"]
    await life.settle(await life.claim(writeback), writeback, "unknown")
    await world.run_work("progress")
    assert (await life.state(), (await life.row())["writebacks"]) == ("executing", {"unknown": 1})
    again = await life.claim(writeback)
    assert again["outcome"] == "reconcile"
    await life.settle(again, writeback, "succeeded")
    await world.run_work("progress")
    assert (await life.state(), (await life.row())["writebacks"]) == ("completed", {"succeeded": 1})


async def test_a_rehearsal_opens_no_approval(world: World) -> None:
    life = await awaiting(world, proposals=2, mode="dry_run")
    assert await life.state() == "completed"
    assert await life.approvals() == await life.writebacks() == []
    assert len(await life.facts("writeback.would_propose")) == 2


async def test_a_proposal_whose_evidence_does_not_hold_reaches_nobody(world: World) -> None:
    def misquoted(citation: Citation) -> Citation:
        return citation.model_copy(update={"quote": "y" * len(citation.quote)})

    def elsewhere(citation: Citation) -> Citation:
        return citation.model_copy(update={"document": "never-shown.md"})

    def invented(citation: Citation) -> Citation:
        return citation.model_copy(update={"source": "0" * 64})

    life = await under_way(world)
    [citation, *_] = await life.show()
    envelope = life.dispatch.envelope
    false: list[list[Citation]] = [
        [],
        [misquoted(citation)],
        [elsewhere(citation)],
        [invented(citation)],
        [citation, misquoted(citation)],
    ]
    proposals = [change(envelope, evidence, number) for number, evidence in enumerate([*false, [citation]])]
    await complete_with(life, proposals)
    [approval] = await life.approvals()
    assert approval["payload"]["changes"] == {"status": "step 5"}
    withheld = [body for _, body in await life.facts("writeback.withheld")]
    assert [body["reason"] for body in withheld] == ["evidence_not_verified"] * 5
    assert len(await life.writebacks()) == 1


async def test_a_proposal_that_is_no_payload_reaches_nobody(world: World) -> None:
    life = await under_way(world)
    [citation, *_] = await life.show()
    envelope = life.dispatch.envelope
    await complete_with(
        life, [change(envelope, [citation], target="lead"), change(envelope, [citation], 1, connector="elsewhere")]
    )
    assert await life.approvals() == []
    assert await life.state() == "completed"
    assert [body["reason"] for _, body in await life.facts("writeback.withheld")] == ["not_a_payload"]
    assert [body["connector"] for _, body in await life.facts("writeback.denied")] == ["elsewhere"]


async def complete_with(life: Life, proposals: list[Any]) -> None:
    sent = life.events(*({"type": "writeback.proposed", "proposal": proposal} for proposal in proposals))
    await life.world.colony.send(life.dispatch, *sent)
    life.sent[life.dispatch.attempt] = life.sent.get(life.dispatch.attempt, 0) + len(sent)
    await life.complete()
    await life.world.run_work("review")


async def test_asking_again_for_what_was_refused_says_so(world: World) -> None:
    for verdict in ("reject", None):
        refused = await awaiting(world)
        [first] = await refused.approvals()
        if verdict is None:
            await refused.outlive(first["id"])
        else:
            await post(world.operator, first, verdict)
        [second] = await (await awaiting(world)).approvals()
        assert second["predecessor"] == first["writeback_id"]
        assert second["writeback_id"] != first["writeback_id"]
        assert (await seen(world, second))["predecessor"] == first["writeback_id"]
        assert (await post(world.operator, second)).status_code == 201
        assert (await Life(world, UUID(second["mission_id"])).end("cancel")).status_code == 200
