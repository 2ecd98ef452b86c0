"""Asking about an approval, answering, and asking a further role, through the API."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.approvals.desk import post, seen
from tests.world import World
from tests.world.checks import hire, inspector, pending_change, problem
from tests.world.life import Life, asked_at_intake

HOSTILE = "<b>Approved</b> ‮drawkcab‬ \x1b[31m​ [click](https://x.example)"


async def ask(
    world: World,
    approval: dict[str, Any],
    who: str = "operator",
    question: Any = "Which call is it from?",
    key: str = "",
    **more: Any,
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"question": question} | more
    return await world.people[who].http.post(f"/v1/approvals/{approval['id']}/questions", json=body, headers=headers)


async def answer(
    world: World,
    approval: dict[str, Any],
    question: dict[str, Any],
    who: str = "submitter",
    said: Any = "From that of the 3rd.",
    **more: Any,
) -> httpx.Response:
    path = f"/v1/approvals/{approval['id']}/questions/{question['id']}/answer"
    return await world.people[who].http.post(path, json={"answer": said}, **more)


async def escalate(
    world: World, approval: dict[str, Any], role: str = "admin", who: str = "operator", key: str = "", **more: Any
) -> httpx.Response:
    headers = {"If-Match": more.pop("match", f'"v{approval["version"]}"')} | ({"Idempotency-Key": key} if key else {})
    body = {"role": role, "reason": "it is more than we decide alone"} | more
    return await world.people[who].http.post(f"/v1/approvals/{approval['id']}/escalate", json=body, headers=headers)


async def notices(world: World, who: str) -> list[tuple[str, str]]:
    items = (await world.people[who].http.get("/v1/notices")).json()["items"]
    return [(one["kind"], one["approval_id"]) for one in items]


async def principal(world: World, name: str) -> str:
    connection = await inspector(world)
    found: Any = await connection.fetchval("SELECT id FROM principal WHERE name = $1", name)
    return str(found)


async def story(world: World, approval: dict[str, Any]) -> list[str]:
    steps = (await world.operator.get("/v1/explain", params={"id": approval["id"]})).json()["steps"]
    return [one["sentence"] for one in steps]


# --- questions


async def test_a_question_is_asked_and_answered_and_the_open_form_stays_good(world: World) -> None:
    approval = await pending_change(world)
    made = await ask(world, approval)
    assert made.status_code == 201, made.text
    question = made.json()
    asker, requester = await principal(world, "operator"), await principal(world, "submitter")
    assert (question["asked_by"], question["to"], question["answer"]) == (asker, requester, None)
    assert await notices(world, "submitter") == [("question", approval["id"])]
    now = await seen(world, approval)
    same = ("version", "expires_at", "required", "approvals", "payload_sha256", "may_decide", "state")
    assert {name: now[name] for name in same} == {name: approval[name] for name in same}
    assert (now["questions"], now["open_questions"]) == ([question], 1)
    [queued] = [one for one in (await world.operator.get("/v1/inbox")).json()["items"] if one["id"] == approval["id"]]
    assert queued["open_questions"] == 1

    said = await answer(world, approval, question)
    assert said.status_code == 200, said.text
    assert (said.json()["answer"], said.json()["answered_by"]) == ("From that of the 3rd.", requester)
    assert await notices(world, "operator") == [("answer", approval["id"])]
    now = await seen(world, approval)
    assert (now["questions"], now["open_questions"], now["version"]) == ([said.json()], 0, approval["version"])
    receipt = (await post(world.operator, approval)).json()
    assert (receipt["outcome"], receipt["open_questions"]) == ("approved", 0)
    told = await story(world, approval)
    assert any(one.startswith("operator asked 1 question about the change") for one in told), told
    assert any(one.startswith("submitter answered 1 question about the change") for one in told), told
    facts = [one for one in await world.facts(approval["mission_id"]) if one["type"].startswith("approval.")]
    assert "call" not in str(facts) and "3rd" not in str(facts)
    for kind in ("questioned", "answered"):
        [fact] = [one for one in facts if one["type"] == f"approval.{kind}"]
        assert "_sha256" in fact["body"]
    assert (await world.operator.get("/v1/explain", params={"id": question["id"]})).json()["steps"]


async def test_who_decides_with_an_open_question_is_shown_and_the_answer_comes_late(world: World) -> None:
    approval = await pending_change(world)
    question = (await ask(world, approval)).json()
    receipt = (await post(world.second_operator, approval)).json()
    assert (receipt["outcome"], receipt["open_questions"]) == ("approved", 1)
    now = await seen(world, approval)
    assert [one["open_questions"] for one in now["decisions"]] == [1]
    assert any("with 1 question unanswered" in one for one in await story(world, approval))
    problem(await ask(world, approval), "wrong_state")
    assert (await answer(world, approval, question)).status_code == 200
    assert any("answered 1 question" in one and "after it was approved" in one for one in await story(world, approval))
    assert [one["open_questions"] for one in (await seen(world, approval))["decisions"]] == [1]


async def test_the_same_question_twice_is_one_under_one_key(world: World) -> None:
    approval = await pending_change(world)
    first, again = [await ask(world, approval, key="one") for _ in range(2)]
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
    problem(await ask(world, approval, question="Another?", key="one"), "idempotency_mismatch")
    assert len((await seen(world, approval))["questions"]) == 1
    key = {"Idempotency-Key": "two"}
    first, again = [await answer(world, approval, first.json(), headers=key) for _ in range(2)]
    assert first.content == again.content and first.status_code == again.status_code == 200


async def test_of_two_answers_at_once_one_wins_and_the_other_reads_it(world: World) -> None:
    approval = await pending_change(world)
    for _ in range(5):
        question = (await ask(world, approval)).json()
        both = await asyncio.gather(
            *(answer(world, approval, question, who, f"of {who}") for who in ("submitter", "second_operator"))
        )
        assert sorted(one.status_code for one in both) == [200, 409]
        [won], [lost] = [one for one in both if one.status_code == 200], [one for one in both if one.status_code == 409]
        said = problem(lost, "already_answered")
        assert said["current"] == won.json()


async def test_who_asks_whom(world: World) -> None:
    approval = await pending_change(world)
    for who in ("auditor", "admin", "policy_owner"):
        problem(await ask(world, approval, who), "forbidden")
    problem(await ask(world, approval, "submitter"), "own_request")
    second = await principal(world, "second_operator")
    to_second = await ask(world, approval, to=second)
    assert to_second.json()["to"] == second and await notices(world, "second_operator") == [
        ("question", approval["id"])
    ]
    for to in (await principal(world, "operator"), await principal(world, "auditor"), str(uuid4())):
        assert problem(await ask(world, approval, to=to), "validation")["errors"][0]["pointer"] == "/to"
    for wrong in ("", "   ", "x" * 2001, None, 1, "a\u0000b"):
        answered = await ask(world, approval, question=wrong)
        assert answered.status_code == 422, wrong
    for who in ("auditor", "admin"):
        problem(await answer(world, approval, to_second.json(), who), "forbidden")
    problem(await answer(world, approval, to_second.json(), "operator"), "forbidden")  # the asker
    problem(await answer(world, approval, to_second.json(), said=" "), "validation")
    problem(await answer(world, approval, {"id": uuid4()}), "not_found")
    assert (await answer(world, approval, to_second.json(), "second_operator")).status_code == 200


async def test_ten_of_one_person_are_enough(world: World) -> None:
    approval = await pending_change(world)
    for number in range(10):
        assert (await ask(world, approval, question=f"{number}?")).status_code == 201
    assert "Others still may" in problem(await ask(world, approval), "wrong_state")["detail"]
    assert (await ask(world, approval, "second_operator")).status_code == 201


async def test_a_question_to_a_requester_who_is_suspended_is_refused_and_the_screen_names_others(world: World) -> None:
    approval = await pending_change(world)
    path = f"/v1/approvals/{approval['id']}/briefing"
    requester = await principal(world, "submitter")
    asked = (await world.operator.get(path)).json()["may_be_asked"]
    assert asked[0] == {"id": requester, "name": "submitter", "standing": "requester"}
    connection = await inspector(world)
    await connection.execute("UPDATE principal SET suspended_at = now() WHERE id = $1::text::uuid", requester)
    for to in ({}, {"to": requester}):
        said = problem(await ask(world, approval, **to), "validation")
        assert "suspended" in said["detail"]
        assert said["errors"] == [{"pointer": "/to", "detail": "name an operator or one who may decide"}]
    asked = (await world.operator.get(path)).json()["may_be_asked"]
    assert [one["name"] for one in asked] == ["second_operator"] and asked[0]["standing"] == "operator"
    assert (await ask(world, approval, to=asked[0]["id"])).status_code == 201
    await connection.execute("UPDATE principal SET suspended_at = now() WHERE name = 'second_operator'")
    you = (await world.operator.get(path)).json()["you"]
    assert "Nobody is there to answer" in you["why_not_ask"] and you["why_not_escalate"] is None


async def test_another_tenant_finds_neither_approval_nor_question(world: World) -> None:
    approval = await pending_change(world)
    question = (await ask(world, approval)).json()
    await world.another_tenant()
    for one, absent in (
        (await ask(world, approval, "other"), await ask(world, {"id": uuid4()}, "other")),
        (await answer(world, approval, question, "other"), await answer(world, {"id": uuid4()}, question, "other")),
        (await escalate(world, approval, who="other"), await escalate(world, approval | {"id": uuid4()}, who="other")),
    ):
        assert problem(one, "not_found")["detail"] == problem(absent, "not_found")["detail"]


async def test_hostile_words_are_kept_as_they_are(world: World) -> None:
    approval = await pending_change(world)
    question = (await ask(world, approval, question=HOSTILE)).json()
    said = (await answer(world, approval, question, said=HOSTILE)).json()
    assert (said["question"], said["answer"]) == (HOSTILE, HOSTILE)


async def test_a_question_about_a_mission_itself(world: World) -> None:
    life: Life = await asked_at_intake(world)
    [found] = (await world.operator.get(f"/v1/approvals?mission={life.id}")).json()["items"]
    made = await ask(world, found)
    assert made.status_code == 201, made.text
    assert (await answer(world, found, made.json())).status_code == 200
    assert (await escalate(world, found)).json()["may_decide"] == ["operator", "admin"]


async def test_policy_may_forbid_each(world: World) -> None:
    approval = await pending_change(world)
    question = (await ask(world, approval)).json()
    text = " ".join(
        f'@id("quiet.{name}") @reason("Not here.") '
        f'forbid (principal, action == Action::"operate.approval.{name}", resource);'
        for name in ("ask", "answer", "escalate")
    )
    put = await world.policy_owner.put("/v1/policies/quiet", json={"text": text})
    assert put.status_code in (200, 201), put.text
    for refused, name in (
        (await ask(world, approval), "ask"),
        (await answer(world, approval, question), "answer"),
        (await escalate(world, approval), "escalate"),
    ):
        assert problem(refused, "denied_by_policy")["rule"] == f"quiet.{name}"
    now = await seen(world, approval)
    assert (len(now["questions"]), now["open_questions"], now["may_decide"]) == (1, 1, ["operator"])


# --- asked about an earlier revision


async def revise(world: World, approval: dict[str, Any], who: str, **changes: Any) -> dict[str, Any]:
    """The next revision's approval, as it is."""
    now = await seen(world, approval)
    made = await world.people[who].http.post(
        f"/v1/approvals/{approval['id']}/revisions",
        json={"payload_sha256": now["payload_sha256"], "changes": changes, "reason": "it is the old one"},
        headers={"If-Match": f'"v{now["version"]}"'},
    )
    assert made.status_code == 201, made.text
    return await seen(world, {"id": made.json()["approval_id"]})


async def test_who_decides_the_next_revision_sees_what_was_asked_about_those_before(world: World) -> None:
    first = await pending_change(world)
    answered, left = [(await ask(world, first, question=words)).json() for words in ("Which call?", "Did they agree?")]
    answered = (await answer(world, first, answered)).json()
    assert (await escalate(world, first)).status_code == 200
    second = await revise(world, first, "operator", status="second")  # about which nobody asks
    third = await revise(world, second, "second_operator", status="third")
    for later in (second, third):
        assert (later["questions"], later["handed"], later["open_questions"]) == ([], [], 0)
        [before] = later["asked_before"]
        assert (before["approval_id"], before["revision"], before["state"]) == (first["id"], 1, "cancelled")
        assert before["questions"] == [answered, left] and before["closed_at"]
        assert [(one["to"], one["reason"]) for one in before["handed"]] == [
            ("admin", "it is more than we decide alone")
        ]
    late = (await answer(world, first, left, said="They did not.")).json()
    assert (await seen(world, third))["asked_before"][0]["questions"][1] == late
    assert (await seen(world, first))["asked_before"] == []


# --- one more role


async def test_another_role_is_asked_as_well_now(world: World) -> None:
    approval = await pending_change(world)
    problem(await post(world.admin, approval), "forbidden")
    done = await escalate(world, approval)
    assert done.status_code == 200, done.text
    assert (done.json()["may_decide"], done.json()["version"]) == (["operator", "admin"], approval["version"])
    assert await notices(world, "admin") == [("escalation", approval["id"])]
    now = await seen(world, approval)
    same = ("version", "expires_at", "required", "payload_sha256", "must_hold")
    assert {name: now[name] for name in same} == {name: approval[name] for name in same}
    [hand] = now["handed"]
    assert (hand["to"], hand["instead"], hand["reason"]) == ("admin", False, "it is more than we decide alone")
    assert hand["by"] == await principal(world, "operator")
    assert [(one["kind"], one["role"]) for one in now["ladder"]] == [
        ("remind", None), ("remind", "admin"), ("expire", None),
    ], "the step that would have asked the admins reminds them"  # fmt: skip
    assert "operator had admin asked too" in await story(world, approval)
    [fact] = [one for one in await world.facts(approval["mission_id"]) if one["type"] == "approval.escalated"]
    assert "alone" not in str(fact) and json.loads(fact["body"])["was"] == ["operator"]
    assert (await post(world.admin, approval)).json()["outcome"] == "approved"


async def ladder_climbed(world: World, approval: dict[str, Any]) -> None:
    """Every step of its ladder is due, and done."""
    connection = await inspector(world)
    await connection.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
    await connection.execute(
        """UPDATE approval SET ladder = (SELECT jsonb_agg(hop || jsonb_build_object('at', clock_timestamp())) FROM
             jsonb_array_elements(ladder) hop) WHERE id = $1::text::uuid""",
        approval["id"],
    )
    await connection.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
    await world.make_due("approval_timer")
    await world.run_work("approval_timer")


async def test_a_step_that_reminded_is_shown_as_that(world: World) -> None:
    by_hand, by_clock = await pending_change(world), await pending_change(world)
    assert (await escalate(world, by_hand)).status_code == 200
    for approval in (by_hand, by_clock):
        await ladder_climbed(world, approval)
    steps = {id: [(one["kind"], one["role"], one["done_at"] is None) for one in (await seen(world, {"id": id}))["ladder"]]
             for id in (by_hand["id"], by_clock["id"])}  # fmt: skip
    assert steps[by_hand["id"]] == [("remind", None, False), ("remind", "admin", False), ("expire", None, True)]
    assert steps[by_clock["id"]] == [("remind", None, False), ("escalate", "admin", False), ("expire", None, True)]


async def test_the_clock_and_a_person_are_told_apart(world: World) -> None:
    approval = await pending_change(world)
    await ladder_climbed(world, approval)
    told = await story(world, approval)
    assert "it was still undecided: admin was asked too" in told and "whoever may decide was reminded, 1 time" in told
    assert (await seen(world, approval))["handed"] == []


async def test_a_second_click_a_stale_page_and_a_role_asked_already(world: World) -> None:
    approval = await pending_change(world)
    problem(await escalate(world, approval, match='"v99"'), "stale")
    bare = await world.operator.post(f"/v1/approvals/{approval['id']}/escalate", json={"role": "admin", "reason": "x"})
    problem(bare, "precondition_required")
    first, again = [await escalate(world, approval, key="once") for _ in range(2)]
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
    said = problem(await escalate(world, approval, who="second_operator"), "validation")
    assert said["errors"][0]["pointer"] == "/role" and "asked already" in said["detail"]
    assert len((await seen(world, approval))["handed"]) == 1


async def test_only_to_roles_that_the_rule_names_besides(world: World) -> None:
    approval = await pending_change(world)
    said = problem(await escalate(world, approval, "policy_owner"), "validation")
    assert said["errors"] == [{"pointer": "/role", "detail": "must be one of admin"}]
    assert (await escalate(world, approval)).status_code == 200
    said = problem(await escalate(world, approval, "policy_owner"), "validation")
    assert "PUT /v1/approval-rules" in said["errors"][0]["detail"] and said["current"]["may_decide"] == [
        "operator",
        "admin",
    ]
    for role in ("break_glass", "submitter", "", None):
        problem(await escalate(world, approval, role), "validation")  # type: ignore[arg-type]
    problem(await escalate(world, approval, reason="  "), "validation")


async def test_who_escalates(world: World) -> None:
    approval = await pending_change(world)
    for who in ("admin", "auditor", "policy_owner"):
        problem(await escalate(world, approval, who=who), "forbidden")
    problem(await escalate(world, approval, who="submitter"), "own_request")
    await hire(world, "glass holder", "break_glass")
    broken = await world.people["glass holder"].http.post(
        f"/v1/approvals/{approval['id']}/break-glass",
        json={"payload_sha256": approval["payload_sha256"], "reason": "it burns"},
        headers={"If-Match": approval["etag"]},
    )
    assert broken.status_code == 201 and broken.json()["open_questions"] == 0
    problem(await escalate(world, await seen(world, approval)), "wrong_state")
    closed = await pending_change(world)
    assert (await post(world.operator, closed)).status_code == 201
    problem(await escalate(world, closed), "wrong_state")


@pytest.mark.parametrize("verb", ["escalate", "questions"])
async def test_a_vote_that_was_open_meanwhile_is_taken(world: World, verb: str) -> None:
    """What an approver has on the screen stays good, whoever is asked beside them."""
    approval = await pending_change(world, risk_level="high")
    done = await (escalate(world, approval) if verb == "escalate" else ask(world, approval, "second_operator"))
    assert done.status_code in (200, 201)
    assert (await post(world.operator, approval)).json()["outcome"] == "recorded"
