"""A root for tests, over real HTTP: verifies signatures, takes events in order, answers tools from memory."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from memory_workspace import MemoryWorkspace, envelope_for

from colony.service import create_app
from colony.settings import Settings
from colony_client.artifacts import Budgets
from colony_client.client import ColonyClient
from colony_client.contract import Dispatch, EventBatch
from colony_client.signing import MemoryNonces, parse_keys, signed_path, verify
from colony_client.wire import read_model

SECRET = "test:" + "s" * 32
KEYS = parse_keys(SECRET, "ROOT_API_KEY")


@dataclass
class FakeRoot:
    """What the root was told, and how it misbehaves."""

    workspace: MemoryWorkspace = field(default_factory=MemoryWorkspace)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    events: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    heartbeats: int = 0
    tool_calls: list[str] = field(default_factory=list)
    traceparents: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    stop: bool = False
    forget_at: int | None = None  # drops everything it holds once this many events were taken: the next batch is a gap
    already: int = 0  # events of an earlier life of the same attempt
    refuse_tools: dict[str, int] = field(default_factory=dict)  # a status for every call of a tool
    refused_with: dict[str, Any] = field(default_factory=dict)  # what those refusals say besides
    refuse_events: int | None = None
    tool_seconds: float = 0.0
    sent: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, mission: Any, attempt: int = 1) -> list[dict[str, Any]]:
        return self.events.get((str(mission), attempt), [])

    def artifacts(self, mission: Any, name: str, attempt: int = 1) -> list[dict[str, Any]]:
        produced = [event["artifact"] for event in self.of(mission, attempt) if event["type"] == "artifact.produced"]
        return [artifact for artifact in produced if artifact["schema_name"] == name]

    def app(self) -> FastAPI:
        app, nonces = FastAPI(), MemoryNonces()

        async def signed(request: Request) -> bytes:
            body = await request.body()
            await verify(
                KEYS, request.method, signed_path(request.scope), body, "root", request.headers, nonces.first_use
            )
            self.traceparents.add(request.headers.get("traceparent", ""))
            self.tokens.add(request.headers["authorization"].removeprefix("Bearer "))
            return body

        @app.post("/internal/v1/missions/{mission}/events")
        async def events(mission: UUID, request: Request) -> JSONResponse:
            return self._take(str(mission), read_model(EventBatch, await signed(request)))

        @app.post("/internal/v1/missions/{mission}/tools/{tool}/calls")
        async def call(mission: UUID, tool: str, request: Request) -> JSONResponse:
            arguments = json.loads(await signed(request))["arguments"]
            self.tool_calls.append(tool)
            await asyncio.sleep(self.tool_seconds)
            if tool in self.refuse_tools:
                return problem(self.refuse_tools[tool], "refused_for_the_test", **self.refused_with)
            result = (
                self._crm(tool, arguments) if tool.startswith("crm.") else await self.workspace.call(tool, arguments)
            )
            return JSONResponse({"result": result})

        return app

    def _take(self, mission: str, batch: EventBatch) -> JSONResponse:
        held = self.events.setdefault((mission, batch.attempt), [{"type": "earlier"}] * self.already)
        if self.refuse_events and not any(event.type == "signal" for event in batch.events):
            return problem(self.refuse_events, "validation")
        if self.forget_at is not None and len(held) >= self.forget_at:
            held.clear()
            self.forget_at = None
        self.heartbeats += not batch.events
        new = [event for event in batch.events if event.seq > len(held)]
        if new and new[0].seq != len(held) + 1:
            return problem(409, "sequence_gap", expected_seq=len(held) + 1)
        held += [event.model_dump(mode="json") for event in new]
        self.sent.set()
        return JSONResponse(
            {
                "accepted_seq": len(held),
                "next_token": f"token-{len(self.tokens)}",
                "lease_until": (datetime.now(UTC) + timedelta(seconds=15)).isoformat(),
                "stop": self.stop,
                "stop_reason": "the test says so" if self.stop else None,
            }
        )

    def _crm(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        rows = [self._row(arguments["kind"], fields) for fields in self.records[arguments["kind"]]]
        if tool == "crm.read":
            return next(row for row in rows if row["record_id"] == arguments["id"])
        first = int(arguments.get("cursor") or 0)
        more = first + 5 < len(rows)
        return {"records": rows[first : first + 5], "next_cursor": str(first + 5) if more else None}

    def _row(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        body = {"kind": kind, "id": fields["id"], "version": "1", "fields": fields}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return {
            "record_id": fields["id"],
            "version": "1",
            "source": hashlib.sha256(text.encode()).hexdigest(),
            "document": f"sample_crm/{kind}/{fields['id']}",
            "text": text,
            "fields": fields,
        }


def problem(status: int, code: str, **more: Any) -> JSONResponse:
    return JSONResponse({"status": status, "code": code, "detail": code, **more}, status)


@asynccontextmanager
async def served(app: FastAPI, port: int = 0) -> AsyncIterator[int]:
    """An application on a port of this machine; stopped without waiting for anybody."""
    door = socket.create_server(("127.0.0.1", port), backlog=64)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[door]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield door.getsockname()[1]
    finally:
        server.should_exit = True
        await running


@dataclass
class House:
    """A fake root and a real colony, both listening."""

    root: FakeRoot
    colony: ColonyClient
    colony_url: str
    root_url: str
    settings: Settings

    def dispatch(self, goal: str, kind: str = "oracle_advisory", attempt: int = 1, **more: Any) -> Dispatch:
        envelope = envelope_for(goal, kind, **more.pop("inputs", {}))
        if mission_id := more.pop("mission_id", None):
            envelope = envelope.model_copy(update={"mission_id": mission_id})
        fields = {
            "callback_base_url": self.root_url,
            "mission_token": "token-of-dispatch",
            "budgets": Budgets(time_ms=60_000, tokens=1000, cost_usd=0),
        }
        return Dispatch(mission_id=envelope.mission_id, attempt=attempt, envelope=envelope, **{**fields, **more})

    async def ended(self, mission: UUID, seconds: float = 10.0) -> str:
        """The state in which the mission ended."""
        async with asyncio.timeout(seconds):
            while (status := await self.colony.status(mission)).state == "running":
                await asyncio.sleep(0.02)
        return status.state


def settings(root_url: str, **more: Any) -> Settings:
    fields: dict[str, Any] = {"port": 1, "root_api_base_url": root_url, "root_api_key": SECRET, **more}
    return Settings(**fields)


@asynccontextmanager
async def house(root: FakeRoot, **more: Any) -> AsyncIterator[House]:
    async with served(root.app()) as root_port:
        root_url = f"http://127.0.0.1:{root_port}"
        chosen = settings(root_url, **more)
        async with served(create_app(chosen)) as port:
            url = f"http://127.0.0.1:{port}"
            async with ColonyClient(url, KEYS) as colony:
                yield House(root, colony, url, root_url, chosen)


async def plain_get(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(url)
