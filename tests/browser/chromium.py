"""Debian's Chromium before a served root: pages as people get them, by mouse, by keys, and without a script."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.console.desk import link_for
from tests.world import World


@dataclass
class Screen:
    """A browser, where the console is for it, and everything that its pages complained of or asked for elsewhere."""

    world: World
    browser: Browser
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    async def context(self, name: str | None = "operator", **options: Any) -> BrowserContext:
        """A person signed in by a one-time link."""
        made = await self.browser.new_context(
            viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options
        )
        made.set_default_timeout(8000)
        if name is not None:
            page = await made.new_page()
            await page.goto(f"{self.url}/console/login?link={await link_for(self.world, name)}")
            assert page.url == f"{self.url}/console", page.url
            await page.close()
        return made

    async def page(self, name: str | None = "operator", path: str = "", **options: Any) -> Page:
        """One page of a person; what it complains of is noted."""
        page = await (await self.context(name, **options)).new_page()
        self.watch(page)
        await page.goto(f"{self.url}/console{path}")
        return page

    def watch(self, page: Page) -> None:
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: self.asked.add(request.url))

    def elsewhere(self) -> list[str]:
        """What pages asked for that is not the root's own."""
        return [url for url in self.asked if not url.startswith((self.url, "data:,"))]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def screen(world: World, browser: Browser) -> AsyncIterator[Screen]:
    """The world's root on a port of its own, and a browser before it."""
    config = uvicorn.Config(world.public, host="127.0.0.1", port=0, log_level="error", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        made = Screen(world, browser, url)
        yield made
        for context in browser.contexts:
            await context.close()
    finally:
        await world.root.tail.stop()  # streams end, so that their connections can close
        server.should_exit = True
        await serving
