"""The catalog linter: every rule finds nothing, but for exceptions that are named and have a reason."""

import pytest

from app.operations.catalog import RULES
from tests.walls.ground import Ground


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
