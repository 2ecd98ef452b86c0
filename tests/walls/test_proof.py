"""Who acts is proved: a mission is whose secret was presented, a session is as good as a key, the executor's work is the wall's."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Asked, Ground, insert, payload
from tests.walls.test_intake import asked, know_the_rules, take_in

AUTHENTICATE = "SELECT * FROM authenticate(sha256($1::text::bytea))"
REQUEST = "SELECT request_approver_key($1, $2, $3, $4)"
CONFIRM = "SELECT confirm_approver_key($1, $2, $3)"
REVOKE = "SELECT revoke_approver_key($1, $2, $3)"
WAIVE = "SELECT waive_signatures($1, $2, $3)"


# ------------------------------------------------------------------ missions
async def outcome(ground: Ground, who: str = "asker", **said: Any) -> str:
    [row] = await take_in(ground, asked(ground, who, **said))
    return str(row["outcome"])


async def test_a_mission_is_whose_secret_was_presented_whatever_else_is_said(ground: Ground) -> None:
    await know_the_rules(ground)
    rows = [asked(ground, "asker"), asked(ground, "agent"), asked(ground, "asker", c_principal=ground.ids["ben"])]
    said = [row["outcome"] for row in await take_in(ground, *rows)]
    assert said == ["accepted", "accepted", "caller_changed"]
    whose = "SELECT id, requested_by FROM mission WHERE id = ANY ($1)"
    kept = {tuple(row) for row in await ground.run("admin", whose, [row["m_id"] for row in rows])}
    assert kept == {(rows[0]["m_id"], ground.ids["asker"]), (rows[1]["m_id"], ground.ids["agent"])}


async def test_without_a_live_secret_of_the_tenant_nobody_asks_for_anything(ground: Ground) -> None:
    await know_the_rules(ground)
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        digest = hashlib.sha256(ground.secrets["asker"].encode()).hexdigest()
        for secret in (None, "", str(ground.ids["asker"]), digest, "no such secret"):
            assert await outcome(ground, c_secret=secret) == "unauthenticated"
        assert await outcome(ground, c_secret=other.secrets["asker"]) == "caller_changed"
    assert await ground.value("admin", "SELECT count(*) FROM mission WHERE tenant = $1", ground.tenant) == 0


async def test_there_is_no_other_door(ground: Ground) -> None:
    """Not for the api, which holds the secrets; and the wall's own guard stands where grants do not count."""
    like = await ground.mission()
    copied = """INSERT INTO mission SELECT (jsonb_populate_record(m, jsonb_build_object('id', gen_random_uuid()))).*
                FROM mission m WHERE m.id = $1"""
    for role in ("api", "worker", "auditor"):
        await ground.refused(DENIED, role, copied, like)
    for role in ("registrar", "executor", "reader"):
        await ground.refused(DENIED, role, "INSERT INTO mission (tenant, id) VALUES ($1, $1)", ground.tenant)
    await ground.refused("RX013", "admin", copied, like)
    await ground.refused(DENIED, "api", "UPDATE mission SET requested_by = $2 WHERE id = $1", like, ground.ids["ben"])


@pytest.mark.parametrize("ended", ["revoked", "expired", "suspended", "tenant"])
async def test_a_key_that_ended_asks_for_nothing(ground: Ground, ended: str) -> None:
    await know_the_rules(ground)
    statement = {
        "revoked": "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1",
        "expired": "UPDATE api_key SET expires_at = clock_timestamp() WHERE principal = $1",
        "suspended": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
        "tenant": "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = (SELECT tenant FROM principal WHERE id = $1)",
    }[ended]
    assert await outcome(ground) == "accepted"
    await ground.run("registrar", statement, ground.ids["asker"])
    assert await outcome(ground) == "unauthenticated"


# ------------------------------------------------------------------ sessions
async def test_a_session_is_as_good_as_a_key_and_says_which_it_is(ground: Ground) -> None:
    secret = await ground.session("anna")
    [by_session] = await ground.run("api", AUTHENTICATE, secret)
    [by_key] = await ground.run("api", AUTHENTICATE, ground.secrets["anna"])
    assert {**by_session, "credential": 0, "credential_kind": 0} == {**by_key, "credential": 0, "credential_kind": 0}
    for row, kind, table in ((by_session, "session", "session"), (by_key, "api_key", "api_key")):
        found = await ground.value("registrar", f"SELECT id FROM {table} WHERE principal = $1", ground.ids["anna"])
        assert (row["credential"], row["credential_kind"]) == (found, kind)
    await know_the_rules(ground)
    row = asked(ground, "anna", c_secret=secret, c_roles="operator")
    assert [one["outcome"] for one in await take_in(ground, row)] == ["accepted"]
    requested_by = "SELECT requested_by FROM mission WHERE id = $1"
    assert await ground.value("admin", requested_by, row["m_id"]) == ground.ids["anna"]
    writeback = await ground.ask()
    assert await ground.decide(writeback, secret) == "approved"


@pytest.mark.parametrize("ended", ["revoked", "expired", "suspended", "tenant"])
async def test_a_session_that_ended_is_nobody(ground: Ground, ended: str) -> None:
    secret = await ground.session("anna")
    statement = {
        "revoked": "UPDATE session SET revoked_at = clock_timestamp() WHERE principal = $1",
        "expired": "UPDATE session SET expires_at = clock_timestamp() WHERE principal = $1",
        "suspended": "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1",
        "tenant": "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = (SELECT tenant FROM principal WHERE id = $1)",
    }[ended]
    await know_the_rules(ground)
    writeback = await ground.ask()
    await ground.run("registrar", statement, ground.ids["anna"])
    assert await ground.run("api", AUTHENTICATE, secret) == []
    assert await ground.decide(writeback, secret) == "unauthenticated"
    assert await outcome(ground, who="anna", c_secret=secret, c_roles="operator") == "unauthenticated"


async def test_ending_a_session_and_deciding_by_it_wait_for_each_other(ground: Ground) -> None:
    secret, asked = await ground.session("anna"), await ground.ask("two")
    end = "UPDATE session SET revoked_at = clock_timestamp() WHERE principal = $1"
    async with ground.within("api") as api:
        decided = "SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')"
        assert await api.fetchval(decided, ground.tenant, asked.approval, secret, asked.sha256) == "recorded"
        with pytest.raises(Exception, match="lock timeout"):
            async with ground.within("registrar") as registrar:
                await registrar.execute("SET LOCAL lock_timeout = '50ms'")
                await registrar.execute(end, ground.ids["anna"])
    second = await ground.ask("two")
    first = ("registrar", end, (ground.ids["anna"],))
    assert await ground.overtaken(first, ground.decide(second, secret)) == "unauthenticated"


async def test_a_session_ends_and_leads_to_one_principal(ground: Ground) -> None:
    add = (
        "INSERT INTO session (tenant, principal, secret_sha256, origin, expires_at) VALUES ($1, $2, sha256($3), $4, $5)"
    )
    later = await ground.value("admin", "SELECT now() + interval '1 hour'")
    good: list[Any] = [ground.tenant, ground.ids["anna"], b"%a" % id(ground), "console", later]
    for place, wrong, why in (
        (4, None, "23502"), (3, "password", "session_origin_check"), (1, uuid4(), "session_tenant_principal_fkey"),
    ):  # fmt: skip
        values = [*good[:place], wrong, *good[place + 1 :]]
        await ground.refused(why, "registrar", add, *values)
    await ground.run("registrar", add, *good)
    await ground.refused("session_secret", "registrar", add, *good)


# ------------------------------------------------------------------ closing
async def test_a_person_who_closes_proves_who_they_are_and_only_the_worker_needs_not(ground: Ground) -> None:
    close = "SELECT close_approval($1, $2, 'cancelled', $3)"
    asked = await ground.ask()
    for secret in (None, "", "no such secret", str(ground.ids["anna"])):
        await ground.refused("RX013", "api", close, ground.tenant, asked.approval, secret)
    await ground.refused("RX013", "worker", close, ground.tenant, asked.approval, "no such secret")
    await ground.refused("RX013", "admin", close, ground.tenant, asked.approval, None)
    assert await ground.state(asked) == "awaiting_approval"
    assert await ground.close(asked, who="anna") == "cancelled"
    second = await ground.ask()
    assert await ground.value("worker", close, ground.tenant, second.approval, None) == "cancelled"
    actors = await ground.run(
        "auditor", "SELECT actor FROM ledger WHERE subject = ANY ($1) AND type = 'approval.closed' ORDER BY at",
        [asked.mission, second.mission],
    )  # fmt: skip
    assert [actor for (actor,) in actors] == [f"principal:{ground.ids['anna']}", "system:worker"]


# ------------------------------------------------------------------ the executor's work
async def work(ground: Ground, subject: UUID, kind: str = "execute") -> list[Any]:
    return await ground.run("admin", "SELECT queue, next_at FROM work WHERE kind = $1 AND subject = $2", kind, subject)


async def test_a_quorum_leaves_the_executor_its_work_and_the_worker_its_timer(ground: Ground) -> None:
    asked = await ground.ask("slow")
    assert await work(ground, asked.writeback) == []
    await ground.decide(asked, "anna")
    [row] = await ground.run("admin", "SELECT not_before, expires_at FROM approval WHERE id = $1", asked.approval)
    assert [tuple(found) for found in await work(ground, asked.writeback)] == [("executor", row["not_before"])]
    assert [tuple(found) for found in await work(ground, asked.approval, "approval_timer")] == [
        ("worker", row["expires_at"])
    ]
    rejected = await ground.ask()
    await ground.run("api", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'approval_timer', $2, 'worker')",
                     ground.tenant, rejected.approval)  # fmt: skip
    await ground.decide(rejected, "anna", "reject")
    assert await work(ground, rejected.writeback) == await work(ground, rejected.approval, "approval_timer") == []


async def test_nobody_but_the_wall_touches_the_executors_work(ground: Ground) -> None:
    asked, other = await ground.approved(), await ground.ask()
    before = await work(ground, asked.writeback)
    add = "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, $2, $3, $4)"
    for role in ("api", "worker"):
        await ground.refused(DENIED, role, add, ground.tenant, "execute", other.writeback, "executor")
        await ground.refused("work_queue", role, add, ground.tenant, "execute", other.writeback, "worker")
        await ground.refused(
            DENIED, role, f"{add} ON CONFLICT (tenant, kind, subject) DO UPDATE SET next_at = 'infinity'",
            ground.tenant, "execute", asked.writeback, "executor",
        )  # fmt: skip
        await ground.run(role, add, ground.tenant, "review", ground.tenant, "worker")
        mine = "UPDATE work SET {} WHERE kind = 'review' AND subject = $1"
        await ground.refused("work_queue", role, mine.format("kind = 'execute'"), ground.tenant)
        await ground.refused(DENIED, role, mine.format("kind = 'execute', queue = 'executor'"), ground.tenant)
        async with ground.within(role) as connection:
            for statement in (
                "DELETE FROM work",
                "UPDATE work SET next_at = 'infinity'",
                "UPDATE work SET lease_until = 'infinity'",
            ):
                done = await connection.execute(f"{statement} WHERE subject = $1", asked.writeback)
                assert done.endswith(" 0"), (role, statement)
            assert (
                await connection.execute("DELETE FROM work WHERE kind = 'review' AND subject = $1", ground.tenant)
                == "DELETE 1"
            )
    assert await work(ground, asked.writeback) == before


async def restore(ground: Ground, limit: int = 500) -> int:
    worker = await ground.of("worker")
    return await worker.fetchval("SELECT restore_executor_work($1)", limit)


async def lose(ground: Ground, *lost: Asked) -> None:
    await ground.run("admin", "DELETE FROM work WHERE subject = ANY ($1)", [asked.writeback for asked in lost])


async def test_lost_work_of_the_executor_comes_back_and_nothing_else_does(ground: Ground) -> None:
    approved, slow = await ground.approved(), await ground.approved("slow")
    claimed, unknown = await ground.approved(), await ground.approved()
    await ground.claim(claimed)
    await ground.claim(unknown)
    await ground.settle(unknown, 1, "unknown")
    open_ = (approved, slow, claimed, unknown)
    asked, settled, ended, rejected = (
        await ground.ask(),
        await ground.approved(),
        await ground.approved(),
        await ground.ask(),
    )
    await ground.claim(settled)
    await ground.settle(settled, 1, "failed")
    await ground.end_mission(ended, "failed")
    await ground.decide(rejected, "anna", "reject")
    over = await ground.ask("brief")
    await ground.decide(over, "anna")
    await ground.value("admin", "SELECT pg_sleep(1.05)")
    closed = (asked, settled, ended, rejected, over)
    await lose(ground, *open_, *closed)
    while await restore(ground):  # the database is shared: other tests leave their own losses
        pass
    for one in open_:
        [row] = await work(ground, one.writeback)
        due = """SELECT COALESCE(e.lease_until, a.not_before) FROM approval a LEFT JOIN execution e ON e.writeback = a.writeback
                 WHERE a.id = $1"""
        assert tuple(row) == ("executor", await ground.value("admin", due, one.approval))
    for one in closed:
        assert await work(ground, one.writeback) == []
    assert await restore(ground) == 0


async def test_no_more_is_put_back_at_once_than_was_asked_for_and_the_tenant_is_left_as_it_was(ground: Ground) -> None:
    lost = [await ground.approved() for _ in range(3)]
    while await restore(ground):
        pass
    await lose(ground, *lost)
    async with ground.within("worker") as worker:
        assert await worker.fetchval("SELECT restore_executor_work(2)") == 2
        assert await worker.fetchval("SELECT current_tenant()") == ground.tenant
    assert await restore(ground) == 1
    worker = await ground.of("worker")
    async with worker.transaction():
        await worker.fetchval("SELECT restore_executor_work(1)")
        assert await worker.fetchval("SELECT current_tenant()") is None
    for role in ("api", "executor", "registrar", "reader", "auditor"):
        await ground.refused(DENIED, role, "SELECT restore_executor_work(1)")


# ------------------------------------------------------------------ keys that sign
async def test_a_signing_key_takes_two_people(ground: Ground) -> None:
    second = await hire(ground, "second admin", "admin")
    key, _ = await ground.approver_key("anna", confirmed=False)
    live = "SELECT id FROM approver_keys($1, $2)"
    assert await ground.run("api", live, ground.tenant, ground.ids["anna"]) == []
    for who in ("anna", "ben", "machine", "asker"):  # its owner, no admin, no human
        why = "approver_key_two_people" if who == "anna" else "RX009"
        await ground.revoke(who, "admin")
        if who == "anna":
            await grant(ground, who, "admin")
        await ground.refused(why, "registrar", CONFIRM, ground.tenant, ground.secrets[who], key)
    assert await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets["adam"], key) is True
    assert await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets[second], key) is False
    assert [id for (id,) in await ground.run("api", live, ground.tenant, ground.ids["anna"])] == [key]
    # who asked for it for somebody else does not confirm it either
    for_ben = await ground.value(
        "registrar", REQUEST, ground.tenant, ground.secrets["adam"], ground.ids["ben"], b"b" * 32
    )
    await ground.refused(
        "approver_key_two_people", "registrar", CONFIRM, ground.tenant, ground.secrets["adam"], for_ben
    )
    assert await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets[second], for_ben) is True


async def test_a_signing_key_is_asked_for_by_its_owner_or_an_admin_and_belongs_to_a_human(ground: Ground) -> None:
    for who, owner, why in (
        ("ben", "anna", "RX009"), ("machine", "machine", "RX009"), ("adam", "agent", "RX009"), ("no such secret", "anna", "RX013"),
    ):  # fmt: skip
        secret = ground.secrets.get(who, who)
        await ground.refused(why, "registrar", REQUEST, ground.tenant, secret, ground.ids[owner], bytes(32))
    await grant(ground, "machine", "admin")  # a service is no person, whatever it was granted
    await ground.refused(
        "RX009", "registrar", REQUEST, ground.tenant, ground.secrets["machine"], ground.ids["anna"], bytes(32)
    )
    await ground.refused(
        "approver_key_public_key_check",
        "registrar",
        REQUEST,
        ground.tenant,
        ground.secrets["anna"],
        ground.ids["anna"],
        b"short",
    )
    for who in ("anna", "adam"):
        await ground.value(
            "registrar", REQUEST, ground.tenant, ground.secrets[who], ground.ids["anna"], who.encode() * 8
        )
    await ground.refused(
        "approver_key_tenant_public_key_key", "registrar", REQUEST,
        ground.tenant, ground.secrets["ben"], ground.ids["ben"], b"anna" * 8,
    )  # fmt: skip


async def test_a_signing_key_is_revoked_once_by_its_owner_or_an_admin(ground: Ground) -> None:
    live = "SELECT count(*) FROM approver_keys($1, $2)"
    for who in ("anna", "adam"):
        key, _ = await ground.approver_key("anna")
        await ground.refused("RX009", "registrar", REVOKE, ground.tenant, ground.secrets["ben"], key)
        await ground.refused("RX013", "registrar", REVOKE, ground.tenant, "no such secret", key)
        assert await ground.value("api", live, ground.tenant, ground.ids["anna"]) == 1
        assert await ground.value("registrar", REVOKE, ground.tenant, ground.secrets[who], key) is True
        assert await ground.value("api", live, ground.tenant, ground.ids["anna"]) == 0
        assert await ground.value("registrar", REVOKE, ground.tenant, ground.secrets[who], key) is False
        assert await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets["adam"], key) is False
    waiting, _ = await ground.approver_key("ben", confirmed=False)
    assert await ground.value("registrar", REVOKE, ground.tenant, ground.secrets["ben"], waiting) is True
    assert await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets["adam"], waiting) is False
    facts = await ground.run(
        "auditor", "SELECT type, actor FROM ledger WHERE subject = $1 AND type LIKE 'approver_key.%' ORDER BY at", ground.tenant
    )  # fmt: skip
    anna, adam = (f"principal:{ground.ids[who]}" for who in ("anna", "adam"))
    assert [tuple(fact) for fact in facts][:3] == [
        ("approver_key.requested", anna), ("approver_key.confirmed", adam), ("approver_key.revoked", anna),
    ]  # fmt: skip


async def test_two_who_revoke_a_signing_key_wait_for_each_other(ground: Ground) -> None:
    key, _ = await ground.approver_key("anna")
    revoke = (ground.tenant, ground.secrets["anna"], key)
    assert await ground.overtaken(("registrar", REVOKE, revoke), ground.value("registrar", REVOKE, *revoke)) is False


async def test_the_registrars_doors_work_in_the_tenant_that_was_entered_only(ground: Ground) -> None:
    key, _ = await ground.approver_key("anna", confirmed=False)
    rule = await ground.rule("signed", signature_required=True)
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        for statement, who, *args in (
            (REQUEST, "anna", ground.ids["anna"], bytes(32)), (CONFIRM, "adam", key), (REVOKE, "anna", key),
            ("SELECT put_risk_floor($1, $2, $3, '*', 'low')", "adam", "crm"), (WAIVE, "adam", rule),
        ):  # fmt: skip
            await other.refused("RX002", "registrar", statement, ground.tenant, ground.secrets[who], *args)
            await ground.refused("RX002", "registrar", statement, None, ground.secrets[who], *args)


async def test_a_signing_key_changes_only_by_being_confirmed_and_revoked(ground: Ground) -> None:
    key, _ = await ground.approver_key("anna")
    other = ground.ids["ben"]
    for change in (
        "tenant = gen_random_uuid()", "id = gen_random_uuid()", f"principal = '{other}'", "public_key = sha256('x')",
        f"requested_by = '{other}'", "requested_at = 'epoch'", f"confirmed_by = '{other}'", "confirmed_by = NULL",
    ):  # fmt: skip
        await ground.refused("RX001", "owner", f"UPDATE approver_key SET {change} WHERE id = $1", key)
    dated = "SELECT confirmed_at > now() - interval '1 minute' AND revoked_at IS NULL FROM approver_key WHERE id = $1"
    await ground.run("owner", "UPDATE approver_key SET confirmed_at = 'epoch', revoked_at = 'epoch' WHERE id = $1", key)
    assert await ground.value("admin", dated, key) is True
    await ground.value("registrar", REVOKE, ground.tenant, ground.secrets["anna"], key)
    for change in ("revoked_by = NULL", f"revoked_by = '{other}'", "confirmed_at = 'epoch'"):
        await ground.refused("RX001", "owner", f"UPDATE approver_key SET {change} WHERE id = $1", key)
    # who hands in more than a request is not heard
    born = await ground.value(
        "owner",
        """INSERT INTO approver_key (tenant, principal, public_key, requested_by, requested_at, confirmed_by, confirmed_at,
             revoked_by, revoked_at)
           VALUES ($1, $2, sha256('born'), $2, 'epoch', $3, 'epoch', $3, 'epoch') RETURNING id""",
        ground.tenant, ground.ids["anna"], ground.ids["adam"],
    )  # fmt: skip
    fresh = """SELECT num_nonnulls(confirmed_by, confirmed_at, revoked_by, revoked_at) = 0 AND requested_at > now() - interval '1 minute'
               FROM approver_key WHERE id = $1"""
    assert await ground.value("admin", fresh, born) is True


# ------------------------------------------------------------------ signatures
async def test_an_unsigned_approval_is_refused_where_signatures_count_and_a_rejection_is_not(ground: Ground) -> None:
    await ground.rule("signed", signature_required=True)
    asked, other = await ground.ask("signed"), await ground.ask("signed")
    assert await ground.decide(asked, "anna") == "signature_missing"
    assert (
        await ground.decide(asked, "anna", signature=b"anything") == "approved"
    )  # whether it is one the executor finds out
    assert await ground.decide(other, "anna", "reject") == "rejected"
    decide = await ground.value("admin", "SELECT signature FROM decision WHERE approval = $1", asked.approval)
    assert decide == b"anything"


async def test_a_claim_hands_out_the_signatures_with_keys_that_counted_then(ground: Ground) -> None:
    await ground.rule("signed", signature_required=True, required=2)
    keys = {who: (await ground.approver_key(who))[0] for who in ("anna", "ben")}
    revoked, _ = await ground.approver_key("ben")
    waiting, _ = await ground.approver_key("anna", confirmed=False)
    asked = await ground.ask("signed")
    await ground.decide(asked, "anna", signature=b"by-anna")
    await ground.decide(asked, "ben", signature=b"by-ben")
    late, _ = await ground.approver_key("anna")
    await ground.value("registrar", CONFIRM, ground.tenant, ground.secrets["adam"], waiting)
    await ground.value("registrar", REVOKE, ground.tenant, ground.secrets["ben"], revoked)
    row = await ground.claim(asked, timedelta(0))
    signed = json.loads(row["signed"])
    assert (signed["approval"], signed["required"]) == (str(asked.approval), 2)
    assert [(d["approver"], d["verdict"], d["signature"], list(d["keys"])) for d in signed["decisions"]] == [
        (str(ground.ids["anna"]), "approve", "by-anna", [str(keys["anna"])]),
        (str(ground.ids["ben"]), "approve", "by-ben", [str(keys["ben"])]),
    ]
    assert str(late) not in row["signed"]
    # what was live at the first claim is what every later one answers
    await ground.value("registrar", REVOKE, ground.tenant, ground.secrets["anna"], keys["anna"])
    again = await ground.claim(asked)
    assert (again["outcome"], again["signed"]) == ("reconcile", row["signed"])
    assert (await ground.claim(await ground.approved()))["signed"] is None


async def test_who_asks_for_signatures_is_not_got_round(ground: Ground) -> None:
    rule = await ground.rule("signed", signature_required=True, risk="*")
    put = "SELECT outcome, why FROM put_rule($1, $2, $3, $4, $5)"
    body = {
        "subject": "writeback", "connector": "signed", "operation": "*", "risk": "*", "required": 1, "deny_threshold": 1,
        "approver_role": "operator", "life": "1 hour", "undo_window": "0", "comment_required": False, "may_escalate_to": [],
        "hops": [], "break_glass": False, "signature_required": True,
    }  # fmt: skip
    softer = ({"signature_required": False}, {"connector": "elsewhere"}, {"operation": "delete"}, {"risk": "low"})
    for change in softer:
        [row] = await ground.run("api", put, ground.tenant, ground.secrets["adam"], rule, 1, json.dumps(body | change))
        assert tuple(row) == ("bad_rule", "approval_rule_signature_kept"), change
    [row] = await ground.run(
        "api", put, ground.tenant, ground.secrets["adam"], rule, 1, json.dumps(body | {"connector": "*"})
    )
    assert row["outcome"] == "changed"
    # a narrower rule without the demand wins by fit, and the demand stays
    await ground.rule("signed", operation="update", risk="low")
    asked = await ground.ask("signed")
    assert await ground.decide(asked, "anna") == "signature_missing"
    await ground.refused(
        "RX001", "owner", "UPDATE approval SET signature_required = false WHERE id = $1", asked.approval
    )
    await ground.refused("RX009", "registrar", WAIVE, ground.tenant, ground.secrets["anna"], rule)
    await ground.refused("RX013", "registrar", WAIVE, ground.tenant, "no such secret", rule)
    await ground.refused(DENIED, "api", WAIVE, ground.tenant, ground.secrets["adam"], rule)
    assert await ground.value("registrar", WAIVE, ground.tenant, ground.secrets["adam"], uuid4()) is None
    first = ("registrar", WAIVE, (ground.tenant, ground.secrets["adam"], rule))
    assert (
        await ground.overtaken(first, ground.value("registrar", WAIVE, ground.tenant, ground.secrets["adam"], rule))
        is None
    )
    assert await ground.value("admin", "SELECT max(version) FROM approval_rule WHERE id = $1", rule) == 3
    assert await ground.decide(asked, "anna") == "signature_missing"  # what was asked under it stays under it
    assert await ground.decide(await ground.ask("signed"), "anna") == "approved"


async def test_only_writebacks_are_signed_for(ground: Ground) -> None:
    with pytest.raises(AssertionError, match="bad_rule"):
        await ground.rule("*", subject="mission", signature_required=True)


# ------------------------------------------------------------------ floors of risk
async def test_a_change_is_of_the_highest_risk_that_anybody_says(ground: Ground) -> None:
    async def risk(operation: str = "update", connector: str = "floored", **more: Any) -> str:
        writeback, _ = await ground.propose(
            connector=connector, payload=payload(connector, operation=operation), **more
        )
        return await ground.value("admin", "SELECT risk FROM writeback WHERE id = $1", writeback)

    assert await risk() == "low"
    assert await ground.risk_floor("floored", "update", "high") == 1
    assert (await risk(), await risk("delete"), await risk(connector="crm")) == ("high", "low", "low")
    assert await ground.risk_floor("floored", "*", "medium") == 1
    assert (await risk(), await risk("delete"), await risk("delete", risk="high")) == ("high", "medium", "high")
    assert await ground.risk_floor("floored", "update", "low") == 2
    assert (await risk(), await risk(mission_risk="high")) == ("medium", "high")
    assert await ground.risk_floor("*", "update", "high") == 1
    assert await risk(connector="crm") == "high"


async def test_a_floor_is_set_by_a_policy_owner_over_the_registrars_login(ground: Ground) -> None:
    put = "SELECT put_risk_floor($1, $2, 'crm', 'update', $3)"
    for secret, why in ((ground.secrets["anna"], "RX009"), ("no such secret", "RX013"), (None, "RX013")):
        await ground.refused(why, "registrar", put, ground.tenant, secret, "low")
    await ground.refused("risk_floor_risk_check", "registrar", put, ground.tenant, ground.secrets["adam"], "none")
    for role in ("api", "worker", "executor", "reader", "auditor"):
        await ground.refused(DENIED, role, put, ground.tenant, ground.secrets["adam"], "low")
        await ground.refused(DENIED, role, "INSERT INTO risk_floor (tenant) VALUES ($1)", ground.tenant)
    await ground.refused(DENIED, "registrar", "INSERT INTO risk_floor (tenant) VALUES ($1)", ground.tenant)
    await ground.risk_floor("crm", "update", "low")
    fact = "SELECT actor FROM ledger WHERE subject = $1 AND type = 'risk.floor_changed'"
    assert await ground.value("auditor", fact, ground.tenant) == f"principal:{ground.ids['adam']}"
    first = ("registrar", put, (ground.tenant, ground.secrets["adam"], "medium"))
    assert await ground.overtaken(first, ground.risk_floor("crm", "update", "high")) == 3


async def test_an_approval_wants_a_policy_that_was_asked_about_its_risk(ground: Ground) -> None:
    """Whoever judged a change as less than it is, or not at all, or was told no, opens nothing."""
    await ground.risk_floor("floored", "update", "high")
    for judged in ("", "low", "medium", "unheard of"):
        with pytest.raises(asyncpg.PostgresError, match="policy was not asked about a change of high risk") as refused:
            await ground.ask("floored", judged=judged)
        assert refused.value.sqlstate == "RX016"
    await ground.ask("floored", judged="high")
    await ground.ask("crm", judged="low")
    with pytest.raises(asyncpg.PostgresError, match="policy was not asked"):
        await ground.ask("crm", judged="low", mission_risk="medium")
    # the newest decision about this kind of change counts, and a denial is none
    mission = await ground.mission()
    await ground.judge(mission, payload("floored"), "high")
    await ground.judge(mission, payload("crm"), "low")
    await ground.ask("floored", mission=mission, judged="")
    await ground.judge(mission, payload("floored"), "high", effect="deny")
    with pytest.raises(asyncpg.PostgresError, match="policy was not asked"):
        await ground.ask("floored", mission=mission, judged="")


async def test_no_floor_moves_between_the_question_and_the_writeback(ground: Ground) -> None:
    mission = await ground.mission()
    ask = "SELECT standing_risk($1, $2, 'floored', 'update', 'low')"
    for role in ("api", "worker"):
        assert await ground.value(role, ask, ground.tenant, mission) == "low"
        await ground.refused("RX002", role, ask, uuid4(), mission)
    for role in ("executor", "reader", "auditor", "registrar"):
        await ground.refused(DENIED, role, ask, ground.tenant, mission)
    async with ground.within("worker", isolation="repeatable_read") as worker:
        with pytest.raises(asyncpg.PostgresError, match="only at isolation level read committed"):
            await worker.fetchval(ask, ground.tenant, mission)
    first: Any = ("worker", ask, (ground.tenant, mission))
    assert await ground.overtaken(first, ground.risk_floor("floored", "update", "high")) == 1
    assert await ground.value("worker", ask, ground.tenant, mission) == "high"
    raised: Any = (
        "registrar",
        "SELECT put_risk_floor($1, $2, 'floored', 'update', 'medium')",
        (ground.tenant, ground.secrets["adam"]),
    )
    assert await ground.overtaken(raised, ground.value("api", ask, ground.tenant, mission)) == "medium"


async def hire(ground: Ground, name: str, *roles: str) -> str:
    """One person more, with a key; answers their name."""
    ground.ids[name], ground.secrets[name] = uuid4(), f"secret-of-{name}-{uuid4()}"
    values = {"tenant": ground.tenant, "id": ground.ids[name], "kind": "human", "name": name}
    await ground.run("registrar", insert("principal", values), *values.values())
    for role in roles:
        await grant(ground, name, role)
    await ground.key(name)
    return name


async def grant(ground: Ground, who: str, role: str) -> None:
    values = {"tenant": ground.tenant, "principal": ground.ids[who], "role": role}
    await ground.run("registrar", insert("role_grant", values), *values.values())


async def test_authenticate_knows_live_credentials_only(ground: Ground) -> None:
    """The door of every request; the wall's own doors look for themselves."""
    known = "SELECT principal FROM authenticate(sha256(convert_to($1, 'UTF8')))"
    secret = ground.secrets["anna"]
    api, registrar = await ground.of("api"), "registrar"
    assert await api.fetchval(known, secret) == ground.ids["anna"]
    await ground.run(
        registrar, "UPDATE api_key SET expires_at = clock_timestamp() WHERE principal = $1", ground.ids["anna"]
    )
    assert await api.fetchval(known, secret) is None
    ben = ground.secrets["ben"]
    assert await api.fetchval(known, ben) == ground.ids["ben"]
    await ground.run(
        registrar, "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1", ground.ids["ben"]
    )
    assert await api.fetchval(known, ben) is None
    cora = ground.secrets["cora"]
    await ground.run(
        registrar, "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1", ground.ids["cora"]
    )
    assert await api.fetchval(known, cora) is None
    adam = ground.secrets["adam"]
    assert await api.fetchval(known, adam) == ground.ids["adam"]
    await ground.run(registrar, "UPDATE tenant SET suspended_at = clock_timestamp() WHERE id = $1", ground.tenant)
    assert await api.fetchval(known, adam) is None
