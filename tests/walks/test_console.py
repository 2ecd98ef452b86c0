"""The console of a whole instance in a real browser: decided by mouse, by keys alone and without a script, and what happened then."""

import json
import subprocess
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.browser.chromium import chromium
from tests.walks.conftest import COMMAND, Instance, until
from tests.walks.test_kills import create, restore_crm, state

pytestmark = [pytest.mark.chromium, pytest.mark.long, pytest.mark.xdist_group("instance")]


async def signed_in(browser: Browser, instance: Instance, who: str, **options: Any) -> Page:
    """A person's page behind the one-time link that the command prints."""
    said = subprocess.run(
        [COMMAND, "console-link", "--as", who, "--json", "--data-dir", str(instance.data_dir)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    page = await (await browser.new_context(viewport={"width": 1280, "height": 800}, **options)).new_page()
    await page.goto(json.loads(said.stdout)["link"])
    return page


def became(client: httpx.Client, approval: dict[str, Any]) -> str:
    return str(client.get(f"/v1/writebacks/{approval['writeback_id']}").raise_for_status().json()["state"])


async def test_three_ways_to_decide(instance: Instance) -> None:
    with instance.client("submitter") as client:
        mission = create(client, "crm_lead_intelligence", "Which leads deserve a call, and why?")
        until(lambda: state(client, mission) == "awaiting_approval", "it waits for a human")
        found = client.get("/v1/approvals", params={"mission": mission}).json()["items"]
    low = [one for one in found if one["risk_level"] == "low"][:3]
    by_mouse, by_keys, plain = ((one, f"{instance.said['base_url']}/console/approvals/{one['id']}") for one in low)
    try:
        async with chromium() as browser:
            page = await signed_in(browser, instance, "submitter")
            await page.goto(by_mouse[1])
            assert await page.get_by_role("button", name="Approve").is_disabled()
            assert "operator" in await page.locator("#why-approve").inner_text(), "and that is said"

            page = await signed_in(browser, instance, "operator")
            await page.goto(by_mouse[1])
            await page.get_by_role("button", name="Approve").click()
            await page.get_by_role("button", name="Approve exactly this", exact=True).click()
            await page.get_by_text("operator approved").wait_for()
            with instance.client("operator") as client:
                until(lambda: became(client, by_mouse[0]) not in ("approved", "executing"), "the call has been made")
                assert became(client, by_mouse[0]) == "succeeded"
            await page.get_by_text("Written and read back").wait_for()  # it hears of it, and asks for itself again

            page = await page.context.new_page()  # the other one may be asking for itself at any moment
            await page.goto(by_keys[1])
            for key in ("r", "2", "Enter"):
                await page.keyboard.press(key)
            await page.get_by_text("Rejected: nothing leaves").wait_for()

            page = await signed_in(browser, instance, "operator", java_script_enabled=False)
            await page.goto(plain[1])
            await page.locator("#panel-approve summary").click()
            await page.locator("#panel-approve").get_by_role("button", name="Approve exactly this").click()
            await page.get_by_text("operator approved").wait_for()
        with instance.client("operator") as client:
            until(lambda: became(client, plain[0]) == "succeeded", "it is written and read back")
            assert [became(client, one) for one in low] == ["succeeded", "rejected", "succeeded"]
            version = client.get(f"/v1/missions/{mission}").headers["ETag"]
            over = {"reason": "The walk is over."}
            client.post(f"/v1/missions/{mission}/cancel", json=over, headers={"If-Match": version}).raise_for_status()
    finally:
        restore_crm(instance)
