"""A listener that can go away and come back on its port, as a service does that is deployed anew."""

import asyncio
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn

from colony_kit.environment import Misuse


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: Ctrl-C is for whoever runs the kit."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a generator there
        return nullcontext()


class Door:
    """Serves an ASGI application on one address while it is open."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        self.app, self.host, self.port = app, host, port
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def open(self) -> None:
        """Raises Misuse when the address is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as failed:
            reason = os.strerror(failed.errno or 0).lower() if (failed.errno or 0) > 0 else str(failed)
            raise Misuse(f"{self.host}:{self.port} cannot be listened on: {reason}.") from failed
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, backlog=512
        )
        self._server = _Server(config)
        self._running = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)

    def cut(self, client: tuple[str, int]) -> None:
        """Breaks off the connection of one client, in the middle of whatever it waits for."""
        for connection in list(self._server.server_state.connections) if self._server else []:
            if getattr(connection, "client", None) == tuple(client) and connection.transport is not None:
                connection.transport.abort()

    async def shut(self) -> None:
        """Nobody listens any more, and what was under way is broken off."""
        if self._server is None or self._running is None:
            return
        self._server.should_exit = self._server.force_exit = True
        for listener in self._server.servers:
            listener.close()
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._running
        self._server = self._running = None
