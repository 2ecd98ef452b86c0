"""Questions about an approval and their answers: by the right people, once, and nothing of the approval moves."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.clock import now
from tests.walls.ground import DENIED, Asked, Ground, insert
from tests.walls.test_delegation import REVOKE, grant_of, newcomer, passed
from tests.walls.test_ladder import approval, climb, facts, laddered, later, told
from tests.walls.test_tenants import neighbour_of

ASK = "SELECT * FROM ask_question($1, $2, $3, $4, $5)"
ANSWER = "SELECT * FROM answer_question($1, $2, $3, $4, $5)"
EPOCH = datetime.fromtimestamp(0, UTC)
HAND_ON = "SELECT * FROM hand_on($1, $2, $3, $4, $5, $6, $7)"


async def ask(
    ground: Ground, asked: Asked, who: str | None, said: str | None = "Why?", to: Any = None
) -> asyncpg.Record:
    [row] = await ground.run(
        "api", ASK, ground.tenant, asked.approval, ground.secrets.get(who, who) if who else None, said,
        ground.ids.get(to, to),
    )  # fmt: skip
    return row


async def answer(ground: Ground, asked: Asked, who: str, question: UUID, said: str | None = "So.") -> str:
    [row] = await ground.run("api", ANSWER, ground.tenant, asked.approval, ground.secrets.get(who, who), question, said)
    outcome: str = row["outcome"]
    return outcome


async def hand_on(
    ground: Ground,
    asked: Asked,
    who: str,
    role: str | None,
    reason: str | None = "on leave",
    *,
    instead: bool = False,
    **more: Any,
) -> asyncpg.Record:
    version = more.get("version", await ground.version(asked))
    [row] = await ground.run(
        "api", HAND_ON, ground.tenant, asked.approval, ground.secrets.get(who, who), version, role, instead, reason
    )
    return row


async def question(ground: Ground, id: UUID) -> asyncpg.Record:
    [row] = await ground.run("admin", "SELECT * FROM approval_question WHERE id = $1", id)
    return row


# --- asking -----------------------------------------------------------------------------------------------------------


async def test_a_question_goes_to_who_asked_for_the_change_and_moves_nothing(ground: Ground) -> None:
    asked = await ground.ask()
    before = await approval(ground, asked)
    put = await ask(ground, asked, "anna", "  Why this price?  ")
    assert (put["outcome"], put["state"], put["who"]) == ("asked", "pending", ground.ids["anna"])
    assert await approval(ground, asked) == before
    row = await question(ground, put["question"])
    assert (row["question"], row["addressee"], row["number"]) == ("Why this price?", ground.ids["asker"], 1)
    assert await told(ground, asked) == {("question", 1, "asker")}
    [(_, said)] = await facts(ground, asked, "approval.questioned")
    assert said["question_sha256"] == hashlib.sha256(b"Why this price?").hexdigest()
    assert said["to"] == str(ground.ids["asker"]) and "price" not in str(said)
    assert await ground.decide(asked, "anna", version=before["version"]) == "approved"
    [(_, decided)] = await facts(ground, asked, "approval.decided")
    assert decided["open_questions"] == 1


async def test_who_answers_for_a_program_is_told_with_it(ground: Ground) -> None:
    asked = await ground.ask(by="subagent")  # of agent, of anna
    put = await ask(ground, asked, "ben")
    assert await told(ground, asked) == {("question", 1, name) for name in ("subagent", "agent", "anna")}
    assert await answer(ground, asked, "anna", put["question"]) == "answered"
    assert await told(ground, asked) >= {("answer", 1, "ben")}


async def test_asking_takes_a_say_in_it_and_no_part(ground: Ground) -> None:
    asked = await ground.ask(by="agent")  # anna's
    for who, why in (
        ("anna", "own_request"), ("agent", "own_request"), ("adam", "no_say"), ("rita", "no_say"),
        ("gwen", "no_say"), ("machine", "no_say"), ("asker", "no_say"), ("nobody", "unauthenticated"),
        (None, "unauthenticated"),
    ):  # fmt: skip
        assert (await ask(ground, asked, who))["outcome"] == why, who
    await ground.rule("owned", approver_role="release_owner")
    owned = await ground.ask("owned")
    for who in ("rita", "ben"):  # who may decide it, and who runs things
        assert (await ask(ground, owned, who))["outcome"] == "asked"
    assert (await ask(ground, owned, "adam"))["outcome"] == "no_say"


async def test_a_question_is_put_to_somebody_who_can_know(ground: Ground) -> None:
    asked = await ground.ask()
    for to, why in (
        ("anna", "yourself"), ("adam", "cannot_answer"), ("gwen", "cannot_answer"), ("machine", "cannot_answer"),
        (uuid4(), "cannot_answer"), ("agent", "cannot_answer"),
    ):  # fmt: skip
        assert (await ask(ground, asked, "anna", to=to))["outcome"] == why, to
    assert (await ask(ground, asked, "anna", to="ben"))["outcome"] == "asked"
    assert await told(ground, asked) == {("question", 1, "ben")}
    await ground.revoke("cora")
    assert (await ask(ground, asked, "anna", to="cora"))["outcome"] == "cannot_answer"
    for said in ("", "  \n", None):
        assert (await ask(ground, asked, "anna", said))["outcome"] == "no_words"


async def test_one_person_asks_ten_questions_and_leaves_room_for_others(ground: Ground) -> None:
    asked = await ground.ask()
    for who in ("anna", "ben", "cora", "gus", "paul"):
        for number in range(10):
            assert (await ask(ground, asked, who, f"{number}?"))["outcome"] == "asked"
        said = (await ask(ground, asked, who))["outcome"]
        assert said == ("too_many" if who == "paul" else "too_many_yours"), who
    assert (await ask(ground, await ground.ask(), "anna"))[
        "outcome"
    ] == "asked"  # of another approval, from the first on


async def test_questions_are_asked_while_it_is_open(ground: Ground) -> None:
    closed = await ground.approved()
    assert (await ask(ground, closed, "anna"))["outcome"] == "not_pending"
    await laddered(ground)
    late = await ground.ask("climbing")
    await later(ground, late, 60)
    assert (await ask(ground, late, "anna"))["outcome"] == "expired"
    assert (await ask(ground, Asked(late.mission, late.writeback, uuid4(), b"", b"", late.requested_by), "anna"))[
        "outcome"
    ] == "not_found"


async def test_two_who_ask_at_once_ask_one_after_the_other(ground: Ground) -> None:
    asked = await ground.ask()
    first: Any = ("api", ASK, (ground.tenant, asked.approval, ground.secrets["anna"], "First?", None))
    second = await ground.overtaken(first, ask(ground, asked, "ben", "Second?"))
    assert second["outcome"] == "asked"
    rows = await ground.run(
        "admin", "SELECT number FROM approval_question WHERE approval = $1 ORDER BY 1", asked.approval
    )
    assert [row["number"] for row in rows] == [1, 2]


async def test_the_last_question_is_asked_once(ground: Ground) -> None:
    asked = await ground.ask()
    for number in range(9):
        assert (await ask(ground, asked, "anna", f"{number}?"))["outcome"] == "asked"
    first: Any = ("api", ASK, (ground.tenant, asked.approval, ground.secrets["anna"], "The last?", None))
    assert (await ground.overtaken(first, ask(ground, asked, "anna")))["outcome"] == "too_many_yours"
    for who in ("ben", "cora", "gus", "paul"):
        for number in range(9 if who == "paul" else 10):
            assert (await ask(ground, asked, who, f"{number}?"))["outcome"] == "asked"
    first = ("api", ASK, (ground.tenant, asked.approval, ground.secrets["paul"], "The last?", None))
    assert (await ground.overtaken(first, ask(ground, asked, "paul")))["outcome"] == "too_many"


async def test_a_question_that_nobody_would_hear_is_refused(ground: Ground) -> None:
    """Whom it is put to is suspended, and so is whoever answers for them, or there is nobody."""
    asked, agents = await ground.ask(), await ground.ask(by="agent")  # asker's own, and anna's agent's
    for who in ("asker", "agent"):
        await ground.run("registrar", "UPDATE principal SET suspended_at = now() WHERE id = $1", ground.ids[who])
    before = await approval(ground, asked)
    for to in (None, "asker"):
        assert (await ask(ground, asked, "ben", to=to))["outcome"] == "nobody_there"
    assert await told(ground, asked) == set() and await approval(ground, asked) == before
    assert (await ask(ground, asked, "ben", to="anna"))["outcome"] == "asked"
    for to in (None, "agent", "anna"):  # who answers for it is there
        assert (await ask(ground, agents, "ben", to=to))["outcome"] == "asked"
    await ground.run("registrar", "UPDATE principal SET suspended_at = now() WHERE id = $1", ground.ids["anna"])
    for to in (None, "agent", "anna"):
        assert (await ask(ground, agents, "ben", to=to))["outcome"] == "nobody_there"
    values = {"tenant": ground.tenant, "approval": asked.approval, "number": 9, "asked_by": ground.ids["ben"],
              "question": "Why?", "addressee": ground.ids["asker"]}  # fmt: skip
    await ground.refused("RX009", "owner", insert("approval_question", values), *values.values())


async def test_nobody_is_told_or_named_who_is_suspended(ground: Ground) -> None:
    asked = await ground.ask(by="agent")  # anna's
    for who in ("agent", "cora"):
        await ground.run("registrar", "UPDATE principal SET suspended_at = now() WHERE id = $1", ground.ids[who])
    assert (await ask(ground, asked, "ben"))["outcome"] == "asked"
    assert await told(ground, asked) == {("question", 1, "anna")}
    rows = await ground.run("api", "SELECT name FROM answerers($1, $2)", ground.tenant, asked.approval)
    assert {row["name"] for row in rows} == {"anna", "ben", "gus", "paul"}


async def test_the_present_is_judged(ground: Ground) -> None:
    asked = await ground.ask()
    async with ground.within("api", isolation="repeatable_read") as connection:
        try:
            await connection.fetch(ASK, ground.tenant, asked.approval, ground.secrets["anna"], "Why?", None)
        except asyncpg.PostgresError as error:
            refused = error.sqlstate
        else:
            refused = None
    assert refused == "RX012"


@pytest.mark.parametrize("what", ["ask", "answer", "hand_on"])
async def test_nobody_waits_in_a_ring_with_the_end_of_a_mission(ground: Ground, what: str) -> None:
    """Mission first, then approval: whoever ends the mission goes on to close what is open of it."""
    asked = await ground.ask()
    put = (await ask(ground, asked, "anna"))["question"]
    calls = {
        "ask": lambda: ask(ground, asked, "ben"),
        "answer": lambda: answer(ground, asked, "ben", put),
        "hand_on": lambda: hand_on(ground, asked, "ben", "admin", version=1),
    }
    async with ground.within("api", connection=await ground.connect("api")) as api:
        await api.execute("UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", asked.mission)
        waiting = asyncio.create_task(calls[what]())
        await ground.somebody_waits()
        close = "SELECT close_approval($1, $2, 'cancelled', $3)"
        assert await api.fetchval(close, ground.tenant, asked.approval, ground.secrets["cora"]) == "cancelled"
    assert ("answered" if what == "answer" else "not_pending") in str(await waiting)


# --- answering --------------------------------------------------------------------------------------------------------


async def test_an_answer_is_given_once_by_who_may_and_the_asker_is_told(ground: Ground) -> None:
    asked = await ground.ask()
    put = (await ask(ground, asked, "anna", to="ben"))["question"]
    for who, why in (("anna", "own_question"), ("adam", "not_for_you"), ("gwen", "not_for_you"), ("robot", "not_for_you"),
                     ("nobody", "unauthenticated")):  # fmt: skip
        assert await answer(ground, asked, who, put) == why, who
    assert await answer(ground, asked, "ben", put, " ") == "no_words"
    assert await answer(ground, asked, "ben", uuid4()) == "not_found"
    assert await answer(ground, await ground.ask(), "ben", put) == "not_found"  # a question about another approval
    before = await approval(ground, asked)
    assert await answer(ground, asked, "ben", put, " From the call. ") == "answered"
    assert await approval(ground, asked) == before
    for who in ("ben", "cora", "asker"):
        assert await answer(ground, asked, who, put) == "already_answered"
    row = await question(ground, put)
    assert (row["answer"], row["answered_by"]) == ("From the call.", ground.ids["ben"])
    assert ("answer", 1, "anna") in await told(ground, asked)
    [(_, said)] = await facts(ground, asked, "approval.answered")
    assert said["answer_sha256"] == hashlib.sha256(b"From the call.").hexdigest() and "call" not in str(said)
    assert (said["state"], said["question"]) == ("pending", str(put))
    assert await ground.decide(asked, "anna") == "approved"
    assert (await facts(ground, asked, "approval.decided"))[0][1]["open_questions"] == 0


async def test_the_requester_and_operators_answer_what_was_put_to_another(ground: Ground) -> None:
    for who in ("asker", "cora"):
        asked = await ground.ask()
        put = (await ask(ground, asked, "anna", to="ben"))["question"]
        assert await answer(ground, asked, who, put) == "answered", who


async def test_of_two_answers_at_once_one_wins(ground: Ground) -> None:
    asked = await ground.ask()
    put = (await ask(ground, asked, "anna"))["question"]
    first: Any = ("api", ANSWER, (ground.tenant, asked.approval, ground.secrets["asker"], put, "Mine."))
    assert await ground.overtaken(first, answer(ground, asked, "ben", put, "Mine!")) == "already_answered"
    assert (await question(ground, put))["answer"] == "Mine."
    both = [await ground.connect("api") for _ in range(2)]
    put = (await ask(ground, asked, "anna"))["question"]

    async def race(connection: asyncpg.Connection, who: str) -> str:
        async with ground.within("api", connection=connection):
            said = (ground.tenant, asked.approval, ground.secrets[who], put, who)
            outcome: str = await connection.fetchval(ANSWER, *said)
            return outcome

    said = await asyncio.gather(race(both[0], "asker"), race(both[1], "ben"))
    assert sorted(said) == ["already_answered", "answered"]


async def test_what_is_said_too_late_is_kept_and_said_to_be_late(ground: Ground) -> None:
    asked = await ground.ask("slow")
    put = (await ask(ground, asked, "anna"))["question"]
    assert await ground.decide(asked, "anna") == "approved"
    assert await answer(ground, asked, "asker", put, "Stop: it is the old price.") == "answered"
    assert (await facts(ground, asked, "approval.answered"))[0][1]["state"] == "approved"


async def test_a_decision_keeps_how_many_questions_were_open(ground: Ground) -> None:
    """Counted by the guard, whatever the row says, and as it was: what is answered later was open all the same."""
    await ground.rule("pair", required=2)
    asked = await ground.ask("pair")
    put = [(await ask(ground, asked, "anna", f"{number}?"))["question"] for number in range(2)]
    assert await answer(ground, asked, "asker", put[0]) == "answered"
    vote = {"tenant": ground.tenant, "approval": asked.approval, "requested_by": asked.requested_by, "approver": ground.ids["anna"],
            "payload_sha256": asked.sha256, "verdict": "approve", "open_questions": 9}  # fmt: skip
    await ground.run("owner", insert("decision", vote), *vote.values())
    assert await answer(ground, asked, "asker", put[1]) == "answered"
    assert await ground.decide(asked, "ben") == "approved"
    kept = "SELECT approver, open_questions FROM decision WHERE approval = $1"
    assert {tuple(row) for row in await ground.run("admin", kept, asked.approval)} == {
        (ground.ids["anna"], 1), (ground.ids["ben"], 0),
    }  # fmt: skip


# --- the table --------------------------------------------------------------------------------------------------------


async def test_nobody_writes_a_question_past_the_function(ground: Ground) -> None:
    asked = await ground.ask()
    columns = {"tenant": ground.tenant, "approval": asked.approval, "number": 1, "asked_by": ground.ids["anna"],
               "question": "Why?", "addressee": ground.ids["asker"]}  # fmt: skip
    for role in ("api", "worker", "registrar", "executor", "auditor", "reader"):
        await ground.refused(DENIED, role, insert("approval_question", columns), *columns.values())
    for more, why in (
        ({"asked_by": ground.ids["adam"]}, "RX009"),
        ({"asked_by": ground.ids["asker"]}, "RX009"),
        ({"addressee": ground.ids["adam"]}, "RX009"),
        ({"approval": (await ground.approved()).approval}, "RX004"),
    ):
        values = columns | more
        await ground.refused(why, "owner", insert("approval_question", values), *values.values())
    whole = columns | {
        "answer": "x",
        "answered_by": ground.ids["ben"],
        "answered_at": EPOCH,
        "asked_at": EPOCH,
        "number": 9,
    }
    await ground.run("owner", insert("approval_question", whole), *whole.values())
    [row] = await ground.run("admin", "SELECT * FROM approval_question WHERE approval = $1", asked.approval)
    assert (row["answer"], row["answered_by"], row["answered_at"], row["number"]) == (None, None, None, 1)
    assert row["asked_at"] > EPOCH
    own = await ground.ask(by="agent")
    values = columns | {"approval": own.approval, "addressee": ground.ids["ben"]}
    await ground.refused("RX010", "owner", insert("approval_question", values), *values.values())

    for number in range(9):
        assert (await ask(ground, asked, "anna", f"{number}?"))["outcome"] == "asked"
    await ground.refused("RX036", "owner", insert("approval_question", columns), *columns.values())

    put = (await ask(ground, asked, "cora", to="ben"))["question"]
    change = "UPDATE approval_question SET {} WHERE id = $1"
    for what, why in (
        ("question = 'Other?'", "RX001"), ("asked_by = addressee", "RX001"), ("number = 2", "RX001"),
        ("asked_at = now()", "RX001"), ("answer = 'x'", "RX001"),
        (f"answer = 'x', answered_by = '{ground.ids['adam']}'", "RX009"),
        (f"answer = 'x', answered_by = '{ground.ids['cora']}'", "approval_question_others"),
    ):  # fmt: skip
        await ground.refused(why, "owner", change.format(what), put)
    assert await answer(ground, asked, "ben", put) == "answered"
    for what in ("answer = 'Other.'", "answer = NULL, answered_by = NULL, answered_at = NULL"):
        await ground.refused("RX001", "owner", change.format(what), put)


async def test_another_tenant_sees_and_does_nothing(ground: Ground) -> None:
    asked = await ground.ask()
    put = (await ask(ground, asked, "anna"))["question"]
    async with neighbour_of(ground) as other:
        assert await other.run("api", "SELECT * FROM approval_question") == []
        assert (await other.run("api", ASK, other.tenant, asked.approval, other.secrets["anna"], "Why?", None))[0][
            "outcome"
        ] == "not_found"
        assert (await other.run("api", ANSWER, other.tenant, asked.approval, other.secrets["anna"], put, "So."))[0][
            "outcome"
        ] == "not_found"
        hand = (other.tenant, asked.approval, other.secrets["anna"], 1, "admin", False, "x")
        assert (await other.run("api", HAND_ON, *hand))[0]["outcome"] == "not_found"
        theirs = await other.ask()
        assert (
            await other.run("api", ASK, other.tenant, theirs.approval, other.secrets["anna"], "?", ground.ids["ben"])
        )[0]["outcome"] == "cannot_answer"
        for statement, args in (
            (ASK, (ground.tenant, asked.approval, ground.secrets["anna"], "Why?", None)),
            (ANSWER, (ground.tenant, asked.approval, ground.secrets["ben"], put, "So.")),
            (HAND_ON, (ground.tenant, asked.approval, ground.secrets["ben"], 1, "admin", False, "x")),
            ("SELECT * FROM answerers($1, $2)", (ground.tenant, asked.approval)),
        ):
            await other.refused("RX002", "api", statement, *args)


async def test_a_screen_is_told_who_could_be_asked(ground: Ground) -> None:
    await ground.rule("owned", approver_role="release_owner")
    asked = await ground.ask("owned", by="agent")
    rows = await ground.run("api", "SELECT name, standing FROM answerers($1, $2)", ground.tenant, asked.approval)
    assert [tuple(row) for row in rows] == [
        ("agent", "requester"), ("anna", "requester"),
        ("ben", "operator"), ("cora", "operator"), ("gus", "operator"), ("paul", "operator"), ("rita", "approver"),
    ]  # fmt: skip


async def test_a_screen_is_told_the_same_of_roles_that_were_passed_on(ground: Ground) -> None:
    """A screen's look at many people and the wall's at one say the same."""
    asked = await ground.ask(by="agent")  # anna's
    await newcomer(ground)
    grant = await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina")

    async def standing() -> tuple[tuple[str, bool] | None, str | None]:
        could = {row["id"]: (row["standing"], row["part"]) for row in await ground.run(
            "api", "SELECT * FROM answerers($1, $2)", ground.tenant, asked.approval)}  # fmt: skip
        decides = {row["id"]: row["standing"] for row in await ground.run(
            "api", "SELECT * FROM deciders($1, $2)", ground.tenant, asked.approval)}  # fmt: skip
        one = """SELECT took_part($1, $2, a.requested_by, a.writeback) AS part, entitled_to($1, $2, a.may_decide, a.must_hold) AS decides,
                   has_a_say(a, $2) OR $2 IN (SELECT live_line($1, a.requested_by)) AS could FROM approval a WHERE id = $3"""
        for name, id in ground.ids.items():
            [wall] = await ground.run("admin", one, ground.tenant, id, asked.approval)
            assert could.get(id, ("", wall["part"]))[1] == wall["part"], name
            assert (decides.get(id, "may") == "own_request") == (wall["part"] and id in decides), name
            assert ((id in could), (id in decides)) == (wall["could"], wall["decides"]), name
        return could.get(ground.ids["nina"]), decides.get(ground.ids["nina"])

    assert await standing() == (("operator", True), "own_request")  # she acts for anna
    await ground.run("registrar", REVOKE, ground.tenant, grant)
    assert await standing() == (None, None)
    await passed(ground, await grant_of(ground, "ben", "operator"), "ben", "nina")
    assert await standing() == (("operator", False), "may")
    late = now() + timedelta(minutes=5)
    await passed(ground, await grant_of(ground, "anna", "operator"), "anna", "nina", starts=late)
    assert await standing() == (("operator", True), "own_request")  # what anna gives her, from when on ever
    await ground.run("registrar", "UPDATE principal SET suspended_at = now() WHERE id = $1", ground.ids["ben"])
    assert await standing() == (None, None)
    source = await grant_of(ground, "cora", "operator")
    await passed(ground, source, "cora", "nina")
    assert await standing() == (("operator", True), "own_request")
    await ground.run("registrar", REVOKE, ground.tenant, source)  # what was passed on ends with it
    assert await standing() == (None, None)
    soon = now() + timedelta(milliseconds=300)
    await passed(ground, await grant_of(ground, "gus", "operator"), "gus", "nina", ends=soon)
    await ground.run("admin", "SELECT pg_sleep_until($1)", soon)
    assert await standing() == (None, None)


# --- one more role ----------------------------------------------------------------------------------------------------


async def test_another_role_is_asked_as_well_and_votes_stay(ground: Ground) -> None:
    await laddered(ground, required=2)
    asked = await ground.ask("climbing")
    assert await ground.decide(asked, "anna") == "recorded"
    before = await approval(ground, asked)
    done = await hand_on(ground, asked, "ben", "admin", " over our heads ")
    assert (done["outcome"], done["may_decide"]) == ("escalated", ["operator", "admin"])
    row = await approval(ground, asked)
    same = (
        "version",
        "expires_at",
        "required",
        "rule",
        "rule_version",
        "ladder",
        "climbed",
        "must_hold",
        "payload_sha256",
    )
    assert {name: row[name] for name in same} == {name: before[name] for name in same}
    assert await told(ground, asked) == {("escalation", 4, "adam")}
    [(type, said)] = await facts(ground, asked, "approval.escalated", "approval.reassigned")
    assert (type, said["role"], said["was"]) == ("approval.escalated", "admin", ["operator"])
    assert "over our heads" in row["handed"] and "heads" not in str(said) and "hop" not in said
    assert said["reason_sha256"] == hashlib.sha256(b"over our heads").hexdigest()
    assert await ground.decide(asked, "adam", version=before["version"]) == "approved"


async def test_the_ladder_reminds_a_role_that_was_asked_by_hand(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    assert (await hand_on(ground, asked, "ben", "admin"))["outcome"] == "escalated"
    await later(ground, asked, 20)
    await climb(ground, asked)
    operators = {"anna", "ben", "cora", "gus", "paul"}
    assert [(type, body.get("hop"), body.get("role")) for type, body in await facts(ground, asked)] == [
        ("approval.escalated", None, "admin"), ("approval.reminded", 1, None), ("approval.reminded", 2, "admin"),
    ]  # fmt: skip
    assert await told(ground, asked) == {
        ("escalation", 4, "adam"),
        ("reminder", 2, "adam"),
        ("reminder", 1, "adam"),
    } | {("reminder", 1, name) for name in operators}
    assert (await approval(ground, asked))["may_decide"] == ["operator", "admin"]
    await later(ground, asked, 10)
    await climb(ground, asked)
    assert (await facts(ground, asked))[-1] == (
        "approval.escalated", (await facts(ground, asked))[-1][1] | {"hop": 3, "role": "product_owner"},
    )  # fmt: skip
    row = await approval(ground, asked)
    assert row["may_decide"] == ["operator", "admin", "product_owner"]
    assert [step["kind"] for step in json.loads(row["ladder"])] == ["remind", "remind", "escalate"], "what happened"


async def test_a_ladder_that_names_a_role_twice_escalates_once(ground: Ground) -> None:
    await laddered(ground, hops=[{"after_s": 600, "kind": "escalate", "role": "admin"},
                                 {"after_s": 1200, "kind": "escalate", "role": "admin"}])  # fmt: skip
    asked = await ground.ask("climbing")
    await later(ground, asked, 30)
    await climb(ground, asked)
    assert [type for type, _ in await facts(ground, asked)] == ["approval.escalated", "approval.reminded"]
    assert await told(ground, asked) == {("escalation", 1, "adam"), ("reminder", 2, "adam")}
    row = await approval(ground, asked)
    assert ([step["kind"] for step in json.loads(row["ladder"])], row["may_decide"]) == (
        ["escalate", "remind"], ["operator", "admin"],
    )  # fmt: skip


async def test_who_may_decide_escalates_and_only_who_runs_things_takes_it_from_others(ground: Ground) -> None:
    await ground.rule("owned", approver_role="release_owner", may_escalate_to=["admin"])
    asked = await ground.ask("owned")
    assert (await hand_on(ground, asked, "rita", "admin", instead=True))["outcome"] == "not_entitled"
    assert (await hand_on(ground, asked, "rita", "admin"))["outcome"] == "escalated"
    assert (await hand_on(ground, asked, "rita", "admin"))["outcome"] == "asked_already"
    assert (await hand_on(ground, asked, "ben", "release_owner"))["outcome"] == "asked_already"


async def test_escalating_is_refused_with_the_reason(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing", by="agent")  # anna's
    for who, role, more, why in (
        ("nobody", "admin", {}, "unauthenticated"),
        ("anna", "admin", {}, "own_request"),
        ("adam", "admin", {}, "no_say"),
        ("gwen", "admin", {}, "no_say"),
        ("machine", "admin", {}, "no_say"),
        ("ben", "admin", {"version": 9}, "stale"),
        ("ben", "admin", {"reason": " "}, "no_comment"),
        ("ben", "operator", {}, "asked_already"),
        ("ben", "release_owner", {}, "not_a_role_of_the_rule"),
        ("ben", None, {}, "not_a_role_of_the_rule"),
    ):
        assert (await hand_on(ground, asked, who, role, **more))["outcome"] == why, (who, role)
    refused = await hand_on(ground, asked, "ben", "release_owner")
    assert refused["further"] == ["admin", "product_owner"]
    assert (await hand_on(ground, await ground.ask("crm"), "ben", "admin"))["further"] == []
    await later(ground, asked, 60)
    assert (await hand_on(ground, asked, "ben", "admin"))["outcome"] == "expired"
    assert (await hand_on(ground, await ground.approved(), "ben", "admin"))["outcome"] == "not_pending"
    broken = await ground.ask("climbing")
    smash = "SELECT outcome FROM break_glass($1, $2, $3, 1, $4, 'fire')"
    assert (
        await ground.value("api", smash, ground.tenant, broken.approval, ground.secrets["gwen"], broken.sha256)
        == "recorded"
    )
    assert (await hand_on(ground, broken, "ben", "admin"))["outcome"] == "already_broken"


async def test_handing_on_instead_is_told_as_what_it_is(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    assert (await hand_on(ground, asked, "ben", "operator", instead=True))["outcome"] == "unchanged_role"
    done = await hand_on(ground, asked, "ben", "admin", instead=True)
    assert (done["outcome"], done["may_decide"]) == ("reassigned", ["admin"])
    assert await told(ground, asked) == {("reassigned", 4, "adam")}
    assert [type for type, _ in await facts(ground, asked, "approval.escalated", "approval.reassigned")] == [
        "approval.reassigned"
    ]


async def test_a_rejection_approves_nothing_when_votes_count_again(ground: Ground) -> None:
    await ground.rule("given", required=2, deny_threshold=2, may_escalate_to=["admin"])
    asked = await ground.ask("given")
    assert await ground.decide(asked, "anna") == "recorded"
    assert (await hand_on(ground, asked, "ben", "admin", instead=True))["outcome"] == "reassigned"
    assert await ground.decide(asked, "adam") == "recorded"
    assert (await hand_on(ground, asked, "ben", "operator", instead=True))["outcome"] == "reassigned"
    assert (await hand_on(ground, asked, "ben", "admin"))["outcome"] == "escalated"  # both votes count now
    assert await ground.decide(asked, "cora", "reject") == "recorded"
    assert (await approval(ground, asked))["state"] == "pending"
    assert await ground.value("admin", "SELECT count(*) FROM work WHERE subject = $1", asked.writeback) == 0
    assert await ground.decide(asked, "gus") == "approved"


async def test_a_step_of_before_brings_nobody_back_who_was_taken_off_it(ground: Ground) -> None:
    await laddered(
        ground,
        hops=[{"after_s": 600, "kind": "escalate", "role": "product_owner"}, {"after_s": 1200, "kind": "remind"}],
    )
    asked = await ground.ask("climbing")
    await later(ground, asked, 10)
    await climb(ground, asked)
    assert (await approval(ground, asked))["may_decide"] == ["operator", "product_owner"]
    assert (await hand_on(ground, asked, "ben", "admin", instead=True))["outcome"] == "reassigned"
    await later(ground, asked, 10)
    await climb(ground, asked)
    assert (await approval(ground, asked))["may_decide"] == ["admin"]


async def test_of_two_who_escalate_at_once_one_is_told_that_it_is_done(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    first: Any = ("api", HAND_ON, (ground.tenant, asked.approval, ground.secrets["anna"], 1, "admin", False, "x"))
    assert (await ground.overtaken(first, hand_on(ground, asked, "ben", "admin", version=1)))[
        "outcome"
    ] == "asked_already"
    assert len(await facts(ground, asked, "approval.escalated")) == 1


async def test_one_person_hands_an_approval_on_ten_times_and_others_still_may(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    for who in ("anna", "ben", "cora", "gus", "paul"):
        for number in range(10):
            role = ("admin", "operator")[number % 2]
            assert (await hand_on(ground, asked, who, role, instead=True))["outcome"] == "reassigned"
        said = (await hand_on(ground, asked, who, "admin"))["outcome"]
        assert said == ("too_often" if who == "paul" else "too_often_yours"), who
        if who == "anna":
            hand = {"by": str(ground.ids["anna"]), "to": "admin", "instead": True, "reason": "once more"}
            append = "UPDATE approval SET handed = handed || $2::text::jsonb WHERE id = $1"
            await ground.refused("RX036", "owner", append, asked.approval, json.dumps(hand))


async def test_nobody_hands_an_approval_on_past_the_function(ground: Ground) -> None:
    """Whoever holds the owner's role and writes the row is judged by the same guard, which also says when it was."""
    await laddered(ground)
    asked = await ground.ask("climbing", by="agent")  # anna's
    hand = {"by": str(ground.ids["ben"]), "to": "admin", "instead": True, "reason": "all are on leave"}
    append = "UPDATE approval SET handed = handed || $2::text::jsonb WHERE id = $1"
    for more, why in (
        ({"to": "policy_owner"}, "RX036"), ({"to": None}, "RX036"), ({"instead": None}, "RX036"), ({"reason": " "}, "RX036"),
        ({"reason": None}, "RX036"), ({"reason": "x" * 2001}, "RX036"), ({"to": "operator", "instead": False}, "RX036"),
        ({"by": str(ground.ids["adam"])}, "RX009"), ({"by": str(ground.ids["adam"]), "instead": False}, "RX009"), ({"by": None}, "RX009"),
        ({"by": str(ground.ids["anna"])}, "RX010"), ({"by": str(ground.ids["anna"]), "instead": False}, "RX010"),
    ):  # fmt: skip
        await ground.refused(why, "owner", append, asked.approval, json.dumps(hand | more))
    whole = "UPDATE approval SET handed = $2::text::jsonb WHERE id = $1"
    for said in ([hand, hand], {}, 1):
        await ground.refused("RX036", "owner", whole, asked.approval, json.dumps(said))
    await ground.refused(
        "RX004", "owner", "UPDATE approval SET state = 'cancelled', handed = '[1]' WHERE id = $1", asked.approval
    )
    await ground.run(
        "owner", append, asked.approval, json.dumps(hand | {"at": "1999-01-01", "more": 1, "reason": " on leave "})
    )
    await ground.refused("RX036", "owner", whole, asked.approval, "[]")
    row = await approval(ground, asked)
    [kept] = json.loads(row["handed"])
    assert set(kept) == {"by", "to", "instead", "reason", "at"} and not kept["at"].startswith("1999")
    assert (kept["reason"], row["may_decide"], row["version"]) == ("on leave", ["admin"], 2)
    # asked no more, an operator who is not in charge of it still runs things
    await ground.run("owner", append, asked.approval, json.dumps(hand | {"to": "product_owner", "instead": False}))
    row = await approval(ground, asked)
    assert (row["may_decide"], row["version"]) == (["admin", "product_owner"], 2)

    await later(ground, asked, 20)
    both = "UPDATE approval SET handed = handed || $2::text::jsonb, climbed = climbed || now() WHERE id = $1"
    await ground.refused("RX004", "owner", both, asked.approval, json.dumps(hand | {"to": "operator"}))
    both = f"UPDATE approval SET handed = handed || $2::text::jsonb, glass_broken_by = '{ground.ids['gwen']}' WHERE id = $1"
    await ground.refused("RX004", "owner", both, asked.approval, json.dumps(hand | {"to": "operator"}))
    await ground.run(
        "owner", f"UPDATE approval SET glass_broken_by = '{ground.ids['gwen']}' WHERE id = $1", asked.approval
    )
    await ground.refused("RX036", "owner", append, asked.approval, json.dumps(hand | {"to": "break_glass"}))
    late = await ground.ask("climbing")
    await later(ground, late, 60)
    await ground.refused("RX036", "owner", append, late.approval, json.dumps(hand))
    closed = await ground.approved()
    await ground.refused("RX004", "owner", append, closed.approval, json.dumps(hand))
