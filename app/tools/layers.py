"""A tenant's tool layers: their versions, the switch and the state of each, and what is noted of them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.db import Database, ReadSession
from app.declared import Declared
from app.listing import Place
from app.tools.definition import Layer

COLUMNS = """l.name, l.version, l.kind, l.definition, l.account, l.retired, l.created_by, l.created_at, s.drifted, s.drifted_at,
  s.answered_at, s.failed_at, s.failure, s.calls, s.refusals"""
STATE = "LEFT JOIN tool_layer_state s ON s.tenant = l.tenant AND s.layer = l.name AND s.version = l.version"
HISTORY = text(f"""
  SELECT {COLUMNS} FROM tool_layer l {STATE} WHERE l.tenant = :tenant AND l.name = :name ORDER BY l.version DESC LIMIT :limit""")  # noqa: S608
ALL = text(f"""
  SELECT DISTINCT ON (l.name) {COLUMNS} FROM tool_layer l {STATE}
  WHERE l.tenant = :tenant AND (CAST(:after AS text) IS NULL OR l.name > :after) ORDER BY l.name, l.version DESC LIMIT :limit""")  # noqa: S608
# What a call has to know, small: the definition itself is remembered, and read only when a version is new here.
FIND = text("""
  SELECT l.version, l.retired, s.drifted,
    (SELECT min(w.halted_at) FROM tool_layer_switch w WHERE w.tenant = l.tenant AND w.layer IN (l.name, '*')) AS halted_at
  FROM tool_layer l LEFT JOIN tool_layer_state s ON s.tenant = l.tenant AND s.layer = l.name AND s.version = l.version
  WHERE l.tenant = :tenant AND l.name = :name ORDER BY l.version DESC LIMIT 1""")
ONE = text(
    "SELECT name, version, kind, definition, account FROM tool_layer WHERE tenant = :tenant AND name = :name AND version = :version"
)
NAMED = text("""
  SELECT DISTINCT ON (l.name) l.name, l.version, l.retired FROM tool_layer l
  WHERE l.tenant = :tenant AND l.name = ANY (:names) ORDER BY l.name, l.version DESC""")
NOTE = text(
    "SELECT note_tool_layer(:tenant, :layer, :version, :answered, :failure, CAST(:drifted AS text[]), :calls, :refusals)"
)
ACCOUNT = text("SELECT tool_account(:tenant, :name)")
REMEMBERED = 512
TOOL_LAYERS = Declared(
    "tool layer",
    table="tool_layer",
    column="layer",
    secrets="keys",
    fields={
        "tool_layer_name_check": {
            "parameter": "name",
            "detail": "this is the name of tools of the root's own; take another",
        },
        "tool_layer_definition_check": {
            "pointer": "/tools",
            "detail": "with the schemas of its tools the definition is larger than 1 MiB; register fewer of them in one layer",
        },
    },
    wakes=("work_worker",),
)


@dataclass(frozen=True)
class Kept:
    """One version of a layer, with what was seen of it."""

    name: str
    version: int
    kind: str
    definition: dict[str, Any]
    account: str
    retired: bool
    created_by: UUID
    created_at: datetime
    drifted: list[str]
    drifted_at: datetime | None
    answered_at: datetime | None
    failed_at: datetime | None
    failure: str | None
    calls: int
    refusals: int

    def layer(self) -> Layer:
        return Layer(self.name, self.version, self.kind, self.definition, self.account)


@dataclass(frozen=True)
class Current:
    """The newest version of a layer, as a call finds it."""

    layer: Layer
    retired: bool
    halted: bool
    drifted: frozenset[str]


LAYERS: dict[tuple[UUID, str, int], Layer] = {}  # versions never change
NEWEST: dict[tuple[UUID, str], int] = {}  # as they were last seen; whoever goes by this looks again before it counts


def kept(row: Any) -> Kept:
    return Kept(
        **{**row._mapping, "drifted": list(row.drifted or ()), "calls": row.calls or 0, "refusals": row.refusals or 0}
    )


async def history(session: ReadSession, name: str, limit: int = 200) -> list[Kept]:
    """The versions of a layer, newest first."""
    return [kept(row) for row in await session.rows(HISTORY, {"tenant": session.tenant, "name": name, "limit": limit})]


async def newest(session: ReadSession, name: str) -> Kept | None:
    return next(iter(await history(session, name, 1)), None)


async def all_of(session: ReadSession, after: Place, limit: int) -> list[Kept]:
    """The newest version of each, by name."""
    [name] = after or [None]
    return [kept(row) for row in await session.rows(ALL, {"tenant": session.tenant, "after": name, "limit": limit})]


async def current(session: ReadSession, name: str) -> Current | None:
    """The layer as it is now; its definition from memory when this process has seen it."""
    tenant = session.tenant
    assert tenant is not None
    row = await session.first(FIND, {"tenant": tenant, "name": name})
    if row is None:
        return None
    layer = await version_of(session, name, row.version)
    NEWEST[tenant, name] = layer.version
    return Current(layer, row.retired, row.halted_at is not None, frozenset(row.drifted or ()))


async def version_of(session: ReadSession, name: str, version: int) -> Layer:
    """A version that there is; from memory when this process has seen it."""
    tenant = session.tenant
    assert tenant is not None
    layer = LAYERS.get((tenant, name, version))
    if layer is None:
        found = await session.first(ONE, {"tenant": tenant, "name": name, "version": version})
        assert found is not None
        layer = Layer(found.name, found.version, found.kind, found.definition, found.account)
        if len(LAYERS) >= REMEMBERED:
            LAYERS.clear()
            NEWEST.clear()
        LAYERS[tenant, name, version] = layer
    return layer


def remembered(tenant: UUID, name: str) -> Layer | None:
    """The layer as this process last saw it, as if nothing were the matter with it; None when it has not."""
    version = NEWEST.get((tenant, name))
    return None if version is None else LAYERS.get((tenant, name, version))


async def named(session: ReadSession, names: Collection[str]) -> dict[str, Layer]:
    """The layers of these names that are not retired, each from memory when this process has seen its version."""
    rows = await session.rows(NAMED, {"tenant": session.tenant, "names": list(names)})
    return {row.name: await version_of(session, row.name, row.version) for row in rows if not row.retired}


async def account(session: ReadSession, name: str) -> str | None:
    """What the key of a layer is called, before there is one; None when an older tenant's name is spelled alike."""
    found: str | None = await session.scalar(ACCOUNT, {"tenant": session.tenant, "name": name})
    return found


async def note(
    database: Database,
    tenant: UUID,
    layer: str,
    version: int,
    *,
    answered: bool = False,
    failure: str | None = None,
    drifted: Collection[str] = (),
    calls: int = 0,
    refusals: int = 0,
) -> None:
    """Adds what was seen of a version. What has drifted is a fact the first time."""
    async with database.write() as session:
        await session.enter(tenant)
        said = await session.scalar(
            NOTE,
            {
                "tenant": tenant,
                "layer": layer,
                "version": version,
                "answered": answered,
                "failure": failure,
                "drifted": list(drifted),
                "calls": calls,
                "refusals": refusals,
            },
        )
        if said:
            session.nudge(ledger.FACTS)
