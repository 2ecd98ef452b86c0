"""Rows are found by their keys from the first minute on: in tables that nobody has analysed, by plans that were made over nothing."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import takewhile
from typing import Any, get_args
from uuid import UUID

import asyncpg
from sqlalchemy.dialects.postgresql import dialect

from app.approvals.queries import inbox
from app.writebacks.api import WritebackState
from app.writebacks.queries import newest
from tests.walls.ground import OWNER, Asked, Ground

# By what rows are looked up: every table's unique keys, and whatever else an index begins with after the tenant when it is an id.
LOOKED_UP_BY = """
  WITH parts AS (
    SELECT t.relname::text AS of_table, i.indexrelid, i.indisunique, a.attname::text AS name, a.atttypid = 'uuid'::regtype AS id, k.place
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid AND t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace,
      unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attribute, place)
      LEFT JOIN pg_attribute a ON a.attnum = k.attribute
    WHERE i.indpred IS NULL AND a.attrelid = i.indrelid),
  keys AS (SELECT of_table, array_agg(name ORDER BY place) AS columns FROM parts WHERE indisunique GROUP BY of_table, indexrelid),
  references_ AS (SELECT a.of_table, ARRAY['tenant', b.name] AS columns FROM parts a JOIN parts b USING (indexrelid)
                  WHERE a.place = 1 AND a.name = 'tenant' AND b.place = 2 AND b.id)
  SELECT of_table, columns FROM keys WHERE 'tenant' = ANY (columns) AND cardinality(columns) > 1
  UNION SELECT of_table, columns FROM references_ ORDER BY 1, 2"""
COLUMNS = "SELECT pg_get_indexdef($1::text::regclass, n, false) FROM generate_series(1, 12) n"


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan that go through an index or a whole table."""
    own = [plan] if "Scan" in plan["Node Type"] and ("Index Name" in plan or plan["Node Type"] == "Seq Scan") else []
    return own + [found for inner in plan.get("Plans", ()) for found in scans(inner)]


async def test_ids_find_their_rows_in_tables_that_nobody_has_analysed(ground: Ground) -> None:
    """By an index that begins with more of what is known than the tenant: never through all rows, or all of one tenant."""
    admin = await ground.connect("admin")
    await admin.execute(f"SET ROLE {OWNER}; SET plan_cache_mode = force_generic_plan")
    astray = []
    keys = await admin.fetch(LOOKED_UP_BY)
    for number, key in enumerate(keys):
        wanted = " AND ".join(f"{column} = ${n}" for n, column in enumerate(key["columns"], start=1))
        await admin.execute(f"PREPARE by_key_{number} AS SELECT * FROM {key['of_table']} WHERE {wanted}")
        execute = f"EXECUTE by_key_{number} ({', '.join(['NULL'] * len(key['columns']))})"
        [plan] = json.loads(await admin.fetchval(f"EXPLAIN (FORMAT JSON) {execute}"))
        for scan in scans(plan["Plan"]):
            parts = [part for (part,) in await admin.fetch(COLUMNS, scan.get("Index Name", "ledger_pkey")) if part]
            leading = set(takewhile(set(key["columns"]).__contains__, parts))
            if scan["Node Type"] == "Seq Scan" or not leading - {"tenant"}:
                astray.append((key["of_table"], key["columns"], scan["Node Type"], scan.get("Index Name")))
    assert len(keys) > 60
    assert not astray


HOLD = "SELECT * FROM hold_missions($1::uuid[], $2::uuid[], $2::uuid[], $3::bytea[])"
OFFER = "SELECT * FROM offered_missions($1::uuid[], $2::uuid[])"
SAID = "SELECT * FROM said_of_missions($1::uuid[], $2::uuid[])"
KEEP = """
  SELECT keep_missions($1::uuid[], $2::uuid[], array_fill('running'::text, n), array_fill(1, n), array_fill(1, n),
    array_fill(NULL::text, n), array_fill(now(), n), array_fill(now(), n), array_fill(NULL::text, n), array_fill(NULL::text, n),
    array_fill(NULL::text, n), array_fill(NULL::text, n),
    $1, ARRAY(SELECT gen_random_uuid() FROM unnest($2)), $2, array_fill(1, n), array_fill('worker_result'::text, n),
    array_fill('1'::text, n), array_fill('test'::text, n),
    ARRAY(SELECT convert_to('{"x":"' || x || '"}', 'UTF8') FROM unnest($2) x),
    $1, $2, array_fill('mission.said'::text, n), array_fill('system:worker'::text, n), array_fill(convert_to('{}', 'UTF8'), n),
    $1 || $1, array_fill('drop'::text, n) || array_fill('add'::text, n),
    array_fill('dispatch'::text, n) || array_fill('review'::text, n), $2 || $2, array_fill(NULL::timestamptz, two),
    array_fill(NULL::bigint, two), array_fill(NULL::int, two))
  FROM (SELECT ARRAY[$3::int] AS n, ARRAY[2 * $3::int] AS two) x"""
TAKE = "SELECT * FROM take_worker_work(ARRAY['dispatch', 'review'], $1, interval '1 minute')"
DELIVER = "SELECT * FROM take_webhook_work($1, interval '1 minute', '{}', '{}', 10, 10)"
# A tenant's history, and what waits in its queue.
LONGER = (
    """INSERT INTO mission (tenant, id, mission_type, type_version, mode, state, origin_surface, risk_level, sensitivity_class,
         requested_by, workspace, contract_hash, budget_time_ms, budget_tokens, budget_cost_usd)
       SELECT $1, gen_random_uuid(), 'oracle_advisory', 1, 'assisted', 'accepted', 'test', 'low', 'internal', $2, 'default', $3, 1, 1, 1
       FROM generate_series(1, $4)""",
    """INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
       SELECT m.tenant, gen_random_uuid(), m.id, 1, 'mission_envelope', '1', 'root', convert_to('{"a":"' || m.id || '"}', 'UTF8')
       FROM mission m WHERE m.tenant = $1 ON CONFLICT DO NOTHING""",
    """INSERT INTO ledger (tenant, subject, type, actor, body)
       SELECT m.tenant, m.id, 'mission.said', 'system:test', convert_to('{}', 'UTF8') FROM mission m WHERE m.tenant = $1""",
    """INSERT INTO work (tenant, kind, subject, queue, next_at)
       SELECT m.tenant, k.kind, m.id, 'worker', now() + interval '1 hour' FROM mission m, (VALUES ('dispatch'), ('webhook_send')) k (kind)
       WHERE m.tenant = $1 ON CONFLICT DO NOTHING""",
)


async def pages(session: asyncpg.Connection, tenant: UUID, statement: str, *args: Any) -> int:
    """How many pages a statement has looked at, with everything that it calls; what it did is taken back."""
    transaction = session.transaction()
    await transaction.start()
    await session.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
    [plan] = json.loads(await session.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *args))
    await transaction.rollback()
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


async def test_what_a_mission_reads_does_not_grow_with_the_history(ground: Ground) -> None:
    """Sessions that made their plans over next to nothing go on with them while a tenant's history and its queue grow."""
    worker, admin = await ground.connect("worker"), await ground.connect("admin")
    missions = [await ground.mission(state="accepted") for _ in range(10)]
    tenants, count = [ground.tenant] * 10, 10
    hashes = [bytes(32)] * 10
    asked: dict[str, tuple[str, tuple[Any, ...]]] = {
        "hold": (HOLD, (tenants, missions, hashes)), "offered": (OFFER, (tenants, missions)), "said": (SAID, (tenants, missions)),
        "keep": (KEEP, (tenants, missions, count)), "take": (TAKE, (count,)),
        "deliver": (DELIVER, (count,)),
    }  # fmt: skip

    async def looked_at() -> dict[str, int]:
        return {name: await pages(worker, ground.tenant, statement, *args) for name, (statement, args) in asked.items()}

    async def grow(more: int) -> None:
        for statement in LONGER:
            args = (ground.tenant, ground.ids["asker"], bytes(32), more)[: 4 if "INTO mission " in statement else 1]
            await admin.execute(statement, *args)

    await admin.execute(f"SET ROLE {OWNER}; SELECT set_config('app.tenant', '{ground.tenant}', false)")
    for _ in range(8):  # one plan for all calls is made at the sixth
        await looked_at()
    await grow(600)
    before = await looked_at()
    await grow(6000)
    after = await looked_at()
    assert before["keep"] > 100
    assert {name: (before[name], pages) for name, pages in after.items() if pages > 2 * before[name]} == {}


# What becomes of one that succeeded when it is copied: each is newer than what is there, and was over long ago.
COPIED = {
    "writeback": "'id', md5('w' || n)::uuid, 'proposal', md5('p' || n)::uuid, 'created_at', now() + n * interval '1 s'",
    "approval": """'id', md5('a' || n)::uuid, 'writeback', md5('w' || n)::uuid, 'created_at', now() + n * interval '1 s',
      'expires_at', now() - interval '30 days'""",
    "execution": """'writeback', md5('w' || n)::uuid, 'approval', md5('a' || n)::uuid, 'asked_at', now() + n * interval '1 s',
      'idempotency_key', md5('w' || n)::uuid""",
}
COLUMNS_OF = """SELECT attname FROM pg_attribute
  WHERE attrelid = $1::text::regclass AND attnum > 0 AND attgenerated = '' AND NOT attisdropped"""


async def copies(session: asyncpg.Connection, writeback: UUID, first: int, last: int) -> None:
    for table, changed in COPIED.items():
        columns = ", ".join(row[0] for row in await session.fetch(COLUMNS_OF, table))
        await session.execute(
            f"""INSERT INTO {table} ({columns})
                SELECT {", ".join(f"(made).{column}" for column in columns.split(", "))} FROM (
                  SELECT jsonb_populate_record(one, jsonb_build_object({changed})) AS made
                  FROM {table} one, generate_series($2::int, $3::int) n
                  WHERE one.{"id" if table == "writeback" else "writeback"} = $1 OFFSET 0) x""",
            writeback, first, last,
        )  # fmt: skip


class Noting:
    """Reads nothing, and keeps what it was to read as one statement."""

    def __init__(self, tenant: UUID) -> None:
        self.tenant, self.asked = tenant, ""

    async def rows(self, statement: Any, values: dict[str, Any]) -> list[Any]:
        bound = statement.bindparams(**values)
        self.asked = str(bound.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))
        return []


async def in_each_state(ground: Ground) -> tuple[dict[str, Asked], Asked]:
    """A writeback in every state that a list may be asked for, and the one that succeeded."""
    made = {state: await ground.approved() for state in get_args(WritebackState)}
    made["awaiting_approval"] = await ground.ask()
    for state in ("rejected", "cancelled", "expired"):
        made[state] = await ground.ask()
    await ground.decide(made["rejected"], "anna", "reject")
    await ground.close(made["cancelled"])
    for state in ("executing", "succeeded", "failed", "unknown", "stale"):
        claim = await ground.claim(made[state])
        if state != "executing":
            await ground.settle(made[state], claim["fence"], state, made[state].payload)
    return made, made["succeeded"]


@asynccontextmanager
async def beyond_the_guards(session: asyncpg.Connection) -> AsyncIterator[None]:
    """Rows are written as they are; none of it remains."""
    transaction = session.transaction()
    await transaction.start()
    for table in ("writeback", "approval", "execution"):
        await session.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield
    await transaction.rollback()


async def test_a_list_in_a_state_reads_what_it_shows(ground: Ground) -> None:
    """However many changes were approved and done since: what is rare is not looked for among them, nor are lost timers."""
    admin = await ground.connect("admin")
    made, succeeded = await in_each_state(ground)
    session: Any = Noting(ground.tenant)
    lists: dict[str, Callable[[], Awaitable[Any]]] = {
        f"writebacks {state}": partial(newest, session, None, state, None, 50) for state in (None, *made)
    }
    lists |= {
        f"approvals {state}": partial(inbox, session, state, None, None, 50)
        for state in (None, "pending", "approved", "rejected", "expired", "cancelled")
    }
    lists["writebacks of a mission"] = partial(newest, session, made["failed"].mission, "failed", None, 50)
    lists["approvals of a mission"] = partial(inbox, session, "rejected", made["rejected"].mission, None, 50)

    async def looked_at() -> dict[str, int]:
        found = {}
        for name, asking in lists.items():
            await asking()
            found[name] = await pages(admin, ground.tenant, session.asked)
        return found | {"timers": await pages(admin, ground.tenant, "SELECT restore_approval_timers()")}

    async with beyond_the_guards(admin):
        await admin.execute("SELECT set_config('app.tenant', $1, true)", str(ground.tenant))
        await admin.execute(
            "UPDATE approval SET state = 'expired', closed_at = now() WHERE id = $1", made["expired"].approval
        )
        await copies(admin, succeeded.writeback, 1, 200)
        await looked_at()  # what a session reads once
        before = await looked_at()
        await copies(admin, succeeded.writeback, 201, 4200)
        after = await looked_at()
    assert {name: (before[name], pages) for name, pages in after.items() if pages > 2 * before[name] + 20} == {}
