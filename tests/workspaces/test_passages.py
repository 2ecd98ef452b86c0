"""Cutting text into passages: exact bytes, nothing lost, structure kept."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.workspaces.passages import LONGEST, Passage, split
from app.workspaces.structure import Kind

LINES = st.one_of(
    st.sampled_from(
        [
            "",
            "",
            "  ",
            "\f",
            "===",
            "----",
            "# One",
            "## Two {#two}",
            "Three",
            "- item",
            "  - inner",
            "1. first",
            "```",
            "~~~",
            "> quote",
            "| a | b |",
            "|---|---|",
            ".. note::",
            ".. function:: f(x)",
            "   :param x: y",
            "It follows::",
            "    code()",
            ".. _label:",
            "[a]: http://b",
            "<div>",
            "---",
            "\ufeff",
            "naïve café 日本語 😀",
            "word " * 90,
            "x" * 700,
        ]
    ),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60),
)
TEXTS = st.builds(
    lambda lines, end: end.join(lines), st.lists(LINES, max_size=60), st.sampled_from(["\n", "\r\n", "\r"])
)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from(["markdown", "rst", "html", "pdf", "text"]))
def test_passages_are_ordered_exact_and_complete(text: str, kind: Kind) -> None:
    source = text.encode()
    passages = split(source, kind)
    rest, end = bytearray(source), 0
    for number, passage in enumerate(passages):
        assert passage.ordinal == number
        assert end <= passage.start < passage.end <= len(source)
        assert passage.end - passage.start <= LONGEST
        assert source[passage.start : passage.end].decode() == passage.body
        rest[passage.start : passage.end] = b" " * (passage.end - passage.start)
        end = passage.end
    assert not bytes(rest).strip().strip("\ufeff".encode()).strip(), "every character is in a passage"


def cut(text: str, kind: Kind) -> list[Passage]:
    return split(text.encode(), kind)


def holding(passages: list[Passage], words: str) -> Passage:
    [found] = [passage for passage in passages if words in passage.body]
    return found


FILLER = "This sentence is only here to give the section a certain length, so that it stands alone. " * 4


def test_markdown_passages_know_their_sections_and_keep_code_whole() -> None:
    text = (
        f"---\ntitle: Front\n---\n# Guide\n\n{FILLER}\n\n## Pool `size` {{#size}}\n\n{FILLER}\n\nSet it like this:\n\n"
        f"```python\n# not a heading\npool = 5\n```\n\nDone\n----\n\n{FILLER}\n"
    )
    passages = cut(text, "markdown")
    code = holding(passages, "pool = 5")
    assert code.heading == "Guide > Pool size"
    assert "Set it like this:\n\n```python\n# not a heading\npool = 5\n```" in code.body
    assert holding(passages, "Done").heading == "Guide > Done"


def test_list_items_that_explain_a_name_are_sections_of_their_own() -> None:
    items = "\n\n".join(f"- {name}\n\n  {FILLER}" for name in ("listen_addresses (string)", "port (integer)"))
    passages = cut(f"# Settings\n\n{items}\n\nAfter the list. {FILLER}", "html")
    assert holding(passages, "port (integer)").heading == "Settings > port (integer)"
    assert holding(passages, "After the list").heading == "Settings"


def test_rst_sections_directives_and_literal_blocks() -> None:
    text = (
        f"=====\nTitle\n=====\n\n{FILLER}\n\n.. _here:\n\nSection\n-------\n\n{FILLER}\n\n"
        f".. function:: connect(url, *, timeout=5)\n\n   {FILLER}\n\n   For example::\n\n       one()\n\n       two()\n\n"
        f"Back in the section. {FILLER}\n\nSub :func:`x`\n~~~~~~~~~~~~~\n\n{FILLER}\n"
    )
    passages = cut(text, "rst")
    assert holding(passages, "timeout=5").heading == "Title > Section > connect(url, *, timeout=5)"
    example = holding(passages, "one()")
    assert "For example::" in example.body and "two()" in example.body, "the introduction stays with all of its code"
    assert holding(passages, "Back in the section").heading == "Title > Section"
    assert holding(passages, "Sub :func:").heading == "Title > Section > Sub x"
    assert ".. _here:" in holding(passages, "Section\n---").body, "a label goes with the title it marks"


def test_pdf_passages_name_their_page() -> None:
    passages = cut(f"First page. {FILLER}\n\f\n\n\f\nThird page. {FILLER}", "pdf")
    assert [passage.heading for passage in passages] == ["page 1", "page 3"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    passages = cut("Ein Satz mit Ümlaut endet hier. " * 200, "text")
    assert len(passages) > 5
    assert all(passage.body.endswith("hier.") for passage in passages)
    assert min(len(passage.body.encode()) for passage in passages) > LONGEST / 4
