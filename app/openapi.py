"""The OpenAPI document as a product: every error of every operation, described once."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.errors import KINDS


class ProblemDocument(BaseModel):
    """RFC 9457. `errors` names fields by JSON Pointer or parameters by name; `next_actions` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[dict[str, str]]
    request_id: str | None
    retryable: bool
    next_actions: list[str]


def describe(app: FastAPI) -> None:
    """Replaces app.openapi by one that adds problems, headers and examples."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=DESCRIPTION)
            schema["components"]["schemas"]["Problem"] = ProblemDocument.model_json_schema()
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    if "probes" not in operation.get("tags", ()):
                        add_problems(path, method, operation)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


DESCRIPTION = """The control plane in front of an AI agent colony.

Authenticate with `Authorization: Bearer <API key>`. Errors are `application/problem+json`. Send `Idempotency-Key` with
every POST that creates or decides, and `If-Match` with every decision, cancel and fail."""

IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "schema": {"type": "string"},
    "description": "The ETag you have seen.",
    "example": '"v3"',
}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Makes a repeat of this request safe.",
}
DECIDING = (
    "decide", "cancelMission", "failMission", "breakGlass", "cancelApproval", "reviseApproval", "putApprovalRule", "putBudgets",
    "putRetention", "changeWebhook", "deleteWebhook",
)  # fmt: skip
CREATING = (
    "createMission", "createApprovalRule", "renewWriteback", "vouchForWriteback",
    "seeNotice", "createWebhook", "rotateWebhookSecret", "testWebhook",
    "redeliver", "attest", "withdrawAttestation", "enableRung", "lowerRung", "importVerdict",
)  # fmt: skip
SWITCHING = ("suspendTenant", "resumeTenant", "suspendPrincipal", "resumePrincipal")
MAKING_IDENTITY = (
    "createTenant", "createPrincipal", "grantRole", "delegateRole", "linkIdentity", "createApiKey", "rotateApiKey",
)  # fmt: skip


def add_problems(path: str, method: str, operation: dict[str, Any]) -> None:
    """Which statuses an operation may answer beside its success."""
    statuses = {401, 403, 422, 429, 500, 503}
    if "{" in path:
        statuses.add(404)
    if method in ("post", "put", "patch"):
        statuses |= {408, 409, 413, 415}
    if operation["operationId"] == "proveFact":
        statuses.add(409)
    parameters = operation.setdefault("parameters", [])
    if operation["operationId"] in DECIDING:
        statuses |= {412, 428}
        parameters.append(IF_MATCH)
    if operation["operationId"] in SWITCHING:
        statuses |= {412, 428}
        parameters += [IF_MATCH, IDEMPOTENCY]
    if operation["operationId"] in MAKING_IDENTITY:
        parameters.append(IDEMPOTENCY)
    if operation["tags"] == ["identity"]:
        statuses.add(409)
    if operation["operationId"] == "getSource":
        statuses |= {410, 502}
    if operation["operationId"] == "liftLegalHold":
        statuses |= {408, 409, 413, 415}
    if operation["operationId"] == "putLegalHold":
        operation["responses"]["201"] = {**operation["responses"]["200"], "description": "A new hold"}
    if operation["operationId"] == "putMissionType":
        statuses |= {412, 428}
        parameters.append({**IF_MATCH, "required": False})
        operation["responses"]["201"] = {**operation["responses"]["200"], "description": "A new type"}
    if operation["operationId"] in ("putConnector", "retireConnector"):
        statuses |= {412, 415, 428}
        parameters.append({**IF_MATCH, "required": operation["operationId"] == "retireConnector"})
    if operation["operationId"] == "putConnector":
        operation["responses"]["201"] = {**operation["responses"]["200"], "description": "A new connector"}
    if operation["operationId"] in ("putToolLayer", "retireToolLayer"):
        statuses |= {412, 415, 428}
        parameters.append({**IF_MATCH, "required": operation["operationId"] == "retireToolLayer"})
    if operation["operationId"] == "putToolLayer":
        operation["responses"]["201"] = {**operation["responses"]["200"], "description": "A new tool layer"}
    if operation["operationId"] in (
        "haltConnector",
        "resumeConnector",
        "haltToolLayer",
        "resumeToolLayer",
        "switchModelProviderOff",
        "switchModelProviderOn",
    ):
        parameters.append(IDEMPOTENCY)
    if method == "post" and operation["operationId"] in (*DECIDING, *CREATING):
        parameters.append(IDEMPOTENCY)
    for status in sorted(statuses):
        codes = [code for code, kind in KINDS.items() if kind.status == status]
        operation["responses"][str(status)] = {
            "description": ", ".join(codes),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
