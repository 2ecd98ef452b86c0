"""The colony that the kit plays: it takes dispatches as it is told to, and remembers what the root has sent.

Missions of the kit are known by a mark in their goal. Any other mission is answered busy: it is somebody's, and not lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER, CancelRequest, Dispatch, DispatchBatch
from colony_client.errors import BadBody, SignatureRefused, VersionRefused
from colony_client.signing import Keys, check, signed_path
from colony_client.versions import spoken_with
from colony_client.wire import read_model
from colony_kit.door import Door
from colony_kit.evidence import clean
from colony_kit.played_root import STRANGE, problem

Breach = Literal["signature", "nonce", "shape", "version"]
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Case:
    """One mission of the kit, and how the colony answers for it. `trouble` befalls one whole call that carries it."""

    mark: str = field(default_factory=lambda: f"kit-{uuid4().hex[:16]}")
    busy: int = 0  # so many dispatches are answered busy
    retry_after_s: float = 1.0
    refused: str = ""  # the reason, when it is not taken at all
    talkative: bool = False
    trouble: Literal["", "lost", "limited", "redirect"] = ""
    status: Literal["running", "lost"] = "running"
    heard: list[tuple[float, Dispatch]] = field(default_factory=list)
    asked: int = 0  # how often the root has asked for the status
    cancels: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, holds: Callable[[], object], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(holds)
        except TimeoutError:
            return bool(holds())
        return True


class PlayedColony:
    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.cases: list[Case] = []
        self.breaches: list[tuple[Breach, str]] = []
        self.calls = 0
        self.redirected = 0
        self.door: Door | None = None  # set by whoever serves it: a call can be cut off there
        self._nonces: set[str] = set()
        self.app = Starlette(
            routes=[
                Route("/v1/missions", self._signed(self._dispatch), methods=["POST"]),
                Route("/v1/missions/{mission:uuid}", self._signed(self._status), methods=["GET"]),
                Route("/v1/missions/{mission:uuid}/cancel", self._signed(self._cancel), methods=["POST"]),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/elsewhere", self._elsewhere, methods=["GET", "POST"]),
            ]
        )

    def case(self, **how: Any) -> Case:
        self.cases.append(Case(**how))
        return self.cases[-1]

    def of(self, mission: UUID) -> Case | None:
        return next((one for one in self.cases for _, dispatch in one.heard if dispatch.mission_id == mission), None)

    def found(self, *kinds: Breach) -> list[str]:
        return [evidence for kind, evidence in self.breaches if kind in kinds]

    # --- routes

    def _signed(
        self, answer: Callable[[Request, bytes], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Judges who calls, and then answers in any case."""

        async def judged(request: Request) -> Response:
            body, asked = await request.body(), f"{request.method} {request.url.path}"
            self.calls += 1
            try:
                found = check(self.keys, request.method, signed_path(request.scope), body, "colony", request.headers)
            except SignatureRefused as refused:
                self._note("signature", f"{asked} was not signed as the contract says: {refused}")
            else:
                if found.nonce in self._nonces:
                    self._note("nonce", f"{asked} came with a nonce that was used before")
                self._nonces.add(found.nonce)
            try:
                spoken_with(version := request.headers.get(VERSION_HEADER, ""))
            except VersionRefused:
                self._note(
                    "version", f"{asked} came with {VERSION_HEADER}: {version or 'nothing'}; expected: a version 1.x"
                )
            return await answer(request, body)

        return judged

    async def _dispatch(self, request: Request, body: bytes) -> Response:
        batch = self._read(DispatchBatch, body, "a dispatch")
        if isinstance(batch, str):
            return problem(422, "invalid_body", batch)
        meant = [(dispatch, self._case_of(dispatch)) for dispatch in batch.missions]
        for dispatch, case in meant:
            if case is not None:
                case.heard.append((time.monotonic(), dispatch))
        troubled = next((case for _, case in meant if case is not None and case.trouble), None)
        answer = self._trouble(troubled, request) if troubled else None
        if answer is None:
            said = [_answer(dispatch, case) for dispatch, case in meant]
            strange = STRANGE if any(case is not None and case.talkative for _, case in meant) else {}
            answer = JSONResponse({"contract_version": CONTRACT_VERSION, "missions": said, **strange})
        for _, case in meant:
            if case is not None:
                await case.note()
        return answer

    def _trouble(self, case: Case, request: Request) -> Response:
        trouble, case.trouble = case.trouble, ""
        if trouble == "limited":
            return problem(429, "rate_limited", "Too many requests.", {"Retry-After": f"{case.retry_after_s:g}"})
        if trouble == "redirect":
            return Response(status_code=307, headers={"Location": "/elsewhere"})
        assert self.door is not None and request.client is not None
        self.door.cut(request.client)
        return Response()

    async def _status(self, request: Request, _: bytes) -> Response:
        case = self.of(request.path_params["mission"])
        if case is None:
            return problem(404, "mission_unknown", "This mission is not known here.")
        case.asked += 1
        await case.note()
        if case.status == "lost":
            return problem(404, "mission_unknown", "This mission is not known here.")
        dispatch = case.heard[-1][1]
        said = {
            "mission_id": str(dispatch.mission_id),
            "attempt": dispatch.attempt,
            "state": "running",
            "last_seq_sent": 0,
        }
        return JSONResponse(said | (STRANGE if case.talkative else {}))

    async def _cancel(self, request: Request, body: bytes) -> Response:
        case = self.of(request.path_params["mission"])
        ask = self._read(CancelRequest, body, "a cancel")
        if case is None:
            return problem(404, "mission_unknown", "This mission is not known here.")
        case.cancels.append(ask if isinstance(ask, str) else ask.reason)
        await case.note()
        dispatch = case.heard[-1][1]
        return JSONResponse({"mission_id": str(dispatch.mission_id), "attempt": dispatch.attempt, "state": "cancelled"})

    async def _health(self, _: Request) -> Response:
        said = {"status": "ok", "service": "conformance kit", "contract_version": CONTRACT_VERSION}
        return JSONResponse(said | STRANGE)

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"ready": True, "providers": {}, "contract_version": CONTRACT_VERSION} | STRANGE)

    async def _elsewhere(self, _: Request) -> Response:
        self.redirected += 1
        return JSONResponse({})

    def _case_of(self, dispatch: Dispatch) -> Case | None:
        return next((one for one in self.cases if one.mark in dispatch.envelope.user_goal), None)

    def _read(self, kind: type[Model], body: bytes, what: str) -> Model | str:
        """What came, or what is wrong with it. Wrong in a member too many, it is noted and read all the same."""
        try:
            return read_model(kind, body)
        except BadBody as bad:
            self._note("shape", f"{what} does not fit the contract: {bad}")
        try:
            return read_model(kind, body, unknown="ignore")
        except BadBody as bad:
            return str(bad)

    def _note(self, breach: Breach, evidence: str) -> None:
        if len(self.breaches) < 200:
            self.breaches.append((breach, clean(evidence, 500)))


def _answer(dispatch: Dispatch, case: Case | None) -> dict[str, Any]:
    said: dict[str, Any] = {"mission_id": str(dispatch.mission_id), "attempt": dispatch.attempt}
    if case is None:
        return said | {"outcome": "busy", "retry_after_s": 5.0}
    if case.refused:
        return said | {"outcome": "refused", "code": "kit_refuses", "reason": case.refused}
    if case.busy:
        case.busy -= 1
        return said | {"outcome": "busy", "code": "full", "retry_after_s": case.retry_after_s}
    return said | {"outcome": "accepted"} | (STRANGE if case.talkative else {})
