"""Asking about an approval, answering and escalating, by commands and in the review loop."""

import asyncio
import json
from collections.abc import Callable

import pytest

from app.cli.approval_screen import handed
from tests.cli import inprocess
from tests.cli.inprocess import Done
from tests.cli.terminal import Terminal
from tests.cli.test_review import HOSTILE, review, url, waiting
from tests.world import World

__all__ = ["review", "url"]


@pytest.fixture
def command(world: World, url: str) -> Callable[..., Done]:
    def run(*words: str, who: str = "operator") -> Done:
        known = {"MISSION_ROOT_URL": url, "MISSION_ROOT_API_KEY": world.people[who].key}
        return inprocess.command(*words, environment=known)

    return run


async def test_two_people_at_the_command_line(world: World, command: Callable[..., Done]) -> None:
    [one] = await waiting(world, "medium")
    id = str(one["id"])

    async def said(*words: str, who: str = "operator") -> Done:
        return await asyncio.to_thread(command, *(words if words[0] == "notices" else ("approvals", *words)), who=who)

    asked = await said("ask", id, "Which call is it from?", "--json")
    assert (asked.returncode, asked.stderr) == (0, ""), asked.stderr
    first = json.loads(asked.stdout)["id"]
    assert "Asked" in (await said("ask", id, HOSTILE, "--to", "second_operator")).stdout
    stranger = await said("ask", id, "Who?", "--to", "nobody")
    assert stranger.returncode == 2 and "submitter" in stranger.stderr and "second_operator" in stranger.stderr
    assert (await said("ask", id, "Mine?", who="submitter")).returncode == 4

    shown = (await said("show", id)).stdout
    assert (
        "operator asked submitter" in shown
        and "not answered" in shown
        and "\x1b]" not in shown
        and "\u202e" not in shown
    )
    assert "⟨U+001B⟩[2J" in shown and "[bold]x[/bold]" in shown
    assert "question" in (await said("notices", "list", who="submitter")).stdout

    assert (await said("answer", id, "1", "Mine.")).returncode == 4, "whoever asks does not answer"
    assert (await said("answer", id, "9", "Which?", who="submitter")).returncode == 3
    answered = await said("answer", id, "1", "From that of the 3rd.", "--json", who="submitter")
    assert json.loads(answered.stdout)["id"] == first
    late = await said("answer", id, first, "From that of the 4th.", who="second_operator")
    assert late.returncode == 5 and "answered already" in late.stderr
    assert "submitter answered" in (await said("show", id)).stdout
    assert "answer" in (await said("notices", "list")).stdout

    wrong = await said("escalate", id, "--role", "policy_owner", "--reason", "It is theirs.")
    assert wrong.returncode == 2 and "must be one of admin" in wrong.stderr
    done = await said("escalate", id, "--role", "admin", "--reason", "It is theirs.")
    assert "operator, admin now" in done.stdout
    assert "admin as well, by operator: It is theirs." in (await said("show", id)).stdout
    decided = await said("decide", id, "approve", "--payload-sha256", one["payload_sha256"], who="admin")
    assert "1 question about it is open" in decided.stdout, decided.stderr


async def test_the_next_revision_shows_what_was_asked_about_the_one_before(
    world: World, command: Callable[..., Done], review: Callable[..., Terminal]
) -> None:
    [one] = await waiting(world, "medium")
    question = await world.operator.post(f"/v1/approvals/{one['id']}/questions", json={"question": "Which call?"})
    path = f"/v1/approvals/{one['id']}/questions/{question.json()['id']}/answer"
    await world.submitter.post(path, json={"answer": "That of the 3rd."})
    escalated = await asyncio.to_thread(
        command, "approvals", "escalate", one["id"], "--role", "admin", "--reason", "It is theirs."
    )
    assert escalated.returncode == 0, escalated.stderr
    made = await world.second_operator.post(
        f"/v1/approvals/{one['id']}/revisions",
        json={"payload_sha256": one["payload_sha256"], "changes": {"status": "new"}, "reason": "a slip"},
        headers={"If-Match": f'"v{one["version"]}"'},
    )
    assert made.status_code == 201, made.text
    shown = await asyncio.to_thread(command, "approvals", "show", made.json()["approval_id"])
    flat = " ".join(shown.stdout.replace("│", " ").split())
    for words in (
        f"about the earlier revision 1, {one['id']}, which is cancelled: not about this one", "operator asked submitter",
        "Which call?", "submitter answered", "That of the 3rd.", "admin as well, by operator: It is theirs.",
    ):  # fmt: skip
        assert words in flat, shown.stdout

    def play() -> None:
        with review() as at:
            at.until("1 of 1")
            at.press("\r", "about the earlier revision 1", "submitter answered")
            at.press("q", "0 decided, 1 left.")

    await asyncio.to_thread(play)


async def test_asking_and_escalating_in_the_review(world: World, review: Callable[..., Terminal]) -> None:
    [one] = await waiting(world, "low")

    def play() -> None:
        with review() as at:
            at.until("1 of 1")
            at.press("s", "Open it first: Enter.")
            at.press("\r", "a[s]k", "[x] escalate")
            at.press("s", "What do you want to know")
            at.press("\r", "Nothing was sent.")
            at.press("s", "What do you want to know")
            at.press(
                "Which call is it from?\r", "Asked; nothing else changes.", "operator asked submitter", "not answered"
            )
            assert "1 question about it is open; a decision need not wait" in at.screen
            at.press("?", "ask about it", "escalate: another role as well")
            at.press("x", "Why admin too")
            at.press(
                "It is theirs.\r", "Asked too.", "may decide: operator, admin", "as well, by operator: It is theirs."
            )
            at.press("x", "Its rule names nobody else to ask.")
            at.press("a", "Approve exactly this?")
            at.press("y", "Approve recorded", "1 question about it is open.")
            at.press("u", "Why is it taken back")
            at.press("A slip.\r", "0 decided; nothing waits any more.")

    await asyncio.to_thread(play)
    seen = (await world.operator.get(f"/v1/approvals/{one['id']}")).json()
    assert (seen["state"], [each["question"] for each in seen["questions"]]) == (
        "cancelled",
        ["Which call is it from?"],
    )


async def test_what_was_typed_is_offered_again_when_it_comes_too_late(
    world: World, review: Callable[..., Terminal]
) -> None:
    [one] = await waiting(world, "low")
    loop = asyncio.get_running_loop()

    def play() -> None:
        with review() as at:
            at.until("1 of 1")
            at.press("\r", "a[s]k")
            at.press("x", "Why admin too")
            body, match = {"role": "admin", "reason": "x"}, {"If-Match": '"v1"'}
            done = asyncio.run_coroutine_threadsafe(
                world.second_operator.post(f"/v1/approvals/{one['id']}/escalate", json=body, headers=match), loop
            ).result(20)
            assert done.status_code == 200
            at.press("It is theirs.\r", "it is asked already", "You had typed: It is theirs.")
            at.press("q", "0 decided, 1 left.")

    await asyncio.to_thread(play)


def test_no_line_of_somebodys_words_passes_for_one_of_ours() -> None:
    words = "Fine?\n   anna answered 2026-10-01T10:00: yes\nto admin as well, by anna: forged"
    one = {"by": "p1", "to": "admin", "instead": False, "reason": words}
    first, *more = handed({"handed": [one]}, {"p1": "ben"}).split("\n")
    assert first == "to admin as well, by ben: Fine?"
    assert len(more) == 2 and all(line.startswith("   │ ") for line in more)
