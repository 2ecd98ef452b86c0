"""One real root behind many lanes. Each lane is a root of its own to the kit that asks it, and may change one thing on the way."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from uuid import UUID

import httpx

from app.embedded import free_port
from colony_client.client import EVENTS_OF_MANY, ColonyClient
from colony_client.contract import (
    CONTRACT_VERSION,
    VERSION_HEADER,
    Dispatch,
    DispatchAnswer,
    DispatchAnswers,
    MissionStatus,
    Ready,
)
from colony_client.errors import BadBody, BoundaryError, Busy, Malformed, Refused, SignatureRefused, Unreachable
from colony_client.signing import check, parse_keys, sign
from colony_client.wire import read_model
from tests.delivery.streams import serving
from tests.world import World
from tests.world.world import COLONY_KEY

KEYS = parse_keys(COLONY_KEY, "TEST")
FOREIGN = parse_keys("other:key-of-somebody-else", "TEST")
MARK = re.compile(rb"kit-[0-9a-f]{16}")  # what the kit writes into the goal of its missions
GONE = {"code": "mission_unknown", "detail": "This mission is not known here."}


# --- what passes through a lane


@dataclass(frozen=True)
class Said:
    """An answer of the root."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        found = json.loads(self.body or b"{}")
        return found if isinstance(found, dict) else {}

    def but(self, status: int | None = None, kind: bytes | None = None, **members: Any) -> "Said":
        """Another status, another content type, and those of its members changed that it has."""
        said = self.members
        changed = {name: value for name, value in members.items() if name in said}
        headers = [(name, kind if kind and name.lower() == b"content-type" else value) for name, value in self.headers]
        body = json.dumps(said | changed).encode() if changed else self.body
        return Said(status or self.status, headers, body)


def problem(status: int, code: str, **more: Any) -> Said:
    body = {"status": status, "code": code, "title": "Wrong", "detail": "Something is wrong."} | more
    return Said(status, [(b"content-type", b"application/problem+json")], json.dumps(body).encode())


@dataclass(frozen=True)
class Asked:
    """A request to the root, before the root has it."""

    app: Any
    scope: Mapping[str, Any]
    receive: Callable[[], Awaitable[Any]]
    body: bytes
    headers: httpx.Headers

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def mission(self) -> str:
        """Of the path; nobody's in a call of many."""
        return self.path.removeprefix("/internal/v1/missions/").split("/")[0]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a batch; none of what cannot be read or is no batch."""
        try:
            found = json.loads(self.body).get("events", [])
        except (ValueError, AttributeError, RecursionError):
            return []
        return [one for one in found if isinstance(one, dict)]

    def anew(self, **members: Any) -> "Asked":
        """Rightly signed, with a nonce of its own; members of the body changed."""
        body = json.dumps(json.loads(self.body) | members).encode() if members else self.body
        signed = sign(KEYS, self.scope["method"], self.path, body, "root")
        return replace(
            self, body=body, headers=httpx.Headers(dict(self.headers) | {k.lower(): v for k, v in signed.items()})
        )

    def with_events(self, change: Any) -> "Asked":
        return self.anew(events=[change(one) for one in self.events])

    async def answer(self) -> Said:
        said: list[Any] = []
        coming = [{"type": "http.request", "body": self.body, "more_body": False}]

        async def receive() -> Any:
            return coming.pop() if coming else await self.receive()

        async def keep(message: Any) -> None:
            said.append(message)

        headers = dict(self.headers) | ({"content-length": str(len(self.body))} if self.body else {})
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.app({**self.scope, "headers": raw}, receive, keep)
        return Said(said[0]["status"], said[0]["headers"], b"".join(one.get("body", b"") for one in said[1:]))


# --- the lanes


class Lane:
    """The root as it is: what comes in passes, and what goes out arrives.

    outside is what comes to the public API, inside what comes from the colony; the others are the root's own calls.
    """

    patience: ClassVar[float] = 30.0  # of the kit that asks it; less where nothing but its end is waited for
    first: ClassVar[float] = 30.0  # and for a mission's first dispatch, which comes: however slow the machine
    quiet: ClassVar[float] = 0.3  # how long it watches whether something comes that should not; more where it does
    retry_after: ClassVar[float] = 1.0

    def __init__(self, world: World) -> None:
        self.world, self.port = world, free_port()
        self.marks: set[bytes] = set()
        self.tokens: dict[str, str] = {}
        self.callback_base_url = ""
        self.colony = self.calls()

    @property
    def colony_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self) -> ColonyClient:
        return ColonyClient(self.colony_url, KEYS, timeout_s=10)

    async def outside(self, asked: Asked) -> Said:
        return await asked.answer()

    async def inside(self, asked: Asked) -> Said:
        return await asked.answer()

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        return await self.colony.dispatch(missions)

    async def status(self, mission: UUID) -> Any:
        return await self.colony.status(mission)

    async def cancel(self, mission: UUID, reason: str) -> Any:
        return await self.colony.cancel(mission, reason)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serves the lane; the address of its public API."""

        def served(app: Any, way: Any) -> Any:
            async def asgi(scope: Any, receive: Any, send: Any) -> None:
                body, more = b"", True
                while more:
                    message = await receive()
                    body, more = body + message.get("body", b""), message.get("more_body", False)
                self.marks.update(MARK.findall(body) if scope["path"] == "/v1/missions" else ())
                said = await way(Asked(app, scope, receive, body, httpx.Headers(scope["headers"])))
                headers = [one for one in said.headers if one[0].lower() != b"content-length"]
                headers.append((b"content-length", str(len(said.body)).encode()))
                await send({"type": "http.response.start", "status": said.status, "headers": headers})
                await send({"type": "http.response.body", "body": said.body})

            return serving(self.world, asgi)

        async with (
            served(self.world.public, self.outside) as public,
            served(self.world.internal, self.inside) as inside,
        ):
            self.callback_base_url = inside
            try:
                yield public
            finally:
                await self.colony.aclose()


class Switch(ColonyClient):
    """The root's way to its colony, which is as many as there are lanes: each mission goes where it was asked for.

    Trouble of one lane is no trouble of the root, whose breaker would hold up the others: it says busy, and the mission comes again.
    """

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", KEYS)
        self.lanes: list[Lane] = []
        self.lane_of: dict[UUID, Lane] = {}

    async def ready(self, **_: Any) -> Ready:
        return Ready(ready=True)

    async def dispatch(self, missions: Sequence[Dispatch], **_: Any) -> list[DispatchAnswer]:
        for one in missions:
            mark = MARK.findall(one.envelope.user_goal.encode())[0]
            self.lane_of[one.mission_id] = next(lane for lane in self.lanes if mark in lane.marks)
        lanes = {self.lane_of[one.mission_id] for one in missions}
        said = await asyncio.gather(*(self._offer(lane, missions) for lane in lanes))
        by_mission = {one.mission_id: one for answers in said for one in answers}
        return [by_mission[one.mission_id] for one in missions]

    async def _offer(self, lane: Lane, missions: Sequence[Dispatch]) -> list[DispatchAnswer]:
        own = [
            one.model_copy(update={"callback_base_url": lane.callback_base_url})
            for one in missions
            if self.lane_of[one.mission_id] is lane
        ]
        lane.tokens.update({str(one.mission_id): one.mission_token for one in own})
        try:
            return await lane.dispatch(own)
        except BoundaryError as error:
            wait = (error.retry_after if isinstance(error, Refused) else None) or 0.4
            return answered(own, "busy", retry_after_s=wait)

    async def status(self, mission_id: UUID, **_: Any) -> Any:
        try:
            return await self.lane_of[mission_id].status(mission_id)
        except BoundaryError:
            raise Refused(404, GONE, b"", None) from None

    async def cancel(self, mission_id: UUID, reason: str, **_: Any) -> Any:
        try:
            return await self.lane_of[mission_id].cancel(mission_id, reason)
        except (BoundaryError, RuntimeError):  # the lane is closed, and its last missions are cancelled
            raise Refused(404, GONE, b"", None) from None


def answered(missions: Sequence[Dispatch], outcome: Any, **more: Any) -> list[DispatchAnswer]:
    return [DispatchAnswer(mission_id=one.mission_id, attempt=one.attempt, outcome=outcome, **more) for one in missions]


@asynccontextmanager
async def one_root(world: World) -> AsyncIterator[Switch]:
    """The root with its worker running, and the switch that lanes are added to."""
    switch = world.worker.colony.client = Switch()
    working = asyncio.create_task(world.worker.run())
    try:
        yield switch
    finally:
        world.worker.stopping.set()
        await working


# --- lanes that are wrong in one thing: what the root sends


class Rewriting(Lane):
    """Changes its requests to the colony after they are written."""

    def calls(self) -> ColonyClient:
        made = super().calls()
        made._http.event_hooks = {"request": [self.rewrite]}
        return made

    async def rewrite(self, request: httpx.Request) -> None:
        raise NotImplementedError

    @staticmethod
    def sign(request: httpx.Request, **how: Any) -> None:
        signed = sign(KEYS, request.method, request.url.path, request.content, "colony", **how)
        request.headers.update(signed)


class GivesMoreThanAsked(Lane):
    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        def more(one: Dispatch) -> Dispatch:
            budgets = one.budgets.model_copy(update={"time_ms": one.envelope.budget.time_ms + 1})
            return one.model_copy(update={"budgets": budgets})

        return await super().dispatch([more(one) for one in missions])


class GivesEverybodyOneToken(Lane):
    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        first = next(iter(self.tokens.values()))
        return await super().dispatch([one.model_copy(update={"mission_token": first}) for one in missions])


class BeginsWithTheSecondAttempt(Lane):
    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        said = await super().dispatch([one.model_copy(update={"attempt": one.attempt + 1}) for one in missions])
        return [one.model_copy(update={"attempt": one.attempt - 1}) for one in said]


class Meddling(Lane):
    """Writes its messages to the colony in its own way."""

    def meddle(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def calls(self) -> ColonyClient:
        meddle = self.meddle

        class Meddler(ColonyClient):
            async def _exchange(self, method: str, path: str, headers: Any, body: bytes, timeout_s: float) -> Any:
                body = json.dumps(meddle(path, json.loads(body))).encode() if body else body
                return await super()._exchange(method, path, headers, body, timeout_s)

        return Meddler(self.colony_url, KEYS, timeout_s=10)


class InventsMembers(Meddling):
    def meddle(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return message | {"mood": "cheerful"}


class WritesNumbersAsText(Meddling):
    patience = first = 4.0  # it comes, and is never heard

    def meddle(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return message | {"missions": [one | {"attempt": "1"} for one in message.get("missions", [])]}


class CancelsWithoutAReason(Meddling):
    def meddle(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return {} if path.endswith("/cancel") else message


class SignsWithAnotherKey(Lane):
    def calls(self) -> ColonyClient:
        return ColonyClient(self.colony_url, FOREIGN, timeout_s=10)


class UsesOneNonce(Rewriting):
    async def rewrite(self, request: httpx.Request) -> None:
        self.sign(request, nonce="always-the-same-nonce")


class NamesNoVersion(Rewriting):
    async def rewrite(self, request: httpx.Request) -> None:
        del request.headers[VERSION_HEADER]


# --- what it makes of the colony's answers


class OffersWhatIsTaken(Lane):
    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        await super().dispatch(missions)
        return await super().dispatch(missions)


class ForgetsWhatIsSaidOfTime(Lane):
    retry_after = 5.0

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        try:
            said = await super().dispatch(missions)
        except Busy:
            return answered(missions, "busy", retry_after_s=0.2)
        return [one.model_copy(update={"retry_after_s": 0.2 if one.retry_after_s else None}) for one in said]


class SaysNotThatItWaits(Lane):
    patience = 8.0

    async def outside(self, asked: Asked) -> Said:
        return (await super().outside(asked)).but(degraded=None)


class HearsNoRefusal(Lane):
    patience = 8.0

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        said = await super().dispatch(missions)
        busy = {"outcome": "busy", "reason": None, "code": None}
        return [one.model_copy(update=busy) if one.outcome == "refused" else one for one in said]


class OffersWhatWasRefused(Lane):
    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        said = await super().dispatch(missions)
        refused = {one.mission_id for one in said if one.outcome == "refused"}
        if again := [one for one in missions if one.mission_id in refused]:
            await super().dispatch(again)
        return said


class KnowsEveryMember(Lane):
    """Refuses answers with members that it does not know."""

    patience = 8.0

    def calls(self) -> ColonyClient:
        class Strict(ColonyClient):
            async def _exchange(self, method: str, path: str, headers: Any, body: bytes, timeout_s: float) -> Any:
                reply = await super()._exchange(method, path, headers, body, timeout_s)
                if path == "/v1/missions" and reply.status == 200:
                    try:
                        read_model(DispatchAnswers, reply.body)
                    except BadBody as bad:
                        raise Malformed(str(bad), status=200, body=reply.body) from None
                return reply

        return Strict(self.colony_url, KEYS, timeout_s=10)


class TakesALostAnswerForYes(Lane):
    patience = 8.0

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        try:
            return await super().dispatch(missions)
        except BoundaryError as error:
            if isinstance(error, Busy) or (isinstance(error, Unreachable) and error.before_body):
                raise
            return answered(missions, "accepted")


class CountsWhatWasLost(Lane):
    """An answer that was lost makes the next attempt."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.lost = 0

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        try:
            said = await super().dispatch(
                [one.model_copy(update={"attempt": one.attempt + self.lost}) for one in missions]
            )
        except Unreachable as error:
            self.lost += not error.before_body
            raise
        return [one.model_copy(update={"attempt": one.attempt - self.lost}) for one in said]


class FollowsRedirects(Lane):
    def calls(self) -> ColonyClient:
        made = super().calls()
        made._http.follow_redirects = True
        return made


class GivesUpWhenNobodyIsThere(Lane):
    patience = 8.0

    async def dispatch(self, missions: list[Dispatch]) -> list[DispatchAnswer]:
        try:
            return await super().dispatch(missions)
        except Unreachable as error:
            if not error.before_body:
                raise
            return answered(missions, "refused", code="away", reason="nobody is there")


# --- what it answers to events


class CountsOneTooFew(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(accepted_seq=max(0, said.members.get("accepted_seq", 0) - 1))


class SendsUselessTokens(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(next_token="mt1.x.y.z")


class SaysNotWhereAGapBegins(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(expected_seq=None)


class CountsItself(Lane):
    """It remembers what the root has of each mission, and so knows what comes again."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.last: dict[str, int] = {}

    async def inside(self, asked: Asked) -> Said:
        last = self.last.get(asked.mission, 0)
        if asked.events and asked.events[0].get("seq", 0) <= last:
            return await self.again(asked, last)
        return await self.counted(asked)

    async def counted(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        self.last[asked.mission] = said.members.get("accepted_seq", self.last.get(asked.mission, 0))
        return said

    async def again(self, asked: Asked, last: int) -> Said:
        raise NotImplementedError


class TakesAgainWhatItHas(CountsItself):
    """An event that comes again is applied again, under the next number; the receipt hides it."""

    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(accepted_seq=asked.events[-1]["seq"]) if asked.events else said

    async def again(self, asked: Asked, last: int) -> Said:
        return await self.counted(asked.anew(events=[one | {"seq": last + n} for n, one in enumerate(asked.events, 1)]))


class RefusesWhatItHas(CountsItself):
    async def again(self, asked: Asked, last: int) -> Said:
        return problem(409, "sequence_gap", expected_seq=last + 1)


class BelievesEverySignature(Lane):
    async def inside(self, asked: Asked) -> Said:
        return await super().inside(asked.anew())


class BelievesToolCalls(Lane):
    async def inside(self, asked: Asked) -> Said:
        return await super().inside(asked.anew() if asked.path.endswith("/calls") else asked)


class ForgetsNonces(Lane):
    async def inside(self, asked: Asked) -> Said:
        try:
            check(KEYS, asked.scope["method"], asked.path, asked.body, "root", asked.headers)
        except SignatureRefused:
            return await super().inside(asked)
        return await super().inside(asked.anew())


class BelievesEveryToken(Lane):
    def right(self, asked: Asked) -> bool:
        return "authorization" in asked.headers

    async def inside(self, asked: Asked) -> Said:
        if self.right(asked) and asked.mission in self.tokens:
            asked = replace(asked, headers=httpx.Headers(dict(asked.headers) | self.bearer(asked)))
        return await super().inside(asked)

    def bearer(self, asked: Asked) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[asked.mission]}"}


class AsksNoTokenOfTools(BelievesEveryToken):
    def right(self, asked: Asked) -> bool:
        return asked.path.endswith("/calls") and "authorization" not in asked.headers


class KeepsNothingRefused(Lane):
    patience = 8.0

    async def outside(self, asked: Asked) -> Said:
        said = await super().outside(asked)
        items = [one for one in said.members.get("items", []) if one.get("type") != "payload.quarantined"]
        return said.but(items=items)


class NamesNoFields(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(detail="Something is wrong.", errors=[]) if said.status == 422 else said


class TakesUnknownMembers(Lane):
    async def inside(self, asked: Asked) -> Said:
        if b"kit_" in asked.body:
            known = {name: one for name, one in json.loads(asked.body).items() if not name.startswith("kit_")}
            asked = replace(asked, body=json.dumps(known).encode()).with_events(
                lambda event: {name: one for name, one in event.items() if not name.startswith("kit_")}
            )
        return await super().inside(asked)


class TakesHalfOfABatch(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        if said.status == 422 and len(events := asked.events) == 2:
            await super().inside(asked.anew(events=events[:1]))
        return said


class BreaksOnWhatItCannotRead(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(500) if said.status in (400, 422) and not asked.events else said


class TakesAnyNumber(Lane):
    async def inside(self, asked: Asked) -> Said:
        if len(events := asked.events) > 500:
            await super().inside(asked.anew(events=events[:500]))
            asked = asked.anew(events=events[500:])
        return await super().inside(asked)


class FallsOverALargeBody(Lane):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.over = False

    async def inside(self, asked: Asked) -> Said:
        self.over = self.over or len(asked.body) > 8 * 1024 * 1024
        return problem(503, "unavailable") if self.over else await super().inside(asked)


class LetsAColonySpeakAsTheRoot(Lane):
    async def inside(self, asked: Asked) -> Said:
        if b'"name": "root"' in asked.body:
            asked = asked.with_events(
                lambda event: event | {"artifact": event["artifact"] | {"producer": {"name": "kit", "version": "1"}}}
            )
        return await super().inside(asked)


class GivesOneLease(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(lease_until="2999-01-01T00:00:00Z")


class ForgetsEvents(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(last_seq=0)


class SaysAnotherState(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(state="completed")


class SpeaksEveryVersion(Lane):
    async def inside(self, asked: Asked) -> Said:
        return await super().inside(asked.anew(contract_version=CONTRACT_VERSION) if b'"2.0"' in asked.body else asked)


class SpeaksOneVersion(Lane):
    async def inside(self, asked: Asked) -> Said:
        if b'"contract_version": "1.1"' in asked.body:
            return problem(422, "validation", detail=f"/contract_version: not {CONTRACT_VERSION}")
        return await super().inside(asked)


class AnswersHtml(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(kind=b"text/html") if said.status >= 400 else said


class GivesProblemsNoTitle(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(title=None)


class OfMany(Lane):
    """Wrong where many missions come in one call."""

    async def inside(self, asked: Asked) -> Said:
        return await (self.of_many(asked) if asked.path == EVENTS_OF_MANY else super().inside(asked))

    async def of_many(self, asked: Asked) -> Said:
        raise NotImplementedError


class RefusesManyForOne(OfMany):
    async def of_many(self, asked: Asked) -> Said:
        said = await asked.answer()
        wrong = next((one["problem"] for one in said.members.get("missions", []) if one["problem"]), None)
        return said if wrong is None else problem(wrong["status"], wrong["code"])


class TellsManyTheSame(OfMany):
    async def of_many(self, asked: Asked) -> Said:
        said = await asked.answer()
        found = said.members.get("missions", [])
        return said.but(missions=[found[0] | {"mission_id": one["mission_id"]} for one in found])


class TakesManyAgain(OfMany):
    async def of_many(self, asked: Asked) -> Said:
        return await (asked.anew() if "x-colony-signature" in asked.headers else asked).answer()


class TakesAMissionTwice(OfMany):
    async def of_many(self, asked: Asked) -> Said:
        found = json.loads(asked.body)["missions"]
        once = {one["mission_id"]: one for one in found}
        return await (asked if len(once) == len(found) else asked.anew(missions=[*once.values()])).answer()


# --- tools, budgets, ends


class AnswersToolsWithNothing(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        return said.but(result=None) if asked.path.endswith("workspace.outline/calls") else said


class AsksNoPolicy(Lane):
    async def inside(self, asked: Asked) -> Said:
        said = await super().inside(asked)
        refused = said.status == 403 and asked.path.endswith("crm.list/calls")
        return Said(200, [(b"content-type", b"application/json")], b'{"result": {"records": []}}') if refused else said


class NeverAsksToStop(Lane):
    async def inside(self, asked: Asked) -> Said:
        return (await super().inside(asked)).but(stop=False, stop_reason=None)


class HearsNoSignal(Lane):
    patience = 8.0

    async def inside(self, asked: Asked) -> Said:
        if b'"signal"' in asked.body:
            asked = asked.with_events(lambda one: one | {"signal": "continue"} if one["type"] == "signal" else one)
        return await super().inside(asked)


class KeepsAReasonToItself(Lane):
    async def inside(self, asked: Asked) -> Said:
        if b'"reason"' in asked.body:
            asked = asked.with_events(lambda one: one | {"reason": "It is over."} if one["type"] == "signal" else one)
        return await super().inside(asked)


class TellsNobodyOfACancel(Lane):
    patience = 8.0

    async def cancel(self, mission: UUID, reason: str) -> Any:
        return None


class GivesUpNoAttempt(Lane):
    """Whatever the colony says of an attempt, it runs."""

    patience = 8.0

    async def status(self, mission: UUID) -> Any:
        try:
            return await super().status(mission)
        except Refused:
            return MissionStatus(mission_id=mission, attempt=1, state="running", last_seq_sent=0)


class AsksNobodyAboutSilence(Lane):
    patience = 8.0

    async def status(self, mission: UUID) -> Any:
        raise Refused(404, GONE, b"", None)


class BelievesNoColonyThatItRuns(Lane):
    quiet = 2.0

    async def status(self, mission: UUID) -> Any:
        await super().status(mission)
        raise Refused(404, GONE, b"", None)
