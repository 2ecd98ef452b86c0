"""Tenants, principals, roles and API keys: who may act, and the only way to find out who is acting.

Serving processes can only ask `authenticate`; everything that creates or takes away rights runs as role registrar.
"""

from app.identity.actions import (
    NewKey,
    create_principal,
    create_tenant,
    enter_tenant,
    grant_role,
    issue_key,
    revoke_key,
    revoke_role,
)
from app.identity.api import PATHS, router
from app.identity.api.links import PATH as LINK_PATH
from app.identity.api.links import router as links
from app.identity.api.sessions import exchange_here
from app.identity.authenticate import authenticate
from app.identity.exchange import Exchange, through
from app.identity.links import NewLink, make_link
from app.identity.memory import Callers
from app.identity.oidc import Verifier
from app.identity.roles import ACTIONS, ROLES, allow
from app.identity.seed import DEMO_PRINCIPALS, seed_demo

__all__ = [
    "ACTIONS",
    "DEMO_PRINCIPALS",
    "LINK_PATH",
    "PATHS",
    "ROLES",
    "Callers",
    "Exchange",
    "NewKey",
    "NewLink",
    "Verifier",
    "allow",
    "authenticate",
    "create_principal",
    "create_tenant",
    "enter_tenant",
    "exchange_here",
    "grant_role",
    "issue_key",
    "links",
    "make_link",
    "revoke_key",
    "revoke_role",
    "router",
    "seed_demo",
    "through",
]
