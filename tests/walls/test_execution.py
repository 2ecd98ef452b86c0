"""Invariants 6 to 9 and 14: one execution, only while approved, between undo window and expiry, settled by its holder."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.walls.ground import DENIED, LEASE, Ground, payload
from tests.walls.test_ladder import later

DIRECT = """INSERT INTO execution (tenant, writeback, approval, payload_sha256, lease_until, not_after)
            SELECT tenant, writeback, id, payload_sha256, clock_timestamp(), clock_timestamp() FROM approval WHERE id = $1"""


async def test_nothing_is_claimed_before_it_is_approved(ground: Ground) -> None:
    unknown, asked = await ground.ask(), await ground.ask()
    writeback, _ = await ground.propose()
    for one, why in ((writeback, "not_approved"), (unknown.mission, "not_found"), (asked.writeback, "pending")):
        [row] = await ground.run("executor", "SELECT * FROM claim($1, $2, $3)", ground.tenant, one, LEASE)
        assert (row["outcome"], row["why"], row["payload"], row["idempotency_key"]) == ("refused", why, None, None)
    await ground.refused("RX007", "owner", DIRECT, asked.approval)
    assert await ground.run("admin", "SELECT 1 FROM execution WHERE tenant = $1", ground.tenant) == []
    await ground.decide(asked, "anna", "reject")
    assert (await ground.claim(asked))["why"] == "rejected"
    await ground.refused("RX007", "owner", DIRECT, asked.approval)


async def test_work_that_was_added_early_is_harmless(ground: Ground) -> None:
    asked = await ground.ask()
    await ground.run("admin", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'execute', $2, 'executor')",
                     ground.tenant, asked.writeback)  # fmt: skip
    executor = await ground.of("executor")
    taken = await executor.fetch("SELECT * FROM take_executor_work(500, '1 minute', '{}')")
    assert asked.writeback in [row["subject"] for row in taken]
    assert (await ground.claim(asked))["outcome"] == "refused"


async def test_a_claim_gives_exactly_the_approved_bytes_once(ground: Ground) -> None:
    asked = await ground.approved()
    first = await ground.claim(asked)
    assert (first["outcome"], first["payload"], first["payload_sha256"]) == ("apply", asked.payload, asked.sha256)
    assert (first["fence"], first["attempts"], first["mission"]) == (1, 1, asked.mission)
    assert first["idempotency_key"] == asked.writeback  # whoever claimed it, and however often: the same call
    again = await ground.claim(asked)
    assert (again["outcome"], again["payload"], again["idempotency_key"]) == ("busy", None, None)
    [(count,)] = await ground.run("admin", "SELECT count(*) FROM execution WHERE writeback = $1", asked.writeback)
    assert count == 1


async def test_a_claim_is_durable_whatever_the_session_prefers(ground: Ground) -> None:
    asked = await ground.approved()
    async with ground.within("executor") as executor:
        await executor.execute("SET LOCAL synchronous_commit = off")
        await executor.fetch("SELECT * FROM claim($1, $2, $3)", ground.tenant, asked.writeback, LEASE)
        assert await executor.fetchval("SHOW synchronous_commit") == "on"


async def test_many_claims_at_once_make_one_execution(ground: Ground) -> None:
    asked = await ground.approved()
    executors = [await ground.connect("executor") for _ in range(6)]

    async def claim(connection: asyncpg.Connection) -> str:
        async with ground.within("executor", connection=connection):
            return await connection.fetchval(
                "SELECT outcome FROM claim($1, $2, $3)", ground.tenant, asked.writeback, LEASE
            )

    outcomes = await asyncio.gather(*(claim(connection) for connection in executors))
    assert sorted(outcomes) == ["apply", "busy", "busy", "busy", "busy", "busy"]


async def test_an_approval_cannot_be_withdrawn_after_the_claim(ground: Ground) -> None:
    asked = await ground.approved()
    await ground.claim(asked)
    assert await ground.close(asked) == "approved"
    for state in ("cancelled", "expired"):
        why = "RX008" if state == "expired" else "execution_tenant_approval_writeback_payload_sha256_approva_fkey"
        await ground.refused(why, "owner", "UPDATE approval SET state = $2 WHERE id = $1", asked.approval, state)
    assert await ground.state(asked) == "executing"


async def test_an_approval_can_be_withdrawn_before_the_claim(ground: Ground) -> None:
    asked = await ground.approved()
    assert await ground.close(asked) == "cancelled"
    assert (await ground.claim(asked))["why"] == "cancelled"
    await ground.refused("RX007", "owner", DIRECT, asked.approval)
    assert await ground.close(asked) == "cancelled"
    assert await ground.close(asked, "expired") == "cancelled"


async def test_closing_is_cancelling_or_expiring(ground: Ground) -> None:
    asked = await ground.ask()
    for state in ("approved", "rejected", "pending", "x", ""):
        with pytest.raises(asyncpg.PostgresError, match="does not close"):
            await ground.close(asked, state)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await ground.close(asked, None)
    assert await ground.close(replace(asked, approval=asked.mission)) is None
    assert await ground.state(asked) == "awaiting_approval"


async def test_nothing_is_claimed_within_the_undo_window(ground: Ground) -> None:
    asked = await ground.approved("slow")
    row = await ground.claim(asked)
    assert (row["outcome"], row["why"], row["payload"]) == ("too_early", "undo_window", None)
    left = row["not_before"] - await ground.value("admin", "SELECT clock_timestamp()")
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    await ground.refused("RX007", "owner", DIRECT, asked.approval)
    await ground.refused("RX001", "owner", "UPDATE approval SET not_before = 'epoch' WHERE id = $1", asked.approval)
    usual = await ground.approved("any_other")
    left = (await ground.claim(usual))["not_before"] - await ground.value("admin", "SELECT clock_timestamp()")
    assert timedelta(seconds=8) < left <= timedelta(seconds=10)


async def test_nothing_is_claimed_after_expiry(ground: Ground) -> None:
    asked = await ground.approved("brief")
    await asyncio.sleep(1.05)
    row = await ground.claim(asked)
    assert (row["outcome"], row["why"], row["payload"]) == ("refused", "expired", None)
    assert await ground.close(asked, "expired") == "expired"
    assert (await ground.claim(asked))["why"] == "expired"


async def test_nothing_is_executed_past_the_claim_after_expiry(ground: Ground) -> None:
    asked = await ground.approved()
    await later(ground, asked, 61)
    await ground.refused("RX007", "owner", DIRECT, asked.approval)


async def test_a_closed_mission_sends_nothing_more(ground: Ground) -> None:
    for state in ("cancelled", "failed", "denied", "completed"):
        asked = await ground.approved()
        await ground.end_mission(asked, state)
        row = await ground.claim(asked)
        assert (row["outcome"], row["why"], row["payload"]) == ("refused", f"mission_{state}", None)
        await ground.refused("RX011", "owner", DIRECT, asked.approval)


async def test_a_suspended_tenant_sends_nothing_more(ground: Ground) -> None:
    asked = await ground.approved()
    await ground.run("registrar", "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = $1", ground.tenant)
    row = await ground.claim(asked)
    assert (row["outcome"], row["why"], row["payload"]) == ("refused", "tenant_suspended", None)
    await ground.refused("RX011", "owner", DIRECT, asked.approval)


async def test_a_halted_connector_sends_nothing_more(ground: Ground) -> None:
    for connector in ("crm", "*"):
        asked, claimed = await ground.approved(), await ground.approved()
        await ground.claim(claimed, timedelta(0))
        await ground.halt(connector)
        row = await ground.claim(asked)
        assert (row["outcome"], row["why"], row["payload"]) == ("refused", "halted", None)
        await ground.refused("RX011", "owner", DIRECT, asked.approval)
        row = await ground.claim(claimed, timedelta(0))  # what is claimed may still be asked about
        assert (row["outcome"], row["why"]) == ("reconcile", "halted")
        await ground.halt(connector, False)
        assert (await ground.claim(asked))["outcome"] == "apply"
        row = await ground.claim(claimed)
        assert (row["outcome"], row["why"]) == ("reconcile", None)


async def test_no_claim_follows_a_halt_that_is_committed(ground: Ground) -> None:
    asked = await ground.approved()
    halt = ("api", "SELECT switch_connector($1, $2, 'crm', true, 'a test')", (ground.tenant, ground.secrets["anna"]))
    with pytest.raises(asyncpg.PostgresError, match="writebacks are halted"):
        await ground.overtaken(halt, ground.claim(asked))
    assert await ground.run("admin", "SELECT 1 FROM execution WHERE writeback = $1", asked.writeback) == []


async def test_a_claim_waits_for_whatever_takes_its_permission_away(ground: Ground) -> None:
    for statement, why in (
        ("UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", "mission_cancelled"),
        ("SELECT close_approval($2, $1, 'cancelled', NULL)", "cancelled"),
    ):
        asked = await ground.approved()
        args = (asked.mission,) if "UPDATE" in statement else (asked.approval, ground.tenant)
        row = await ground.overtaken(("worker", statement, args), ground.claim(asked))
        assert (row["outcome"], row["why"], row["payload"]) == ("refused", why, None)
        asked = await ground.approved()
        args = (asked.mission,) if "UPDATE" in statement else (asked.approval, ground.tenant)
        code = "RX011" if "UPDATE" in statement else "RX007"
        await ground.overtaken(("worker", statement, args), ground.refused(code, "owner", DIRECT, asked.approval))
    asked = await ground.approved()
    suspend = ("registrar", "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = $1", (ground.tenant,))
    await ground.overtaken(suspend, ground.refused("RX011", "owner", DIRECT, asked.approval))


async def test_one_of_two_takes_over_what_was_left_unsettled(ground: Ground) -> None:
    asked = await ground.approved()
    await ground.claim(asked, timedelta(0))
    take_over = ("executor", "SELECT * FROM claim($1, $2, $3)", (ground.tenant, asked.writeback, LEASE))
    row = await ground.overtaken(take_over, ground.claim(asked))
    assert (row["outcome"], row["payload"]) == ("busy", None)
    taken = ("executor", "SELECT settle($1, $2, 2, 'failed', NULL, NULL)", (ground.tenant, asked.writeback))
    assert await ground.overtaken(taken, ground.settle(asked, 2, "unknown")) is False


async def test_only_the_present_holder_settles(ground: Ground) -> None:
    asked = await ground.approved()
    first = await ground.claim(asked, timedelta(0))
    second = await ground.claim(asked)
    assert (second["outcome"], second["fence"], second["attempts"]) == ("reconcile", 2, 2)
    assert (second["payload"], second["idempotency_key"]) == (asked.payload, first["idempotency_key"])
    for fence in (first["fence"], 0, 3, None):
        for state in ("succeeded", "failed", "unknown", "executing", "stale"):
            assert await ground.settle(asked, fence, state, asked.payload) is False
    assert await ground.state(asked) == "executing"
    assert await ground.settle(asked, 2, "failed") is True
    for state in ("succeeded", "failed", "unknown", "executing"):  # settled is settled
        assert await ground.settle(asked, 2, state, asked.payload) is False
    assert (await ground.claim(asked))["outcome"] == "settled"


async def test_success_is_a_read_back_equal_to_what_was_approved(ground: Ground) -> None:
    asked = await ground.approved()
    fence = (await ground.claim(asked))["fence"]
    for observed in (None, b"", payload(changes={"priority": "low"}), asked.payload + b" "):
        with pytest.raises(asyncpg.CheckViolationError):
            await ground.settle(asked, fence, "succeeded", observed)
    assert await ground.state(asked) == "executing"
    assert await ground.settle(asked, fence, "succeeded", asked.payload) is True
    [row] = await ground.run("admin", "SELECT * FROM execution WHERE writeback = $1", asked.writeback)
    assert row["observed_sha256"] == row["payload_sha256"] == asked.sha256
    assert row["settled_at"] is not None


async def test_an_outcome_is_one_of_five(ground: Ground) -> None:
    asked = await ground.approved()
    fence = (await ground.claim(asked))["fence"]
    for state in ("approved", "done", "", None):
        with pytest.raises(asyncpg.PostgresError, match=r"no outcome|null value"):
            await ground.settle(asked, fence, state, asked.payload)
    for state in ("executing", "unknown", "executing", "unknown"):  # proved not applied, or nobody knows: still open
        assert await ground.settle(asked, fence, state) is True
        assert await ground.state(asked) == state


async def test_an_execution_keeps_what_it_was_born_with(ground: Ground) -> None:
    asked, other = await ground.approved(), await ground.approved(payload=payload(changes={"priority": "low"}))
    await ground.claim(asked)
    for column, value in {
        "writeback": f"'{other.writeback}'", "approval": f"'{other.approval}'", "tenant": "gen_random_uuid()",
        "payload_sha256": "sha256('x')", "idempotency_key": "gen_random_uuid()", "started_at": "'epoch'", "not_after": "'infinity'",
        "asked_at": "'epoch'", "fence": "0", "attempts": "0",
    }.items():  # fmt: skip
        await ground.refused(
            "RX004", "owner", f"UPDATE execution SET {column} = {value} WHERE writeback = $1", asked.writeback
        )
    await ground.settle(asked, 1, "failed")
    for change in (
        "state = 'executing', settled_at = NULL",
        "receipt = 'x'",
        "observed = 'x'",
        "lease_until = 'infinity'",
    ):
        await ground.refused("RX004", "owner", f"UPDATE execution SET {change} WHERE writeback = $1", asked.writeback)


async def test_an_execution_is_born_executing_with_its_approvals_deadline(ground: Ground) -> None:
    asked = await ground.approved()
    await ground.run(
        "owner",
        """INSERT INTO execution (tenant, writeback, approval, payload_sha256, lease_until, not_after, state, fence, attempts,
             asked_at, started_at, settled_at, receipt, observed)
           SELECT tenant, writeback, id, payload_sha256, clock_timestamp(), 'infinity', 'succeeded', 9, 9,
             'epoch', 'epoch', 'epoch', 'x', $2
           FROM approval WHERE id = $1""",
        asked.approval, asked.payload,
    )  # fmt: skip
    [row] = await ground.run(
        "admin",
        """SELECT e.*, e.not_after = a.expires_at AS deadline, e.asked_at = a.created_at AS asked,
             now() - e.started_at < interval '1 minute' AS now
           FROM execution e JOIN approval a ON a.id = e.approval WHERE e.writeback = $1""",
        asked.writeback,
    )
    assert (row["state"], row["fence"], row["attempts"], row["settled_at"]) == ("executing", 1, 1, None)
    assert (row["receipt"], row["observed"]) == (None, None)
    assert row["deadline"] and row["asked"] and row["now"]


async def test_no_lease_is_for_ever(ground: Ground) -> None:
    for lease in (timedelta(days=400), None):
        asked = await ground.approved()
        await ground.claim(asked, lease)
        left = "SELECT lease_until - clock_timestamp() FROM execution WHERE writeback = $1"
        assert await ground.value("admin", left, asked.writeback) <= timedelta(minutes=15)
    await ground.run(
        "admin", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'execute', $1, 'executor')", ground.tenant
    )
    executor = await ground.of("executor")
    await executor.fetch("SELECT * FROM take_executor_work(500, '100 years', '{}')")
    left = "SELECT GREATEST(lease_until, next_at) - clock_timestamp() FROM work WHERE subject = $1"
    assert await ground.value("admin", left, ground.tenant) <= timedelta(minutes=15)


async def test_the_executor_ends_its_own_work_by_fence(ground: Ground) -> None:
    for kind, queue in (("execute", "executor"), ("review", "worker")):
        add = "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, $2, $1, $3)"
        await ground.run("admin", add, ground.tenant, kind, queue)
    executor = await ground.of("executor")
    await executor.fetch("SELECT * FROM take_executor_work(500, '1 minute', '{}')")
    later = datetime.now(UTC) + timedelta(hours=1)

    async def finish(fence: int | None, wanted: int, again: datetime | None = None, failed: bool = False) -> bool:
        statement = "SELECT finish_executor_work($1, $1, $2, $3, $4, $5)"
        return await ground.value("executor", statement, ground.tenant, fence, wanted, again, failed)

    async def next_at() -> datetime:
        return await ground.value(
            "admin", "SELECT next_at FROM work WHERE subject = $1 AND kind = 'execute'", ground.tenant
        )

    for fence in (0, 2, None):
        assert await finish(fence, 1) is await finish(fence, 1, later) is False
    attempts = "SELECT attempts FROM work WHERE subject = $1 AND kind = 'execute'"
    assert await finish(1, 1, later, failed=True) is True
    assert await ground.value("admin", attempts, ground.tenant) == 1  # what fails again and again is counted
    assert await finish(1, 1, later) is True
    assert (await next_at(), await ground.value("admin", attempts, ground.tenant)) == (later, 0)
    # wanted again while it was held: neither ended nor put off
    await ground.run(
        "owner",
        "UPDATE work SET wanted = wanted + 1, next_at = now() WHERE tenant = $1 AND kind = 'execute'",
        ground.tenant,
    )
    assert await finish(1, 1, later) is True
    assert await next_at() < later - timedelta(minutes=30)
    assert await finish(1, 1) is True
    assert await next_at() < later - timedelta(minutes=30)
    assert await finish(1, 2) is True
    assert await finish(1, 2) is False
    assert await ground.value("admin", "SELECT count(*) FROM work WHERE subject = $1", ground.tenant) == 1
    await ground.refused(DENIED, "executor", "SELECT * FROM take_worker_work(ARRAY['review'], 1, '1 s')")
    await ground.refused(DENIED, "executor", "SELECT * FROM take_work('worker', ARRAY['review'], 1, '1 s', '{}')")
