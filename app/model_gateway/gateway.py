"""Asking for an answer: the providers of a model one after the other, each with its breaker, until one begins to answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.model_gateway import genai, wire
from app.model_gateway.health import Health
from app.model_gateway.providers import Provider, Registry, Target, load, may_call
from app.model_gateway.request import Asked
from app.model_gateway.usage import Usage, text_bytes, used
from app.model_gateway.wire import Line, ProviderFailed
from app.settings import Settings
from app.telemetry import MODEL_CALLS, MODEL_SECONDS, MODEL_TOKENS, tracer

log = structlog.get_logger("models")
Chunk = dict[str, Any]


@dataclass(frozen=True)
class Try:
    """One provider that was asked, or would have been, and what came of it."""

    provider: str
    outcome: wire.Outcome


@dataclass
class Answer:
    """What one provider answered. whole: the document, for a call that wanted one. chunks: for one that wanted a stream.

    usage is there when the answer is complete: for a stream, when its chunks have ended, however they did. outcome likewise.
    """

    target: Target
    tries: list[Try]
    whole: Chunk | None = None
    chunks: "Begun | None" = None
    usage: Usage | None = None
    outcome: wire.Outcome = "ok"


class NoAnswer(Exception):
    """Nobody answered. last: what stood in the way at the end; tries: everybody who was asked."""

    def __init__(self, last: ProviderFailed, tries: list[Try]) -> None:
        super().__init__(last.detail)
        self.last, self.tries = last, tries


@dataclass
class Gateway:
    """The providers as this process knows them: how each is reached, and how it is."""

    registry: Registry
    lines: dict[str, Line] = field(repr=False)
    health: dict[str, Health]
    settling: set[asyncio.Task[None]] = field(default_factory=set)  # calls that have ended, being counted
    late: set[asyncio.Task[None]] = field(default_factory=set)  # those of them whose client was answered without
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    off: frozenset[str] = (
        frozenset()
    )  # who was last seen to be switched off; whoever goes by this looks again before it counts

    @classmethod
    def of(cls, settings: Settings) -> "Gateway":
        """Raises Misconfigured."""
        registry = load(settings)
        lines = {}
        for name, provider in registry.providers.items():
            key = registry.keys.get(name)
            lines[name] = wire.line(provider, key.get_secret_value() if key else None, may_call(provider, settings))
        return cls(registry, lines, {name: Health.of(name) for name in registry.providers})

    def settle(self, counting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Done to its end, whoever waits for it."""
        task = asyncio.create_task(counting)
        self.settling.add(task)
        task.add_done_callback(self.settling.discard)
        return task

    async def rest(self, pause: float, last: float) -> None:
        """A pause of what is late. It ends when the process does: from then on there is little time, and pauses are as short as last."""
        if self.closing.is_set():
            await asyncio.sleep(min(pause, last))
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), pause)

    async def close(self) -> None:
        """After the last request: what is still being counted is counted, however long that takes; whoever closes has a limit.
        What is not counted then is presumed once its reservation has run out (reconcile_budgets)."""
        self.closing.set()
        while self.settling:  # who is cancelled meanwhile says what was used, too
            await asyncio.wait(self.settling)
        for one in self.lines.values():
            await one.http.aclose()

    async def ask(self, asked: Asked, targets: Sequence[Target]) -> Answer:
        """The answer to one call: whole, or a stream whose first chunk is there.

        The targets are asked in their order, the next one only when nothing came of the last and it may be asked again.
        Raises NoAnswer. This is all that leaves the process for a call: whatever stands in for a provider stands here.
        """
        tries: list[Try] = []
        last = ProviderFailed("not_asked", "Nobody may be asked for it now.", retry_after=self.soonest(targets))
        for target in targets:
            name = target.provider.name
            if not self.health[name].admits():
                tries.append(Try(name, "not_asked"))
                continue
            try:
                answer = await (self.begin(asked, target) if asked.stream else self.whole(asked, target))
            except ProviderFailed as failed:
                tries.append(Try(name, failed.outcome))
                last = failed
                if not failed.retryable:
                    break
                continue
            answer.tries = tries
            if answer.whole is not None:
                tries.append(Try(name, "ok"))
            return answer
        raise NoAnswer(last, tries)

    def soonest(self, targets: Sequence[Target]) -> float:
        return min((self.health[one.provider.name].wait_s() for one in targets), default=0.0)

    async def whole(self, asked: Asked, target: Target) -> Answer:
        with self.watched(asked, target) as call:
            said = await wire.whole(self.lines[target.provider.name], target, asked)
            usage = used(target, asked, said.get("usage"), text_bytes(said["choices"]))
            call.succeeded(usage)
        return Answer(target, [], whole=said, usage=usage)

    async def begin(self, asked: Asked, target: Target) -> Answer:
        """A stream whose first chunk is there: until then somebody else may be asked instead."""
        answer = Answer(target, [])
        flow = self.flow(asked, answer)
        try:
            first = await anext(flow)
        except BaseException:
            await flow.aclose()
            raise
        answer.chunks = Begun(first, flow)
        return answer

    async def flow(self, asked: Asked, answer: Answer) -> AsyncGenerator[Chunk, None]:
        """The chunks, and at their end, however it comes, what was used. Raises ProviderFailed."""
        target, said, seen = answer.target, None, 0
        with self.watched(asked, target) as call:
            try:
                async with aclosing(wire.stream(self.lines[target.provider.name], target, asked)) as chunks:
                    async for chunk in chunks:
                        said = chunk.get("usage") or said
                        seen += text_bytes(chunk["choices"])
                        yield chunk
            except ProviderFailed as failed:
                answer.outcome = failed.outcome
                raise
            except BaseException:
                answer.outcome = "abandoned"
                raise
            finally:
                answer.usage = used(target, asked, said, seen)
            call.succeeded(answer.usage)

    @contextmanager
    def watched(self, asked: Asked, target: Target) -> "Iterator[Watch]":
        """Around one call of one provider: its span, its metrics, its health."""
        span = tracer.start_span(
            f"{genai.CHAT} {target.name}",
            kind=SpanKind.CLIENT,
            attributes={
                genai.OPERATION: genai.CHAT,
                genai.PROVIDER: target.provider.name,
                genai.REQUEST_MODEL: target.name,
                genai.RESPONSE_MODEL: target.model.upstream,
                genai.REQUEST_MAX_TOKENS: asked.max_tokens or 0,
            },
        )
        watch = Watch(target.provider, self.health[target.provider.name], span)
        try:
            yield watch
        except ProviderFailed as failed:
            watch.failed(failed)
            raise
        except BaseException:
            watch.abandoned()
            raise
        finally:
            span.end()


@dataclass
class Watch:
    """One call of one provider, while it is under way."""

    provider: Provider
    health: Health
    span: Span
    began: float = field(default_factory=time.perf_counter)

    def succeeded(self, usage: Usage) -> None:
        self.health.succeeded()
        self.span.set_attribute(genai.INPUT_TOKENS, usage.tokens_in)
        self.span.set_attribute(genai.OUTPUT_TOKENS, usage.tokens_out)
        MODEL_TOKENS.labels(self.provider.name, "in").inc(usage.tokens_in)
        MODEL_TOKENS.labels(self.provider.name, "out").inc(usage.tokens_out)
        self.count("ok")

    def failed(self, failed: ProviderFailed) -> None:
        if failed.outcome == "rate_limited":
            self.health.rests(1.0 if failed.retry_after is None else failed.retry_after)
        elif failed.outcome == "refused":  # it lives, and the request is at fault
            self.health.succeeded()
        else:
            self.health.failed(failed.detail)
        self.span.set_attribute(genai.ERROR_TYPE, failed.outcome)
        self.span.set_status(Status(StatusCode.ERROR))
        self.count(failed.outcome)
        log.warning(
            "a model provider failed", provider=self.provider.name, outcome=failed.outcome, detail=failed.detail
        )

    def abandoned(self) -> None:
        self.health.given_up()
        self.span.set_attribute(genai.ERROR_TYPE, "abandoned")
        self.count("abandoned")

    def count(self, outcome: wire.Outcome) -> None:
        MODEL_CALLS.labels(self.provider.name, outcome).inc()
        MODEL_SECONDS.labels(self.provider.name).observe(time.perf_counter() - self.began)


@dataclass
class Begun:
    """A stream with its first chunk put back before it. Whoever has it closes it, read or not."""

    first: Chunk | None
    rest: AsyncGenerator[Chunk, None]

    def __aiter__(self) -> "Begun":
        return self

    async def __anext__(self) -> Chunk:
        if self.first is not None:
            first, self.first = self.first, None
            return first
        return await anext(self.rest)

    async def aclose(self) -> None:
        await self.rest.aclose()


def without_usage(chunk: Chunk) -> Chunk | None:
    """A chunk for a client that did not ask what was used; None for the one that says nothing else."""
    if "usage" not in chunk:
        return chunk
    return {name: value for name, value in chunk.items() if name != "usage"} if chunk["choices"] else None
