"""The shipped rules: each has a case in which it decides, asked through the public door; and what is never so."""

from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.identity import ROLES
from app.policy.check import check
from app.policy.engine import Asker, Source, baseline, baseline_source, compiled, evaluate
from app.policy.explain import explain
from app.policy.vocabulary import ACTIONS, KINDS, Action, completed, schema, schema_text
from tests.world import World

PRODUCTION, AUTONOMOUS = {"environment": "production"}, {"mode": "autonomous"}
OPERATOR, SUBMITTER, ADMIN = ({"roles": [role]} for role in ("operator", "submitter", "admin"))
# rule: action, facts that differ from what is assumed, who asks when it matters, the effect
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, str]] = {
    "admission.assisted": ("mission.create", {}, None, "allow"),
    "admission.autonomous": ("mission.create", AUTONOMOUS, None, "allow"),
    "admission.autonomous_asks": ("mission.create", AUTONOMOUS | {"risk_level": "medium"}, None, "ask"),
    "admission.public_research_asks": ("mission.create", {"public_tools": True}, None, "ask"),
    "admission.production_is_assisted": ("mission.create", AUTONOMOUS | PRODUCTION, None, "deny"),
    "admission.beyond_the_ladder": ("mission.create", {"on_ladder": False}, None, "deny"),
    "admission.no_public_research_in_production": ("mission.create", PRODUCTION | {"public_tools": True}, None, "deny"),
    "admission.restricted_stays_inside": (
        "mission.create", {"public_tools": True, "sensitivity_class": "restricted"}, None, "deny",
    ),
    "tools.internal_reads": ("tool.call", {}, None, "allow"),
    "tools.public_reads": ("tool.call", {"reach": "public"}, None, "allow"),
    "tools.changes_become_proposals": ("tool.call", {"access": "mutate"}, None, "allow"),
    "tools.cleared_material_only": ("tool.call", {"cleared": False}, None, "deny"),
    "tools.blocked": ("tool.call", {"listed": False}, None, "deny"),
    "tools.own_workspace": ("tool.call", {"own_workspace": False}, None, "deny"),
    "tools.no_public_research_in_production": ("tool.call", PRODUCTION | {"reach": "public"}, None, "deny"),
    "tools.restricted_stays_inside": (
        "tool.call", {"reach": "public", "sensitivity_class": "restricted"}, None, "deny",
    ),
    "models.inside": ("model.call", {"sensitivity_class": "restricted"}, None, "allow"),
    "models.outside_for_open_material": ("model.call", {"reach": "public", "provider": "elsewhere"}, None, "allow"),
    "models.restricted_stays_inside": (
        "model.call", {"reach": "public", "sensitivity_class": "restricted"}, None, "deny",
    ),
    "models.not_seen_by_this_provider": ("model.call", {"listed": False}, None, "deny"),
    "models.through_the_gateway": ("model.call", {"route": "direct", "environment": "staging"}, None, "deny"),
    "writebacks.may_be_proposed": ("writeback.propose", {}, None, "allow"),
    "writebacks.high_risk_needs_two": ("writeback.propose", {"risk_level": "high"}, None, "ask"),
    "writebacks.known_connectors_only": ("writeback.propose", {"known_connector": False}, None, "deny"),
    "writebacks.not_from_a_dry_run": ("writeback.propose", {"mode": "dry_run"}, None, "deny"),
    "writebacks.no_automation_before_the_route_is_tested": (
        "writeback.propose", PRODUCTION | AUTONOMOUS, None, "deny",
    ),
    "operate.decide": ("operate.approval.decide", {}, SUBMITTER, "allow"),
    "operate.ask_further": ("operate.approval.escalate", {}, ADMIN, "allow"),
    "operate.operators": ("operate.mission.fail", {}, OPERATOR, "allow"),
    "operate.own_missions": ("operate.mission.cancel", {"own": True}, SUBMITTER, "allow"),
    "operate.admins_halt": ("operate.connector.halt", {}, ADMIN, "allow"),
    "operate.no_rerun_in_production": ("operate.mission.replay", PRODUCTION | {"replay": "rerun"}, OPERATOR, "deny"),
    "operate.people_resume_connectors": (
        "operate.connector.resume", {}, {"kind": "service", "roles": ["operator"]}, "deny",
    ),
    "operate.people_resume_tool_layers": (
        "operate.tool_layer.resume", {}, {"kind": "service", "roles": ["operator"]}, "deny",
    ),
}  # fmt: skip
# action: facts for which no rule speaks
SILENT: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "tool.call": ({"reach": "public", "mode": "dry_run"}, None),
    "model.call": ({"reach": "public", "sensitivity_class": "confidential"}, None),
    "writeback.propose": ({"operation": "delete"}, None),
    "operate.mission.cancel": ({}, SUBMITTER),
    "operate.mission.fail": ({"own": True}, SUBMITTER),
    "operate.mission.redispatch": ({"own": True}, SUBMITTER),
    "operate.mission.extend": ({"own": True}, SUBMITTER),
    "operate.approval.reassign": ({}, ADMIN),
    "operate.writeback.vouch": ({}, ADMIN),
    "operate.mission.replay": ({}, SUBMITTER),
    "operate.connector.halt": ({}, SUBMITTER),
    "operate.connector.resume": ({}, {"roles": ["auditor"]}),
    "operate.tool_layer.halt": ({}, SUBMITTER),
    "operate.tool_layer.resume": ({}, {"roles": ["auditor"]}),
}


async def ask(
    world: World, action: str, context: dict[str, Any], who: dict[str, Any] | None = None, **more: Any
) -> Any:
    body = {"action": action, "resource": "x", "context": context} | ({"principal": who} if who else {}) | more
    answer = await world.submitter.post("/v1/policies/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_shipped_rule_decides_its_case(world: World) -> None:
    assert set(CASES) == {rule.id for rule in baseline().rules.values()}, "give every rule a case in which it decides"
    for rule, (action, context, who, effect) in CASES.items():
        said = await ask(world, action, context, who)
        assert (said["rule"], said["effect"]) == (rule, effect), said
        assert said["deciding"]["text"].startswith(f'@id("{rule}")') and said["reason"] == said["deciding"]["reason"]
        assert said["policy_version"] == baseline().version and said["in_force"]
    assert (await ask(world, "writeback.propose", {"risk_level": "high"}))["obligations"] == {"approvals": "2"}


async def test_nothing_is_allowed_that_no_rule_permits(world: World) -> None:
    for action, (context, who) in SILENT.items():
        said = await ask(world, action, context, who)
        assert (said["effect"], said["rule"], said["deciding"]) == ("deny", "default", None), action


async def test_a_tested_approval_route_opens_what_was_closed_for_want_of_it(world: World) -> None:
    said = await ask(world, "writeback.propose", PRODUCTION | AUTONOMOUS | {"approval_route_tested": True})
    assert said["effect"] == "allow"


def test_the_baseline_fits_the_schema_it_holds_others_to() -> None:
    found = cedarpy.validate_policies(baseline_source().text, schema())
    assert found.validation_passed, found.errors
    ids = [rule.id for rule in baseline().rules.values()]
    assert len(ids) == len(set(ids))
    for action in ACTIONS.values():
        assert f'action "{action.name}"' in schema_text()


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def questions(draw: st.DrawFn) -> tuple[Asker, Action, dict[str, Any]]:
    action = ACTIONS[draw(st.sampled_from(sorted(ACTIONS)))]
    facts = {name: draw(st.sampled_from(fact.values or (fact.assumed, "other"))) for name, fact in action.facts.items()}
    roles = draw(st.frozensets(st.sampled_from(ROLES), max_size=3))
    return Asker("somebody", draw(st.sampled_from(KINDS)), roles), action, facts


OPEN = '@id("own.open") @reason("All of it.") permit (principal, action, resource);'
SHUT = '@id("own.shut") @reason("None of it.") forbid (principal, action, resource);'
open_to_all = compiled([Source("own", 1, OPEN)])
shut_to_all = compiled([Source("own", 1, f"{SHUT}\n{OPEN}")])


@given(questions())
@settings(max_examples=300, deadline=None)
def test_forbid_wins_and_no_permit_of_a_tenant_lifts_one_of_ours(asked: tuple[Asker, Action, dict[str, Any]]) -> None:
    who, action, facts = asked
    ours = evaluate(who, action.name, "x", facts, baseline())
    opened = evaluate(who, action.name, "x", facts, open_to_all)
    forbidden = any(rule.effect == "forbid" and rule.id in ours.spoke for rule in baseline().rules.values())
    assert (opened.effect == "deny") == forbidden
    if ours.effect == "ask":
        assert (opened.effect, opened.obligations) == ("ask", ours.obligations)  # nor does one take an obligation away
    shut = evaluate(who, action.name, "x", facts, shut_to_all)
    assert shut.effect == "deny" and "own.shut" in shut.spoke


@given(questions())
@settings(max_examples=60, deadline=None)
def test_what_would_change_the_answer_does_and_nothing_else(asked: tuple[Asker, Action, dict[str, Any]]) -> None:
    who, action, facts = asked
    said = explain(who, action, "x", facts, baseline())
    assert said.verdict == evaluate(who, action.name, "x", facts, baseline())
    listed = {(turn["fact"], turn["to"]): turn["effect"] for turn in said.changes}
    for name, fact in action.facts.items():
        for value in fact.values:
            effect = evaluate(who, action.name, "x", {**facts, name: value}, baseline()).effect
            assert listed.get((name, value), said.verdict.effect) == effect, (name, value)
    for turn in said.changes:
        assert turn["effect"] != said.verdict.effect
    if any(rule.effect == "forbid" for rule in said.forbids):
        assert said.verdict.effect == "deny" and all(rule.effect == "permit" for rule in said.permits)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"mode": "assisted"}, "facts that are missing"),
        ({**completed(ACTIONS["mission.create"], {}), "x": 1}, "unknown"),
    ],
)
def test_a_question_that_is_not_whole_is_denied(facts: dict[str, Any], why: str) -> None:
    said = evaluate(Asker("a"), "mission.create", "x", facts, open_to_all)
    assert (said.effect, said.rule) == ("deny", "error"), why
    assert evaluate(Asker("a"), "mission.destroy", "x", {}, open_to_all).rule == "error"


def test_a_rule_that_fails_while_it_is_asked_denies() -> None:
    text = '@id("own.fails") @reason("x") permit (principal, action, resource) when { context.nothing };'
    said = evaluate(
        Asker("a"), "mission.create", "x", completed(ACTIONS["mission.create"], {}), compiled([Source("own", 1, text)])
    )
    assert (said.effect, said.rule) == ("deny", "error")
    assert check("own", text, baseline()), "and such a rule is not taken"


def test_obligations_add_up_to_the_strictest() -> None:
    texts = [
        '@id("own.a") @reason("x") @approvals("3") @expires("2h") @approver_role("admin")',
        '@id("own.b") @reason("x") @approvals("2") @expires("90m") @escalate_to("policy_owner")',
    ]
    rule = ' permit (principal, action == Action::"mission.create", resource);\n'
    policies = compiled([Source("own", 1, "".join(text + rule for text in texts))])
    facts = completed(ACTIONS["mission.create"], {"mode": "autonomous", "risk_level": "high"})
    said = evaluate(Asker("a"), "mission.create", "x", facts, policies)
    wanted = {"approvals": "3", "expires": "90m", "approver_role": "admin", "escalate_to": "policy_owner"}
    assert (said.effect, said.obligations) == ("ask", wanted)
    torn = compiled([Source("own", 1, f'{texts[0]}{rule}@id("own.c") @reason("x") @approver_role("auditor"){rule}')])
    said = evaluate(Asker("a"), "mission.create", "x", facts, torn)
    assert (said.effect, said.rule) == ("deny", "conflict") and "own.a, own.c" in said.reason
