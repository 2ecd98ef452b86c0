"""How far a workspace's sources are trusted: rules by path in versions, set by the workspace's owner.

A rule says of documents (by their path) or of records (by connector/kind/id) which class they are; the first that fits
counts, and what no rule names is `normal`. In a pattern `*` and `?` stay within one part of a path, `**` stands for any
number of whole parts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.canonical import fingerprint
from app.db import ReadSession, WriteSession
from colony_client.artifacts import Trust

NEWEST = text("""SELECT version, rules, created_by, created_at FROM workspace_trust
  WHERE tenant = :tenant AND workspace = :workspace ORDER BY version DESC LIMIT :limit""")
INSERT = text("""INSERT INTO workspace_trust (tenant, workspace, version, rules, created_by)
  VALUES (:tenant, :workspace, :version, CAST(:rules AS jsonb), :created_by) RETURNING created_at""")

Of = Literal["documents", "records"]
LEVELS: tuple[Trust, ...] = ("untrusted", "normal", "authoritative")  # least first
UNNAMED: Trust = "normal"
MOST_VERSIONS = 200


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a workspace's rules."""

    of: Of
    pattern: str
    trust: Trust


@dataclass(frozen=True, slots=True)
class Rules:
    """A version of a workspace's rules; version 0 is none yet."""

    version: int = 0
    rules: tuple[Rule, ...] = ()
    created_by: UUID | None = None
    created_at: datetime | None = None

    def trust_of(self, of: Of, place: str) -> Trust:
        """The class of a document by its path, or of a record by connector/kind/id."""
        return next((rule.trust for rule in self.rules if rule.of == of and fits(rule.pattern, place)), UNNAMED)


def read_rules(said: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(Rule(one["of"], one["pattern"], one["trust"]) for one in said)


def lowest(levels: Iterable[Trust]) -> Trust | None:
    """The least trust of some; None of none."""
    return min(levels, key=LEVELS.index, default=None)


@lru_cache(maxsize=4096)
def fits(pattern: str, path: str) -> bool:
    """Whether a path is one that a pattern means; costs at most length times length, whatever is asked."""
    return _parts(pattern.split("/"), path.split("/"))


def _parts(pattern: Sequence[str], path: Sequence[str]) -> bool:
    reached = {0}  # how many parts of the path what was read of the pattern can stand for
    for part in pattern:
        if part == "**":
            reached = set(range(min(reached), len(path) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(path) and _part(part, path[at])}
    return len(path) in reached


def _part(pattern: str, text: str) -> bool:
    at = here = 0
    star, resume = -1, 0
    while here < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume, at = at, here, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[here]):
            at, here = at + 1, here + 1
        elif star >= 0:  # the star takes one character more
            resume, at, here = resume + 1, star + 1, resume + 1
        else:
            return False
    return not pattern[at:].strip("*")


async def trust_history(session: ReadSession, workspace: UUID, most: int = MOST_VERSIONS) -> list[Rules]:
    """The versions of a workspace's rules, newest first."""
    rows = await session.rows(NEWEST, {"tenant": session.tenant, "workspace": workspace, "limit": most})
    return [Rules(row.version, read_rules(row.rules), row.created_by, row.created_at) for row in rows]


async def trust_rules(session: ReadSession, workspace: UUID) -> Rules:
    """The rules in force."""
    found = await trust_history(session, workspace, 1)
    return found[0] if found else Rules()


async def put_trust(
    session: WriteSession, caller: Caller, workspace: UUID, version: int, rules: Sequence[Rule]
) -> Rules:
    """Keeps a version, the next one, and records `workspace.trust_changed`. The caller holds the workspace's lock."""
    said = [{"of": rule.of, "pattern": rule.pattern, "trust": rule.trust} for rule in rules]
    kept = {"version": version, "rules": json.dumps(said), "created_by": caller.principal}
    at = await session.scalar(INSERT, {"tenant": caller.tenant, "workspace": workspace, **kept})
    await ledger.record(
        session,
        caller,
        "workspace.trust_changed",
        caller.tenant,
        workspace=workspace,
        version=version,
        rules=len(said),
        rules_sha256=fingerprint(said).hex(),
    )
    return Rules(version, tuple(rules), caller.principal, at)
