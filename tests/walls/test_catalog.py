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
        {"nonce": "used before any tenant is known", "migration": "the schema's version; no tenant's"},
    ),
    "tables without a tenant": (
        f"""SELECT c.relname FROM {RELATIONS} WHERE {PUBLIC} AND c.relkind IN ('r', 'p') AND NOT EXISTS (
              SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant' AND a.attnotnull
                AND a.atttypid = 'uuid'::regtype)""",
        {"tenant": "its id is the tenant", "nonce": "used before any tenant is known", "migration": "the schema's version"},
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
            "ledger.read_all SELECT mission_root_owner": "read_ledger() serves every tenant's readers",
            "mission.lookup SELECT mission_root_owner": "tenant_of_mission(): the colony names a mission without its tenant",
            "work.claims ALL mission_root_owner": "take_work() leases whatever is due, whose ever it is",
            "idempotency.sweep ALL mission_root_owner": "sweep_expired() forgets what is a day old",
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
            "lexeme_query": "likewise",
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
            "writeback.predecessor": "a first proposal has none",
            "approval.writeback": "null for a question about a mission; a check ties it to the subject",
            "approval.question_sha256": "null for a writeback; a check ties it to the subject",
            "policy_decision.mission": "null when the decision was that there shall be no mission",
        },
    ),
    "uniques without the tenant": (
        f"""SELECT c.relname FROM pg_index i JOIN {RELATIONS} ON c.oid = i.indexrelid WHERE {PUBLIC} AND i.indisunique AND NOT EXISTS (
              SELECT 1 FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = 'tenant')""",
        {
            "tenant_pkey": "its id is the tenant", "tenant_name_key": "tenants are told apart by name",
            "api_key_secret": "a secret leads to exactly one key of the installation",
            "mission_id": "the colony names a mission without its tenant",
            "nonce_pkey": "used before any tenant is known", "migration_pkc": "the schema's version",
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
