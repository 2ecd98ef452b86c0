"""The people of a fresh local instance: one principal per role, so that every screen and command can be tried."""

from sqlalchemy import text

from app.db import Database
from app.identity.actions import create_principal, create_tenant, enter_tenant, grant_role, issue_key

DEMO_TENANT = "demo"
# Its business system: the sample CRM of the deployment, at CRM_BASE_URL. Put by its admin, as every connector is.
DEMO_CONNECTOR = text("SELECT outcome FROM put_connector(:tenant, :secret, 'sample_crm', NULL, 'sample_crm', '{}')")
DEMO_PRINCIPALS: dict[str, tuple[str, tuple[str, ...]]] = {
    "submitter": ("service", ("submitter",)),
    "operator": ("human", ("operator",)),
    "second_operator": ("human", ("operator",)),
    "auditor": ("human", ("auditor",)),
    "policy_owner": ("human", ("policy_owner",)),
    "release_owner": ("human", ("release_owner",)),
    "product_owner": ("human", ("product_owner",)),
    "admin": ("human", ("admin",)),
}


async def seed_demo(registrar_url: str, keys: dict[str, str] | None = None) -> dict[str, str]:
    """Makes tenant `demo` with DEMO_PRINCIPALS and one key each, unless it exists. Answers the keys by name.

    keys are those of an earlier run; when the tenant exists they are answered as they are.
    """
    database = Database(registrar_url, pool_size=2, name="mission-root seed")
    try:
        async with database.write() as session:
            if await enter_tenant(session, DEMO_TENANT) is not None:
                return dict(keys or {})
            await create_tenant(
                session, DEMO_TENANT, operator=True
            )  # its admins look after the tenants of this instance
            issued: dict[str, str] = {}
            for name, (kind, roles) in DEMO_PRINCIPALS.items():
                principal = await create_principal(session, name, kind)
                for role in roles:
                    await grant_role(session, principal, role)
                issued[name] = (await issue_key(session, principal, secret=(keys or {}).get(name))).secret
            put = await session.scalar(DEMO_CONNECTOR, {"tenant": session.tenant, "secret": issued["admin"]})
            assert put == "created", put
            return issued
    finally:
        await database.close()
