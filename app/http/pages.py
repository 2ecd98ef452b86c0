"""Pages and their cursors: opaque, signed, and only good for the list they came from."""

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel

from app.errors import Problem
from app.http.replies import Reply
from colony_client.signing import Keys

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=200, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="Where a previous page ended: its next_cursor.")]
PURPOSE = b"cursor-v1\n"


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None
    has_more: bool


class Cursors:
    """Makes and reads cursors. A forged, foreign or damaged one is a 422, never a query."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def seal(self, scope: str, position: Sequence[Any]) -> str:
        kid = self.keys.signing_kid
        said = json.dumps([scope, *position], separators=(",", ":"), default=str).encode()
        mac = self.keys.mac(kid, PURPOSE + said)[:16]
        return f"{kid}.{base64.urlsafe_b64encode(mac + said).rstrip(b'=').decode()}"

    def open(self, scope: str, cursor: str | None, size: int) -> list[Any] | None:
        if cursor is None:
            return None
        kid, _, packed = cursor.partition(".")
        try:
            raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        mac, said = raw[:16], raw[16:]
        if not hmac.compare_digest(self.keys.mac(kid, PURPOSE + said)[:16], mac) or kid not in self.keys.by_kid:
            raise bad_cursor()
        found = json.loads(said)
        if found[0] != scope or len(found) != size + 1:
            raise bad_cursor()
        return found[1:]


def bad_cursor(parameter: str = "cursor", detail: str = "must be a next_cursor that this list has answered") -> Problem:
    return Problem("validation", f"{parameter} {detail}.", errors=[{"parameter": parameter, "detail": detail}])


def page(
    request: Request, rows: Sequence[Any], limit: int, view: Callable[[Any], Any], seal: Callable[[Any], str]
) -> Reply:
    """A reply from limit + 1 fetched rows: the extra one only says that there is more."""
    shown, more = rows[:limit], len(rows) > limit
    cursor = seal(shown[-1]) if more else None
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if cursor else {}
    return Reply({"items": [view(row) for row in shown], "next_cursor": cursor, "has_more": more}, headers=headers)
