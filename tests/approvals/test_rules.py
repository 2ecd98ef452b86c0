"""Approval rules over the API: read, written by a policy owner, tried, chosen; and what policy adds to them."""

from typing import Any
from uuid import uuid4

import pytest

from app.approvals.obligations import BadObligations, parse
from tests.approvals.desk import awaiting, post, seen
from tests.world import World
from tests.world.checks import census, inspector, problem

RULE: dict[str, Any] = {
    "subject": "writeback", "connector": "sample_crm", "operation": "update", "risk": "low", "required": 2,
    "approver_role": "operator", "life_s": 3600, "undo_window_s": 5, "comment_required": True, "may_escalate_to": ["admin"],
    "hops": [{"after_s": 600, "kind": "remind"}, {"after_s": 1200, "kind": "escalate", "role": "admin"}],
}  # fmt: skip


async def test_a_tenant_is_born_with_rules(world: World) -> None:
    items = (await world.auditor.get("/v1/approval-rules")).json()["items"]
    told = {
        (item["subject"], item["risk"], item["required"], item["approver_role"], item["break_glass"]) for item in items
    }
    assert told == {
        ("writeback", "low", 1, "operator", False), ("writeback", "medium", 1, "operator", False),
        ("writeback", "high", 2, "operator", False), ("mission", "*", 1, "operator", False),
        ("writeback", "*", 2, "break_glass", True), ("mission", "*", 2, "break_glass", True),
    }  # fmt: skip
    for item in items:
        kinds = [(hop["kind"], hop["role"]) for hop in item["hops"]]
        assert kinds == ([] if item["break_glass"] else [("remind", None), ("escalate", "admin")])
        assert item["created_by"] is None and item["version"] == 1


async def test_a_policy_owner_writes_rules_and_their_next_versions(world: World) -> None:
    for who in (world.operator, world.admin, world.auditor):
        problem(await who.post("/v1/approval-rules", json=RULE), "forbidden")
    owner = world.policy_owner
    answer = await owner.post("/v1/approval-rules", json=RULE, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (await owner.post("/v1/approval-rules", json=RULE, headers={"Idempotency-Key": "one"})).json() == made
    assert {name: made[name] for name in RULE if name != "hops"} == {
        name: RULE[name] for name in RULE if name != "hops"
    }
    path = f"/v1/approval-rules/{made['id']}"
    assert (answer.headers["location"], answer.headers["etag"]) == (path, '"v1"')
    life = await awaiting(world)
    [approval] = await life.approvals()
    assert (approval["rule"]["id"], approval["rule"]["version"], approval["required"]) == (made["id"], 1, 2)
    problem(await post(world.operator, approval, comment=None), "validation")

    problem(await owner.put(path, json=RULE), "precondition_required")
    problem(await owner.put(path, json=RULE, headers={"If-Match": '"v9"'}), "stale")
    problem(await owner.put(f"/v1/approval-rules/{uuid4()}", json=RULE, headers={"If-Match": '"v1"'}), "not_found")
    changed = await owner.put(path, json=RULE | {"required": 1}, headers={"If-Match": '"v1"'})
    assert (changed.status_code, changed.json()["version"], changed.headers["etag"]) == (200, 2, '"v2"'), changed.text
    shown = (await world.auditor.get(path)).json()
    assert (shown["version"], shown["required"], [old["required"] for old in shown["history"]]) == (2, 1, [2])
    assert (await seen(world, approval))["required"] == 2  # open ones keep what they were born under
    [newer] = await (await awaiting(world)).approvals()
    assert (newer["rule"]["version"], newer["required"]) == (2, 1)
    stranger = await world.another_tenant()
    problem(await stranger.http.get(path), "not_found")
    facts = await (await inspector(world)).fetch("SELECT 1 FROM ledger WHERE type = 'rule.changed'")
    assert len(facts) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"required": 0}, "/required"), ({"life_s": 0}, "/life_s"), ({"risk": "none"}, "/risk"), ({"connector": "a b"}, "/connector"),
    ({"approver_role": "auditor"}, "/approver_role"), ({"undo_window_s": 4000}, "/undo_window_s"), ({"more": 1}, "/more"),
    ({"hops": [{"after_s": 5, "kind": "remind"}, {"after_s": 4, "kind": "remind"}]}, "/hops"),
    ({"hops": [{"after_s": 4000, "kind": "remind"}]}, "/hops"), ({"may_escalate_to": []}, "/hops"),
    ({"break_glass": True}, "/break_glass"), ({"approver_role": "break_glass", "comment_required": False}, "/approver_role"),
    ({"hops": [{"after_s": 5, "kind": "escalate"}]}, "/hops/0"),
]  # fmt: skip


async def test_what_is_no_rule_is_refused_with_the_field(world: World) -> None:
    before = await census(world)
    for bad, pointer in BAD:
        said = problem(await world.policy_owner.post("/v1/approval-rules", json=RULE | bad), "validation")
        assert any(error["pointer"].startswith(pointer) for error in said["errors"]), (bad, said["errors"])
    assert await census(world) == before


async def test_a_rule_can_be_tried_and_asked_about_without_writing_it(world: World) -> None:
    before = await census(world)
    tried = await world.policy_owner.post("/v1/approval-rules?validate_only=true", json=RULE)
    assert (tried.status_code, tried.json()["version"]) == (200, 1)
    problem(
        await world.policy_owner.post("/v1/approval-rules?validate_only=true", json=RULE | {"life_s": 900}),
        "validation",
    )
    items = (await world.auditor.get("/v1/approval-rules")).json()["items"]
    low = next(item for item in items if item["risk"] == "low")
    body = RULE | {"connector": "*", "operation": "*"}
    path = f"/v1/approval-rules/{low['id']}?validate_only=true"
    assert (await world.policy_owner.put(path, json=body, headers={"If-Match": '"v1"'})).json()["version"] == 2
    asked = {"connector": "sample_crm", "operation": "update", "risk": "low"}
    chosen = (await world.auditor.post("/v1/approval-rules/choose", json=asked)).json()
    assert (chosen["chosen"]["rule"]["id"], chosen["others"]) == (low["id"], [])
    assert await census(world) == before
    await world.policy_owner.post("/v1/approval-rules", json=RULE)
    chosen = (await world.auditor.post("/v1/approval-rules/choose", json=asked)).json()
    assert chosen["chosen"]["rule"]["connector"] == "sample_crm" and "connector sample_crm" in chosen["chosen"]["why"]
    assert [one["rule"]["id"] for one in chosen["others"]] == [low["id"]]
    none = (await world.auditor.post("/v1/approval-rules/choose", json=asked | {"subject": "mission"})).json()
    assert none["chosen"]["rule"]["subject"] == "mission"


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({"approvals": "2", "approver_role": "product_owner", "expires": "4h", "escalate_to": "admin"},
         {"approvals": 2, "approver_role": "product_owner", "expires_s": 14_400, "escalate_to": "admin"}),
        ({"expires": "90m"}, {"expires_s": 5400}), ({"expires": "30s"}, {"expires_s": 30}), ({"expires": "2d"}, {"expires_s": 172_800}),
        ({}, {}), (None, {}),
    ],
)  # fmt: skip
def test_obligations_are_read_as_policies_write_them(said: Any, taken: Any) -> None:
    assert parse(said) == taken


@pytest.mark.parametrize(
    "said",
    [
        {"approvals": "0"}, {"approvals": "many"}, {"approvals": "10"}, {"expires": "4"}, {"expires": "soon"}, {"expires": "0h"},
        {"expires": "-4h"}, {"approver_role": "king"}, {"approver_role": "colony"}, {"escalate_to": ""}, {"other": "1"},
    ],
)  # fmt: skip
def test_obligations_that_cannot_be_meant_are_not_guessed(said: Any) -> None:
    with pytest.raises(BadObligations):
        parse(said)
