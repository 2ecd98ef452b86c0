"""The main content of an HTML page as Markdown-like text: headings, paragraphs, lists, tables, preformatted text.

Navigation, scripts, styles and page furniture are passed over. The walk keeps its own stack, so that a page nested a
hundred thousand deep costs memory in proportion and no recursion, and it only reads: the tree is never changed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

_NO_TEXT = re.compile(
    r"(?:head|script|style|noscript|template|nav|iframe|object|embed|svg|canvas|audio|video|button|input|select|textarea|"
    r"dialog|footer|-.*|_.*|!.*)$"
)
_NO_TEXT_ROLES = frozenset(("navigation", "search", "banner", "contentinfo", "menu", "dialog"))
# Furniture that only its class or id gives away, as whole words of the attribute.
_FURNITURE = re.compile(
    r"(?:^|\s)(?:nav|navbar|nav-?header|nav-?footer|navigation|site-nav|side-?bar|sphinxsidebar\w*|breadcrumbs?|"
    r"site-header|site-footer|page-footer|footer|toc|toctree-wrapper|table-of-contents|menu|skip-?link|related|"
    r"searchbox|cookie-banner|edit-this-page|pagination|headerlink|anchor-link)(?:\s|$)",
    re.I,
)
_CONTENT = ("main", "[role=main]", "article", "div.body", "#content")
_BLOCK = re.compile(
    r"(?:address|article|aside|blockquote|body|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|form|h[1-6]|"
    r"header|hgroup|hr|legend|li|main|menu|ol|p|pre|section|summary|table|tbody|td|tfoot|th|thead|tr|ul)$"
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_DEEPEST_LIST = 8


def markdown_of(html: str) -> tuple[str, str]:
    """Text and title of a page; either may be empty."""
    tree = LexborHTMLParser(html)
    named = tree.css_first("title")
    title = _one_line(named.text()) if named else ""
    if tree.body is None:
        return "", title
    text = _written(tree.body, pass_over_furniture=True)
    for selector in _CONTENT:
        parts = [_written(node, pass_over_furniture=True) for node in tree.css(selector)[:20]]
        best = max(parts, key=len, default="")
        if len(best) > 0.3 * len(text):
            text = best
            break
    if len(text) < 200:  # little is left: perhaps the names mislead, and what looks like furniture is all there is
        whole = _written(tree.body, pass_over_furniture=False)
        text = text if len(text) > 0.2 * len(whole) else whole
    heading = re.search(r"^# (.+)$", text, re.M)
    return text, heading[1] if heading else title


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass
class _Page:
    """What has been written so far, and what is open at this point of the walk."""

    written: list[str] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)  # text of the open block; \v stands for <br>
    lists: list[int | None] = field(default_factory=list)  # per open list: the next number, None for bullets
    marker: str = ""  # list marker waiting for the first text of its item
    tables: list[bool] = field(default_factory=list)  # per open table: whether it holds data, not page layout
    row: list[str] | None = None  # cells of the open table row
    pre: bool = False
    apart: bool = False  # a list has just ended: the next item belongs to another one

    def close(self, prefix: str = "") -> None:
        """Ends the open block, if it holds text."""
        text = "".join(self.inline)
        self.inline.clear()
        if self.pre:
            text = text.replace("\v", "\n").strip("\r\n").rstrip()
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
            text = f"{fence}\n{text}\n{fence}" if text else ""
        elif prefix:
            text = prefix + _one_line(text) if text.strip() else ""
        else:
            text = "\n".join(line for line in map(_one_line, text.split("\v")) if line)
        if text:
            # Items of one list stand close together, anything else is set apart by a blank line.
            after_item = bool(self.written) and _ITEM.match(self.written[-1]) is not None
            self.put(text, close=bool(self.marker) and after_item and not self.apart)

    def put(self, text: str, close: bool) -> None:
        depth = min(len(self.lists), _DEEPEST_LIST)
        first = "  " * (depth - 1) + self.marker if self.marker else "  " * depth
        later = " " * len(first)
        self.marker, self.apart = "", False
        if not close:
            self.written.append("")
        self.written.extend(
            (later if number else first) + line if line.strip() else "" for number, line in enumerate(text.split("\n"))
        )


_ITEM = re.compile(r" *(?:-|\d+\.) ")
_ROW = re.compile(r" *\|")


def _written(top: LexborNode, pass_over_furniture: bool) -> str:
    page = _Page()
    for node, entering in _walk(top, pass_over_furniture):
        tag = node.tag or ""
        if tag == "-text":
            page.inline.append((node.text_content or "").replace("\v", " "))
        elif tag == "br":
            page.inline.append("\v" if entering else "")
        elif _BLOCK.match(tag):
            (_enter if entering else _leave)(page, tag, node)
    page.close()
    return "\n".join(page.written).strip("\n")


def _walk(top: LexborNode, pass_over_furniture: bool) -> Iterator[tuple[LexborNode, bool]]:
    """Every node with text in it, in document order: elements come twice, entering (True) and leaving (False)."""
    waiting = [(top, True)]
    while waiting:
        node, entering = waiting.pop()
        yield node, entering
        if not entering or node.tag == "-text":
            continue
        waiting.append((node, False))
        inner = [child for child in node.iter(include_text=True) if not _is_silent(child, pass_over_furniture)]
        waiting.extend((child, True) for child in reversed(inner))


def _is_silent(node: LexborNode, pass_over_furniture: bool) -> bool:
    tag = node.tag or ""
    if tag == "-text":
        return False
    if _NO_TEXT.match(tag):
        return True
    named = node.attributes
    if not named:
        return False
    if "hidden" in named or named.get("aria-hidden") == "true" or named.get("role") in _NO_TEXT_ROLES:
        return True
    return (
        pass_over_furniture
        and tag not in ("html", "body", "main", "article")
        and any(_FURNITURE.search(named.get(name) or "") for name in ("class", "id"))
    )


def _enter(page: _Page, tag: str, node: LexborNode) -> None:
    if page.row is not None and tag not in ("td", "th", "tr", "table"):
        page.inline.append(" ")  # a cell is one line, whatever stands in it
        return
    if tag not in ("td", "th") or page.row is None:
        page.close()
    if tag in ("ul", "menu", "dl"):
        page.lists.append(None)
    elif tag == "ol":
        start = node.attributes.get("start") or "1"
        page.lists.append(int(start) if re.fullmatch(r"[0-9]{1,6}", start) else 1)
    elif tag in ("li", "dt") and page.lists:
        number = page.lists[-1]
        page.marker = "- " if number is None else f"{number}. "
        page.lists[-1] = None if number is None else number + 1
    elif tag == "pre":
        page.pre = True
    elif tag == "table":
        page.tables.append(node.css_first("table table, h1, h2, h3, pre") is None)
    elif tag == "tr" and page.tables and page.tables[-1]:
        page.row = []


def _leave(page: _Page, tag: str, _node: LexborNode) -> None:
    if page.row is not None and tag in ("td", "th"):
        page.row.append(_one_line("".join(page.inline)))
        page.inline.clear()
    elif page.row is not None and tag == "tr":
        if any(page.row):
            last = page.written[-1] if page.written else ""
            page.put("| " + " | ".join(page.row) + " |", close=_ROW.match(last) is not None)
        page.row = None
        page.inline.clear()
    elif page.row is not None:
        page.inline.append(" ")
    else:
        page.close(_HEADINGS.get(tag, ""))
    if tag in ("ul", "ol", "menu", "dl") and page.row is None and page.lists:
        page.lists.pop()
        page.marker, page.apart = "", True
    elif tag == "pre" and page.row is None:
        page.pre = False
    elif tag == "table" and page.tables:
        page.tables.pop()
