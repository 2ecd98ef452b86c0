"""A tenant worth attacking, what must stand afterwards, and what a login may try."""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from tests.walls.ground import Asked, Ground

RELATIONS = """SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                 AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1"""
COLUMNS = """SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated <> '' AS generated,
               has_column_privilege($2, a.attrelid, a.attnum, 'INSERT') AS insert,
               has_column_privilege($2, a.attrelid, a.attnum, 'UPDATE') AS update
             FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
FUNCTIONS = """SELECT p.proname AS name, p.oid::regprocedure::text AS signature,
                 p.proargnames[1:p.pronargs] AS arguments, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t) AS types
               FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
                 AND has_function_privilege($1, p.oid, 'EXECUTE')
                 AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY 2"""


REFUSED = ("42501", "55000")  # no privilege; or a view that nobody writes through
# What calling functions uses up without anybody's secret: a mission's own means, never a permission.
SPENT = {"budget_account", "budget_reservation", "rate_bucket", "connector_read", "model_use"}
COUNTED = {"version", "updated_at", "used_tokens", "used_cost_usd"}


@dataclass(frozen=True)
class Scene:
    """Writebacks in every state that somebody could want to push further."""

    asked: Asked  # waits for one of several humans
    two: Asked  # has one of two votes
    signed: Asked  # wants signatures
    rejected: Asked
    expired: Asked
    cancelled: Asked
    slow: Asked  # approved, in its undo window for an hour
    claimed: Asked  # the executor is at it

    @property
    def unapproved(self) -> tuple[Asked, ...]:
        return self.asked, self.two, self.signed, self.rejected, self.expired, self.cancelled


async def set_scene(ground: Ground) -> Scene:
    await ground.rule("signed", signature_required=True)
    await ground.session("ben")
    await ground.approver_key("anna")
    await ground.approver_key("ben", confirmed=False)
    await ground.risk_floor("signed", "*", "high")
    expired = await ground.ask("brief")
    scene = Scene(
        asked=await ground.ask(), two=await ground.ask("two"), signed=await ground.ask("signed"), rejected=await ground.ask(),
        expired=expired, cancelled=await ground.ask(), slow=await ground.approved("slow"), claimed=await ground.approved(),
    )  # fmt: skip
    assert await ground.decide(scene.two, "cora") == "recorded"
    assert await ground.decide(scene.rejected, "anna", "reject") == "rejected"
    assert await ground.close(scene.cancelled) == "cancelled"
    assert (await ground.claim(scene.claimed))["outcome"] == "apply"
    await ground.value("admin", "SELECT pg_sleep(1.05)")
    assert await ground.close(scene.expired, "expired") == "expired"
    return scene


async def nothing_leaves(ground: Ground, scene: Scene) -> None:
    """However it was attacked: what no human approved gets no permission, and what is claimed is settled by its holder only."""
    for asked in scene.unapproved:
        row = await ground.claim(asked)
        assert (row["outcome"], row["payload"], row["idempotency_key"]) == ("refused", None, None), dict(row)
    slow = await ground.claim(scene.slow)
    assert slow["payload"] is None and slow["outcome"] in ("too_early", "refused"), dict(slow)
    executions = await ground.run(
        "admin", "SELECT writeback, fence, state FROM execution WHERE tenant = $1", ground.tenant
    )
    assert [tuple(row) for row in executions] == [(scene.claimed.writeback, 1, "executing")]


async def standing(ground: Ground, role: str) -> dict[str, str]:
    """A digest of every table that a login cannot write, and of what it cannot write in those it can. By the superuser."""
    found = {}
    for (table,) in await ground.run("admin", RELATIONS):
        columns = await ground.run("admin", COLUMNS, table, f"mission_root_{role}")
        insert = any(column["insert"] for column in columns)
        delete = await ground.value(
            "admin", "SELECT has_table_privilege($1, $2::text, 'DELETE')", f"mission_root_{role}", table
        )
        kept = [c["attname"] for c in columns if not c["update"] and c["attname"] not in COUNTED]
        if delete or not kept or table in SPENT:
            continue
        tenant = "id" if table == "tenant" else "tenant"
        owned = any(column["attname"] == tenant for column in columns)
        where = f"WHERE t.{tenant} = '{ground.tenant}'" if owned else ""
        rows = await ground.run(
            "admin", f"SELECT row({', '.join(f't.{c}' for c in kept)})::text AS said FROM {table} t {where} ORDER BY 1"
        )
        found[f"{table}{' (rows there before)' if insert else ''}"] = json.dumps([row["said"] for row in rows])
    work = "SELECT row(w.*)::text AS said FROM work w WHERE queue = 'executor' AND tenant = $1 ORDER BY 1"
    found["work of the executor"] = json.dumps([row["said"] for row in await ground.run("admin", work, ground.tenant)])
    return found


def compare(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """What is not as it was: rows gone or new; new ones are no matter where rows may be added."""
    changed = {}
    for table, said in before.items():
        was, now = json.loads(said), json.loads(after[table])
        gone = [row for row in was if row not in now]
        new = [] if "rows there before" in table else [row for row in now if row not in was]
        if gone or new:
            changed[table] = gone + new
    return changed


async def attempt(ground: Ground, role: str, statement: str, *args: Any) -> str:
    """Tries a statement in the tenant; answers the SQLSTATE it was refused with, or what it did."""
    try:
        async with ground.within(role) as connection:
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            if args:
                return str(await connection.fetch(statement, *args))
            return await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)


def guesses(ground: Ground, scene: Scene) -> dict[str, list[Any]]:
    """What somebody who knows every id and no secret would hand to a function, by type."""
    ids: list[UUID] = [
        scene.asked.approval, scene.asked.writeback, scene.two.approval, scene.signed.writeback, scene.slow.approval,
        scene.claimed.writeback, scene.asked.mission, ground.ids["anna"], ground.ids["asker"], ground.tenant,
    ]  # fmt: skip
    digest = hashlib.sha256(ground.secrets["anna"].encode())
    texts = [
        None, "", "approve", "approved", "cancelled", "crm", "*", "system:worker", str(ground.ids["anna"]), digest.hexdigest(), "execute",
    ]  # fmt: skip
    return {
        "uuid": [*ids, None],
        "text": texts,
        "text[]": [["crm"], ["execute"], [], None],
        "bytea": [scene.asked.sha256, scene.two.sha256, scene.slow.sha256, digest.digest(), b"", None],
        "integer": [1, 2, 0, -1, 1000, None],
        "bigint": [1, 2, 0, -1, 1000, None],
        "numeric": [1, 0, -1, None],
        "boolean": [True, False, None],
        "interval": [timedelta(0), timedelta(days=400), None],
        "bytea[]": [[b"x"], []],
        "integer[]": [[1], []],
        "double precision[]": [[1.0], []],
        "jsonb": ["{}", "[]", json.dumps({"required": 1, "approver_role": "operator"}), None],
        "timestamp with time zone": [None],
        "double precision": [0.5, -1.0, 1e9, None],
        "date": [None],
    }
