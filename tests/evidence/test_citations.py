"""Does a citation hold? Honest ones do, and every single lie about span, words, hash, source or document is found."""

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.canonical import sha256
from app.evidence import check
from colony_client.artifacts import Citation, Claim, quote_sha256

DOCUMENT, OTHER = "docs/größe.md", "docs/andere.md"
# Letters of one to four bytes, combining marks, line ends: what a byte offset can go wrong on.
texts = st.text(st.sampled_from("ab .\nöß→語🜚e\u0301\u200d"), min_size=1, max_size=60)


def stored(*sources: str) -> dict[str, bytes]:
    return {sha256(text.encode()).hex(): text.encode() for text in sources}


@st.composite
def honest(draw: st.DrawFn) -> tuple[str, Citation]:
    """A source and a true citation of it, cut at character boundaries."""
    text = draw(texts)
    first = draw(st.integers(0, len(text) - 1))
    last = draw(st.integers(first + 1, len(text)))
    start, quote = len(text[:first].encode()), text[first:last]
    return text, Citation(
        source=sha256(text.encode()).hex(),
        document=DOCUMENT,
        start=start,
        end=start + len(quote.encode()),
        quote=quote,
        quote_sha256=quote_sha256(quote.encode()),
    )


def problems(citation: Citation, sources: dict[str, bytes], shown: set[tuple[str, str]] | None = None) -> list[str]:
    """What the check finds, after it was seen to agree with itself."""
    shown = shown if shown is not None else {(source, DOCUMENT) for source in sources}
    found = check(Claim(id="c1", text="A claim.", citations=[citation]), sources, shown)
    [reviewed] = found.reviewed.citations
    assert reviewed.citation == citation
    assert found.reviewed.supported == reviewed.verified == (reviewed.problem is None) == (not found.problems)
    assert all(problem.startswith("claim c1: ") for problem in found.problems)
    return found.problems


@settings(max_examples=300, deadline=None)
@given(honest())
def test_an_honest_citation_holds(made: tuple[str, Citation]) -> None:
    text, citation = made
    assert problems(citation, stored(text)) == []


@settings(max_examples=600, deadline=None)
@given(honest(), st.sampled_from(["start", "end", "quote", "quote_sha256", "source", "document"]), st.integers(0, 300))
def test_a_single_lie_is_found(made: tuple[str, Citation], field: str, seed: int) -> None:
    text, citation = made
    data = text.encode()
    lies: dict[str, Any] = {
        "start": seed % citation.end,
        "end": citation.start + 1 + seed,
        "quote": text[seed % len(text) :] + "." * (seed % 3),
        "quote_sha256": quote_sha256(data[seed % len(data) :] + b"x"),
        "source": sha256(b"#" + data).hex(),  # stored and shown too, with the same words one byte further on
        "document": OTHER,
    }
    told = citation.model_copy(update={field: lies[field]})
    sources = stored(text, "#" + text)
    # the same words may stand in two places: a citation that moved there is as true as before
    assume(sources[told.source][told.start : told.end] != told.quote.encode() or field in ("quote_sha256", "document"))
    assert problems(told, sources) != []


@settings(max_examples=200, deadline=None)
@given(honest(), st.data())
def test_a_lie_with_a_matching_hash_is_found(made: tuple[str, Citation], data: st.DataObject) -> None:
    """Whoever changes the words also has the hash of the changed words: the stored bytes decide."""
    text, citation = made
    quote = data.draw(texts)
    assume(quote != citation.quote)
    told = citation.model_copy(update={"quote": quote, "quote_sha256": quote_sha256(quote.encode())})
    assert problems(told, stored(text)) != []


@settings(max_examples=200, deadline=None)
@given(honest(), st.integers(0, 200), st.integers(1, 200))
def test_a_span_that_cuts_a_character_is_found(made: tuple[str, Citation], start: int, length: int) -> None:
    text, citation = made
    piece = text.encode()[start : start + length]
    try:
        piece.decode()
    except UnicodeDecodeError:
        quote = piece.decode(errors="replace")
        told = citation.model_copy(
            update={"start": start, "end": start + len(piece), "quote": quote, "quote_sha256": quote_sha256(piece)}
        )
        assert problems(told, stored(text)) == ["claim c1: the span cuts a character in two"]


@settings(max_examples=100, deadline=None)
@given(honest())
def test_what_was_never_shown_is_no_evidence_however_true_it_is(made: tuple[str, Citation]) -> None:
    text, citation = made
    for shown in (set(), {(citation.source, OTHER)}, {(sha256(b"another").hex(), DOCUMENT)}):
        assert problems(citation, stored(text), shown) == ["claim c1: the mission was never shown this document"]
    assert problems(citation, {}, {(citation.source, DOCUMENT)}) == ["claim c1: the cited bytes are not stored"]


def test_unicode_that_looks_the_same_is_not_the_same() -> None:
    text = "größe\u0301"
    composed = "größé"
    citation = Citation(
        source=sha256(text.encode()).hex(), document=DOCUMENT, start=0, end=len(text.encode()), quote=composed,
        quote_sha256=quote_sha256(text.encode()),
    )  # fmt: skip
    assert problems(citation, stored(text)) == ["claim c1: the quote is not what the span says"]


def test_a_claim_stands_on_all_of_its_citations_and_never_on_none() -> None:
    text = "Zwei Sätze. Und der zweite."
    source = sha256(text.encode()).hex()
    true = Citation(source=source, document=DOCUMENT, start=0, end=4, quote="Zwei", quote_sha256=quote_sha256(b"Zwei"))
    false = true.model_copy(update={"quote": "Drei"})
    shown = {(source, DOCUMENT)}
    for citations, supported in (
        ([true], True),
        ([true, true], True),
        ([true, false], False),
        ([false], False),
        ([], False),
    ):
        found = check(Claim(id="c1", text="A claim.", citations=citations), stored(text), shown)
        assert found.reviewed.supported is supported
        assert [one.verified for one in found.reviewed.citations] == [one is true for one in citations]
        assert bool(found.problems) is not supported
