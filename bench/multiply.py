"""Copies of missions that were really worked on: every row of theirs under new ids and at other times, with chains that verify.

Rows are copied in the database, as its superuser and past its triggers: what they would judge was judged when the sample was made.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from bench.rounds import say

BITE = 5_000  # copies in one statement
HANDS = 2
DAYS = 30.0  # how far back the copies lie
TABLES = (
    "mission", "mission_label", "artifact", "policy_decision", "budget_account", "budget_reservation",
    "reading", "approval", "writeback", "decision", "execution", "notice", "work",
)  # fmt: skip
OF_MISSION = {"mission": "id", "work": "subject"}


@dataclass(frozen=True)
class Sample:
    """A mission, and how many copies of it there shall be."""

    mission: str
    copies: int


async def multiply(url: str, samples: list[Sample]) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(HELPERS)
    states = await connection.fetch(
        "SELECT tgrelid::regclass::text AS t, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal"
    )
    tables = [*TABLES, "ledger"]
    for table in tables:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    whole, number = sum(sample.copies for sample in samples), 0
    for sample in samples:
        statements = [*(await copies_of(connection, sample)), FACTS]
        bites = [(at, min(at + BITE, number + sample.copies) - 1) for at in range(number, number + sample.copies, BITE)]
        number += sample.copies
        waiting = iter(bites)
        await asyncio.gather(*(copy(url, waiting, statements, whole, UUID(sample.mission)) for _ in range(HANDS)))
        say(f"  {number:,} of {whole:,}")
    for table in tables:
        await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
    for state in states:
        if state["t"] in tables and state["tgenabled"] == b"A":
            await connection.execute(f'ALTER TABLE {state["t"]} ENABLE ALWAYS TRIGGER "{state["tgname"]}"')
    for table in tables:
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def copy(url: str, bites: Iterator[tuple[int, int]], statements: list[str], whole: int, mission: UUID) -> None:
    connection = await asyncpg.connect(url, server_settings={"synchronous_commit": "off"})
    for first, last in bites:
        for statement in statements:
            await connection.execute(statement, first, last, whole, mission)
    await connection.close()


# copy_of(id, n): the id that a copy has in the place of the sample's. copy_at: its time; the copies lie evenly over DAYS.
HELPERS = f"""
CREATE SCHEMA IF NOT EXISTS bench;
CREATE OR REPLACE FUNCTION bench.copy_at(t timestamptz, n bigint, whole bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE
  RETURN t - interval '{DAYS:g} days' * ((whole - n)::float8 / whole);
CREATE OR REPLACE FUNCTION bench.copy_of(id uuid, n bigint, whole bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
  RETURN (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(id::text || n), 14))::uuid;
CREATE SEQUENCE IF NOT EXISTS bench.position START 1;
"""
# Facts: a mission's chain after another, each hashed as the wall hashes it. They stand where a reader long since was.
FACTS = """
INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
WITH RECURSIVE sample AS MATERIALIZED (
  SELECT l.* FROM ledger l WHERE l.subject = $4 ORDER BY l.seq),
copies AS (
  SELECT n, s.tenant, bench.copy_of(s.subject, n, $3) AS subject, s.seq, s.type, s.actor, bench.copy_at(s.at, n, $3) AS at, s.body
  FROM generate_series($1::bigint, $2::bigint) n, sample s),
chain AS (
  SELECT c.*, ''::bytea AS prev, fact_hash(''::bytea, c.tenant, c.subject, c.seq, c.type, c.actor, c.at, c.body) AS hash
  FROM copies c WHERE c.seq = 1
  UNION ALL
  SELECT s.n, s.tenant, s.subject, s.seq, s.type, s.actor, s.at, s.body, c.hash,
    fact_hash(c.hash, s.tenant, s.subject, s.seq, s.type, s.actor, s.at, s.body)
  FROM chain c JOIN copies s ON s.n = c.n AND s.seq = c.seq + 1)
SELECT tenant, '3'::xid8, 0 - $3 * 64 + n * 64 + seq, subject, seq, type, actor, at, body, prev, hash FROM chain"""


async def copies_of(connection: asyncpg.Connection, sample: Sample) -> list[str]:
    """One INSERT for each table that holds rows of the mission; $1 and $2 are the first and the last copy, $3 all of them."""
    mission = UUID(sample.mission)
    ids: set[UUID] = {mission}
    rows: dict[str, list[dict[str, str]]] = {}
    for table in TABLES:
        columns = [dict(one) for one in await connection.fetch(COLUMNS, table)]
        names = {one["name"] for one in columns}
        if table == "budget_account":
            where = "key = $1::uuid::text"
        elif "approval" in names and "mission" not in names:
            where = "approval IN (SELECT id FROM approval WHERE mission = $1)"
        elif table == "work":
            where = "subject = $1 OR subject IN (SELECT id FROM approval WHERE mission = $1)"
        else:
            where = f"{OF_MISSION.get(table, 'mission')} = $1"
        found = await connection.fetch(f"SELECT * FROM {table} WHERE {where}", mission)
        if found:
            rows[table] = [*columns, {"where": where.replace("$1", "$4")}]
            ids |= {one["id"] for one in found if "id" in dict(one) and isinstance(one["id"], UUID)}
    own = "ARRAY[" + ",".join(f"'{one}'" for one in sorted(ids)) + "]"
    statements = []
    for table, columns in rows.items():
        *shape, where = columns
        into = ", ".join(f'"{one["name"]}"' for one in shape)
        values = ", ".join(copied(one["name"], one["type"], own) for one in shape)
        statements.append(
            f"INSERT INTO {table} ({into}) SELECT {values} FROM {table} x, generate_series($1::bigint, $2::bigint) n"
            f" WHERE $3::bigint > 0 AND $4::uuid IS NOT NULL AND ({where['where']})"
        )
    return statements


COLUMNS = """SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type FROM pg_attribute a
             WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"""


def copied(name: str, kind: str, own: str) -> str:
    column = f'x."{name}"'
    if kind == "uuid":
        return f"CASE WHEN {column} = ANY ({own}::uuid[]) THEN bench.copy_of({column}, n, $3) ELSE {column} END"
    if kind == "uuid[]":
        return f"ARRAY(SELECT CASE WHEN u = ANY ({own}::uuid[]) THEN bench.copy_of(u, n, $3) ELSE u END FROM unnest({column}) u)"
    if kind == "text":
        return f"CASE WHEN {column} = ANY ({own}::text[]) THEN bench.copy_of({column}::uuid, n, $3)::text ELSE {column} END"
    if kind == "timestamp with time zone":
        return f"bench.copy_at({column}, n, $3)" if name not in ("next_at", "expires_at", "deadline_at") else column
    return column
