"""A provider of models: a real HTTP server that speaks the protocol, on good days and on bad ones."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["A rollback ", "takes four ", "minutes. ", "Größer ist ", "nicht besser."]
KEY = "provider-key-canary-5e7c1b"


@dataclass
class Provider:
    """What it was asked, and the mood it is in. usage: what it says was used; ...: the truth; None: nothing.

    hold: every answer waits for it (a stream in front of its third chunk); begun is set when one has come so far.
    """

    name: str = "east"
    mood: str = "good"
    usage: Any = ...
    created: int = 1_780_000_000
    words: list[str] = field(default_factory=lambda: list(WORDS))
    tool_calls: list[dict[str, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    gone: int = 0  # streams whose reader went away
    delay_s: float = 0.0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)  # ends what hangs

    def __post_init__(self) -> None:
        self.hold.set()
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        said = await request.json()
        self.asked.append(said)
        self.keys.append(request.headers.get("authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            return await self.respond(request, said)
        finally:
            self.at_once -= 1

    async def respond(self, request: Request, said: dict[str, Any]) -> Response:
        match self.mood:
            case "429":
                return JSONResponse(error("slow down"), 429, {"Retry-After": "7"})
            case "500" | "503":
                return JSONResponse(error("broken"), int(self.mood))
            case "400":
                return JSONResponse(error(f"Unsupported value: 'temperature'. Your key {KEY} is fine."), 400)
            case "401":
                return JSONResponse(error(f"Incorrect API key provided: {KEY}"), 401)
            case "redirect":
                return RedirectResponse("http://127.0.0.1:1/v1/chat/completions", 307)
            case "html":
                return HTMLResponse("<h1>Welcome</h1>")
            case "bad json":
                return Response('{"choices": [', media_type=kind(said))
            case "no completion":
                return Response('{"hello": 1}', media_type="application/json")
            case "error in 200":
                return self.first_event(said, {"error": {"message": "overloaded"}})
            case "huge":
                return StreamingResponse(self.endless(said), media_type=kind(said))
            case "gzip":
                packed = gzip.compress(b"[" + b"0," * 5_000_000 + b"0]")
                return Response(packed, headers={"Content-Encoding": "gzip"}, media_type=kind(said))
            case "hang" | "slow first byte":
                self.begun.set()
                await self.release.wait()
        if said.get("stream"):
            return StreamingResponse(self.stream(request, said), media_type="text/event-stream")
        self.begun.set()
        await self.hold.wait()
        return JSONResponse(self.whole(said))

    def first_event(self, said: dict[str, Any], value: Any) -> Response:
        if said.get("stream"):
            return Response(f"data: {json.dumps(value)}\n\n", media_type="text/event-stream")
        return JSONResponse(value)

    async def endless(self, said: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b'data: {"choices": [{"delta": {"content": "' if said.get("stream") else b'{"choices": ["'
        for _ in range(400):
            yield b"x" * 65_536

    def said_usage(self, said: dict[str, Any]) -> Any:
        return self.truth(said) if self.usage is ... else self.usage

    def truth(self, said: dict[str, Any]) -> dict[str, int]:
        tokens_in = sum(len(str(one.get("content")).split()) + 4 for one in said["messages"])
        tokens_out = len(self.words)
        return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}

    def around(self, said: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": self.created, "model": said["model"]}

    def whole(self, said: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.words)}
        if self.tool_calls:
            message = {"role": "assistant", "content": None, "tool_calls": self.tool_calls}
        reason = "tool_calls" if self.tool_calls else "stop"
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        used = self.said_usage(said)
        return self.around(said, "chat.completion") | {"choices": choices} | ({} if used is None else {"usage": used})

    def chunks(self, said: dict[str, Any]) -> list[dict[str, Any]]:
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        if self.tool_calls:
            deltas += [({"tool_calls": [{"index": n} | one]}, None) for n, one in enumerate(self.tool_calls)]
            deltas.append(({}, "tool_calls"))
        else:
            deltas += [({"content": word}, None) for word in self.words]
            deltas.append(({}, "stop"))
        around, used = self.around(said, "chat.completion.chunk"), self.said_usage(said)
        wanted = said.get("stream_options", {}).get("include_usage")
        more = {"usage": None} if wanted else {}
        made = [around | more | {"choices": [{"index": 0, "delta": d, "finish_reason": r}]} for d, r in deltas]
        return made + ([around | {"choices": [], "usage": used}] if wanted and used is not None else [])

    async def stream(self, request: Request, said: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            for place, chunk in enumerate([] if self.mood == "only the end" else self.chunks(said)):
                if place == 2:
                    self.begun.set()
                    await self.hold.wait()
                    if self.mood == "cut":
                        raise ConnectionError("as the test says")
                    if self.mood == "no end mark":
                        return
                    if self.mood == "error inside":
                        yield b'data: {"error": {"message": "overloaded"}}\n\n'
                        return
                    if self.mood == "stall":
                        await self.release.wait()
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.gone += 1
            raise


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def kind(said: dict[str, Any]) -> str:
    return "text/event-stream" if said.get("stream") else "application/json"
