"""Marked-up text as a reader would see it: Markdown, reStructuredText, AsciiDoc and HTML leftovers taken away.

Only markup is removed, words are never added or put in another order: that is what lets the reviewer check a claim
against the bytes it cites without knowing which format they are in (`words_of`, `is_drawn_from`).
"""

import html
import re
import textwrap

_INLINE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), into)
    for pattern, into in (
        (r"!\[([^\]]*)\]\([^)\s]*\)", r"\1"),
        (r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)(?:\{[^}\n]*\})?", r"\1"),
        (r"\[([^\[\]\n]+)\]\[[^\[\]\n]*\]", r"\1"),
        (r"\[\^[\w-]+\]", ""),
        (r"\[\[[\w.-]+\]\]", ""),  # AsciiDoc anchors
        (r"(?<!\w)\[(?:\*|#?[\w-]*)\]_", ""),  # footnotes of reStructuredText
        (r"\{[\w:+-]+\}`+(?:[^`]*?<)?[~!.]?([^`>]*)>?`+", r"\1"),  # MyST roles
        (r":[\w:+-]+:`[~!.]?([^`<]*?)\s*<[^`>]*>`(?:__?)?", r"\1"),
        (r":[\w:+-]+:`~(?:[^`]*[./])?([^`./]+)`", r"\1"),
        (r":[\w:+-]+:`[!.]?(?:_\w+\.)?([^`]*)`", r"\1"),
        (r"`([^`<\n]+?)\s*<[^`>]*>`__?", r"\1"),
        (r"(?<!`)`([^`\n]+)`__?(?!\w)", r"\1"),
        (r"``(.+?)``", r"\1"),
        (r"`([^`\n]+)`", r"\1"),
        (r"linkgit:([\w-]+)\[(\d)\]", r"\1(\2)"),
        (r"<<[\w.-]+,\s*([^>]+)>>", r"\1"),
        (r"\*\*\*(?=\S)([^*\n]+?)\*([^*\n]*?)\*\*", r"\1\2"),
        (r"\*\*(?=\S)([^*]{1,600}?)(?<=\S)\*\*", r"\1"),
        (r"(?<![\w*\\])\*(?=[^\s*])([^*]{1,600}?)(?<=[^\s*])\*(?![\w*])", r"\1"),
        (r"(?<![\w_])__(?=\w)([^_\n]+(?:_[^_\n]+)*?)(?<=\w)__(?![\w_])(?=[\s.,;:!?)]|$)(?<!init__)", r"__\1__"),
        (r"(?<![\w|])\|([\w .-]+)\|(?![\w|])", r"\1"),
        (
            r"</?(?:a|b|i|p|br|em|strong|code|kbd|span|div|tt|sup|sub|li|ul|ol|td|tr|th|table|details|summary)(?:\s[^<>]*)?/?>",
            "",
        ),
        (r"<!--.*?-->", ""),
        (r"\{(?:caret|tilde|startsb|endsb|plus|litdd|asterisk)\}", ""),
        (r"¶", ""),
        (r"\\([*_`|\\<>\[\](){}#.!~'\"-])(?=\w|\W)", r"\1"),
    )
)
_MARKERS = re.compile(
    r"(?m)^[ \t]*(?:>[ \t]?)*(?:(?:[-*+•]|\(?\d{1,3}[.)]|#\.)[ \t]+|#{1,6}[ \t]+|\+[ \t]*$|\.\.[ \t]+(?:py:)?[\w-]+::[ \t]*)"
)
_ADORNMENT = re.compile(r"(?m)^[ \t]*([=\-~^\"'`#*+.:_])\1{2,}[ \t]*$")
_RULES = re.compile(r"(?m)^[ \t]*[|+=\-: \t]{4,}$")
_WORD = re.compile(r"[^\W_]+")


def plain(text: str) -> str:
    """Running text on one line."""
    text = _RULES.sub("", _ADORNMENT.sub("", _MARKERS.sub("", text)))
    for pattern, into in _INLINE:
        text = pattern.sub(into, text)
    text = re.sub(r"(?<=[\w)'\"])::(?=\s|$)", ":", re.sub(r"(?:^|\s+)::\s*$", "", html.unescape(text)))
    return " ".join(text.split())


def plain_row(text: str) -> str:
    """A table row: its cells, separated by dashes."""
    cells = [plain(cell) for cell in re.split(r"(?<!\\)\||\s{2,}|\t", text.strip().strip("|"))]
    return " — ".join(cell for cell in cells if cell)


def plain_code(text: str) -> str:
    """Code without its fence or directive and without the common indentation; its own lines and spaces are kept."""
    lines = text.expandtabs(4).splitlines()
    if lines and re.match(r"\s*(?:```|~~~)", lines[0]):
        lines = lines[1:-1] if re.match(r"\s*(?:```|~~~)", lines[-1]) else lines[1:]
    elif lines and re.match(r"\s*\.\. [\w:-]+::", lines[0]):
        lines = lines[1:]
        while lines and re.match(r"\s+:[\w-]+:", lines[0]):
            lines = lines[1:]
    kept = [line.rstrip() for line in lines]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def words_of(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def is_drawn_from(claim: str, quotes: list[str]) -> bool:
    """Do the words of the claim stand in the quotes, all of them and in this order?"""
    held = iter(word for quote in quotes for word in words_of(html.unescape(quote)))
    return all(word in held for word in words_of(claim))
