"""What nobody can settle is ended by a human's word, over the API: told as it is, never as a success, and never sent again."""

import json
from uuid import UUID, uuid4

from tests.executor.field import Change, approved_change
from tests.world import World
from tests.world.checks import inspector, pending_change, problem
from tests.world.life import Life

WORD = {"found": "not_applied", "comment": "The CRM is gone; its last backup has the old value."}
AGE = "UPDATE execution SET started_at = started_at - interval '11 minutes' WHERE writeback = $1"


async def sent_ago(world: World, writeback: str | UUID) -> None:
    """Eleven minutes pass since it was first sent: a clock that no role can move."""
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("ALTER TABLE execution DISABLE TRIGGER execution_guard")
        await connection.execute(AGE, UUID(str(writeback)))
        await connection.execute("ALTER TABLE execution ENABLE ALWAYS TRIGGER execution_guard")


async def left_unknown(world: World) -> tuple[str, str]:
    """A writeback of which nobody knows what became, and its mission."""
    approval = await pending_change(world)
    life, writeback = Life(world, UUID(approval["mission_id"])), approval["writeback_id"]
    await life.decide("approve", approval)
    await life.settle(await life.claim(writeback), writeback, "unknown")
    await sent_ago(world, writeback)
    return writeback, approval["mission_id"]


async def lost(world: World) -> Change:
    """The CRM has taken a change, and no answer of it ever comes back."""
    change = await approved_change(world)
    change.failures.drop_after_apply = True
    assert (await change.run())["state"] == "unknown"
    return change


async def test_a_change_whose_target_never_answers_again_is_ended_by_an_operators_word(world: World) -> None:
    change = await lost(world)
    path = f"/v1/writebacks/{change.id}/vouch"
    early = problem(await world.operator.post(path, json=WORD), "wrong_state")
    assert early["current"]["not_before"] > (await change.seen())["started_at"]
    await sent_ago(world, change.id)
    answer = await world.operator.post(path, json=WORD, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["state"], said["read_back"], said["settled_at"] is not None) == ("failed", None, True)
    receipt = said["receipt"]
    assert (receipt["finding"], receipt["vouched"], receipt["comment"]) == ("vouched", "not_applied", WORD["comment"])
    assert receipt["detail"], "the executor's last words are kept"
    # the second click, and the repeat
    problem(await world.second_operator.post(path, json=WORD), "wrong_state")
    repeated = await world.operator.post(path, json=WORD, headers={"Idempotency-Key": "once"})
    assert (repeated.status_code, repeated.json()) == (200, said)
    # the mission goes on, and nothing is sent or asked any more, although the target answers again
    await world.run_work("progress")
    assert await change.mission() == ("completed", {"failed": 1})
    change.failures.drop_after_apply = False
    changes = await change.changes()
    assert (await change.run())["state"] == "failed"
    assert await change.changes() == changes
    assert (await world.auditor.post("/v1/ledger/verify")).json()["verified"]
    [fact] = [one for one in await world.facts(change.approval["mission_id"]) if "vouched" in one["body"]]
    body = json.loads(fact["body"])
    assert (fact["type"], body["state"], body["vouched"]) == ("writeback.settled", "failed", "not_applied")
    assert fact["actor"] == f"principal:{receipt['by']}" and WORD["comment"] not in str(fact)
    assert (await world.auditor.get("/v1/writebacks", params={"state": "unknown"})).json()["items"] == []


async def test_who_may_and_of_what(world: World) -> None:
    writeback, _ = await left_unknown(world)
    path = f"/v1/writebacks/{writeback}/vouch"
    for who in (world.submitter, world.admin, world.auditor):
        problem(await who.post(path, json=WORD), "forbidden")
    problem(await world.operator.post(f"/v1/writebacks/{uuid4()}/vouch", json=WORD), "not_found")
    for ask, pointer in (
        ({"found": "not_applied"}, "/comment"),
        (WORD | {"comment": " "}, "/comment"),
        (WORD | {"found": "succeeded"}, "/found"),
        (WORD | {"state": "succeeded"}, "/state"),
    ):
        assert pointer in [
            one["pointer"] for one in problem(await world.operator.post(path, json=ask), "validation")["errors"]
        ]
    waiting = await pending_change(world)
    problem(await world.operator.post(f"/v1/writebacks/{waiting['writeback_id']}/vouch", json=WORD), "wrong_state")
    assert (await world.auditor.get(f"/v1/writebacks/{writeback}")).json()["state"] == "unknown"
    told = (await world.operator.post(path, json={"found": "cannot_tell", "comment": "Unklar ☃"})).json()
    assert (told["receipt"]["vouched"], told["receipt"]["comment"]) == ("cannot_tell", "Unklar ☃")


async def test_policy_may_forbid_it(world: World) -> None:
    writeback, _ = await left_unknown(world)
    rule = """@id("vouching.never") @reason("Only the target says what became of a change.")
              forbid (principal, action == Action::"operate.writeback.vouch", resource)
              when { context.found == "applied" };"""
    put = await world.policy_owner.put("/v1/policies/vouching", json={"text": rule})
    assert put.status_code in (200, 201), put.text
    path = f"/v1/writebacks/{writeback}/vouch"
    refused = problem(await world.operator.post(path, json=WORD | {"found": "applied"}), "denied_by_policy")
    assert refused["rule"] == "vouching.never"
    assert (await world.operator.post(path, json=WORD)).status_code == 200
