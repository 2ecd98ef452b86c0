"""The rules in force, with a memory that is never trusted over the database; what was in force then; what was decided."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.db import ReadSession
from app.listing import Place, behind
from app.policy.engine import PolicySet, Rule, Source, baseline_source, compiled

NEWEST = text("""SELECT DISTINCT ON (name) name, version, change, text, retired FROM policy
                 WHERE tenant = :tenant ORDER BY name, version DESC""")
CHANGE = text("SELECT COALESCE(max(change), 0) FROM policy WHERE tenant = :tenant")
HISTORY = text("""SELECT p.name, p.version, p.text, p.sha256, p.retired, p.created_by, p.created_at FROM policy p
                  WHERE p.tenant = :tenant AND p.name = :name ORDER BY p.version DESC LIMIT 200""")
LIST = text("""SELECT DISTINCT ON (name) name, version, text, sha256, retired, created_by, created_at FROM policy
               WHERE tenant = :tenant ORDER BY name, version DESC""")
SET = text("SELECT manifest, baseline FROM policy_set WHERE tenant = :tenant AND version = :version LIMIT 1")
MEMBERS = text("""SELECT p.name, p.version, p.text FROM policy p
                  JOIN jsonb_to_recordset(CAST(:members AS jsonb)) AS m(name text, version int)
                    ON m.name = p.name AND m.version = p.version
                  WHERE p.tenant = :tenant""")
OF_MISSION = text("""SELECT id, action, resource, effect, rule, policy_version, reason, sha256(inputs) AS inputs_sha256, obligations, at
                     FROM policy_decision WHERE tenant = :tenant AND mission = :mission ORDER BY at, id LIMIT 500""")
WHOLE = """SELECT id, action, resource, effect, rule, policy_version, reason, inputs, sha256(inputs) AS inputs_sha256,
             obligations, at
           FROM policy_decision WHERE tenant = :tenant AND mission = :mission"""
LAST = text("""SELECT id, mission, action, resource, effect, rule, policy_version, obligations, inputs, at FROM policy_decision
               WHERE tenant = :tenant ORDER BY id DESC LIMIT :last""")

MOST = 256


class Shelf:
    """Parsed sets, the least used forgotten first: by tenant, each with the change it was read at."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.known: OrderedDict[UUID, tuple[int, PolicySet]] = OrderedDict()

    def get(self, tenant: UUID) -> tuple[int, PolicySet]:
        """What was last seen of a tenant; of one never seen, that it has no policies of its own. Either may be out of date."""
        found = self.known.get(tenant)
        if found is None:
            return 0, compiled(())
        self.known.move_to_end(tenant)
        return found

    def put(self, tenant: UUID, change: int, policies: PolicySet) -> None:
        self.known[tenant] = (change, policies)
        self.known.move_to_end(tenant)
        while len(self.known) > self.most:
            self.known.popitem(last=False)


SHELF = Shelf()


async def load(session: ReadSession) -> tuple[int, PolicySet]:
    """Reads and parses what is in force now, and remembers it."""
    tenant = session.tenant
    assert tenant is not None
    rows = await session.rows(NEWEST, {"tenant": tenant})
    own = [Source(row.name, row.version, row.text.decode()) for row in rows if not row.retired]
    change = max((row.change for row in rows), default=0)
    policies = compiled(own)
    SHELF.put(tenant, change, policies)
    return change, policies


async def in_force(session: ReadSession) -> PolicySet:
    """The set in force as this transaction sees it: one indexed row says whether the remembered one still is."""
    tenant = session.tenant
    assert tenant is not None
    change, policies = SHELF.get(tenant)
    if await session.scalar(CHANGE, {"tenant": tenant}) != change:
        _, policies = await load(session)
    return policies


async def set_of(session: ReadSession, version: str) -> PolicySet | None:
    """The set that a recorded decision names, from the texts of then. None when nothing was decided by it."""
    current = await in_force(session)
    if version == current.version:
        return current
    row = await session.first(SET, {"tenant": session.tenant, "version": bytes.fromhex(version)})
    if row is None:
        return None
    members = json.loads(row.manifest)["policies"]
    rows = await session.rows(MEMBERS, {"tenant": session.tenant, "members": json.dumps(members)})
    found = {(one.name, one.version): one.text.decode() for one in rows}
    own = [Source(one["name"], one["version"], found[one["name"], one["version"]]) for one in members]
    then = Source(baseline_source().name, 0, row.baseline.decode())
    made = PolicySet((then, *own))
    try:
        _ = made.parsed, made.rules
    except (ValueError, KeyError) as refused:
        return PolicySet(made.sources, broken=f"A policy cannot be read: {type(refused).__name__}.")
    return made


async def rule_then(session: ReadSession, version: str, rule: str) -> Rule | None:
    """The rule that a recorded decision names, as it was then. None for `default`, and for what cannot be read any more."""
    found = await set_of(session, version)
    if found is None or found.broken:
        return None
    return next((one for one in found.rules.values() if one.id == rule), None)


async def proposed(session: ReadSession, texts: Mapping[str, str]) -> PolicySet:
    """The set in force with these policies in place of those of their names."""
    return replaced(await in_force(session), texts)


def replaced(current: PolicySet, texts: Mapping[str, str]) -> PolicySet:
    own = {one.name: one for one in current.sources[1:]}
    for name, text_ in texts.items():
        own[name] = Source(name, own[name].version + 1 if name in own else 1, text_)
    return compiled(list(own.values()))


async def policies(session: ReadSession) -> list[dict[str, Any]]:
    """A tenant's own policies, each in its newest version."""
    return [dict(row._mapping) for row in await session.rows(LIST, {"tenant": session.tenant})]


async def history(session: ReadSession, name: str) -> list[dict[str, Any]]:
    """The versions of one policy, newest first."""
    rows = await session.rows(HISTORY, {"tenant": session.tenant, "name": name})
    return [dict(row._mapping) for row in rows]


async def recorded(session: ReadSession, mission: UUID) -> list[dict[str, Any]]:
    """The policy decisions about a mission, oldest first."""
    rows = await session.rows(OF_MISSION, {"tenant": session.tenant, "mission": mission})
    return [as_dict(row) for row in rows]


async def recorded_page(session: ReadSession, mission: UUID, after: Place, limit: int) -> list[dict[str, Any]]:
    """The same a page at a time, each with the inputs that it was decided by, as bytes."""
    rows = await behind(session, WHOLE, after, limit, at="at", oldest_first=True, mission=mission)
    return [as_dict(row) for row in rows]


async def last_decisions(session: ReadSession, last: int) -> list[dict[str, Any]]:
    """The newest decisions with the inputs to decide them again by."""
    rows = await session.rows(LAST, {"tenant": session.tenant, "last": last})
    return [as_dict(row) for row in rows]


def as_dict(row: Any) -> dict[str, Any]:
    found = dict(row._mapping)
    if isinstance(found["obligations"], str):  # the driver leaves jsonb as text where nobody declared its type
        found["obligations"] = json.loads(found["obligations"])
    return found
