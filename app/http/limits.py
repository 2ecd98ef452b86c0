"""Request rates that hold across processes: per API key, principal and tenant; per mission for tool calls; and failed logins.

The truth is one bucket per subject in Postgres (migrations/sql/0001/53_rates.sql). A process takes a small lease out of it,
a tenth of a second's worth, and serves from that without asking again, so a request costs a round trip only when the lease
is used up or a second old. What is left of a lease then is lost: several processes together stay below the limit, never
above it. What many callers want at the same moment is asked for together. When Postgres does not answer, nobody is let
through on credit: the request is the 503 that it would be anyway.
"""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import Request

from app.batch import Batches
from app.caller import Caller
from app.db import Way
from app.errors import Problem
from app.settings import Address, Settings

LEASE_S = 1.0  # how long a leased token is good for
KEPT_S = 60.0  # how long the token of a login that turned out well is kept for the next one
PENDING_S = 1.0  # how long a credential that was counted may be presented again before its first answer
MOST_LEASES = 20_000
MOST_PROVED = 10_000
PREFIX = 11  # characters of an API key that lists and logs show; only their digest is kept here

TAKE = "SELECT n, rate, capacity, granted, remaining, wait_s FROM take_tokens($1, $2, $3, $4, $5, $6)"

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Ask:
    """One bucket: whose it is, how fast it fills, and how many tokens to lease (None: a tenth of a second's worth)."""

    scope: str
    subject: bytes
    rate: float
    burst_s: float
    want: int | None = None


@dataclass
class Lease:
    """What this process holds of a bucket."""

    tokens: int = 0
    until: float = 0.0
    denied_until: float = 0.0
    rate: float = 0.0
    capacity: float = 0.0
    remaining: float = 0.0  # in the bucket itself when it was last asked
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def covers(self, moment: float) -> bool:
        return self.until > moment and (self.tokens > 0 or self.rate == 0)

    def gives(self, moment: float) -> bool:
        return self.denied_until <= moment < self.until and (self.tokens > 0 or self.rate == 0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request lacks: buckets, and whose limits hold for them (None: before any tenant is known)."""

    tenant: UUID | None
    asks: Sequence[Ask]


class Limits:
    """The leases of one process. way leads to the database beside the pool: a lease is taken while a request holds a session."""

    def __init__(
        self,
        way: Way,
        *,
        key_per_s: float,
        principal_per_s: float,
        tenant_per_s: float,
        mission_per_s: float,
        burst_s: float,
        failures_per_minute: int,
        trusted: Sequence[Network] = (),
        wait_ms: int = 1000,
    ) -> None:
        self.refills: Batches[Wish, Sequence[asyncpg.Record]] = Batches(
            way.connect, grant, lambda wish: 100 * len(wish.asks), name="limits", connections=1, wait_ms=wait_ms
        )
        self.rates = {"key": key_per_s, "principal": principal_per_s, "tenant": tenant_per_s}
        self.mission_per_s, self.burst_s, self.failures = mission_per_s, burst_s, failures_per_minute
        self.trusted = trusted
        self.leases: OrderedDict[tuple[str, bytes], Lease] = OrderedDict()
        self.proved: OrderedDict[bytes, None] = OrderedDict()
        self.pending: OrderedDict[bytes, float] = OrderedDict()  # counted, and not yet known to be good or bad
        self.counting: dict[bytes, asyncio.Lock] = {}
        self.buckets: OrderedDict[tuple[UUID, UUID, UUID | None], list[Ask]] = OrderedDict()

    def open(self) -> None:
        """Outside of any request: what is started here would carry its ids to the end of the process."""
        self.refills.start()

    async def close(self) -> None:
        await self.refills.stop()

    # --- who is asking

    async def before_lookup(self, request: Request, secret: str) -> None:
        """Counts an attempt to authenticate with something not known to be good. Raises Problem rate_limited.

        The same credential many times at once is one attempt: a busy caller whom a fresh process does not know yet has
        guessed nothing.
        """
        name = hashlib.sha256(secret.encode()).digest()
        if self.failures <= 0 or name in self.proved:
            return
        lock = self.counting.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if name in self.proved or self.pending.get(name, 0.0) > time.monotonic():
                    return
                await self.take(
                    request, None, self.attempts(request, secret), "Too many failed authentications.", quiet=True
                )
                self.pending[name] = time.monotonic() + PENDING_S
                while len(self.pending) > MOST_PROVED:
                    self.pending.popitem(last=False)
        finally:
            if not lock.locked():
                self.counting.pop(name, None)

    def succeeded(self, request: Request, secret: str, stands_for: str | None = None) -> None:
        """Gives the attempt back, and remembers the credential: a flood of guesses does not lock out who has been here.

        stands_for: the secret that a token was exchanged for; it is as good, and was never counted.
        """
        name = hashlib.sha256(secret.encode()).digest()
        if self.failures <= 0:
            return
        if name not in self.proved:
            self.give_back(request, secret)
        self.pending.pop(name, None)
        self.proved[name] = None
        if stands_for is not None:
            self.proved[hashlib.sha256(stands_for.encode()).digest()] = None
        while len(self.proved) > MOST_PROVED:
            self.proved.popitem(last=False)

    def undecided(self, request: Request, secret: str) -> None:
        """Nobody could say whether the credential is good: that is no guess. What was counted for it is given back, once."""
        if self.pending.pop(hashlib.sha256(secret.encode()).digest(), None) is not None:
            self.give_back(request, secret)

    def give_back(self, request: Request, secret: str) -> None:
        for ask in self.attempts(request, secret):
            lease = self.lease(ask)
            lease.tokens += 1
            lease.until = max(lease.until, time.monotonic() + KEPT_S)

    def failed(self, secret: str) -> None:
        """A credential that was good is so no longer."""
        name = hashlib.sha256(secret.encode()).digest()
        self.proved.pop(name, None)
        self.pending.pop(name, None)

    def attempts(self, request: Request, secret: str) -> list[Ask]:
        """One address guessing one key, one address guessing any, anybody guessing one: each wider net is coarser, so that
        one address cannot use up what others need."""
        address, n = address_of(request, self.trusted), self.failures
        # a JWT begins like every other: there is no prefix by which to tell whose it is
        begins = secret if secret.count(".") == 2 else secret[:PREFIX]
        asks = [
            Ask("auth_pair", digest("pair", address, begins), n / 60, 60, 1),
            Ask("auth_address", digest("address", address), 5 * n / 60, 60, 1),
        ]
        if begins is not secret:
            asks.append(Ask("auth_prefix", digest("prefix", begins), 20 * n / 60, 60, 1))
        return asks

    # --- how often

    async def admit(self, request: Request, caller: Caller) -> None:
        """One request of an authenticated caller. Raises Problem rate_limited; says where the caller stands either way."""
        await self.take(request, caller.tenant, self.buckets_of(caller), "Too many requests.")

    def buckets_of(self, caller: Caller) -> list[Ask]:
        """The three buckets of a credential, remembered."""
        name = (caller.tenant, caller.principal, caller.credential)
        found = self.buckets.get(name)
        if found is None:
            tenant, principal = str(caller.tenant), str(caller.principal)
            found = self.buckets[name] = [
                Ask("key", digest("key", tenant, principal, str(caller.credential)), self.rates["key"], self.burst_s),
                Ask("principal", digest("principal", tenant, principal), self.rates["principal"], self.burst_s),
                Ask("tenant", digest("tenant", tenant), self.rates["tenant"], self.burst_s),
            ]
            while len(self.buckets) > MOST_PROVED:
                self.buckets.popitem(last=False)
        return found

    async def admit_mission(self, request: Request, tenant: UUID, mission: UUID) -> None:
        """One tool call of a mission."""
        if self.mission_per_s > 0:
            await self.take(request, None, [self.bucket_of(tenant, mission)], "Too many calls of this mission.")

    def give_back_call(self, tenant: UUID, mission: UUID) -> None:
        """What was taken for a call is not used: somebody else had sent it again, who uses up nobody's rate."""
        if self.mission_per_s > 0:
            self.lease(self.bucket_of(tenant, mission)).tokens += 1

    def bucket_of(self, tenant: UUID, mission: UUID) -> Ask:
        return Ask("mission", digest("mission", str(tenant), str(mission)), self.mission_per_s, self.burst_s)

    async def take(
        self, request: Request, tenant: UUID | None, asks: Sequence[Ask], sentence: str, *, quiet: bool = False
    ) -> None:
        """One token from each bucket, or a Problem. quiet: only a refusal says where the caller stands."""
        leases = [(ask, self.lease(ask)) for ask in asks]
        while True:
            moment = time.monotonic()
            if all([lease.gives(moment) for _, lease in leases]):  # from here to the decrement nothing is awaited
                for _, lease in leases:
                    lease.tokens -= lease.rate > 0
                if not quiet:
                    tell(request, leases, moment)
                return
            denied = [(ask, lease) for ask, lease in leases if lease.denied_until > moment]
            if denied:
                wait = max(lease.denied_until for _, lease in denied) - moment
                tell(request, leases, moment)
                raise Problem("rate_limited", sentence, retry_after=max(1, math.ceil(wait)), limit=denied[0][0].scope)
            lacking = [(ask, lease) for ask, lease in leases if not lease.covers(moment)]
            async with lacking[0][1].lock:  # one asks for all who wait for the same bucket
                moment = time.monotonic()
                lacking = [(a, one) for a, one in lacking if not one.covers(moment) and one.denied_until <= moment]
                if lacking:
                    await self.refill(tenant, lacking)

    async def refill(self, tenant: UUID | None, lacking: Sequence[tuple[Ask, Lease]]) -> None:
        rows = await self.refills.put(Wish(tenant, [ask for ask, _ in lacking]))
        moment = time.monotonic()
        for (_, lease), row in zip(lacking, rows, strict=True):
            fresh = lease.tokens if lease.until > moment else 0
            lease.rate, lease.capacity, lease.remaining = row["rate"], row["capacity"], row["remaining"]
            lease.tokens = fresh + row["granted"]
            lease.until = moment + LEASE_S
            if lease.rate > 0 and lease.tokens == 0:
                lease.denied_until = moment + row["wait_s"]

    def lease(self, ask: Ask) -> Lease:
        name = (ask.scope, ask.subject)
        found = self.leases.get(name)
        if found is None:
            found = self.leases[name] = Lease()
            while len(self.leases) > MOST_LEASES:  # what is forgotten is lost, which is only stricter
                self.leases.popitem(last=False)
        else:
            self.leases.move_to_end(name)
        return found


async def grant(connection: asyncpg.Connection, together: Sequence[Wish]) -> list[Sequence[asyncpg.Record]]:
    """What each is given of its buckets, in one statement; who wants of the same bucket is given one after the other."""
    asks = [(wish.tenant, ask) for wish in together for ask in wish.asks]
    rows: list[asyncpg.Record] = sorted(
        await connection.fetch(
            TAKE,
            [tenant for tenant, _ in asks],
            [ask.scope for _, ask in asks],
            [ask.subject for _, ask in asks],
            [ask.rate for _, ask in asks],
            [ask.burst_s for _, ask in asks],
            [ask.want for _, ask in asks],
        ),
        key=itemgetter("n"),
    )
    waiting = iter(rows)
    return [[next(waiting) for _ in wish.asks] for wish in together]


def rate_limits(settings: Settings, address: Address) -> Limits:
    """The request rates of a process that serves HTTP, over a connection of their own.

    It leads around a pooler: a request asks for its rate while it has a transaction open, and if both came out of one pool,
    as many requests as it has servers would wait for each other.
    """
    return Limits(
        Way(Address.of(address.direct_url), "mission-root limits"),
        key_per_s=settings.rate_limit_key_per_s,
        principal_per_s=settings.rate_limit_principal_per_s,
        tenant_per_s=settings.rate_limit_tenant_per_s,
        mission_per_s=settings.rate_limit_mission_per_s,
        burst_s=settings.rate_limit_burst_s,
        failures_per_minute=settings.auth_failures_per_minute,
        trusted=networks(settings.trusted_proxies),
        wait_ms=settings.database_pool_wait_ms,
    )


def digest(*parts: str) -> bytes:
    """The name of a bucket: nothing that was presented can be read out of it."""
    return hashlib.sha256("\x00".join(parts).encode()).digest()[:16]


def tell(request: Request, leases: Iterable[tuple[Ask, Lease]], moment: float) -> None:
    """Notes the RateLimit fields of the answer (draft-ietf-httpapi-ratelimit-headers-10); the outermost layer sends them."""
    buckets, standings = [], []
    for ask, lease in leases:
        if lease.rate <= 0:
            continue
        capacity = int(lease.capacity) or 1
        left = min(capacity, max(0, int(lease.tokens + lease.remaining))) if lease.denied_until <= moment else 0
        buckets.append((ask.scope, lease.capacity, lease.rate))
        standings.append(f'"{ask.scope}";r={left};t={math.ceil((capacity - left) / lease.rate)}')
    if buckets:
        request.scope.setdefault("state", {})["rate_headers"] = [
            (b"ratelimit-policy", policy_field(tuple(buckets))),
            (b"ratelimit", ", ".join(standings).encode()),
        ]


@lru_cache(maxsize=1024)
def policy_field(buckets: tuple[tuple[str, float, float], ...]) -> bytes:
    said = (
        f'"{scope}";q={max(1, math.floor(capacity))};w={max(1, math.ceil(capacity / rate))}'
        for scope, capacity, rate in buckets
    )
    return ", ".join(said).encode()


def networks(said: str) -> tuple[Network, ...]:
    """The networks of a comma-separated list. Raises ValueError."""
    return tuple(ip_network(one.strip()) for one in said.split(",") if one.strip())


def address_of(request: Request, trusted: Sequence[Network]) -> str:
    """Where a request comes from, for counting. Addresses of one IPv6 subnet are one, because one machine has them all."""
    found = client_of(request, trusted)
    if found is None:
        return "unknown"
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


def client_of(request: Request, trusted: Sequence[Network]) -> Any:
    """The address that a request comes from, None when it has none. X-Forwarded-For is believed only from a trusted proxy, and
    read from its right end: the last address that no trusted proxy has."""
    found = plain(request.client.host if request.client else "")
    if found is not None and within(found, trusted):
        # a proxy may append its word as a line of its own, below the one that the client wrote
        for said in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
            hop = plain(said.strip())
            if hop is None:
                break
            found = hop
            if not within(hop, trusted):
                break
    return found


def plain(said: str) -> Any:
    """An address; also one that was cut down to its subnet here before it was handed on to another process."""
    try:
        found = ip_address(said.removesuffix("/64"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def within(address: Any, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted if network.version == address.version)
