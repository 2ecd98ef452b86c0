"""What missions leave in the database, without what only says which mission it was and when: to compare two lives by."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from tests.world import World
from tests.world.checks import inspector

# What differs between two missions that did the same: ids of rows, and hashes over bytes that hold the mission's id.
OWN_OF_FACTS = [
    "artifact", "proposal", "approval", "sha256", "payload_sha256", "contract_hash", "policy_decision", "review_packet",
    "expires_at", "writeback", "envelope", "envelope_sha256", "result_sha256", "reservation",
]  # fmt: skip
OWN_OF_BYTES = ["mission_id", "created_at", "contract_hash", "proposal_id", "inputs_sha256", "problems"]
OWN_OF_ROWS = [
    "id", "version", "contract_hash", "lease_until", "deadline_at", "created_at", "updated_at", "closed_at", "pending_approvals",
    "traceparent",
]  # fmt: skip

LEFT = {
    "mission": "SELECT m.id, to_jsonb(m) - $2::text[] AS said FROM mission m WHERE m.id = ANY($1)",
    "ledger": """SELECT l.subject, l.type || ' ' || (convert_from(l.body, 'UTF8')::jsonb - $2::text[]) AS said FROM ledger l
                 WHERE l.subject = ANY($1) ORDER BY l.subject, l.seq""",
    "artifact": """SELECT a.mission, concat_ws(' ', a.schema_name, a.attempt, convert_from(a.bytes, 'UTF8')::jsonb - $2::text[]) AS said
                   FROM artifact a WHERE a.mission = ANY($1) ORDER BY a.mission, a.created_at, a.id""",
    "approval": """SELECT a.mission, concat_ws(' ', a.subject, a.state) AS said FROM approval a
                   WHERE a.mission = ANY($1) ORDER BY a.mission, a.id""",
    "quarantine": "SELECT q.mission, q.origin AS said FROM quarantine q WHERE q.mission = ANY($1)",
    "budget_account": """SELECT b.key::uuid, to_jsonb(b) - $2::text[] AS said FROM budget_account b
                         WHERE b.scope = 'mission' AND b.key = ANY($1::uuid[]::text[])""",
    "work": "SELECT w.subject, w.kind AS said FROM work w WHERE w.subject = ANY($1) ORDER BY w.subject, w.kind",
}
OWN = {
    "mission": OWN_OF_ROWS,
    "ledger": OWN_OF_FACTS,
    "artifact": OWN_OF_BYTES,
    "budget_account": ["key", "opened_at", "calls_ms", "settled_time_ms", "over_time_ms"],
}


async def remains(world: World, missions: Iterable[UUID]) -> dict[UUID, dict[str, list[Any]]]:
    """By mission and table, what is left of it, in the order in which it came."""
    ids = list(missions)
    found: dict[UUID, dict[str, list[Any]]] = {id: {table: [] for table in LEFT} for id in ids}
    connection = await inspector(world)
    for table, statement in LEFT.items():
        own = [OWN[table]] if table in OWN else []
        for id, said in await connection.fetch(statement, ids, *own):
            found[id][table].append(said)
    return found
