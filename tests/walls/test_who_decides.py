"""Invariants 4, 5 and 15: an entitled human other than the requester, proved by a live secret, often enough and in time."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import Ground


async def test_only_a_live_secret_decides_never_an_id(ground: Ground) -> None:
    asked = await ground.ask()
    digest = hashlib.sha256(ground.secrets["anna"].encode())
    for secret in (
        None,
        "",
        str(ground.ids["anna"]),
        digest.hexdigest(),
        ground.secrets["anna"] + " ",
        "no such secret",
    ):
        assert await ground.decide(asked, secret) == "unauthenticated"
    assert await ground.state(asked) == "awaiting_approval"


async def test_a_key_of_another_tenant_decides_nothing(ground: Ground) -> None:
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        asked = await ground.ask()
        assert await ground.decide(asked, other.secrets["anna"]) == "unauthenticated"


@pytest.mark.parametrize("ended", ["revoked", "expired", "suspended", "tenant"])
async def test_a_key_that_ended_decides_nothing(ground: Ground, ended: str) -> None:
    asked = await ground.ask()
    statement = {
        "revoked": "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1",
        "expired": "UPDATE api_key SET expires_at = clock_timestamp() WHERE principal = $1",
        "suspended": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
        "tenant": "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = (SELECT tenant FROM principal WHERE id = $1)",
    }[ended]
    await ground.run("registrar", statement, ground.ids["anna"])
    assert await ground.decide(asked, "anna") == "unauthenticated"
    assert await ground.decide(asked, "ben") == ("unauthenticated" if ended == "tenant" else "approved")


async def test_nobody_decides_their_own_nor_what_their_agents_ask(ground: Ground) -> None:
    for requester, forbidden in (("ben", "ben"), ("agent", "anna"), ("subagent", "anna")):
        asked = await ground.ask(by=requester)
        for verdict in ("approve", "reject"):
            assert await ground.decide(asked, forbidden, verdict) == "own_request"
        assert await ground.decide(asked, "cora") == "approved"


async def test_a_long_line_of_agents_still_leads_to_its_owner(ground: Ground) -> None:
    last = ground.ids["agent"]
    for number in range(15):
        agent = uuid4()
        await ground.run(
            "registrar", "INSERT INTO principal (tenant, id, kind, name, owner) VALUES ($1, $2, 'agent', $3, $4)",
            ground.tenant, agent, f"agent {number}", last,
        )  # fmt: skip
        last = agent
    ground.ids["last"] = last
    asked = await ground.ask(by="last")
    assert await ground.decide(asked, "anna") == "own_request"


async def test_only_humans_with_the_rules_role_decide(ground: Ground) -> None:
    asked = await ground.ask()
    for who in ("adam", "asker", "agent", "machine", "robot"):
        expected = "own_request" if who == "asker" else "not_entitled"
        assert await ground.decide(asked, who) == expected, who
    assert await ground.state(asked) == "awaiting_approval"


async def test_a_right_that_was_taken_away_or_ran_out_decides_nothing(ground: Ground) -> None:
    asked = await ground.ask()
    await ground.revoke("anna")
    assert await ground.decide(asked, "anna") == "not_entitled"
    await ground.run(
        "registrar", "INSERT INTO role_grant (tenant, principal, role, expires_at) VALUES ($1, $2, 'operator', $3)",
        ground.tenant, ground.ids["anna"], datetime.now(UTC) - timedelta(seconds=1),
    )  # fmt: skip
    assert await ground.decide(asked, "anna") == "not_entitled"
    await ground.revoke("anna")
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'operator')",
                     ground.tenant, ground.ids["anna"])  # fmt: skip
    assert await ground.decide(asked, "anna") == "approved"
    await ground.revoke("anna")  # whoever decided can be demoted; the approval stands
    assert (await ground.claim(asked))["outcome"] == "apply"


async def test_the_guards_say_so_too_when_somebody_gets_past_the_door(ground: Ground) -> None:
    """Inserted as the owner, whom no door stops."""
    asked = await ground.ask(by="agent")
    direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict, comment)
                SELECT tenant, id, $2, requested_by, payload_sha256, 'approve', 'x' FROM approval WHERE id = $1"""
    for who, code in (("anna", "RX010"), ("agent", "RX009"), ("adam", "RX009"), ("machine", "RX009")):
        await ground.refused(code, "owner", direct, asked.approval, ground.ids[who])
    await ground.run("owner", direct, asked.approval, ground.ids["ben"])
    await ground.refused("decision_pkey", "owner", direct, asked.approval, ground.ids["ben"])
    await ground.run("owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)
    await ground.refused("RX004", "owner", direct, asked.approval, ground.ids["cora"])


async def test_a_quorum_is_of_distinct_people(ground: Ground) -> None:
    asked = await ground.ask("two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert await ground.decide(asked, "anna") == "already_decided"
    assert await ground.state(asked) == "awaiting_approval"
    assert (await ground.claim(asked))["why"] == "pending"
    await ground.refused("RX007", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)
    assert await ground.decide(asked, "ben") == "approved"
    assert await ground.decide(asked, "cora") == "not_pending"
    assert await ground.decide(asked, "ben") == "already_decided"


async def test_a_vote_is_gone_when_its_right_is_revoked_before_the_quorum(ground: Ground) -> None:
    asked = await ground.ask("two")
    assert await ground.decide(asked, "anna") == "recorded"
    await ground.revoke("anna")
    assert await ground.decide(asked, "ben") == "recorded"
    await ground.refused("RX007", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)
    assert await ground.decide(asked, "cora") == "approved"


async def test_rejections_count_up_to_the_deny_threshold(ground: Ground) -> None:
    asked = await ground.ask("veto")
    assert await ground.decide(asked, "anna", "reject") == "recorded"
    await ground.refused("RX007", "owner", "UPDATE approval SET state = 'rejected' WHERE id = $1", asked.approval)
    assert await ground.decide(asked, "ben", "reject") == "rejected"
    asked = await ground.ask("two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert await ground.decide(asked, "ben", "reject") == "rejected"  # one veto suffices there
    assert await ground.decide(asked, "cora") == "not_pending"


async def test_a_veto_outweighs_a_quorum(ground: Ground) -> None:
    asked = await ground.ask("two")
    direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict, comment)
                SELECT tenant, id, $2, requested_by, payload_sha256, $3, 'x' FROM approval WHERE id = $1"""
    for who, verdict in (("anna", "approve"), ("ben", "approve"), ("cora", "reject")):
        await ground.run("owner", direct, asked.approval, ground.ids[who], verdict)
    await ground.refused("RX007", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)


async def test_a_rejection_says_why(ground: Ground) -> None:
    asked = await ground.ask()
    for nothing in (None, "", "  ", "\n\t "):
        assert await ground.decide(asked, "anna", "reject", nothing) == "no_comment"
    assert await ground.decide(asked, "anna", "reject", "too early") == "rejected"


@pytest.mark.parametrize("verdict", ["abstain", "", None])
async def test_a_verdict_is_approve_or_reject(ground: Ground, verdict: str | None) -> None:
    asked = await ground.ask()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await ground.decide(asked, "anna", verdict)


async def test_nothing_is_decided_after_expiry(ground: Ground) -> None:
    asked, late = await ground.ask("brief"), await ground.ask("brief")
    assert await ground.close(asked, "expired") == "pending"  # not before its time
    await ground.refused("RX008", "owner", "UPDATE approval SET state = 'expired' WHERE id = $1", asked.approval)
    await asyncio.sleep(1.05)
    assert await ground.decide(asked, "anna") == "expired"
    direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
                SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1"""
    await ground.refused("RX004", "owner", direct, asked.approval, ground.ids["anna"])
    # A vote that was in time does not make an approval that is not.
    await ground.run("admin", "ALTER TABLE decision DISABLE TRIGGER decision_guard")
    await ground.run("owner", direct, late.approval, ground.ids["anna"])
    await ground.run("admin", "ALTER TABLE decision ENABLE ALWAYS TRIGGER decision_guard")
    await ground.refused("RX008", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", late.approval)
    assert await ground.close(asked, "expired") == "expired"


async def test_a_closed_mission_takes_no_decision(ground: Ground) -> None:
    for state in ("cancelled", "failed", "denied", "completed"):
        asked = await ground.ask()
        await ground.end_mission(asked, state)
        assert await ground.decide(asked, "anna") == "mission_closed"
        assert await ground.decide(asked, "anna", "reject") == "mission_closed"


async def test_a_halted_connector_takes_no_approval_but_may_be_rejected(ground: Ground) -> None:
    for connector in ("crm", "*"):
        asked, other = await ground.ask(), await ground.ask("slow")
        await ground.halt(connector)
        assert await ground.decide(asked, "anna") == "halted"
        assert await ground.decide(asked, "anna", "reject") == "rejected"
        assert await ground.decide(other, "anna") == ("halted" if connector == "*" else "approved")
        await ground.halt(connector, False)


async def test_taking_a_right_away_and_deciding_wait_for_each_other(ground: Ground) -> None:
    """What a decision relied on cannot be taken away before it is committed; what was taken away first counts."""
    revoke = {
        "api_key": "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1",
        "role_grant": "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE principal = $1",
        "principal": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
    }
    for what, (who, expected) in zip(
        revoke, (("anna", "unauthenticated"), ("ben", "not_entitled"), ("cora", "not_entitled")), strict=True
    ):
        asked = await ground.ask("two")
        call = ("SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')",
                ground.tenant, asked.approval, ground.secrets[who], asked.sha256)  # fmt: skip
        async with ground.within("api") as api:
            assert await api.fetchval(*call) == "recorded"
            with pytest.raises(asyncpg.LockNotAvailableError):
                async with ground.within("registrar") as registrar:
                    await registrar.execute("SET LOCAL lock_timeout = '50ms'")
                    await registrar.execute(revoke[what], ground.ids[who])
        second = await ground.ask("two")
        async with ground.within("registrar") as registrar:
            await registrar.execute(revoke[what], ground.ids[who])
            deciding = asyncio.create_task(ground.decide(second, who))
            await waits_for_lock(ground, "api")
        assert await deciding == expected, what


async def waits_for_lock(ground: Ground, role: str) -> None:
    """Until a session of the role waits for another's lock."""
    admin = await ground.connect("admin")  # its own: the ground's may be in use by what is waited for
    waiting = """SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()
                 AND wait_event_type = 'Lock'"""
    for _ in range(200):
        if await admin.fetchval(waiting, f"mission_root_{role}"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing waits")


async def test_a_transaction_that_froze_its_view_is_judged_by_nobody(ground: Ground) -> None:
    asked, approved = await ground.ask(), await ground.approved()
    writeback, columns = await ground.propose()
    for isolation in ("repeatable_read", "serializable"):
        for role, statement, args in (
            ("api", "SELECT * FROM decide($1, $2, $3, 1, $4, 'approve', '')",
             (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256)),
            ("api", "SELECT close_approval($1, $2, 'cancelled', 'system:test')", (ground.tenant, asked.approval)),
            ("executor", "SELECT * FROM claim($1, $2, interval '1 s')", (ground.tenant, approved.writeback)),
            ("api", """INSERT INTO approval (tenant, id, mission, subject, writeback, requested_by, payload_sha256)
                       VALUES ($1, $2, $3, 'writeback', $2, $4, $5)""",
             (ground.tenant, writeback, columns["mission"], columns["requested_by"], hashlib.sha256(columns["payload"]).digest())),
        ):  # fmt: skip
            with pytest.raises(asyncpg.PostgresError, match="read committed"):
                async with ground.within(role, isolation=isolation) as connection:
                    await connection.fetch(statement, *args)
    assert (await ground.state(asked), await ground.state(approved)) == ("awaiting_approval", "approved")
