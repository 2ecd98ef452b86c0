"""A second business system for tests, of another shape than the sample CRM: ETag and If-Match, PATCH of a bare record, no keys."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

READ, WRITE = "ledger-read-token", "ledger-write-token"


@dataclass
class Faults:
    """How it misbehaves."""

    before_s: float = 0
    after_s: float = 0
    drop_after: bool = False
    answer: int | None = None
    plain: bool = False  # refusals without the service's own words
    ignores_changes: bool = False
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


def create_app(faults: Faults) -> FastAPI:
    faults.records |= {
        "a/1": {"nummer": "a/1", "daten": {"betrag": 10, "vermerk": None}},
        "b": {"nummer": "b", "daten": {"betrag": 1, "vermerk": "x"}},
    }
    app = FastAPI(docs_url=None, openapi_url=None)

    def tag(record: dict[str, Any]) -> str:
        return '"' + hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16] + '"'

    def refused(status: int, fehler: str) -> Response:
        if faults.plain:
            return Response("<html>no</html>", status, media_type="text/html")
        return Response(json.dumps({"fehler": fehler, "text": "Nein."}), status, media_type="application/json")

    def admitted(request: Request, *tokens: str) -> bool:
        return request.headers.get("x-token") in tokens

    @app.get("/konten/{nummer:path}")
    async def one(nummer: str, request: Request) -> Response:
        if not admitted(request, READ, WRITE):
            return refused(401, "unbekannt")
        record = faults.records.get(nummer)
        if record is None:
            return refused(404, "fehlt")
        return Response(json.dumps(record), media_type="application/json", headers={"ETag": tag(record)})

    @app.patch("/konten/{nummer:path}")
    async def change(nummer: str, request: Request) -> Response:
        body = await request.body()
        faults.calls.append((nummer, dict(request.headers), body))
        if not admitted(request, WRITE):
            return refused(403, "verboten")
        if faults.answer:
            return refused(faults.answer, "gerade_nicht")
        await asyncio.sleep(faults.before_s)
        record = faults.records.get(nummer)
        if record is None:
            return refused(404, "fehlt")
        if request.headers.get("if-match") != tag(record):
            return refused(412, "veraltet")
        if not faults.ignores_changes:
            changed = {**record, "daten": {**record["daten"], **json.loads(body)["neu"]}}
            faults.records[nummer] = changed
        await asyncio.sleep(faults.after_s)
        if faults.drop_after:
            return CutOff()
        return Response(None, 204)

    return app


class CutOff(Response):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9999")]})


@contextmanager
def in_thread(faults: Faults) -> Iterator[str]:
    """The service on a free port of 127.0.0.1, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(create_app(faults), host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
