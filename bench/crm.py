"""The sample CRM, which also notes when each change arrived at its door (`GET /bench/arrivals`)."""

import json
import os
import time
from typing import Any

import uvicorn

from sample_crm.service import create_app
from sample_crm.settings import from_environment


def watched(app: Any, arrivals: list[dict[str, Any]]) -> Any:
    async def door(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bench/arrivals":
            body = json.dumps(arrivals).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        if scope["type"] == "http" and scope["method"] == "PATCH":
            arrivals.append({"path": scope["path"], "at": time.monotonic()})  # the same clock in every process
        await app(scope, receive, send)

    return door


def run() -> None:
    settings = from_environment(os.environ)
    app = watched(create_app(settings), [])
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", access_log=False)
