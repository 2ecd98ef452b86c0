"""Where a field stands in the text of a stored record, in bytes, so that it can be cited."""

import json
from collections.abc import Iterator
from typing import Any

from colony.case import cite
from colony.tools import Record
from colony_client.artifacts import Citation

_DECODER = json.JSONDecoder()


def cited(record: Record, field: str) -> Citation | None:
    """A citation of `"field":value` in the record's text; None when it does not stand there with the value we used."""
    for start, end, value in _members(record.text, field):
        if value == record.fields.get(field):
            before = len(record.text[:start].encode())
            return cite(record.source, record.document, before, record.text[start:end])
    return None


def _members(text: str, field: str) -> Iterator[tuple[int, int, Any]]:
    """Every member of this name at any depth: (start of the name, end of the value, value), in characters.

    A quotation mark inside a JSON string is escaped, so `"name"` followed by a colon is a member and nothing else.
    """
    name = json.dumps(field, ensure_ascii=False)
    at = text.find(name)
    while at >= 0:
        colon = at + len(name)
        while text[colon : colon + 1].isspace():
            colon += 1
        if text[colon : colon + 1] == ":":
            value_at = colon + 1
            while text[value_at : value_at + 1].isspace():
                value_at += 1
            try:
                value, end = _DECODER.raw_decode(text, value_at)
                yield at, end, value
            except json.JSONDecodeError:
                pass
        at = text.find(name, at + 1)
