"""Calls to addresses that others chose: what is refused, that the judged address is the called one, and that the rest works."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app import outbound
from app.outbound import Forbidden, TooLarge, allowed_hosts, public, unfit

NOTHING: frozenset[str] = frozenset()


@asynccontextmanager
async def server(answer: bytes = b"", tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A peer on 127.0.0.1 that answers every request alike; gives its port and the heads it has seen."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer or b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1], seen
    finally:
        listening.close()


def resolver(*answers: list[str]) -> tuple[Callable[[str, int], Any], list[str]]:
    """A resolver that gives one answer after another, the last one for ever; and the names it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


class Connections(httpcore.AsyncNetworkBackend):
    """Records where a connection would go, and makes none."""

    def __init__(self) -> None:
        self.to: list[str] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.to.append(host)
        raise httpcore.ConnectError("nowhere")


def client(allowed: str = "", *, any_public: bool = False, **more: Any) -> httpx.AsyncClient:
    values = {"timeout_s": 2, "connect_s": 1, "max_bytes": 1000} | more
    return outbound.client(allowed=allowed_hosts(allowed), any_public=any_public, **values)  # type: ignore[arg-type]


def watched(one: httpx.AsyncClient) -> Connections:
    made = Connections()
    one._transport.backend.inner = made  # type: ignore[attr-defined]
    return made


# --- addresses

SPECIAL = (
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3",
    "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "fec0::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::127.0.0.1", "::7f00:1",
    "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::",
    "2001::1", "100::1", "5f00::1",
)  # fmt: skip


# Special by the registries of today, or to one big cloud, and to no standard library of yesterday.
LATER = [
    "3fff::1",
    "5f00::1",
    "64:ff9b:1::7f00:1",
    "192.0.0.8",
    "192.88.99.1",
    "168.63.129.16",
    "2a00::5efe:10.0.0.1",
    "fec0::1",
]


@pytest.mark.parametrize("address", [*SPECIAL, *LATER])
def test_no_special_address_counts_as_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_of_the_open_internet_do(address: str) -> None:
    assert public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./",
        "http://localhost./", "http://0/", "https://[::1%25lo]/", "https://[fe80::1%eth0]/", "https://[::ffff:127.0.0.1]/",
        "https://１２７.0.0.1/", "https://127。0。0。1/", "https://ⓛocalhost/", "https://exämple.com/", "https://example.com\\@127.0.0.1/",
        "https://user@example.com/", "https://user:password@example.com/", "https://:password@example.com/",
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "unix:///run/x.sock", "javascript:alert(1)", "//example.com/",
        "https:///path", "https://", "https://example.com:0/", "https://example.com:65536/", "https://example.com:x/",
        "https://exa mple.com/", "https://example.com/\r\nX: y", "https://example.com/\x00", "https://example..com/", "https://-/%00",
        "https://169.254.169.254/latest/meta-data/", "https://10.0.0.1/", "https://[::]/", "http://example.com/",
    ],
)  # fmt: skip
async def test_no_unfit_url_is_called(url: str) -> None:
    resolve, asked = resolver(["127.0.0.1"])
    assert unfit(url, NOTHING) is not None
    async with client(any_public=True, resolve=resolve) as one:
        to = watched(one)
        with pytest.raises((httpx.HTTPError, httpx.InvalidURL)):
            await one.get(url)
    assert to.to == [] and asked == []


@pytest.mark.parametrize("entry", ["http://a", "a/b", "user@a", "a:x", "a:70000", "a b", "127.1", "*", "a..b"])
def test_an_unfit_list_of_hosts_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValueError, match="OUTBOUND_ALLOWED_HOSTS"):
        allowed_hosts(f"good.example,{entry}")


def test_even_an_empty_user_name_is_refused() -> None:
    assert unfit("https://@example.com/", NOTHING) is not None


def test_listed_hosts_are_by_port_unless_none_is_named() -> None:
    allowed = allowed_hosts(" CRM.example:8443 , 127.0.0.1:80,[::1]:81, any.example")
    for url in (
        "https://crm.example:8443/",
        "https://CRM.EXAMPLE:8443/",
        "http://127.0.0.1/",
        "http://[::1]:81/x",
        "http://any.example:9/",
    ):
        assert unfit(url, allowed, any_public=False) is None, url
    for url in (
        "https://crm.example/",
        "http://127.0.0.1:81/",
        "https://other.example:8443/",
        "http://[::1]/",
        "https://8.8.8.8/",
    ):
        assert unfit(url, allowed, any_public=False) is not None, url


# --- names


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:169.254.169.254"], ["2606:4700::1", "fe80::1%1"]]
)
async def test_a_name_that_leads_to_any_special_address_is_not_called(answer: list[str]) -> None:
    resolve, asked = resolver(answer)
    async with client(any_public=True, resolve=resolve) as one:
        to = watched(one)
        with pytest.raises(Forbidden):
            await one.get("https://evil.example/")
    assert to.to == [] and asked == ["evil.example"]


async def test_a_name_that_is_public_first_and_private_next_is_called_where_it_was_judged() -> None:
    resolve, asked = resolver(["8.8.8.8"], ["127.0.0.1"])
    async with client(any_public=True, resolve=resolve) as one:
        to = watched(one)
        with pytest.raises(httpx.ConnectError):
            await one.get("https://rebinding.example/")
        assert (to.to, asked) == (["8.8.8.8"], ["rebinding.example"])  # resolved once, and connected to that
        with pytest.raises(Forbidden):
            await one.get("https://rebinding.example/")
    assert to.to == ["8.8.8.8"]


async def test_only_listed_hosts_are_resolved_at_all_where_the_public_is_not_meant() -> None:
    resolve, asked = resolver(["8.8.8.8"])
    async with client("crm.example:443", resolve=resolve) as one:
        to = watched(one)
        for url in ("https://other.example/", "https://crm.example:444/", "https://8.8.8.8/"):
            with pytest.raises(Forbidden):
                await one.get(url)
        assert (to.to, asked) == ([], [])
        with pytest.raises(httpx.ConnectError):
            await one.get("https://crm.example/")
    assert (to.to, asked) == (["8.8.8.8"], ["crm.example"])


@pytest.mark.parametrize("failure", [OSError("no such name"), UnicodeError("label too long")])
async def test_a_name_without_an_address_is_a_connection_that_failed(failure: Exception) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise failure

    async with client(any_public=True, resolve=resolve) as one:
        with pytest.raises(httpx.ConnectError):
            await one.get("https://nothing.example/")


async def test_a_resolver_that_hangs_is_given_up() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with client(any_public=True, resolve=resolve, connect_s=0.05) as one:
        with pytest.raises(httpx.ConnectTimeout):
            await one.get("https://slow.example/")


async def test_the_transport_connects_through_the_judging_backend_and_nothing_else() -> None:
    async with client() as one:
        transport: Any = one._transport
        assert transport._pool.backend is transport.backend
        assert one._mounts == {} and one.follow_redirects is False and one.trust_env is False
        with pytest.raises(Forbidden):
            await transport.backend.connect_unix_socket("/run/x.sock")


# --- real servers


async def test_a_listed_name_is_called_at_the_address_it_has_with_its_own_name() -> None:
    async with server() as (port, seen):
        resolve, _ = resolver(["127.0.0.1"])
        async with client(f"crm.example:{port}", resolve=resolve) as one:
            answer = await one.get(f"http://crm.example:{port}/a?b=c")
        assert answer.text == "ok"
        assert seen[0].startswith(b"GET /a?b=c HTTP/1.1\r\n") and f"Host: crm.example:{port}".encode() in seen[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    where = b"http://169.254.169.254/latest/meta-data/"
    async with server(b"HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, where)) as (port, seen):
        async with client(f"127.0.0.1:{port}") as one:
            answer = await one.get(f"http://127.0.0.1:{port}/")
        assert answer.status_code == status and len(seen) == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server() as (port, seen), server() as (proxy, theirs):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        async with client(f"127.0.0.1:{port}") as one:
            await one.get(f"http://127.0.0.1:{port}/")
        assert (len(seen), theirs) == (1, [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx",
    ],
)
async def test_a_large_or_compressed_answer_is_cut_off(answer: bytes) -> None:
    async with server(answer) as (port, _), client(f"127.0.0.1:{port}") as one:
        with pytest.raises(TooLarge):
            await one.get(f"http://127.0.0.1:{port}/")


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    async with (
        server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n") as (port, _),
        client(f"127.0.0.1:{port}", timeout_s=0.1) as one,
    ):
        with pytest.raises(httpx.ReadTimeout):
            await one.get(f"http://127.0.0.1:{port}/")


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for a name, with its key, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(("name", "trusted"), [("crm.example", True), ("127.0.0.1", False), ("other.example", False)])
async def test_the_certificate_must_be_the_names_whatever_the_address_is(
    tmp_path: Path, name: str, trusted: bool
) -> None:
    file = certificate(tmp_path, name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    asked_for: list[str | None] = []
    serving.sni_callback = lambda _socket, server_name, _context: asked_for.append(server_name)
    trusting = ssl.create_default_context(cafile=str(file))
    resolve, _ = resolver(["127.0.0.1"])
    async with (
        server(tls=serving) as (port, seen),
        client(f"crm.example:{port}", resolve=resolve, verify=trusting) as one,
    ):
        if trusted:
            assert (await one.get(f"https://crm.example:{port}/")).text == "ok"
        else:
            with pytest.raises(httpx.ConnectError):
                await one.get(f"https://crm.example:{port}/")
            assert seen == []
        assert asked_for == ["crm.example"]


async def test_an_unknown_authority_is_not_believed(tmp_path: Path) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate(tmp_path, "crm.example"))
    resolve, _ = resolver(["127.0.0.1"])
    async with server(tls=serving) as (port, seen), client(f"crm.example:{port}", resolve=resolve) as one:
        with pytest.raises(httpx.ConnectError):
            await one.get(f"https://crm.example:{port}/")
    assert seen == []


# --- connections that are kept


class Peer:
    """A server that counts its connections and answers when it is told to, or at once."""

    def __init__(self) -> None:
        self.made = self.open = 0
        self.asked, self.go = asyncio.Semaphore(0), asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.go.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made, self.open = self.made + 1, self.open + 1
        self.writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.release()
                await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            self.open -= 1
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        listening = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()

    async def heard(self) -> None:
        async with asyncio.timeout(5):
            await self.asked.acquire()

    async def has_open(self, number: int) -> None:
        async with asyncio.timeout(5):
            while self.open != number:
                await asyncio.sleep(0.005)


async def test_a_connection_is_used_again_until_the_other_side_closes_it() -> None:
    peer = Peer()
    async with peer.listening() as port, client(f"127.0.0.1:{port}") as one:
        for _ in range(3):
            assert (await one.get(f"http://127.0.0.1:{port}/")).text == "ok"
        assert peer.made == 1
        peer.writers[0].close()
        await peer.writers[0].wait_closed()
        assert (await one.get(f"http://127.0.0.1:{port}/")).text == "ok"
        assert peer.made == 2


async def test_a_connection_belongs_to_a_name_and_not_to_the_address_that_it_shares() -> None:
    peer = Peer()
    resolve, asked = resolver(["127.0.0.1"])
    async with peer.listening() as port, client(f"a.example:{port},b.example:{port}", resolve=resolve) as one:
        for name in ("a", "b", "a", "b"):
            await one.get(f"http://{name}.example:{port}/")
        assert (peer.made, asked) == (2, ["a.example", "b.example"])


@pytest.mark.parametrize("idle", [0, 1, 2])
async def test_so_many_connections_are_kept_and_no_more(idle: int) -> None:
    peer = Peer()
    async with peer.listening() as port:
        async with client(f"127.0.0.1:{port}", idle=idle) as one:
            peer.go.clear()
            calls = [asyncio.create_task(one.get(f"http://127.0.0.1:{port}/")) for _ in range(3)]
            for _ in calls:
                await peer.heard()
            assert peer.made == 3
            peer.go.set()
            await asyncio.gather(*calls)
            await peer.has_open(idle)
        await peer.has_open(0)


async def test_a_kept_connection_is_not_used_after_its_time() -> None:
    peer = Peer()
    async with peer.listening() as port, client(f"127.0.0.1:{port}") as one:
        one._transport._pool.idle_s = 0.0  # type: ignore[attr-defined]
        await one.get(f"http://127.0.0.1:{port}/")
        await one.get(f"http://127.0.0.1:{port}/")
        assert peer.made == 2
        await peer.has_open(1)


async def test_who_finds_no_free_connection_waits_for_one_and_gives_up_in_time() -> None:
    peer = Peer()
    async with peer.listening() as port, client(f"127.0.0.1:{port}") as one:
        url = f"http://127.0.0.1:{port}/"
        peer.go.clear()
        first = [asyncio.create_task(one.get(url)) for _ in range(64)]
        for _ in first:
            await peer.heard()
        with pytest.raises(httpx.PoolTimeout):
            await one.get(url, timeout=httpx.Timeout(2, pool=0.01))
        waiting = asyncio.create_task(one.get(url))
        peer.go.set()
        assert {answer.text for answer in await asyncio.gather(*first, waiting)} == {"ok"}
        assert peer.made == 64


async def test_whoever_is_cancelled_leaves_no_connection_behind_and_takes_nobodys_place() -> None:
    peer = Peer()
    async with peer.listening() as port, client(f"127.0.0.1:{port}") as one:
        peer.go.clear()
        for _ in range(70):
            call = asyncio.create_task(one.get(f"http://127.0.0.1:{port}/"))
            await peer.heard()
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
        peer.go.set()
        await peer.has_open(0)
        assert (await one.get(f"http://127.0.0.1:{port}/")).text == "ok"
        async with one.stream("GET", f"http://127.0.0.1:{port}/"):
            pass  # an answer that nobody reads: its connection is of no further use
        await peer.has_open(0)


async def test_a_connection_that_cannot_be_made_is_not_kept() -> None:
    async with server() as (port, _):
        pass
    async with client(f"127.0.0.1:{port}") as one:
        for _ in range(70):
            with pytest.raises(httpx.ConnectError):
                await one.get(f"http://127.0.0.1:{port}/")
        assert one._transport._pool.kept == []  # type: ignore[attr-defined]


# --- the way without a client


def straight(allowed: str = "", *, any_public: bool = False, **more: Any) -> outbound.Straight:
    values = {"timeout_s": 2, "connect_s": 1, "max_bytes": 1000, "headers": {"X-Key": "word-of-the-root"}, "idle": 5}
    return outbound.straight(allowed=allowed_hosts(allowed), any_public=any_public, **values | more)  # type: ignore[arg-type]


async def test_the_straight_way_says_what_a_client_would_and_keeps_no_cookie() -> None:
    said = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok"
    async with server(said) as (port, seen):
        way = straight(f"127.0.0.1:{port}")
        for _ in range(2):
            answer = await way.ask("POST", f"http://127.0.0.1:{port}/a?b=c", b"", [(b"Content-Type", b"text/x")])
            assert (await answer.aread(), answer.status_code) == (b"ok", 200)
        await way.aclose()
    for head in seen:
        first, *lines = head.decode().strip().split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
        assert first == "POST /a?b=c HTTP/1.1"
        assert fields == {
            "host": f"127.0.0.1:{port}",
            "accept-encoding": "identity",
            "x-key": "word-of-the-root",
            "content-type": "text/x",
            "content-length": "0",
        }
    assert "word-of-the-root" not in repr(way)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:PORT/", "https://other.example/", "https://169.254.169.254/", "http://other.example/"]
)
async def test_the_straight_way_leads_where_a_client_may_go_and_nowhere_else(url: str) -> None:
    async with server() as (port, seen):
        way = straight("crm.example:443")
        with pytest.raises(Forbidden):
            await way.ask("POST", url.replace("PORT", str(port)), b"", [])
        await way.aclose()
    assert seen == []


async def test_an_answer_on_the_straight_way_is_bounded_and_given_up_in_time() -> None:
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001) as (port, _):
        way = straight(f"127.0.0.1:{port}")
        answer = await way.ask("POST", f"http://127.0.0.1:{port}/", b"", [])
        with pytest.raises(TooLarge):
            await answer.aread()
        await way.aclose()
    peer = Peer()
    peer.go.clear()
    async with peer.listening() as port:
        way = straight(f"127.0.0.1:{port}", timeout_s=0.05)
        with pytest.raises(httpx.ReadTimeout):
            async with asyncio.timeout(5):
                await way.ask("GET", f"http://127.0.0.1:{port}/", b"", [])
        await way.aclose()
        peer.go.set()
        await peer.has_open(0)
