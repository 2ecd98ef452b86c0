"""When a document was last changed, by its own word: front matter of Markdown, the head of an HTML page, a PDF's metadata."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from app.workspaces.structure import Kind

HEAD = 16_384  # bytes that are looked at
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.{0,8000}?)^---[ \t]*\r?$", re.S | re.M)
# Of several words the first that is there: when it was last changed says more than when it was begun.
_FIELDS = ("last_modified_at", "last_modified", "lastmod", "last-modified", "updated", "updated_at", "modified", "date")
_LINE = re.compile(r"^([A-Za-z_-]{4,20})[ \t]*:[ \t]*[\"']?(\d{4}-\d\d-\d\d[^\"'\r\n#]{0,30})", re.M)
_HTML = (
    "article:modified_time", "og:updated_time", "datemodified", "last-modified", "dcterms.modified",
    "article:published_time", "datepublished", "date", "dc.date",
)  # fmt: skip
_META = re.compile(r"<meta\s[^>]{0,500}>", re.I)
_NAMED = re.compile(
    rf"\b(?:name|property|itemprop|http-equiv)\s*=\s*[\"']?({'|'.join(map(re.escape, _HTML))})[\"'\s/>]", re.I
)
_CONTENT = re.compile(r"\bcontent\s*=\s*[\"']?(\d{4}-\d\d-\d\d[^\"'>]{0,30})", re.I)
_PDF = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:([+-])(\d\d)'?(\d\d)?)?")


def own_word(kind: Kind, data: bytes) -> datetime | None:
    """When a text or page says it was last changed; None when it does not say. A PDF is asked by pdf_date()."""
    head = data[:HEAD].decode(errors="replace")
    if kind == "html":
        return _first({name: said for tag in _META.findall(head) for name, said in _meta(tag)}, _HTML)
    front = _FRONT.match(head)
    return _first({name.lower(): said for name, said in _LINE.findall(front[1])}, _FIELDS) if front else None


def _meta(tag: str) -> Iterable[tuple[str, str]]:
    named, content = _NAMED.search(tag), _CONTENT.search(tag)
    return [(named[1].lower(), content[1])] if named and content else []


def _first(said: dict[str, str], fields: Iterable[str]) -> datetime | None:
    return next((moment for field in fields if field in said and (moment := instant(said[field]))), None)


def instant(said: str) -> datetime | None:
    """An ISO 8601 date or time as an instant; without a zone it is UTC. None when it is none, or an absurd one."""
    try:
        found = datetime.fromisoformat(said.strip())
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if 1970 <= found.year <= 2999 else None


def pdf_date(said: str) -> datetime | None:
    """D:20260131120000+01'00' as an instant."""
    found = _PDF.match(said)
    if not found:
        return None
    year, month, day, hour, minute, second, sign, ahead, minutes = found.groups()
    zone = f"{sign}{ahead}:{minutes or '00'}" if sign else "+00:00"
    return instant(f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone}")
