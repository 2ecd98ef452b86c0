"""The model gateway's routes of the internal API, as any OpenAI client speaks them; the mission token is the API key."""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, takewhile
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response

from app import calls, policy, tape
from app.boundary.door import token
from app.calls import check_attempt
from app.canonical import sha256
from app.db import unavailable
from app.errors import Problem
from app.http import Reply, read_body
from app.http.edge import request_id
from app.http.lane import ID, Way
from app.model_gateway.actions import Called, Opened, colony_of, ended, facts, open_call
from app.model_gateway.gateway import Answer, Gateway, NoAnswer, Try, without_usage
from app.model_gateway.health import LONGEST_REST_S
from app.model_gateway.playing import Heard
from app.model_gateway.queries import mission_and_switches
from app.model_gateway.request import LARGEST, Asked, read
from app.model_gateway.shapes import DONE, OpenAIRoute, Streamed, as_error, error_of, event
from app.model_gateway.wire import Outcome, ProviderFailed
from app.policy.queries import in_force
from colony_client import tokens

router = APIRouter(tags=["models"], route_class=OpenAIRoute)
AT = "/internal/v1/missions/{mission_id}/openai/v1"
MAX_TOKENS = "Max-Tokens"  # header: the limit of the answer that was sent to the provider
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["model", "messages"]},
                "example": {"model": "small", "messages": [{"role": "user", "content": "What is a rollback?"}]},
            }
        },
    }
}
log = structlog.get_logger("models")
# Between tries to write down what became of a call while its client waits; when the process ends it has app.process.CLOSE_S for them.
PAUSES_S = (0.05, 0.1, 0.2, 0.3, 0.6)
LATER_S, LONGEST_S = 1.0, 15.0  # the first and the longest pause after that
LAST_S = 0.5  # and those while the process ends
MOST_LATE = 1000  # calls of a process that are written so


@router.post(f"{AT}/chat/completions", operation_id="createChatCompletion", openapi_extra=BODY)
async def create_chat_completion(mission_id: UUID, request: Request) -> Response:
    """Policy, then budget, then the provider, then the record, then the answer: whole, or as server-sent events."""
    said = await bearer(request, mission_id)
    asked, arguments = read(await read_body(request, LARGEST))
    state = request.app.state
    gateway: Gateway = state.models
    named = request_id(request)
    wanted = tape.Call("model", asked.model, arguments)
    opened = await open_call(
        Called(state.openings, state.database, gateway, state.settings.environment, said, asked, wanted)
    )
    if isinstance(opened, Heard):
        return again(opened, asked, named)
    call = Call(state.closings, gateway, opened, named)
    try:
        answer = await gateway.ask(opened.asked, opened.targets)
    except NoAnswer as nobody:
        refused = refusal(nobody.last)
        await call.close(nobody.tries, nobody.last.outcome, heard=Heard(problem=refused))
        raise refused from None
    except BaseException:
        call.close([], "abandoned")
        raise
    headers = {MAX_TOKENS: str(opened.asked.max_tokens)}
    if answer.whole is None:
        return Streamed(call.parts(answer), partial(call.end, answer), headers)
    whole = answer.whole | {"model": asked.model}
    body = Reply(whole, headers=headers).response()
    await call.close(answer.tries, "ok", answer, sha256(bytes(body.body)), Heard(whole=whole))
    return body


async def without_framework(request: Request, mission: str) -> Response:
    """The same route."""
    return await create_chat_completion(UUID(mission), request)


WAY = Way(
    re.compile(rf"/internal/v1/missions/{ID}/openai/v1/chat/completions"),
    f"{AT}/chat/completions",
    without_framework,
    as_error,
)


def again(heard: Heard, asked: Asked, request_id: str | None) -> Response:
    """What a replay is answered with: the same, from the tape. Raises the Problem that was the answer then."""
    if heard.chunks is None:
        if heard.problem is not None:
            raise heard.problem
        return Reply(heard.whole).response()
    chunks = heard.chunks

    async def parts() -> AsyncIterator[bytes]:
        for chunk in chunks:
            if (visible := chunk if asked.include_usage else without_usage(chunk)) is not None:
                yield event(visible | {"model": asked.model})
        yield DONE if heard.problem is None else event(error_of(heard.problem.document("", request_id)))

    async def nothing() -> None:
        """Nothing was used."""

    return Streamed(parts(), nothing, {})


@router.get(f"{AT}/models", operation_id="listModels")
async def list_models(mission_id: UUID, request: Request) -> Response:
    """The models that this mission may ask now."""
    said = await bearer(request, mission_id)
    state = request.app.state
    gateway: Gateway = state.models
    async with state.database.read() as session:
        await session.enter(said.tenant)
        mission, off = await mission_and_switches(session, mission_id)
        check_attempt(mission, said)
        assert mission is not None
        rules, shown = await in_force(session), []
        for name, targets in sorted(gateway.registry.routes.items()):
            for target in targets:
                asked = facts(mission, state.settings.environment, target)
                judged = policy.judge(colony_of(said), "model.call", name, asked, rules, requester=mission.requested_by)
                if target.provider.name not in off and judged.verdict.effect == "allow":
                    shown.append({"id": name, "object": "model", "created": 0, "owned_by": target.provider.name})
                    break
    return Reply({"object": "list", "data": shown}).response()


async def bearer(request: Request, mission: UUID) -> tokens.MissionToken:
    """The gateway token of a call, counted. Raises Problem unauthenticated or rate_limited."""
    said = token(request, mission, "gateway")
    structlog.contextvars.bind_contextvars(mission_id=str(mission), tenant_id=str(said.tenant))
    await request.app.state.limits.admit_mission(request, said.tenant, mission)
    return said


def refusal(last: ProviderFailed) -> Problem:
    """What it means to whoever asked that nobody answered."""
    if last.outcome == "refused":
        said = f"It says: {last.said}" if last.said else "It does not say why."
        return Problem("provider_refused", f"The provider refuses the request. {said}", cause=last.outcome)
    if last.outcome in ("unusable", "unauthorized"):
        return Problem("provider_unusable", f"The provider gave no answer. {last.detail}", cause=last.outcome)
    wait = max(1, math.ceil(min(last.retry_after or 1.0, LONGEST_REST_S)))
    detail = f"No provider of the model answers. The last one: {last.detail}"
    return Problem("upstream_unavailable", detail, retry_after=wait, cause=last.outcome)


@dataclass
class Call:
    """One call from its opening to its end, which is written once."""

    closings: calls.Closings
    gateway: Gateway
    opened: Opened
    request_id: str | None
    closed: bool = False
    digest: Any = field(default_factory=hashlib.sha256)  # of a stream as the client sees it
    chunks: list[dict[str, Any]] = field(
        default_factory=list
    )  # of a stream, for the tape; the line to a provider bounds them
    broke: Problem | None = None

    async def parts(self, answer: Answer) -> AsyncIterator[bytes]:
        """A stream as the client sees it. It is counted before its end mark: who has seen that may rely on it."""
        assert answer.chunks is not None
        shown = self.opened.asked.include_usage
        try:
            try:
                async for chunk in answer.chunks:
                    self.chunks.append(chunk)
                    visible = chunk if shown else without_usage(chunk)
                    if visible is not None:
                        part = event(visible | {"model": self.opened.asked.model})
                        self.digest.update(part)
                        yield part
            except ProviderFailed as failed:
                self.broke = Problem("provider_unusable", failed.detail, cause=failed.outcome)
            await self.end(answer)
        except Exception as error:
            log.error("a stream broke here", exc_info=error)
            self.broke = unavailable(error) or Problem("internal", "An error that is ours.")
        yield DONE if self.broke is None else self.broken(self.broke)

    def broken(self, problem: Problem) -> bytes:
        """The last event of a stream that has no end mark."""
        return event(error_of(problem.document("", self.request_id)))

    async def end(self, answer: Answer) -> None:
        """Closes a stream, wherever it is, and counts it."""
        assert answer.chunks is not None
        if self.closed:
            return
        self.closed = True
        await answer.chunks.aclose()
        tries = [*answer.tries, Try(answer.target.provider.name, answer.outcome)]
        heard = None if answer.outcome == "abandoned" else Heard(chunks=self.chunks, problem=self.broke)
        await self.close(tries, answer.outcome, answer, self.digest.digest(), heard)

    def close(
        self,
        tries: Sequence[Try],
        outcome: Outcome,
        answer: Answer | None = None,
        digest: bytes | None = None,
        heard: Heard | None = None,
    ) -> Awaitable[None]:
        """Counts and records the call. It is done to its end, also when whoever waits for it is cancelled."""
        target, usage = (answer.target, answer.usage) if answer else (None, None)
        end = partial(ended, self.opened, tries, target, usage)
        # Who is answered that the database is away has heard nothing of the call: then it is on no tape.
        return asyncio.shield(self.gateway.settle(self.write(end(outcome, digest, heard), partial(end, "abandoned"))))

    async def write(self, one: calls.Ended, unheard: Callable[[], calls.Ended]) -> None:
        """Tried again while the database is busy or away for a moment: the provider has been asked, and wants its money. After that
        its client is answered, and it is tried without them."""
        try:
            await self.put(one, PAUSES_S, asyncio.sleep)
        except BaseException as error:
            if passes(error) and len(self.gateway.late) < MOST_LATE:
                task = self.gateway.settle(self.write_late(unheard()))
                self.gateway.late.add(task)
                task.add_done_callback(self.gateway.late.discard)
            else:
                self.lost(error)
            raise

    async def write_late(self, one: calls.Ended) -> None:
        """Until the life of what it holds is over. Whichever of its ends comes first is the one that is kept."""
        rest = partial(self.gateway.rest, last=LAST_S)
        pauses = (min(LATER_S * 2.0 ** min(n, 9), LONGEST_S) for n in count())
        try:
            await rest(LATER_S)
            await self.put(one, takewhile(lambda pause: monotonic() + pause < self.opened.until, pauses), rest)
        except Exception as error:
            self.lost(error)
        except BaseException as error:
            self.lost(error)
            raise

    async def put(self, one: calls.Ended, pauses: Iterable[float], rest: Callable[[float], Awaitable[None]]) -> None:
        for pause in pauses:
            try:
                return await self.closings.put(one)
            except Problem as problem:
                if not passes(problem):
                    raise
            await rest(pause)
        await self.closings.put(one)

    def lost(self, error: BaseException) -> None:
        held = {"mission": str(self.opened.mission), "reservation": str(self.opened.reservation)}
        said = "a call of a model is not known to be written; if it is not, all it held will count"
        log.error(said, error=type(error).__name__, **held)


def passes(error: BaseException) -> bool:
    return isinstance(error, Problem) and error.kind.retryable
