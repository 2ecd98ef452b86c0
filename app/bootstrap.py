"""Roles and extensions, outside the migrations because they belong to the cluster, not to the schema.

Idempotent: running it again sets passwords and limits anew and changes nothing else. One cluster may hold several
installations, so every role carries a prefix.
"""

import asyncpg

from app.db import asyncpg_url

LOGIN_ROLES = ("registrar", "api", "worker", "reader", "executor", "auditor")

# A transaction that is left open freezes every ledger reader of the cluster, so each role is cut off by the server.
LIMITS = {
    "idle_in_transaction_session_timeout": "10s",
    "transaction_timeout": "30s",
    "statement_timeout": "20s",
    "lock_timeout": "5s",
}


async def bootstrap(admin_url: str, prefix: str, passwords: dict[str, str], database: str) -> None:
    """Creates roles {prefix}_owner (no login) and {prefix}_{role} for LOGIN_ROLES with the given passwords.

    admin_url must reach `database` as a role that may create roles and extensions. passwords maps role -> password.
    """
    missing = set(LOGIN_ROLES) - set(passwords)
    if missing:
        raise ValueError(f"no password given for role {', '.join(sorted(missing))}")
    connection = await asyncpg.connect(asyncpg_url(admin_url))
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7041776000)")
            await create_role(connection, f"{prefix}_owner", "NOLOGIN NOINHERIT")
            await connection.execute(f"GRANT {name(prefix + '_owner')} TO CURRENT_USER")
            for role in LOGIN_ROLES:
                await create_login(connection, f"{prefix}_{role}", passwords[role])
            owner, here = name(f"{prefix}_owner"), name(database)
            await connection.execute(f"REVOKE ALL ON DATABASE {here} FROM PUBLIC")
            await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            for role in ("owner", *LOGIN_ROLES):
                await connection.execute(f"GRANT CONNECT ON DATABASE {here} TO {name(f'{prefix}_{role}')}")
                await connection.execute(f"GRANT USAGE ON SCHEMA public TO {name(f'{prefix}_{role}')}")
            await connection.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
            for extension in ("pg_trgm", "unaccent"):
                await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public")
    finally:
        await connection.close()


async def create_role(connection: asyncpg.Connection, role: str, options: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {name(role)} {options}")


async def create_login(connection: asyncpg.Connection, role: str, password: str) -> None:
    await create_role(connection, role, "LOGIN NOINHERIT")
    # DDL takes no parameters: the server quotes the password for us.
    quoted = await connection.fetchval("SELECT quote_literal($1)", password)
    await connection.execute(
        f"ALTER ROLE {name(role)} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD {quoted}"
    )
    # A role may change its own defaults, so a leaked URL could leave some behind.
    await connection.execute(f"ALTER ROLE {name(role)} RESET ALL")
    here = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER ROLE {name(role)} IN DATABASE {name(here)} RESET ALL")
    for setting, value in LIMITS.items():
        await connection.execute(f"ALTER ROLE {name(role)} SET {setting} = '{value}'")


def name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
