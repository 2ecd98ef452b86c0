"""The approval screen: its nine parts in order, deciding without a script, and what happens when it cannot be."""

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.console import render
from app.console.pages import approval as screen
from app.console.pages import base, edits
from tests.approvals.test_interventions import pass_time
from tests.approvals.test_vouching import left_unknown
from tests.console.desk import Desk, Page, path_of, seat
from tests.world import World
from tests.world.checks import fact_types, hire, inspector, pending_change
from tests.world.life import Life
from tests.world.world import WRITE_TOKEN

NINE = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to look for a second in a test that is about something else."""
    monkeypatch.setattr(screen, "DWELL_S", {"low": 0.0, "medium": 0.0, "high": 0.0})


async def opened(desk: Desk, change: dict[str, Any]) -> Page:
    page = await desk.get(f"/console/approvals/{change['id']}")
    assert page.status == 200, page.text
    return page


async def state(world: World, change: dict[str, Any]) -> str:
    return str((await world.auditor.get(f"/v1/approvals/{change['id']}")).json()["state"])


async def test_nine_parts_in_order_with_the_value_of_now(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    page = await opened(desk, change)
    assert re.findall(r'aria-labelledby="(p\d)"', page.source) == NINE
    words = page.text
    assert "Update 1 lead L-1001 in sample_crm (local): priority" in words
    for said in (
        "Read now at version", "Unchanged since it was proposed", "writebacks.may_be_proposed", "waits for a human in every mode",
        "✓ checked", "asked by", "submitter", "0 of 1", "operator, second_operator",
        "None of this kind was decided before", "Written by the agent, not verified",
    ):  # fmt: skip
        assert said in words, said
    assert change["payload_sha256"] in page.source
    # the value is read anew each time, and that it moved since the proposal is said
    async with httpx.AsyncClient(base_url=str(world.crm_base_url)) as crm:
        headers = {"Authorization": f"Bearer {WRITE_TOKEN}", "Idempotency-Key": "elsewhere", "If-Match": '"v1"'}
        moved = await crm.patch("/records/lead/L-1001", json={"changes": {"priority": "low"}}, headers=headers)
        assert moved.status_code == 200, moved.text
    again = (await opened(desk, change)).text
    assert "The record has changed since this was proposed" in again and "priority low →" in again


async def test_approve_receipt_undo_and_the_whole_story(world: World, quick: None) -> None:
    desk, change = await seat(world), await pending_change(world)
    page = await opened(desk, change)
    assert "approval.seen" in await fact_types(world, change["mission_id"])
    form = page.form_to("/decision", decision="approve")
    done = await desk.send(form, comment="as the evidence says")
    assert done.status == 200 and path_of(done).endswith(change["id"])
    assert "operator approved" in done.text and "as the evidence says" in done.text
    assert "Next: the executor calls sample_crm once" in done.text
    facts = (await world.auditor.get(f"/v1/missions/{change['mission_id']}/events", params={"limit": 200})).json()
    [row] = [one for one in facts["items"] if one["type"] == "approval.decided"]
    assert f'data-copy="{row["id"]}"' in done.source and "ledger row" in done.text
    [whole] = [link for link in done.links if "/console/audit?" in link]
    story = await desk.get(whole)
    assert story.status == 200 and "The story of this approval" in story.text and "sought" in story.source
    assert await state(world, change) == "approved"
    # the same form again is the same decision, not another
    again = await desk.send(form, comment="as the evidence says")
    assert "operator approved" in again.text
    back = await desk.send(done.form_to("/take-back"), reason="the customer called")
    assert (
        "Taken back: nothing leaves" in back.text
        and "operator: “the customer called”" in back.text
        and await state(world, change) == "cancelled"
    )
    # what will not be called any more is neither unchanged nor stale
    assert "Read now at version" in back.text and "since it was proposed" not in back.text


async def test_a_rejection_needs_a_reason_and_takes_a_preset(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    form = (await opened(desk, change)).form_to("/decision", decision="reject")
    bare = await desk.send(form)
    assert bare.status == 422 and "reason" in bare.text and await state(world, change) == "pending"
    done = await desk.send(form, preset=screen.PRESETS[1], once="another")
    assert "Rejected: nothing leaves" in done.text and screen.PRESETS[1] in done.text


async def test_somebody_was_faster_is_said_in_place_and_what_was_typed_is_kept(world: World, quick: None) -> None:
    change = await pending_change(world)
    first, second = await seat(world), await seat(world, "second_operator")
    ours, theirs = await opened(first, change), await opened(second, change)
    await second.send(theirs.form_to("/decision", decision="reject"), comment="not this one")
    lost = await first.send(ours.form_to("/decision", decision="approve"), comment="my careful words")
    assert lost.status == 409
    assert "second_operator was faster: rejected" in lost.text and "not this one" in lost.text
    # and a form that is not taken keeps what was typed: here the version has moved on below quorum
    change = await pending_change(world)
    connection = await inspector(world)
    await connection.execute("ALTER TABLE approval DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE approval SET required = 2, rule_required = 2 WHERE id = $1::text::uuid", change["id"]
    )
    await connection.execute("ALTER TABLE approval ENABLE TRIGGER ALL")
    ours, theirs = await opened(first, change), await opened(second, change)
    await second.send(theirs.form_to("/decision", decision="approve"))
    stale = await first.send(ours.form_to("/decision", decision="reject"), comment="my careful words")
    assert stale.status == 412 and "my careful words" in stale.source
    assert dict(stale.form_to("/decision", decision="reject")["fields"])["comment"] == "my careful words"


async def test_the_requester_and_passers_by_are_told_why(world: World) -> None:
    change = await pending_change(world)
    await hire(world, "owner", "operator")
    connection = await inspector(world)
    await connection.execute("ALTER TABLE principal DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE principal SET owner = (SELECT id FROM principal WHERE name = 'owner') WHERE name = 'submitter'"
    )
    await connection.execute("ALTER TABLE principal ENABLE TRIGGER ALL")
    for name, why in {
        "owner": "Nobody approves their own request",
        "auditor": "It takes operator",
    }.items():
        page = await opened(await seat(world, name), change)
        assert why in page.text, page.text
        off = [said for tag, said in page.tags if tag == "button" and "disabled" in said]
        assert {"why-approve", "why-reject", "why-edit"} <= {said.get("aria-describedby") for said in off}
        assert not [form for form in page.forms if str(form["action"]).endswith(("/decision", "/revision"))]
        you = (await world.people[name].http.get(f"/v1/approvals/{change['id']}/briefing")).json()["you"]
        assert not you["may_decide"] and why in you["why_not"] and why in you["why_not_edit"]


async def test_medium_risk_wants_a_second_and_high_risk_the_name(world: World) -> None:
    desk = await seat(world)
    medium = await pending_change(world, risk_level="medium")
    form = (await opened(desk, medium)).form_to("/decision", decision="approve")
    hasty = await desk.send(form, comment="words")
    assert (
        hasty.status == 422
        and "Look at it for a second first" in hasty.text
        and await state(world, medium) == "pending"
    )
    assert 'value="words"' in hasty.source
    forged = await desk.send(form, opened="x", once="b")
    assert forged.status == 422 and await state(world, medium) == "pending"
    high = await pending_change(world, risk_level="high")
    other = dict((await opened(desk, high)).form_to("/decision", decision="approve")["fields"])
    assert (
        await desk.send(form, opened=other["opened"], once="c")
    ).status == 422  # a look at another one is none at this
    monkey = pytest.MonkeyPatch()
    monkey.setattr(screen, "DWELL_S", {"low": 0.0, "medium": 0.0, "high": 0.0})
    try:
        form = (await opened(desk, high)).form_to("/decision", decision="approve", record="L-1001")
        wrong = await desk.send(form, name="L-1002")
        assert wrong.status == 422 and 'value="L-1002"' in wrong.source and await state(world, high) == "pending"
        counted = await desk.send(form, name="L-1001", once="d")
        assert "1 of 2 approvals are in" in counted.text
    finally:
        monkey.undo()


async def test_expired_while_open(world: World, quick: None) -> None:
    desk, change = await seat(world), await pending_change(world)
    form = (await opened(desk, change)).form_to("/decision", decision="approve")
    await pass_time(world, change, hours=80)
    late = await desk.send(form, comment="still here")
    assert late.status == 409 and await state(world, change) in ("pending", "expired")
    assert "over" in late.text.lower() or "expired" in late.text


async def test_above_the_line_the_form_names_the_command(world: World) -> None:
    change = await pending_change(world)
    connection = await inspector(world)
    await connection.execute("ALTER TABLE approval DISABLE TRIGGER ALL")
    await connection.execute("UPDATE approval SET signature_required = true WHERE id = $1::text::uuid", change["id"])
    await connection.execute("ALTER TABLE approval ENABLE TRIGGER ALL")
    page = await opened(await seat(world), change)
    assert (
        f"mission-root approvals decide {change['id']} approve --payload-sha256 {change['payload_sha256']}" in page.text
    )
    assert page.form_to("/decision", decision="reject")
    assert re.findall(r'aria-labelledby="(p\d)"', page.source) == NINE
    with pytest.raises(AssertionError):
        page.form_to("/decision", decision="approve")


async def test_what_no_person_ended_says_why_in_the_roots_words(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    body = {"decision": "approve", "payload_sha256": change["payload_sha256"]}
    path = f"/v1/approvals/{change['id']}"
    await world.operator.post(f"{path}/decisions", json=body, headers={"If-Match": change["etag"]})
    connector = await world.admin.get("/v1/connectors/sample_crm")
    match = {"If-Match": connector.headers["etag"]}
    retired = await world.admin.delete("/v1/connectors/sample_crm", headers=match)
    assert retired.status_code == 200, retired.text
    assert (await Life(world, UUID(change["mission_id"])).claim(change["writeback_id"]))["outcome"] == "refused"
    ended = (await world.operator.get(path)).json()
    assert (ended["state"], ended["note"], ended["stopped"]) == ("cancelled", None, "connector_retired")
    page = await opened(desk, change)
    assert "Its connector was retired after it was approved." in page.text and "connector_retired" not in page.text


async def test_edit_asks_anew_and_says_what_it_follows(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    page = await opened(desk, change)
    form, priority = page.form_to("/revision"), page.field("priority")
    bare = await desk.send(form, **{priority: "low"})
    assert bare.status == 422 and 'value="low"' in bare.source
    edited = await desk.send(form, reason="high was a slip", once="b", **{priority: "low"})
    assert edited.status == 200 and not path_of(edited).endswith(change["id"])
    assert "This follows one that is" in edited.text and "changed by operator" in edited.text
    assert "Nobody approves their own request" in edited.text
    assert "the next revision" in (await opened(desk, change)).text


async def test_what_the_executor_has_claimed_is_not_edited_and_the_api_says_so(world: World, quick: None) -> None:
    await world.no_undo_window()
    desk, change = await seat(world), await pending_change(world)
    await desk.send((await opened(desk, change)).form_to("/decision", decision="approve"))

    async def why_not() -> str | None:
        said: str | None = (await world.operator.get(f"/v1/approvals/{change['id']}/briefing")).json()["you"][
            "why_not_edit"
        ]
        return said

    assert await why_not() is None and (await opened(desk, change)).form_to("/revision"), (
        "approved, and not claimed yet"
    )
    await world.run_executor()
    assert "claimed it" in str(await why_not())
    page = await opened(desk, change)
    assert not [form for form in page.forms if str(form["action"]).endswith("/revision")]


async def test_what_was_not_touched_stays_as_it_is(world: World) -> None:
    """Fields come back as they are printed, and mean what they were."""
    was: dict[str, Any] = {
        "priority": "42", "seen": "heart \u2764\ufe0f,\u00a0here", "next_action": "\nfirst line\n\nlast line\t\r\n ", "score": 42,
        "open": True, "owner": None, "tags": ["a", "\u200b"], "story": "x" * 2500, "named": "he wrote ⟨U+200B⟩",
        "blank": "\u200b" * 300, "hid\u200bden": "low",
    }  # fmt: skip
    desk, change = await seat(world), await pending_change(world, changes=was)
    page = await opened(desk, change)
    form = page.form_to("/revision")
    kept = ("story", "named", "blank")
    names = {name: page.field(name.replace("\u200b", "⟨U+200B⟩")) for name in was if name not in kept}
    assert {name for name, _ in form["fields"] if name.startswith("field:")} == set(names.values())
    for why in (
        "in 2,500 characters, more than a form shows",
        "in 2,400 characters",
        "for characters that cannot be seen",
    ):
        assert why in page.text, why

    async def asked(edited: Page) -> dict[str, Any]:
        assert edited.status == 200, edited.text
        made = (await world.auditor.get(path_of(edited).replace("/console", "/v1"))).json()
        changes: dict[str, Any] = made["payload"]["changes"]
        return changes

    lines = "one line\n" * 230
    typed = {names["score"]: "many", names["seen"]: "y" * 2001, names["next_action"]: lines}
    wrong = await desk.send(form, reason="why", once="a", **typed)
    assert wrong.status == 422 and "was 42: write JSON" in wrong.text and "takes at most 2,000 characters" in wrong.text
    assert typed.items() <= dict(wrong.form_to("/revision")["fields"]).items(), "what was typed is there to go on with"
    assert await state(world, change) == "pending"
    same = await desk.send(form, reason="why", once="b")
    assert same.status == 422 and "asked about already" in same.text and await state(world, change) == "pending"
    typed = {
        names["priority"]: "43",
        names["open"]: "false",
        names["seen"]: "heart ❤⟨U+FE0F⟩, there",
        names["hid\u200bden"]: "high",
    }
    told = await asked(await desk.send(form, reason="a slip", once="c", **typed))
    assert told == was | {"priority": "43", "open": False, "seen": "heart \u2764\ufe0f, there", "hid\u200bden": "high"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
# about as long as a form shows: as it is, or as it is printed
LONG = st.builds(lambda text, n: text * n, st.text("aé\u200b\n", min_size=1, max_size=4), st.integers(100, 1200))


async def test_values_come_back_from_the_form_of_the_page_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a change sets, and whatever its fields are called: a form that nobody wrote in changes nothing, and one field
    that somebody wrote in changes that one."""
    desk, change, said = await seat(world), await pending_change(world), dict[str, Any]()

    def kept(name: str, **values: Any) -> str:
        said.update(values)
        return render.page(name, **values)

    monkeypatch.setattr(base, "page", kept)
    await opened(desk, change)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.dictionaries(st.text(min_size=1), JSON | LONG, min_size=1, max_size=4), st.data())
    def comes_back(changes: dict[str, Any], data: st.DataObject) -> None:
        source = render.page("approval.html", **said | {"editable": edits.fields(changes)})
        form = Page(httpx.Response(200, text=source)).form_to("/revision")
        sent = {name.removeprefix("field:"): one for name, one in form["fields"] if name.startswith("field:")}
        assert edits.merged(changes, sent) == (changes, [])
        if texts := [place for place in sent if edits.fields(changes)[int(place)].text]:
            place = data.draw(st.sampled_from(texts))
            name = edits.fields(changes)[int(place)].name
            assert edits.merged(changes, sent | {place: "written"}) == (changes | {name: "written"}, [])

    comes_back()


async def test_one_of_many_approvers_is_one(world: World) -> None:
    """More may decide than a page names; whoever is not among the named ones may all the same."""
    change = await pending_change(world)
    connection = await inspector(world)
    for table in ("principal", "role_grant"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await connection.execute("""
        WITH made AS (INSERT INTO principal (tenant, id, name, kind)
          SELECT id, gen_random_uuid(), 'a colleague ' || n, 'human' FROM tenant, generate_series(1, 210) n WHERE name = 'demo'
          RETURNING tenant, id)
        INSERT INTO role_grant (tenant, id, principal, role) SELECT tenant, gen_random_uuid(), id, 'operator' FROM made""")
    for table in ("principal", "role_grant"):
        await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
    page = await opened(await seat(world), change)
    assert page.form_to("/decision", decision="approve") and "and 194 more" in page.text


async def test_the_glass_is_broken_by_who_may(world: World) -> None:
    change = await pending_change(world)
    assert "Only a holder of break_glass can break the glass" in (await opened(await seat(world), change)).text
    await hire(world, "fireman", "break_glass", "operator")
    desk = await seat(world, "fireman")
    done = await desk.send((await opened(desk, change)).form_to("/break-glass"), reason="the shop is open")
    assert "fireman broke the glass" in done.text


async def test_alike_ones_together_each_by_itself(world: World, quick: None) -> None:
    changes = [await pending_change(world) for _ in range(2)]
    desk = await seat(world)
    inbox = await desk.get("/console")
    assert "2 alike: decide together" in inbox.text
    page = await desk.get(f"/console/batch?like={changes[0]['id']}")
    assert page.source.count('<table class="diff">') == 2
    form = page.form_to("/batch")
    chosen = [value for name, value in form["fields"] if name == "approval"]
    assert len(chosen) == 2
    hasty = await desk.http.post(
        form["action"],
        data={
            "token": dict(form["fields"])["token"],
            "opened": dict(form["fields"])["opened"],
            "approval": chosen,
            "decision": "approve",
        },
        headers={"Origin": "http://127.0.0.1"},
    )
    assert hasty.status_code == 422 and "take 2 seconds" in hasty.text
    rejected = await desk.http.post(
        form["action"],
        data={
            "token": dict(form["fields"])["token"],
            "approval": chosen,
            "decision": "reject",
            "comment": "no",
            "once": "o",
        },
        headers={"Origin": "http://127.0.0.1"},
    )
    assert rejected.status_code == 200, rejected.text
    assert {await state(world, one) for one in changes} == {"rejected"}
    high = await pending_change(world, risk_level="high")
    assert "each change is decided by itself" in (await desk.get(f"/console/batch?like={high['id']}")).text
    assert (await desk.get("/console/batch?like=x")).status == 404


async def test_halted_and_ended_are_said_before_the_press(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    await world.operator.post("/v1/connectors/sample_crm/halt", json={"reason": "looking"})
    assert "Changes to this system are halted" in (await opened(desk, change)).text


def test_looking_is_measured_in_seconds() -> None:
    assert timedelta(seconds=max(screen.DWELL_S.values())) == timedelta(seconds=1)


async def test_what_nobody_can_settle_is_ended_from_the_page(world: World) -> None:
    writeback, mission = await left_unknown(world)
    [approval] = (await world.operator.get("/v1/approvals", params={"mission": mission})).json()["items"]
    desk = await seat(world)
    page = await opened(desk, approval)
    assert "does not say what became of it" in page.text
    form = page.form_to("/vouch")
    bare = await desk.send(form, found="not_applied", comment=" ", once="bare")
    assert bare.status == 422 and "say" in bare.text
    assert 'value="not_applied" selected' in bare.source, "what was chosen is still chosen"
    done = await desk.send(form, found="not_applied", comment="The CRM <b>is</b> gone.")
    assert done.status == 200 and path_of(done).endswith(approval["id"])
    assert "by the word of operator, who found that the change is not there" in done.text
    assert "The CRM <b>is</b> gone." in done.text and "&lt;b&gt;" in done.source
    assert (await world.auditor.get(f"/v1/writebacks/{writeback}")).json()["state"] == "failed"
    with pytest.raises(AssertionError, match="no form to /vouch"):
        done.form_to("/vouch")
    # the form of a tab that stayed open
    late = await desk.send(form, found="applied", comment="It is there.", once="late")
    assert late.status == 409 and "Its outcome is known" in late.text


async def test_only_who_may_say_so_is_asked(world: World) -> None:
    _, mission = await left_unknown(world)
    [approval] = (await world.operator.get("/v1/approvals", params={"mission": mission})).json()["items"]
    page = await opened(await seat(world, "auditor"), approval)
    assert "does not say what became of it" in page.text
    for ending in ("/vouch", "/renewal"):
        with pytest.raises(AssertionError, match="no form to"):
            page.form_to(ending)
    # nor an operator who asked for it
    requester = (await world.submitter.get("/v1/whoami")).json()["principal_id"]
    granted = await world.admin.post(f"/v1/principals/{requester}/grants", json={"role": "operator"})
    assert granted.status_code == 201, granted.text
    page = await opened(await seat(world, "submitter"), approval)
    with pytest.raises(AssertionError, match="no form to"):
        page.form_to("/vouch")


async def test_the_next_of_its_kind_shows_by_whose_word_the_one_before_ended(world: World) -> None:
    writeback, mission = await left_unknown(world)
    word = {"found": "applied", "comment": "The <i>value</i> is there."}
    assert (await world.operator.post(f"/v1/writebacks/{writeback}/vouch", json=word)).status_code == 200
    await Life(world, UUID(mission)).end("cancel")
    again = await pending_change(world)
    assert again["predecessor"] == writeback
    page = await opened(await seat(world, "second_operator"), again)
    assert "This follows one that is" in page.text
    assert "operator found that the change is there: “The <i>value</i> is there.”" in page.text


async def test_what_is_stale_is_asked_again_from_the_page(world: World) -> None:
    change = await pending_change(world)
    life, writeback = Life(world, UUID(change["mission_id"])), change["writeback_id"]
    await life.decide("approve", change)
    await life.settle(await life.claim(writeback), writeback, "stale")
    await world.run_work("progress")
    desk = await seat(world)
    page = await opened(desk, change)
    assert "the record had changed, so nothing was written" in page.text
    form = page.form_to("/renewal")
    asked = await desk.send(form)
    assert asked.status == 200 and not path_of(asked).endswith(change["id"])
    assert "This follows one that is" in asked.text
    again = await desk.send(form)  # the second click
    assert path_of(again) == path_of(asked)
    gone = await desk.send(form, once="another")
    assert gone.status == 409 and "It was renewed already" in gone.text
    before = await opened(desk, change)
    assert path_of(asked) in before.links and "/renewal" not in before.source
