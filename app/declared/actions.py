"""Putting what is declared, its switch, and what is told when the wall refuses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app import ledger
from app.caller import Caller
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem

ANY = "*"  # the switch of all
DONE = ("created", "changed", "retired", "halted", "resumed", "unchanged")
NO_REASON = {"pointer": "/reason", "detail": "say why"}
UNKNOWN = {"pointer": "", "detail": "the database refuses it"}


@dataclass(frozen=True)
class Declared:
    """A sort of what is declared, such as connectors.

    noun: what people call one. table: what the schema calls it, in names such as put_TABLE and TABLE_switch; column: how that
    table calls the name. secrets: what an account's environment variables hold. fields: what is wrong where, by the constraint
    that is broken, or by an outcome that is about one field. wakes: who is told beside the readers of facts that one was put.
    """

    noun: str
    table: str
    column: str
    secrets: str
    fields: Mapping[str, dict[str, str]]
    wakes: tuple[str, ...] = ()

    def refused(self, outcome: str) -> tuple[str, str] | None:
        """Code and detail of the problem that an outcome is, unless it is about a field."""
        return {
            "unauthenticated": ("unauthenticated", "The key that does this is no longer live."),
            "not_entitled": ("forbidden", "This takes a person with the role: admin; an operator may halt."),
            "not_found": ("not_found", f"There is no such {self.noun}."),
            "stale": ("stale", f"The {self.noun} changed since it was read."),
            "account_taken": (
                "taken",
                f"An older tenant's name is spelled alike in the environment, so that the {self.secrets} of both would have one name.",
            ),
        }.get(outcome)


@dataclass(frozen=True)
class Switch:
    """Whether something is halted, since when and by whom."""

    halted_at: datetime | None = None
    reason: str | None = None
    changed_by: UUID | None = None
    changed_at: datetime | None = None

    def view(self) -> dict[str, Any]:
        return {
            "halted": self.halted_at is not None,
            "halted_at": iso(self.halted_at) if self.halted_at else None,
            "reason": self.reason,
            "changed_by": self.changed_by,
            "changed_at": iso(self.changed_at) if self.changed_at else None,
        }


async def switches(session: ReadSession, of: Declared, names: Sequence[str]) -> dict[str, Switch]:
    """Those that were ever turned, among these names and ANY."""
    rows = await session.rows(
        f"SELECT {of.column} AS name, halted_at, reason, changed_by, changed_at FROM {of.table}_switch "  # noqa: S608
        f"WHERE tenant = :tenant AND {of.column} = ANY (:names)",
        {"tenant": session.tenant, "names": [*names, ANY]},
    )
    return {row.name: Switch(row.halted_at, row.reason, row.changed_by, row.changed_at) for row in rows}


def in_force(found: Mapping[str, Switch], name: str) -> Switch:
    """The switch that counts for a name: that of all when it is turned."""
    everything = found.get(ANY, Switch())
    return everything if everything.halted_at else found.get(name, Switch())


async def put(
    session: WriteSession,
    caller: Caller,
    of: Declared,
    name: str,
    version: int | None,
    kind: str,
    body: Mapping[str, Any] | None,
) -> tuple[str, int]:
    """Puts a checked definition, or retires what is declared when there is none. Its outcome and version. Raises Problem for
    everything that is refused."""
    said = await session.first(
        f"SELECT * FROM put_{of.table}(:tenant, :secret, :name, :version, :kind, CAST(:definition AS jsonb))",  # noqa: S608
        {
            "tenant": caller.tenant,
            "secret": caller.secret,
            "name": name,
            "version": version,
            "kind": kind,
            "definition": None if body is None else json.dumps(body),
        },
    )
    assert said is not None
    raise_refused(of, said.outcome, name, said.version, said.why)
    for channel in (ledger.FACTS, *of.wakes):
        session.nudge(channel)
    return said.outcome, said.version


async def switch(session: WriteSession, caller: Caller, of: Declared, name: str, halt: bool, reason: str) -> str:
    """Halts or resumes. Raises Problem for everything that is refused."""
    said = await session.first(
        f"SELECT * FROM switch_{of.table}(:tenant, :secret, :name, :halt, :reason)",  # noqa: S608
        {"tenant": caller.tenant, "secret": caller.secret, "name": name, "halt": halt, "reason": reason},
    )
    assert said is not None
    raise_refused(of, said.outcome, name)
    session.nudge(ledger.FACTS)
    return str(said.outcome)


def raise_refused(of: Declared, outcome: str, name: str, version: int | None = None, broken: str | None = None) -> None:
    """Raises the Problem of every outcome that is not one of DONE."""
    if outcome in DONE:
        return
    refused = of.refused(outcome)
    if refused is None:
        error = {**of.fields, "no_reason": NO_REASON}.get(broken or outcome, UNKNOWN)
        place = error.get("pointer") or error.get("parameter") or "the body"
        raise Problem("validation", f"{place}: {error['detail']}.", errors=[error])
    code, detail = refused
    current: dict[str, Any] = {"current": {"name": name, "version": version}} if code == "stale" else {}
    raise Problem(code, detail, **current)
