import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from badly_behaved import BadPeer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def peer() -> Iterator[BadPeer]:
    """A real server in a thread; the first path segment of the base URL chooses how it behaves."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = BadPeer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
    thread.start()
    yield app
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()
