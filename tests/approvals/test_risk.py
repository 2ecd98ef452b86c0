"""A floor of risk is what policy hears too: whichever way a change comes to be asked about."""

import json
from typing import Any
from uuid import UUID

from tests.approvals.desk import as_registrar, awaiting, post, seen
from tests.approvals.test_interventions import act
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life


async def floored(world: World) -> None:
    """Updates in the CRM are of high risk, and the rule for high risk wants one person only: policy alone wants two."""
    answer = await world.auditor.get("/v1/approval-rules")
    [high] = [one for one in answer.json()["items"] if one["risk"] == "high"]
    path = f"/v1/approval-rules/{high['id']}"
    body = {
        name: high[name] for name in ("subject", "connector", "operation", "risk", "approver_role", "life_s", "undo_window_s",
                                      "comment_required", "may_escalate_to")
    }  # fmt: skip
    body |= {"required": 1, "hops": []}
    changed = await world.policy_owner.put(path, json=body, headers={"If-Match": f'"v{high["version"]}"'})
    assert changed.status_code == 200, changed.text
    secret = world.people["policy_owner"].key
    await as_registrar(world, "SELECT put_risk_floor(:tenant, :secret, 'sample_crm', 'update', 'high')", secret=secret)


async def stands_for_two(world: World, life: Life) -> dict[str, Any]:
    """The pending approval, which two people have to give because policy was asked about a change of high risk."""
    [approval] = await life.approvals()
    shown = await seen(world, approval)
    assert (shown["risk_level"], shown["required"], shown["obligations"]) == ("high", 2, {"approvals": 2}), shown
    newest = await (await inspector(world)).fetchrow(
        """SELECT rule, inputs FROM policy_decision WHERE mission = $1 AND action = 'writeback.propose'
           ORDER BY at DESC LIMIT 1""",
        life.id,
    )
    assert newest["rule"] == "writebacks.high_risk_needs_two"
    assert json.loads(newest["inputs"])["context"]["risk_level"] == "high"
    return approval


async def test_policy_hears_of_the_floor_when_a_change_is_proposed(world: World) -> None:
    await floored(world)
    await stands_for_two(world, await awaiting(world))


async def test_policy_hears_of_the_floor_when_a_change_is_revised(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    assert (await seen(world, approval))["risk_level"] == "low"
    await floored(world)
    answer = await act(world.operator, approval, "revisions", changes={"status": "other"})
    assert answer.status_code == 201, answer.text
    await stands_for_two(world, life)


async def test_policy_hears_of_the_floor_when_a_stale_change_is_renewed(world: World) -> None:
    await world.with_crm()
    await world.no_undo_window()
    life = await awaiting(world)
    [approval] = await life.approvals()
    await post(world.operator, approval)
    writeback = approval["writeback_id"]
    await life.settle(await life.claim(writeback), writeback, "stale")
    await world.run_work("progress")
    await floored(world)
    answer = await world.operator.post(f"/v1/writebacks/{writeback}/renew", json={})
    assert answer.status_code == 201, answer.text
    await stands_for_two(world, life)
    assert UUID(answer.json()["approval_id"])
