"""The root that the kit plays: it takes events and answers tools as the contract says, in whatever mood it is told.

What is wrong with a callback is noted, and then the callback is taken as well as it can be: so one mistake of a colony
is one requirement that fails, and the others are still asked.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from colony_client import tokens
from colony_client.artifacts import ReviewPacket
from colony_client.contract import (
    MAX_BODY_BYTES,
    MAX_BODY_DEPTH,
    MAX_MISSIONS_PER_CALL,
    ArtifactProduced,
    Dispatch,
    EventBatch,
    EventReceipt,
    RootView,
    ToolCall,
    WritebackProposed,
)
from colony_client.errors import BadBody, SignatureRefused
from colony_client.signing import Keys, check, parse_keys, signed_path
from colony_client.versions import SaysVersion
from colony_client.wire import read_json, read_model
from colony_kit.attempt import Attempt, Breach, Heard, Mood
from colony_kit.library import Library, Refusal

STRANGE = {"kit_says": {"nobody": ["knows", "this"]}, "kit_number": 7}  # members that no contract has
# How many tokens ago the token of a callback may have been the newest: one answer may have crossed it, or a few a tool call.
OLD_FOR_EVENTS, OLD_FOR_TOOLS = 1, 3
GONE_S = 1.0
PATIENT_GAPS = 2  # a gap is refused so often; then the events are taken, so that the rest can be seen


class PlayedRoot:
    """Knows the attempts it has made; what comes `underway` seconds after a word may have been sent before it."""

    def __init__(self, keys: Keys, underway: float) -> None:
        self.keys, self.underway = keys, underway
        self.library = Library()
        self.attempts: dict[tuple[UUID, int], Attempt] = {}
        self.redirected = 0  # calls that followed a redirect
        self._own = parse_keys("kit:" + "played-root-of-the-kit", "KIT")
        self._by_token: dict[str, Attempt] = {}
        self._nonces: set[str] = set()
        self._issued = 0
        self.app = Starlette(
            routes=[
                Route("/internal/v1/missions/{mission:uuid}/events", self._events, methods=["POST"]),
                Route("/internal/v1/events", self._events_of_many, methods=["POST"]),
                Route("/internal/v1/missions/{mission:uuid}/tools/{tool}/calls", self._tool, methods=["POST"]),
                Route("/internal/v1/missions/{mission:uuid}", self._view, methods=["GET"]),
                Route("/elsewhere/{rest:path}", self._elsewhere, methods=["GET", "POST"]),
            ],
            middleware=[Middleware(SaysVersion)],
        )

    def expect(self, dispatch: Dispatch, mood: Mood | None = None) -> Attempt:
        """An attempt that is about to be dispatched; its token becomes one that is known here."""
        mission, number, tenant = dispatch.mission_id, dispatch.attempt, dispatch.envelope.tenant_id

        def issue() -> str:
            self._issued += 1  # makes every token another one, even within a second
            fence = number * 100_000 + self._issued
            token = tokens.issue(
                self._own, mission=mission, tenant=tenant, attempt=number, fence=fence, audience="callback"
            )
            self._by_token[token] = attempt
            return token

        attempt = Attempt(dispatch, mood or Mood(), mood is None, issue)
        attempt.dispatch = dispatch.model_copy(update={"mission_token": attempt.token()})
        self.attempts[mission, number] = attempt
        return attempt

    # --- routes

    async def _events(self, request: Request) -> Response:
        mission: UUID = request.path_params["mission"]
        body = await self._body(request)
        if body is None:
            return Response(status_code=413)
        bearer = self._bearer(request)
        attempt = self._attempt(mission, _attempt_in(body), bearer)
        if attempt is None:
            return self._nobody()
        self._judge_call([attempt], request, body)
        self._judge_token(attempt, request, bearer)
        return await self._hear(attempt, body)

    async def _events_of_many(self, request: Request) -> Response:
        """Each entry is heard as if it had come alone."""
        body = await self._body(request)
        if body is None:
            return Response(status_code=413)
        try:
            document = read_json(body, max_depth=MAX_BODY_DEPTH + 2)
            entries = {UUID(one["mission_id"]): one for one in document["missions"]}
        except (BadBody, KeyError, TypeError, ValueError) as bad:
            return problem(422, "validation", f"The missions cannot be told apart: {bad}")
        heard = {
            mission: self._attempt(mission, _attempt_in(json.dumps(one).encode()), str(one.get("token")))
            for mission, one in entries.items()
        }
        attempts = [one for one in heard.values() if one is not None]
        self._judge_call(attempts, request, body)
        twice = len(entries) < len(document["missions"])
        if twice or not document.keys() <= {"contract_version", "missions"} or len(entries) > MAX_MISSIONS_PER_CALL:
            for attempt in attempts:
                attempt.note("shape", "a call of many missions does not fit the contract")
            return problem(422, "validation", "The call does not fit the contract.")
        for attempt in attempts:
            if (elsewhere := self._redirected(attempt)) is not None:
                return elsewhere

        async def told(mission: UUID, entry: dict[str, Any]) -> dict[str, Any]:
            attempt, answer = heard[mission], self._nobody()
            if attempt is not None:
                self._judge_token(attempt, request, str(entry.get("token")))
                own = {name: value for name, value in entry.items() if name not in ("mission_id", "token")}
                answer = await self._hear(attempt, json.dumps(own).encode())
            return _of_many(mission, answer)

        said = await asyncio.gather(*(told(mission, entry) for mission, entry in entries.items()))
        return JSONResponse({"missions": said})

    async def _hear(self, attempt: Attempt, body: bytes) -> Response:
        """A batch of events of an attempt, in the mood that it has."""
        if attempt.mood.leaves is not None and not attempt.mood.leaves.is_set() and _seqs_in(body):
            attempt.mood.leaves.set()
            await asyncio.sleep(GONE_S)  # the connection is cut meanwhile
            return problem(503, "draining", "The root is going away.")
        answer = self._moody(attempt, body)
        if answer is None:
            answer = self._take(attempt, body)
            await asyncio.sleep(attempt.mood.answers_after)
        await attempt.hear(Heard(time.monotonic(), "events", seqs=_seqs_in(body), status=answer.status_code))
        return answer

    async def _tool(self, request: Request) -> Response:
        mission: UUID = request.path_params["mission"]
        tool: str = request.path_params["tool"]
        body = await self._body(request)
        if body is None:
            return Response(status_code=413)
        bearer = self._bearer(request)
        attempt = self._attempt(mission, None, bearer)
        if attempt is None:
            return self._nobody()
        self._judge_call([attempt], request, body)
        self._judge_token(attempt, request, bearer)
        if attempt.ended_at is not None and time.monotonic() - attempt.ended_at > self.underway:
            attempt.note("after_end", f"tool {tool} was called after the signal that ended the attempt")
        digest = hashlib.sha256(body).hexdigest()
        await attempt.hear(Heard(time.monotonic(), "tool", tool=tool, digest=digest))
        if attempt.told_to_stop_at is not None or self._superseded(attempt):
            return problem(409, "attempt_superseded", "Another attempt holds the mission.")
        if attempt.mood.tools_held is not None:
            await attempt.mood.tools_held.wait()
        await asyncio.sleep(attempt.mood.tools_after)
        return self._answer_tool(attempt, tool, body)

    async def _view(self, request: Request) -> Response:
        mission: UUID = request.path_params["mission"]
        mine = [attempt for (known, _), attempt in self.attempts.items() if known == mission]
        if not mine:
            return problem(404, "not_found", "There is no such mission.")
        attempt = max(mine, key=lambda one: one.number)
        await self._body(request)
        state = "in_review" if attempt.terminal else "running"
        view = RootView(
            mission_id=mission,
            state=state,
            attempt=attempt.number,
            last_seq=attempt.last_seq,
            stop=bool(attempt.terminal),
        )
        return JSONResponse(view.model_dump(mode="json"))

    async def _elsewhere(self, request: Request) -> Response:
        self.redirected += 1
        return JSONResponse({})

    # --- who calls

    def _attempt(self, mission: UUID, number: int | None, bearer: str) -> Attempt | None:
        """Whose callback it is: what the path says decides, the token is judged afterwards."""
        known = self._by_token.get(bearer)
        if number is None and known is not None and known.mission_id == mission:
            return known
        mine = {key[1]: one for key, one in self.attempts.items() if key[0] == mission}
        return mine.get(number or max(mine, default=0), mine[max(mine)] if mine else None)

    def _judge_call(self, attempts: Sequence[Attempt], request: Request, body: bytes) -> None:
        asked = f"{request.method} {request.url.path}"
        breach: tuple[Breach, str] | None = None
        try:
            signed = check(self.keys, request.method, signed_path(request.scope), body, "root", request.headers)
        except SignatureRefused as refused:
            breach = "signature", f"{asked} was not signed as the contract says: {refused}"
        else:
            if signed.nonce in self._nonces:
                breach = "nonce", f"{asked} came with a nonce that was used before"
            self._nonces.add(signed.nonce)
        for attempt in attempts:
            if breach is not None:
                attempt.note(*breach)

    def _judge_token(self, attempt: Attempt, request: Request, bearer: str) -> None:
        asked, owner = f"{request.method} {request.url.path}", self._by_token.get(bearer)
        if owner is not attempt:
            whose = f"of mission {owner.mission_id}, attempt {owner.number}" if owner else "that this root never issued"
            attempt.note("token", f"{asked} came with a token {whose}")
            return
        behind = len(attempt.tokens) - 1 - attempt.tokens.index(bearer)
        if behind > (OLD_FOR_TOOLS if "/tools/" in asked else OLD_FOR_EVENTS):
            attempt.note("old_token", f"{asked} came with a token that was {behind} tokens old")

    @staticmethod
    def _nobody() -> Response:
        return problem(404, "not_found", "There is no such mission.")

    @staticmethod
    def _bearer(request: Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ").strip()

    @staticmethod
    async def _body(request: Request) -> bytes | None:
        """None when it is larger than the contract allows, or broke off."""
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return None
        except ClientDisconnect:
            return None
        return bytes(body)

    def _superseded(self, attempt: Attempt) -> bool:
        return (attempt.mission_id, attempt.number + 1) in self.attempts

    # --- events

    def _moody(self, attempt: Attempt, body: bytes) -> Response | None:
        """What this root answers instead of taking the batch, if its mood is such."""
        mood = attempt.mood
        if mood.busy_events:
            mood.busy_events -= 1
            return problem(429, "rate_limited", "Too many requests.", {"Retry-After": str(mood.retry_after)})
        if (elsewhere := self._redirected(attempt)) is not None:
            return elsewhere
        if self._superseded(attempt) or (mood.supersedes_at is not None and attempt.last_seq >= mood.supersedes_at):
            attempt.told_to_stop_at = attempt.told_to_stop_at or time.monotonic()
            return problem(409, "attempt_superseded", f"The current attempt is {attempt.number + 1}.")
        if mood.gaps and _seqs_in(body):
            mood.gaps -= 1
            expected = attempt.last_seq + 1
            return problem(409, "sequence_gap", f"Event {expected} is missing.", expected_seq=expected)
        return None

    @staticmethod
    def _redirected(attempt: Attempt) -> Response | None:
        if not attempt.mood.redirects:
            return None
        attempt.mood.redirects -= 1
        return Response(status_code=307, headers={"Location": "/elsewhere/events"})

    def _take(self, attempt: Attempt, body: bytes) -> Response:
        seqs = _seqs_in(body)
        for earlier, later in pairwise(seqs):
            if later != earlier + 1:
                attempt.note("gap", f"event {later} came in one batch after event {earlier}")
        try:
            batch = read_model(EventBatch, body)
        except BadBody as bad:
            attempt.note("shape", f"a batch of events does not fit the contract: {bad}")
            errors = [{"pointer": one.pointer, "detail": one.detail} for one in bad.problems]
            return problem(422, "validation", str(bad), errors=errors)
        self._judge_artifacts(attempt, batch)
        for event in batch.events:
            text = event.model_dump_json()
            if attempt.said.setdefault(event.seq, text) != text:
                attempt.note("twice", f"event {event.seq} came twice and said something else the second time")
        new = [event for event in batch.events if event.seq > attempt.last_seq]
        if new and new[0].seq != attempt.last_seq + 1:
            expected = attempt.last_seq + 1
            attempt.note("gap", f"event {new[0].seq} came where {expected} was expected")
            attempt.gaps += 1
            if attempt.gaps <= PATIENT_GAPS:
                return problem(409, "sequence_gap", f"Event {expected} is missing.", expected_seq=expected)
        if new and attempt.ended_at is not None:
            attempt.note(
                "after_end", f"event {new[0].seq} ({new[0].type}) came after the signal that ended the attempt"
            )
        attempt.events.extend(new)
        if attempt.terminal and attempt.ended_at is None:
            attempt.ended_at = time.monotonic()
        return self._receipt(attempt)

    def _receipt(self, attempt: Attempt) -> Response:
        mood = attempt.mood
        stop = mood.stops_at is not None and attempt.last_seq >= mood.stops_at
        if stop:
            attempt.told_to_stop_at = attempt.told_to_stop_at or time.monotonic()
        receipt = EventReceipt(
            accepted_seq=attempt.last_seq,
            next_token=attempt.token(),
            lease_until=datetime.now(UTC) + timedelta(seconds=mood.lease),
            stop=stop or attempt.terminal is not None,
            stop_reason="the kit asks to stop" if stop else None,
        )
        return JSONResponse(receipt.model_dump(mode="json") | (STRANGE if mood.talkative else {}))

    @staticmethod
    def _judge_artifacts(attempt: Attempt, batch: EventBatch) -> None:
        tenant = attempt.dispatch.envelope.tenant_id
        for seq in batch.strangers(attempt.mission_id, tenant):
            attempt.note("stranger", f"event {seq} carries an artifact of another mission or tenant")
        for event in batch.events:
            if isinstance(event, WritebackProposed):
                made: Any = event.proposal
            elif isinstance(event, ArtifactProduced):
                made = event.artifact
            else:
                continue
            name = made.schema_name
            if isinstance(event, ArtifactProduced) and name in (
                "mission_envelope",
                "policy_decision",
                "writeback_proposal",
            ):
                attempt.note("roots_own", f"event {event.seq} produces {name}, which a colony does not produce")
            if isinstance(made, ReviewPacket) and made.reviewer != "colony":
                attempt.note("roots_own", f"event {event.seq} carries a review in the name of the root")
            if made.producer.name.strip().casefold() == "root":
                attempt.note("roots_own", f"event {event.seq} names the root as its producer")

    # --- tools

    def _answer_tool(self, attempt: Attempt, tool: str, body: bytes) -> Response:
        try:
            arguments = read_model(ToolCall, body).arguments
        except BadBody as bad:
            attempt.note("shape", f"a call of tool {tool} does not fit the contract: {bad}")
            return problem(422, "validation", str(bad))
        if attempt.mood.denies_tools:
            return problem(403, "denied_by_policy", "A policy rule forbids this tool.", rule="kit.no-tools")
        try:
            result, shown = self.library.call(tool, arguments)
        except Refusal as refusal:
            return problem(refusal.status, refusal.code, refusal.detail)
        attempt.shown.update(shown)
        return JSONResponse({"result": result} | (STRANGE if attempt.mood.talkative else {}))


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    said = {
        "type": f"/problems/{code}",
        "title": code.replace("_", " "),
        "status": status,
        "code": code,
        "detail": detail,
    }
    return JSONResponse({**said, **more}, status, dict(headers or {}), media_type="application/problem+json")


def _of_many(mission: UUID, answer: Response) -> dict[str, Any]:
    """What one mission would have been answered alone, as it stands in the answer to many."""
    document, wait = json.loads(bytes(answer.body)), answer.headers.get("Retry-After")
    said: dict[str, Any] = {"mission_id": str(mission), "retry_after_s": float(wait) if wait else None}
    return said | ({"receipt": document} if answer.status_code == 200 else {"problem": document})


def _attempt_in(body: bytes) -> int | None:
    said = _plain(body).get("attempt")
    return said if type(said) is int else None


def _seqs_in(body: bytes) -> tuple[int, ...]:
    events = _plain(body).get("events")
    found = [one.get("seq") for one in events if isinstance(one, dict)] if isinstance(events, list) else []
    return tuple(seq for seq in found if type(seq) is int)


def _plain(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
