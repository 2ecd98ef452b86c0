"""Documents through the API: added, replaced, removed, read, and never somebody else's."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app import workspaces
from app.workspaces.actions import READER
from tests.world import World
from tests.world.checks import census, inspector, problem

HERE = "/v1/workspaces/papers/documents"
GUIDE = "# Guide\n\nThe pool has five connections.\n\n## Limits\n\nTen more may overflow – at most.\n"


async def put(world: World, path: str, text: str | bytes, at: str = HERE) -> httpx.Response:
    data = text.encode() if isinstance(text, str) else text
    return await world.submitter.put(at, params={"path": path}, content=data)


async def put_all(world: World, documents: dict[str, str], at: str = HERE) -> None:
    for path, text in documents.items():
        assert (await put(world, path, text, at)).status_code == 201


async def facts(world: World) -> list[tuple[str, dict[str, Any]]]:
    """The document facts of the tenant, in order."""
    rows = await world.facts(await world.tenant())
    import json

    return [
        (row["type"], json.loads(row["body"])) for row in rows if row["type"].startswith(("document.", "workspace."))
    ]


async def test_the_same_bytes_again_change_nothing(world: World) -> None:
    made = await put(world, "guide.md", GUIDE)
    assert made.status_code == 201
    first = made.json()
    assert (first["outcome"], first["version"], first["document"]) == ("added", 1, "guide.md")
    before = await census(world)
    again = await put(world, "guide.md", GUIDE)
    assert (again.status_code, again.json()) == (200, {**first, "outcome": "unchanged"})
    assert await census(world) == before


async def test_other_bytes_replace_the_document_and_its_passages(world: World) -> None:
    first = (await put(world, "guide.md", GUIDE)).json()
    second = await put(world, "guide.md", "# Guide\n\nNow there are zebras.\n")
    assert (second.status_code, second.json()["outcome"], second.json()["version"]) == (200, "updated", 2)
    [shown] = (await world.submitter.get(HERE)).json()["items"]
    assert (shown["source"], shown["version"], shown["title"]) == (second.json()["source"], 2, "Guide")
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        assert await workspaces.search(session, "papers", "overflow connections") == []
        assert [found.source for found in await workspaces.search(session, "papers", "zebras")] == [shown["source"]]
        workspace = await workspaces.find_workspace(session, "papers")
        assert workspace is not None
        old = await workspaces.read_span(session, workspace, bytes.fromhex(first["source"]), 0, 7)
        assert old is not None and old.text == "# Guide", "a mission that still reads the old version can finish"
    assert [kind for kind, _ in await facts(world)] == ["workspace.created", "document.added", "document.updated"]
    assert (await facts(world))[-1][1]["replaces"] == first["id"]


async def test_facts_hold_ids_and_hashes_but_no_names_and_no_text(world: World) -> None:
    await put(world, "canary/Zanzibar.md", "# Zanzibar\n\nzanzibar zanzibar\n", "/v1/workspaces/zanzibar/documents")
    assert (
        await world.submitter.delete("/v1/workspaces/zanzibar/documents?path=canary/Zanzibar.md")
    ).status_code == 204
    said = await facts(world)
    assert [kind for kind, _ in said] == ["workspace.created", "document.added", "document.removed"]
    assert "zanzibar" not in str(said).lower()


async def test_a_removed_document_is_neither_found_nor_listed_nor_readable(world: World) -> None:
    made = (await put(world, "guide.md", GUIDE)).json()
    await put(world, "other.md", "# Other\n\nConnections elsewhere.\n")
    removed = await world.submitter.delete(HERE, params={"path": "guide.md"})
    assert (removed.status_code, removed.content) == (204, b"")
    problem(await world.submitter.delete(HERE, params={"path": "guide.md"}), "not_found")
    assert [item["document"] for item in (await world.submitter.get(HERE)).json()["items"]] == ["other.md"]
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        assert [found.document for found in await workspaces.search(session, "papers", "connections")] == ["other.md"]
        workspace = await workspaces.find_workspace(session, "papers")
        assert workspace is not None
        assert await workspaces.read_span(session, workspace, bytes.fromhex(made["source"]), 0, 7) is None
    back = await put(world, "guide.md", GUIDE)
    assert (back.status_code, back.json()["version"]) == (201, 2)


async def test_word_counts_follow_the_passages_exactly(world: World) -> None:
    await put_all(world, {f"{n}.md": f"# Part {n}\n\nalpha beta number{n}\n" for n in range(4)})
    await put(world, "0.md", "# Part\n\nalpha gamma\n")
    await world.submitter.delete(HERE, params={"path": "1.md"})
    connection = await inspector(world)
    kept = await connection.fetch("SELECT lexeme, passages FROM passage_term WHERE passages > 0 ORDER BY 1")
    true = await connection.fetch(
        "SELECT l AS lexeme, count(*)::int AS passages FROM passage, "
        "unnest(tsvector_to_array(lexemes)) l GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in kept] == [tuple(row) for row in true]
    assert ("alpha", 3) in [tuple(row) for row in kept]


async def test_spans_are_bytes_and_never_split_a_character(world: World) -> None:
    text = "# Größe\n\n日本語 and 😀 end\n"
    made = (await put(world, "u.md", text)).json()
    data = text.encode()
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        workspace = await workspaces.find_workspace(session, "papers")
        assert workspace is not None
        for start in range(len(data) + 3):
            for end in range(start, len(data) + 3):
                span = await workspaces.read_span(session, workspace, bytes.fromhex(made["source"]), start, end)
                assert span is not None and span.total == len(data)
                assert data[span.start : span.end].decode() == span.text
                assert (span.start <= start and (span.end >= end or span.end == len(data))) or start > len(data)
                assert span.end - span.start <= end - start + 6
        for found in await workspaces.search(session, "papers", "end"):
            assert data[found.start : found.end].decode() == found.text


async def test_a_span_is_bounded(world: World) -> None:
    made = (await put(world, "long.txt", "word " * 30_000)).json()
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        workspace = await workspaces.find_workspace(session, "papers")
        assert workspace is not None
        source = bytes.fromhex(made["source"])
        span = await workspaces.read_span(session, workspace, source, 10, 2**62)
        assert span is not None and len(span.text) == 65_536
        beyond = await workspaces.read_span(session, workspace, source, 2**62, 2**63 - 1)
        assert beyond is not None and (beyond.text, beyond.start) == ("", 150_000)


async def test_two_uploads_at_once_leave_one_current_version(world: World) -> None:
    texts = [f"# Guide {n}\n\nshared words and number{n}\n" for n in range(8)]
    answers = await asyncio.gather(*(put(world, "guide.md", text) for text in texts))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    connection = await inspector(world)
    rows = await connection.fetch("SELECT version, state FROM document ORDER BY version")
    assert [tuple(row) for row in rows] == [(n, "replaced") for n in range(1, 8)] + [(8, "current")]
    assert await connection.fetchval("SELECT count(DISTINCT document) FROM passage") == 1
    # The same bytes arriving twice at once are one version.
    answers = await asyncio.gather(*(put(world, "twin.md", GUIDE) for _ in range(4)))
    assert sorted(answer.json()["outcome"] for answer in answers) == ["added"] + ["unchanged"] * 3


async def test_documents_are_read_again_when_the_reader_changed(world: World) -> None:
    await put(world, "guide.md", GUIDE)
    connection = await inspector(world)
    await connection.execute("UPDATE document SET reader = $1", READER + 1)
    assert (await put(world, "guide.md", GUIDE)).json()["outcome"] == "updated"


async def test_lists_are_paged(world: World) -> None:
    await put_all(world, {f"{n:02}.md": f"# Page {n}\n\ntext\n" for n in range(5)})
    seen: list[str] = []
    url: str | None = f"{HERE}?limit=2"
    while url:
        answer = await world.auditor.get(url)
        assert answer.status_code == 200, answer.text
        seen += [item["document"] for item in answer.json()["items"]]
        url = answer.links["next"]["url"] if answer.json()["has_more"] else None
    assert seen == ["00.md", "01.md", "02.md", "03.md", "04.md"]
    [shown] = (await world.auditor.get("/v1/workspaces")).json()["items"]
    assert (shown["name"], shown["documents"], shown["passages"]) == ("papers", 5, 5)


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("a.png", b"x", "unsupported"),
        ("a.md", b"\x00\xff", "not_text"),
        ("a.md", b"  ", "empty"),
        ("a.pdf", b"%PDF-", "malformed"),
    ],
)
async def test_unreadable_documents_are_refused_and_nothing_is_kept(
    world: World, path: str, data: bytes, reason: str
) -> None:
    before = await census(world)
    said = problem(await put(world, path, data), "validation")
    assert said["reason"] == reason and path in said["detail"]
    assert await census(world) == before


@pytest.mark.parametrize(
    "path", ["/etc/passwd.md", "../a.md", "a//b.md", "a/./b.md", "a\tb.md", "x" * 501 + ".md", "é" * 250 + ".md", ""]
)
async def test_paths_are_relative_and_tame(world: World, path: str) -> None:
    problem(await put(world, path, GUIDE), "validation")


@pytest.mark.parametrize("name", ["Papers", "..", "a b", "-a", "a" * 64, "a%00"])
async def test_workspace_names_are_plain(world: World, name: str) -> None:
    assert (await put(world, "a.md", GUIDE, f"/v1/workspaces/{name}/documents")).status_code in (404, 422)


async def test_a_body_over_the_bound_is_refused_unread(world: World) -> None:
    world.public.state.settings = world.settings(max_document_bytes=1024)
    problem(await put(world, "a.md", "x" * 1025), "too_large")
    assert (await put(world, "a.md", "x" * 1024)).status_code == 201


async def test_reading_is_for_readers_and_writing_for_writers(world: World) -> None:
    await put(world, "guide.md", GUIDE)
    problem(await world.anybody.put(HERE, params={"path": "a.md"}, content=b"x"), "unauthenticated")
    problem(await world.auditor.put(HERE, params={"path": "a.md"}, content=b"x"), "forbidden")
    problem(await world.auditor.delete(HERE, params={"path": "guide.md"}), "forbidden")
    assert (await world.auditor.get(HERE)).status_code == 200


async def test_another_tenant_sees_nothing_and_reaches_nothing(world: World) -> None:
    made = (await put(world, "guide.md", GUIDE)).json()
    stranger = (await world.another_tenant()).http
    problem(await stranger.get(HERE), "not_found")
    assert (await stranger.get("/v1/workspaces")).json()["items"] == []
    problem(await stranger.delete(HERE, params={"path": "guide.md"}), "not_found")
    # The same name and path over there is another workspace and another document.
    assert (await stranger.put(HERE, params={"path": "guide.md"}, content=b"# Theirs\n\nllamas\n")).status_code == 201
    connection = await inspector(world)
    other: UUID = await connection.fetchval("SELECT id FROM tenant WHERE name = 'other'")
    mine: UUID = await connection.fetchval("SELECT id FROM workspace WHERE tenant <> $1", other)
    async with world.root.database.read() as session:
        await session.enter(other)
        assert await workspaces.search(session, "papers", "pool connections overflow") == []
        assert [found.text for found in await workspaces.search(session, "papers", "llamas")] == ["# Theirs\n\nllamas"]
        for workspace in (mine, await workspaces.find_workspace(session, "papers")):
            assert workspace is not None
            assert await workspaces.read_span(session, workspace, bytes.fromhex(made["source"]), 0, 9) is None


async def test_the_database_keeps_workspaces_to_their_tenant(world: World) -> None:
    await put(world, "guide.md", GUIDE)
    tenant, api = await world.tenant(), await world.connect("api")
    elsewhere = UUID(int=5)
    search = "SELECT * FROM search_passages($1, 'papers', 'pool', 5)"
    for table in ("workspace", "document", "passage"):
        assert await api.fetchval(f"SELECT count(*) FROM {table}") == 0, "no tenant entered, nothing seen"
    with pytest.raises(asyncpg.PostgresError, match="tenant differs"):
        await api.fetch(search, tenant)
    async with api.transaction():
        await api.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        assert len(await api.fetch(search, tenant)) == 1
    for statement in (
        "SELECT count(*) FROM passage_term",
        "INSERT INTO passage_term VALUES ($1, $1, 'x', 1)",
        "UPDATE document SET path = 'x' WHERE tenant = $1",
        "DELETE FROM document WHERE tenant = $1",
        "UPDATE passage SET body = 'x' WHERE tenant = $1",
        "INSERT INTO workspace VALUES ($1, $1, 'theirs')",
    ):
        async with api.transaction():
            await api.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with api.transaction():
                    await api.execute(statement, *([elsewhere] if "$1" in statement else []))
    worker = await world.connect("worker")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await worker.fetch(search, tenant)
