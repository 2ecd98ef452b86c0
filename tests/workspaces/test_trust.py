"""Rules of trust: what a pattern means, who sets them, their history, and what an upload cannot lift itself to."""

import re
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.workspaces import Rule, Rules
from app.workspaces.trust import fits
from tests.world import World
from tests.world.checks import census, hire, problem

OFFICIAL = {"of": "documents", "pattern": "policies/**", "trust": "authoritative"}
parts = st.text("ab*?.", min_size=1, max_size=4).filter(lambda part: "**" not in part)


def said_otherwise(pattern: str) -> str:
    """The same as a regular expression; for short patterns only."""
    made = ""
    for part in pattern.split("/"):
        one = "".join("[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in part)
        made += "(?:/[^/]*)*" if part == "**" else f"/{one}"
    return made


@settings(max_examples=400, deadline=None)
@given(
    st.lists(parts | st.just("**"), min_size=1, max_size=4).map("/".join),
    st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join),
)
def test_a_pattern_means_what_it_says(pattern: str, path: str) -> None:
    assert fits(pattern, path) is (re.fullmatch(said_otherwise(pattern), f"/{path}") is not None)


def test_the_first_rule_that_fits_counts() -> None:
    rules = Rules(1, (Rule("documents", "a/draft.md", "untrusted"), Rule("documents", "a/**", "authoritative")))
    assert [rules.trust_of("documents", path) for path in ("a/draft.md", "a/b.md", "c.md")] == [
        "untrusted", "authoritative", "normal",
    ]  # fmt: skip
    assert rules.trust_of("records", "a/b.md") == "normal"


def test_no_pattern_costs_more_than_its_length_allows() -> None:
    assert not fits("/".join(["**", "*a*a*a*a*b"] * 20)[:200], "/".join(["a" * 20] * 20))


async def put(world: World, *rules: dict[str, Any], etag: str = "", who: str = "product_owner") -> httpx.Response:
    headers = {"If-Match": etag} if etag else {}
    client: httpx.AsyncClient = getattr(world, who)
    return await client.put("/v1/workspaces/default/trust", json={"rules": list(rules)}, headers=headers)


async def upload(
    client: httpx.AsyncClient, path: str, text: str = "# A title\n\nSome words.\n", **asked: str
) -> httpx.Response:
    return await client.put("/v1/workspaces/default/documents", params={"path": path, **asked}, content=text.encode())


async def test_rules_have_versions_and_a_history(world: World) -> None:
    problem(await world.auditor.get("/v1/workspaces/default/trust"), "not_found")
    first = await put(world, OFFICIAL)
    assert (first.status_code, first.headers["etag"], first.json()["version"]) == (200, '"v1"', 1)
    problem(await put(world), "precondition_required")
    stale = problem(await put(world, etag='"v7"'), "stale")
    assert stale["current"]["rules"] == [OFFICIAL]
    wider = {"of": "records", "pattern": "sample_crm/**", "trust": "authoritative"}
    assert (await put(world, wider, OFFICIAL, etag='"v1"')).json()["version"] == 2
    assert (await put(world, etag='"v2"')).json()["rules"] == []
    found = (await world.auditor.get("/v1/workspaces/default/trust")).json()
    assert (found["version"], found["rules"]) == (3, [])
    assert [one["version"] for one in found["history"]] == [2, 1] and found["history"][1]["rules"] == [OFFICIAL]
    bodies = [
        fact["body"] for fact in await world.facts(await world.tenant()) if fact["type"] == "workspace.trust_changed"
    ]
    assert len(bodies) == 3 and not any("policies" in body for body in bodies)  # no words from outside in the ledger


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        ({"pattern": "/absolute", "trust": "normal"}, "/rules/0/pattern"),
        ({"pattern": "a//b", "trust": "normal"}, "/rules/0/pattern"),
        ({"pattern": "a**", "trust": "normal"}, "/rules/0/pattern"),
        ({"pattern": "x" * 201, "trust": "normal"}, "/rules/0/pattern"),
        ({"pattern": "a\nb", "trust": "normal"}, "/rules/0/pattern"),
        ({"pattern": "a", "trust": "sacred"}, "/rules/0/trust"),
        ({"pattern": "a", "trust": "normal", "of": "people"}, "/rules/0/of"),
        ({"pattern": "a", "trust": "normal", "more": 1}, "/rules/0/more"),
    ],
)
async def test_nonsense_is_refused_by_field(world: World, rule: dict[str, Any], pointer: str) -> None:
    before = await census(world)
    assert problem(await put(world, rule), "validation")["errors"][0]["pointer"] == pointer
    assert problem(await put(world, *[OFFICIAL] * 101), "validation")["errors"][0]["pointer"] == "/rules"
    assert await census(world) == before


async def test_whoever_uploads_does_not_say_what_is_authoritative(world: World) -> None:
    problem(await put(world, OFFICIAL, who="submitter"), "forbidden")
    assert (await upload(world.submitter, "policies/old.md")).status_code == 201
    await put(world, OFFICIAL)
    refused = problem(await upload(world.submitter, "policies/mine.md"), "forbidden")
    assert refused["action"] == "workspaces.trust"
    assert (await upload(world.submitter, "wiki/mine.md")).status_code == 201
    assert (await upload(world.submitter, "policies/old.md")).json()["outcome"] == "unchanged"
    problem(await upload(world.submitter, "policies/old.md", "# Another\n\nOther words.\n"), "forbidden")
    assert (await upload(world.product_owner, "policies/mine.md")).status_code == 201
    listed = (await world.auditor.get("/v1/workspaces/default/documents")).json()["items"]
    assert {one["document"]: one["trust"] for one in listed} == {
        "policies/mine.md": "authoritative", "policies/old.md": "authoritative", "wiki/mine.md": "normal",
    }  # fmt: skip
    both = await hire(world, "librarian", "submitter", "admin")
    assert (await upload(both.http, "policies/more.md")).status_code == 201


async def test_an_authoritative_document_is_not_taken_away_by_whoever_uploads(world: World) -> None:
    for path in ("policies/old.md", "wiki/old.md"):
        await upload(world.submitter, path)
    await put(world, OFFICIAL)
    at = "/v1/workspaces/default/documents"
    refused = problem(await world.submitter.delete(at, params={"path": "policies/old.md"}), "forbidden")
    assert refused["action"] == "workspaces.trust" and "policies/old.md" in refused["detail"]
    assert (await world.submitter.delete(at, params={"path": "wiki/old.md"})).status_code == 204
    assert (await world.product_owner.delete(at, params={"path": "policies/old.md"})).status_code == 204


async def test_a_pattern_means_the_same_however_its_letters_are_composed(world: World) -> None:
    apart, whole = "a\u0308rzte", "\u00e4rzte"
    records = {"of": "records", "pattern": f"crm/{apart}", "trust": "untrusted"}
    made = await put(world, {"of": "documents", "pattern": f"{apart}/**", "trust": "authoritative"}, records)
    assert [rule["pattern"] for rule in made.json()["rules"]] == [f"{whole}/**", f"crm/{apart}"]
    for path in (f"{apart}/a.md", f"{whole}/b.md"):
        problem(await upload(world.submitter, path), "forbidden")


@pytest.mark.parametrize(
    ("text", "said", "written"),
    [
        ("# Nothing said\n\nWords.\n", None, None),
        ("# By the uploader\n\nWords.\n", "2026-01-05T10:00:00+01:00", "2026-01-05T09:00:00"),
        ("---\ndate: 2020-05-01\nlastmod: 2021-06-02\n---\n# Own word\n\nWords.\n", None, "2021-06-02T00:00:00"),
        (
            "---\nlastmod: 2021-06-02\n---\n# The older counts\n\nWords.\n",
            "2026-01-05T10:00:00Z",
            "2021-06-02T00:00:00",
        ),
        (
            "---\nlastmod: 2026-06-02\n---\n# The older counts\n\nWords.\n",
            "2022-01-05T10:00:00Z",
            "2022-01-05T10:00:00",
        ),
        ("---\nlastmod: someday\n---\n# No date\n\nWords.\n", None, None),
    ],
)
async def test_when_a_document_was_last_changed(world: World, text: str, said: str | None, written: str | None) -> None:
    answer = await upload(world.submitter, "a.md", text, **({"written_at": said} if said else {}))
    assert answer.status_code == 201, answer.text
    [one] = (await world.auditor.get("/v1/workspaces/default/documents")).json()["items"]
    assert (one["written_at"] or "")[:19] == (written or "")


async def test_nothing_was_changed_after_it_came_in(world: World) -> None:
    await upload(world.submitter, "a.md", written_at="2990-01-01T00:00:00Z")
    [one] = (await world.auditor.get("/v1/workspaces/default/documents")).json()["items"]
    assert one["written_at"] <= one["ingested_at"]
    bad = await upload(world.submitter, "b.md", written_at="yesterday")
    assert problem(bad, "validation")["errors"][0]["parameter"] == "written_at"


async def test_a_page_says_when_it_was_changed(world: World) -> None:
    head = '<meta property="article:modified_time" content="2023-04-05T06:07:08Z"><title>T</title>'
    page = f"<html><head>{head}</head><body><p>Words of a page.</p></body></html>"
    assert (await upload(world.submitter, "a.html", page)).status_code == 201
    [one] = (await world.auditor.get("/v1/workspaces/default/documents")).json()["items"]
    assert one["written_at"].startswith("2023-04-05T06:07:08")
