"""The proxy's own configuration in front of a real root: slow ones are let go, large ones refused, and streams stream."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.embedded import free_port
from tests.conftest import DEMO, Cluster, fresh
from tests.deploy.compose import REPOSITORY
from tests.deploy.test_rolling_update import RootProcess, root

pytestmark = pytest.mark.nginx
TEXT = (REPOSITORY / "deploy" / "proxy" / "nginx.conf").read_text()
# what a test has no time for, and what belongs to the container; everything else is as it is shipped
SHORTER = {
    "client_header_timeout 10s": "client_header_timeout 1s",
    "client_body_timeout 15s": "client_body_timeout 1s",
    "rate=100r/s": "rate=20r/s",
    "burst=400": "burst=20",
    "worker_processes auto": "worker_processes 1",
}


def configuration(folder: Path, port: int, upstream: int) -> str:
    text = TEXT.replace("/tmp/", f"{folder}/").replace("listen 8000", f"listen 127.0.0.1:{port}")
    text = text.replace('"root:8080"', f'"127.0.0.1:{upstream}"')
    for said, shorter in SHORTER.items():
        assert said in text, said
        text = text.replace(said, shorter)
    return text


class Proxy:
    def __init__(self, port: int, key: str) -> None:
        self.port, self.url, self.key = port, f"http://127.0.0.1:{port}", key

    def client(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False)

    async def slowly(self, beginning: bytes) -> tuple[float, bytes]:
        """Sends the beginning of a request and no more; how long it was waited for, and what was answered."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(beginning)
        await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        return time.monotonic() - began, answer


@pytest.fixture
async def behind(cluster: Cluster, demo: dict[str, str]) -> AsyncIterator[RootProcess]:
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_proxy") as database, root(cluster, database) as found:
        yield found


@pytest.fixture
async def proxy(behind: RootProcess, demo: dict[str, str], tmp_path: Path) -> AsyncIterator[Proxy]:
    port, file = free_port(), tmp_path / "nginx.conf"
    for above in (tmp_path, *list(tmp_path.parents)[:3]):  # started by root it works as somebody else
        above.chmod(above.stat().st_mode | 0o055)
    file.write_text(configuration(tmp_path, port, behind.port))
    process = await asyncio.create_subprocess_exec(
        "/usr/sbin/nginx", "-c", str(file), "-g", "daemon off;", stderr=asyncio.subprocess.DEVNULL
    )
    made = Proxy(port, demo["submitter"])
    try:
        async with made.client() as client, asyncio.timeout(20):
            while True:
                try:
                    if (await client.get("/livez")).status_code == 200:
                        break
                except httpx.HTTPError:
                    assert process.returncode is None
                await asyncio.sleep(0.05)
        yield made
    finally:
        process.terminate()
        await process.wait()


async def test_what_the_world_meets(proxy: Proxy) -> None:
    """One instance for all of it: each of these begins and ends by itself."""
    async with proxy.client() as client:
        ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
        made = await client.post("/v1/missions", json=ask)
        assert made.status_code == 202, made.text
        assert "nginx/" not in made.headers.get("server", "")
        assert (await client.get("/metrics")).status_code == 404

        # a stream says its first word while it is open
        path = f"/v1/missions/{made.json()['id']}/events"
        async with client.stream("GET", path, headers={"Accept": "text/event-stream"}) as stream:
            async with asyncio.timeout(10):
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        break

        # slow ones are let go after the second that they have here, and nobody else notices
        slow = [
            asyncio.create_task(proxy.slowly(beginning))
            for beginning in (
                b"GET /v1/missions HTTP/1.1\r\nHost: x\r\nX-A: ",
                b"POST /v1/missions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
            )
        ]
        assert (await client.get("/v1/missions")).status_code == 200
        for waited, answer in await asyncio.gather(*slow):
            assert 0.5 < waited < 5 and (not answer or b" 408 " in answer), (waited, answer)

        # large ones are refused before they are read, long headers too
        waited, answer = await proxy.slowly(
            b"POST /v1/missions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 40000000\r\n\r\n{"
        )
        assert b" 413 " in answer
        assert (await client.get("/v1/missions", headers={"X-A": "a" * 70_000})).status_code == 400

        # more than its share is refused to one address
        answers = await asyncio.gather(*(client.get("/livez") for _ in range(80)))
        codes = [answer.status_code for answer in answers]
        assert 429 in codes and 200 in codes


def test_the_bounds_of_the_proxy_leave_room_for_those_of_the_root() -> None:
    from app.settings import Settings

    said = dict(re.findall(r"^\s*(\w+) (\d+)[sm]?;", TEXT, re.MULTILINE))
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert int(said["client_max_body_size"]) * 1024**2 > defaults["max_document_bytes"]
    assert int(said["proxy_read_timeout"]) > 30  # the longest poll
    assert int(said["client_body_timeout"]) * 1000 <= defaults["body_timeout_ms"]
