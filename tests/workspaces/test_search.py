"""What is found, and what comes first."""

import time

import pytest

from app import workspaces
from app.workspaces import Found
from tests.workspaces.test_documents import HERE, put_all
from tests.world import World
from tests.world.checks import inspector

FILLER = "The pool of connections is described in this handbook, and so is every other part of the engine. " * 3
DOCUMENTS = {
    "engine.md": f"# Engine\n\n{FILLER}\n\n## max_overflow\n\nHow many connections QueuePool may open beyond pool_size. {FILLER}\n\n"
    f"## pool_recycle\n\nConnections older than this many seconds are replaced. {FILLER}\n",
    "session.rst": f"Session\n=======\n\n{FILLER}\n\nCall ``sqlalchemy.orm.Session.commit`` to end the transaction. {FILLER}\n",
    "dump.html": f"<h1>Dump</h1><p>{FILLER}</p><dl><dt>--schema-only</dt><dd>Dump only the object definitions, not data. {FILLER}"
    f"</dd><dt>--jobs=njobs</dt><dd>Run the dump in parallel. {FILLER}</dd></dl>",
    "changes/changelog.md": f"# 2.0\n\nmax_overflow of QueuePool may open connections beyond pool_size. {FILLER}\n",
}


async def ask(world: World, question: str, limit: int = 5, workspace: str = "papers") -> list[Found]:
    async with world.root.database.read() as session:
        await session.enter(await world.tenant())
        return await workspaces.search(session, workspace, question, limit)


async def test_questions_find_the_passage_that_answers(world: World) -> None:
    await put_all(world, DOCUMENTS)
    for question, document, heading in [
        ("What does max_overflow do?", "engine.md", "max_overflow"),
        ("max overflow", "engine.md", "max_overflow"),
        ("QueuePool", "engine.md", "max_overflow"),
        ("which class is the queue pool?", "engine.md", "max_overflow"),
        ("maxoverflw", "engine.md", "max_overflow"),
        ("replacing an old connection after some seconds", "engine.md", "pool_recycle"),
        ("Session.commit", "session.rst", "Session"),
        ("sqlalchemy.orm.session.commit", "session.rst", "Session"),
        ("how do I end a transacton", "session.rst", "Session"),
        ("--schema-only", "dump.html", "--schema-only"),
        ("dump definitions but no data", "dump.html", "--schema-only"),
        ("parallel jobs", "dump.html", "--jobs=njobs"),
    ]:
        [first, *_] = await ask(world, question)
        assert (first.document, first.heading.split(" > ")[-1]) == (document, heading), question


async def test_rows_are_whole_and_ordered(world: World) -> None:
    await put_all(world, DOCUMENTS)
    listed = {item["document"]: item for item in (await world.submitter.get(HERE)).json()["items"]}
    found = await ask(world, "pool connections engine dump session", 50)
    assert len(found) >= 8
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert (one.source, one.title) == (listed[one.document]["source"], listed[one.document]["title"])
        assert one.end - one.start == len(one.text.encode())
    assert len(await ask(world, "pool", 3)) == 3
    assert len(await ask(world, "pool", 0)) == 1 and len(await ask(world, "pool", 1000)) <= 50


@pytest.mark.parametrize(
    "question",
    ["", "   ", "the of and", "!!! ' \\ & | ( :* <->", "qqqxxxzzz", "\0", "日本語", "x" * 5000, "' OR 1=1; --", "😀"],
)
async def test_questions_that_ask_for_nothing_find_nothing(world: World, question: str) -> None:
    await put_all(world, DOCUMENTS)
    assert await ask(world, question) == []


async def test_workspaces_are_searched_apart(world: World) -> None:
    await put_all(world, DOCUMENTS)
    await put_all(world, {"only.md": "# Only\n\nmax_overflow lives here too.\n"}, "/v1/workspaces/second/documents")
    assert [one.document for one in await ask(world, "max_overflow", workspace="second")] == ["only.md"]
    assert "only.md" not in [one.document for one in await ask(world, "max_overflow", 50)]
    assert await ask(world, "max_overflow", workspace="nowhere") == []


async def test_rare_words_weigh_more_than_frequent_ones(world: World) -> None:
    common = {
        f"{n:02}.md": f"# Part {n}\n\nthe server writes the record of the table, server record table {n}\n"
        for n in range(30)
    }
    await put_all(
        world, common | {"rare.md": "# Rare\n\nonly here a checkpoint is mentioned, once, far from anything else\n"}
    )
    assert (await ask(world, "does the server record a checkpoint of the table"))[0].document == "rare.md"


async def test_thousands_of_passages_answer_quickly(world: World) -> None:
    nouns = [
        "pool",
        "engine",
        "session",
        "table",
        "index",
        "column",
        "server",
        "client",
        "buffer",
        "lock",
        "page",
        "cache",
    ]
    text = "\n\n".join(
        f"## Part {n}\n\nThe {nouns[n % 12]} of the {nouns[n // 12 % 12]} keeps value{n % 997} for the {nouns[n // 144 % 12]}. "
        + "It is described at some length here. " * 6
        for n in range(12_000)
    )
    await put_all(world, {"big.md": "# Big\n\n" + text})
    await (await inspector(world)).execute("ANALYZE passage, passage_term")
    took = []
    for question in (
        "how does the pool keep value501 for the engine?",
        "lock page cache buffer",
        "described at length",
    ):
        await ask(world, question, 20)
        began = time.perf_counter()
        assert len(await ask(world, question, 20)) == 20
        took.append(time.perf_counter() - began)
    assert sorted(took)[1] < 0.25, f"about 0.02 s each on an idle machine; here {took}"
    assert "value501" in (await ask(world, "value501"))[0].text
