"""Calls to addresses that somebody else chose: webhooks, connectors, identity providers.

A name is resolved once per connection, every address it has is judged, and the connection goes to the very address that
was judged, so that a name that answers differently the next moment gains nothing. Private, local and otherwise special
addresses, and plain http, are refused unless the deployment lists `host:port` in OUTBOUND_ALLOWED_HOSTS. No redirect is
followed, no proxy of the environment is used, and an answer is bounded.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from app.connections import Connections

Resolve = Callable[[str, int], Awaitable[list[str]]]
Header = tuple[bytes, bytes]

HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
# What some resolvers read as an IPv4 address, beside the four plain numbers: 2130706433, 0x7f.1, 0177.0.0.1
NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")
PORTS = {"http": 80, "https": 443}
PLAIN = {"Accept-Encoding": "identity"}
NAT64 = IPv6Network("64:ff9b::/96")
# What the standard library of some Python does not know to be special, and where one cloud keeps its metadata.
SPECIAL = tuple(
    ip_network(one)
    for one in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "168.63.129.16/32",
        "64:ff9b:1::/48",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
ISATAP = (0x00005EFE, 0x02005EFE)  # the last 64 bits begin so when an IPv4 address is wrapped in them


class Forbidden(httpx.TransportError):
    """The address may not be called. Nothing was sent."""


class TooLarge(httpx.TransportError):
    """The answer exceeds its bound, or is compressed, which was not asked for. The request did arrive."""


def allowed_hosts(said: str) -> frozenset[str]:
    """`host[:port],…` as a set of `host:port` and `host` (every port). Raises ValueError."""
    found = set()
    for entry in filter(None, (one.strip().lower() for one in said.split(","))):
        parts = urlsplit(f"//{entry}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.path or parts.query or parts.username is not None or not fit_host(host):
            raise ValueError(f"OUTBOUND_ALLOWED_HOSTS must be host[:port],…; {entry[:100]!r} is neither.")
        found.add(f"{host}:{port}" if port is not None else host)
    return frozenset(found)


def listed(allowed: frozenset[str], host: str, port: int) -> bool:
    return host in allowed or f"{host}:{port}" in allowed


def fit_host(host: str) -> bool:
    """A name in plain ASCII or an address in its usual spelling; nothing that two parsers could read differently."""
    try:
        return "%" not in host and bool(ip_address(host))
    except ValueError:
        return bool(HOST.fullmatch(host)) and not NUMERIC.fullmatch(host) and len(host) <= 253


@lru_cache(maxsize=1024)
def unfit(url: str, allowed: frozenset[str], *, any_public: bool = True) -> str | None:
    """Why a URL cannot be called, as far as its letters tell; None when they do not."""
    if not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return "must be plain ASCII without spaces or backslashes"
    try:
        parts, read = urlsplit(url), httpx.URL(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except (ValueError, httpx.InvalidURL):
        return "is not a URL"
    if parts.scheme not in PORTS:
        return "must begin with https://"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if not fit_host(host) or read.host.strip("[]") != host:
        return "must name a host in plain letters, or an address in its usual spelling"
    port = PORTS[parts.scheme] if port is None else port
    if port == 0:
        return "must name a port between 1 and 65535"
    if listed(allowed, host, port):
        return None
    if not any_public:
        return f"names {host}:{port}, which is not in OUTBOUND_ALLOWED_HOSTS"
    if parts.scheme != "https":
        return "must begin with https://"
    if literal(host) is not None and not public(host):
        return "names an address that is not public"
    return None


def literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def public(address: str) -> bool:
    """Whether an address is one of the open internet, also where an IPv4 address is wrapped in an IPv6 one."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in NAT64:
            inner = IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            return public(str(inner))
        if found.teredo is not None or found.is_site_local or int(found) >> 32 == 0:
            return False
        if int(found) >> 32 & 0xFFFF_FFFF in ISATAP:
            return False
    if any(found in network for network in SPECIAL if network.version == found.version):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved and not found.is_unspecified


async def system_resolver(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Backend(httpcore.AsyncNetworkBackend):
    """Resolves, judges, and connects to what it has judged."""

    def __init__(self, allowed: frozenset[str], any_public: bool, resolve: Resolve) -> None:
        self.allowed, self.any_public, self.resolve = allowed, any_public, resolve
        self.inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.judged(host.lower(), port, timeout)
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self.inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def judged(self, host: str, port: int, connect_s: float | None) -> list[str]:
        """The addresses of a name that may be called. One bad address among good ones spoils the name."""
        known = listed(self.allowed, host, port)
        if not known and not self.any_public:
            raise Forbidden(f"{host}:{port} is not in OUTBOUND_ALLOWED_HOSTS")
        if literal(host) is not None:
            addresses = [host]
        else:
            try:
                async with asyncio.timeout(connect_s):
                    addresses = await self.resolve(host, port)
            except TimeoutError as error:  # before OSError, of which it is one
                raise httpcore.ConnectTimeout("the name was not resolved in time") from error
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError("the name cannot be resolved") from error
        if not known and not all(public(address) for address in addresses):
            raise Forbidden(f"{host} leads to an address that is not public")
        return addresses[:4]

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Forbidden("sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Bounded(httpx.AsyncByteStream):
    """An answer's bytes as long as they stay within the bound."""

    def __init__(self, inner: httpx.AsyncByteStream, most: int) -> None:
        self.inner, self.left = inner, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.inner:
            self.left -= len(part)
            if self.left < 0:
                raise TooLarge("the answer exceeds its bound")
            yield part

    async def aclose(self) -> None:
        await self.inner.aclose()


@cache
def authorities() -> ssl.SSLContext:
    """Loaded once per process: it takes some 25 ms, too long for a client that lives for one request."""
    return httpx.create_ssl_context(trust_env=False)


class PinnedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over our backend. It keeps connections per name, never per address."""

    def __init__(self, backend: Backend, verify: Any, most: int, idle: int, encoded: bool = False) -> None:
        context = authorities() if verify is True else httpx.create_ssl_context(verify=verify, trust_env=False)
        super().__init__(verify=context, trust_env=False)
        self.backend, self.most, self.encoded = backend, most, encoded
        # httpx has no parameter for them; a test holds this to be where connections come from
        self._pool: Any = Connections(context, backend, most=64, idle=idle, idle_s=15)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        problem = unfit(str(request.url), self.backend.allowed, any_public=self.backend.any_public)
        if problem is not None:
            raise Forbidden(f"the address {problem}", request=request)
        answer = await super().handle_async_request(request)
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity" and not self.encoded:
            await answer.aclose()
            raise TooLarge("the answer is compressed", request=request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=Bounded(answer.stream, self.most),
            extensions=answer.extensions,
        )


@dataclass(frozen=True)
class Straight:
    """The way of requests that are many and alike: to the transport as they are, without what httpx's client does around it, which is
    half of what a request costs. No cookie is kept. Raises what the client raises."""

    transport: PinnedTransport
    headers: httpx.Headers = field(repr=False)  # a key may be among them
    timeouts: dict[str, float | None]

    async def ask(self, method: str, url: str, content: bytes, headers: Sequence[Header]) -> httpx.Response:
        """The answer, whose body is still to be read, and which whoever asked closes."""
        merged = self.headers.copy()
        merged.update(headers)
        request = httpx.Request(method, url, headers=merged, content=content, extensions={"timeout": self.timeouts})
        answer = await self.transport.handle_async_request(request)
        answer.request = request
        return answer

    async def aclose(self) -> None:
        await self.transport.aclose()


def straight(
    *,
    allowed: frozenset[str],
    any_public: bool,
    timeout_s: float,
    connect_s: float,
    max_bytes: int,
    headers: dict[str, str],
    idle: int,
) -> Straight:
    """As `client`, without the client."""
    transport = PinnedTransport(Backend(allowed, any_public, system_resolver), True, max_bytes, idle)
    timeouts = httpx.Timeout(timeout_s, connect=connect_s).as_dict()
    return Straight(transport, httpx.Headers({**PLAIN, **headers}), timeouts)


def client(
    *,
    allowed: frozenset[str],
    any_public: bool,
    timeout_s: float,
    connect_s: float,
    max_bytes: int,
    headers: dict[str, str] | None = None,
    verify: Any = True,
    idle: int = 10,
    encoded: bool = False,
    resolve: Resolve = system_resolver,
) -> httpx.AsyncClient:
    """An httpx client for addresses that others chose.

    allowed: what the deployment lists, which may be private and plain http. any_public: whether every other public host
    may be called too, by https (webhooks), or none (connectors). timeout_s bounds each wait, not their sum: callers put
    asyncio.timeout around the whole. encoded: compressed answers are let through, bounded as they are on the wire: the caller
    reads them raw and bounds what it unpacks. Raises Forbidden and TooLarge beside httpx's own errors.
    """
    return httpx.AsyncClient(
        transport=PinnedTransport(Backend(allowed, any_public, resolve), verify, max_bytes, idle, encoded),
        timeout=httpx.Timeout(timeout_s, connect=connect_s),
        headers={**PLAIN, **(headers or {})},
        follow_redirects=False,
        trust_env=False,
    )
