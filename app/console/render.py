"""Pages: templates with everything escaped, and the one function through which every word of a page goes."""

import json
import unicodedata
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup

from app.clock import now
from app.console import charts, words

HERE = Path(__file__).parent
STATIC = HERE / "static"
MOST = 2_000  # characters of one text on a page; the rest is said to be there
INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
# Nothing to see, and not a control: fillers that make two texts look alike.
BLANK = frozenset(
    "\u00a0\u115f\u1160\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"
    "\u2800\u3000\u3164\uffa0\ufe0f"
)


def foreign(value: Any) -> Any:
    """What is printed of a value, whoever wrote it: controls, marks of direction and everything else that cannot be seen as its
    name, and not more than MOST characters. The template escapes it afterwards. Every expression of every template goes
    through here, so that no page can forget to."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    text = value if isinstance(value, str) else spelled(value) if isinstance(value, dict | list) else str(value)
    left = len(text) - MOST
    if left > 0:
        text = text[:MOST]
    return f"{named(text)} … and {left:,} more characters" if left > 0 else named(text)


def named(text: str) -> str:
    """The whole of a text, what cannot be seen in it as its name."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if hidden(c) else c for c in text)


def whole(text: str) -> Markup:
    """What a field holds to be sent again: the whole of it. What is cut for a reader would come back cut, with our words behind."""
    return Markup("{}").format(named(text))


def hidden(character: str) -> bool:
    return character not in "\n\t" and (character in BLANK or unicodedata.category(character) in INVISIBLE)


def spelled(value: Any) -> str:
    """A JSON value as a person reads it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def address(*parts: Any, **query: Any) -> str:
    """A page of the console: parts and values are quoted, so that none leads elsewhere."""
    path = "/".join(quote(str(part), safe="") for part in parts)
    asked = {name: value for name, value in query.items() if value not in (None, "")}
    return f"/console{'/' + path if path else ''}{'?' + urlencode(asked, doseq=True) if asked else ''}"


def instant(said: str | None) -> Markup:
    """A moment relative to now, the exact one on hover."""
    if not said:
        return Markup("")
    moment = datetime.fromisoformat(said)
    exact = f"{said[:10]} {said[11:19]} UTC"
    return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(said, exact, words.ago(moment, now()))


def identifier(value: Any, shown: int = 8) -> Markup:
    """An id or hash: its end, the whole of it on hover and for the clipboard."""
    text = str(value or "")
    if not text:
        return Markup("")
    short = f"…{text[-shown:]}" if len(text) > shown + 4 else text
    return Markup('<button type="button" class="id" data-copy="{0}" title="{0}">{1}</button>').format(
        foreign(text), foreign(short)
    )


def pill(state: Any) -> Markup:
    """A state or risk with its colour."""
    said = str(state)
    return Markup('<span class="pill {}">{}</span>').format(words.tone(said), foreign(said.replace("_", " ")))


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The static files by name, each with the hash of its content: an address that changes when the file does."""
    return {one.name: sha256(one.read_bytes()).hexdigest()[:12] for one in STATIC.iterdir()}


def static(name: str) -> str:
    return f"/console/static/{name}?v={versions()[name]}"


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=foreign,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "when": instant, "id": identifier, "pill": pill, "left": words.left, "span": words.span, "count": words.count,
        "spelled": spelled, "whole": whole, "usd": words.usd, "share": words.share, "stopped": words.STOPPED.get,
        "vouched": lambda said: words.VOUCHED.get(said, "no way to tell"),
    }  # fmt: skip
    made.globals |= {"address": address, "static": static, "charts": charts}
    return made


def page(name: str, **values: Any) -> str:
    return environment().get_template(name).render(**values)
