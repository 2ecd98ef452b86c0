"""Somebody at the console: a cookie, pages, and the forms on them, sent as a browser would send them."""

import html
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from app import identity
from app.db import Database
from tests.world import World

HERE = "http://127.0.0.1"


class Page(HTMLParser):
    """A page as it was answered: its forms, its links, its words."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer, self.status, self.source = answer, answer.status_code, answer.text
        self.forms: list[dict[str, Any]] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.form: dict[str, Any] | None = None
        self.area: str | None = None
        self.written = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.tags.append((tag, said))
        if tag == "form":
            self.form = {"action": said.get("action"), "method": said.get("method", "get"), "fields": []}
            self.forms.append(self.form)
        elif tag == "a" and said.get("href"):
            self.links.append(str(said["href"]))
        elif tag == "input" and self.form is not None and said.get("name"):
            if said.get("type") in ("radio", "checkbox") and "checked" not in said:
                return
            self.form["fields"].append((said["name"], said.get("value") or ""))
        elif tag == "textarea" and said.get("name"):
            self.area, self.written = said["name"], ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.form = None
        elif tag == "textarea":
            if self.area is not None and self.form is not None:
                self.form["fields"].append((self.area, self.written.removeprefix("\n")))
            self.area = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        self.written += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def field(self, label: str) -> str:
        """What the field with this label is sent as."""
        [place] = re.findall(rf'<label for="([^"]+)">{re.escape(html.escape(label, quote=False))}[ <]', self.source)
        [name] = [said["name"] for _, said in self.tags if said.get("id") == place]
        return str(name)

    def form_to(self, ending: str, **having: str) -> dict[str, Any]:
        """The form whose action ends so, and that has these fields as they are."""
        for form in self.forms:
            fields = dict(form["fields"])
            if str(form["action"]).partition("?")[0].endswith(ending) and having.items() <= fields.items():
                return form
        raise AssertionError(f"no form to {ending} with {having}: {[one['action'] for one in self.forms]}")


class Desk:
    """One browser of one person."""

    def __init__(self, world: World) -> None:
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(world.public, raise_app_exceptions=False), base_url=HERE
        )

    async def get(self, path: str, **more: Any) -> Page:
        return Page(await self.http.get(path, **more))

    async def follow(self, path: str) -> Page:
        return Page(await self.http.get(path, follow_redirects=True))

    async def send(self, form: dict[str, Any], headers: dict[str, str] | None = None, **typed: str) -> Page:
        """Sends a form as it stands on its page, with these fields as typed; follows to where it leads."""
        fields = {name: re.sub(r"\r?\n", "\r\n", said) for name, said in (dict(form["fields"]) | typed).items()}
        return Page(
            await self.http.post(
                form["action"], data=fields, headers={"Origin": HERE, **(headers or {})}, follow_redirects=True
            )
        )


async def link_for(world: World, name: str, tenant: str = "demo") -> str:
    """A one-time link's secret, made as the command line makes it."""
    database = Database(world.url("registrar"), pool_size=2)
    try:
        async with database.write() as session:
            await identity.enter_tenant(session, tenant)
            principal: UUID = await session.scalar(
                "SELECT id FROM principal WHERE tenant = :tenant AND name = :name",
                {"tenant": session.tenant, "name": name},
            )
            return (await identity.make_link(session, principal)).secret
    finally:
        await database.close()


async def seat(world: World, name: str = "operator", tenant: str = "demo") -> Desk:
    """Somebody signed in at the console."""
    made = Desk(world)
    answer = await made.http.get("/console/login", params={"link": await link_for(world, name, tenant)})
    assert answer.status_code == 303, answer.text
    world.stack.push_async_callback(made.http.aclose)
    return made


def path_of(page: Page) -> str:
    return urlsplit(str(page.answer.url)).path
