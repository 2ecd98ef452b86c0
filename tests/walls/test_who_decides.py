"""Invariants 4, 5 and 15: an entitled human other than the requester, proved by a live secret, often enough and in time."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import Asked, Ground
from tests.walls.test_ladder import later

CLOSE = "SELECT close_approval($1, $2, 'cancelled', NULL)"
DIRECT = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
            SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1"""


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
    ground.ids["last"], ground.secrets["last"] = last, f"secret-of-last-{last}"
    await ground.key("last")
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
    for who, code in (("anna", "RX010"), ("agent", "RX009"), ("adam", "RX009"), ("machine", "RX009")):
        await ground.refused(code, "owner", DIRECT, asked.approval, ground.ids[who])
    await ground.run("owner", DIRECT, asked.approval, ground.ids["ben"])
    await ground.refused("decision_pkey", "owner", DIRECT, asked.approval, ground.ids["ben"])
    await ground.run("owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)
    await ground.refused("RX004", "owner", DIRECT, asked.approval, ground.ids["cora"])


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
    await ground.refused("RX004", "owner", DIRECT, asked.approval, ground.ids["anna"])
    # A vote that was in time does not make an approval that is not.
    await ground.run("admin", "ALTER TABLE decision DISABLE TRIGGER decision_guard")
    await ground.run("owner", DIRECT, late.approval, ground.ids["anna"])
    await ground.run("admin", "ALTER TABLE decision ENABLE ALWAYS TRIGGER decision_guard")
    await ground.refused("RX008", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", late.approval)
    assert await ground.close(asked, "expired") == "expired"


async def test_whoever_decides_after_expiry_is_told_so(ground: Ground) -> None:
    asked = await ground.ask()
    await later(ground, asked, 61)
    for verdict in ("approve", "reject"):
        assert await ground.decide(asked, "anna", verdict) == "expired"


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


async def test_what_is_not_there_is_not_decided(ground: Ground) -> None:
    asked, nothing = await ground.ask(), uuid4()
    assert await ground.decide(asked, "anna", approval=nothing) == "not_found"
    assert await ground.decide(asked, "nobody", approval=nothing) == "not_found"


TAKE_AWAY = {
    "api_key": "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1",
    "role_grant": "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE principal = $1",
    "principal": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
}


@pytest.mark.parametrize("what", TAKE_AWAY)
async def test_taking_a_right_away_and_deciding_wait_for_each_other(ground: Ground, what: str) -> None:
    """What a decision relied on cannot be taken away before it is committed; what was taken away first counts."""
    asked, second = await ground.ask("two"), await ground.ask("two")
    anna = ground.ids["anna"]
    async with ground.within("api") as api:
        decided = "SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')"
        assert (
            await api.fetchval(decided, ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256)
            == "recorded"
        )
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with ground.within("registrar") as registrar:
                await registrar.execute("SET LOCAL lock_timeout = '50ms'")
                await registrar.execute(TAKE_AWAY[what], anna)
    outcome = await ground.overtaken(("registrar", TAKE_AWAY[what], (anna,)), ground.decide(second, "anna"))
    assert outcome == ("unauthenticated" if what == "api_key" else "not_entitled")


async def test_a_decision_waits_for_whoever_is_faster(ground: Ground) -> None:
    faster = "SELECT decide($1, $2, $3, 1, $4, $5, 'first')"
    for verdict in ("approve", "reject"):
        asked = await ground.ask()
        first: Any = ("api", faster, (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256, verdict))
        assert await ground.overtaken(first, ground.decide(asked, "ben", version=1)) == "not_pending"
        asked = await ground.ask()
        first = ("api", faster, (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256, verdict))
        closed = await ground.overtaken(first, ground.value("worker", CLOSE, ground.tenant, asked.approval))
        assert closed == ("cancelled" if verdict == "approve" else "rejected")
    asked = await ground.ask()
    first = ("worker", CLOSE, (ground.tenant, asked.approval))
    direct = ground.refused("RX004", "owner", DIRECT, asked.approval, ground.ids["anna"])
    assert "nothing to decide" in await ground.overtaken(first, direct)


async def test_a_decision_waits_for_the_end_of_its_mission(ground: Ground) -> None:
    asked = await ground.ask()
    first = ("api", "UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", (asked.mission,))
    assert await ground.overtaken(first, ground.decide(asked, "anna", version=1)) == "mission_closed"
    asked = await ground.ask()  # closing queues up there too: whoever holds the mission may want the approval next
    first = ("api", "UPDATE mission SET stage = 'x' WHERE id = $1", (asked.mission,))
    assert await ground.overtaken(first, ground.value("worker", CLOSE, ground.tenant, asked.approval)) == "cancelled"


async def test_an_answered_question_about_a_mission_is_not_closed_afterwards(ground: Ground) -> None:
    mission = await ground.mission()
    question = await ground.proposal(mission, "policy_decision")
    digest = await ground.value("admin", "SELECT sha256 FROM artifact WHERE id = $1", question)
    asked = Asked(mission, uuid4(), uuid4(), b"", digest, ground.ids["asker"])
    await ground.open(asked, subject="mission", writeback=None, question_sha256=digest)
    assert await ground.decide(asked, "anna") == "approved"
    assert await ground.close(asked) == "approved"


async def test_what_a_decision_leaves_is_dated_by_the_wall(ground: Ground) -> None:
    asked = await ground.ask()
    await ground.run("owner", DIRECT.replace("verdict)", "verdict, decided_at)").replace("'approve'", "'approve', 'epoch'"),
                     asked.approval, ground.ids["anna"])  # fmt: skip
    await ground.run(
        "owner", "UPDATE approval SET state = 'approved', closed_at = 'epoch' WHERE id = $1", asked.approval
    )
    [row] = await ground.run("admin", """SELECT a.closed_at, d.decided_at, a.not_before, now() AS now FROM approval a
                             JOIN decision d ON d.approval = a.id WHERE a.id = $1""", asked.approval)  # fmt: skip
    for moment in (row["closed_at"], row["decided_at"], row["not_before"]):
        assert abs(row["now"] - moment) < timedelta(minutes=1)


async def test_who_somebody_is_comes_with_live_roles_only(ground: Ground) -> None:
    async def roles() -> list[str]:
        digest = hashlib.sha256(ground.secrets["adam"].encode()).digest()
        return await ground.value("api", "SELECT roles FROM authenticate($1)", digest)

    assert await roles() == ["admin", "auditor", "policy_owner", "submitter"]
    await ground.revoke("adam", "admin")
    await ground.run("admin", "ALTER TABLE role_grant DISABLE TRIGGER role_grant_guard")
    await ground.run(
        "admin",
        "UPDATE role_grant SET expires_at = now() WHERE principal = $1 AND role = 'auditor'",
        ground.ids["adam"],
    )
    await ground.run("admin", "ALTER TABLE role_grant ENABLE ALWAYS TRIGGER role_grant_guard")
    assert await roles() == ["policy_owner", "submitter"]


async def test_a_transaction_that_froze_its_view_is_judged_by_nobody(ground: Ground) -> None:
    asked, approved = await ground.ask(), await ground.approved()
    writeback, columns = await ground.propose()
    for isolation in ("repeatable_read", "serializable"):
        for role, statement, args in (
            ("api", "SELECT * FROM decide($1, $2, $3, 1, $4, 'approve', '')",
             (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256)),
            ("worker", CLOSE, (ground.tenant, asked.approval)),
            ("executor", "SELECT * FROM claim($1, $2, interval '1 s')", (ground.tenant, approved.writeback)),
            ("api", """INSERT INTO approval (tenant, id, mission, subject, writeback, requested_by, payload_sha256)
                       VALUES ($1, $2, $3, 'writeback', $2, $4, $5)""",
             (ground.tenant, writeback, columns["mission"], columns["requested_by"], hashlib.sha256(columns["payload"]).digest())),
            ("owner", DIRECT, (asked.approval, ground.ids["anna"])),
        ):  # fmt: skip
            with pytest.raises(asyncpg.PostgresError, match="read committed"):
                async with ground.within(role, isolation=isolation) as connection:
                    await connection.fetch(statement, *args)
    assert (await ground.state(asked), await ground.state(approved)) == ("awaiting_approval", "approved")
