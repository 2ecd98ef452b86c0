"""Contradictions between sources: the labelled pairs, near misses, the same answer for the same input, and never an error."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.canonical import sha256
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
        )

    assert asked("first", "secon") == asked("secon", "first")


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
    assert find(made) == []


def test_only_what_is_cited_is_held_against_the_rest() -> None:
    """Two sources that nobody cites may say what they like; of a cited source only the sentences that are cited count."""
    guide = b"A rollback takes four minutes.\n\nThe vault keeps five copies of contracts.\n"
    wiki = b"A rollback takes ten minutes.\n\nThe vault keeps nine copies of contracts.\n"
    places = [(sha256(data).hex(), name) for data, name in ((guide, "guide.md"), (wiki, "wiki/notes.md"))]
    made = dict(zip(places, (Source("document", guide), Source("document", wiki)), strict=True))
    assert find(made) == []
    made[places[0]].spans.append((2, 10, "c1"))  # a part of the first sentence
    [one] = find(made)
    assert one.one.value == "four minutes"


def test_a_contradiction_is_told_once_however_many_claims_cite_it() -> None:
    guide, wiki = b"A rollback takes four minutes.", b"A rollback takes ten minutes."
    made = {
        (sha256(guide).hex(), "guide.md"): Source("document", guide, [(0, 30, "c1"), (0, 30, "c2")]),
        (sha256(wiki).hex(), "wiki/notes.md"): Source("document", wiki, [(0, 20, "c3")]),
    }
    [one] = find(made)
    assert one.claims == ["c1", "c2", "c3"]


# Texts of about so many characters at which a pattern, or a loop in a loop, could take far longer than their length.
HOSTILE: dict[str, Callable[[int], str]] = {
    **{repr(piece): partial(lambda piece, size: piece * (size // len(piece)), piece) for piece in (
        "9", "a ", "1 ", "not ", "x:", "|", "at least ", "- ", ".\n", "1,000 ", "A b.c ",
        "```x\n", "~~~\n```x\n", "```\n```\n", "# a\n", "# ab\n\nIt is so.\n\n", "```\n```\n\nIt is so.\n\n",
        "The vault keeps five copies of contracts.\n\n", "owner of" + " " * 560 + "x.\n\n", "|" + " " * 560 + "x\n",
    )},
    "closed heading": lambda size: "# a" + "#" * size + "x",
    "wide heading": lambda size: "# a" + " " * size + "x",
    "empty heading": lambda size: "#" + "\n" * size,
    "dotted heading": lambda size: "# " + "." * size,
    "long heading": lambda size: "# " + "a b " * (size // 8) + "\n\n" + "It is so.\n\n" * (size // 22),
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_processor_time_in_proportion_to_their_length(make: Callable[[int], str]) -> None:
    def spent(size: int) -> float:
        data, other = make(size).encode(), ("The vault keeps nine copies of contracts.\n\n" * (size // 430)).encode()
        began = time.thread_time()
        find({
            (sha256(data).hex(), "a.md"): Source("document", data, [(at, at + 4000, f"c{at}") for at in range(0, len(data), 2000)]),
            (sha256(other).hex(), "wiki/b.md"): Source("document", other, [(0, len(other), "c")]),
        })  # fmt: skip
        return time.thread_time() - began

    short = max(spent(4_000), 0.02)
    assert spent(32_000) < 24 * short  # eight times the text; what grows with its square takes 64 times as long
