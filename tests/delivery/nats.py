"""A real NATS server that tests kill and start again, and a consumer that reads on whatever happens to it."""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from app.embedded import ends_with_parent

PAGE = Path(__file__).parents[2] / "docs" / "bus.md"
BINARY = Path(sys.executable).parent / "nats-server"
STREAM = "mission_root"


class NatsServer:
    """A server with JetStream over a folder, on a port that stays the same when it is started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.port = folder, options, -1
        self.login = ""
        self.process: asyncio.subprocess.Process | None = None
        self.reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.login}127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            BINARY, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder, *self.options,
            stderr=asyncio.subprocess.PIPE, preexec_fn=ends_with_parent(signal.SIGKILL),
        )  # fmt: skip
        assert self.process.stderr
        said = []
        async with asyncio.timeout(20):
            async for line in self.process.stderr:
                said.append(line.decode())
                if "Listening for client connections on " in said[-1]:
                    self.port = int(said[-1].rpartition(":")[2])
                if "Server is ready" in said[-1]:
                    self.reading = asyncio.create_task(self.read_on())
                    return
        raise AssertionError("".join(said))

    async def read_on(self) -> None:
        assert self.process and self.process.stderr
        async for _ in self.process.stderr:
            pass

    async def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self.reading:
            await self.reading

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def keep(self) -> None:
        """Puts the store aside as it is now; the server has to be down."""
        shutil.copytree(self.folder / "jetstream", self.folder / "aside")

    def go_back(self) -> None:
        """The store is what it was when it was put aside, as after a power cut."""
        shutil.rmtree(self.folder / "jetstream")
        (self.folder / "aside").rename(self.folder / "jetstream")


@asynccontextmanager
async def nats_server(folder: Path, *options: str, login: str = "") -> AsyncIterator[NatsServer]:
    server = NatsServer(folder, *options)
    server.login = login
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def jetstream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = Client()
    await client.connect(server.url, allow_reconnect=False, error_cb=quiet)
    try:
        yield client.jetstream(timeout=5)
    finally:
        await client.close()


async def quiet(_error: Exception) -> None:
    """Servers are killed here on purpose."""


@dataclass(frozen=True)
class Got:
    """A message of the stream."""

    id: str
    subject: str
    payload: bytes


async def stored(server: NatsServer) -> list[Got]:
    """Everything that the stream holds, in its order."""
    async with jetstream(server) as js:
        state = (await js.stream_info(STREAM)).state
        found = [await js.get_msg(STREAM, seq) for seq in range(state.first_seq or 1, state.last_seq + 1)]
    return [Got((one.headers or {})["Nats-Msg-Id"], one.subject or "", one.data or b"") for one in found]


class Consumer:
    """The consumer that docs/bus.md prints, as it stands there, started again when it ends: each subject's facts once and in order,
    whatever fault the server has. root, keys: where it reads what the stream no longer has."""

    def __init__(self, server: NatsServer, root: str, keys: Mapping[str, str]) -> None:
        self.server = server
        self.got: list[Got] = []
        self.ids: set[str] = set()
        self.at: dict[str, int] = {}
        self.more = asyncio.Condition()
        self.names: dict[str, Any] = {"reached": self.reached, "handle": self.handle, "keys": keys}
        exec(printed(server.url, root), self.names)

    def reached(self, subject: str) -> int:
        return self.at.get(subject, 0)

    def handle(self, subject: str, fact: dict[str, Any]) -> None:
        self.at[subject] = fact["seq"]
        self.ids.add(fact["id"])
        self.got.append(Got(fact["id"], subject, json.dumps(fact, separators=(",", ":")).encode()))
        self.telling = asyncio.ensure_future(self.tell())

    async def tell(self) -> None:
        async with self.more:
            self.more.notify_all()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                await self.names["main"]()
            await asyncio.sleep(0.2)  # it is away: come back

    async def until(self, enough: Any, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds), self.more:
            await self.more.wait_for(enough)


def printed(bus: str, root: str) -> str:
    """The lines of the page, with places and pauses of a test."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for said, instead in (
        ('"nats://bus.internal:4222"', f"{bus!r}, allow_reconnect=False, error_cb=quiet"),
        ("https://root.internal", root),
        ("timeout=30", "timeout=2"),
        ("delay=1", "delay=0.05"),
        ("asyncio.run(main())", "async def quiet(_): ..."),
    ):
        assert code.count(said) == 1, said
        code = code.replace(said, instead)
    return code


@asynccontextmanager
async def consuming(
    server: NatsServer, root: str = "http://127.0.0.1:9", keys: Mapping[str, str] | None = None
) -> AsyncIterator[Consumer]:
    consumer = Consumer(server, root, keys or {})
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stream_is_there(js: JetStreamContext) -> bool:
    try:
        await js.stream_info(STREAM)
    except NotFoundError:
        return False
    return True


def certified(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A certificate for 127.0.0.1 that vouches for itself, and the server's options to use it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bus")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "bus.pem", folder / "bus.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, ("--tls", "--tlscert", str(certificate), "--tlskey", str(secret))


def operated(folder: Path) -> tuple[str, tuple[str, ...]]:
    """A credentials file's text, and the options of a server that believes its operator, as NATS's own tools would make them."""

    def pair(prefix: int) -> Any:
        return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))

    def part(said: Any) -> str:
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def token(issuer: Any, of: Any, name: str, claims: dict[str, Any]) -> str:
        who = {"iss": issuer.public_key.decode(), "sub": of.public_key.decode(), "name": name, "jti": name.upper()}
        body = who | {"iat": int(time.time()), "nats": claims | {"version": 2}}
        said = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(body)}"
        return f"{said}.{part(bytes(issuer.sign(said.encode())))}"

    operator, user = pair(nkeys.PREFIX_BYTE_OPERATOR), pair(nkeys.PREFIX_BYTE_USER)
    system, account = pair(nkeys.PREFIX_BYTE_ACCOUNT), pair(nkeys.PREFIX_BYTE_ACCOUNT)
    counts = (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    )
    endless = dict.fromkeys(counts, -1) | {"wildcards": True}
    (folder / "nats.conf").write_text(f"""
operator: "{token(operator, operator, "operator", {"type": "operator"})}"
system_account: {system.public_key.decode()}
resolver: MEMORY
resolver_preload: {{
  {system.public_key.decode()}: "{token(operator, system, "system", {"type": "account"})}"
  {account.public_key.decode()}: "{token(operator, account, "account", {"type": "account", "limits": endless})}"
}}
""")
    allowed = {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
    return (
        f"-----BEGIN NATS USER JWT-----\n{token(account, user, 'root', allowed)}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n",
        ("-c", str(folder / "nats.conf")),
    )
