"""Invariant 10: legal moves only, and what was written stays. Each guard stands alone, with the layers around it off."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Ground

# Tables of the record: nothing deletes or truncates them, not even the superuser without taking the guard down first.
KEPT = (
    "tenant", "principal", "role_grant", "api_key", "session", "approver_key", "oidc_identity", "risk_floor",
    "console_link", "approval_look", "approval_question",
    "ledger", "mission", "mission_label", "mission_type", "artifact", "policy_decision",
    "policy", "policy_set", "quarantine", "approval_rule", "notice", "connector", "connector_switch", "model_switch", "model_use",
    "writeback", "approval", "decision", "execution", "webhook", "webhook_secret", "tape", "recording", "shadow_writeback",
    "tool_layer", "tool_layer_switch", "tool_layer_state", "workspace_trust", "blob", "retention_schedule", "legal_hold", "drill_run",
    "mission_repair", "rung_change", "gate_state", "gate_change", "attestation", "verdict",
)  # fmt: skip
WRITTEN_ONCE = (
    "ledger", "mission_label", "mission_type", "artifact", "policy_decision", "policy", "policy_set", "quarantine", "approval_rule",
    "connector", "writeback", "decision", "risk_floor", "tape", "recording", "shadow_writeback", "tool_layer",
    "workspace_trust", "retention_schedule", "rung_change", "gate_change", "verdict", "approval_look",
)  # fmt: skip


async def furnished(ground: Ground) -> dict[str, Any]:
    """A row in every table of the record; answers ids to name them by."""
    asked = await ground.approved()
    rejected = await ground.ask()
    await ground.claim(asked)
    await ground.halt("elsewhere")
    await ground.session("anna")
    await ground.approver_key("anna")
    await ground.run(
        "registrar",
        """INSERT INTO oidc_identity (tenant, principal, issuer, subject)
                     VALUES ($1, $2, 'https://id.example', $3)""",
        ground.tenant,
        ground.ids["anna"],
        f"anna-{ground.tenant}",
    )
    await ground.run("registrar", """INSERT INTO console_link (tenant, principal, secret_sha256, expires_at)
                     VALUES ($1, $2, sha256($3), clock_timestamp() + interval '4 minutes')""",
                     ground.tenant, ground.ids["anna"], uuid4().bytes)  # fmt: skip
    await ground.run("api", "SELECT note_look($1, $2, $3)", ground.tenant, asked.approval, ground.secrets["anna"])
    [question] = await ground.run(
        "api", "SELECT * FROM ask_question($1, $2, $3, 'Why?', NULL)",
        ground.tenant, rejected.approval, ground.secrets["anna"],
    )  # fmt: skip
    await ground.decide(rejected, "anna", "reject")
    await ground.run(
        "api", "SELECT * FROM answer_question($1, $2, $3, $4, 'So.')",
        ground.tenant, rejected.approval, ground.secrets["ben"], question["question"],
    )  # fmt: skip
    await ground.risk_floor("elsewhere", "*", "medium")
    await ground.run("api", "INSERT INTO mission_type (tenant, name, version, definition, created_by) VALUES ($1, 'type', 1, '{}', $2)",
                     ground.tenant, ground.ids["adam"])  # fmt: skip
    workspace = uuid4()
    await ground.run(
        "api", "INSERT INTO workspace (tenant, id, name) VALUES ($1, $2, $3)", ground.tenant, workspace, f"w{workspace}"
    )
    await ground.run("api", "INSERT INTO workspace_trust (tenant, workspace, version, rules, created_by) VALUES ($1, $2, 1, '[]', $3)",
                     ground.tenant, workspace, ground.ids["adam"])  # fmt: skip
    await ground.run("api", "INSERT INTO quarantine (tenant, mission, origin, problem, bytes) VALUES ($1, $2, 'callback', 'x', 'x')",
                     ground.tenant, asked.mission)  # fmt: skip
    await ground.run("api", """INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version,
                       reason, inputs) VALUES ($1, $2, $3, $4, 'a', 'r', 'ask', 'x', '1', 'x', '{}')""",
                     ground.tenant, uuid4(), asked.mission, ground.ids["anna"])  # fmt: skip
    await ground.run(
        "api",
        """INSERT INTO policy_set (tenant, manifest, baseline)
                       VALUES ($1, convert_to('{"baseline": "' || encode(sha256('x1'), 'hex') || '"}', 'UTF8'), 'x1')""",
        ground.tenant,
    )
    await ground.run("api", "SELECT * FROM put_policy($1, $2, 'own', 'x', 0)", ground.tenant, ground.secrets["adam"])
    await ground.run("owner", """INSERT INTO notice (tenant, principal, approval, kind, step)
                     VALUES ($1, $2, $3, 'reminder', 1)""", ground.tenant, ground.ids["anna"], asked.approval)  # fmt: skip
    await ground.run("api", """INSERT INTO tape (tenant, mission, attempt, kind, name, ordinal, arguments, arguments_sha256, outcome,
                       answer, answer_sha256, took_ms)
                     VALUES ($1, $2, 1, 'tool', 't', 1, '{}', sha256('{}'), 'answered', '[]', sha256('[]'), 1)""",
                     ground.tenant, asked.mission)  # fmt: skip
    await ground.run("api", """INSERT INTO recording (tenant, id, mission, attempt, mission_type, environment, signed_by, sensitivity_class,
                       file_sha256, file, size, imported_by)
                     VALUES ($1, $2, $2, 1, 't', 'local', 'k', 'internal', sha256('{}'), '{}', 2, $3)""",
                     ground.tenant, uuid4(), ground.ids["adam"])  # fmt: skip
    await ground.run("admin", """INSERT INTO shadow_writeback (tenant, mission, proposal, payload, payload_sha256, policy_decision, effect)
                     SELECT $1, a.mission, a.id, '{}', sha256('{}'), $2, 'allow' FROM artifact a WHERE a.tenant = $1 AND a.mission = $3
                     LIMIT 1""", ground.tenant, uuid4(), asked.mission)  # fmt: skip
    await ground.run(
        "api", "SELECT * FROM put_tool_layer($1, $2, 'odd', NULL, 'mcp', '{}')", ground.tenant, ground.secrets["adam"]
    )
    await ground.run(
        "api", "SELECT * FROM switch_tool_layer($1, $2, 'odd', true, 'x')", ground.tenant, ground.secrets["adam"]
    )
    await ground.run("api", "SELECT keep_blob($1, sha256('kept'), 4, 'kept', NULL, NULL)", ground.tenant)
    await ground.run(
        "api", "SELECT * FROM put_retention($1, $2, 0, 1, 1, 1, 1, 1)", ground.tenant, ground.secrets["adam"]
    )
    await ground.run(
        "api",
        "SELECT place_hold($1, $2, 'furnished', 'tenant', NULL, NULL, NULL, 'x')",
        ground.tenant,
        ground.secrets["adam"],
    )
    webhook = await ground.webhook()
    await ground.run("api", """INSERT INTO webhook_delivery (tenant, id, webhook, message, type)
                     VALUES ($1, $2, $3, 'test_1', 'webhook.tested')""",
                     ground.tenant, uuid4(), webhook)  # fmt: skip
    await ground.run("admin", "INSERT INTO model_switch (tenant, provider, reason, changed_by) VALUES ($1, 'east', 'x', $2)",
                     ground.tenant, ground.ids["adam"])  # fmt: skip
    await ground.run("api", "SELECT note_model_use($1, 'east', false, 1, 1, 0.1)", ground.tenant)
    await ground.run("api", """INSERT INTO drill_run (tenant, id, drill, asked_by, state, build, started_at)
                     VALUES ($1, $2, 'replay', $3, 'running', '1', now())""", ground.tenant, uuid4(), ground.ids["anna"])  # fmt: skip
    await ground.run("worker", """INSERT INTO mission_repair (tenant, mission, state, finding, since)
                     VALUES ($1, $2, 'accepted', 'no_dispatch', now())""", ground.tenant, asked.mission)  # fmt: skip
    await release_papers(ground)
    return {"asked": asked, "rejected": rejected, "webhook": webhook}


async def release_papers(ground: Ground) -> None:
    """A rung that is enabled, gates that were computed, an attestation and a verdict."""
    tenant, rita = ground.tenant, ground.secrets["rita"]
    enable = "SELECT enable_rung($1, $2, 'staging', 'dry_run', '*', 'dry_run', '{}')"
    assert await ground.value("api", enable, tenant, rita) == "enabled"
    gates = '[{"gate": "technical", "result": "pass", "checks": [], "expires_at": "2099-01-01T00:00:00Z"}]'
    await ground.run("worker", "SELECT note_gates($1, 'staging', $2)", tenant, gates)
    attest = "SELECT attest($1, $2, $3, 'staging', 'stable', 'product_owner', '{}', '1 day')"
    assert await ground.value("api", attest, tenant, ground.secrets["paul"], uuid4()) == "signed"
    keep = "SELECT outcome FROM keep_verdict($1, $2, $3, 'staging', $4)"
    assert await ground.value("api", keep, tenant, rita, uuid4(), verdict(ground)) == "kept"


def verdict(ground: Ground, **said: Any) -> bytes:
    """A file as production would have sent it, but for the signature, which is not Postgres's to check."""
    at = datetime.now(UTC)
    statement = {
        "tenant": f"t-{ground.tenant}", "environment": "production", "build": "1", "result": "pass", "by": "production-1", "ladder": {},
        "replayed": [], "made_at": at.isoformat(), "expires_at": (at + timedelta(hours=1)).isoformat(),
    } | said  # fmt: skip
    return json.dumps({"signature": "", "statement": statement}).encode()


async def test_nothing_of_the_record_is_deleted_or_emptied(ground: Ground) -> None:
    await furnished(ground)
    for table in KEPT:
        column = "id" if table == "tenant" else "tenant"
        for role in ("owner", "admin"):
            await ground.refused("RX001", role, f"DELETE FROM {table} WHERE {column} = $1", ground.tenant)
        # what else is emptied with it has a guard of its own: it is this table's that must speak
        said = await ground.refused("RX001", "admin", f"TRUNCATE {table} CASCADE")
        assert said == f"wall: TRUNCATE on {table} is forbidden"
        # Replication mode turns ordinary triggers and foreign keys off; these stay.
        for statement in (f"DELETE FROM {table} WHERE {column} = '{ground.tenant}'", f"TRUNCATE {table} CASCADE"):
            async with ground.within("admin") as admin:
                await admin.execute("SET LOCAL session_replication_role = replica")
                with pytest.raises(asyncpg.PostgresError, match=f"{statement.split()[0]} on {table} is forbidden"):
                    async with admin.transaction():
                        await admin.execute(statement)


async def test_what_is_written_once_is_never_changed(ground: Ground) -> None:
    await furnished(ground)
    for table in WRITTEN_ONCE:
        columns = await ground.run(
            "admin", "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''", table
        )  # fmt: skip
        for (column,) in columns:
            await ground.refused(
                "RX001", "owner", f"UPDATE {table} SET {column} = {column} WHERE tenant = $1", ground.tenant
            )


async def test_an_approval_changes_its_state_and_nothing_else(ground: Ground) -> None:
    asked, other = await ground.ask("two"), await ground.ask()
    changes = {
        "tenant": "gen_random_uuid()", "id": "gen_random_uuid()", "mission": f"'{other.mission}'", "subject": "'mission'",
        "writeback": f"'{other.writeback}'", "question_sha256": "payload_sha256", "requested_by": f"'{ground.ids['agent']}'",
        "payload_sha256": "sha256('x')", "rule": "gen_random_uuid()", "rule_version": "2", "required": "1", "deny_threshold": "2",
        "created_at": "'epoch'", "expires_at": "'infinity'", "not_before": "'epoch'",
    }  # fmt: skip
    for column, value in changes.items():
        await ground.refused("RX001", "owner", f"UPDATE approval SET {column} = {value} WHERE id = $1", asked.approval)
    await ground.run("owner", "UPDATE approval SET version = 99 WHERE id = $1", asked.approval)
    assert await ground.version(asked) == 2  # the version counts changes, whatever is written into it


async def test_approvals_move_only_forward(ground: Ground) -> None:
    legal = {("pending", to) for to in ("approved", "rejected", "expired", "cancelled")}
    legal |= {("approved", "expired"), ("approved", "cancelled")}
    for was in ("pending", "approved", "rejected", "cancelled"):
        asked = await ground.ask()
        if was in ("approved", "rejected"):
            await ground.decide(
                asked, "anna", was.removesuffix("d").removesuffix("e") if was == "rejected" else "approve"
            )
        elif was == "cancelled":
            await ground.close(asked)
        for to in ("pending", "approved", "rejected", "expired", "cancelled"):
            if (was, to) not in legal and (was, to) != ("pending", "pending"):
                await ground.refused(
                    "RX004", "owner", "UPDATE approval SET state = $2 WHERE id = $1", asked.approval, to
                )
        assert await ground.value("admin", "SELECT state FROM approval WHERE id = $1", asked.approval) == was


async def test_a_missions_request_does_not_change_and_an_ended_one_does_not_move(ground: Ground) -> None:
    mission = await ground.mission(attempt=3, last_seq=5)
    for column, value in {
        "tenant": "gen_random_uuid()", "id": "gen_random_uuid()", "mission_type": "'x_y'", "mode": "'autonomous'",
        "requested_by": f"'{ground.ids['anna']}'", "contract_hash": "sha256('x')", "created_at": "'epoch'", "risk_level": "'high'",
        "sensitivity_class": "'public'", "attempt": "2", "last_seq": "4",
    }.items():  # fmt: skip
        await ground.refused("RX001", "owner", f"UPDATE mission SET {column} = {value} WHERE id = $1", mission)
    await ground.run(
        "owner",
        "UPDATE mission SET attempt = 4, last_seq = 0, version = 9, updated_at = 'epoch' WHERE id = $1",
        mission,
    )
    moved = "SELECT version = 2 AND updated_at >= created_at FROM mission WHERE id = $1"
    assert await ground.value("admin", moved, mission) is True
    for ended in ("completed", "failed", "cancelled", "denied"):
        mission = await ground.mission()
        await ground.run("api", "UPDATE mission SET state = $2, closed_at = now() WHERE id = $1", mission, ended)
        for state in {"running", "completed", "failed", "cancelled", "denied"} - {ended}:
            await ground.refused(
                "RX004", "owner", "UPDATE mission SET state = $2, closed_at = NULL WHERE id = $1", mission, state
            )


async def test_who_may_act_changes_only_by_ending(ground: Ground) -> None:
    anna, agent = ground.ids["anna"], ground.ids["agent"]
    for change in (
        "kind = 'service'",
        "owner = gen_random_uuid()",
        "id = gen_random_uuid()",
        "tenant = gen_random_uuid()",
    ):
        await ground.refused("RX001", "owner", f"UPDATE principal SET {change} WHERE id = $1", anna)
    await ground.refused("RX001", "owner", "UPDATE principal SET owner = NULL WHERE id = $1", agent)
    await ground.refused("RX001", "owner", "UPDATE principal SET kind = 'human', owner = NULL WHERE id = $1", agent)

    for change in (
        "role = 'admin'",
        "principal = gen_random_uuid()",
        "granted_at = 'epoch'",
        "expires_at = 'infinity'",
        "revoked_at = NULL",
    ):
        await ground.refused("RX001", "owner", f"UPDATE role_grant SET {change} WHERE principal = $1", anna)
    await ground.revoke("anna")
    for change in ("revoked_at = NULL", "revoked_at = clock_timestamp()"):
        await ground.refused("RX001", "registrar", f"UPDATE role_grant SET {change} WHERE principal = $1", anna)

    for change in (
        "principal = gen_random_uuid()",
        "secret_sha256 = sha256('x')",
        "prefix = 'mr_another'",
        "created_at = 'epoch'",
    ):
        await ground.refused("RX001", "owner", f"UPDATE api_key SET {change} WHERE principal = $1", anna)
    await ground.run("registrar", "UPDATE api_key SET expires_at = '2030-01-01' WHERE principal = $1", anna)
    for later in ("'2031-01-01'", "NULL", "'infinity'"):
        await ground.refused(
            "RX001", "registrar", f"UPDATE api_key SET expires_at = {later} WHERE principal = $1", anna
        )
    await ground.run("registrar", "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1", anna)
    for change in ("revoked_at = NULL", "expires_at = '2029-01-01'"):
        await ground.refused("RX001", "registrar", f"UPDATE api_key SET {change} WHERE principal = $1", anna)

    await ground.session("anna")
    for change in (
        "principal = gen_random_uuid()",
        "secret_sha256 = sha256('x')",
        "origin = 'console'",
        "created_at = 'epoch'",
        "expires_at = 'infinity'",
    ):
        await ground.refused("RX001", "owner", f"UPDATE session SET {change} WHERE principal = $1", anna)
    await ground.run("registrar", "UPDATE session SET expires_at = clock_timestamp() WHERE principal = $1", anna)
    await ground.run("registrar", "UPDATE session SET revoked_at = clock_timestamp() WHERE principal = $1", anna)
    for change in ("revoked_at = NULL", "expires_at = 'epoch'"):
        await ground.refused("RX001", "registrar", f"UPDATE session SET {change} WHERE principal = $1", anna)


async def test_a_run_of_a_drill_ends_once_and_says_so_once(ground: Ground) -> None:
    run, ended = uuid4(), "state = 'passed', finished_at = clock_timestamp()"
    await ground.run("api", """INSERT INTO drill_run (tenant, id, drill, asked_by, state, build, started_at)
                     VALUES ($1, $2, 'replay', $3, 'running', '1', now())""", ground.tenant, run, ground.ids["anna"])  # fmt: skip
    end = "UPDATE drill_run SET {} WHERE id = $1"
    await ground.refused(DENIED, "api", end.format(ended), run)  # it is asked by strangers
    for change in ("drill = 'other'", "build = '2'", "started_at = 'epoch'", "asked_by = NULL", "id = gen_random_uuid()",
                   "tenant = gen_random_uuid()"):  # fmt: skip
        await ground.refused("RX035", "owner", end.format(change), run)
    failed = "state = 'failed', reason = 'odd', finished_at = clock_timestamp()"
    await ground.run("worker", end.format(failed), run)
    for change in (
        ended + ", reason = NULL",
        "state = 'running', reason = NULL, finished_at = NULL",
        "evidence = '[1]'",
        failed,
    ):
        await ground.refused("RX035", "worker", end.format(change), run)


async def test_what_was_found_stuck_stays_and_is_over_once(ground: Ground) -> None:
    mission, other = await ground.mission(), await ground.mission()
    found = await ground.value("worker", """INSERT INTO mission_repair (tenant, mission, state, finding, refused, since)
                               VALUES ($1, $2, 'accepted', 'no_dispatch', 'busy', now()) RETURNING id""",
                               ground.tenant, mission)  # fmt: skip
    change = "UPDATE mission_repair SET {} WHERE id = $1"
    for what in ("tenant = gen_random_uuid()", "id = gen_random_uuid()", f"mission = '{other}'", "state = 'running'",
                 "finding = 'nothing'", "repair = 'dispatched', refused = NULL", "refused = NULL", "since = 'epoch'",
                 "found_at = 'epoch'"):  # fmt: skip
        await ground.refused("RX037", "owner", change.format(f"{what}, over_at = now()"), found)
        await ground.refused(DENIED, "worker", change.format(what), found)
    await ground.refused(DENIED, "api", change.format("over_at = now()"), found)
    await ground.run("worker", change.format("over_at = now()"), found)
    for later in ("over_at = NULL", "over_at = now()"):
        await ground.refused("RX037", "worker", change.format(later), found)


async def test_the_guards_hold_in_replication_mode(ground: Ground) -> None:
    """Where foreign keys and ordinary triggers are off, the wall's own triggers still judge."""
    rows = await furnished(ground)
    asked = await ground.ask("two")
    for statement, args in (
        ("UPDATE approval SET state = 'approved' WHERE id = $1", (asked.approval,)),
        ("UPDATE approval SET required = 1 WHERE id = $1", (asked.approval,)),
        ("UPDATE mission SET risk_level = 'high' WHERE id = $1", (asked.mission,)),
        ("UPDATE execution SET idempotency_key = gen_random_uuid() WHERE writeback = $1", (rows["asked"].writeback,)),
        ("UPDATE role_grant SET role = 'operator' WHERE principal = $1 AND role = 'admin'", (ground.ids["adam"],)),
        ("UPDATE principal SET kind = 'human' WHERE id = $1", (ground.ids["machine"],)),
        ("UPDATE api_key SET principal = $1", (ground.ids["anna"],)),
        ("UPDATE session SET principal = $1", (ground.ids["machine"],)),
        ("UPDATE approver_key SET confirmed_by = $1", (ground.ids["anna"],)),
        ("INSERT INTO approver_key (tenant, principal, public_key, requested_by) SELECT tenant, id, sha256('x'), id FROM principal "
         "WHERE id = $1", (ground.ids["machine"],)),
        ("""INSERT INTO mission SELECT (jsonb_populate_record(m, jsonb_build_object('id', gen_random_uuid(), 'requested_by', $2::uuid))).*
            FROM mission m WHERE m.id = $1""", (asked.mission, ground.ids["anna"])),
        ("""INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
            SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1""",
         (asked.approval, ground.ids["machine"])),
        ("""INSERT INTO execution (tenant, writeback, approval, payload_sha256, lease_until, not_after)
            SELECT tenant, writeback, id, payload_sha256, 'infinity', 'infinity' FROM approval WHERE id = $1""", (asked.approval,)),
        ("""INSERT INTO writeback (tenant, id, mission, requested_by, risk, payload, proposal)
            SELECT tenant, gen_random_uuid(), mission, requested_by, 'low', '{}', proposal FROM writeback WHERE id = $1""",
         (asked.writeback,)),
    ):  # fmt: skip
        with pytest.raises(asyncpg.PostgresError, match="wall:"):
            async with ground.within("admin") as admin:
                await admin.execute("SET LOCAL session_replication_role = replica")
                await admin.execute(statement, *args)
    tenant = uuid4()
    async with ground.within("admin", tenant) as admin:
        await admin.execute("SET LOCAL session_replication_role = replica")
        await admin.execute("INSERT INTO tenant (id, name) VALUES ($1, $2)", tenant, str(tenant))
    assert await ground.value("admin", "SELECT count(*) FROM approval_rule WHERE tenant = $1", tenant) == 6
