"""Mission types are data: shipped ones are the JSON files beside this one, a tenant's own are rows."""

import json
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.db import ReadSession, WriteSession

NEWEST = text("""SELECT DISTINCT ON (name) name, version, definition FROM mission_type
                 WHERE tenant = :tenant AND (:name = '' OR name = :name) ORDER BY name, version DESC""")
VERSION = text("SELECT definition FROM mission_type WHERE tenant = :tenant AND name = :name AND version = :version")
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 17))")
INSERT = text("""INSERT INTO mission_type (tenant, name, version, definition, created_by)
                 VALUES (:tenant, :name, :version, CAST(:definition AS jsonb), :created_by)""")


@dataclass(frozen=True)
class MissionType:
    """One kind of mission: what it takes, what it may use, and what its review must find."""

    name: str
    version: int
    title: str
    description: str
    inputs_schema: dict[str, Any]
    tools: list[str]
    defaults: dict[str, str]
    limits: dict[str, float]
    review: dict[str, Any]
    needs: list[str] = field(default_factory=list)  # tools without which a mission is blocked
    shipped: bool = False

    def said(self) -> dict[str, Any]:
        """Its fields, as they are stored and shown."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def schema_text(self) -> str:
        return json.dumps(self.inputs_schema, sort_keys=True)


@lru_cache(maxsize=1)
def shipped() -> dict[str, MissionType]:
    found = (json.loads(file.read_text()) for file in sorted(Path(__file__).parent.glob("*.json")))
    return {kind["name"]: MissionType(**kind, shipped=True) for kind in found}


def label(name: str) -> str:
    """What a metric calls a type: what a tenant calls its own would be labels without end."""
    return name if name in shipped() else "tenant"


class Known:
    """The types that missions were asked for lately, by tenant and name. What it says is confirmed by whoever uses it."""

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self.own: OrderedDict[tuple[UUID, str], MissionType] = OrderedDict()

    def get(self, tenant: UUID, name: str) -> MissionType | None:
        """What was last seen of a name; of one never seen, the shipped type. None when it has to be looked up."""
        return self.own.get((tenant, name)) or shipped().get(name)

    def put(self, tenant: UUID, kind: MissionType) -> None:
        if (
            self.own.get((tenant, kind.name)) != kind
        ):  # what was made of the one that is known stays good for an equal one
            self.own[tenant, kind.name] = kind
        self.own.move_to_end((tenant, kind.name))
        while len(self.own) > self.most:
            self.own.popitem(last=False)


async def types(session: ReadSession) -> list[MissionType]:
    """Every type of the tenant: shipped ones, replaced by the tenant's own of the same name."""
    own = {
        row.name: MissionType(**row.definition)
        for row in await session.rows(NEWEST, {"tenant": session.tenant, "name": ""})
    }
    return [kind for _, kind in sorted((shipped() | own).items())]


async def find_type(session: ReadSession, name: str) -> MissionType | None:
    row = await session.first(NEWEST, {"tenant": session.tenant, "name": name})
    return MissionType(**row.definition) if row else shipped().get(name)


async def type_of(session: ReadSession, name: str, version: int) -> MissionType | None:
    """A type in the version that a mission began with."""
    definition = await session.scalar(VERSION, {"tenant": session.tenant, "name": name, "version": version})
    return MissionType(**definition) if definition else shipped().get(name)


async def lock_type(session: WriteSession, name: str) -> None:
    """Whoever changes a type does so alone until commit, so that the version one has seen is the one that is replaced."""
    await session.execute(LOCK, {"name": f"{session.tenant}|{name}"})


async def put_type(session: WriteSession, caller: Caller, name: str, definition: dict[str, Any]) -> MissionType:
    """A new version of a type, or a new type. Missions under way keep the version they began with."""
    known = await find_type(session, name)
    version = known.version + 1 if known else 1
    kind = MissionType(name=name, version=version, **definition)
    stored = {field: value for field, value in kind.said().items() if field != "shipped"}
    await session.execute(
        INSERT,
        {
            "tenant": caller.tenant,
            "name": name,
            "version": version,
            "definition": json.dumps(stored),
            "created_by": caller.principal,
        },
    )
    await ledger.record(session, caller, "mission_type.changed", caller.tenant, name=name, version=version)
    return kind
