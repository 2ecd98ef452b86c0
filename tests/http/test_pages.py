"""Pages as every list makes them: each row once, in order, whatever the page size and however many share a moment."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Problem
from app.http import Cursors, paged
from colony_client.signing import parse_keys

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CURSORS = Cursors(parse_keys("one:a-secret-of-the-tests-of-pages", "A_TEST"))
APP = SimpleNamespace(state=SimpleNamespace(cursors=CURSORS))
REQUEST = Request(
    {"type": "http", "app": APP, "headers": [], "path": "/v1/things", "query_string": b"", "server": ("a", 80)}
)


@dataclass(frozen=True, order=True)
class Thing:
    created_at: datetime
    id: UUID


@given(
    moments=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), unique=True, max_size=20),
    limit=st.integers(1, 7),
)
async def test_following_cursors_shows_every_row_once(moments: list[tuple[int, int]], limit: int) -> None:
    rows = sorted((Thing(BEGAN + timedelta(microseconds=at), UUID(int=id)) for at, id in moments), reverse=True)

    async def fetch(place: Sequence[Any] | None, most: int) -> list[Thing]:
        before = Thing(datetime.fromisoformat(place[0]), UUID(place[1])) if place else None
        return [row for row in rows if before is None or row < before][:most]

    shown: list[str] = []
    cursor: str | None = None
    while True:
        answer = await paged(REQUEST, "things", limit, cursor, fetch, lambda row: str(row.id))
        page = json.loads(bytes(answer.body))
        assert len(page["items"]) == min(limit, len(rows) - len(shown))
        assert page["has_more"] is (page["next_cursor"] is not None) is ("link" in answer.headers)
        shown, cursor = shown + page["items"], page["next_cursor"]
        if cursor is None:
            break
    assert shown == [str(row.id) for row in rows]


async def test_a_place_is_sealed_as_it_always_was() -> None:
    """A cursor that a client holds goes on after an upgrade: the moment as ISO text with its T."""
    sealed = CURSORS.seal("things", [BEGAN.isoformat(), UUID(int=7)])
    assert sealed == CURSORS.seal("things", [BEGAN, UUID(int=7)])
    assert CURSORS.open("things", sealed, 2) == ["2026-01-01T00:00:00+00:00", str(UUID(int=7))]
    for scope, size in (("others", 2), ("things", 1)):
        with pytest.raises(Problem):
            CURSORS.open(scope, sealed, size)
