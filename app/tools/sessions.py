"""The sessions a process has with tool servers, their breakers, and what it has seen of them and not yet told Postgres."""

import asyncio
import importlib
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from app import outbound
from app.components import Component
from app.db import Database
from app.settings import Settings
from app.telemetry import TOOL_FAILURES, TOOL_SESSIONS_FULL, begin
from app.together import Together
from app.tools import layers
from app.tools.definition import BadDefinition, Definition, Layer
from app.tools.mcp import CODES, Answer, Offered, ServerFailed, Where
from app.tools.pinning import compared
from app.tools.servers import stdio_servers

if TYPE_CHECKING:
    from app.tools.mcp.session import Session

begin(TOOL_FAILURES, CODES)
begin(TOOL_SESSIONS_FULL, ["tenant", "process"])
log = structlog.get_logger("tools")

LOOK_AGAIN_S = 60.0  # a session in use asks for the server's tools so often
IDLE_S = 120.0
FRESH_S = 1.0  # whoever was just given a session is about to ask
MOST = 128  # sessions of one process; a newcomer's place comes from idle ones of whoever has more than a share, what is in use stays
TELL_S = 1.0  # how often what was seen is told
COUNTING = ("tool_unreachable", "tool_timed_out", "tool_broke_off", "tool_protocol")  # what opens a breaker
LOOK_AFTER = ("tool_refused", "tool_said_no", "tool_malformed")  # which a tool that is not what it was may well answer
Which = tuple[UUID, str, int]  # tenant, layer, version


class Unusable(Exception):
    """The layer cannot be asked from here: no listed host, no such server, no key. pointer: where its definition says which."""

    def __init__(self, pointer: str, why: str) -> None:
        super().__init__(why)
        self.pointer = pointer


class Drifted(Exception):
    """tools (our names) are not what was registered any more."""

    def __init__(self, tools: list[str]) -> None:
        super().__init__(", ".join(tools))
        self.tools = tools


class Full(Exception):
    """As many servers are being asked at this moment as one process asks, in all (of: process) or for one tenant."""

    def __init__(self, of: str) -> None:
        super().__init__(of)
        self.of = of


@dataclass
class Live:
    """A session in the pool. asking: how many calls wait for its answer; while there are any, only a broken one is closed."""

    session: "Session"
    looked_at: float
    used_at: float
    asking: int = 0


@dataclass
class Seen:
    """What was seen of a version since it was last told. answered: whether its server did, the last time that it was asked."""

    calls: int = 0
    refusals: int = 0
    answered: bool | None = None
    failure: str | None = None


class Sessions:
    """One pool for one process. The database is told what was seen; nothing else is kept there."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.servers = dict(stdio_servers(settings.tool_servers_file))
        self.live: dict[Which, Live] = {}
        self.breakers: dict[Which, Component] = {}
        self.seen: defaultdict[Which, Seen] = defaultdict(Seen)
        self._opening: Together[Which, Live] = Together()
        self._looking: Together[Which, None] = Together()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="tool sessions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        # side by side: a slow database keeps no server of ours alive
        await asyncio.gather(self.tell(), *(one.session.close() for one in self.live.values()), return_exceptions=True)
        self.live.clear()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            try:
                await self.tell()
                await self.prune()
            except Exception as error:
                log.error("the sessions with tool servers were not looked after", exc_info=error)

    async def tell(self) -> None:
        """Adds what was seen to what is known. What cannot be told now is told later."""
        seen, self.seen = self.seen, defaultdict(Seen)
        for which, one in seen.items():
            try:
                await layers.note(
                    self.database,
                    *which,
                    answered=one.answered is True,
                    failure=one.failure,
                    calls=one.calls,
                    refusals=one.refusals,
                )
            except Exception as error:
                log.warning("what was seen of a tool layer is told later", error=type(error).__name__)
                later = self.seen[which]
                later.calls, later.refusals = later.calls + one.calls, later.refusals + one.refusals
                if later.answered is None:
                    later.answered, later.failure = one.answered, one.failure

    async def prune(self) -> None:
        """Closes what is broken, and what nobody uses."""
        moment = time.monotonic()
        old = [
            which
            for which, one in self.live.items()
            if one.session.over or (not one.asking and moment - one.used_at > IDLE_S)
        ]
        gone = [self.live.pop(which) for which in old]  # at once: whoever comes while these close begins anew
        await asyncio.gather(*(one.session.close() for one in gone))

    async def check(self, tenant: UUID, layer: Layer) -> dict[str, Any]:
        """Asks a layer's server in a session of its own, notes what has drifted, and tells what was found."""
        shown: dict[str, Any] = {
            "ok": False,
            "problem": None,
            "server": None,
            "protocol": None,
            "tools": [],
            "offered": {},
        }
        which = (tenant, layer.name, layer.version)
        try:
            session = await self.begin(tenant, layer)
        except (ServerFailed, Unusable, BadDefinition) as failure:
            code = failure.code if isinstance(failure, ServerFailed) else "tool_unusable"
            await layers.note(self.database, *which, failure=code)
            return shown | {"problem": CODES.get(code, str(failure))}
        try:
            changed = drifted(layer, session)
            rows = compared(layer, session.server_name, session.offered)
            shown |= {"ok": not changed, "server": session.server_name, "protocol": session.protocol, "tools": rows}
            shown["offered"] = {name: one.schema_sha256 for name, one in sorted(session.offered.items())}
        finally:
            await session.close()
        self.breaker(which).succeeded()
        await layers.note(self.database, *which, answered=True, drifted=changed)
        return shown | {"problem": "a tool is not what was registered" if changed else None}

    # --- asking

    async def ask(self, tenant: UUID, layer: Layer, tool: str, arguments: dict[str, Any]) -> Answer:
        """What a tool (our name of it) answers. Raises ServerFailed, Drifted, Unusable or Full."""
        which = (tenant, layer.name, layer.version)
        breaker, seen = self.breaker(which), self.seen[which]
        seen.calls += 1
        if (opens := breaker.turned_away()) is not None:
            raise ServerFailed("tool_unreachable", f"{layer.name} is left alone until {opens:%H:%M:%S}", retryable=True)
        entry, trial = layer.entry(tool), breaker.opened_at is not None
        assert entry is not None
        asked, broke = False, None  # whether the server has said anything to this call; how its first session ended
        try:
            for first in (True, False):
                live, reused = await self.session(which, layer)
                asked = asked or not reused
                live.asking += 1
                try:
                    if live.session.stale or live.used_at - live.looked_at > LOOK_AGAIN_S:
                        await self.look(which, layer, live)
                        asked = True
                    if tool in (changed := drifted(layer, live.session)):
                        raise Drifted(changed)
                    answer = await live.session.call(entry.theirs, arguments)
                    break
                except ServerFailed as failure:
                    if live.session.over:
                        await self.discard(which, live)
                    elif (
                        reused
                        and failure.code in LOOK_AFTER
                        and tool in (changed := await self.look(which, layer, live))
                    ):
                        asked = True
                        raise Drifted(changed) from None
                    # a server that was started anew knows nothing of a session that we remember: a fresh one is tried once
                    if not (first and reused and failure.code == "tool_broke_off"):
                        raise
                    broke = failure
                finally:
                    live.asking -= 1
        except ServerFailed as failure:
            self.failed(which, failure)
            raise
        except (Drifted, Full, Unusable) as why:
            if isinstance(why, Full):
                TOOL_SESSIONS_FULL.labels(why.of).inc()
            if isinstance(why, Drifted) and asked:
                breaker.succeeded()
                self.heard(which, None)
            elif broke is not None:
                self.failed(which, broke)
            elif trial:  # nobody was asked, and of the server nothing is learnt
                breaker.untried()
            raise
        breaker.succeeded()
        self.heard(which, None)
        return answer

    def failed(self, which: Which, failure: ServerFailed) -> None:
        """A server did not do what it was asked; that it said so itself is no fault of its."""
        TOOL_FAILURES.labels(failure.code).inc()
        self.heard(which, failure.code)
        if failure.code in COUNTING:
            self.breaker(which).failed(CODES[failure.code])
        else:
            self.breaker(which).succeeded()

    def heard(self, which: Which, failure: str | None) -> None:
        """What came of asking a server, which is what counts until it is asked again."""
        seen = self.seen[which]
        seen.answered, seen.failure = failure is None, failure

    def breaker(self, which: Which) -> Component:
        if len(self.breakers) > 10 * MOST:
            self.breakers.clear()
        return self.breakers.setdefault(which, Component("tools", "The layer's tools cannot be called."))

    async def session(self, which: Which, layer: Layer) -> tuple[Live, bool]:
        """The session with a layer's server, and whether it had been used before."""
        live = self.live.get(which)
        if live is None or live.session.over:
            if live is not None:
                await self.discard(which, live)
            return await self._opening.ask(which, partial(self._open, which, layer)), False
        live.used_at = time.monotonic()
        return live, True

    async def _open(self, which: Which, layer: Layer) -> Live:
        await self.make_room(which[0])
        session = await self.begin(which[0], layer)
        moment = time.monotonic()
        live = self.live[which] = Live(session, moment, moment)
        return live

    async def make_room(self, tenant: UUID) -> None:
        """Closes an idle session when there are too many, of the tenant or in all: first of whoever has more than a share, of those
        the one that was used the longest ago. One in use is left to its calls: a tool that is broken off in the middle may run twice.
        Raises Full."""
        of = Counter(
            one for one, _, _ in [*self.live, *self._opening.asking]
        )  # with the one that is about to be opened
        share = max(1, MOST // (len(of) + 1))
        whose = {tenant} if of[tenant] > share else set(of) if of.total() > MOST else set()
        if not whose:
            return
        before = time.monotonic() - FRESH_S
        idle = [
            (of[which[0]] <= share, one.used_at, which)
            for which, one in self.live.items()
            if which[0] in whose and not one.asking and one.used_at < before
        ]
        if not idle:
            raise Full("tenant" if of[tenant] > share else "process")
        *_, oldest = min(idle)
        await self.discard(oldest, self.live[oldest])

    async def look(self, which: Which, layer: Layer, live: Live) -> list[str]:
        """Asks again for the tools of a server that is in use; what has drifted."""
        await self._looking.ask(which, partial(self._look, live))
        return drifted(layer, live.session)

    async def _look(self, live: Live) -> None:
        await live.session.look()
        live.looked_at = time.monotonic()

    async def begin(self, tenant: UUID, layer: Layer) -> "Session":
        """A session of one's own; the caller closes it. Raises ServerFailed or Unusable."""
        return await self.begin_with(self.where(tenant, layer.definition, layer.account), layer.definition.timeout_s)

    async def begin_with(self, where: Where, timeout_s: float) -> "Session":
        # in a thread: it takes a second, in which nobody else should have to wait
        module = await asyncio.to_thread(importlib.import_module, "app.tools.mcp.session")
        session: Session = module.Session(where, timeout_s)
        try:
            await session.open()
        except BaseException:
            await session.close()
            raise
        return session

    async def discard(self, which: Which, live: Live) -> None:
        if self.live.get(which) is live:
            del self.live[which]
        await live.session.close()

    def where(self, tenant: UUID, definition: Definition, account: str | None) -> Where:
        """Raises Unusable when this process may not, or cannot."""
        if definition.url is None:
            server = self.servers.get(definition.server or "")
            if server is None or (server.tenants is not None and tenant not in server.tenants):
                raise Unusable("/server", f"this deployment runs no server {definition.server} for this tenant")
            return Where(command=(server.command, *server.arguments), environment=server.surroundings())
        allowed, place = self.settings.outbound_hosts(), definition.place or ""
        host, _, port = place.rpartition(":")
        if not outbound.listed(allowed, host.strip("[]"), int(port)):
            raise Unusable("/url", f"{place} is not in OUTBOUND_ALLOWED_HOSTS")
        headers: dict[str, str] = {}
        if definition.auth is not None:
            key = self.settings.tool_keys.get(f"{account}_KEY") if account else None
            if key is None:
                raise Unusable("/auth", f"{account}_KEY is not set" if account else "its key is not set")
            scheme = f"{definition.auth.scheme} " if definition.auth.scheme else ""
            headers[definition.auth.header] = scheme + key.get_secret_value()
        return Where(url=definition.url, headers=headers, allowed=allowed)


def drifted(layer: Layer, session: "Session") -> list[str]:
    """Which of a layer's tools (our names) are not what was registered; all of them when another server answers."""
    if session.server_name != layer.server_name:
        return [one.name for one in layer.definition.tools]
    return [
        one.name
        for one in layer.definition.tools
        if not same(session.offered.get(one.theirs), layer.pinned[one.name].schema_sha256)
    ]


def same(offered: Offered | None, pinned: str) -> bool:
    return offered is not None and offered.schema_sha256 == pinned
