"""Every refusal of this service: a problem document with a code that a program can rely on."""

import json
from typing import Any

from starlette.responses import Response


class Problem(Exception):
    """A refusal; `more` are further members of the document (`errors`, `current`)."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers, self.more = status, code, detail, headers, more

    def response(self) -> Response:
        document = {"type": "about:blank", "status": self.status, "code": self.code, "detail": self.detail, **self.more}
        # ASCII escapes on purpose: a refused body may hold lone surrogates, which UTF-8 cannot carry.
        return Response(json.dumps(document), self.status, self.headers, "application/problem+json")


def bad_fields(errors: dict[str, str]) -> Problem:
    """422 that names every wrong field by JSON Pointer into the body."""
    listed = [{"pointer": pointer, "message": message} for pointer, message in errors.items()]
    named = "; ".join(f"{pointer}: {message}" for pointer, message in errors.items())
    return Problem(422, "bad_fields", named[:2000], errors=listed)
