"""The pages about the API: every operation with an example that is real, every problem with what is behind it, nothing foreign."""

import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import httpx

from app.errors import KINDS
from app.reference import CAUSES
from app.reference.document import EXAMPLES, curl, operations
from app.reference.pages import page
from tests.http.test_openapi import SNAPSHOT, schema_of
from tests.world import World
from tests.world.checks import problem

DOCUMENT: dict[str, Any] = json.loads(SNAPSHOT.read_text())
EVERY = {operation["operationId"]: (method, path, operation) for method, path, operation in operations(DOCUMENT)}


class Page(HTMLParser):
    """What a page holds: tags that may not be there, and where its links go."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a"):
                self.loads.append(str(value))
            elif name == "href":
                self.links.append(str(value))


async def test_every_page_is_self_contained_and_every_link_leads_somewhere(world: World) -> None:
    seen = await walked(world.anybody, "/docs", "/problems")
    assert {f"/docs/{name}" for name in EVERY} | {f"/problems/{code}" for code in KINDS} <= seen


async def test_the_internal_port_shows_problems_and_leads_to_nothing_that_it_has_not(world: World) -> None:
    seen = await walked(world.inside, "/problems")
    assert seen == {"/problems"} | {f"/problems/{code}" for code in KINDS}


async def walked(client: httpx.AsyncClient, *begin: str) -> set[str]:
    """Every page that links lead to from here, each looked at."""
    waiting, seen = list(begin), set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = await client.get(path)
        assert answer.status_code == 200, path
        if path.endswith(".json"):
            continue
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in answer.headers["content-security-policy"]
        page = Page(answer.text)
        assert not page.loads and not page.tags & {"script", "iframe", "img", "link", "form", "object", "base"}, path
        assert len(answer.content) < 60_000, (path, len(answer.content))
        waiting += [link for link in page.links if link not in seen and link not in waiting]
    return seen


async def test_the_style_is_the_one_that_the_header_allows(world: World) -> None:
    import base64
    import hashlib

    answer = await world.anybody.get("/docs")
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


def test_whatever_is_said_is_text() -> None:
    made = page(
        kind="index", title="<b>\u202e", up=None, about=["<i> `<u>`", "a ` b <s>"], first="<a>", groups=[("<q>", [])]
    )
    shown = bytes(made.body).decode()
    for tag in ("<b>", "<i>", "<u>", "<s>", "<a>", "<q>"):
        assert tag not in shown and html.escape(tag) in shown, tag
    assert "\u202e" not in shown and "<code>&lt;u&gt;</code>" in shown


async def test_a_page_of_an_operation_shows_what_it_takes_and_answers(world: World) -> None:
    shown = html.unescape((await world.anybody.get("/docs/decide")).text)
    for words in (
        "Approve or reject", "/v1/approvals/{approval_id}/decisions", "payload_sha256", "approve · reject", "If-Match", "not_before",
        "Idempotency-Key", "curl -X POST", '-H \'If-Match: "v1"\'', '"outcome": "approved"', "/problems/own_request",
    ):  # fmt: skip
        assert words in shown, words
    problem(await world.anybody.get("/docs/nothing"), "not_found")
    problem(await world.anybody.get("/docs/%3Cscript%3E"), "not_found")


def test_every_example_is_real_and_fits() -> None:
    """Recorded from answers; refresh with UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/http/test_openapi.py"""
    for operation, seen in json.loads(EXAMPLES.read_text()).items():
        example_fits(seen, *EVERY[operation])


def example_fits(seen: dict[str, Any], method: str, path: str, said: dict[str, Any]) -> None:
    published = said["responses"][str(seen["status"])]
    schema = published.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None and not isinstance(seen["body"], str):
        schema_of(DOCUMENT, schema).validate(seen["body"])
    template = "".join("[^/?]+" if part.startswith("{") else re.escape(part) for part in re.split(r"({[a-z_]+})", path))
    assert re.fullmatch(template + r"(\?.*)?", seen["path"]), seen["path"]
    assert curl(DOCUMENT, method, path, said).splitlines()[-1].strip().startswith('"$MISSION_ROOT_URL/v1/')


def test_no_example_holds_a_secret_or_is_of_nothing_any_more() -> None:
    text = EXAMPLES.read_text()
    assert not re.search(r"mr_[0-9a-f]{8}_|whsec_[A-Za-z0-9]|BEGIN ", text)
    assert set(json.loads(text)) == set(EVERY) - {
        "proveFact"
    }  # which needs a store of anchors, and so no test of shapes has it


def test_every_problem_says_how_it_comes_about() -> None:
    assert set(KINDS) <= set(CAUSES), "say in app/reference/problems.py how each comes about"
    for code, kind in KINDS.items():
        assert CAUSES[code].endswith(".") and len(CAUSES[code]) > 10 and CAUSES[code] not in kind.meaning, code
