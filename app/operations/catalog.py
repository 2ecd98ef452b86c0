"""The catalog linter: rules that the schema keeps, whoever added to it last. Each finds nothing but named exceptions with a reason.

Tests run it over every schema, the doctor over the database that is there.
"""

# ruff: noqa: S608  # queries of ours alone
import asyncpg

PUBLIC = "n.nspname = 'public'"
RELATIONS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
OURS = """pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'public'
          AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"""
OWN_TENANT = "(NULLIF(current_setting(''app.tenant''::text, true), ''''::text))::uuid"

# rule: (query giving names, {name: why it may be})
RULES: dict[str, tuple[str, dict[str, str]]] = {
    "tables without enabled and forced row security": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND c.relkind IN ('r', 'p')
              AND NOT (c.relrowsecurity AND c.relforcerowsecurity)""",
        {
            "nonce": "used before any tenant is known", "migration": "the schema's version; no tenant's",
            "rate_bucket": "failed logins are counted before any tenant is known; digests and numbers only",
            "bus": "one row for the installation: a reading position and how the bus is",
        },
    ),
    "tables without a tenant": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND c.relkind IN ('r', 'p') AND NOT EXISTS (
              SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant' AND a.attnotnull
                AND a.atttypid = 'uuid'::regtype)""",
        {
            "tenant": "its id is the tenant", "nonce": "used before any tenant is known", "migration": "the schema's version",
            "rate_bucket": "likewise", "bus": "one row for the installation",
        },
    ),
    "tables whose policy is not the tenant's": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT EXISTS (
              SELECT 1 FROM pg_policies o WHERE o.schemaname = 'public' AND o.tablename = c.relname AND o.policyname = 'own_tenant'
                AND o.cmd = 'ALL' AND o.roles = '{{public}}' AND o.with_check IS NULL
                AND o.qual = '(' || CASE c.relname WHEN 'tenant' THEN 'id' ELSE 'tenant' END || ' = {OWN_TENANT})')""",
        {},
    ),
    "further policies": (
        """SELECT tablename || '.' || policyname || ' ' || cmd || ' ' || array_to_string(roles, ',') FROM pg_policies
           WHERE schemaname = 'public' AND policyname <> 'own_tenant'""",
        {
            "tenant.lookup SELECT mission_root_owner": "authenticate() looks a secret up before any tenant is known",
            "principal.lookup SELECT mission_root_owner": "authenticate()",
            "role_grant.lookup SELECT mission_root_owner": "authenticate()",
            "api_key.lookup SELECT mission_root_owner": "authenticate()",
            "session.lookup SELECT mission_root_owner": "authenticate()",
            "oidc_identity.lookup SELECT mission_root_owner": "principal_of_subject(), before any tenant is known",
            "work.walled_in INSERT mission_root_api,mission_root_worker": "restrictive: the executor's work is the wall's to add",
            "work.walled_up UPDATE mission_root_api,mission_root_worker": "restrictive: and to change",
            "work.walled_out DELETE mission_root_api,mission_root_worker": "restrictive: and to end",
            "drill_run.asked_for INSERT mission_root_api": "restrictive: how a drill ended is the worker's to say",
            "work.workers_in INSERT mission_root_api": "restrictive: when to anchor, sweep, look and judge is the worker's to say",
            "work.workers_up UPDATE mission_root_api": "restrictive: and to put off",
            "work.workers_out DELETE mission_root_api": "restrictive: and to end",
            "gate_state.lookup SELECT mission_root_owner": "release_is_healthy() says yes or no to whoever asks",
            "rung_change.lookup SELECT mission_root_owner": "restore_release_work() looks after every tenant that has a ladder",
            "drill_run.lookup_newest SELECT mission_root_owner": "newest_drills() tells every tenant how the service's drills ended",
            "approval.gauges SELECT mission_root_owner": "gauges() and full_approval_queues() count what waits, whose ever it is",
            "execution.gauges SELECT mission_root_owner": "gauges()",
            "liveness_look.gauges SELECT mission_root_owner": "gauges()",
            "mission_repair.gauges SELECT mission_root_owner": "gauges()",
            "console_link.lookup SELECT mission_root_owner": "link_of(), before any tenant is known",
            "model_switch.lookup SELECT mission_root_owner": "model_switches() tells every tenant what the operator's has switched off",
            "ledger.read_all SELECT mission_root_owner": "read_ledger() serves every tenant's readers",
            "mission.lookup SELECT mission_root_owner": "tenant_of_mission(): the colony names a mission without its tenant",
            "budget_reservation.lookup SELECT mission_root_owner": "reconcile_budgets() ends what crashes left, whose ever it is",
            "budget_limit.lookup SELECT mission_root_owner": "take_tokens() works before a tenant is entered",
            "webhook.lookup SELECT mission_root_owner": "waiting_webhooks() says which have facts before them, whose ever they are",
            "webhook_delivery.sweep ALL mission_root_owner": "sweep_webhook_deliveries() forgets what is a month old",
            "work.claims ALL mission_root_owner": "take_work() leases whatever is due, whose ever it is",
            "idempotency.sweep ALL mission_root_owner": "sweep_expired() forgets what is a day old",
            "connector_read.sweep ALL mission_root_owner": "sweep_connector_reads() forgets what was looked at some minutes ago",
            "workspace.search ALL mission_root_owner": "search_passages() checks the tenant itself, so that the index can be used",
            "document.search ALL mission_root_owner": "search_passages()",
            "passage.search ALL mission_root_owner": "search_passages()",
            "passage_term.search ALL mission_root_owner": "count_terms() carries the tenant of the counted rows",
        },
    ),
    "views that see with their owner's eyes": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND (c.relkind = 'm' OR c.relkind = 'v'
              AND NOT COALESCE(c.reloptions, '{{}}') @> '{{security_invoker=true}}')""",
        {},
    ),
    "functions without a fixed search path": (
        f"SELECT p.proname FROM {OURS} WHERE NOT COALESCE(p.proconfig, '{{}}') @> ARRAY['search_path=pg_catalog, public, pg_temp']",
        {
            "current_tenant": "its body was parsed when it was made: names in it are bound, and it runs as its caller",
            "enter_tenant": "likewise; with a path of its own it could not become part of the plan that calls it for every row",
            "lexeme_query": "likewise",
            "fact_hash": "likewise",
        },
    ),
    "functions that everybody may call": (
        f"""SELECT p.proname FROM {OURS} WHERE EXISTS (
              SELECT 1 FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) x WHERE x.grantee = 0)""",
        {},
    ),
    "things that the owner role does not own": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND pg_get_userbyid(c.relowner) <> 'mission_root_owner'
            UNION ALL SELECT p.proname FROM {OURS} WHERE pg_get_userbyid(p.proowner) <> 'mission_root_owner'""",
        {},
    ),
    "roles that may empty, refer to, hang triggers on or maintain a table": (
        f"""SELECT c.relname || ' ' || x.grantee::regrole::text FROM {RELATIONS}, aclexplode(c.relacl) x WHERE {PUBLIC}
              AND x.grantee <> c.relowner AND x.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')""",
        {},
    ),
    "foreign keys without the tenant": (
        """SELECT conname FROM pg_constraint f WHERE contype = 'f' AND connamespace = 'public'::regnamespace
             AND f.confrelid <> 'tenant'::regclass
             AND NOT EXISTS (SELECT 1 FROM unnest(f.conkey, f.confkey) k (mine, theirs)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.mine AND a.attname = 'tenant'
               JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = k.theirs AND b.attname = 'tenant')""",
        {},
    ),
    "foreign keys that act by themselves, wait or were never checked": (
        """SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
             AND (confdeltype <> 'a' OR confupdtype <> 'a' OR condeferrable OR NOT convalidated OR NOT conenforced)""",
        {"policy_decision_tenant_mission_fkey": "the decision to admit a mission is written before the mission, in one transaction"},
    ),
    "foreign keys that a null gets around": (
        """SELECT c.relname || '.' || a.attname FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (f.conkey)
           WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace AND NOT a.attnotnull""",
        {
            "principal.owner": "humans have none",
            "role_grant.granted_by": "null for what the installation's command line gave",
            "role_grant.delegated_from": "null for what was not passed on; a check ties it to who did",
            "legal_hold.mission": "null unless it is a mission that is held; a check ties it to the scope",
            "legal_hold.lifted_by": "null until another person lifts it; a check ties it to when",
            "approver_key.confirmed_by": "null until a second person confirms; a check ties it to when",
            "approver_key.revoked_by": "null while it lives; a check ties it to when",
            "console_link.session": "null until it is used; a check ties it to when",
            "rung_change.changed_by": "null when the service lowered it; a check lets only people raise",
            "attestation.withdrawn_by": "null while it holds; a check ties it to when",
            "writeback.predecessor": "a first proposal has none",
            "approval.writeback": "null for a question about a mission; a check ties it to the subject",
            "approval.glass_broken_by": "the glass is whole",
            "approval_question.answered_by": "null until it is answered; a check ties it to the answer",
            "approval.withdrawn_by": "nobody has taken it back; a check ties it to the state",
            "approval.was_rule": "the glass is whole; a check ties it to who broke it",
            "approval.was_rule_version": "likewise",
            "approval_rule.created_by": "what a tenant is born with nobody wrote",
            "writeback.edited_by": "what the colony proposed nobody edited",
            "approval.question_sha256": "null for a writeback; a check ties it to the subject",
            "webhook_delivery.subject": "null for a test message; a check ties it to seq",
            "webhook_delivery.seq": "likewise",
            "policy_decision.mission": "null when the decision was that there shall be no mission",
        },
    ),
    "uniques without the tenant": (
        f"""SELECT c.relname FROM pg_index i JOIN {RELATIONS} ON c.oid = i.indexrelid WHERE {PUBLIC} AND i.indisunique AND NOT EXISTS (
              SELECT 1 FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = 'tenant')""",
        {
            "tenant_pkey": "its id is the tenant", "tenant_name_key": "tenants are told apart by name",
            "api_key_secret": "a secret leads to exactly one key of the installation",
            "session_secret": "likewise, to one session",
            "console_link_secret": "likewise, to one link",
            "oidc_identity_live": "a subject leads to exactly one principal of the installation",
            "tenant_operator": "the installation has one operator's tenant", "tenant_drills": "and one that drills run in",
            "mission_id": "the colony names a mission without its tenant",
            "nonce_pkey": "used before any tenant is known", "migration_pkc": "the schema's version",
            "rate_bucket_pkey": "failed logins are counted before any tenant is known",
            "bus_pkey": "one row for the installation",
        },
    ),
    "policies that show app roles everything": (
        """SELECT tablename || '.' || policyname FROM pg_policies WHERE schemaname = 'public' AND permissive = 'PERMISSIVE'
             AND (qual = 'true' OR with_check = 'true' OR qual ~* '\\mor\\M') AND roles <> '{mission_root_owner}'""",
        {},
    ),
    "roles that own, inherit, bypass, belong to others or are super": (
        """SELECT rolname || ' ' || why FROM pg_roles r CROSS JOIN LATERAL (VALUES
               ('inherits', rolinherit), ('bypasses', rolbypassrls), ('super', rolsuper), ('makes roles', rolcreaterole),
               ('makes databases', rolcreatedb), ('replicates', rolreplication), ('logs in as owner', rolcanlogin AND rolname ~ '_owner$'),
               ('belongs', EXISTS (SELECT 1 FROM pg_auth_members m WHERE m.member = r.oid)),
               ('owns', rolname !~ '_owner$' AND EXISTS (SELECT 1 FROM pg_shdepend d WHERE d.refobjid = r.oid AND d.deptype = 'o'
                         AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))),
               ('is lent out', rolname !~ '_owner$' AND EXISTS (SELECT 1 FROM pg_auth_members m WHERE m.roleid = r.oid))) x (why, does)
           WHERE rolname LIKE 'mission\\_root\\_%' AND does""",
        {},
    ),
    "privileges that new things are born with": ("SELECT defaclobjtype::text FROM pg_default_acl", {}),
    "definer functions that change who they run for": (
        f"SELECT p.proname FROM {OURS} WHERE p.prosecdef AND array_to_string(p.proconfig, ',') ~ '(row_security|role|app\\.)'", {},
    ),
    "rewrite rules beside those of views": (
        f"""SELECT w.rulename FROM pg_rewrite w JOIN {RELATIONS} ON c.oid = w.ev_class WHERE {PUBLIC} AND w.rulename <> '_RETURN'""", {},
    ),
    "ways out of the database": (
        """SELECT 'publication ' || pubname FROM pg_publication UNION ALL SELECT 'server ' || srvname FROM pg_foreign_server
           UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
           UNION ALL SELECT 'language ' || lanname FROM pg_language WHERE lanname NOT IN ('internal', 'c', 'sql', 'plpgsql')
           UNION ALL SELECT 'extension ' || extname FROM pg_extension""",
        {
            "extension plpgsql": "what triggers are written in", "extension pg_trgm": "the search",
            "extension unaccent": "the search",
        },
    ),
    "triggers that can be switched off by a session": (
        """SELECT tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
           WHERE NOT tgisinternal AND c.relnamespace = 'public'::regnamespace AND tgenabled <> 'A'""",
        {"passage_counted": "keeps a statistic of the search, guards nothing", "passage_uncounted": "likewise"},
    ),
}  # fmt: skip


async def broken(connection: asyncpg.Connection, prefix: str) -> list[str]:
    """What breaks a rule in the database at hand, as `rule: name`. prefix: of the installation's roles."""
    found = []
    for rule, (query, exceptions) in RULES.items():
        allowed = {one.replace("mission_root", prefix) for one in exceptions}
        escaped = query.replace("mission\\_root", prefix.replace("_", "\\_")).replace("mission_root", prefix)
        found += [f"{rule}: {name}" for (name,) in await connection.fetch(escaped) if name not in allowed]
    return found
