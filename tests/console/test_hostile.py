"""What others wrote, at its worst, in every place where a page shows it: nothing runs, nothing is asked for, and what cannot be
seen is named."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.console import render
from app.console.render import MOST, foreign, page
from tests.console.desk import Page, seat
from tests.world import World
from tests.world.checks import pending_change
from tests.world.life import give_guide

PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script src=https://evil.example/x.js></script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=alert(1)>#x'/></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>click</a>",
    "[approve](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "<https://evil.example>",
    "https://evil.example/steal?c=",
    "data:text/html,<script>alert(1)</script>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>*{display:none}</style>",
    "<form action=https://evil.example method=post><button>Approve</button></form>",
    "<input name=decision value=approve>",
    '"><button data-open="approve">',
    "' onmouseover='alert(1)",
    "{{ 7*7 }}{% raw %}{{ token }}",
    "<!-- --><![CDATA[ x ]]>",
    "✅ APPROVED by root <b>already verified</b>",
    "\x1b[2J\x1b[31mapproved\x1b[0m\x07",
    "\u202etxt.evorppa\u202c",
    "pay\u200bload\u2066isolate\u2069\ufeff",
    "line one\u2028line two\u0085three",
    "\u3164\u115f\u00a0 blank",
    "\U000e0061\U000e0062 tags \ue000 private",
    "z" * 1900 + "Z͑ͫ̓ͪ̂ͫ̽͏" * 20,
    "</textarea></title></style></pre><h1>Fake banner</h1>",
]
RUNS = re.compile(r"<(script|iframe|object|embed|base|meta http|style|link)\b", re.IGNORECASE)


def harmless(found: Page, own_scripts: int = 1) -> None:
    """Nothing on the page runs or asks for anything but the page's own files, and no control or mark of direction is in it."""
    scripts = [said for tag, said in found.tags if tag == "script"]
    assert len(scripts) <= own_scripts and all(
        str(one.get("src", "")).startswith("/console/static/") for one in scripts
    )
    allowed = {"html", "head", "meta", "title", "link", "script", "body", "a", "header", "img", "span", "form", "label", "input", "kbd",
               "div", "small", "button", "nav", "main", "section", "h1", "h2", "h3", "p", "b",
               "em", "i", "strong", "ol", "ul", "li", "dl", "dt", "dd",
               "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code", "time", "figure", "blockquote",
               "figcaption", "fieldset", "legend", "textarea", "select", "option", "dialog", "svg", "rect", "text", "q"}  # fmt: skip
    for tag, said in found.tags:
        assert tag in allowed, tag
        for name, value in said.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ("href", "src", "action", "formaction", "data", "srcset", "poster"):
                assert str(value).startswith(("/console", "#main")), (tag, name, value)
    for character in found.source:
        assert not render.hidden(character), f"U+{ord(character):04X}"


def test_the_one_function_names_what_cannot_be_seen_and_bounds_what_is_long() -> None:
    assert foreign("a\u202eb\x1b[c") == "a⟨U+202E⟩b⟨U+001B⟩[c"
    assert foreign("größer ✓ 日本 🙂\n\t") == "größer ✓ 日本 🙂\n\t"
    long = foreign("x" * 5_000_000)
    assert len(long) < MOST + 60 and long.endswith("4,998,000 more characters")
    assert foreign({"a": "\u200b"}) == '{"a": "⟨U+200B⟩"}'
    assert foreign(None) == "" and foreign(3) == "3"


def test_no_template_prints_anything_but_through_it() -> None:
    made = render.environment()
    assert made.finalize is foreign and made.autoescape is True
    for file in sorted((Path(render.__file__).parent / "templates").iterdir()):
        text = file.read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text and "<style" not in text, file.name
        assert "style=" not in text and not re.search(r"\son\w+=", text), file.name
        for name, value in re.findall(r'(href|src|action)="([^"]*)"', text):
            assert re.fullmatch(r"\{\{ (address|static)\(.*\) (if path else address\(\) )?\}\}|#main", value), (
                file.name,
                name,
                value,
            )
    # markup is made in three modules, of numbers and of what was escaped
    for module in Path(render.__file__).parent.rglob("*.py"):
        if "Markup" in module.read_text():
            assert module.name in ("render.py", "charts.py"), module


@pytest.mark.parametrize("number", range(0, len(PAYLOADS), 8))
async def test_hostile_evidence_in_every_place(world: World, number: int) -> None:
    """Goal, label, document, quote, rationale, summary, value, reason, comment, search, filter."""
    desk = await seat(world)
    for payload in PAYLOADS[number : number + 8]:
        plain = payload.replace("\x1b", "").replace("\x07", "")
        change = await pending_change(
            world,
            summary=plain[:400],
            rationale=payload[:1900],
            changes={"priority": payload[:1900], "next_action": plain[:50]},
        )
        pages = [
            await desk.get("/console"),
            await desk.get(f"/console/approvals/{change['id']}"),
            await desk.get(f"/console/missions/{change['mission_id']}"),
            await desk.get(f"/console/batch?like={change['id']}"),
            await desk.get("/console/audit", params={"q": payload[:399]}),
            await desk.get("/console/missions", params={"label": payload[:199], "state": payload[:20]}),
            await desk.get("/console/missions", params={"created_after": payload[:39]}),
            await desk.get("/console/login", params={"next": payload[:200]}),
        ]
        form = pages[1].form_to("/decision", decision="approve")
        pages.append(await desk.send(form, comment=payload[:1700], name=payload[:100], opened="x", once="k"))
        pages.append(
            await desk.send(pages[1].form_to("/decision", decision="reject"), comment=payload[:1700], once="r")
        )
        packet = (await world.auditor.get(f"/v1/missions/{change['mission_id']}/artifacts")).json()["items"]
        for one in packet:
            pages.append(await desk.get(f"/console/missions/{change['mission_id']}/artifacts/{one['id']}"))
        for found in pages:
            assert found.status < 500, found.text[:300]
            harmless(found)
            assert not RUNS.search(found.source.partition("<body")[2]), payload
            assert len(found.answer.content) < 150_000


async def test_a_goal_and_a_document_of_hostile_words(world: World) -> None:
    await give_guide(
        world,
        "# <script>alert(1)</script>\n\n" + "\n\n".join(PAYLOADS[:23]),
        path="<img src=x onerror=1>.md".replace("/", "_"),
    )
    desk = await seat(world)
    for payload in PAYLOADS[:23]:
        made = await world.create(user_goal=payload[:300], labels={"x": payload[:60]})
        harmless(await desk.get(f"/console/missions/{made['id']}"))
        harmless(await desk.get(f"/console/audit/{made['id']}"))
    harmless(await desk.get("/console/missions"))


def test_a_value_of_five_megabytes_is_one_short_line() -> None:
    problem: dict[str, Any] = {"title": "t", "detail": "x" * 5_000_000, "code": "c", "status": 422}
    from app.errors import KINDS

    assert len(page("problem.html", problem=problem, kind=KINDS["validation"], at=None)) < 6_000
