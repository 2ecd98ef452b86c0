"""The first schema: identity, ledger, work, workspaces, missions, the writeback wall.

Written as SQL, because most of what it promises (roles, policies, triggers, definer functions) is not a table.
"""

from pathlib import Path

from alembic import context, op
from sqlalchemy.util import await_only

revision = "0001"
down_revision = None
oldest = "0001"  # the first code that runs on it

PARTS = Path(__file__).parent.parent / "sql" / "0001"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    driver = op.get_bind().connection.driver_connection
    for part in sorted(PARTS.glob("*.sql")):
        statements = part.read_text().replace("{prefix}", prefix)
        # asyncpg's simple query protocol takes a whole script at once; SQLAlchemy's prepared path does not.
        await_only(driver.execute(statements))
    op.execute(
        "ALTER TABLE migration ADD COLUMN fits text[] NOT NULL DEFAULT '{}'"
    )  # heads of the code that runs on this schema
    op.execute(f'GRANT SELECT ON migration TO "{prefix}_api", "{prefix}_worker", "{prefix}_registrar"')
