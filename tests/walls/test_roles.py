"""Invariant 12: which role may do what, as one table that is compared with the catalog; and what no role may do at all."""

import contextlib

import asyncpg
import pytest

from app.bootstrap import LIMITS, LOGIN_ROLES, create_login
from tests.walls.ground import DENIED, Ground

# s select, i insert, u update, d delete, g usage; columns in parentheses. A role that is not named may do nothing, which is
# what the executor may do with every table.
TALLY = "answer_status attempt closed_at deadline_at degraded last_seq lease_until pending_approvals reason reason_note stage state"
MOVES = f"u({TALLY} writebacks)"
FACT = "i(actor body subject tenant type)"
PROPOSE = "i(id mission payload proposal requested_by risk tenant)"
OPEN = "i(id mission obligations payload_sha256 question_sha256 requested_by subject tenant writeback)"
DELIVERY, TRIED = (
    "i(id message next_at seq subject tenant type webhook)",
    "u(last_tries next_at settled_at state tries)",
)
RULES = "i(baseline manifest tenant)"
SAID = "i(attempt bytes id mission producer schema_name schema_version tenant)"
REFUSED = "i(bytes mission origin problem tenant)"
ANSWER = "i(body fingerprint headers key principal route status tenant)"
GRANTS: dict[str, dict[str, str]] = {
    # who may act: written by the registrar alone, unseen by whoever serves missions
    "tenant": {"registrar": "i s u(suspended_at)", "auditor": "s"},
    "principal": {"registrar": "i s u(sessions_from suspended_at)", "auditor": "s"},
    "oidc_identity": {"registrar": "i s u(unlinked_at)", "auditor": "s"},
    "role_grant": {"registrar": "i s u(revoked_at)", "auditor": "s"},
    "api_key": {"registrar": "i s u(expires_at revoked_at)"},
    "session": {"registrar": "i s u(expires_at revoked_at)"},
    "console_link": {"registrar": "i s u(session used_at)"},
    # with which keys approvers sign, and how risky a change is at least: written by functions that want people's secrets
    "approver_key": {"registrar": "s", "auditor": "s"},
    "risk_floor": {"api": "s", "worker": "s", "registrar": "s", "auditor": "s"},
    # the record
    "ledger": {
        "api": f"{FACT} s",
        "worker": f"{FACT} s",
        "registrar": f"{FACT} s",
        "auditor": "s",
    },
    "ledger_id": {"api": "g", "worker": "g", "registrar": "g"},
    # the wall
    "approval_rule": {"api": "s", "worker": "s", "auditor": "s"},
    "notice": {"api": "s", "auditor": "s"},
    "approval_look": {"api": "s", "auditor": "s"},
    "approval_question": {"api": "s", "worker": "s", "auditor": "s"},
    "connector": {"api": "s", "worker": "s", "auditor": "s"},
    "connector_switch": {"api": "s", "worker": "s", "auditor": "s"},
    "connector_read": {"api": "s", "worker": "s"},
    # which further tools missions may be given: written by functions that want an admin's secret, or only add to what was seen
    "tool_layer": {"api": "s", "worker": "s", "auditor": "s"},
    "tool_layer_switch": {"api": "s", "worker": "s", "auditor": "s"},
    "tool_layer_state": {"api": "s", "worker": "s", "auditor": "s"},
    "writeback": {"api": f"{PROPOSE} s", "worker": f"{PROPOSE} s", "auditor": "s"},
    "approval": {"api": f"{OPEN} s", "worker": f"{OPEN} s", "auditor": "s"},
    "decision": {"api": "s", "worker": "s", "auditor": "s"},
    "execution": {"api": "s", "worker": "s", "auditor": "s"},
    "writeback_state": {"api": "s", "worker": "s", "auditor": "s"},
    # missions
    "mission_type": {"api": "i s", "worker": "s", "auditor": "s"},
    "mission": {"api": f"s {MOVES}", "worker": f"s {MOVES}", "auditor": "s"},
    "mission_label": {"api": "s", "auditor": "s"},
    "artifact": {"api": f"{SAID} s", "worker": f"{SAID} s", "auditor": "s"},
    "reading": {"api": "i s", "worker": "i s", "auditor": "s"},
    "quarantine": {"api": f"{REFUSED} s", "worker": f"{REFUSED} s", "auditor": "s"},
    "policy_decision": {"api": "i s", "worker": "i s", "auditor": "s"},
    "tape": {
        "api": "i(answer answer_sha256 arguments arguments_sha256 attempt kind mission name ordinal outcome tenant took_ms) s",
        "worker": "i(answer answer_sha256 arguments arguments_sha256 attempt kind mission name ordinal outcome tenant took_ms) s",
        "auditor": "s",
    },
    "recording": {
        "api": "i(attempt environment file file_sha256 id imported_by mission mission_type sensitivity_class signed_by size tenant) s",
        "worker": "s",
        "auditor": "s",
    },
    "shadow_writeback": {
        "api": "s",
        "worker": "i(effect mission payload payload_sha256 policy_decision proposal tenant) s",
        "auditor": "s",
    },
    "policy": {"api": "s", "worker": "s", "auditor": "s"},
    "policy_set": {"api": f"{RULES} s", "worker": f"{RULES} s", "auditor": "s"},
    "work": {"api": "d i s u", "worker": "d i s u"},
    "idempotency": {"api": f"{ANSWER} s", "registrar": f"{ANSWER} s"},
    # where facts are delivered: sealed secrets are read by who signs with them
    "webhook": {
        "api": "i(after_id after_xid created_by description id tenant types url) s "
        "u(blocked_until description failing_since failures state types url)",
        "worker": "s u(after_id after_xid blocked_until failing_since failures state)",
        "auditor": "s",
    },
    "webhook_secret": {
        "api": "i(id kind public_key sealed tenant webhook) s(created_at expires_at id kind public_key tenant webhook) u(expires_at)",
        "worker": "s",
        "auditor": "s(created_at expires_at id kind public_key tenant webhook)",
    },
    "webhook_delivery": {
        "api": f"{DELIVERY} s {TRIED}",
        "worker": f"{DELIVERY} s {TRIED}",
        "auditor": "s",
    },
    # how far the ledger is on the message bus: whose lease it is moves it
    "bus": {
        "api": "s(detail heard_at state)",
        "worker": "s u(after_id after_xid detail fence heard_at lease_until state stream_made stream_seq)",
    },
    # what may be used, and how often: moved by functions only
    "budget_limit": {"api": "s", "worker": "s", "auditor": "s"},
    "budget_account": {"api": "s", "worker": "s", "auditor": "s"},
    "budget_reservation": {"api": "s", "worker": "s", "auditor": "s"},
    "nonce": {"api": "i(kid nonce)"},
    # which providers of models are off, and what was used of whom: moved by functions only
    "model_switch": {"api": "s", "auditor": "s"},
    "model_use": {"api": "s", "auditor": "s"},
    # how far missions may go, what gates say of it, and who attests what: moved by functions only
    "rung_change": {"api": "s", "worker": "s", "auditor": "s"},
    "gate_state": {"api": "s", "worker": "s", "auditor": "s"},
    "gate_change": {"api": "s", "worker": "s", "auditor": "s"},
    "attestation": {"api": "s", "worker": "s", "auditor": "s"},
    "verdict": {"api": "s", "worker": "s", "auditor": "s"},
    # what is known
    "blob": {"api": "s", "worker": "s", "auditor": "s"},
    # how long it is kept, and what holds it: written by functions that want people's secrets
    "retention_schedule": {"api": "s", "worker": "s", "auditor": "s"},
    "legal_hold": {"api": "s", "worker": "s", "auditor": "s"},
    "workspace": {"api": "i s", "worker": "s", "auditor": "s"},
    "workspace_trust": {"api": "i s", "worker": "s", "auditor": "s"},
    "document": {"api": "i s u(retired_at state)", "worker": "s", "auditor": "s"},
    "passage": {"api": "d i s"},
    "migration": {"api": "s", "worker": "s", "registrar": "s"},
    # how the service is: drills, and missions that nothing would have moved
    "drill_run": {
        "api": "i(asked_by build drill id started_at state tenant) s",
        "worker": "i(asked_by build drill id started_at state tenant) s u(evidence finished_at reason state)",
        "auditor": "s",
    },
    "mission_repair": {"api": "s", "worker": "i s u(over_at)", "auditor": "s"},
    "liveness_look": {"api": "s", "worker": "i s u(found looked_at missions took_ms)", "auditor": "s"},
}
# Which functions a role may call. Everything else is called by triggers and by these.
CALLS: dict[str, set[str]] = {
    "api": {
        "reserve_budget", "budget_would_lack", "settle_budget", "release_budget", "spend_budget", "put_budget_limits", "take_tokens",
        "put_policy", "authenticate", "decide", "vouch", "close_approval", "choose_rule", "approver_keys",
        "put_connector", "switch_connector", "ask_connector_read", "put_tool_layer", "switch_tool_layer", "note_tool_layer", "tool_account",
        "model_switches", "switch_model_provider", "note_model_use", "terms_of_missions", "open_calls", "close_calls",
        "put_rule", "fitting_rules", "lay_ladder", "break_glass", "withdraw", "revise", "renew", "see_notice",
        "raised_risk", "standing_risk", "take_in", "names_of", "tenant_of_mission", "search_passages", "search_lexemes",
        "passage_lexemes", "fact_hash", "current_tenant", "enter_tenant", "require_tenant", "require_present",
        "hold_missions", "keep_missions", "use_nonces", "hold_budgets", "budget_used_up",
        "keep_blob", "put_retention", "place_hold", "lift_hold", "retention_days", "shipped_retention", "holds_on",
        "hand_on", "ask_question", "answer_question", "drill_tenant",
        "doctor_numbers", "full_approval_queues", "tenants_after",
        "newest_drills", "ladder_binds", "role_holders", "enable_rung", "lower_rung", "release_is_healthy", "tenant_name",
        "attest", "withdraw_attestation", "keep_verdict",
        "note_look", "deciders", "answerers",
    },
    "worker": {
        "drill_tenant", "restore_drill_work", "restore_liveness_work", "restore_execution_of", "doctor_numbers",
        "hold_missions", "keep_missions", "offered_missions", "said_of_missions",
        "waiting_webhooks", "take_webhook_work", "sweep_webhook_deliveries", "ask_connector_read", "sweep_connector_reads",
        "reconcile_budgets", "sweep_rates", "note_tool_layer",
        "gauges", "take_worker_work", "next_worker_work", "sweep_expired", "restore_executor_work", "restore_anchor_work",
        "raised_risk", "standing_risk", "close_approval", "choose_rule", "fact_hash", "current_tenant",
        "fitting_rules", "lay_ladder", "climb", "restore_approval_timers",
        "require_tenant", "require_present", "keep_blob",
        "retention_days", "shipped_retention", "holds_on", "remove_bytes", "restore_retention_work",
        "newest_drills", "ladder_binds", "role_holders", "note_gates", "lower_rung_itself", "restore_release_work",
    },
    "executor": {
        "take_read_work", "connector_read_of", "answer_connector_read",
        "take_executor_work", "next_executor_work", "finish_executor_work", "claim", "settle", "current_tenant", "require_tenant",
    },
    "registrar": {
        "put_connector", "take_tokens", "authenticate", "principal_of_subject", "visible_tenants", "tenant_by_name", "link_of", "fact_hash",
        "current_tenant", "request_approver_key", "confirm_approver_key", "revoke_approver_key", "put_risk_floor", "waive_signatures",
        "drill_tenant", "doctor_numbers",
    },
    "auditor": {"fact_hash", "current_tenant", "tenants_after", "doctor_numbers"},
    "reader": {"read_ledger", "current_tenant"},
}  # fmt: skip


async def test_each_role_may_do_exactly_what_the_table_says(ground: Ground) -> None:
    found: dict[str, dict[str, list[str]]] = {}
    letters = {"SELECT": "s", "INSERT": "i", "UPDATE": "u", "DELETE": "d", "USAGE": "g"}
    rows = await ground.run(
        "admin",
        """WITH said AS (
             SELECT c.relname, x.grantee, x.privilege_type, x.is_grantable, NULL AS attname
             FROM pg_class c, aclexplode(c.relacl) x WHERE c.relnamespace = 'public'::regnamespace AND x.grantee <> c.relowner
             UNION ALL
             SELECT c.relname, x.grantee, x.privilege_type, x.is_grantable, a.attname
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x
             WHERE c.relnamespace = 'public'::regnamespace)
           SELECT relname, COALESCE(r.rolname, 'PUBLIC') AS role, privilege_type, bool_or(is_grantable) AS grantable,
             string_agg(attname, ' ' ORDER BY attname) AS columns
           FROM said LEFT JOIN pg_roles r ON r.oid = grantee GROUP BY 1, 2, 3, attname IS NULL ORDER BY 1, 2, 3""",
    )
    for row in rows:
        assert not row["grantable"], dict(row)
        said = letters.get(row["privilege_type"], row["privilege_type"])
        said += f"({row['columns']})" if row["columns"] else ""
        role = row["role"].removeprefix("mission_root_")
        found.setdefault(row["relname"], {}).setdefault(role, []).append(said)
    shown = {table: {role: " ".join(sorted(said)) for role, said in roles.items()} for table, roles in found.items()}
    assert shown == GRANTS


async def test_each_role_may_call_exactly_what_the_table_says(ground: Ground) -> None:
    rows = await ground.run(
        "admin",
        """SELECT p.proname, COALESCE(r.rolname, 'PUBLIC') AS role
           FROM pg_proc p CROSS JOIN LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) x
           LEFT JOIN pg_roles r ON r.oid = x.grantee
           WHERE p.pronamespace = 'public'::regnamespace AND x.grantee <> p.proowner
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')""",
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["role"].removeprefix("mission_root_"), set()).add(row["proname"])
    assert found == CALLS


async def test_roles_are_plain_and_bounded(ground: Ground) -> None:
    rows = await ground.run(
        "admin",
        """SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconfig,
             (SELECT count(*) FROM pg_auth_members m WHERE m.member = r.oid) AS memberships,
             (SELECT count(*) FROM pg_shdepend d WHERE d.refobjid = r.oid AND d.deptype = 'o') AS owned
           FROM pg_roles r WHERE rolname LIKE 'mission\\_root\\_%'""",
    )
    assert {row["rolname"].removeprefix("mission_root_") for row in rows} == {"owner", *LOGIN_ROLES}
    for row in rows:
        is_owner = row["rolname"].endswith("_owner")
        for may in ("rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"):
            assert row[may] is False, (row["rolname"], may)
        assert row["memberships"] == 0
        assert row["rolcanlogin"] is not is_owner
        if not is_owner:
            assert row["owned"] == 0
            assert {f"{name}={value}" for name, value in LIMITS.items()} == set(row["rolconfig"])


async def test_database_and_schema_are_closed_to_everybody_else(ground: Ground) -> None:
    rows = await ground.run(
        "admin",
        """SELECT 'database' AS what, x.grantee::regrole::text AS role, x.privilege_type AS may FROM pg_database d, aclexplode(d.datacl) x
           WHERE d.datname = current_database() AND x.grantee <> d.datdba
           UNION ALL
           SELECT 'schema', x.grantee::regrole::text, x.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) x
           WHERE n.nspname = 'public' AND x.grantee <> n.nspowner
           UNION ALL
           SELECT 'another schema', nspname, '' FROM pg_namespace
           WHERE nspname NOT IN ('public', 'information_schema') AND nspname NOT LIKE 'pg\\_%'""",
    )
    expected = {("schema", "mission_root_owner", "CREATE"), ("schema", "mission_root_owner", "USAGE")}
    for role in LOGIN_ROLES:
        expected |= {("database", f"mission_root_{role}", "CONNECT"), ("schema", f"mission_root_{role}", "USAGE")}
    assert {tuple(row) for row in rows} - {("database", "mission_root_owner", "CONNECT")} == expected


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_no_role_gets_out_of_its_place(ground: Ground, role: str) -> None:
    await ground.ask()
    for statement in (
        *(f"SET ROLE mission_root_{other}" for other in ("owner", *LOGIN_ROLES) if other != role),
        "SET SESSION AUTHORIZATION mission_root_owner", "SET session_replication_role = replica",
        "ALTER TABLE approval DISABLE TRIGGER ALL", "ALTER TABLE approval NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE execution OWNER TO CURRENT_USER", "DROP TABLE decision", "TRUNCATE decision", "TRUNCATE ledger",
        "DROP TRIGGER approval_guard ON approval", "DROP POLICY own_tenant ON ledger",
        "CREATE OR REPLACE FUNCTION public.entitled(p_tenant uuid, p_principal uuid, p_role text) RETURNS boolean RETURN true",
        "CREATE FUNCTION public.owns(text, text, text) RETURNS boolean RETURN false", "CREATE TABLE public.mine (a int)",
        "CREATE TEMP TABLE approval (a int)", "CREATE SCHEMA mine", "DROP EXTENSION unaccent",
        "ALTER ROLE mission_root_owner LOGIN", "ALTER ROLE CURRENT_USER SUPERUSER", "ALTER ROLE CURRENT_USER BYPASSRLS",
        "ALTER ROLE CURRENT_USER SET app.tenant = 'x'", "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
        "CREATE ROLE mine", "GRANT mission_root_owner TO CURRENT_USER",
        "ALTER DATABASE postgres SET app.tenant = 'x'", "COPY ledger TO PROGRAM 'true'",
        "SELECT pg_read_file('pg_hba.conf')", "SELECT setval('ledger_id', 1)", "PREPARE TRANSACTION 'x'",
        "INSERT INTO execution DEFAULT VALUES", "INSERT INTO decision DEFAULT VALUES", "UPDATE approval SET state = 'approved'",
        "UPDATE execution SET state = 'succeeded'", "DELETE FROM ledger", "UPDATE ledger SET body = '{}'",
        "UPDATE writeback SET risk = 'low'",
        "UPDATE principal SET kind = 'human'", "DELETE FROM role_grant", "UPDATE approval_rule SET required = 1",
    ):  # fmt: skip
        try:
            await ground.run(role, statement)
        except asyncpg.PostgresError as error:
            # 55000: this server keeps no prepared transactions
            assert error.sqlstate in (DENIED, "55000"), f"{statement}: {error.sqlstate} {error}"
        else:
            raise AssertionError(f"{role} may {statement}")
    connection = await ground.of(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("ALTER SYSTEM SET fsync = off")
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):  # or it is only warned that nothing was granted
        await connection.execute("GRANT INSERT ON execution TO CURRENT_USER")
    assert await connection.fetchval("SELECT has_table_privilege('execution', 'INSERT')") is False


async def test_whoever_serves_missions_cannot_see_or_make_who_may_act(ground: Ground) -> None:
    for role in ("api", "worker", "executor", "reader"):
        for table in (
            "tenant",
            "principal",
            "role_grant",
            "api_key",
            "session",
            "approver_key",
            "oidc_identity",
            "console_link",
        ):
            await ground.refused(DENIED, role, f"SELECT * FROM {table}")
            await ground.refused(DENIED, role, f"INSERT INTO {table} DEFAULT VALUES")
            await ground.refused(DENIED, role, f"DELETE FROM {table}")
    for table in ("api_key", "session", "console_link"):
        await ground.refused(DENIED, "auditor", f"SELECT * FROM {table}")
    for role in ("worker", "executor", "reader", "auditor"):
        await ground.refused(DENIED, role, "SELECT * FROM authenticate(sha256('x'))")
    for role in ("worker", "executor", "reader", "auditor", "api"):
        await ground.refused(DENIED, role, "SELECT * FROM principal_of_subject('https://id.example', 'x')")
        await ground.refused(DENIED, role, "SELECT * FROM visible_tenants()")
        await ground.refused(DENIED, role, "SELECT * FROM link_of(sha256('x'))")
    for role in ("worker", "executor", "reader", "auditor", "registrar"):
        await ground.refused(DENIED, role, "SELECT * FROM decide($1, $1, 'x', 1, 'x', 'approve', '')", ground.tenant)
    for role in ("api", "worker", "reader", "auditor", "registrar"):
        await ground.refused(DENIED, role, "SELECT * FROM claim($1, $1, '1 s')", ground.tenant)
        await ground.refused(DENIED, role, "SELECT settle($1, $1, 1, 'succeeded', NULL, NULL)", ground.tenant)
    for role in LOGIN_ROLES:
        for call in (
            "entitled($1, $1, 'operator')", "owns($1, $1, $1)", "principal_of($1, 'x')", "presenter($1, 'x')", "tell_mission($1, $1)",
            "want_work($1, 'execute', $1, 'executor', now())",
            "wall_fact($1, $1, 'approval.decided', 'system:x', '{}')",
        ):  # fmt: skip
            await ground.refused(DENIED, role, f"SELECT {call}", ground.tenant)


async def test_asking_for_unfiltered_rows_is_an_error_not_an_answer(ground: Ground) -> None:
    for role in ("api", "worker", "auditor", "registrar"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with ground.within(role) as connection:
                await connection.execute("SET LOCAL row_security = off")
                await connection.fetch("SELECT * FROM ledger")


async def test_a_role_that_left_itself_defaults_loses_them_at_the_next_bootstrap(ground: Ground) -> None:
    admin = await ground.of("admin")
    here = await admin.fetchval("SELECT current_database()")
    async with ground.within("reader") as reader:
        for where in ("", f"IN DATABASE {here}"):
            await reader.execute(f"ALTER ROLE CURRENT_USER {where} SET default_transaction_isolation = 'serializable'")
    kept = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'mission_root_reader'")
    await create_login(admin, "mission_root_reader", kept)  # a SCRAM verifier is taken as it is
    left = await admin.fetch(
        "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 'mission_root_reader'::regrole"
    )
    assert {setting for (setting,) in left} == {f"{name}={value}" for name, value in LIMITS.items()}
