"""Calls to the internal API byte by byte, for what an honest client would never send."""

import json
from typing import Any

import httpx

from colony_client import signing, tokens
from colony_client.contract import Dispatch
from tests.world import World


async def call(
    world: World,
    path: str,
    body: bytes,
    token: str | None,
    *,
    keys: signing.Keys | None = None,
    via: httpx.AsyncClient | None = None,
    method: str = "POST",
    **sign: Any,
) -> httpx.Response:
    """A signed call as the colony makes it; keys, time and nonce are those of a colony unless a test says otherwise."""
    headers = signing.sign(keys or world.colony.keys, method, path, body, "root", **sign)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return await (via or world.inside).request(method, path, content=body, headers=headers)


async def send_raw(world: World, dispatch: Dispatch, body: bytes, token: str | None = None) -> httpx.Response:
    """A batch of events as bytes."""
    return await call(world, events_path(dispatch), body, token or dispatch.mission_token)


def events_path(dispatch: Dispatch) -> str:
    return f"/internal/v1/missions/{dispatch.mission_id}/events"


def batch(dispatch: Dispatch, *events: Any, **more: Any) -> bytes:
    """A batch of events that are models or already plain."""
    plain = [one if isinstance(one, dict) else one.model_dump(mode="json") for one in events]
    return json.dumps({"contract_version": "1.0", "attempt": dispatch.attempt, "events": plain} | more).encode()


def token_of(world: World, dispatch: Dispatch, **other: Any) -> str:
    """A token as the root would issue it, different in what a test names."""
    said: dict[str, Any] = {
        "mission": dispatch.mission_id,
        "tenant": dispatch.envelope.tenant_id,
        "attempt": dispatch.attempt,
        "fence": dispatch.attempt,
        "audience": "callback",
    }
    return tokens.issue(other.pop("keys", world.root.signing_keys), **(said | other))
