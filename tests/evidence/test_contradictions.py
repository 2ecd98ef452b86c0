"""Contradictions between sources: the labelled pairs, near misses, the same answer for the same input, and never an error."""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.canonical import canonical, sha256
from app.evidence.contradictions import Source, find
from tests.evidence.labelled import PAIRS, figures, found_in, sources

# Letters, digits, marks and words of which sentences are made, in any order.
pieces = st.sampled_from(
    ["A rollback", "takes", "four", "ten", "minutes", "not", "€", "12,000", "1.5", "May", "2026", "2026-02-31", "31.12.2025",
     "at least", "between", "and", "is", "owner of", "Ana", "\n", "\n\n", "# Head", ": ", ". ", "|", "%", "L-1001", "ö", "e\u0301",
     "0/0", "```", "- ", "one", "?", "\x00", "9" * 40, "１２", "!", "of the", "'s", "5-3", "10:99"]
)  # fmt: skip
texts = st.lists(pieces, max_size=40).map(" ".join)


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS["true"] if not pair.get("missed")], ids=lambda pair: pair["what"]
)
def test_a_contradiction_is_found_from_both_sides_and_explained(pair: dict[str, Any]) -> None:
    for cited, found in zip("ab", found_in(pair), strict=True):
        assert len(found) == 1, pair
        [one] = found
        assert one.why and one.claims == ["c1"] and one.one.value != one.other.value
        data = {place: source.data for place, source in sources(pair, cited).items()}
        for side in (one.one, one.other):
            assert data[side.source, side.document][side.start : side.end].decode() == side.quote
        assert data[one.one.source, one.one.document] == pair[cited].encode()  # the cited side comes first


@pytest.mark.parametrize("pair", PAIRS["near"], ids=lambda pair: pair["what"])
def test_a_near_miss_is_left_alone(pair: dict[str, Any]) -> None:
    assert found_in(pair) == [[], []]


def test_the_figures_are_those_that_are_documented() -> None:
    assert figures() == (27, 0, 3)


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_no_text_is_an_error_and_the_answer_is_always_the_same(one: str, other: str) -> None:
    def asked(*order: str) -> list[Any]:
        made = {
            (sha256(text.encode()).hex(), f"{name}.md"): text
            for name, text in zip(("first", "second"), (one, other), strict=True)
        }
        places = sorted(made, key=lambda place: order.index(place[1][:5]))
        return find(
            {
                place: Source("document", made[place].encode(), [(0, len(made[place].encode()), "c1")])
                for place in places
            }
        )[0]

    assert asked("first", "secon") == asked("secon", "first")


def test_what_holds_a_nul_is_not_quoted_and_hides_nothing_else() -> None:
    """Documents may hold one, and no artifact does: a review that tried to quote it would end in an error, again and again."""

    def said(minutes: str, months: str) -> Source:
        text = (
            f"A rollback\x00 takes {minutes} minutes in production. Backups are kept for {months} months in the vault."
        )
        return Source("document", text.encode(), [(0, len(text), "c1")])

    found, _ = find({("a" * 64, "first.md"): said("ten", "six"), ("b" * 64, "second.md"): said("twenty", "nine")})
    assert [{one.one.value, one.other.value} for one in found] == [{"six months", "nine months"}]


RECORDS = (
    b"{", b"[]", b'{"id": 1}', b"\xff",
    b'{"id": "L-1", "fields": {"": "x", "stage": "\\u0000", "n": 1e400}}',
)  # fmt: skip


@pytest.mark.parametrize("data", RECORDS)
def test_no_record_is_an_error(data: bytes) -> None:
    place = sha256(data).hex(), "crm/lead/L-1"
    text = b"The stage of L-1 is won."
    made = {
        place: Source("record", data, [(0, len(data), None)]),
        (sha256(text).hex(), "a.md"): Source("document", text),
    }
    assert find(made) == ([], set())


def test_no_field_of_a_record_is_too_long_for_what_is_told() -> None:
    data = b'{"fields":{"owner":"%s","stage":"new"},"id":"L-1"}' % (b"A" * 5000)
    text = b"The owner of L-1 is Ana. The stage of L-1 is won."
    made = {
        (sha256(data).hex(), "crm/lead/L-1"): Source("record", data, [(0, len(data), "c1")]),
        (sha256(text).hex(), "a.md"): Source("document", text),
    }
    [[one], _] = find(made)
    assert (one.one.quote, one.other.value) == ('"stage":"new"', "won")


def test_a_line_that_is_about_nothing_is_no_error() -> None:
    one, other = b"To: 5 minutes", b"To: 6 minutes"
    made = {
        (sha256(one).hex(), "a.md"): Source("document", one, [(0, len(one), "c1")]),
        (sha256(other).hex(), "wiki/b.md"): Source("document", other),
    }
    assert find(made) == ([], set())


FIVE, NINE = "The vault keeps five copies of contracts.", "The vault keeps nine copies of contracts."


def in_order(*texts: tuple[str, str]) -> list[tuple[tuple[str, str], bytes]]:
    """Documents (text, path) with hashes that say in which order they are looked at."""
    return [((f"{number:064x}", path), text.encode()) for number, (text, path) in enumerate(texts)]


@pytest.mark.parametrize("variants", [1, 1100], ids=["the same again", "the same under other headings"])
def test_a_source_that_goes_on_and_on_hides_no_other(variants: int) -> None:
    """It is looked at first, and says what is cited more often than pairs are looked at."""
    heads = words(8_000).split()
    often = "\n\n".join(f"# Part {head}\n\n{FIVE}" for head in heads[:10])
    said = "\n\n".join(f"# About {heads[number % variants]}\n\n{FIVE}" for number in range(1100))
    (guide, cited), (loud, hiding), (wiki, true) = in_order((often, "guide.md"), (said, "loud.md"), (NINE, "wiki/b.md"))
    made = {
        guide: Source("document", cited, [(0, len(cited), "c1")]),
        loud: Source("document", hiding),
        wiki: Source("document", true),
    }
    found, cut_short = find(made)
    assert {(one.one.value, one.other.value, one.other.document) for one in found} == {("five", "nine", "wiki/b.md")}
    assert cut_short == ({loud} if variants > 1 else set())


def test_a_cited_source_that_goes_on_and_on_hides_no_other() -> None:
    said = "\n\n".join(f"The vault number {number} keeps five copies." for number in range(600))
    (loud, hiding), (guide, cited), (wiki, true) = in_order((said, "loud.md"), (FIVE, "guide.md"), (NINE, "wiki/b.md"))
    made = {
        loud: Source("document", hiding, [(0, len(hiding), "c1")]),
        guide: Source("document", cited, [(0, len(cited), "c2")]),
        wiki: Source("document", true),
    }
    [one], cut_short = find(made)
    assert one.claims == ["c2"] and cut_short == {loud}


def test_what_two_cited_sources_say_often_is_told_once_for_all_claims() -> None:
    one, other = f"{FIVE}\n\n{FIVE}".encode(), f"{NINE}\n\n{NINE}".encode()
    made = {
        (sha256(one).hex(), "a.md"): Source("document", one, [(0, 9, "c1"), (50, 60, "c2")]),
        (sha256(other).hex(), "wiki/b.md"): Source("document", other, [(50, 60, "c3")]),
    }
    [told], _ = find(made)
    assert told.claims == ["c1", "c2", "c3"]
    assert [(side.start, side.end) for side in (told.one, told.other)] in ([(0, 41), (43, 84)], [(43, 84), (0, 41)])


def test_only_what_is_cited_is_held_against_the_rest() -> None:
    """Two sources that nobody cites may say what they like; of a cited source only the sentences that are cited count."""
    guide = b"A rollback takes four minutes.\n\nThe vault keeps five copies of contracts.\n"
    wiki = b"A rollback takes ten minutes.\n\nThe vault keeps nine copies of contracts.\n"
    places = [(sha256(data).hex(), name) for data, name in ((guide, "guide.md"), (wiki, "wiki/notes.md"))]
    made = dict(zip(places, (Source("document", guide), Source("document", wiki)), strict=True))
    assert find(made) == ([], set())
    made[places[0]].spans.append((2, 10, "c1"))  # a part of the first sentence
    [[one], _] = find(made)
    assert one.one.value == "four minutes"


def test_a_contradiction_is_told_once_however_many_claims_cite_it() -> None:
    guide, wiki = b"A rollback takes four minutes.", b"A rollback takes ten minutes."
    made = {
        (sha256(guide).hex(), "guide.md"): Source("document", guide, [(0, 30, "c1"), (0, 30, "c2")]),
        (sha256(wiki).hex(), "wiki/notes.md"): Source("document", wiki, [(0, 20, "c3")]),
    }
    [[one], _] = find(made)
    assert one.claims == ["c1", "c2", "c3"]


def words(size: int) -> str:
    """No two of them alike."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(letters[number // 26**place % 26] for place in range(4)) for number in range(size // 5))


# Texts of about so many characters at which a pattern, or a loop in a loop, could take far longer than their length.
HOSTILE: dict[str, Callable[[int], str]] = {
    **{repr(piece): partial(lambda piece, size: piece * (size // len(piece)), piece) for piece in (
        "9", "a ", "1 ", "not ", "x:", "|", "at least ", "- ", ".\n", "1,000 ", "A b.c ", "-", "@'", "a-", "'", "_",
        "```x\n", "~~~\n```x\n", "```\n```\n", "# a\n", "# ab\n\nIt is so.\n\n", "```\n```\n\nIt is so.\n\n",
        "The vault keeps five copies of contracts.\n\n", "owner of" + " " * 560 + "x.\n\n", "|" + " " * 560 + "x\n",
    )},
    "closed heading": lambda size: "# a" + "#" * size + "x",
    "wide heading": lambda size: "# a" + " " * size + "x",
    "empty heading": lambda size: "#" + "\n" * size,
    "dotted heading": lambda size: "# " + "." * size,
    "long heading": lambda size: "# " + "a b " * (size // 8) + "\n\n" + "It is so.\n\n" * (size // 22),
    "many words": words,
    "sentences of many words": lambda size: re.sub(r"(.{400}\w*) ", r"\1.\n\n", words(size)),
}  # fmt: skip

VAULT = "The vault keeps nine copies of contracts.\n\n"
# What is cited is about as many matters as are looked at, so what others say is searched for all of them.
MATTERS = "\n\n".join(f"The {word}{word} keeps five copies." for word in words(2500).split())


def in_documents(text: str) -> dict[tuple[str, str], Source]:
    data, other = text.encode(), (VAULT * (len(text) // 430)).encode()
    return {
        (sha256(data).hex(), "a.md"): Source("document", data, [(at, at + 4000, f"c{at}") for at in range(0, len(data), 2000)]),
        (sha256(other).hex(), "wiki/b.md"): Source("document", other, [(0, len(other), "c")]),
    }  # fmt: skip


def beside_many_matters(text: str) -> dict[tuple[str, str], Source]:
    return {
        (sha256(MATTERS.encode()).hex(), "a.md"): Source("document", MATTERS.encode(), [(0, len(MATTERS), "c")]),
        (sha256(text.encode()).hex(), "wiki/b.md"): Source("document", text.encode()),
    }


def in_a_field(text: str) -> dict[tuple[str, str], Source]:
    data, other = canonical({"fields": {"owner": text}, "id": "L-1"}), b"The owner of L-1 is Ana."
    return {
        (sha256(data).hex(), "crm/lead/L-1"): Source("record", data, [(0, len(data), "c")]),
        (sha256(other).hex(), "b.md"): Source("document", other),
    }


def in_many_fields(text: str) -> dict[tuple[str, str], Source]:
    fields = {f"owner {at}": text[at : at + 200] for at in range(0, len(text), 200)}
    data, other = canonical({"fields": fields, "id": "L-1"}), b"The owner of L-1 is Ana."
    return {
        (sha256(data).hex(), "crm/lead/L-1"): Source("record", data, [(0, len(data), "c")]),
        (sha256(other).hex(), "b.md"): Source("document", other),
    }


@pytest.mark.parametrize("shape", [in_documents, beside_many_matters, in_a_field, in_many_fields])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_processor_time_in_proportion_to_their_length(
    make: Callable[[int], str], shape: Callable[[str], dict[tuple[str, str], Source]]
) -> None:
    def spent(size: int) -> float:
        made = shape(make(size))
        began = time.thread_time()
        find(made)
        return time.thread_time() - began

    short = max(spent(4_000), 0.02)
    assert spent(32_000) < 24 * short  # eight times the text; what grows with its square takes 64 times as long


LARGE = {
    "words": "x " * 200_000,
    "one word": "zq" * 200_000,
    "many words": words(400_000),
    "sentences": HOSTILE["sentences of many words"](400_000),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_large_text_is_read_once_however_much_is_cited(text: str) -> None:
    """Nothing else in the process runs during one search of a text, and what is no sentence is not searched."""

    def spent(text: str) -> float:
        made = beside_many_matters(text)
        began = time.thread_time()
        assert find(made) == ([], set())
        return time.thread_time() - began

    spent("x")
    assert spent(text) < 6 * max(spent("x"), 0.05)
