"""The catalog linter: every rule finds nothing, but for exceptions that are named and have a reason."""

import pytest

from tests.walls.ground import Ground

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
            "console_link.lookup SELECT mission_root_owner": "link_of(), before any tenant is known",
            "work.walled_in INSERT mission_root_api,mission_root_worker": "restrictive: the executor's work is the wall's to add",
            "work.walled_up UPDATE mission_root_api,mission_root_worker": "restrictive: and to change",
            "work.walled_out DELETE mission_root_api,mission_root_worker": "restrictive: and to end",
            "work.anchors_in INSERT mission_root_api": "restrictive: when to anchor is the worker's to say",
            "work.anchors_up UPDATE mission_root_api": "restrictive: and to put off",
            "work.anchors_out DELETE mission_root_api": "restrictive: and to end",
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
            "console_link.session": "null until it is used; a check ties it to when",
            "approver_key.confirmed_by": "null until a second person confirms; a check ties it to when",
            "approver_key.revoked_by": "null while it lives; a check ties it to when",
            "writeback.predecessor": "a first proposal has none",
            "approval.writeback": "null for a question about a mission; a check ties it to the subject",
            "approval.glass_broken_by": "the glass is whole",
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
            "tenant_operator": "the installation has one operator's tenant",
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


@pytest.mark.parametrize("rule", RULES)
async def test_the_catalog_keeps_the_rule(ground: Ground, rule: str) -> None:
    query, exceptions = RULES[rule]
    found = {name for (name,) in await ground.run("admin", query)}
    assert found == set(exceptions), (
        f"{rule}: new {found - set(exceptions)}, no longer needed {set(exceptions) - found}"
    )


# What breaks each rule, and the name it is then found by: a rule that finds nothing whatever happens proves nothing.
TABLE = "CREATE TABLE planted (tenant uuid NOT NULL, id uuid)"
PLANTS: dict[str, tuple[str, ...]] = {
    "tables without enabled and forced row security": (TABLE, "ALTER TABLE ledger NO FORCE ROW LEVEL SECURITY"),
    "tables without a tenant": ("CREATE TABLE planted (id uuid)", "ALTER TABLE passage_term RENAME tenant TO whose"),
    "tables whose policy is not the tenant's": (
        "DROP POLICY own_tenant ON ledger", "ALTER POLICY own_tenant ON ledger USING (true)",
        "ALTER POLICY own_tenant ON ledger WITH CHECK (true)", "ALTER POLICY own_tenant ON ledger TO mission_root_api",
    ),
    "further policies": ("CREATE POLICY planted ON ledger USING (true)",),
    "policies that show app roles everything": (
        "CREATE POLICY planted ON ledger FOR SELECT TO mission_root_api USING (true)",
        "CREATE POLICY planted ON ledger FOR INSERT TO mission_root_api WITH CHECK (true)",
        "CREATE POLICY planted ON ledger USING (tenant = current_tenant() OR type = '*')",
    ),
    "views that see with their owner's eyes": (
        "CREATE VIEW planted AS SELECT * FROM ledger", "CREATE MATERIALIZED VIEW planted AS SELECT * FROM ledger",
    ),
    "functions without a fixed search path": (
        "CREATE FUNCTION planted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "ALTER FUNCTION authenticate(bytea) SET search_path = public", "ALTER FUNCTION authenticate(bytea) RESET search_path",
    ),
    "functions that everybody may call": ("GRANT EXECUTE ON FUNCTION authenticate(bytea) TO PUBLIC",),
    "things that the owner role does not own": (
        "ALTER TABLE ledger OWNER TO mission_root_api", "ALTER FUNCTION refuse_change() OWNER TO postgres",
    ),
    "roles that may empty, refer to, hang triggers on or maintain a table": (
        "GRANT TRUNCATE ON ledger TO mission_root_api", "GRANT REFERENCES ON ledger TO mission_root_worker",
        "GRANT TRIGGER ON ledger TO mission_root_registrar",
    ),
    "roles that own, inherit, bypass, belong to others or are super": (
        "ALTER ROLE mission_root_api INHERIT", "ALTER ROLE mission_root_api BYPASSRLS", "ALTER ROLE mission_root_api SUPERUSER",
        "GRANT mission_root_worker TO mission_root_api", "ALTER TABLE ledger OWNER TO mission_root_api",
        "ALTER ROLE mission_root_owner LOGIN", "CREATE ROLE planted IN ROLE mission_root_registrar",
    ),
    "privileges that new things are born with": ("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO mission_root_api",),
    "definer functions that change who they run for": ("ALTER FUNCTION authenticate(bytea) SET row_security = off",),
    "rewrite rules beside those of views": ("CREATE RULE planted AS ON DELETE TO ledger DO INSTEAD NOTHING",),
    "ways out of the database": ("CREATE PUBLICATION planted FOR TABLE ledger",),
    "foreign keys without the tenant": (
        "ALTER TABLE reading ADD planted uuid, ADD CONSTRAINT planted FOREIGN KEY (planted) REFERENCES other_planted (id)",
    ),
    "foreign keys that act by themselves, wait or were never checked": (
        "ALTER TABLE role_grant ADD CONSTRAINT planted FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id) ON DELETE CASCADE",
        "ALTER TABLE role_grant ADD CONSTRAINT planted FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id) NOT VALID",
        "ALTER TABLE role_grant ADD CONSTRAINT planted FOREIGN KEY (tenant, principal) REFERENCES principal (tenant, id) NOT ENFORCED",
    ),
    "foreign keys that a null gets around": ("ALTER TABLE api_key ALTER principal DROP NOT NULL",),
    "uniques without the tenant": ("CREATE UNIQUE INDEX planted ON principal (id)",),
    "triggers that can be switched off by a session": (
        "ALTER TABLE ledger ENABLE TRIGGER ledger_chain", "ALTER TABLE ledger DISABLE TRIGGER ledger_keep",
        "ALTER TABLE ledger ENABLE REPLICA TRIGGER ledger_keep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_can_fail(ground: Ground, rule: str) -> None:
    query, exceptions = RULES[rule]
    assert PLANTS.get(rule), "say in PLANTS what breaks the rule"
    admin = await ground.of("admin")
    for statement in PLANTS[rule]:
        planted = admin.transaction()
        await planted.start()
        try:
            if "other_planted" in statement:
                await admin.execute("CREATE TABLE other_planted (id uuid PRIMARY KEY)")
            await admin.execute(statement)
            found = {name for (name,) in await admin.fetch(query)}
        finally:
            await planted.rollback()
        assert found - set(exceptions), f"{rule}: nothing found after {statement}"
