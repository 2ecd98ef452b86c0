"""Lists by time, a page at a time. Rows that share a moment are told apart by their ids, so none is shown twice or left out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Row

from app.db import ReadSession

# Where a list goes on: the moment and the id of the row before, as a cursor keeps them; None is its beginning.
Place = Sequence[Any] | None


async def behind(
    session: ReadSession,
    select: str,
    place: Place,
    limit: int,
    *,
    at: str = "created_at",
    id: str = "id",
    oldest_first: bool = False,
    only: Mapping[str, Any] | None = None,
    ids: str | None = None,
    **asked: Any,
) -> Sequence[Row[Any]]:
    """The rows of a select (which has a WHERE) behind a place, newest first.

    only narrows it to rows with these values in these columns; None leaves a column open.
    ids: a select (with a WHERE) of nothing but the ids, for one that joins a lot: which rows the page has is found out by that
    alone, so only what is shown is joined.
    """
    compare, way = (">", "") if oldest_first else ("<", " DESC")
    found = select if ids is None else ids
    for number, (column, value) in enumerate((only or {}).items()):
        if value is not None:
            found += f" AND {column} = :only_{number}"
            asked[f"only_{number}"] = value
    if place is not None:
        found += f" AND ({at}, {id}) {compare} (:place_at, :place_id)"
        asked |= {"place_at": datetime.fromisoformat(place[0]), "place_id": UUID(place[1])}
    order = f" ORDER BY {at}{way}, {id}{way}"
    page = f"{found}{order} LIMIT :limit"
    statement = text(page if ids is None else f"{select} AND {id} = ANY (ARRAY({page})){order}")
    return await session.rows(statement, {"tenant": session.tenant, "limit": limit, **asked})
