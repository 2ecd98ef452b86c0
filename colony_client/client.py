"""The two callers of the boundary: `ColonyClient` (root to colony) and `RootClient` (colony to root).

Every call is signed, has one deadline for the whole exchange, follows no redirect, reads a bounded answer (also after
decompression) and ends in a model or in one error of `errors.BoundaryError`. Whether to try again is the caller's
decision; a repeated call is signed anew and therefore never taken for a replay.
"""

import asyncio
import email.utils
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from colony_client.artifacts import ToolName
from colony_client.contract import (
    CODE_CLOSED,
    CODE_SUPERSEDED,
    FIRST_VERSION,
    MANY_SINCE,
    MAX_BODY_BYTES,
    VERSION_HEADER,
    CancelRequest,
    Dispatch,
    DispatchAnswer,
    DispatchAnswers,
    DispatchBatch,
    Event,
    EventAnswer,
    EventAnswers,
    EventBatch,
    EventReceipt,
    EventsOfMany,
    Grounds,
    Health,
    MissionEvents,
    MissionStatus,
    Ready,
    RootView,
    ToolAnswer,
    ToolCall,
    ToolOffer,
    ToolOffers,
    url_origin,
)
from colony_client.errors import (
    BadBody,
    BoundaryError,
    Busy,
    Incompatible,
    Malformed,
    Refused,
    SequenceGap,
    Superseded,
    TimedOut,
    Unauthorized,
    Unreachable,
    VersionRefused,
)
from colony_client.hearing import MOST_HEARD, Listening, heard
from colony_client.signing import Audience, Keys, sign
from colony_client.together import Together, Words
from colony_client.versions import order, spoken_with, written
from colony_client.wire import read_json, read_model

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_COLONY_ANSWER_BYTES = 2 * 1024 * 1024  # 64 answers with the longest reasons in the longest spelling are 1.5 MB
KEPT_BYTES = MOST_HEARD  # of an answer that was not understood, for whoever has to find out why
CONNECT_TIMEOUT_S = 2.0
LONGEST_RETRY_AFTER_S = 86_400.0
EVENTS_OF_MANY = "/internal/v1/events"

Answer = TypeVar("Answer", bound=BaseModel)

_TRACE = TraceContextTextMapPropagator()  # only traceparent and tracestate cross the boundary, never baggage
_TOOL_NAME: TypeAdapter[str] = TypeAdapter(ToolName)


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: httpx.Headers
    body: bytes
    said: bytes  # what is worth keeping when it is not understood: the body, or the head of an answer without one


class _Exchange:
    """One peer, one pool of connections, one way to exchange a request for an answer."""

    def __init__(
        self,
        base_url: str,
        keys: Keys,
        audience: Audience,
        *,
        timeout_s: float,
        max_answer_bytes: int,
        max_connections: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        url_origin(base_url)
        self._hears = transport is None  # a transport of somebody else's has no ears
        self._base_url = base_url.rstrip("/")
        self._keys = keys
        self._audience = audience
        self.timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self.version: str | None = None  # the one spoken with this peer, once it is known
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,  # a proxy or a .netrc of the machine has no business on the private network
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            transport=transport or Listening(base_url, max_connections),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        *,
        question: BaseModel | None = None,
        bearer: str | None = None,
        timeout_s: float | None = None,
        status_carries_answer: Sequence[int] = (),
    ) -> Answer:
        """Send, read, judge and parse. A status in `status_carries_answer` is an answer although it is no success."""
        body = written(question, self.version or FIRST_VERSION) if question is not None else b""
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"a request body of {len(body)} bytes is larger than the contract's {MAX_BODY_BYTES}")
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "mission-root"}
        if question is not None:
            headers["Content-Type"] = "application/json"
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        _TRACE.inject(headers)

        try:
            reply = await self._exchange(method, path, headers, body, timeout_s or self.timeout_s)
        except Unreachable:
            self.version = None  # who comes back may be another version
            raise
        self._hear_version(reply)
        if reply.status >= 400 and reply.status not in status_carries_answer:
            raise refusal(reply.status, reply.headers, reply.said)
        if 300 <= reply.status < 400:
            raise self._malformed(f"answered {reply.status}; redirects are not followed", reply.status, reply.said)
        try:
            return read_model(answer, reply.body, max_bytes=self._max_answer_bytes, unknown="ignore")
        except BadBody as error:
            if reply.status >= 400:
                raise refusal(reply.status, reply.headers, reply.said) from error
            raise self._malformed(str(error), reply.status, reply.said) from error

    def _hear_version(self, reply: _Reply) -> None:
        """Every answer says what its peer speaks: it may have been replaced since the last one."""
        said = reply.headers.get(VERSION_HEADER)
        if said is None:
            if reply.status == 422:  # a peer of the first version does not say, and refuses what it does not know
                self.version = FIRST_VERSION
            return
        try:
            self.version = spoken_with(said)
        except VersionRefused as refused:
            if reply.status >= 400:
                raise Incompatible(f"{self._audience}: {refused}") from None

    async def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes, timeout_s: float) -> _Reply:
        if self._http.is_closed:
            raise Unreachable("this client was closed", before_body=True)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        request = self._http.build_request(
            method, self._base_url + path, content=body, headers=headers, timeout=timeout
        )
        sent_path = request.url.raw_path.decode("ascii")
        request.headers.update(sign(self._keys, method, sent_path, body, self._audience))
        status: int | None = None
        received, raw = bytearray(), bytearray()
        listening = heard.set(raw)
        try:
            async with asyncio.timeout(timeout_s):  # httpx only limits each read, and a byte a second satisfies that
                response = await self._http.send(request, stream=True)
                try:
                    # it lay there since the exchange before: closed unread, with whatever follows it
                    if self._hears and not raw:
                        raise self._malformed("answered before it was asked", response.status_code, b"")
                    status = response.status_code
                    await self._read_bounded(response, received)
                finally:
                    await response.aclose()
        except Malformed as error:
            error.body = error.body or bytes(raw)
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreachable(_say(error), before_body=True) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            said = bytes(received or raw)[:KEPT_BYTES]
            raise TimedOut(f"no complete answer within {timeout_s:.3g} s", body=said) from error
        except httpx.TransportError as error:
            if not raw and status is None:
                raise Unreachable(_say(error), before_body=False) from error
            what = "no HTTP answer" if status is None else "the answer was cut short"
            raise self._malformed(f"{what} ({_say(error)})", status, bytes(received or raw)) from error
        finally:
            heard.reset(listening)
        return _Reply(status, response.headers, bytes(received), bytes(received or raw))

    async def _read_bounded(self, response: httpx.Response, received: bytearray) -> None:
        """Fill `received` with the decoded body; the limit holds for the bytes on the wire and for the decoded ones."""
        limit = self._max_answer_bytes
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise self._malformed("answered in a content encoding that was not offered", response.status_code, b"")
        unpack = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
        on_the_wire = 0
        async for chunk in response.aiter_raw():
            on_the_wire += len(chunk)
            try:
                received += unpack.decompress(chunk, limit + 1 - len(received)) if unpack else chunk
            except zlib.error as error:
                raise self._malformed("the gzip is damaged", response.status_code, bytes(received)) from error
            if max(on_the_wire, len(received)) > limit:
                raise self._malformed(f"larger than {limit} bytes", response.status_code, bytes(received))
        if unpack and (unpack.unused_data or not (unpack.eof or on_the_wire == 0)):
            raise self._malformed("the gzip does not end where the body does", response.status_code, bytes(received))

    def _malformed(self, detail: str, status: int | None, body: bytes) -> Malformed:
        return Malformed(f"{self._audience}: {detail}", status=status, body=body[:KEPT_BYTES])


class ColonyClient(_Exchange):
    """The root's way to a colony. Use it as `async with`, one object per process: it holds the connections."""

    def __init__(
        self,
        base_url: str,
        keys: Keys,
        *,
        timeout_s: float = 10.0,
        max_answer_bytes: int = MAX_COLONY_ANSWER_BYTES,
        max_connections: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            base_url,
            keys,
            "colony",
            timeout_s=timeout_s,
            max_answer_bytes=max_answer_bytes,
            max_connections=max_connections,
            transport=transport,
        )

    async def dispatch(self, missions: Sequence[Dispatch], *, timeout_s: float | None = None) -> list[DispatchAnswer]:
        """Hand over 1 to 64 missions in one call; the answers come in the order asked, exactly one for each.

        A colony whose version is not known is asked for it first. One that has become older since is offered the same
        missions again, in the version it knows. All of it together takes no longer than `timeout_s`.
        """
        batch = DispatchBatch(missions=list(missions))
        loop = asyncio.get_running_loop()
        ends = loop.time() + (timeout_s or self.timeout_s)

        async def offer() -> DispatchAnswers:
            left = max(ends - loop.time(), 0.001)
            return await self._ask("POST", "/v1/missions", DispatchAnswers, question=batch, timeout_s=left)

        if self.version is None:
            await self._meet(ends - loop.time())
        offered_in = self.version or FIRST_VERSION
        try:
            answers = await offer()
        except Refused as refused:
            if refused.status != 422 or order(self.version or FIRST_VERSION) >= order(offered_in):
                raise
            answers = await offer()
        by_attempt = {(answer.mission_id, answer.attempt): answer for answer in answers.missions}
        asked = [(dispatch.mission_id, dispatch.attempt) for dispatch in batch.missions]
        if len(answers.missions) != len(asked) or by_attempt.keys() != set(asked):
            said = answers.model_dump_json().encode()
            raise self._malformed("the answers are not for the missions that were sent", 200, said)
        return [by_attempt[attempt] for attempt in asked]

    async def _meet(self, timeout_s: float) -> None:
        """Ask for the colony's version. A colony that is there and does not say it is spoken to in the first one."""
        try:
            health = await self.health(timeout_s=timeout_s)
        except (Malformed, Refused):
            return
        if self.version is None:
            self.version = spoken_with(health.contract_version)

    async def status(self, mission_id: UUID, *, timeout_s: float | None = None) -> MissionStatus:
        """What the colony knows of a mission; Refused with status 404 when it knows nothing."""
        status = await self._ask("GET", f"/v1/missions/{mission_id}", MissionStatus, timeout_s=timeout_s)
        return self._same_mission(status, mission_id)

    async def cancel(self, mission_id: UUID, reason: str, *, timeout_s: float | None = None) -> MissionStatus:
        path, why = f"/v1/missions/{mission_id}/cancel", CancelRequest(reason=reason)
        status = await self._ask("POST", path, MissionStatus, question=why, timeout_s=timeout_s)
        return self._same_mission(status, mission_id)

    async def health(self, *, timeout_s: float | None = None) -> Health:
        return await self._ask("GET", "/health", Health, timeout_s=timeout_s)

    async def ready(self, *, timeout_s: float | None = None) -> Ready:
        """A colony that is not ready says so with status 503 and the same body; that is an answer, not an error."""
        return await self._ask("GET", "/ready", Ready, timeout_s=timeout_s, status_carries_answer=(503,))

    def _same_mission(self, status: MissionStatus, mission_id: UUID) -> MissionStatus:
        if status.mission_id != mission_id:
            raise self._malformed("answered about another mission", 200, status.model_dump_json().encode())
        return status


class RootClient(_Exchange):
    """The colony's way to the root.

    It carries the newest mission token of every attempt it was told about: `hold` the one of the dispatch, and each
    accepted batch replaces it. `forget` an attempt when it has ended.
    """

    def __init__(
        self,
        base_url: str,
        keys: Keys,
        *,
        timeout_s: float = 10.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_connections: int = 50,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            base_url,
            keys,
            "root",
            timeout_s=timeout_s,
            max_answer_bytes=max_answer_bytes,
            max_connections=max_connections,
            transport=transport,
        )
        self._tokens: dict[tuple[UUID, int], str] = {}
        self._gateway_tokens: dict[tuple[UUID, int], str] = {}
        self._together = Together(self._send_one, self._send_many, self.timeout_s)

    async def aclose(self) -> None:
        await self._together.close()
        await super().aclose()

    def hold(self, mission_id: UUID, attempt: int, token: str, gateway_token: str | None = None) -> None:
        self._tokens[mission_id, attempt] = token
        if gateway_token is not None:
            self._gateway_tokens[mission_id, attempt] = gateway_token

    def forget(self, mission_id: UUID, attempt: int) -> None:
        self._tokens.pop((mission_id, attempt), None)
        self._gateway_tokens.pop((mission_id, attempt), None)

    def gateway_token(self, mission_id: UUID, attempt: int) -> str | None:
        """The newest key of an attempt to the root's model gateway; None when the root has given none."""
        return self._gateway_tokens.get((mission_id, attempt))

    async def send_events(
        self, mission_id: UUID, attempt: int, events: Sequence[Event] = (), *, timeout_s: float | None = None
    ) -> EventReceipt:
        """Send up to 500 events with consecutive `seq`, or none as a heartbeat, and take over the next token.

        SequenceGap names the `seq` to go on from, Superseded means stop, Busy when to come back; sending the same
        events again is harmless. What several missions say while calls are on their way goes together in the next one, if
        the root takes that; each is told its own. Who names a time waits for nobody.
        """
        batch = EventBatch(attempt=attempt, events=list(events))
        words = Words(mission_id, attempt, batch, self._token(mission_id, attempt))
        if timeout_s is not None or order(self.version or FIRST_VERSION) < order(MANY_SINCE):
            return await self._send_one(words, timeout_s=timeout_s)
        return await self._together.put(words)

    async def _send_one(self, words: Words, timeout_s: float | None = None) -> EventReceipt:
        path, bearer = f"/internal/v1/missions/{words.mission_id}/events", self._newest(words)
        receipt = await self._ask("POST", path, EventReceipt, question=words.batch, bearer=bearer, timeout_s=timeout_s)
        return self._taken(words, receipt)

    async def _send_many(self, together: Sequence[Words]) -> list[EventReceipt | Exception | None]:
        """Each one's receipt or error; nothing for whom it has to be said alone, so that whoever is at fault is told so."""
        entries = {one.mission_id: entry for one in together if (entry := self._entry(one))}
        if len(entries) < 2:
            return [None] * len(together)
        try:
            answers = await self._ask_many(list(entries.values()))
        except BoundaryError as error:
            if isinstance(error, Refused) and not (error.retryable or isinstance(error, Unauthorized)):
                return [None] * len(together)  # refused whole and for good
            return [error if one.mission_id in entries else None for one in together]
        told = dict(zip(entries, answers, strict=True))
        return [self._told(one, told[one.mission_id]) if one.mission_id in told else None for one in together]

    def _entry(self, words: Words) -> MissionEvents | None:
        """What stands for it in a shared call; None when it may not stand there, as with a token that cannot be one."""
        try:
            return MissionEvents(
                mission_id=words.mission_id,
                token=self._newest(words),
                attempt=words.attempt,
                events=words.batch.events,
            )
        except ValidationError:
            return None

    async def _ask_many(self, entries: list[MissionEvents]) -> list[EventAnswer]:
        said = await self._ask("POST", EVENTS_OF_MANY, EventAnswers, question=EventsOfMany(missions=entries))
        if [one.mission_id for one in said.missions] != [one.mission_id for one in entries]:
            body = said.model_dump_json().encode()
            raise self._malformed("the answers are not for the missions that were sent", 200, body)
        return said.missions

    def _told(self, words: Words, answer: EventAnswer) -> EventReceipt | Exception:
        if answer.receipt is not None:
            return self._taken(words, answer.receipt)
        assert answer.problem is not None
        body = json.dumps(answer.problem).encode()[:KEPT_BYTES]
        return refused_with(int(str(answer.problem["status"])), answer.problem, body, answer.retry_after_s)

    def _taken(self, words: Words, receipt: EventReceipt) -> EventReceipt:
        key = words.mission_id, words.attempt
        if key in self._tokens:  # unless it was forgotten meanwhile
            self._tokens[key] = receipt.next_token
            if receipt.next_gateway_token is not None:
                self._gateway_tokens[key] = receipt.next_gateway_token
        return receipt

    def _newest(self, words: Words) -> str:
        return self._tokens.get((words.mission_id, words.attempt), words.token)

    async def call_tool(
        self,
        mission_id: UUID,
        attempt: int,
        tool: str,
        arguments: Mapping[str, JsonValue],
        *,
        grounds: Grounds | None = None,
        timeout_s: float | None = None,
    ) -> JsonValue:
        """Call one of the root's tools and return its result. grounds: why a change is wanted, for a tool that changes something."""
        path = f"/internal/v1/missions/{mission_id}/tools/{_TOOL_NAME.validate_python(tool)}/calls"
        call = ToolCall(arguments=dict(arguments), grounds=grounds)
        token = self._token(mission_id, attempt)
        answer = await self._ask("POST", path, ToolAnswer, question=call, bearer=token, timeout_s=timeout_s)
        return answer.result

    async def tools(self, mission_id: UUID, attempt: int, *, timeout_s: float | None = None) -> list[ToolOffer]:
        """The tools that the mission may call, as they are now."""
        path, token = f"/internal/v1/missions/{mission_id}/tools", self._token(mission_id, attempt)
        return (await self._ask("GET", path, ToolOffers, bearer=token, timeout_s=timeout_s)).tools

    async def mission_view(self, mission_id: UUID, *, timeout_s: float | None = None) -> RootView:
        """What the root believes; asked without a token, because a colony that restarted has none left."""
        view = await self._ask("GET", f"/internal/v1/missions/{mission_id}", RootView, timeout_s=timeout_s)
        if view.mission_id != mission_id:
            raise self._malformed("answered about another mission", 200, view.model_dump_json().encode())
        return view

    def _token(self, mission_id: UUID, attempt: int) -> str:
        try:
            return self._tokens[mission_id, attempt]
        except KeyError:
            raise ValueError(f"no token is held for attempt {attempt} of mission {mission_id}") from None


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error that an answer of status 400 or above stands for."""
    problem: dict[str, Any] | None
    try:
        document = read_json(body)
        problem = document if isinstance(document, dict) else None
    except BadBody:  # an HTML page from something in between, most likely
        problem = None
    return refused_with(status, problem, body[:KEPT_BYTES], parse_retry_after(headers.get("Retry-After")))


def refused_with(status: int, problem: dict[str, Any] | None, body: bytes, retry_after: float | None) -> Refused:
    expected = (problem or {}).get("expected_seq")
    ended = (problem or {}).get("code") in (CODE_SUPERSEDED, CODE_CLOSED)

    kind: type[Refused] = Refused
    if status in (401, 403):
        kind = Unauthorized
    elif status in (429, 503):
        kind = Busy
    elif status == 410 or (status == 409 and ended):
        kind = Superseded
    elif status == 409 and type(expected) is int and expected >= 1:
        kind = SequenceGap
    return kind(status, problem, body, retry_after)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait, from a number of seconds or an HTTP date; None when absent or unreadable, one day at most."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000" means UTC without saying where the clock stands
        moment = moment.replace(tzinfo=UTC)
    wait = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER_S)


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
