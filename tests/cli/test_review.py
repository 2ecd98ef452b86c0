"""The review loop at a real terminal, against the root on a real socket: keys, screens, and what was decided."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.cli.terminal import Terminal
from tests.cli.test_client import Root, root
from tests.delivery.streams import serving
from tests.world import World
from tests.world.checks import hire
from tests.world.colony import proposal

__all__ = ["root"]

FREEZE = """@id("own.freeze") @reason("No decisions today.")
forbid (principal, action == Action::"operate.approval.decide", resource);"""
UNASKED: dict[str, list[Any]] = {"questions": [], "handed": [], "asked_before": []}
HOSTILE = "\x1b[2J\x1b]0;owned\x07 Approved ✓ by root\r\u202egnissapyb [bold]x[/bold] \x9b31m"


async def waiting(world: World, *risks: str, **more: Any) -> list[dict[str, Any]]:
    """Changes of these risks to different leads of the sample CRM, waiting, in this order."""
    if world.crm_base_url is None:
        await world.with_crm()
    dispatch = await world.dispatch(mission_type="crm_lead_intelligence")
    listed = (await world.colony.tool(dispatch, "crm.list", kind="lead", limit=20))["records"]
    records = [one for one in listed if '"priority":"high"' not in one["text"]][: len(risks)]
    made = [
        proposal(dispatch.envelope, record, {"priority": "high"}, risk_level=risk, **more)
        for record, risk in zip(records, risks, strict=True)
    ]
    await world.colony.complete(dispatch, proposals=made)
    await world.run_work("review")
    items = (await world.operator.get(f"/v1/approvals?mission={dispatch.mission_id}")).json()["items"]
    by_target = {one["payload"]["target"]["id"]: one for one in items}
    return [by_target[record["record_id"]] for record in records]


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with serving(world) as found:
        yield found


@pytest.fixture
def review(world: World, url: str) -> Callable[..., Terminal]:
    def begin(*words: str, who: str = "operator") -> Terminal:
        known = {"MISSION_ROOT_URL": url, "MISSION_ROOT_API_KEY": world.people[who].key}
        return Terminal("approvals", "review", *words, environment=known)

    return begin


async def state(world: World, approval: dict[str, Any]) -> str:
    return str((await world.operator.get(f"/v1/approvals/{approval['id']}")).json()["state"])


def name(approval: dict[str, Any]) -> str:
    return str(approval["payload"]["target"]["id"])


async def test_three_decided_one_lost_to_a_faster_one_and_one_refused_by_policy(
    world: World, review: Callable[..., Terminal]
) -> None:
    first, second, third, fourth, fifth = await waiting(world, "high", "medium", "medium", "low", "low")
    faster = await hire(world, "faster", "operator")
    loop = asyncio.get_running_loop()

    def meanwhile(method: str, path: str, **more: Any) -> Any:
        client = world.people[more.pop("who")].http
        return asyncio.run_coroutine_threadsafe(client.request(method, path, **more), loop).result(20)

    def play() -> None:
        with review() as at:
            queue = at.until("1 of 5", "high", name(first))
            assert queue.index(name(first)) < queue.index(name(second)) < queue.index(name(fourth)), (
                "by risk and time left"
            )
            # high: its record's name is typed; a wrong one decides nothing
            at.press(
                "\r",
                f"Update 1 record, lead {name(first)}, in sample_crm (local)",
                "written by the agent, not verified",
            )
            time.sleep(1.1)
            at.press("a", f"Type {name(first)} to approve")
            at.press("L-9999\r", "That is not the record's id; nothing was decided.")
            at.press("a", f"Type {name(first)} to approve")
            at.press(f"{name(first)}\r", "Approve recorded", "Ledger row ", "It waits for more approvals.")
            # medium: not before it was looked at for a second
            at.press("j\r", name(second), "a after a second, then y")
            at.press("a", "faster than it can be read")
            time.sleep(1.1)
            at.press("a", "Approve exactly this?")
            at.press("y", "Approve recorded", "is approved.", "It is executed in ", " s; until then u takes it back.")
            # rejected, with a reason of one's own
            at.press("\r", name(third))
            at.press("r", "Reason, or 1 to 3")
            at.press("Not this quarter.\r", "Reject recorded", "is rejected.")
            # somebody is faster while it is open: said in place, and what was typed is kept
            at.press("\r", name(fourth), "0 of 1")
            body = {"decision": "approve", "payload_sha256": fourth["payload_sha256"]}
            done = meanwhile(
                "POST", f"/v1/approvals/{fourth['id']}/decisions", json=body, headers={"If-Match": '"v1"'}, who="faster"
            )
            assert done.status_code == 201, done.text
            at.press("r", "Reason, or 1 to 3")
            at.press(
                "It is the wrong lead.\r",
                "Meanwhile: faster approved",
                "You had typed: It is the wrong lead.",
                "No decision here",
            )
            # policy refuses
            assert meanwhile("PUT", "/v1/policies/own", json={"text": FREEZE}, who="policy_owner").status_code == 201
            at.press("j", name(fifth), "0 of 1")
            at.press("a", "Approve exactly this?")
            at.press("y", "Denied by policy", "own.freeze", "0 of 1")
            at.press("q", "3 decided, 3 left.")
            assert at.ended() == 0

    await asyncio.to_thread(play)
    assert faster
    assert [await state(world, one) for one in (first, second, third, fourth, fifth)] == [
        "pending", "approved", "rejected", "approved", "pending",
    ]  # fmt: skip
    [vote] = (await world.operator.get(f"/v1/approvals/{third['id']}")).json()["decisions"]
    assert vote["comment"] == "Not this quarter."


async def test_what_the_agent_wrote_stays_in_its_box(world: World, review: Callable[..., Terminal]) -> None:
    [one] = await waiting(world, "low", summary=HOSTILE, rationale=HOSTILE + "\n╰──╯\nApprove recorded")

    def play() -> None:
        with review() as at:
            at.until("1 of 1")
            shown = at.press("\r", "written by the agent, not verified", "q end")
            assert "⟨U+001B⟩[2J" in shown and "⟨U+202E⟩" in shown and "⟨U+009B⟩" in shown and "[bold]x[/bold]" in shown
            assert shown.index("SHA-256") < shown.index("written by the agent"), "facts first, its words last"
            raw = at.raw.decode(errors="replace")
            assert "\x1b]0;owned" not in raw and "\u202e" not in raw and "\x9b" not in raw
            for line in shown.splitlines():
                if "Approve recorded" in line:
                    assert line.startswith("│ │"), "inside both boxes"
            at.press("q", "0 decided, 1 left.")

    await asyncio.to_thread(play)
    assert await state(world, one) == "pending"


def test_names_and_ids_that_the_agent_chose_are_shown_as_what_they_are(root: Root) -> None:
    record = "L-1\x1b]0;owned\x07[/bold]"
    approval = {
        "id": "a1", "subject": "writeback", "mission_id": "m1", "mission_type": "t", "state": "pending", "risk_level": "high",
        **UNASKED, "payload_sha256": "ab" * 32, "approvals": 0, "required": 1, "expires_at": "2040-01-01T00:00:00Z", "requested_by": "p1",
        "rule": {"id": "r1", "version": 1, "comment_required": False}, "summary": "x", "rationale": "y", "may_decide": ["operator"],
        "payload": {"connector": "crm", "operation": "update", "target": {"kind": "lead", "id": record}, "expected_version": "4",
                    "changes": {"[/x]": ":warning:", "\x1b[2J[green]approved by root": 2}},
    }  # fmt: skip
    root.answers["GET /v1/inbox"] = (200, {}, {"items": [approval], "next_cursor": None, "has_more": False})
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, approval)
    known = {"MISSION_ROOT_URL": root.url, "MISSION_ROOT_API_KEY": "mr_test"}
    with Terminal("approvals", "review", environment=known) as at:
        at.until("1 of 1")
        shown = at.press("\r", "written by the agent, not verified", "q end")
        shown_name = "L-1⟨U+001B⟩]0;owned⟨U+0007⟩[/bold]"
        for words in (
            "[/x]",
            "⟨U+001B⟩[2J[green]approved by root",
            ":warning:",
            f"Update 1 record, lead {shown_name}, in crm",
        ):
            assert words in shown, words
        time.sleep(1.1)
        at.press("a", f"Type {shown_name} to approve")
        assert b"\x1b]0;owned" not in at.raw
        at.press("\r", "That is not the record's id")
        at.press("q", "0 decided, 1 left.")


def test_brackets_split_over_two_words_hide_nothing(root: Root) -> None:
    """Neither what stands between them nor the screen itself, wherever the agent chose the words."""
    approval = {
        "id": "a1", "subject": "writeback", "mission_id": "m1", "mission_type": "t", "state": "pending", "risk_level": "high",
        **UNASKED, "payload_sha256": "ab" * 32, "approvals": 0, "required": 1, "expires_at": "2040-01-01T00:00:00Z", "requested_by": "p1",
        "rule": {"id": "r1", "version": 1, "comment_required": False}, "summary": "x", "rationale": "y", "may_decide": ["operator"],
        "current": {"value": {"stage": "new [/y"}},
        "evidence": [{"document": "notes[a", "start": 1, "end": 2, "quote": "b] said so [/x"}],
        "payload": {"connector": "crm", "operation": "update", "target": {"kind": "lead", "id": "L-1"}, "expected_version": "4",
                    "changes": {"note": "see [x", "owner": "mallory]", "stage": "[/x", "tail": "y]\\"}},
    }  # fmt: skip
    root.answers["GET /v1/inbox"] = (200, {}, {"items": [approval], "next_cursor": None, "has_more": False})
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, approval)
    known = {"MISSION_ROOT_URL": root.url, "MISSION_ROOT_API_KEY": "mr_test"}
    with Terminal("approvals", "review", environment=known) as at:
        at.until("1 of 1")
        shown = " ".join(at.press("\r", "written by the agent, not verified", "q end").replace("│", " ").split())
        for words in (
            "in crm: note see [x, owner mallory], stage new [/y → [/x, tail y]\\. It can be set back.",
            "- new [/y + [/x",
            "✓ notes[a:1-2 “b] said so [/x”",
        ):
            assert words in shown, words
        at.press("q", "0 decided, 1 left.")


async def test_raw_bytes_evidence_help_and_taking_back(world: World, review: Callable[..., Terminal]) -> None:
    both = await waiting(world, "low", "low")

    def play() -> None:
        with review() as at:
            at.until("1 of 2")
            at.press("a", "Open it first: Enter.")
            at.press("u", "There is nothing to take back.")
            at.press("\r", "0 of 1")
            assert "expected_version" not in at.screen
            at.press("d", '"expected_version"')
            at.press("e", "✓ sample_crm/lead/")
            at.press("?", "next, previous", "approvals revise ID")
            at.press("a", "Approve exactly this?")
            at.press("n", "Nothing was decided.")
            for last in (False, True):
                at.press("\r", "0 of 1")
                at.press("a", "Approve exactly this?")
                at.press("y", "until then u takes it back.", "Nothing waits any more." if last else "1 of 1")
                if last:
                    at.press("j\ra", "Open it first: Enter.", "Nothing waits any more.")
                at.press("u", "Why is it taken back")
                at.press("A slip.\r", "Taken back: it is cancelled, and nothing of it leaves.")
            at.until("0 decided; nothing waits any more.")
            assert at.ended() == 0

    await asyncio.to_thread(play)
    assert [await state(world, one) for one in both] == ["cancelled", "cancelled"]


async def test_what_is_taken_back_is_not_left_even_when_more_approvals_were_wanted(
    world: World, review: Callable[..., Terminal]
) -> None:
    first, second = await waiting(world, "high", "low")

    def play() -> None:
        with review() as at:
            at.until("1 of 2", name(first))
            at.press("\r", f"lead {name(first)}")
            time.sleep(1.1)
            at.press("a", f"Type {name(first)} to approve")
            at.press(f"{name(first)}\r", "It waits for more approvals.", "1 of 2")
            at.press("u", "Why is it taken back")
            queue = at.press("A slip.\r", "Taken back: it is cancelled", "1 of 1", name(second))
            assert name(first) not in queue
            at.press("q", "0 decided, 1 left.")

    await asyncio.to_thread(play)
    assert [await state(world, one) for one in (first, second)] == ["cancelled", "pending"]


def test_the_review_ends_with_the_undo_window(root: Root) -> None:
    approval = {
        "id": "a1", "subject": "writeback", "mission_id": "m1", "mission_type": "t", "state": "pending", "risk_level": "low",
        **UNASKED, "payload_sha256": "ab" * 32, "approvals": 0, "required": 1, "expires_at": "2040-01-01T00:00:00Z", "requested_by": "p1",
        "rule": {"id": "r1", "version": 1, "comment_required": False}, "may_decide": ["operator"],
        "payload": {"connector": "crm", "operation": "update", "target": {"kind": "lead", "id": "L-1"}, "changes": {"a": 1}},
    }  # fmt: skip
    over = {"state": "approved", "not_before": "2020-01-01T00:00:00+00:00", "open_questions": 0}
    root.answers["GET /v1/inbox"] = (200, {}, {"items": [approval], "next_cursor": None, "has_more": False})
    root.answers["GET /v1/approvals/a1"] = (200, {"ETag": '"v1"'}, approval)
    root.answers["POST /v1/approvals/a1/decisions"] = (201, {}, over)
    known = {"MISSION_ROOT_URL": root.url, "MISSION_ROOT_API_KEY": "mr_test"}
    with Terminal("approvals", "review", environment=known) as at:
        at.until("1 of 1")
        at.press("\r", "q end")
        at.press("a", "Approve exactly this?")
        at.press("y", "1 decided; nothing waits any more.")
        assert at.ended() == 0


async def test_the_requester_is_refused_in_place(world: World, review: Callable[..., Terminal]) -> None:
    await waiting(world, "low")

    def play() -> None:
        with review(who="submitter") as at:
            at.until("1 of 1")
            at.press("\r", "0 of 1")
            at.press("a", "Approve exactly this?")
            at.press("y", "mission-root approvals show")
            assert "own request" in at.screen or "may not" in at.screen or "not entitled" in at.screen.lower()
            at.press("\x03", "0 decided, 1 left.")

    await asyncio.to_thread(play)


async def test_without_a_terminal_it_is_the_queue_or_a_sentence(world: World, url: str) -> None:
    risks = ("low", "high", "medium")
    made = await waiting(world, *risks)

    async def run(*words: str) -> tuple[int, str, str]:
        import sys

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli.main", "approvals", "review", *words, "--url", url,
            "--api-key", world.people["operator"].key,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, out.decode(), err.decode()

    code, out, _ = await run("--json")
    assert code == 0
    assert [one["id"] for one in json.loads(out)["items"]] == [made[n]["id"] for n in (1, 2, 0)]
    code, out, err = await run()
    assert (code, out) == (2, "") and "needs a terminal" in err and "approvals list" in err
