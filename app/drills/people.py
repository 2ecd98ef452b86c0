"""Who plays in drills: principals of the reserved tenant, whose rights reach nothing else; and how they are made.

Their keys are derived from DRILL_KEY, so that whoever prepares the tenant and whoever runs drills need to agree on nothing else.
"""

from uuid import UUID

from sqlalchemy import text

from app import identity
from app.canonical import sha256
from app.db import Database, WriteSession
from app.drills.catalog import CONNECTOR, TENANT
from app.identity.actions import revoke_key
from colony_client.signing import Keys

SUBMITTER, OPERATOR, KEEPER = "drill submitter", "drill operator", "drill keeper"
# The operator counts as human, because the wall lets nobody else approve; what it can approve is a drill's own.
PEOPLE: dict[str, tuple[str, tuple[str, ...]]] = {
    SUBMITTER: ("service", ("submitter", "product_owner")),
    OPERATOR: ("human", ("operator",)),
    KEEPER: ("human", ("admin",)),  # puts the connector, and has no key afterwards
}
FIND = text("SELECT id FROM principal WHERE tenant = :tenant AND name = :name")
LIVE = text(
    "SELECT id, secret_sha256 FROM api_key WHERE tenant = :tenant AND principal = :principal AND revoked_at IS NULL"
)
PUT = text("SELECT outcome FROM put_connector(:tenant, :secret, :name, NULL, 'drill', '{}')")


def secret_of(keys: Keys, name: str) -> str:
    """The API key of one of the people. Only the first of the keys makes new ones."""
    made = keys.mac(keys.signing_kid, b"mission-root-drill-v1\n" + name.encode()).hex()
    return f"mr_drill{made[:3]}_{made}"


async def prepare(registrar_url: str, keys: Keys) -> bool:
    """Makes the reserved tenant with its people and its connector, or brings their keys up to date. True when it is new."""
    database = Database(registrar_url, pool_size=2, name="mission-root drills")
    try:
        async with database.write() as session:
            tenant = await session.scalar("SELECT drill_tenant()")
            if tenant is None:
                await identity.create_tenant(session, TENANT, drills=True)
            else:
                await session.enter(tenant)
            for name, (kind, roles) in PEOPLE.items():
                principal = await session.scalar(FIND, {"tenant": session.tenant, "name": name})
                if principal is None:
                    principal = await identity.create_principal(session, name, kind)
                    for role in roles:
                        await identity.grant_role(session, principal, role)
                if name != KEEPER:
                    await give(session, principal, secret_of(keys, name))
                elif tenant is None:
                    key = await identity.issue_key(session, principal)
                    put = {"tenant": session.tenant, "secret": key.secret, "name": CONNECTOR}
                    outcome = await session.scalar(PUT, put)
                    assert outcome == "created", outcome
                    await revoke_key(session, key.id)
            return tenant is None
    finally:
        await database.close()


async def give(session: WriteSession, principal: UUID, secret: str) -> None:
    """The principal has this key and no other."""
    digest = sha256(secret.encode())
    live = {
        row.secret_sha256: row.id
        for row in await session.rows(LIVE, {"tenant": session.tenant, "principal": principal})
    }
    for other, key in live.items():
        if other != digest:
            await revoke_key(session, key)
    if digest not in live:
        await identity.issue_key(session, principal, secret=secret)
