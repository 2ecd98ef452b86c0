"""The fields of a change in a form: printed so that nothing hides in them, and read back as what they were unless somebody wrote
something else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.canonical import canonical
from app.console.render import MOST, hidden, named, spelled
from app.http.bodies import MAX_DEPTH
from colony_client.errors import BadBody
from colony_client.wire import read_json

NAMED = re.compile(r"⟨U\+([0-9A-F]{4,6})⟩")
LINE = 60  # characters that are read well in one line


@dataclass(frozen=True)
class Field:
    """One value of a change. why_not: it cannot be edited in a form, and stays as it is; text: else it is written as JSON."""

    name: str
    printed: str
    text: bool
    long: bool
    why_not: str | None


def field(name: str, value: Any) -> Field:
    """The value as a form holds it."""
    text = spelled(value)
    printed, why_not = named(text), None
    if len(printed) > MOST:
        why_not = f"It is printed in {len(printed):,} characters, more than a form shows. It stays as it is; the command line changes it."
    elif written(printed) != text:
        why_not = "It holds what this page prints for characters that cannot be seen. It stays as it is; the command line changes it."
    return Field(name, printed, isinstance(value, str), len(printed) > LINE or "\n" in printed, why_not)


def written(printed: str) -> str:
    """The text that is meant by what a form sent: each named character itself."""
    return NAMED.sub(character, printed)


def character(name: re.Match[str]) -> str:
    number = int(name[1], 16)
    meant = chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else ""
    return meant if meant and hidden(meant) else name[0]


def fields(changes: Mapping[str, Any]) -> list[Field]:
    """The values by the names of what they are of. A form knows each by its place: a name may hold what no form gives back."""
    return [field(name, value) for name, value in sorted(changes.items())]


def merged(old: Mapping[str, Any], sent: Mapping[str, str]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The changes with what was written in their fields, by their places; and what cannot be taken: [{pointer, detail}].

    A field that was not touched stays what it was, a text stays a text, and everything else is JSON.
    """
    changes, errors = dict(old), []
    for place, was in enumerate(fields(old)):
        name, text = was.name, written(sent.get(str(place), was.printed))
        if was.why_not or text == written(was.printed):
            continue
        why_not = None
        if len(text) > MOST:
            why_not = f"takes at most {MOST:,} characters here"
        elif was.text:
            changes[name] = text
        else:
            try:
                changes[name] = read_json(text.encode(), max_depth=MAX_DEPTH)
            except BadBody:
                why_not = f"was {canonical(old[name]).decode()[:80]}: write JSON, a text in double quotes"
        if why_not:
            errors.append({"pointer": f"/changes/{name.replace('~', '~0').replace('/', '~1')}", "detail": why_not})
    return changes, errors
