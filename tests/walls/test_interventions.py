"""Breaking the glass, revising, renewing and taking back: each by the right person, of the right thing, in time."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Asked, Ground, payload
from tests.walls.test_ladder import approval, climb, facts, laddered, later, told

BREAK = "SELECT * FROM break_glass($1, $2, $3, $4, $5, $6)"
WITHDRAW = "SELECT outcome FROM withdraw($1, $2, $3, $4, $5)"
REVISE = "SELECT * FROM revise($1, $2, $3, $4, $5, $6, $7, NULL)"
RENEW = "SELECT * FROM renew($1, $2, $3, $4, NULL)"


async def smash(
    ground: Ground, asked: Asked, who: str | None, reason: str | None = "it burns", **more: Any
) -> asyncpg.Record:
    values = {"version": await ground.version(asked), "sha256": asked.sha256} | more
    [row] = await ground.run(
        "api", BREAK, ground.tenant, asked.approval, ground.secrets.get(who, who) if who else None,
        values["version"], values["sha256"], reason,
    )  # fmt: skip
    return row


async def withdraw(ground: Ground, asked: Asked, who: str, reason: str | None = "a slip", **more: Any) -> str:
    version = more.get("version", await ground.version(asked))
    outcome: str = await ground.value(
        "api", WITHDRAW, ground.tenant, asked.approval, ground.secrets.get(who, who), version, reason
    )
    return outcome


async def revise(ground: Ground, asked: Asked, who: str, said: bytes | None = None, **more: Any) -> asyncpg.Record:
    values = {"version": await ground.version(asked), "sha256": asked.sha256, "reason": "better so"} | more
    connector = json.loads(asked.payload)["connector"]
    said = payload(connector, changes={"priority": "low"}) if said is None else said
    [row] = await ground.run(
        "api", REVISE, ground.tenant, asked.approval, ground.secrets.get(who, who), values["version"], values["sha256"],
        said, values["reason"],
    )  # fmt: skip
    return row


async def of(ground: Ground, writeback: Any) -> Asked:
    """The writeback that was asked about, as its approval has it."""
    [row] = await ground.run(
        "admin",
        """SELECT w.mission, w.id, a.id AS approval, w.payload, w.payload_sha256, w.requested_by FROM writeback w
           JOIN approval a ON a.tenant = w.tenant AND a.writeback = w.id WHERE w.id = $1""",
        writeback,
    )
    return Asked(row["mission"], row["id"], row["approval"], row["payload"], row["payload_sha256"], row["requested_by"])


# --- the glass --------------------------------------------------------------------------------------------------------


async def test_two_holders_break_the_glass_and_it_is_executed_at_once(ground: Ground) -> None:
    asked = await ground.ask("slow", by="agent")  # an hour of undo window
    before = await approval(ground, asked)
    broken = await smash(ground, asked, "gwen")
    assert (broken["outcome"], broken["state"], broken["approver"]) == ("recorded", "pending", ground.ids["gwen"])
    row = await approval(ground, asked)
    assert (row["glass_broken_by"], row["was_rule"], row["required"]) == (ground.ids["gwen"], before["rule"], 2)
    assert row["may_decide"] == ["break_glass"] and row["rule"] != before["rule"]
    assert timedelta(minutes=14) < row["expires_at"] - row["glass_broken_at"] <= timedelta(minutes=15)
    [(_, said)] = await facts(ground, asked, "approval.glass_broken")
    assert (said["was_rule"], said["rule"], said["required"]) == (str(before["rule"]), str(row["rule"]), 2)
    assert "it burns" not in str(await facts(ground, asked, "approval.glass_broken", "approval.decided"))
    assert await told(ground, asked) == {("glass_broken", 0, "adam")}
    assert await ground.decide(asked, "ben") == "not_entitled"  # the ordinary approvers are not asked any more
    assert await ground.decide(asked, "gus", comment=" ") == "no_comment"
    assert await ground.decide(asked, "gus", comment="yes, it does") == "approved"
    assert (await ground.claim(asked))["outcome"] == "apply"  # no undo window


async def test_the_glass_is_broken_under_the_newest_version_of_its_rule(ground: Ground) -> None:
    """Every tenant is born with one; its policy owner may ask for more."""
    glass = await ground.value(
        "admin",
        "SELECT id FROM approval_rule WHERE tenant = $1 AND break_glass AND subject = 'writeback'",
        ground.tenant,
    )
    await ground.rule("*", glass, 1, required=3, approver_role="break_glass", break_glass=True, life="10 minutes",
                      comment_required=True)  # fmt: skip
    rule = await ground.value(
        "admin", "SELECT id FROM approval_rule WHERE tenant = $1 AND connector = 'two'", ground.tenant
    )
    for version in (1, 2):  # so that it is not of the glass's own version
        await ground.rule("two", rule, version, required=2, deny_threshold=2)
    asked = await ground.ask("two")
    assert (await approval(ground, asked))["deny_threshold"] == 2
    assert (await smash(ground, asked, "gwen"))["outcome"] == "recorded"
    row = await approval(ground, asked)
    assert row["deny_threshold"] == 1  # one refusal is enough where everybody is in a hurry
    assert (row["rule"], row["rule_version"], row["rule_required"], row["required"]) == (glass, 2, 3, 3)
    assert (row["was_rule_version"], row["expires_at"] - row["glass_broken_at"]) == (3, timedelta(minutes=10))


async def test_only_live_admins_are_told(ground: Ground) -> None:
    for who, until in (
        ("anna", "now() - interval '1 second'"),
        ("ben", "NULL"),
        ("cora", "NULL"),
        ("paul", "NULL"),
        ("machine", "NULL"),
    ):
        await ground.run(
            "registrar", f"INSERT INTO role_grant (tenant, principal, role, expires_at) VALUES ($1, $2, 'admin', {until})",
            ground.tenant, ground.ids[who],
        )  # fmt: skip
    await ground.revoke("ben", "admin")
    await ground.run("registrar", "UPDATE principal SET suspended_at = now() WHERE id = $1", ground.ids["paul"])
    asked = await ground.ask()
    await smash(ground, asked, "gwen")
    assert await told(ground, asked) == {("glass_broken", 0, "adam"), ("glass_broken", 0, "cora")}


async def test_the_timer_of_a_broken_glass_is_set_forward(ground: Ground) -> None:
    asked = await ground.ask("slow")
    await ground.run("admin", "UPDATE work SET next_at = now() + interval '9 days' WHERE subject = $1", asked.approval)
    await smash(ground, asked, "gwen")
    at = await ground.value(
        "admin", "SELECT next_at FROM work WHERE subject = $1 AND kind = 'approval_timer'", asked.approval
    )
    assert at == (await approval(ground, asked))["expires_at"]
    await later(ground, asked, 16)
    assert await climb(ground, asked) is None
    assert (await approval(ground, asked))["state"] == "expired"
    assert await ground.decide(asked, "gus", comment="too late") == "not_pending"


async def test_nobody_breaks_it_alone_nor_twice_nor_for_themselves(ground: Ground) -> None:
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'break_glass')",
                     ground.tenant, ground.ids["anna"])  # fmt: skip
    asked = await ground.ask(by="agent")
    assert (await smash(ground, asked, "anna"))["outcome"] == "own_request"  # she answers for the agent
    assert (await smash(ground, asked, "gwen"))["outcome"] == "recorded"
    assert (await smash(ground, asked, "gwen"))["outcome"] == "already_decided"
    assert await ground.decide(asked, "gwen") == "already_decided"
    assert (await smash(ground, asked, "gus"))["outcome"] == "already_broken"
    assert await ground.decide(asked, "anna") == "own_request"
    assert (await ground.claim(asked))["why"] == "pending"
    await ground.refused("RX007", "owner", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)


async def test_only_a_live_holder_with_a_reason_breaks_what_is_pending_and_as_it_was_seen(ground: Ground) -> None:
    asked = await ground.ask()
    for who, outcome in (("ben", "not_entitled"), ("adam", "not_entitled"), ("nobody", "unauthenticated"), (None, "unauthenticated"),
                         ("machine", "not_entitled"), ("asker", "own_request")):  # fmt: skip
        assert (await smash(ground, asked, who))["outcome"] == outcome, who
    for nothing in (None, "", " \n"):
        assert (await smash(ground, asked, "gwen", nothing))["outcome"] == "no_comment"
    assert (await smash(ground, asked, "gwen", sha256=b"\x00" * 32))["outcome"] == "other_payload"
    assert (await smash(ground, asked, "gwen", version=7))["outcome"] == "stale"
    [row] = await ground.run("api", BREAK, ground.tenant, uuid4(), ground.secrets["gwen"], 1, asked.sha256, "x")
    assert row["outcome"] == "not_found"
    assert (await approval(ground, asked))["version"] == 1
    await ground.revoke("gwen", "break_glass")
    assert (await smash(ground, asked, "gwen"))["outcome"] == "not_entitled"
    assert await ground.decide(asked, "anna") == "approved"
    assert (await smash(ground, asked, "gus"))["outcome"] == "not_pending"
    late = await ground.ask()
    await later(ground, late, 61)
    assert (await smash(ground, late, "gus"))["outcome"] == "expired"
    assert await facts(ground, asked, "approval.glass_broken") == []


async def test_a_broken_glass_overrides_neither_a_halt_nor_the_end_of_the_mission(ground: Ground) -> None:
    halted, ended = await ground.ask(), await ground.ask()
    await ground.halt("crm")
    assert (await smash(ground, halted, "gwen"))["outcome"] == "halted"
    row = await approval(ground, halted)
    assert (row["glass_broken_by"], row["version"], row["state"]) == (None, 1, "pending")  # nothing of it stays
    assert await told(ground, halted) == set()
    await ground.halt("crm", False)
    await ground.end_mission(ended, "cancelled")
    assert (await smash(ground, ended, "gwen"))["outcome"] == "mission_closed"


async def test_the_stricter_quorum_and_what_policy_wants_stay(ground: Ground) -> None:
    writeback, columns = await ground.propose()
    digest = await ground.value("admin", "SELECT payload_sha256 FROM writeback WHERE id = $1", writeback)
    asked = Asked(columns["mission"], writeback, writeback, columns["payload"], digest, ground.ids["asker"])
    await ground.open(asked, obligations='{"approvals": 3, "approver_role": "product_owner"}')
    assert (await smash(ground, asked, "gwen"))["outcome"] == "not_entitled"
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'product_owner')",
                     ground.tenant, ground.ids["gwen"])  # fmt: skip
    assert (await smash(ground, asked, "gwen"))["outcome"] == "recorded"
    row = await approval(ground, asked)
    assert (row["required"], row["rule_required"], row["must_hold"]) == (3, 2, "product_owner")


async def test_a_vote_from_before_counts_when_it_would_be_taken_now(ground: Ground) -> None:
    asked = await ground.ask("two")
    assert await ground.decide(asked, "gus", comment="seen") == "recorded"
    assert (await smash(ground, asked, "gwen"))["outcome"] == "approved"  # gus holds break_glass and said why
    asked = await ground.ask("two")
    assert await ground.decide(asked, "gus", comment=None) == "recorded"
    assert (await smash(ground, asked, "gwen"))["outcome"] == "recorded"
    asked = await ground.ask("two")
    assert await ground.decide(asked, "anna") == "recorded"
    assert (await smash(ground, asked, "gwen"))["outcome"] == "recorded"


async def test_the_guard_breaks_no_glass_for_anybody_else(ground: Ground) -> None:
    asked, late, done = await ground.ask(by="agent"), await ground.ask(), await ground.approved()
    by = "UPDATE approval SET glass_broken_by = $2 WHERE id = $1"
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'break_glass')",
                     ground.tenant, ground.ids["anna"])  # fmt: skip
    await ground.refused("RX009", "owner", by, asked.approval, ground.ids["ben"])
    await ground.refused("RX010", "owner", by, asked.approval, ground.ids["anna"])
    await ground.refused("RX004", "owner", by, done.approval, ground.ids["gwen"])
    await later(ground, late, 61)
    await ground.refused("RX004", "owner", by, late.approval, ground.ids["gwen"])
    for column, value in (("rule", "(SELECT id FROM approval_rule WHERE break_glass LIMIT 1)"), ("was_rule", "rule"),
                          ("was_rule_version", "1"), ("glass_broken_at", "now()"), ("rule_required", "5"),
                          ("rule_version", "9")):  # fmt: skip
        await ground.refused("RX001", "owner", f"UPDATE approval SET {column} = {value} WHERE id = $1", asked.approval)
    await ground.refused("RX004", "owner", "UPDATE approval SET glass_broken_by = $2, climbed = climbed || now() WHERE id = $1",
                         asked.approval, ground.ids["gwen"])  # fmt: skip
    await ground.refused("RX004", "owner", "UPDATE approval SET glass_broken_by = $2, state = 'cancelled' WHERE id = $1",
                         asked.approval, ground.ids["gwen"])  # fmt: skip
    await ground.run("owner", by, asked.approval, ground.ids["gwen"])
    await ground.refused("RX004", "owner", by, asked.approval, ground.ids["gus"])
    await laddered(ground)
    climbing = await ground.ask("climbing")
    await ground.run("owner", by, climbing.approval, ground.ids["gwen"])
    await later(ground, climbing, 12)
    assert await climb(ground, climbing) == (await approval(ground, climbing))["expires_at"]
    assert await facts(ground, climbing) == []  # no ladder behind a broken glass
    early = "UPDATE approval SET climbed = climbed || now() WHERE id = $1"
    await ground.refused("RX004", "owner", early, climbing.approval)


async def test_a_tenant_without_a_break_glass_rule_has_no_glass(ground: Ground) -> None:
    asked = await ground.ask()
    async with ground.within("admin") as admin:
        await admin.execute("ALTER TABLE approval_rule DISABLE TRIGGER approval_rule_keep")
        await admin.execute(
            "DELETE FROM approval_rule WHERE tenant = $1 AND break_glass AND subject = 'writeback'", ground.tenant
        )
        await admin.execute("ALTER TABLE approval_rule ENABLE ALWAYS TRIGGER approval_rule_keep")
    assert (await smash(ground, asked, "gwen"))["outcome"] == "no_rule"
    by = "UPDATE approval SET glass_broken_by = $2 WHERE id = $1"
    await ground.refused("RX006", "owner", by, asked.approval, ground.ids["gwen"])


async def test_breaking_waits_for_whoever_is_faster(ground: Ground) -> None:
    asked = await ground.ask()
    decided = "SELECT decide($1, $2, $3, 1, $4, 'approve', 'first')"
    first: Any = ("api", decided, (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256))
    assert (await ground.overtaken(first, smash(ground, asked, "gwen", version=1)))["outcome"] == "not_pending"
    asked = await ground.ask()
    first = ("api", "UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", (asked.mission,))
    assert (await ground.overtaken(first, smash(ground, asked, "gwen", version=1)))["outcome"] == "mission_closed"


@pytest.mark.parametrize("what", ["break", "withdraw", "revise", "climb"])
async def test_nobody_waits_in_a_ring_with_the_end_of_a_mission(ground: Ground, what: str) -> None:
    """Mission first, then approval: whoever ends the mission goes on to close what is open of it."""
    asked = await ground.ask()
    calls = {
        "break": lambda: smash(ground, asked, "gwen", version=1),
        "withdraw": lambda: withdraw(ground, asked, "anna", version=1),
        "revise": lambda: revise(ground, asked, "ben", version=1),
        "climb": lambda: climb(ground, asked),
    }
    async with ground.within("api", connection=await ground.connect("api")) as api:
        await api.execute("UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", asked.mission)
        waiting = asyncio.create_task(calls[what]())
        await ground.somebody_waits()
        close = "SELECT close_approval($1, $2, 'cancelled', $3)"
        assert await api.fetchval(close, ground.tenant, asked.approval, ground.secrets["cora"]) == "cancelled"
    said = await waiting
    assert said is None if what == "climb" else "not_pending" in str(said)


# --- taking back ------------------------------------------------------------------------------------------------------


async def test_what_is_not_claimed_can_be_taken_back(ground: Ground) -> None:
    pending, approved, claimed = await ground.ask(), await ground.approved(), await ground.approved()
    await ground.claim(claimed)
    assert await withdraw(ground, claimed, "anna") == "claimed"
    for asked, was in ((pending, "pending"), (approved, "approved")):
        for nothing in (None, "", " \t"):
            assert await withdraw(ground, asked, "anna", nothing) == "no_comment"
        assert await withdraw(ground, asked, "anna", version=9) == "stale"
        for who, outcome in (("gwen", "not_entitled"), ("machine", "not_entitled"), ("nobody", "unauthenticated")):
            assert await withdraw(ground, asked, who) == outcome
        assert await withdraw(ground, asked, "anna", " a slip ") == "cancelled"
        row = await approval(ground, asked)
        assert (row["state"], row["note"], row["withdrawn_by"]) == ("cancelled", "a slip", ground.ids["anna"])
        await ground.refused(
            "RX001", "owner", "UPDATE approval SET withdrawn_by = $2 WHERE id = $1", asked.approval, ground.ids["ben"]
        )
        told = "UPDATE approval SET stopped = 'connector_retired' WHERE id = $1"
        await ground.refused("RX001", "owner", told, asked.approval)
        [(_, said)] = await facts(ground, asked, "approval.closed")
        assert (said["state"], said["was"]) == ("cancelled", was) and "slip" not in str(said)
        assert await withdraw(ground, asked, "anna") == "not_pending"
        assert (await ground.claim(asked))["outcome"] == "refused"
    assert await ground.value("api", WITHDRAW, ground.tenant, uuid4(), ground.secrets["anna"], 1, "x") == "not_found"
    await ground.refused(
        "RX001", "owner", "UPDATE approval SET note = 'x' WHERE id = $1", (await ground.ask()).approval
    )
    mission = await ground.mission()
    question = await ground.proposal(mission, "policy_decision")
    digest = await ground.value("admin", "SELECT sha256 FROM artifact WHERE id = $1", question)
    asked = Asked(mission, uuid4(), uuid4(), b"", digest, ground.ids["asker"])
    await ground.open(asked, subject="mission", writeback=None, question_sha256=digest)
    assert await withdraw(ground, asked, "anna") == "not_a_writeback"
    assert await ground.value("api", REVISE.replace("*", "outcome"), ground.tenant, asked.approval, ground.secrets["anna"], 1,
                              asked.sha256, payload(), "better so") == "not_a_writeback"  # fmt: skip
    # revoked after quorum: the approval stands, and taking it back is what is left
    asked = await ground.approved()
    await ground.revoke("cora")
    assert await ground.state(asked) == "approved"
    assert await withdraw(ground, asked, "anna") == "cancelled"


async def test_taking_back_and_claiming_wait_for_each_other(ground: Ground) -> None:
    asked = await ground.approved()
    first: Any = ("executor", "SELECT * FROM claim($1, $2, interval '20 s')", (ground.tenant, asked.writeback))
    assert await ground.overtaken(first, withdraw(ground, asked, "anna", version=2)) == "claimed"
    asked = await ground.approved()
    first = ("api", WITHDRAW, (ground.tenant, asked.approval, ground.secrets["anna"], 2, "x"))
    assert (await ground.overtaken(first, ground.claim(asked)))["outcome"] == "refused"


# --- revising ---------------------------------------------------------------------------------------------------------


async def test_a_revision_is_a_new_writeback_that_its_editor_does_not_approve(ground: Ground) -> None:
    for start in (ground.ask, ground.approved):
        asked = await start(by="agent")
        state = await ground.state(asked)
        made = await revise(ground, asked, "ben")
        assert (made["outcome"], made["state"], made["editor"]) == ("revised", "cancelled", ground.ids["ben"])
        new = await of(ground, made["new_writeback"])
        [row] = await ground.run("admin", "SELECT * FROM writeback WHERE id = $1", new.writeback)
        assert (row["predecessor"], row["revision"], row["edited_by"]) == (asked.writeback, 2, ground.ids["ben"])
        assert (row["requested_by"], row["mission"], row["proposal"] is not None) == (
            asked.requested_by,
            asked.mission,
            True,
        )
        assert json.loads(new.payload)["changes"] == {"priority": "low"} and new.approval == made["new_approval"]
        old = await approval(ground, asked)
        assert (old["state"], old["note"], old["withdrawn_by"]) == ("cancelled", "better so", None)
        [(_, said)] = await facts(ground, asked, "approval.superseded")
        assert (said["approval"], said["new_approval"], said["was"]) == (
            str(asked.approval), str(new.approval), {"awaiting_approval": "pending"}.get(state, state),
        )  # fmt: skip
        assert "better" not in str(said)
        opened = [said for _, said in await facts(ground, asked, "approval.opened")]
        assert [said["approval"] for said in opened] == [str(new.approval)]
        due = await ground.value("admin", "SELECT next_at FROM work WHERE subject = $1", new.approval)
        assert due == (await approval(ground, new))["expires_at"]
        for who in ("ben", "anna"):  # the editor, and who answers for the requester
            assert await ground.decide(new, who) == "own_request"
        direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
                    SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1"""
        await ground.refused("RX010", "owner", direct, new.approval, ground.ids["ben"])
        assert (await ground.claim(asked))["outcome"] == "refused"
        assert await ground.decide(new, "cora") == "approved"
        assert (await ground.claim(new))["payload"] == new.payload


async def test_whoever_edited_an_earlier_revision_approves_no_later_one(ground: Ground) -> None:
    asked = await ground.ask()
    second = await of(ground, (await revise(ground, asked, "ben"))["new_writeback"])
    other = payload(changes={"priority": "none"})
    third = await of(ground, (await revise(ground, second, "cora", other))["new_writeback"])
    for who in ("ben", "cora"):
        assert await ground.decide(third, who) == "own_request"
    assert await ground.decide(third, "anna") == "approved"


async def test_only_open_ones_are_revised_by_entitled_people_as_they_were_seen(ground: Ground) -> None:
    asked = await ground.ask(by="agent")
    for who, outcome in (("anna", "own_request"), ("agent", "own_request"), ("adam", "not_entitled"), ("nobody", "unauthenticated"),
                         ("machine", "not_entitled"), ("gwen", "not_entitled")):  # fmt: skip
        assert (await revise(ground, asked, who))["outcome"] == outcome, who
    assert (await revise(ground, asked, "ben", version=9))["outcome"] == "stale"
    assert (await revise(ground, asked, "ben", sha256=b"\x00" * 32))["outcome"] == "other_payload"
    assert (await revise(ground, asked, "ben", reason=" "))["outcome"] == "no_comment"
    assert (await revise(ground, asked, "ben", asked.payload))["outcome"] == "unchanged"
    # the same change in another spelling would be a new question, free of the votes on this one
    spelled = json.dumps(dict(reversed(json.loads(asked.payload).items())), indent=1).encode()
    assert spelled != asked.payload
    assert (await revise(ground, asked, "ben", spelled))["outcome"] == "unchanged"
    for bad in (b"[]", b'{"a":1,"a":2}', payload("two"), payload(operation="delete"), payload(target={"id": "L-2", "kind": "lead"}),
                payload(changes=[1]), payload(more=1)):  # fmt: skip
        row = await revise(ground, asked, "ben", bad)
        assert (row["outcome"], row["state"]) == ("bad_payload", "pending"), bad
    assert (await approval(ground, asked))["version"] == 1
    [missing] = await ground.run(
        "api", REVISE, ground.tenant, uuid4(), ground.secrets["ben"], 1, asked.sha256, asked.payload, "x"
    )
    assert missing["outcome"] == "not_found"
    late = await ground.ask()
    await later(ground, late, 61)
    assert (await revise(ground, late, "ben"))["outcome"] == "expired"
    await climb(ground, late)
    rejected, cancelled, claimed, ended = (
        await ground.ask(),
        await ground.ask(),
        await ground.approved(),
        await ground.ask(),
    )
    await ground.decide(rejected, "anna", "reject")
    await ground.close(cancelled)
    await ground.claim(claimed)
    await ground.end_mission(ended, "failed")
    for dead, outcome in ((late, "not_pending"), (rejected, "not_pending"), (cancelled, "not_pending"), (claimed, "claimed"),
                          (ended, "mission_closed")):  # fmt: skip
        assert (await revise(ground, dead, "ben"))["outcome"] == outcome
    refreshed = await revise(ground, asked, "ben", payload(expected_version="2"))
    assert refreshed["outcome"] == "revised"


async def test_whom_policy_named_stays_named(ground: Ground) -> None:
    said = "SELECT stricter($1::text::jsonb, $2::text::jsonb)"
    for old, new, both in (
        ({"approver_role": "product_owner"}, {"approver_role": "operator"}, {"approver_role": "product_owner"}),
        ({"approver_role": "product_owner"}, {"approver_role": None}, {"approver_role": "product_owner"}),
        ({}, {"approver_role": "product_owner"}, {"approver_role": "product_owner"}),
        ({"approvals": 3, "escalate_to": "admin"}, {"approvals": 1}, {"approvals": 3, "escalate_to": "admin"}),
    ):
        assert json.loads(await ground.value("owner", said, json.dumps(old), json.dumps(new))) == both


async def test_obligations_stay_with_a_revision_and_may_only_grow(ground: Ground) -> None:
    writeback, columns = await ground.propose()
    digest = await ground.value("admin", "SELECT payload_sha256 FROM writeback WHERE id = $1", writeback)
    asked = Asked(columns["mission"], writeback, writeback, columns["payload"], digest, ground.ids["asker"])
    await ground.open(asked, obligations='{"approvals": 3, "expires_s": 1800, "escalate_to": "admin"}')
    [made] = await ground.run(
        "api", REVISE.replace("NULL", "'{\"approvals\": 2, \"expires_s\": 600}'"), ground.tenant, asked.approval,
        ground.secrets["ben"], 1, digest, payload(changes={"priority": "low"}), "x",
    )  # fmt: skip
    row = await approval(ground, await of(ground, made["new_writeback"]))
    assert (row["required"], row["expires_at"] - row["created_at"]) == (3, timedelta(minutes=10))
    assert json.loads(row["obligations"]) == {"approvals": 3, "expires_s": 600, "escalate_to": "admin"}


async def test_nobody_writes_a_revision_past_the_door(ground: Ground) -> None:
    asked, dead = await ground.ask(), await ground.ask()
    await ground.close(dead)
    insert = """INSERT INTO writeback (tenant, id, mission, requested_by, risk, payload, proposal, revision, predecessor, edited_by)
                SELECT tenant, gen_random_uuid(), mission, requested_by, risk, $2, proposal, $3, id, $4 FROM writeback WHERE id = $1"""
    low = payload(changes={"priority": "low"})
    await ground.refused(DENIED, "api", insert, dead.writeback, low, 2, ground.ids["ben"])
    await ground.refused("RX005", "owner", insert, asked.writeback, low, 2, ground.ids["ben"])  # still open
    await ground.refused("RX005", "owner", insert, dead.writeback, low, 3, ground.ids["ben"])
    await ground.refused("RX005", "owner", insert, dead.writeback, low, 2, None)  # changed by nobody
    await ground.refused("RX005", "owner", insert, dead.writeback, payload("two"), 2, ground.ids["ben"])
    await ground.run("owner", insert, dead.writeback, low, 2, ground.ids["ben"])
    await ground.refused(
        "writeback_tenant_proposal_revision_key", "owner", insert, dead.writeback, low, 2, ground.ids["ben"]
    )


async def test_revising_waits_for_whoever_is_faster(ground: Ground) -> None:
    asked = await ground.approved()
    first: Any = ("executor", "SELECT * FROM claim($1, $2, interval '20 s')", (ground.tenant, asked.writeback))
    assert (await ground.overtaken(first, revise(ground, asked, "ben", version=2)))["outcome"] == "claimed"
    asked = await ground.ask()
    first = ("api", "UPDATE mission SET state = 'cancelled', closed_at = now() WHERE id = $1", (asked.mission,))
    assert (await ground.overtaken(first, revise(ground, asked, "ben", version=1)))["outcome"] == "mission_closed"


# --- renewing ---------------------------------------------------------------------------------------------------------


async def stale(ground: Ground) -> Asked:
    asked = await ground.approved()
    claimed = await ground.claim(asked)
    assert await ground.settle(asked, claimed["fence"], "stale") is True
    return asked


async def renew(ground: Ground, asked: Asked, who: str, said: bytes | None = None) -> asyncpg.Record:
    said = payload(expected_version="2") if said is None else said
    [row] = await ground.run("api", RENEW, ground.tenant, asked.writeback, ground.secrets.get(who, who), said)
    return row


async def test_what_is_stale_is_asked_about_again_and_approved_by_nobody(ground: Ground) -> None:
    asked = await stale(ground)
    for who, outcome in (("gwen", "not_entitled"), ("machine", "not_entitled"), ("nobody", "unauthenticated")):
        assert (await renew(ground, asked, who))["outcome"] == outcome
    for bad in (
        payload(expected_version="2", changes={"priority": "low"}),
        payload("two", expected_version="2"),
        b"[]",
    ):
        assert (await renew(ground, asked, "anna", bad))["outcome"] == "bad_payload"
    made = await renew(ground, asked, "anna")
    new = await of(ground, made["new_writeback"])
    [row] = await ground.run("admin", "SELECT * FROM writeback WHERE id = $1", new.writeback)
    assert (made["outcome"], row["predecessor"], row["revision"], row["edited_by"]) == (
        "renewed",
        asked.writeback,
        2,
        None,
    )
    assert await ground.state(new) == "awaiting_approval"
    assert [type for type, _ in await facts(ground, asked, "writeback.renewed")] == ["writeback.renewed"]
    assert (await renew(ground, asked, "ben"))["outcome"] == "already_renewed"
    assert await ground.decide(new, "anna") == "approved"  # who renews changes nothing, and may approve
    assert (await ground.claim(new))["outcome"] == "apply"
    for other in (await ground.ask(), await ground.approved()):
        assert (await renew(ground, other, "anna"))["outcome"] == "not_stale"
    [row] = await ground.run("api", RENEW, ground.tenant, uuid4(), ground.secrets["anna"], b"{}")
    assert row["outcome"] == "not_found"
    ended = await stale(ground)
    await ground.end_mission(ended, "completed")
    assert (await renew(ground, ended, "anna"))["outcome"] == "mission_closed"


async def test_two_who_renew_at_once_ask_once(ground: Ground) -> None:
    asked = await stale(ground)
    first: Any = ("api", RENEW, (ground.tenant, asked.writeback, ground.secrets["anna"], payload(expected_version="2")))
    assert (await ground.overtaken(first, renew(ground, asked, "ben")))["outcome"] == "already_renewed"


async def test_a_mission_that_ends_meanwhile_is_not_asked_for_again(ground: Ground) -> None:
    asked = await stale(ground)
    ended = "UPDATE mission SET state = 'cancelled', closed_at = clock_timestamp() WHERE tenant = $1 AND id = $2"
    first: Any = ("api", ended, (ground.tenant, asked.mission))
    assert (await ground.overtaken(first, renew(ground, asked, "anna")))["outcome"] == "mission_closed"


# --- rules ------------------------------------------------------------------------------------------------------------


PUT = "SELECT * FROM put_rule($1, $2, $3, $4, $5)"
BODY: dict[str, Any] = {
    "subject": "writeback", "connector": "crm", "operation": "*", "risk": "high", "required": 2, "deny_threshold": 1,
    "approver_role": "operator", "life": "1 hour", "undo_window": "0", "comment_required": True, "may_escalate_to": ["admin"],
    "hops": [{"after_s": 60, "kind": "remind"}, {"after_s": 120, "kind": "escalate", "role": "admin"}], "break_glass": False,
}  # fmt: skip


async def put(ground: Ground, who: str, rule: Any, version: int | None, **more: Any) -> asyncpg.Record:
    [row] = await ground.run(
        "api", PUT, ground.tenant, ground.secrets.get(who, who), rule, version, json.dumps(BODY | more)
    )
    return row


async def test_rules_are_written_by_policy_owners_and_never_changed(ground: Ground) -> None:
    rule = uuid4()
    for who, outcome in (("anna", "not_entitled"), ("machine", "not_entitled"), ("nobody", "unauthenticated")):
        assert (await put(ground, who, rule, None))["outcome"] == outcome
    assert (await put(ground, "adam", rule, 1))["outcome"] == "not_found"
    made = await put(ground, "adam", rule, None)
    assert (made["outcome"], made["version"]) == ("created", 1)
    assert (await put(ground, "adam", rule, None))["outcome"] == "stale"
    assert (await put(ground, "adam", rule, 7))["outcome"] == "stale"
    asked = await ground.ask(risk="high")
    changed = await put(ground, "adam", rule, 1, required=1)
    assert (changed["outcome"], changed["version"]) == ("changed", 2)
    row = await approval(ground, asked)
    assert (row["rule"], row["rule_version"], row["required"]) == (
        rule,
        1,
        2,
    )  # open ones keep what they were born under
    assert (await approval(ground, await ground.ask(risk="high")))["rule_version"] == 2
    rows = await ground.run(
        "admin", "SELECT convert_from(body, 'UTF8')::json ->> 'rule_version' FROM ledger WHERE subject = $1 AND type = 'rule.changed' "
        "AND convert_from(body, 'UTF8')::json ->> 'rule' = $2 ORDER BY seq", ground.tenant, str(rule),
    )  # fmt: skip
    assert [number for (number,) in rows] == ["1", "2"]
    direct = """INSERT INTO approval_rule (tenant, id, version, subject, risk, required, life, undo_window)
                VALUES ($1, $2, $3, 'writeback', '*', 1, '1 hour', '0')"""
    for role in ("api", "registrar", "worker"):
        await ground.refused(DENIED, role, direct, ground.tenant, uuid4(), 1)
    for version in (0, 2, 5):
        await ground.refused("RX004", "owner", direct, ground.tenant, rule, version)
    await ground.refused("RX004", "owner", direct, ground.tenant, uuid4(), 2)
    await ground.refused("RX004", "owner", direct.replace("'writeback'", "'mission'"), ground.tenant, rule, 3)
    dated = direct.replace("undo_window)", "undo_window, created_at)").replace("'0')", "'0', 'epoch')")
    await ground.run("owner", dated, ground.tenant, rule, 3)
    recent = "SELECT created_at > now() - interval '1 minute' FROM approval_rule WHERE id = $1 AND version = 3"
    assert await ground.value("admin", recent, rule) is True


BAD: list[dict[str, Any]] = [
    {"required": 0}, {"required": 6}, {"life": "31 days"}, {"undo_window": "2 hours"}, {"risk": "none"}, {"subject": "x"},
    {"connector": None}, {"approver_role": "auditor"}, {"approver_role": "break_glass"}, {"may_escalate_to": ["auditor"]},
    {"may_escalate_to": ["break_glass"]}, {"hops": {}}, {"hops": [1]}, {"hops": [{"kind": "remind"}]},
    {"hops": [{"after_s": "5", "kind": "remind"}]}, {"hops": [{"after_s": 0, "kind": "remind"}]},
    {"hops": [{"after_s": 3600, "kind": "remind"}]}, {"hops": [{"after_s": 9, "kind": "shout"}]}, {"hops": [{"after_s": 9}]},
    {"hops": [{"after_s": 9, "kind": "remind"}, {"after_s": 9, "kind": "remind"}]},
    {"hops": [{"after_s": 9, "kind": "escalate"}]}, {"hops": [{"after_s": 9, "kind": "escalate", "role": "operator"}]},
    {"hops": [{"after_s": 9, "kind": "remind", "role": "admin"}]}, {"hops": [{"after_s": 9, "kind": "remind", "x": 1}]},
    {"hops": [{"after_s": 9, "kind": "escalate", "role": "admin", "x": 1}]},
    {"hops": [{"after_s": number + 1, "kind": "remind"} for number in range(11)]},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
async def test_what_is_no_rule_is_not_taken(ground: Ground, bad: dict[str, Any]) -> None:
    assert (await put(ground, "adam", uuid4(), None, **bad))["outcome"] == "bad_rule"


async def test_a_break_glass_rule_is_never_loose_and_never_chosen(ground: Ground) -> None:
    glass: dict[str, Any] = {
        "break_glass": True, "approver_role": "break_glass", "risk": "*", "required": 3, "life": "10 minutes", "hops": [],
        "undo_window": "0", "comment_required": True, "may_escalate_to": [], "connector": "*",
    }  # fmt: skip
    for loose in ({"required": 1}, {"life": "16 minutes"}, {"undo_window": "1 second"}, {"comment_required": False},
                  {"deny_threshold": 2}, {"approver_role": "operator"}, {"break_glass": False},
                  {"hops": [{"after_s": 5, "kind": "remind"}]}):  # fmt: skip
        assert (await put(ground, "adam", uuid4(), None, **(glass | loose)))["outcome"] == "bad_rule", loose
    rule = uuid4()
    assert (await put(ground, "adam", rule, None, **glass))["outcome"] == "created"
    plain = await ground.ask()
    assert (await approval(ground, plain))["rule"] != rule
    assert (await smash(ground, plain, "gwen"))["outcome"] == "recorded"
    row = await approval(ground, plain)
    assert (row["rule"], row["required"]) == (rule, 3)  # of two the stricter
    assert (await put(ground, "adam", rule, 1))["outcome"] == "bad_rule"  # it does not turn into another kind


async def test_a_reason_is_wanted_where_the_rule_says_so(ground: Ground) -> None:
    await put(ground, "adam", uuid4(), None)
    asked = await ground.ask(risk="high")
    assert await ground.decide(asked, "anna", comment=" ") == "no_comment"
    direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
                SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1"""
    await ground.refused("RX014", "owner", direct, asked.approval, ground.ids["anna"])
    assert await ground.decide(asked, "anna", comment="because") == "recorded"
    assert await ground.decide(asked, "ben", comment="because") == "approved"


async def test_two_policy_owners_at_once_make_two_versions_or_one_is_told(ground: Ground) -> None:
    rule = uuid4()
    await put(ground, "adam", rule, None)
    first: Any = ("api", PUT, (ground.tenant, ground.secrets["adam"], rule, 1, json.dumps(BODY | {"required": 3})))
    assert (await ground.overtaken(first, put(ground, "adam", rule, 1)))["outcome"] == "stale"
