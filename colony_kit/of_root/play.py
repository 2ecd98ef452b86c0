"""What every check of a root works with: its public API, its internal API, and missions in the hands of the played colony."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx

from colony_client.client import EVENTS_OF_MANY, parse_retry_after
from colony_client.contract import (
    CONTRACT_VERSION,
    FIRST_VERSION,
    MANY_SINCE,
    VERSION_HEADER,
    Dispatch,
    EventReceipt,
    RootView,
)
from colony_client.signing import Keys
from colony_client.versions import order
from colony_kit.door import Door
from colony_kit.evidence import said
from colony_kit.line import Line, Reply, as_json
from colony_kit.played_colony import Case, PlayedColony
from colony_kit.report import Failed, NotApplicable

MISSION_TYPE = "oracle_advisory"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.04, 0.5  # between two looks at a mission
AT_WORK = ("dispatched", "running")  # the states of a mission that a colony has


@dataclass(frozen=True)
class Pace:
    """How long things may take and are watched, in seconds."""

    patience: float = 60.0  # for a dispatch, a lease that runs out, a mission that ends
    first: float | None = (
        None  # for the dispatch of a mission that was just taken in; when it is not said, as for any other
    )
    answer: float = 15.0
    quiet: float = 1.0
    retry_after: float = 1.0
    away: float = 1.5


@dataclass
class Play:
    public: httpx.AsyncClient
    keys: Keys
    colony: PlayedColony
    door: Door
    pace: Pace
    inside: Line | None = None  # where the root says that it is called back
    replies: list[Reply] = field(default_factory=list)  # every refusal that was provoked
    missions: list[UUID] = field(default_factory=list)

    async def taken(self, **how: Any) -> "Live":
        """A mission that the root has taken in and dispatched to the kit. Raises Failed."""
        case, mission = await self.submitted(**how)
        patience = self.pace.first or self.pace.patience
        if not await case.until(lambda: case.heard, patience):
            shown = await self.shown(mission)
            raise Failed(
                f"the mission was taken in, and no dispatch came for {patience:g} s; it is {shown.get('state')}, "
                f"degraded {json.dumps(shown.get('degraded'))}"
            )
        return self.live(case, mission)

    async def submitted(self, *, budget: dict[str, Any] | None = None, **how: Any) -> tuple[Case, UUID]:
        """A mission asked for through the public API, as any caller asks. Raises Failed."""
        case = self.colony.case(**how)
        body: dict[str, Any] = {
            "mission_type": MISSION_TYPE,
            "user_goal": f"Conformance of the root ({case.mark})",
            "inputs": {},
        }
        answer = await self.public.post("/v1/missions", json=body | ({"budget": budget} if budget else {}))
        if answer.status_code != 202:
            raise Failed(
                f"sent: POST /v1/missions; came back: {answer.status_code} {said(answer.content)}; expected: 202"
            )
        mission = UUID(answer.json()["id"])
        self.missions.append(mission)
        return case, mission

    def live(self, case: Case, mission: UUID) -> "Live":
        dispatch = case.heard[-1][1]
        if self.inside is None:
            self.inside = Line(dispatch.callback_base_url, self.keys, "root", self.pace.answer)
        return Live(self, self.inside, case, mission, dispatch)

    async def shown(self, mission: UUID) -> dict[str, Any]:
        """The mission as the public API shows it."""
        answer = await self.public.get(f"/v1/missions/{mission}")
        if answer.status_code != 200:
            raise Failed(f"sent: GET /v1/missions/{{id}}; came back: {answer.status_code} {said(answer.content)}")
        found: dict[str, Any] = answer.json()
        return found

    async def shows(self, mission: UUID, holds: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """The mission once it shows something. Raises Failed."""
        until, pause = time.monotonic() + self.pace.patience, FIRST_PAUSE_S
        while True:
            found = await self.shown(mission)
            if holds(found):
                return found
            if time.monotonic() > until:
                told = {name: found.get(name) for name in ("state", "reason", "degraded", "attempt")}
                raise Failed(f"after {self.pace.patience:g} s the mission showed {json.dumps(told)}; expected: {what}")
            await asyncio.sleep(pause := min(2 * pause, LONGEST_PAUSE_S))

    async def facts(self, mission: UUID, kind: str, times: int = 1) -> list[str]:
        """The types of a mission's events, oldest first, once one of them is there so often. Raises Failed.

        What was just committed may take a moment to be shown: readers are kept behind whoever still writes.
        """
        until, pause = time.monotonic() + self.pace.patience, FIRST_PAUSE_S
        while True:
            answer = await self.public.get(f"/v1/missions/{mission}/events", params={"limit": 200})
            if answer.status_code != 200:
                raise Failed(
                    f"sent: GET /v1/missions/{{id}}/events; came back: {answer.status_code} {said(answer.content)}"
                )
            kinds = [one["type"] for one in answer.json()["items"]]
            if kinds.count(kind) >= times:
                return kinds
            if time.monotonic() > until:
                raise Failed(
                    f"after {self.pace.patience:g} s the mission's events were {', '.join(kinds)}; "
                    f"expected: {kind}" + (f" {times} times" if times > 1 else "")
                )
            await asyncio.sleep(pause := min(2 * pause, LONGEST_PAUSE_S))

    async def cancel(self, mission: UUID) -> Reply:
        """As an operator does it: on the version that was seen, and seen again while it moves."""
        path, until = f"/v1/missions/{mission}", time.monotonic() + self.pace.answer
        while True:
            seen = await self.public.get(path)
            given = {"If-Match": seen.headers.get("ETag", "")}
            answer = await self.public.post(f"{path}/cancel", json={"reason": "the kit has seen enough"}, headers=given)
            if answer.status_code != 412 or time.monotonic() > until:
                break
        return Reply("sent: POST /v1/missions/{id}/cancel", answer.status_code, answer.headers, answer.content)

    def refused(self, reply: Reply, *statuses: int, code: str = "") -> Reply:
        """Keeps a refusal that was provoked. Raises Failed for any other answer, or another code."""
        if reply.status not in statuses:
            raise Failed(f"{reply.evidence}; expected: {' or '.join(map(str, statuses))}")
        if code and reply.problem.get("code") != code:
            raise Failed(f"{reply.evidence}; expected: the code {code}")
        self.replies.append(reply)
        return reply


@dataclass
class Live:
    """One attempt in the hands of the played colony: what it was dispatched, the token, and the events so far."""

    play: Play
    line: Line
    case: Case
    mission: UUID
    dispatch: Dispatch
    token: str = field(default="", repr=False)
    seq: int = 0

    def __post_init__(self) -> None:
        self.token = self.token or self.dispatch.mission_token

    @property
    def path(self) -> str:
        return f"/internal/v1/missions/{self.mission}/events"

    def event(self, kind: str, seq: int | None = None, **more: Any) -> dict[str, Any]:
        """An event; the next number unless another is given."""
        if seq is None:
            self.seq += 1
        return {"type": kind, "seq": seq or self.seq, "at": datetime.now(UTC).isoformat(), **more}

    def batch(self, *events: dict[str, Any], **more: Any) -> bytes:
        said = {"contract_version": CONTRACT_VERSION, "attempt": self.dispatch.attempt, "events": list(events)}
        return as_json(said | more)

    async def post(self, body: bytes, telling: str = "", **how: Any) -> Reply:
        """A body to the door of the events; signed rightly, with the present token, unless said otherwise."""
        return await self._ask("POST", self.path, body, telling=telling, **({"bearer": self.token} | how))

    def entry(self, *events: dict[str, Any], **more: Any) -> dict[str, Any]:
        """What stands for this mission in a call of many; with its own token, unless said otherwise."""
        said = {"mission_id": str(self.mission), "token": self.token, "attempt": self.dispatch.attempt}
        return said | {"events": list(events)} | more

    async def post_many(self, body: bytes, telling: str, **how: Any) -> Reply:
        """A body to the door of events of many missions. Raises NotApplicable for a root that has none."""
        reply = await self._ask("POST", EVENTS_OF_MANY, body, telling=telling, **how)
        spoken = reply.headers.get(VERSION_HEADER, FIRST_VERSION)
        if reply.status == 404 and order(spoken) < order(MANY_SINCE):
            raise NotApplicable(f"the root speaks {spoken}, and the call came with {MANY_SINCE}")
        return reply

    async def say(self, *events: dict[str, Any], telling: str = "") -> EventReceipt:
        """A batch that has to be taken; the next token is taken over. Raises Failed."""
        reply = await self.post(self.batch(*events), telling or f"{len(events)} events")
        receipt = reply.model(EventReceipt)
        self.token = receipt.next_token
        return receipt

    async def tool(self, tool: str, how: dict[str, Any] | None = None, **arguments: Any) -> Reply:
        """A tool call; signed rightly, with the present token, unless `how` says otherwise."""
        path = f"/internal/v1/missions/{self.mission}/tools/{tool}/calls"
        return await self._ask(
            "POST", path, as_json({"arguments": arguments}), **({"bearer": self.token} | (how or {}))
        )

    async def ask_view(self, **how: Any) -> Reply:
        return await self._ask("GET", f"/internal/v1/missions/{self.mission}", **how)

    async def _ask(self, method: str, path: str, body: bytes = b"", **how: Any) -> Reply:
        """A root that is busy and says until when has not answered yet: it is asked again, signed anew."""
        until = time.monotonic() + self.play.pace.answer
        while True:
            reply = await self.line.ask(method, path, body, **how)
            wait = parse_retry_after(reply.headers.get("Retry-After")) if reply.status in (429, 503) else None
            if wait is None or "headers" in how or time.monotonic() + wait > until:
                return reply
            await asyncio.sleep(wait)

    async def view(self) -> RootView:
        return (await self.ask_view()).model(RootView)

    def artifact(self, kind: str = "aggregation_packet", **more: Any) -> dict[str, Any]:
        """The smallest artifact: an honest answer that nothing was found."""
        envelope = self.dispatch.envelope
        made: dict[str, Any] = {
            "schema_name": kind,
            "schema_version": "1",
            "mission_id": str(self.mission),
            "tenant_id": str(envelope.tenant_id),
            "actor_id": str(envelope.actor_id),
            "created_at": datetime.now(UTC).isoformat(),
            "producer": {"name": "conformance kit", "version": "1"},
            "answer_status": "not_found",
            "answer": "",
        }
        return made | more

    async def complete(self) -> EventReceipt:
        """The shortest way to the end of a mission."""
        return await self.say(
            self.event("artifact.produced", artifact=self.artifact()), self.event("signal", signal="complete")
        )
