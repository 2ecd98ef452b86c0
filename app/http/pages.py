"""Pages and their cursors: opaque, signed, and only good for the list they came from."""

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request, Response
from pydantic import BaseModel

from app.errors import Problem
from app.http.replies import Reply
from colony_client.signing import Keys

Item = TypeVar("Item")
Row = TypeVar("Row")
Limit = Annotated[int, Query(ge=1, le=200, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="Where a previous page ended: its next_cursor.")]
PURPOSE = b"cursor-v1\n"


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None
    has_more: bool


def written(value: Any) -> str:
    """What JSON has no word for: moments and ids."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


class Cursors:
    """Makes and reads cursors. A forged, foreign or damaged one is a 422, never a query."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def seal(self, scope: str, position: Sequence[Any]) -> str:
        kid = self.keys.signing_kid
        said = json.dumps([scope, *position], separators=(",", ":"), default=written).encode()
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


async def paged(
    request: Request,
    scope: str,
    limit: int,
    cursor: str | None,
    fetch: Callable[[list[Any] | None, int], Awaitable[Sequence[Row]]],
    view: Callable[[Row], Any] | None = None,
    *,
    views: Callable[[Sequence[Row]], Awaitable[Sequence[Any]]] | None = None,
    by: Sequence[str] = ("created_at", "id"),
) -> Response:
    """A page of a list, for cursors that were made for the same scope.

    fetch is asked for the rows behind a place, one more than is shown: it only says that there is more. by names what the
    cursor keeps of the last row shown. views is for rows that are shown best together.
    """
    cursors: Cursors = request.app.state.cursors
    found = await fetch(cursors.open(scope, cursor, len(by)), limit + 1)
    shown, further, headers = found[:limit], None, {}
    if len(found) > limit:
        further = cursors.seal(scope, [getattr(shown[-1], name) for name in by])
        headers = {"Link": f'<{request.url.include_query_params(cursor=further)}>; rel="next"'}
    items = await views(shown) if views else [view(row) if view else row for row in shown]
    return Reply({"items": items, "next_cursor": further, "has_more": further is not None}, headers=headers).response()
