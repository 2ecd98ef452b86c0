"""Somebody else's server: the reference server of the protocol, from npm, as a program of the deployment and over HTTP."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.tools.servers import StdioServer
from bench.peers.base import Unavailable, npm_folder
from tests.tools.odd_server import Odd
from tests.tools.registered import ask, definition, entry, mission_with, put, shown
from tests.world import World
from tests.world.checks import problem

PACKAGE = "@modelcontextprotocol/server-everything@2026.8.31"
TOOLS = (
    entry("echo"), entry("sum", server_name="get-sum"), entry("image", server_name="get-tiny-image"),
    entry("weather", server_name="get-structured-content"), entry("env", server_name="get-env"),
    entry("resource", server_name="get-resource-reference"), entry("long", server_name="trigger-long-running-operation"),
)  # fmt: skip

pytestmark = [pytest.mark.node, pytest.mark.xdist_group("node")]


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        folder = npm_folder("mcp-everything", PACKAGE)
    except Unavailable as lacking:
        pytest.skip(f"needs node: {lacking}")
    return folder / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"


@contextlib.asynccontextmanager
async def over_http(program: Path) -> AsyncIterator[Odd]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node", str(program), "streamableHttp", env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    there = Odd()
    there.url = f"http://127.0.0.1:{port}/mcp"
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(there.url)
                    break
                await asyncio.sleep(0.05)
        yield there
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_reference_server_is_registered_and_asked(world: World, program: Path, transport: str) -> None:
    world.root.tools.servers["odd"] = StdioServer(
        command=shutil.which("node") or "node", arguments=[str(program), "stdio"], environment={"TOLD": "yes"}
    )
    async with over_http(program) if transport == "http" else contextlib.nullcontext() as there:
        made = await put(world, "every", definition(there, *TOOLS))
        assert made.status_code == 201, made.text
        life = await mission_with(world, *(f"every.{one['name']}" for one in TOOLS))

        async def said(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = await ask(world, life.dispatch, f"every.{tool}", arguments)
            assert answer.status_code == 200, answer.text
            result: dict[str, Any] = answer.json()["result"]
            return result

        assert (await said("echo", message="größe"))["text"] == "Echo: größe"
        assert "5" in (await said("sum", a=2, b=3))["text"]
        wrong = problem(await ask(world, life.dispatch, "every.sum", {"a": "two", "b": 3}), "validation")
        assert wrong["errors"][0]["pointer"] == "/arguments/a"
        image = await said("image")
        assert image["text"] and image["left_out"][0]["mime_type"] == "image/png"
        weather = await said("weather", location="Chicago")
        assert set(weather["structured"]) >= {"temperature", "conditions"}
        assert "esource" in (await said("resource", resourceType="Text", resourceId=1))["text"]
        told = json.loads((await said("env"))["text"])
        assert not any("DATABASE" in name or "KEY" in name or name == "HOME" for name in told)
        assert transport == "http" or told["TOLD"] == "yes"
        slow = await ask(world, life.dispatch, "every.long", {"duration": 30, "steps": 10})
        assert problem(slow, "upstream_unavailable")["cause"] == "tool_timed_out"
        checked = (await world.operator.post("/v1/tool-layers/every/check")).json()
        assert checked["ok"] and "trigger-sampling-request" not in checked["offered"], "we offer no sampling"
        await world.root.tools.tell()
        assert (await shown(world, "every"))["calls"] == 7
