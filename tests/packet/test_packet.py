"""The reviewer packet: complete in every state, the same as JSON and as a page, and harmless whatever it quotes."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.labels import UNSEEN
from app.visible import visible
from colony_client.artifacts import AggregationPacket, Citation, Claim, WorkerResult, quote_sha256
from tests.life.test_moves import REACH
from tests.world import World
from tests.world.checks import problem
from tests.world.colony import base
from tests.world.life import Life, change, cited, give_guide, in_state, under_way

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def packet(life: Life) -> dict[str, Any]:
    answer = await life.world.auditor.get(f"/v1/missions/{life.id}/packet")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def page(life: Life) -> httpx.Response:
    answer = await life.world.auditor.get(f"/v1/missions/{life.id}/packet", headers=HTML)
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer


@pytest.mark.parametrize("state", REACH)
async def test_the_packet_has_its_members_in_every_state(world: World, state: str) -> None:
    life = await REACH[state](world)
    found = await packet(life)
    assert found["mission"]["state"] == state and found["mission"]["id"] == str(life.id)
    assert found["answer_status"] in ("answered", "not_found") and isinstance(found["answer"], str)
    for claim in found["claims"]:
        assert claim["text"]
        for citation in claim["citations"]:
            assert {"document", "start", "end", "quote", "verified"} <= set(citation)
            assert citation["verified"] is (found["review"] is not None)
    looked = state in ("completed", "awaiting_approval", "executing")
    assert (found["review"] is not None) == looked
    assert bool(found["claims"]) == (looked or state == "in_review")
    assert found["timeline"][0]["type"] == "mission.accepted"
    assert [fact["seq"] for fact in found["timeline"]] == list(range(1, len(found["timeline"]) + 1))
    assert found["policy_decisions"][0]["action"] == "mission.create"
    assert {one["state"] for one in found["writebacks"]} == {
        "awaiting_approval": {"awaiting_approval"}, "executing": {"approved"},
    }.get(state, set())  # fmt: skip

    shown = (await page(life)).text
    assert f"is <strong>{state}</strong>" in shown
    assert ("Checked by the root" in shown) == looked
    if not looked:
        assert "The root has not reviewed this mission." in shown and "Not found in the evidence" not in shown


async def test_the_packet_of_a_finished_mission_tells_the_whole_story(world: World) -> None:
    life = await under_way(world, budget={"tokens": 500})
    await life.say(
        {"type": "stage.started", "stage": "workers"},
        {"type": "stage.completed", "stage": "workers", "latency_ms": 12.5},
        {"type": "stage.completed", "stage": "reviewer", "latency_ms": 0},
        {"type": "usage.reported", "tokens_in": 40, "tokens_out": 2, "cost_usd": 0.5},
    )
    await life.complete(proposals=1)
    await world.run_work()
    await life.decide("approve")
    [writeback] = await life.writebacks()
    await life.settle(await life.claim(writeback["id"]), writeback["id"], "succeeded")
    await world.run_work()

    found = await packet(life)
    assert (found["mission"]["state"], found["answer_status"]) == ("completed", "answered")
    assert found["answer"] == "A rollback takes four minutes."
    [claim] = found["claims"]
    assert claim["supported"] and [one["verified"] for one in claim["citations"]] == [True]
    assert found["review"]["verdict"] == "passed" and found["review"]["problems"] == []
    assert [(one["stage"], one["latency_ms"], one["attempt"], one["started_at"] is None) for one in found["stages"]] == [
        ("workers", 12.5, 1, False), ("reviewer", 0, 1, True),
    ]  # fmt: skip
    budget = found["mission"]["budget"]
    assert (budget["used_tokens"], budget["tokens"], budget["used_cost_usd"]) == (42, 500, 0.5)
    [approval] = found["approvals"]
    assert [one["verdict"] for one in approval["decisions"]] == ["approve"]
    [written] = found["writebacks"]
    assert written["state"] == "succeeded" and written["read_back_sha256"] == written["payload_sha256"]
    names = {one["schema_name"] for one in found["artifacts"]}
    assert names == {"mission_envelope", "writeback_proposal", "aggregation_packet", "review_packet"}
    assert found["review"]["sha256"] in {one["sha256"] for one in found["artifacts"] if one["producer"] == "root"}

    shown = (await page(life)).text
    for words in ("A rollback takes four minutes.", "passed", "42 of 500 tokens", "12.5", written["payload_sha256"], "approve",
                  "Nothing: every citation matches the stored bytes."):  # fmt: skip
        assert words in shown, words


async def test_what_could_not_be_verified_is_listed_and_marked(world: World) -> None:
    life = await in_state(world, "running")
    await life.complete(honest=False)
    await world.run_work()
    found = await packet(life)
    assert (found["mission"]["state"], found["review"]["verdict"]) == ("failed", "failed")
    [claim] = found["claims"]
    assert not claim["supported"] and not claim["citations"][0]["verified"]
    assert claim["citations"][0]["problem"] == "the quote is not what the span says"
    shown = (await page(life)).text
    listed = shown.split("What could not be verified")[1].split("</ul>")[0]
    assert [text for text in re.findall(r'<li class="bad">(.*?)</li>', listed)] == found["review"]["problems"]
    assert 'class="claim no"' in shown and 'class="claim ok"' not in shown
    assert "0 of 1</strong>" in shown


async def test_the_packet_speaks_of_the_attempt_that_counts(world: World) -> None:
    """The answer of an attempt that was lost is not shown beside the claims of the one that was reviewed."""
    life = await in_state(world, "running")
    [citation, *_] = await life.show()
    lost = AggregationPacket(
        **base(life.dispatch.envelope), answer_status="answered", answer="A lost answer.",
        claims=[Claim(id="c9", text="A lost answer.", citations=[citation])],
    )  # fmt: skip
    await life.say({"type": "artifact.produced", "artifact": lost})
    await life.lose_lease()
    await life.take()
    claim = Claim(id="c1", text="What counts.", citations=[citation])
    result = WorkerResult(**base(life.dispatch.envelope), task_id="t1", claims=[claim])
    await life.say({"type": "artifact.produced", "artifact": result}, {"type": "signal", "signal": "complete"})
    await world.run_work()
    found = await packet(life)
    assert [one["text"] for one in found["claims"]] == ["What counts."]
    assert (found["answer_status"], found["answer"]) == ("answered", "What counts.")
    assert "A lost answer." not in (await page(life)).text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html", "application/json"),
        ("text/html", "text/html; charset=utf-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
async def test_the_client_chooses_between_json_and_a_page(world: World, accept: str | None, kind: str) -> None:
    life = await in_state(world, "accepted")
    request = world.auditor.build_request("GET", f"/v1/missions/{life.id}/packet")
    request.headers.pop("accept", None)
    if accept:
        request.headers["accept"] = accept
    answer = await world.auditor.send(request)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)


async def test_absent_and_foreign_missions_have_no_packet(world: World) -> None:
    life = await in_state(world, "running")
    stranger = await world.another_tenant()
    for headers in ({}, HTML):
        problem(await world.auditor.get(f"/v1/missions/{uuid4()}/packet", headers=headers), "not_found")
        problem(await stranger.http.get(f"/v1/missions/{life.id}/packet", headers=headers), "not_found")
        problem(await world.anybody.get(f"/v1/missions/{life.id}/packet", headers=headers), "unauthenticated")


# --- hostile words

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "apostrophe": "' onmouseover='alert(1)",
    "style": "</style><style>*{display:none}</style>",
    "link": '<a href="javascript:alert(1)">approve</a><base href=//evil.example>',
    "meta": '<meta http-equiv="refresh" content="0;url=//evil.example">',
    "template": "{{ 7*7 }}{% for x in y %}{{ packet }}",
    "entity": "&lt;b&gt; &#60;script&#62; &amp;",
    "bidi": "evil\u202egnp.exe \u2066hidden\u2069 \u061c \u200f",
    "invisible": "a\u200bb\u2060c\ufeffd\u00ade\U000e0041f\u2028g\u2029h\u180ei\ue000",
    "ansi": "\x1b[31mred\x1b[0m \x9b31m",
    "control": "a\x01b\x07c\x08d\x0ce\x7ff\x85g\rh",
    "comment": "<!-- --><![CDATA[ ]]>",
    "combining": "Z\u0335\u0353" * 300,
    "long": "W" * 100_000,
}
ALLOWED = {"html", "head", "meta", "title", "style", "body", "p", "h1", "h2", "code", "strong", "span", "section", "details",
           "summary", "blockquote", "br", "div", "table", "tr", "th", "td", "ul", "li", "time"}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of the page: its elements, their attributes, its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update((tag, name) for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


async def hostile_mission(world: World, words: str) -> Life:
    """A mission that has the same words in every place where a stranger can put some."""
    life = await under_way(
        world, user_goal=f"goal {words}"[:8_000], labels={"x": re.sub(f"[{UNSEEN}]", "_", words)[:200]}
    )
    [citation, *_] = await life.show()
    short, line = words[:4_000], words[:200]
    false = Citation(
        source="0" * 64, document=words[:1_000], start=0, end=3, quote=short, quote_sha256=quote_sha256(short.encode())
    )
    factor = {"name": line, "value": words[:2_000], "points": 1.0, "explanation": words[:2_000], "citation": None}
    said = AggregationPacket.model_validate(
        base(life.dispatch.envelope)
        | {
            "answer_status": "answered",
            "answer": words[:50_000],
            "claims": [Claim(id="c1", text=short, citations=[citation, false])],
            "sections": [{"title": line, "claim_ids": ["c1"], "text": words[:50_000]}],
            "not_found": [words[:2_000]],
            "leads": [{"record_id": line, "name": line, "score": 1.0, "factors": [factor]}],
        }
    )
    proposal = change(
        life.dispatch.envelope, [citation], changes={line: words}, target=f"lead/{words[:190]}", summary=words[:2_000],
        rationale=short,
    )  # fmt: skip
    await life.say(
        {"type": "writeback.proposed", "proposal": proposal},
        {"type": "artifact.produced", "artifact": said},
        {"type": "signal", "signal": "complete"},
    )
    await world.run_work()
    assert await life.state() == "awaiting_approval"
    [approval] = await life.approvals()
    answer = await world.operator.post(
        f"/v1/approvals/{approval['id']}/decisions",
        json={"decision": "reject", "payload_sha256": approval["payload_sha256"], "comment": words[:2_000]},
        headers={"If-Match": f'"v{approval["version"]}"'},
    )
    assert answer.status_code == 201, answer.text
    return life


async def lenient(world: World) -> None:
    """Lets missions pass their review with claims that do not hold, so that the page has all of its parts."""
    shipped = (await world.product_owner.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: shipped[name] for name in ("title", "description", "inputs_schema", "tools", "defaults", "limits")}
    made = await world.product_owner.put(
        "/v1/mission-types/oracle_advisory", json=own | {"review": {"min_coverage": 0.0}}, headers={"If-Match": '"v1"'}
    )
    assert made.status_code == 200, made.text


async def test_hostile_words_are_inert_visible_and_unaltered(world: World) -> None:
    await lenient(world)
    for name, words in HOSTILE.items():
        life = await hostile_mission(world, words)
        found = await packet(life)
        [claim] = found["claims"]
        assert (claim["text"], claim["citations"][1]["quote"]) == (words[:4_000], words[:4_000]), name
        assert found["answer"] == words[:50_000] and found["leads"][0]["name"] == words[:200]

        answer = await page(life)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        read = Reader(answer.text)
        assert read.tags <= ALLOWED, (name, read.tags - ALLOWED)
        assert {attribute for _, attribute in read.attributes} <= {
            "lang",
            "charset",
            "name",
            "content",
            "class",
            "open",
            "datetime",
        }, name
        assert answer.text.count("<style") == answer.text.count("<title") == 1 and read.comments == [], name
        shown = "".join(read.words)
        places = {
            "goal": f"goal {words}"[:2_000], "answer": words[:50_000], "claim": words[:4_000], "document": words[:1_000],
            "lead": words[:200], "factor": words[:2_000], "change": words, "comment": words[:2_000],
        }  # fmt: skip
        for place, said in places.items():
            expected = visible(said.strip() if place in ("comment", "goal") else said)
            if place == "goal":  # intake has taken invisible characters out already
                expected = visible(found["mission"]["user_goal"])
            assert plain(expected) in plain(shown), (name, place)
        raw = answer.text
        assert not [c for c in raw if c != "\n" and not c.isprintable() and c != "\t"], (
            name,
            "a character hides in the page",
        )


def plain(text: str) -> str:
    """Text as a reader compares it: runs of white space are one space."""
    return " ".join(text.split())


def test_only_what_cannot_be_seen_is_spelled_out() -> None:
    assert visible("größe\t語 🜚\nline") == "größe\t語 🜚\nline"
    assert visible("a\u202eb\x1bc\r") == "a⟨U+202E⟩b⟨U+001B⟩c⟨U+000D⟩"


async def test_a_mission_that_waits_says_why_on_its_page(world: World) -> None:
    world.colony.answer = "busy"
    life = await in_state(world, "accepted")
    await life.take()
    assert "waiting: The colony takes no more missions at the moment." in (await page(life)).text
    await life.end("cancel")
    shown = (await page(life)).text
    assert "waiting:" not in shown and "as the test says" in shown


async def test_the_packet_is_one_consistent_document(world: World) -> None:
    """Its parts name each other: every artifact, approval and decision that the timeline speaks of is in it."""
    life = await in_state(world, "executing")
    found = await packet(life)
    known = {one["id"] for part in ("artifacts", "approvals", "writebacks", "policy_decisions") for one in found[part]}
    known |= {str(life.id), found["mission"]["requested_by"]}
    for fact in found["timeline"]:
        for member in ("artifact", "approval", "writeback", "policy_decision", "review_packet", "proposal"):
            if member in fact["body"]:
                assert fact["body"][member] in known, (fact["type"], member)
    assert json.loads(json.dumps(found)) == found


async def test_hostile_words_in_what_the_review_adds(world: World) -> None:
    """A contradiction quotes documents, and a source names them: shown as what they are, like everything else."""
    evil, name = "\u202e\x1b[31m & < b", "<script>alert(1)<⁄script><svg onload=alert(1)>.md"
    await give_guide(world, f"# Rollback\n\nA rollback takes four minutes {evil}.\n", name)
    await give_guide(world, f"# Rollback\n\nA rollback takes ten minutes {evil}.\n", "wiki.md")
    life = await under_way(world)
    found = await world.colony.tool(life.dispatch, "workspace.search", query="rollback takes minutes", limit=5)
    claims = [Claim(id="c1", text="A rollback.", citations=[cited(one) for one in found["passages"]])]
    said = AggregationPacket(**base(life.dispatch.envelope), answer_status="answered", answer="A.", claims=claims)
    await life.say({"type": "artifact.produced", "artifact": said}, {"type": "signal", "signal": "complete"})
    await world.run_work("review")
    shown = await packet(life)
    assert len(shown["review"]["contradictions"]) == 1 and len(shown["review"]["sources"]) == 2
    assert evil in shown["review"]["contradictions"][0]["one"]["quote"]
    answer = await page(life)
    read = Reader(answer.text)
    assert read.tags <= ALLOWED and "Sources contradict each other" in answer.text
    assert "script" not in read.tags and not {name for _, name in read.attributes if name.startswith("on")}
    assert "⟨U+202E⟩⟨U+001B⟩[31m" in answer.text
    assert not [c for c in answer.text if c not in "\n\t" and not c.isprintable()]
