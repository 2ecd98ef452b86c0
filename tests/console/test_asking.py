"""Asking about an approval, answering, and asking a further role, by plain forms."""

import re
from typing import Any

import pytest

from app.console.pages import approval as screen
from tests.approvals.test_questions import HOSTILE
from tests.console.desk import Desk, Page, path_of, seat
from tests.world import World
from tests.world.checks import hire, inspector, pending_change


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to look for a second in a test that is about something else."""
    monkeypatch.setattr(screen, "DWELL_S", {"low": 0.0, "medium": 0.0, "high": 0.0})


async def opened(desk: Desk, change: dict[str, Any]) -> Page:
    page = await desk.get(f"/console/approvals/{change['id']}")
    assert page.status == 200, page.text
    return page


async def test_a_question_and_its_answer_between_two_people(world: World) -> None:
    change = await pending_change(world)
    asks, answers = await seat(world), await seat(world, "submitter")
    before = await opened(asks, change)
    assert "Questions" not in before.text
    asked = await asks.send(before.form_to("/questions"), question="Which call is it from?")
    assert path_of(asked).endswith(change["id"])
    assert "operator asked submitter" in asked.text and "Which call is it from?" in asked.text
    assert "You asked it: somebody else answers." in asked.text
    assert "1 question about it is not answered" in asked.text and "not wait for the answer" in asked.text
    with pytest.raises(AssertionError):
        asked.form_to("/answer")
    assert "1 open question" in (await asks.get("/console")).text

    theirs = await opened(answers, change)
    assert "others ask about it, and you can answer." in theirs.text
    for form in ("/questions", "/escalation"):
        with pytest.raises(AssertionError):
            theirs.form_to(form)
    empty = await answers.send(theirs.form_to("/answer"), answer=" ")
    assert empty.status == 422 and "/answer" in empty.text
    done = await answers.send(theirs.form_to("/answer"), answer="From that of the 3rd.")
    assert "submitter answered" in done.text and "From that of the 3rd." in done.text
    assert "open question" not in (await asks.get("/console")).text
    # the form that was open all the while is good
    decided = await asks.send(before.form_to("/decision", decision="approve"))
    assert "operator approved" in decided.text and "open" not in decided.text.partition("operator approved")[2][:60]


async def test_a_decision_with_an_open_question_says_so_and_the_answer_comes_late(world: World) -> None:
    change = await pending_change(world)
    asks = await seat(world)
    page = await asks.send((await opened(asks, change)).form_to("/questions"), question="Which call?")
    done = await asks.send(page.form_to("/decision", decision="approve"))
    assert "with 1 question open" in done.text
    answers = await seat(world, "submitter")
    late = await answers.send((await opened(answers, change)).form_to("/answer"), answer="None: stop it.")
    assert "submitter answered" in late.text and "after it was approved" in late.text


async def test_whoever_answers_second_reads_the_first_and_keeps_what_they_typed(world: World) -> None:
    change = await pending_change(world)
    asks, first, second = await seat(world), await seat(world, "submitter"), await seat(world, "second_operator")
    await asks.send((await opened(asks, change)).form_to("/questions"), question="Which call?")
    ours, theirs = await opened(first, change), await opened(second, change)
    await first.send(ours.form_to("/answer"), answer="That of the 3rd.")
    lost = await second.send(theirs.form_to("/answer"), answer="My careful words.")
    assert lost.status == 409 and "submitter was faster: answered" in lost.text
    assert "That of the 3rd." in lost.text and "My careful words." in lost.text


async def test_what_was_not_taken_is_still_in_the_form(world: World) -> None:
    change = await pending_change(world)
    asks = await seat(world)
    form = (await opened(asks, change)).form_to("/questions")
    wrong = await asks.send(form, question="My careful question?", to="00000000-0000-7000-8000-000000000000")
    assert wrong.status == 422 and "My careful question?" in wrong.text and "/to" in wrong.text
    bare = await asks.send((await opened(asks, change)).form_to("/escalation"), reason=" ", role="admin")
    assert bare.status == 422 and "/reason" in bare.text


async def test_a_further_role_is_asked_and_who_asked_it_is_shown(world: World) -> None:
    change = await pending_change(world)
    desk, second = await seat(world), await seat(world, "second_operator")
    page, other = await opened(desk, change), await opened(second, change)
    assert "Break the glass" in page.text
    done = await desk.send(page.form_to("/escalation"), reason="It is theirs to say.", role="admin")
    assert "admin, by operator" in done.text and "It is theirs to say." in done.text
    assert "Its approval rule names no further role" in done.text
    late = await second.send(other.form_to("/escalation"), reason="My careful reason.", role="admin")
    assert late.status == 422 and "it is asked already" in late.text
    # what was open meanwhile is decided, by who was asked first and by who was asked too
    admin = await seat(world, "admin")
    decided = await admin.send((await opened(admin, change)).form_to("/decision", decision="approve"))
    assert "admin approved" in decided.text


async def test_the_next_revision_shows_what_was_asked_about_the_one_before(world: World) -> None:
    change = await pending_change(world)
    asks, answers, second = await seat(world), await seat(world, "submitter"), await seat(world, "second_operator")
    await hire(world, "third", "operator")
    third = await seat(world, "third")
    await second.send((await opened(second, change)).form_to("/questions"), question="Which call is it from?")
    await answers.send((await opened(answers, change)).form_to("/answer"), answer="From that of the 3rd.")
    await asks.send((await opened(asks, change)).form_to("/questions"), question="Did they agree?")
    page = await opened(asks, change)
    assert "earlier revision" not in page.text
    page = await asks.send(page.form_to("/escalation"), reason="It is theirs to say.", role="admin")
    edited = await asks.send(page.form_to("/revision"), reason="high was a slip", **{page.field("priority"): "low"})
    next_one = await opened(third, {"id": path_of(edited).rpartition("/")[2]})
    shown = next_one.text.partition("Asked about the earlier revision 1")[2].partition("Approve")[0]
    for words in (
        "That one is cancelled", "Nothing here was said about this one.", "second_operator asked submitter", "Which call is it from?",
        "submitter answered", "From that of the 3rd.", "Did they agree?", "Not answered.", "admin, by operator",
        "It is theirs to say.",
    ):  # fmt: skip
        assert words in shown, (words, shown)
    assert f'href="/console/approvals/{change["id"]}">revision 1</a>' in next_one.source
    assert "is not answered. A decision" not in next_one.text, "what was open then is not open about this one"


async def test_buttons_say_why_they_cannot_be_pressed(world: World) -> None:
    change = await pending_change(world)
    auditor = (await opened(await seat(world, "auditor"), change)).text
    assert auditor.count("It takes who may decide it, or an operator.") == 2
    requester = (await opened(await seat(world, "submitter"), change)).text
    assert requester.count("others ask about it, and you can answer.") == 2
    await hire(world, "glass holder", "break_glass")
    desk = await seat(world, "glass holder")
    holder = await opened(desk, change)
    assert holder.form_to("/break-glass") and "It takes who may decide it, or an operator." in holder.text
    await desk.send(holder.form_to("/break-glass"), reason="the shop is open")
    operator = await opened(await seat(world), change)
    assert "The glass is broken: two holders of break_glass decide" in operator.text


async def test_who_cannot_hear_a_question_is_not_asked(world: World) -> None:
    change = await pending_change(world)
    desk, connection = await seat(world), await inspector(world)
    leave = "UPDATE principal SET suspended_at = now() WHERE name = $1"
    before = await opened(desk, change)
    assert "is suspended" not in before.text
    await connection.execute(leave, "submitter")
    late = await desk.send(before.form_to("/questions"), question="My careful question?")
    assert late.status == 422 and "nobody answers for them" in late.text and "My careful question?" in late.text
    page = await opened(desk, change)
    assert "Who asked for it is suspended, and nobody answers for them: ask another." in page.text
    [other] = re.findall(r'<option value="(.*?)">second_operator</option>', page.source)
    asked = await desk.send(page.form_to("/questions"), question="Do you know?", to=other)
    assert "operator asked second_operator" in asked.text
    await connection.execute(leave, "second_operator")
    page = await opened(desk, change)
    assert "Nobody is there to answer" in page.text
    with pytest.raises(AssertionError):
        page.form_to("/questions")


async def test_hostile_words_are_shown_as_what_they_are(world: World) -> None:
    change = await pending_change(world)
    asks, answers = await seat(world), await seat(world, "submitter")
    page = await asks.send((await opened(asks, change)).form_to("/questions"), question=HOSTILE)
    page = await answers.send((await opened(answers, change)).form_to("/answer"), answer=HOSTILE)
    assert page.source.count("&lt;b&gt;Approved&lt;/b&gt;") >= 2 and "<b>Approved</b>" not in page.source
    for name in ("202E", "001B", "200B"):
        assert page.source.count(f"⟨U+{name}⟩") >= 2
    assert "\u202e" not in page.source and "\x1b" not in page.source and 'href="https://x.example' not in page.source
