"""Refusals as problem documents (RFC 9457)."""

from collections.abc import Sequence

from fastapi.responses import JSONResponse

from colony_client.errors import FieldProblem


class Problem(Exception):
    """What a caller is told instead of an answer."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        fields: Sequence[FieldProblem] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.fields, self.retry_after_s = (
            status,
            code,
            detail,
            fields,
            retry_after_s,
        )

    def response(self) -> JSONResponse:
        body = {
            "type": f"urn:colony:problem:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.fields:
            body["errors"] = [{"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in self.fields]
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else None
        return JSONResponse(body, self.status, headers, media_type="application/problem+json")
