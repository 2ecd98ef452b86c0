"""No tenant reaches another's rows, through any table or function, and without a tenant nobody reaches anything."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Ground
from tests.walls.test_immutable import furnished
from tests.walls.test_roles import GRANTS

SHARED = {"nonce", "migration", "ledger_id", "bus"}  # no tenant's
TABLES = {table: roles for table, roles in GRANTS.items() if table not in SHARED}


@asynccontextmanager
async def neighbour_of(ground: Ground) -> AsyncIterator[Ground]:
    made = Ground(ground.url)
    async with made.stack:
        await made.lay()
        yield made


async def furnish(ground: Ground) -> None:
    """A row in every table that belongs to tenants."""
    asked = (await furnished(ground))["asked"]
    tenant, digest = ground.tenant, hashlib.sha256(b"text").digest()
    for statement, args in (
        ("SELECT keep_blob($1, $2, 4, 'text', NULL, NULL)", (tenant, digest)),
        ("INSERT INTO reading (tenant, mission, source_sha256, document, kind) VALUES ($1, $3, $2, 'd', 'document')",
         (tenant, digest, asked.mission)),
        ("INSERT INTO workspace (tenant, id, name) VALUES ($1, $1, 'default')", (tenant,)),
        ("""INSERT INTO document (tenant, id, workspace, path, version, title, kind, content_sha256, source_sha256, bytes, passages, reader)
            VALUES ($1, $1, $1, 'd', 1, 'd', 'text', $2, $2, 4, 1, 1)""", (tenant, digest)),
        ("""INSERT INTO passage (tenant, workspace, document, ordinal, start_byte, end_byte, heading, body)
            VALUES ($1, $1, $1, 0, 0, 4, 'd', 'text')""", (tenant,)),
        ("INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'review', $1, 'worker')", (tenant,)),
        ("SELECT put_retention($1, $2, 1, NULL, 1095, 365, 90, 30)", (tenant, ground.secrets["adam"])),
        ("SELECT place_hold($1, $2, 'case-1', 'tenant', NULL, NULL, NULL, 'x')", (tenant, ground.secrets["adam"])),
        ("SELECT put_budget_limits($1, $2, 0, '{\"day_tokens\": 1000000}')", (tenant, ground.secrets["adam"])),
        ("""INSERT INTO idempotency (tenant, principal, route, key, fingerprint, status, headers, body)
            VALUES ($1, $1, 'r', 'k', $2, 200, '{}', '')""", (tenant, digest)),
    ):  # fmt: skip
        await ground.run("api", statement, *args)
    await ground.run("worker", "INSERT INTO liveness_look VALUES ($1, now(), 1, 1, 0)", tenant)
    await ground.mission()  # under the limits just set: it holds a reservation
    await ground.connector("unread", read_by="executor")
    await ground.run("api", "SELECT ask_connector_read($1, 'unread', 'lead', 'L-1')", tenant)


async def test_rows_are_seen_and_touched_within_their_tenant_only(ground: Ground) -> None:
    await furnish(ground)
    async with neighbour_of(ground) as other:
        for table, roles in TABLES.items():
            key = "id" if table == "tenant" else "tenant"
            counted = f"SELECT count(*) FROM {table} WHERE {key} = '{ground.tenant}'"
            assert await ground.value("admin", counted) > 0, f"no row of {table} to look for"
            for role, may in roles.items():
                assert await ground.value(role, counted) > 0, (table, role)
                assert await other.value(role, counted) == 0, (table, role)
                assert (
                    await ground.value(
                        role, f"SELECT count(*) FROM {table} WHERE {key} IS DISTINCT FROM $1", ground.tenant
                    )
                    == 0
                )
                connection = await ground.of(role)
                async with connection.transaction():
                    for nothing in ("", None):
                        if nothing is not None:
                            await connection.execute("SELECT set_config('app.tenant', $1, true)", nothing)
                        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, (table, role)
                for privilege in may.replace("(", " (").split(" "):
                    column = may.partition("u(")[2].split(")")[0].split(" ")[0]
                    if privilege == "d":
                        assert await touched(other, role, f"DELETE FROM {table}", ground) == 0
                    elif privilege == "u" and column:
                        assert await touched(other, role, f"UPDATE {table} SET {column} = {column}", ground) == 0


async def touched(ground: Ground, role: str, statement: str, whose: Ground) -> int:
    """How many rows of a tenant a statement reaches when it is run by another."""
    key = "id" if " tenant " in f"{statement} " else "tenant"
    async with ground.within(role) as connection:
        done: str = await connection.execute(f"{statement} WHERE {key} = '{whose.tenant}'")
    return int(done.rpartition(" ")[2])


async def test_rows_are_added_within_their_tenant_only(ground: Ground) -> None:
    await furnish(ground)
    async with neighbour_of(ground) as other:
        for table, roles in TABLES.items():
            for role, may in roles.items():
                if not may.startswith("i") and " i" not in may:
                    continue
                columns = may.partition("i(")[2].split(")")[0].split(" ") if "i(" in may else None
                columns = columns or [name for (name,) in await ground.run(
                    "admin", "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''", table
                )]  # fmt: skip
                key = "id" if table == "tenant" else "tenant"
                row = await ground.run(
                    "admin", f"SELECT {', '.join(columns)} FROM {table} WHERE {key} = $1 LIMIT 1", ground.tenant
                )
                values = dict(row[0])
                if table == "ledger":
                    values |= {"type": "mission.running", "actor": f"system:{role}"}
                names, places = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
                with pytest.raises(asyncpg.PostgresError) as refused:
                    await other.run(role, f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())
                # a guard may look first, sees nothing of the other tenant, and says so
                assert refused.value.sqlstate in (DENIED, "RX005", "RX006"), f"{table} {role}: {refused.value}"


async def test_rows_refer_to_rows_of_their_tenant_only(ground: Ground) -> None:
    asked = await ground.approved()
    async with neighbour_of(ground) as other:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await other.proposal(asked.mission)
        grant = "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'operator')"
        await other.refused("role_grant_tenant_principal_fkey", "registrar", grant, other.tenant, ground.ids["anna"])
        with pytest.raises(asyncpg.PostgresError, match="proposal is not one of this mission"):
            await other.propose(proposal=await ground.proposal(asked.mission))


async def test_a_function_works_in_the_tenant_that_was_entered_only(ground: Ground) -> None:
    asked = await ground.approved()
    calls = {
        "api": (
            (
                "SELECT * FROM decide($1, $2, $3, 2, $4, 'approve', '')",
                asked.approval,
                ground.secrets["anna"],
                asked.sha256,
            ),
            ("SELECT * FROM approver_keys($1, $2)", ground.ids["anna"]),
            ("SELECT * FROM search_passages($1, 'default', 'anything', 5)",),
            ("SELECT * FROM break_glass($1, $2, $3, 2, $4, 'x')", asked.approval, ground.secrets["gwen"], asked.sha256),
            ("SELECT * FROM withdraw($1, $2, $3, 2, 'x')", asked.approval, ground.secrets["anna"]),
            (
                "SELECT * FROM revise($1, $2, $3, 2, $4, $5, 'x', NULL)",
                asked.approval,
                ground.secrets["anna"],
                asked.sha256,
                asked.payload,
            ),
            ("SELECT * FROM renew($1, $2, $3, $4, NULL)", asked.writeback, ground.secrets["anna"], asked.payload),
            ("SELECT * FROM vouch($1, $2, $3, 'applied', 'seen', NULL)", asked.writeback, ground.secrets["anna"]),
            ("SELECT * FROM put_rule($1, $2, gen_random_uuid(), NULL, '{}')", ground.secrets["adam"]),
            ("SELECT * FROM see_notice($1, gen_random_uuid(), $2)", ground.secrets["anna"]),
            ("SELECT * FROM switch_connector($1, $2, 'crm', true, 'x')", ground.secrets["anna"]),
            ("SELECT * FROM switch_tool_layer($1, $2, 'odd', true, 'x')", ground.secrets["anna"]),
            ("SELECT * FROM switch_model_provider($1, $2, 'east', true, 'x')", ground.secrets["adam"]),
        ),
        "worker": (
            ("SELECT close_approval($1, $2, 'cancelled', NULL)", asked.approval),
            ("SELECT climb($1, $2)", asked.approval),
        ),
        "executor": (
            ("SELECT * FROM claim($1, $2, $3)", asked.writeback, timedelta(seconds=1)),
            ("SELECT settle($1, $2, 1, 'failed', NULL, NULL)", asked.writeback),
            ("SELECT finish_executor_work($1, $2, 1, 1, NULL, false)", asked.writeback),
        ),
    }
    async with neighbour_of(ground) as other:
        for role, statements in calls.items():
            for statement, *args in statements:
                await other.refused("RX002", role, statement, ground.tenant, *args)  # their context, our tenant
                await ground.refused("RX002", role, statement, None, *args)
                connection = await ground.of(role)
                with pytest.raises(asyncpg.PostgresError, match="tenant differs from the context"):
                    await connection.fetch(statement, ground.tenant, *args)  # no context at all
                try:
                    outcome = await other.run(role, statement, other.tenant, *args)  # our ids, their tenant: not there
                except asyncpg.PostgresError as error:
                    raise AssertionError(f"{statement}: {error}") from error
                assert not outcome or outcome[0][0] in (None, False, "not_found", "refused", "unauthenticated"), (
                    statement,
                    outcome,
                )
    assert await ground.state(asked) == "approved"


async def test_a_context_that_is_no_tenant_is_an_error(ground: Ground) -> None:
    api = await ground.of("api")
    for context in ("*", "nobody", "' OR true --"):
        with pytest.raises(asyncpg.DataError):
            async with api.transaction():
                await api.execute("SELECT set_config('app.tenant', $1, true)", context)
                await api.fetch("SELECT * FROM mission")
    async with api.transaction():
        await api.execute("SELECT set_config('app.tenant', $1, true)", str(uuid4()))
        assert await api.fetch("SELECT * FROM mission") == []


async def test_the_reader_reads_the_whole_ledger_and_nothing_else(ground: Ground) -> None:
    await ground.approved()
    async with neighbour_of(ground) as other:
        await other.approved()
        reader = await ground.of("reader")
        facts: list[asyncpg.Record] = []
        while not {ground.tenant, other.tenant} <= {fact["tenant"] for fact in facts}:
            await asyncio.sleep(0.01)  # the horizon is the cluster's: somebody else's transaction may hold it up
            facts = await reader.fetch("SELECT * FROM read_ledger('0', 0, 5000)")
        assert [(f["xid"], f["id"]) for f in facts] == sorted((f["xid"], f["id"]) for f in facts)
    for table in GRANTS:
        await ground.refused(DENIED, "reader", f"SELECT * FROM {table}")


async def test_work_is_leased_across_tenants_and_touched_within_one(ground: Ground) -> None:
    async with neighbour_of(ground) as other:
        for one in (ground, other):
            await one.run(
                "api", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'ask', $1, 'worker')", one.tenant
            )
        worker = await ground.of("worker")
        taken = await worker.fetch("SELECT * FROM take_worker_work(ARRAY['ask'], 500, '1 minute')")
        assert {ground.tenant, other.tenant} <= {row["tenant"] for row in taken}
        assert await worker.fetch("SELECT * FROM take_worker_work(ARRAY['ask'], 500, '1 minute')") == []
        assert await worker.fetchval("SELECT count(*) FROM work") == 0
        assert await touched(other, "worker", "DELETE FROM work", ground) == 0
