"""Answers: JSON bytes, strong ETags from row versions, and the If-Match that guards a decision."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

from app.errors import Problem
from app.http.edge import request_id

JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass
class Reply:
    """A JSON answer before it becomes bytes."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = JSON
    secrets: tuple[str, ...] = ()  # members that are answered once and never stored

    def response(self) -> Response:
        return Response(to_json(self.body), self.status, self.headers, self.media_type)

    def stored_body(self) -> bytes:
        """What a repeat of the request is answered: the same, except that a secret is not shown twice."""
        if not self.secrets:
            return to_json(self.body)
        left = {name: value for name, value in json.loads(to_json(self.body)).items() if name not in self.secrets}
        return to_json(left | {"secret_already_shown": True})

    def stored_headers(self) -> str:
        return json.dumps({"content-type": self.media_type, **self.headers})


def problem_reply(request: Request, problem: Problem) -> Reply:
    """A problem as an answer that commits: for refusals whose traces are to be kept."""
    return Reply(problem.document(request.url.path, request_id(request)), problem.kind.status, problem.headers, PROBLEM)


def etag(version: int) -> str:
    return f'"v{version}"'


def require_version(request: Request, version: int, current: Any) -> None:
    """Raises 428 without If-Match, 412 with the current state when it names another version."""
    given = request.headers.get("if-match")
    if given is None:
        raise Problem(
            "precondition_required", "Send If-Match with the ETag you have seen.", headers={"ETag": etag(version)}
        )
    if not re.fullmatch(r'"v[0-9]{1,18}"', given.strip()) or given.strip() != etag(version):
        raise Problem(
            "stale",
            f"The current version is {etag(version)}.",
            headers={"ETag": etag(version)},
            current=json.loads(to_json(current)),
        )
