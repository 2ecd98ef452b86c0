"""The console in a real browser."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Route

from bench.peers.base import Unavailable, npm_folder
from tests.approvals.test_interventions import pass_time
from tests.approvals.test_vouching import left_unknown
from tests.browser.chromium import Screen, chromium, screen
from tests.console.test_hostile import PAYLOADS
from tests.console.test_pages import EVERY
from tests.world import World
from tests.world.checks import hire, inspector, pending_change

AXE = "axe-core@4.14.1"
pytestmark = [pytest.mark.chromium, pytest.mark.xdist_group("chromium")]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the module: the browser is started once and lives in it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as made:
        yield made


@pytest.fixture
async def before(world: World, browser: Browser) -> AsyncIterator[Screen]:
    async with screen(world, browser) as made:
        yield made


async def state(world: World, change: dict[str, Any]) -> str:
    return str((await world.auditor.get(f"/v1/approvals/{change['id']}")).json()["state"])


async def test_what_nobody_can_settle_is_ended_by_mouse(before: Screen, world: World) -> None:
    writeback, mission = await left_unknown(world)
    [approval] = (await world.operator.get("/v1/approvals", params={"mission": mission})).json()["items"]
    page = await before.page(path=f"/approvals/{approval['id']}")
    word = page.get_by_role("button", name="End it by my word")
    await word.click()  # the browser itself wants to know what was found, and how
    await page.get_by_label("In sample_crm", exact=True).select_option(label="the change is not there")
    await word.click()
    await page.get_by_label("How you know").fill("Its last backup has the old value.")
    assert (await world.auditor.get(f"/v1/writebacks/{writeback}")).json()["state"] == "unknown"
    await word.click()
    await page.get_by_text("by the word of operator").wait_for()
    assert (await world.auditor.get(f"/v1/writebacks/{writeback}")).json()["state"] == "failed"
    assert before.complaints == []


async def test_decide_by_mouse_and_take_it_back(before: Screen, world: World) -> None:
    change = await pending_change(world, risk_level="medium")
    page = await before.page()
    await page.get_by_text("L-1001").first.click()
    heading = page.get_by_role("heading", level=1)
    assert "Update 1 lead L-1001 in sample_crm (local): priority" in (await heading.inner_text())
    # one screen, no scrolling: the decision is in sight with everything above it
    box = await page.get_by_role("button", name="Approve").bounding_box()
    assert box and box["y"] + box["height"] <= 800
    await page.get_by_role("button", name="Approve").click()
    await page.get_by_role(
        "button", name="Approve exactly this", exact=True
    ).click()  # it says the seconds left until then
    await page.get_by_text("operator approved").wait_for()
    assert await state(world, change) == "approved"
    await page.get_by_label("Take it back").fill("the customer called")
    await page.get_by_role("button", name="Take back").click()
    await page.get_by_text("Taken back: nothing leaves").wait_for()
    assert await state(world, change) == "cancelled"
    assert before.complaints == [] and before.elsewhere() == []


async def test_decide_with_three_keys_and_reject_with_three(before: Screen, world: World) -> None:
    first, second = await pending_change(world), await pending_change(world)
    page = await before.page()
    await page.keyboard.press("?")
    assert await page.get_by_role("dialog").is_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/approvals/*")
    opened = page.url.rpartition("/")[2]
    await page.keyboard.press("d")
    assert await page.locator("#raw pre").first.is_visible()
    await page.keyboard.press("e")
    await page.keyboard.press("a")
    await page.keyboard.press("Enter")
    await page.get_by_text("operator approved").wait_for()
    one, other = (first, second) if first["id"] == opened else (second, first)
    assert await state(world, one) == "approved"
    await page.keyboard.press("i")
    await page.wait_for_url("**/console")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/approvals/*")
    await page.keyboard.press("r")
    await page.keyboard.press("2")
    await page.keyboard.press("Enter")
    await page.get_by_text("Rejected: nothing leaves").wait_for()
    assert await state(world, other) == "rejected"
    assert before.complaints == []


async def test_decide_without_a_script(before: Screen, world: World) -> None:
    change = await pending_change(world)
    page = await before.page(java_script_enabled=False)
    await page.get_by_text("L-1001").first.click()
    await page.locator("#panel-approve summary").click()
    await page.locator("#panel-approve").get_by_role("button", name="Approve exactly this").click()
    await page.get_by_text("operator approved").wait_for()
    assert await state(world, change) == "approved"


async def test_high_risk_wants_the_name_typed(before: Screen, world: World) -> None:
    change = await pending_change(world, risk_level="high")
    page = await before.page(path=f"/approvals/{change['id']}")
    await page.keyboard.press("a")
    await page.keyboard.type("L-1002")
    await page.wait_for_timeout(1100)
    await page.keyboard.press("Enter")
    await page.get_by_text("Type the record's name exactly").wait_for()
    assert await page.locator("#name").input_value() == "L-1002"
    await page.locator("#name").fill("L-1001")
    await page.wait_for_timeout(1100)
    await page.keyboard.press("Enter")
    await page.get_by_text("1 of 2 approvals are in").wait_for()


async def test_two_people_race_and_a_page_hears_of_it(before: Screen, world: World) -> None:
    change = await pending_change(world)
    mine = await before.page(path=f"/approvals/{change['id']}")
    theirs = await before.page("second_operator", path=f"/approvals/{change['id']}")
    await mine.keyboard.press("a")
    await mine.locator("#why").fill("my careful words")
    await theirs.keyboard.press("r")
    await theirs.keyboard.press("1")
    await theirs.keyboard.press("Enter")
    await theirs.get_by_text("Rejected: nothing leaves").wait_for()
    await mine.get_by_text("look again").wait_for()  # heard live, and nothing that was typed is gone
    assert await mine.locator("#why").input_value() == "my careful words"
    await mine.locator("#why").press("Enter")
    await mine.get_by_text("second_operator was faster: rejected").wait_for()


async def test_a_page_whose_form_was_not_taken_still_finds_itself(before: Screen, world: World) -> None:
    """It stands at the form's address, which only takes forms: what it reloads and links is its own address."""
    change = await pending_change(world)
    mine = await before.page(path=f"/approvals/{change['id']}")
    await mine.keyboard.press("r")
    await mine.locator("#panel-reject [data-confirm]").click()
    await mine.wait_for_url("**/decision")
    await mine.locator("#panel-reject").wait_for()
    body = {"decision": "reject", "payload_sha256": change["payload_sha256"], "comment": "not this one"}
    done = await world.people["second_operator"].http.post(
        f"/v1/approvals/{change['id']}/decisions", json=body, headers={"If-Match": change["etag"]}
    )
    assert done.status_code == 201, done.text
    await mine.get_by_text("look again").click()
    await mine.get_by_text("Rejected: nothing leaves").wait_for()
    made = await world.create()
    page = await before.page(path=f"/missions/{made['id']}")
    await page.evaluate("document.querySelector('[name=etag]').value = '\"v99\"'")
    await page.locator("#reason").fill("typed")
    await page.get_by_role("button", name="Cancel it").click()
    await page.wait_for_url("**/end")
    await page.locator("h1").click()  # nothing is being typed: the live part may be fetched again
    await world.run_work("dispatch")
    await page.locator("#live").get_by_text("Handed to the colony").wait_for()
    assert [one for one in before.complaints if "409" not in one and "412" not in one and "422" not in one] == []


async def test_expired_while_open(before: Screen, world: World) -> None:
    change = await pending_change(world)
    page = await before.page(path=f"/approvals/{change['id']}")
    await page.keyboard.press("a")
    await pass_time(world, change, hours=80)
    if await page.locator("#panel-approve").is_visible():
        await page.locator("#panel-approve [data-confirm]").click()
    await page.get_by_text("expired").first.wait_for()
    assert await state(world, change) == "expired"


async def test_a_question_between_two_people_and_an_escalation_by_keys(before: Screen, world: World) -> None:
    change = await pending_change(world)
    path = f"/approvals/{change['id']}"
    mine, theirs = await before.page(path=path), await before.page("submitter", path=path)
    deciding = await before.page("second_operator", path=path)
    await deciding.keyboard.press("a")
    await deciding.locator("#why").fill("my careful words")
    await mine.keyboard.press("s")
    await mine.keyboard.type("Which call is it from?")
    await mine.keyboard.press("Tab")  # to whom: the requester comes first
    await mine.keyboard.press("Tab")
    await mine.keyboard.press("Enter")
    await mine.locator("#questions").get_by_text("Which call is it from?").wait_for()
    # the requester's page hears of it; whoever is deciding is told, and keeps what they typed
    await theirs.locator("#questions").get_by_text("Which call is it from?").wait_for()
    await deciding.locator("#said").get_by_text("Somebody asked about it").wait_for()
    assert await deciding.locator("#why").input_value() == "my careful words"
    await theirs.locator("#questions").get_by_role("button", name="Answer").click()
    await theirs.keyboard.type("From that of the 3rd.")
    await theirs.keyboard.press("Tab")
    await theirs.keyboard.press("Enter")
    await theirs.get_by_text("submitter answered").wait_for()
    await mine.get_by_text("From that of the 3rd.").wait_for()

    await mine.keyboard.press("x")
    await mine.keyboard.type("It is theirs to say.")
    await mine.keyboard.press("Enter")
    await mine.get_by_text("asked too").wait_for()
    await mine.keyboard.press("x")  # the rule names nobody else, and that is said
    await mine.locator("#said").get_by_text("names no further role").wait_for()
    admin = await before.page("admin", path=path)
    await admin.get_by_role("button", name="Approve").wait_for()
    # neither has made the form stale that was open all the while
    await deciding.locator("#why").press("Enter")
    await deciding.get_by_text("second_operator approved").wait_for()
    assert await state(world, change) == "approved" and before.complaints == []


async def test_asking_answering_and_escalating_without_a_script(before: Screen, world: World) -> None:
    change = await pending_change(world)
    path = f"/approvals/{change['id']}"
    mine = await before.page(path=path, java_script_enabled=False)
    await mine.locator("#panel-ask summary").click()
    await mine.locator("#question").fill("Which call is it from?")
    await mine.get_by_role("button", name="Ask", exact=True).click()
    await mine.locator("#questions").get_by_text("Which call is it from?").wait_for()
    theirs = await before.page("submitter", path=path, java_script_enabled=False)
    await theirs.locator("#questions summary").click()
    await theirs.locator("#answer-1").fill("From that of the 3rd.")
    await theirs.get_by_role("button", name="Answer", exact=True).click()
    await theirs.get_by_text("submitter answered").wait_for()
    await mine.locator("#panel-escalate summary").click()
    await mine.locator("#escalate-why").fill("It is theirs to say.")
    await mine.get_by_role("button", name="Ask this role too").click()
    await mine.get_by_text("It is theirs to say.").wait_for()
    assert (await world.operator.get(f"/v1/approvals/{change['id']}")).json()["may_decide"] == ["operator", "admin"]


async def test_the_requester_sees_why(before: Screen, world: World) -> None:
    change = await pending_change(world)
    await hire(world, "owner", "operator")
    connection = await inspector(world)
    await connection.execute("ALTER TABLE principal DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE principal SET owner = (SELECT id FROM principal WHERE name = 'owner') WHERE name = 'submitter'"
    )
    await connection.execute("ALTER TABLE principal ENABLE TRIGGER ALL")
    page = await before.page("owner", path=f"/approvals/{change['id']}")
    button = page.get_by_role("button", name="Approve")
    assert await button.is_disabled()
    assert "Nobody approves their own request" in await page.locator("#why-approve").inner_text()
    await page.keyboard.press("a")
    await page.locator("#said").get_by_text("Nobody approves").wait_for()


async def test_lists_move_by_themselves(before: Screen, world: World) -> None:
    page = await before.page()
    await page.get_by_text("Nothing waits for a decision").wait_for()
    await page.wait_for_timeout(200)
    await pending_change(world)
    await page.get_by_text("L-1001").first.wait_for()


async def test_a_busy_moment_leaves_no_page_behind(before: Screen, world: World) -> None:
    """A browser gives up a stream that was refused, and a list whose answer failed: the page asks for both again."""
    refused: list[str] = []
    page = await before.page("operator", path="/missions")
    await page.context.route("**/console/stream?**", lambda route: busy(route, refused))
    for known in (True, False):  # with where the record ended when the page was made, and without
        refused.clear()
        await page.reload()
        if not known:
            await page.evaluate("document.querySelector('#main').dataset.after = ''; source.close(); listen('', 2000)")
        await page.wait_for_timeout(500)
        assert refused
        mission = await world.create()  # while nobody listens
        await page.context.unroute("**/console/stream?**")
        await page.context.route("**/console/missions", lambda route: busy(route, refused))
        await page.wait_for_event("response", lambda answer: answer.url.endswith("/missions") and answer.status == 503)
        await page.context.unroute("**/console/missions")
        await page.locator(f"#live a[href*='{mission['id']}']").first.wait_for()
        await page.context.route("**/console/stream?**", lambda route: busy(route, refused))


async def busy(route: Route, refused: list[str]) -> None:
    refused.append(route.request.url)
    await route.fulfill(status=503, headers={"Retry-After": "1"}, body="busy")


async def test_from_an_id_to_the_proof_in_three_clicks(before: Screen, world: World) -> None:
    change = await pending_change(world)
    page = await before.page("auditor")
    began = asyncio.get_running_loop().time()
    await page.keyboard.press("/")
    await page.keyboard.type(change["writeback_id"])
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Prove it").click()
    await page.get_by_text("Nobody edited the record.").wait_for()
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Export zip").click()
    assert (await download.value).suggested_filename.endswith(".zip")
    assert asyncio.get_running_loop().time() - began < 20


async def test_every_page_fits_a_phone_and_a_desk_and_is_accessible(before: Screen, world: World) -> None:
    try:
        axe = (npm_folder("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    except Unavailable as lacking:
        pytest.skip(f"needs node: {lacking}")
    change = await pending_change(world)
    done = await pending_change(world)
    body = {"decision": "reject", "payload_sha256": done["payload_sha256"], "comment": "no"}
    await world.operator.post(f"/v1/approvals/{done['id']}/decisions", json=body, headers={"If-Match": done["etag"]})
    paths = [
        *EVERY, f"/approvals/{change['id']}", f"/approvals/{done['id']}", f"/missions/{change['mission_id']}",
        f"/audit/{change['mission_id']}", f"/batch?like={change['id']}", "/nothing",
    ]  # fmt: skip
    wrong = []
    looks = [
        ({"width": 360, "height": 740}, "light", [*paths, "LOGIN"], "{resultTypes: ['violations']}"),
        (
            {"width": 1280, "height": 800},
            "dark",
            ["", paths[8], paths[9], paths[11], "/health"],
            "{runOnly: ['color-contrast']}",
        ),
    ]
    for viewport, scheme, shown, rules in looks:
        context = await before.context(viewport=viewport, color_scheme=scheme)
        page = await context.new_page()
        before.watch(page)
        for path in shown:
            if path == "LOGIN":
                await context.clear_cookies()
            await page.goto(f"{before.url}/console{'' if path == 'LOGIN' else path}")
            wide = await page.evaluate("document.documentElement.scrollWidth")
            if wide > viewport["width"]:
                wrong.append(f"{path} is {wide} px wide at {viewport['width']}")
            await page.evaluate(axe)
            found = await page.evaluate(
                f"axe.run(document, {rules}).then(r => r.violations.map(v => "
                "[v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))]))"
            )
            wrong += [f"{path} {scheme}: {one}" for one in found if one[0] in ("serious", "critical")]
    assert not wrong, "\n".join(wrong)
    assert [one for one in before.complaints if "404" not in one] == []


async def test_hostile_words_run_nothing_and_ask_for_nothing(before: Screen, world: World) -> None:
    marks = " ".join(PAYLOADS[:19])
    change = await pending_change(
        world,
        summary=marks[:400],
        rationale=marks[:1900],
        changes={"priority": marks[:1900], "next_action": PAYLOADS[24]},
    )
    made = await world.create(user_goal=marks[:1900], labels={"x": PAYLOADS[0]})
    page = await before.page()
    paths = [
        "", f"/approvals/{change['id']}", f"/missions/{change['mission_id']}", f"/missions/{made['id']}", "/missions",
        f"/batch?like={change['id']}", f"/audit/{made['id']}", f"/missions/{made['id']}/packet", "/audit?q=%3Cscript%3Ealert(1)",
    ]  # fmt: skip
    theirs = "img[src=x], iframe, object, embed, base, form[action^='https'], h1:text-is('Fake banner')"
    for path in paths:
        await page.goto(f"{before.url}/console{path}")
        assert await page.locator(theirs).count() == 0
    assert before.elsewhere() == []
    assert [one for one in before.complaints if "404" not in one] == []
