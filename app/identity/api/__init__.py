"""Identity over HTTP. The registrar serves these routes; the public API documents them and hands their requests on."""

from fastapi import APIRouter

from app.identity.api import grants, keys, principals, sessions, tenants

router = APIRouter()
for one in (tenants, principals, grants, keys, sessions):
    router.include_router(one.router)

# What the public API hands on to the registrar: these paths and everything below them.
PATHS = ("/v1/tenants", "/v1/principals", "/v1/api-keys", "/v1/sessions", "/v1/whoami")

__all__ = ["PATHS", "router"]
