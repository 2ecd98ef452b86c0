"""Rules at the places where they hold: what is decided there is what `evaluate` said, and what a preview foretold."""

import json
import random
from typing import Any
from uuid import uuid4

from app import policy
from app.caller import Caller
from app.policy.vocabulary import ACTIONS
from tests.approvals.desk import awaiting, post
from tests.policy.test_changing import GOOD, NO_CANCEL, create, put, rule
from tests.tools.test_builtin_tools import ask as ask_tool
from tests.world import World
from tests.world.checks import census, fact_types, hire, inspector, problem
from tests.world.life import under_way


async def decisions(world: World, action: str) -> list[Any]:
    connection = await inspector(world)
    return await connection.fetch("SELECT * FROM policy_decision WHERE action = $1 ORDER BY id", action)


async def test_evaluate_says_what_a_decision_will_be(world: World) -> None:
    """The same questions asked through the door and decided for good, under rules of three kinds."""
    text = (
        rule(GOOD + ' when { context.risk_level == "high" }')
        + rule('permit (principal, action == Action::"tool.call", resource)', id="b")
        + rule('permit (principal, action == Action::"mission.create", resource)', id="c", notes='@approvals("3")')
        + rule('permit (principal in Role::"submitter", action in Action::"operate", resource)', id="d")
    )
    assert (await put(world, text)).status_code == 201
    caller = await hire(world, "asker", "submitter")
    connection = await inspector(world)
    tenant = await world.tenant()
    principal = await connection.fetchval("SELECT id FROM principal WHERE name = 'asker'")
    who = Caller(tenant, principal, f"principal:{principal}", "asker", "human", frozenset({"submitter"}))
    chance = random.Random(7)
    effects = set()
    for _ in range(80):
        action = ACTIONS[chance.choice(sorted(ACTIONS))]
        facts = {name: chance.choice(fact.values or (fact.assumed, "other")) for name, fact in action.facts.items()}
        body = {"action": action.name, "resource": "x", "context": facts}
        said = (await caller.http.post("/v1/policies/evaluate", json=body)).json()
        async with world.root.database.write() as session:
            await session.enter(tenant)
            made = await policy.decide(session, who, action.name, "x", facts, None)
            foretold = await policy.consult(session, who, action.name, "x", facts)
        wanted = (made.verdict.effect, made.verdict.rule, made.verdict.obligations, made.verdict.policy_version)
        assert (said["effect"], said["rule"], said["obligations"], said["policy_version"]) == wanted, body
        assert foretold == made.verdict
        effects.add(said["effect"])
    assert effects == {"allow", "deny", "ask"}


async def test_a_preview_is_what_happens_after_the_change(world: World) -> None:
    for risk in ("low", "high", "medium", "high"):
        assert (await create(world, risk_level=risk)).status_code == 202
    text = rule(GOOD + ' when { context.risk_level == "high" }')
    before = await census(world)
    foretold = (await world.policy_owner.post("/v1/policies/own/preview", json={"text": text})).json()
    assert await census(world) == before
    assert (foretold["examined"], len(foretold["changed"])) == (4, 2)
    recorded = await decisions(world, "mission.create")
    high = {str(row["id"]) for row in recorded if json.loads(row["inputs"])["context"]["risk_level"] == "high"}
    assert {one["decision"] for one in foretold["changed"]} == high
    for one in foretold["changed"]:
        assert (one["now"]["effect"], one["then"]["effect"], one["then"]["rule"]) == ("allow", "deny", "own.a")
    assert (await put(world, text)).status_code == 201
    for risk in ("low", "medium", "high"):
        answer = await create(world, risk_level=risk)
        assert answer.status_code == (403 if risk == "high" else 202)
        if risk == "high":
            assert answer.json()["policy_version"] == foretold["policy_version"]
    assert (await world.policy_owner.post("/v1/policies/own/preview", json={"text": text})).json()["changed"] == []


async def test_a_proposed_text_is_tried_before_it_is_put(world: World) -> None:
    question = {"action": "mission.create", "resource": "x", "context": {"risk_level": "high"}}
    proposed = [{"name": "own", "text": rule(GOOD + ' when { context.risk_level == "high" }')}]
    said = (await world.submitter.post("/v1/policies/evaluate", json={**question, "policies": proposed})).json()
    assert (said["effect"], said["rule"], said["in_force"]) == ("deny", "own.a", False)
    assert [one["id"] for one in said["forbids"]] == ["own.a"]
    assert [one["id"] for one in said["permits"]] == ["admission.assisted"]  # overruled, and said
    turned = [(one["fact"], one["to"], one["effect"]) for one in said["changes"] if one["fact"] == "risk_level"]
    assert turned == [("risk_level", "low", "allow"), ("risk_level", "medium", "allow")]
    assert (await world.submitter.post("/v1/policies/evaluate", json=question)).json()["effect"] == "allow"
    both = {**question, "policies": proposed * 2}
    [found] = problem(await world.submitter.post("/v1/policies/evaluate", json=both), "validation")["errors"]
    assert found["pointer"] == "/policies/1/name"


async def test_questions_that_cannot_be_meant_are_refused(world: World) -> None:
    for body, pointer in (
        ({"action": "mission.destroy"}, "/action"),
        ({"context": {"weather": "fine"}}, "/context/weather"),
        ({"context": {"mode": "asisted"}}, "/context/mode"),
        ({"context": {"public_tools": "no"}}, "/context/public_tools"),
        ({"context": {"a/b~c": 1}}, "/context/a~1b~0c"),
        ({"principal": {"roles": ["king"]}}, "/principal/roles/0"),
    ):
        asked = {"action": "mission.create", "resource": "x", **body}
        found = problem(await world.submitter.post("/v1/policies/evaluate", json=asked), "validation")["errors"]
        assert found[0]["pointer"] == pointer


async def test_an_operators_action_that_is_denied_leaves_decision_and_fact_and_nothing_else(world: World) -> None:
    mission = (await world.create())["id"]
    assert (await put(world, NO_CANCEL)).status_code == 201
    key = {"If-Match": '"v1"', "Idempotency-Key": str(uuid4())}
    path = f"/v1/missions/{mission}/cancel"
    refused = await world.operator.post(path, json={"reason": "x"}, headers=key)
    assert problem(refused, "denied_by_policy")["rule"] == "own.a"
    assert (await world.mission(mission))["state"] == "accepted"
    assert (await fact_types(world, mission))[-1] == "operation.denied"
    [decision] = await decisions(world, "operate.mission.cancel")
    assert (decision["effect"], str(decision["mission"]), str(decision["id"])) == (
        "deny",
        mission,
        refused.json()["policy_decision"],
    )
    again = await world.operator.post(path, json={"reason": "x"}, headers=key)
    assert again.headers["idempotent-replayed"] == "true" and again.json() == refused.json()
    failed = await world.operator.post(
        f"/v1/missions/{mission}/fail", json={"reason": "x"}, headers={"If-Match": '"v1"'}
    )
    assert failed.status_code == 200
    [decision] = await decisions(world, "operate.mission.fail")
    assert (decision["effect"], decision["rule"]) == ("allow", "operate.operators")


async def test_a_submitter_ends_their_own_mission_by_rule(world: World) -> None:
    mission = (await world.create())["id"]
    done = await world.submitter.post(
        f"/v1/missions/{mission}/cancel", json={"reason": "x"}, headers={"If-Match": '"v1"'}
    )
    assert done.status_code == 200
    [decision] = await decisions(world, "operate.mission.cancel")
    assert decision["rule"] == "operate.own_missions"


async def test_a_denied_human_decision_is_no_decision(world: World) -> None:
    life = await awaiting(world)
    [approval] = await life.approvals()
    what = 'forbid (principal, action == Action::"operate.approval.decide", resource) when { context.verdict == "approve" }'
    assert (await put(world, rule(what))).status_code == 201
    assert problem(await post(world.operator, approval), "denied_by_policy")["rule"] == "own.a"
    [pending] = await life.approvals()
    assert (pending["state"], pending["version"], pending["approvals"]) == ("pending", approval["version"], 0)
    assert [body["action"] for _, body in await life.facts("operation.denied")] == ["operate.approval.decide"]
    assert (await post(world.operator, approval, "reject")).status_code == 201


async def test_tool_calls_are_decided_and_recorded_each(world: World) -> None:
    life = await under_way(world)
    await world.colony.tool(life.dispatch, "workspace.outline")
    [allowed] = await decisions(world, "tool.call")
    inputs = json.loads(allowed["inputs"])
    assert (allowed["effect"], allowed["rule"], inputs["context"]["listed"]) == ("allow", "tools.internal_reads", True)
    requester = await (await inspector(world)).fetchval("SELECT requested_by FROM mission WHERE id = $1", life.id)
    assert allowed["principal"] == requester and inputs["principal"]["id"] == str(requester)
    text = rule('forbid (principal, action == Action::"tool.call", resource == Tool::"workspace.outline")')
    assert (await put(world, text)).status_code == 201
    said = problem(await ask_tool(world, life.dispatch, "workspace.outline", {}), "denied_by_policy")
    [(_, fact)] = await life.facts("tool.denied")
    assert (said["rule"], fact["rule"], fact["policy_decision"]) == ("own.a", "own.a", said["policy_decision"])


async def test_a_call_into_another_workspace_is_a_decision_with_a_fact(world: World) -> None:
    life = await under_way(world)
    said = problem(
        await ask_tool(world, life.dispatch, "workspace.outline", {"workspace": "second"}), "denied_by_policy"
    )
    [(_, fact)] = await life.facts("tool.denied")
    assert (said["rule"], fact["rule"]) == ("tools.own_workspace", "tools.own_workspace")
    [decision] = await decisions(world, "tool.call")
    assert decision["effect"] == "deny" and not json.loads(decision["inputs"])["context"]["own_workspace"]


async def test_what_a_proposal_needs_comes_from_the_rules(world: World) -> None:
    """A permit of the tenant with obligations tightens the approval it leads to."""
    notes = '@approvals("2") @expires("1h")'
    what = 'permit (principal, action == Action::"writeback.propose", resource in Connector::"sample_crm")'
    assert (await put(world, rule(what, notes=notes))).status_code == 201
    life = await awaiting(world)
    [approval] = await life.approvals()
    assert approval["required"] == 2
    [decision] = await decisions(world, "writeback.propose")
    assert (decision["effect"], json.loads(decision["obligations"])) == ("ask", {"approvals": "2", "expires": "1h"})


async def test_a_proposal_that_the_tenant_forbids_reaches_nobody(world: World) -> None:
    what = 'forbid (principal, action == Action::"writeback.propose", resource == Operation::"sample_crm.update")'
    assert (await put(world, rule(what))).status_code == 201
    life = await under_way(world)
    await life.complete(1)
    await world.run_work("review")
    assert await life.approvals() == []
    [(_, fact)] = await life.facts("writeback.denied")
    assert fact["rule"] == "own.a" and len(fact["policy_version"]) == 64
