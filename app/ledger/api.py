"""Verifying the ledger, its anchors, proofs of single facts, and the export."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.db import ReadSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, paged, reading
from app.ledger import export
from app.ledger.anchors import Anchor, stored
from app.ledger.keys import Keyring
from app.ledger.queries import Position, known
from app.ledger.store import UNREACHABLE, Store
from app.ledger.verify import audit
from app.listing import Place

router = Routes(tags=["ledger"])


class BadFactView(BaseModel):
    """The first fact, in reading order, that is not what it was. `position` is where it stands, or stood."""

    subject: str
    seq: int
    type: str
    position: str
    finding: str


class FailedAnchorView(BaseModel):
    """An anchor that does not hold; number 0 is the store as a whole."""

    number: int
    finding: str


class AnchorStateView(BaseModel):
    """How far the facts are signed outside the database. state: ok, failed, none, off or unavailable."""

    state: str
    anchors: int
    covered: int
    covered_to: str | None
    at: str | None
    age_s: float | None
    tail: int | None
    failed: list[FailedAnchorView]


class VerdictView(BaseModel):
    """What verification of the tenant's chains and anchors found."""

    verified: bool
    facts: int
    subjects: int
    first_bad: BadFactView | None
    anchors: AnchorStateView


class AnchorView(BaseModel):
    """One anchor. `object` is the signed object's exact text; `sha256` is its digest, which the next one states."""

    number: int
    tree_size: int
    root: str
    sha256: str
    previous: str | None
    at: str
    first: str
    last: str
    key: str
    object: str


class ProofView(BaseModel):
    """That a fact is leaf `index` of the tree the newest anchor signs. The leaf is SHA-256 of a zero byte and `leaf_data`."""

    position: str
    index: int
    leaf_data: str
    path: list[str]
    anchor: AnchorView


@router.post(
    "/v1/ledger/verify",
    operation_id="verifyLedger",
    response_model=VerdictView,
    summary="Verify every chain and anchor",
)
async def verify_ledger(request: Request, door: Annotated[Door[ReadSession], reading("ledger.verify")]) -> Response:
    """Recomputes all hashes of the tenant's facts, holds them against the anchors, and names the first that does not fit."""
    await leave(door)
    store, keys = of(request)
    verdict, anchors = await audit(inside(request, door.caller.tenant), door.caller.tenant, store, keys)
    return Reply({**vars(verdict), "anchors": anchors}).response()


@router.get(
    "/v1/ledger/anchors",
    operation_id="listAnchors",
    response_model=Page[AnchorView],
    summary="The anchors, oldest first",
)
async def list_anchors(
    request: Request,
    door: Annotated[Door[ReadSession], reading("ledger.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The tenant's anchors as the store has them; an anchor that cannot be read is left to verification."""
    await leave(door)

    async def fetch(after: Place, most: int) -> list[Anchor]:
        [number] = after or [0]
        found: list[Anchor] = []
        store, _ = of(request)
        if store is not None:
            with reachable():
                async for _, anchor in stored(store, door.caller.tenant, int(number)):
                    if anchor is not None:
                        found.append(anchor)
                    if len(found) == most:
                        break
        return found

    return await paged(request, "anchors", limit, cursor, fetch, Anchor.view, by=["number"])


@router.get(
    "/v1/ledger/facts/{position}/proof",
    operation_id="proveFact",
    response_model=ProofView,
    summary="Prove that a fact is anchored",
)
async def prove_fact(
    position: str, request: Request, door: Annotated[Door[ReadSession], reading("ledger.read")]
) -> Response:
    """An inclusion proof (RFC 6962) for a fact by its id, against the newest anchor. 409 while no anchor covers it."""
    parsed = Position.parse(position)
    line = None
    if parsed is not None:
        line = await export.line_at(door.session, parsed)
    if parsed is None or line is None:
        raise Problem("not_found", "There is no fact at this position.")
    await leave(door)
    store, _ = of(request)
    tenant, look = door.caller.tenant, inside(request, door.caller.tenant)
    with reachable():
        anchor = await export.newest(look, tenant, store)
    if anchor is None or anchor.last < parsed:
        raise Problem("wrong_state", "No anchor covers this fact yet.")
    found = await export.proofs(look, tenant, anchor, None, str(parsed))
    index = found.indexes[str(parsed)]
    return Reply(
        {
            "position": str(parsed),
            "index": index,
            "leaf_data": line,
            "path": found.path(str(parsed)),
            "anchor": anchor.view(),
        }
    ).response()


@router.get(
    "/v1/ledger/export",
    operation_id="exportLedger",
    response_class=StreamingResponse,
    responses={200: {"description": "JSON Lines.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}},
    summary="Export the ledger, verifiable offline",
)
async def export_ledger(
    request: Request, door: Annotated[Door[ReadSession], reading("ledger.export")], subject: UUID | None = None
) -> Response:
    """Every fact of the tenant, or of one subject (a mission) with a proof for each, with anchors, keys and a verifier."""
    if subject is not None and not await known(door.session, subject):
        raise Problem("not_found", "There is no fact about this subject.")
    await leave(door)
    store, keys = of(request)
    look = inside(request, door.caller.tenant)
    with reachable():
        ready = await export.prepare(look, door.caller.tenant, store, keys, subject)
    headers = {"Content-Disposition": 'attachment; filename="ledger.jsonl"', "Cache-Control": "no-store"}
    return StreamingResponse(ready.lines(), media_type="application/jsonl", headers=headers)


async def leave(door: Door[ReadSession]) -> None:
    """No transaction is open while the store is read, nor one long one while a ledger is."""
    await door.session.connection.rollback()
    await door.session.connection.close()


def of(request: Request) -> tuple[Store | None, Keyring]:
    return request.app.state.anchor_store, request.app.state.anchor_keys


def inside(request: Request, tenant: UUID) -> Callable[[], AbstractAsyncContextManager[ReadSession]]:
    return inside_of(request.app.state.database, tenant)


def inside_of(database: Any, tenant: UUID) -> Callable[[], AbstractAsyncContextManager[ReadSession]]:
    """Opens sessions that have entered a tenant."""

    @asynccontextmanager
    async def session() -> AsyncIterator[ReadSession]:
        async with database.read() as opened:
            await opened.enter(tenant)
            yield opened

    return session


class reachable:  # reads as a statement
    """Turns a store that is away into the problem that this is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, UNREACHABLE):
            raise Problem("upstream_unavailable", "The store of anchors cannot be read.", retry_after=5) from error
