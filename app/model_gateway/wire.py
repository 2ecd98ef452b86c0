"""Speaking with one provider: a request out, and a whole answer or a stream of chunks back, bounded and checked.

Nothing here decides whom to ask, and nothing here knows a mission.
"""

import asyncio
import email.utils
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic_core import to_json

from app import outbound
from app.model_gateway.providers import Provider, Target
from app.model_gateway.request import MAX_DEPTH, Asked
from colony_client.errors import BadBody
from colony_client.wire import read_json

LARGEST_ANSWER = 8 * 1024 * 1024
LARGEST_EVENT = 1024 * 1024
LARGEST_REFUSAL = 16_384
CONNECTIONS = 64
SECRET = re.compile(r"(?i)(sk-|key|token|bearer|authorization)\S*")

Outcome = Literal[
    "ok", "unreachable", "timed_out", "rate_limited", "server_error", "unauthorized", "refused", "unusable", "cut",
    "abandoned", "not_asked",
]  # fmt: skip
RETRYABLE: frozenset[Outcome] = frozenset({"unreachable", "timed_out", "rate_limited", "server_error", "not_asked"})


class ProviderFailed(Exception):
    """No answer of one provider. detail is ours; said is the provider's own sentence, for whoever asked and for nobody else."""

    def __init__(
        self, outcome: Outcome, detail: str, *, retry_after: float | None = None, said: str | None = None
    ) -> None:
        super().__init__(detail)
        self.outcome, self.detail, self.retry_after, self.said = outcome, detail, retry_after, said

    @property
    def retryable(self) -> bool:
        """Whether somebody else may be asked instead."""
        return self.outcome in RETRYABLE


@dataclass(frozen=True)
class Line:
    """The way to one provider. The key is put on each request, and kept nowhere that is printed."""

    provider: Provider
    http: outbound.Straight


def line(provider: Provider, key: str | None, allowed: frozenset[str]) -> Line:
    headers = {"Accept": "application/json, text/event-stream", "User-Agent": "mission-root"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    timeouts = provider.timeouts
    return Line(
        provider,
        outbound.straight(
            allowed=allowed,
            any_public=provider.reach == "public",
            timeout_s=timeouts.whole_ms / 1000,
            connect_s=timeouts.connect_ms / 1000,
            max_bytes=LARGEST_ANSWER,
            headers=headers,
            idle=CONNECTIONS,
        ),
    )


def body_for(target: Target, asked: Asked) -> bytes:
    """The request as this provider spells it."""
    said = {"model": target.model.upstream, **asked.body, target.model.limit_field: asked.max_tokens}
    if asked.stream:
        said |= {"stream": True, "stream_options": {"include_usage": True}}
    return to_json(said)


async def whole(way: Line, target: Target, asked: Asked) -> dict[str, Any]:
    """A whole answer. Raises ProviderFailed."""
    async with (
        faults(),
        asyncio.timeout(way.provider.timeouts.whole_ms / 1000),
        answering(way, target, asked) as answer,
    ):
        data = await answer.aread()
    return completion(data, "message")


async def stream(way: Line, target: Target, asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of an answer as they come, at least one, to the end mark. Raises ProviderFailed; after the first chunk: cut.

    The caller closes it. The provider's time is bounded in all, and so is each of its pauses; while somebody else has a
    chunk no clock runs.
    """
    timeouts, begun = way.provider.timeouts, False
    left, pause = timeouts.whole_ms / 1000, timeouts.first_byte_ms / 1000
    clock = asyncio.get_running_loop().time
    async with aclosing(received(way, target, asked)) as chunks:
        while True:
            since = clock()
            try:
                async with faults(), asyncio.timeout(min(left, pause)):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                if not begun:
                    raise ProviderFailed("unusable", "The stream has no chunk.") from None
                return
            except ProviderFailed as failed:
                if begun:
                    raise ProviderFailed("cut", f"The stream broke off: {failed.detail}") from None
                raise
            left -= clock() - since
            begun = True
            yield chunk


async def received(way: Line, target: Target, asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
    async with answering(way, target, asked) as answer, aclosing(events(answer.aiter_bytes())) as said:
        async for data in said:
            if data == b"[DONE]":
                return
            yield completion(data, "delta")
    raise ProviderFailed("unusable", "The stream ended without its end mark.")


@asynccontextmanager
async def answering(way: Line, target: Target, asked: Asked) -> AsyncIterator[httpx.Response]:
    """An answer of status 200 whose body is still to be read. Raises ProviderFailed for every other."""
    url = f"{way.provider.base_url}/chat/completions"
    answer = await way.http.ask("POST", url, body_for(target, asked), [(b"Content-Type", b"application/json")])
    async with aclosing(answer):
        if answer.status_code != 200:
            raise await refusal(answer)
        expected = "text/event-stream" if asked.stream else "application/json"
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != expected:
            raise ProviderFailed("unusable", f"The answer is not {expected}.")
        yield answer


async def refusal(answer: httpx.Response) -> ProviderFailed:
    """What another status than 200 stands for. What is said with it goes to whoever asked, when it is about the request."""
    status = answer.status_code
    if status == 429:
        return ProviderFailed("rate_limited", "It is asked too much.", retry_after=seconds(answer.headers))
    if status in (401, 403):
        return ProviderFailed("unauthorized", f"It refuses the root's key ({status}).")
    if status in (408, 425):
        return ProviderFailed("timed_out", f"It gave up waiting ({status}).")
    if status >= 500:
        return ProviderFailed("server_error", f"It failed ({status}).", retry_after=seconds(answer.headers))
    if 400 <= status < 500:
        return ProviderFailed("refused", f"It refuses the request ({status}).", said=await sentence(answer))
    return ProviderFailed("unusable", f"It answers {status}, which is not followed.")


async def sentence(answer: httpx.Response) -> str | None:
    """The message of an OpenAI error, plain and short, and without anything that looks like a key."""
    parts, size = [], 0
    try:
        async for part in answer.aiter_bytes():
            size += len(part)
            if size > LARGEST_REFUSAL:
                return None
            parts.append(part)
        error = read_json(b"".join(parts), max_bytes=LARGEST_REFUSAL, max_depth=8)["error"]
        message = error["message"]
    except (httpx.HTTPError, BadBody, KeyError, TypeError):
        return None
    if not isinstance(message, str):
        return None
    plain = "".join(letter if letter.isprintable() else " " for letter in message[:300])
    return SECRET.sub("…", plain)


def seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After, in seconds or as a date."""
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,6}", said):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


@asynccontextmanager
async def faults() -> AsyncIterator[None]:
    """Faults of the network as ProviderFailed."""
    try:
        yield
    except TimeoutError:
        raise ProviderFailed("timed_out", "It took too long.") from None
    except (httpx.ConnectError, httpx.ConnectTimeout, outbound.Forbidden) as error:
        raise ProviderFailed("unreachable", f"It cannot be reached ({type(error).__name__}).") from None
    except httpx.PoolTimeout:
        raise ProviderFailed("rate_limited", "Too many calls to it are under way here.") from None
    except httpx.TimeoutException as error:
        raise ProviderFailed("timed_out", f"It took too long ({type(error).__name__}).") from None
    except outbound.TooLarge:
        raise ProviderFailed("unusable", "The answer is too large, or compressed.") from None
    except httpx.HTTPError as error:
        raise ProviderFailed("server_error", f"The connection broke ({type(error).__name__}).") from None


def completion(data: bytes, holds: Literal["message", "delta"]) -> dict[str, Any]:
    """A chat completion, or a chunk of one. Raises ProviderFailed for anything else."""
    try:
        said = read_json(data, max_bytes=LARGEST_ANSWER, max_depth=MAX_DEPTH)
    except BadBody:
        raise ProviderFailed("unusable", "The answer is not JSON.") from None
    if isinstance(said, dict) and said.get("error"):
        raise ProviderFailed("server_error", "It answers with an error.")
    choices = said.get("choices") if isinstance(said, dict) else None
    most, least = 1, holds == "message"
    if (
        not isinstance(choices, list)
        or not least <= len(choices) <= most
        or not all(isinstance(one, dict) and isinstance(one.get(holds), dict) for one in choices)
    ):
        raise ProviderFailed("unusable", "The answer is no chat completion.")
    return said


async def events(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events. Raises ProviderFailed for one without end."""
    pending, data = bytearray(), bytearray()
    async for part in parts:
        pending += part
        if len(pending) + len(data) > LARGEST_EVENT:
            raise ProviderFailed("unusable", "A chunk of the stream is too large.")
        *lines, rest = pending.split(b"\n")
        pending = bytearray(rest)
        for one in lines:
            text = one.removesuffix(b"\r")
            if text.startswith(b"data:"):
                data += (b"\n" if data else b"") + text[5:].removeprefix(b" ")
            elif not text and data:
                yield bytes(data)
                data = bytearray()
