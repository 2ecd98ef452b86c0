"""Registering layers in tests, and calling their tools as a colony does."""

import json
from typing import Any

import httpx

from colony_client.contract import Dispatch
from tests.boundary.calls import call
from tests.tools.odd_server import Odd
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, under_way


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "access": "read", "reach": "internal", "sensitivity": "restricted"} | more


def definition(odd: Odd | None, *tools: dict[str, Any] | str, **more: Any) -> dict[str, Any]:
    """A layer of the odd server's tools; over stdio when there is no HTTP."""
    where = {"transport": "stdio", "server": "odd"} if odd is None else {"transport": "streamable_http", "url": odd.url}
    listed = [entry(one) if isinstance(one, str) else one for one in tools or ("echo", "add")]
    return {"kind": "mcp", "owner": "The tests", **where, "timeout_s": 5.0, "tools": listed} | more


async def put(world: World, name: str, body: Any, seen: str = "", who: str = "admin", **more: Any) -> httpx.Response:
    headers = {"If-Match": seen} if seen else {}
    return await world.people[who].http.put(f"/v1/tool-layers/{name}", json=body, headers=headers, **more)


async def register(world: World, odd: Odd | None, *tools: dict[str, Any] | str, name: str = "odd", **more: Any) -> Any:
    answer = await put(world, name, definition(odd, *tools, **more))
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(world: World, name: str = "odd", who: str = "auditor") -> dict[str, Any]:
    answer = await world.people[who].http.get(f"/v1/tool-layers/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def mission_with(world: World, *tools: str, **ask: Any) -> Life:
    """A mission under way that may use these tools."""
    return await under_way(world, tools=list(tools), **ask)


async def ask(world: World, dispatch: Dispatch, tool: str, arguments: Any = None, **more: Any) -> httpx.Response:
    """A call of a tool, as the colony makes it."""
    body = json.dumps({"arguments": arguments or {}} | more).encode()
    path = f"/internal/v1/missions/{dispatch.mission_id}/tools/{tool}/calls"
    return await call(world, path, body, dispatch.mission_token)


async def plant(world: World, name: str, *tools: dict[str, Any]) -> None:
    """A layer whose server nobody asks: as if it had been registered once."""
    body = {"owner": "The tests", "transport": "stdio", "server": "nobody", "tools": list(tools), "server_name": None}
    body["pinned"] = {
        one["name"]: {"input_schema": {"type": "object"}, "schema_sha256": "0" * 64, "description": "-"}
        for one in tools
    }
    connection = await inspector(world)
    tenant = await connection.fetchval("SELECT id FROM tenant WHERE name = 'demo'")
    person = await connection.fetchval("SELECT id FROM principal WHERE tenant = $1 AND name = 'admin'", tenant)
    await connection.execute(
        """INSERT INTO tool_layer (tenant, name, version, kind, definition, account, created_by)
           VALUES ($1, $2, 1, 'mcp', $3, 'TOOL_DEMO__' || upper($2), $4)""",
        tenant, name, json.dumps(body), person,
    )  # fmt: skip
