"""What the lines of Markdown, reStructuredText, AsciiDoc and plain text look like."""

import re

from colony.reading.terms import words

ADORNMENT = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,}\s*$")
ATX = re.compile(r"#{1,6}\s+\S")
FENCE = re.compile(r"(```+|~~~+|-{4,}$|\.{4,}$|={4,}$)")
MYST = re.compile(r"`{3,}\{([\w:-]+)\}")
DIRECTIVE = re.compile(r"\.\.\s+([\w:.+-]+)::\s*(.*)$")
COMMENT = re.compile(r"\.\.(?:\s|$)")
ITEM = re.compile(r"(?:[-*+•]|\(?\d{1,3}[.)]|#\.|\(?[a-z][.)])\s+\S")
FIELD = re.compile(r":[\w-][^:`]*:(?:\s|$)")
ASCIIDOC_TERM = re.compile(r"\S.*?(?:::|;;)\s*$")
ROW = re.compile(r"\|.*\||.*\s\|\s.*\|\s*$")
BORDER = re.compile(r"\s*(?:\+[-=+]{3,}|=+(?:\s+=+)+|[|\s:]*-{3,}[-|\s:]*)\s*$")
OPTION = re.compile(r"--?[\w?][\w-]*(?:[ =,\[].*)?$")

CODE_DIRECTIVES = words(
    """
    code code-block sourcecode parsed-literal literalinclude testcode testsetup testoutput doctest ipython
    prompt productionlist console
    """
)
SKIPPED_DIRECTIVES = words(
    """
    toctree index image figure module currentmodule py:module py:currentmodule highlight include contents raw
    automodule autoclass autofunction automethod only ifconfig image graphviz mermaid math meta sectionauthor
    """
)
CHANGE_DIRECTIVES = words(
    "versionadded versionchanged versionremoved deprecated deprecated-removed change changelog seealso"
)
ADMONITIONS = words(
    """
    note warning tip hint important caution danger attention admonition topic sidebar rubric container tab
    tabs details dropdown list-table class impl-detail describe-body
    """
)
