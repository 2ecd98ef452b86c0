"""Words, questions, units and plain text: how documents and questions are taken apart."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colony.reading.evidence import Window, grip
from colony.reading.plain import is_drawn_from, plain, plain_code
from colony.reading.question import analyse, split_questions
from colony.reading.ranking import Found, Rarity, rank, rarity, read
from colony.reading.sentences import sentence_spans
from colony.reading.terms import index, key_of, stem
from colony.reading.units import units


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("the configured values", "configure"),
        ("set `max_overflow` to 5", "max_overflow"),
        ("set `max_overflow` to 5", "overflow"),
        ("pass --no-verify", "--no-verify"),
        ("QuerySets are lazy", "queryset"),
        ("QuerySets are lazy", "query"),
        ("call Session.execute() here", "Session.execute"),
        ("call orm.Session.execute()", "Session.execute"),
        ("results are kept", "keep"),
        ("use -x to stop", "-x"),
    ],
)
def test_a_text_is_found_under_the_words_one_would_ask_for(text: str, asked: str) -> None:
    assert key_of(asked) in index(text).places


def test_neighbours_of_an_identifier_keep_their_places() -> None:
    places = index("set max_overflow now").places
    assert places["max"] == (1,) and places["overflow"] == (2,) and places["now"] == (3,)


def test_missions_that_read_at_the_same_time_see_the_same_words() -> None:
    words = [
        f"{first}{middle}{last}" for first in ("con", "re", "un") for middle in ("figur", "nation") for last in ENDINGS
    ]
    alone = [stem.__wrapped__(word) for word in words]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: [stem.__wrapped__(word) for word in words], range(24)))
    assert all(found == alone for found in together)


ENDINGS = (
    "ation",
    "ations",
    "able",
    "ably",
    "ing",
    "ed",
    "ers",
    "al",
    "alize",
    "alization",
    "ness",
    "fulness",
    "ement",
    "ity",
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How do I create a user?", "how"),
        ("What is the default timeout?", "default"),
        ("What is a berth?", "definition"),
        ("What is the difference between a list and a tuple?", "difference"),
        ("Why should I set SECRET_KEY?", "reason"),
        ("When is a query evaluated?", "time"),
        ("How many workers can run?", "amount"),
        ("Which databases are supported?", "list"),
        ("Which signal is sent?", "choice"),
    ],
)
def test_the_kind_of_a_question(text: str, kind: str) -> None:
    assert analyse(text).kind == kind


def test_names_and_identifiers_have_to_be_there_and_framing_words_do_not() -> None:
    question = analyse("What is the default value of `pool_size` in SQLAlchemy?")
    terms = {term.key: term for term in question.terms}
    assert terms["pool_size"].firm and terms["sqlalchemi"].firm
    assert terms["pool_size"].parts == ("pool", "size")
    assert max(terms[key].weight for key in ("default", "valu")) < 0.5


def test_what_is_acted_upon() -> None:
    assert [term.surface for term in analyse("How do I undo the last commit but keep my changes?").focus][:2] == [
        "last",
        "commit",
    ]


@pytest.mark.parametrize(
    ("goal", "parts"),
    [
        ("What is a berth?", ["What is a berth?"]),
        ("What is a berth? How do I make one?", ["What is a berth?", "How do I make one (berth)?"]),
        ("How do I limit uploads, and what is the default?", ["How do I limit uploads", "what is the default?"]),
        ("Tell me about berths", ["Tell me about berths"]),
        ("Who?", ["Who?"]),
        ("I run a shop. Which settings matter?", ["Which settings matter?"]),
    ],
)
def test_a_goal_is_split_into_questions_that_stand_alone(goal: str, parts: list[str]) -> None:
    assert split_questions(goal) == parts


@given(st.text(max_size=400))
def test_any_goal_gives_at_least_one_part_and_any_text_can_be_read(text: str) -> None:
    assert len(split_questions(text)) >= 1
    analyse(text)
    index(text)


@pytest.mark.parametrize(
    ("marked", "read_as"),
    [
        ("Call :meth:`~a.b.Session.execute` or :ref:`this page <x-y>`.", "Call execute or this page."),
        ("See [the guide](https://x.example/a_b) and **mind** `code`.", "See the guide and mind code."),
        ("``max_overflow`` and __init__ and 2*3*4", "max_overflow and __init__ and 2*3*4"),
        ("- one thing", "one thing"),
        ("`Docs <https://x.example>`__ say linkgit:git-add[1] &amp; more", "Docs say git-add(1) & more"),
        ("[[anchor]]bare repository", "bare repository"),
    ],
)
def test_markup_is_taken_away_and_words_stay(marked: str, read_as: str) -> None:
    assert plain(marked) == read_as
    assert is_drawn_from(plain(marked), [marked])


def test_a_claim_with_other_words_or_another_order_is_not_drawn_from_its_quotes() -> None:
    assert not is_drawn_from("a berth is not a queue", ["a berth is a queue"])
    assert not is_drawn_from("queue a is berth", ["a berth is a queue"])
    assert is_drawn_from("Default: 15", ["HEARTBEAT", "Default: ``15``"]) and is_drawn_from("x: 1", ["x", "1"])


def test_code_keeps_its_lines() -> None:
    assert plain_code("```python\nif x:\n    y()\n```") == "if x:\n    y()"
    assert plain_code(".. code-block:: python\n   :caption: x\n\n   if x:\n       y()") == "if x:\n    y()"


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = "Use 3.11 or e.g. 3.12. It works (mostly). See `a.b`. Done"
    assert [text[start:end] for start, end in sentence_spans(text, 0, len(text))] == [
        "Use 3.11 or e.g. 3.12.", "It works (mostly).", "See `a.b`.", "Done",
    ]  # fmt: skip


def kinds(text: str) -> list[tuple[str, str]]:
    return [(unit.kind, text[unit.start : unit.end]) for unit in units(text)]


def test_units_of_markdown() -> None:
    text = "# Title\n\nOne. Two:\n\n- a\n  more\n- b\n\n```\nx = 1\n```\n\n| k | v |\n|---|---|\n| a | 1 |\n"
    found = [(kind, quote) for kind, quote in kinds(text) if kind != "row"]
    assert found == [
        ("heading", "# Title"), ("sentence", "One."), ("sentence", "Two:"), ("item", "- a\n  more"), ("item", "- b"),
        ("code", "```\nx = 1\n```"),
    ]  # fmt: skip
    lead = next(unit.lead for unit in units(text) if unit.kind == "item")
    assert lead is not None and units(text)[lead].kind == "sentence"
    assert ("row", "| a | 1 |") in kinds(text)


def test_units_of_restructuredtext_and_asciidoc_belong_to_their_entry() -> None:
    text = ".. option:: --fast\n\n   Goes fast.\n\nOutside.\n"
    fast, goes, outside = units(text)
    assert (fast.kind, goes.head, outside.head) == ("entry", 0, None)
    text = "-f::\n--force::\n\tDo not wait.\n+\nStill about force.\n"
    entry, wait, still = units(text)
    assert text[entry.start : entry.end] == "-f::\n--force::"
    assert (wait.head, still.head) == (0, 0)


@given(
    st.lists(
        st.sampled_from(
            [
                "# A",
                "text here.",
                "  deep",
                "- x",
                "```",
                "",
                "::",
                "a::",
                "\tb",
                "| c | d |",
                "+",
                "===",
                ".. x::",
                "$ run",
            ]
        ),
        max_size=30,
    )
)
def test_units_never_overlap_and_stay_inside(lines: list[str]) -> None:
    text = "\n".join(lines)
    at = 0
    for unit in units(text):
        assert at <= unit.start < unit.end <= len(text)
        at = unit.end


def found(text: str, heading: str = "", document: str = "a.md") -> Found:
    return Found("0" * 64, document, "", heading, 0, len(text.encode()), text)


def test_rarity_counts_exactly_what_a_search_did_not_cut_off() -> None:
    pool = [read(found(f"common word {number}")) for number in range(5)] + [read(found("rare thing"))]
    rare = rarity(["common", "rare", "nowher"], {"common": pool[:5], "rare": pool[5:]}, pool, 1000)
    assert rare.frequency == {"common": 5.0, "rare": 1.0, "nowher": 0.0}
    assert rare.idf("rare") > rare.idf("common") and rare.idf("nowher") > rare.idf("rare")


def test_a_passage_with_all_words_beats_one_that_repeats_the_common_one_and_release_notes_come_last() -> None:
    texts = [
        found("retry retry retry retry the job"),
        found("A failed job is retried with a policy."),
        found("A failed job is retried with a policy!", document="changelog.md"),
    ]
    rare = Rarity(1000, {"retri": 300.0, "fail": 40.0, "job": 300.0})
    ranked = rank(analyse("How do I retry a failed job?"), [read(one) for one in texts], rare)
    assert [entry.read.found for entry in ranked] == [texts[1], texts[2], texts[0]] or ranked[0].read.found == texts[1]


def test_a_term_counts_for_a_unit_through_the_entry_it_belongs_to() -> None:
    window = Window(found(".. setting:: POOL_SIZE\n\n   Default: ``5``\n"), 1.0)
    question, rare = analyse("What is the default of POOL_SIZE?"), Rarity(1000, {"pool_size": 1.0, "default": 100.0})
    held = grip(question, rare, window, (1,))
    assert held.levels["pool_size"] == pytest.approx(0.95) and held.coverage > 0.9 > held.own
