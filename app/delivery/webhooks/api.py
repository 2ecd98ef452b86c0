"""Webhooks over HTTP: make them, look after them, see what was delivered, and send it again."""

import re
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app import outbound
from app.db import ReadSession, WriteSession
from app.delivery.webhooks import actions
from app.delivery.webhooks.queries import (
    Webhook,
    deliveries,
    delivery,
    delivery_view,
    newest,
    one,
    own,
    views,
)
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, etag, once, paged, reading, require_version, writing
from colony_client.signing import Keys

router = Routes(tags=["webhooks"])

TYPE = re.compile(r"\*|[a-z_]+(\.[a-z_]+)*(\.\*)?")
SEE = "a fact type such as mission.completed, a family such as approval.*, or *"


def fact_type(said: str) -> str:
    if not TYPE.fullmatch(said):
        raise ValueError(f"must be {SEE}")
    if said.startswith("webhook."):
        raise ValueError("facts about webhooks are not delivered by webhook")
    return said


FactType = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(fact_type)]
Url = Annotated[str, StringConstraints(min_length=8, max_length=2000)]
Kind = Literal["v1", "v1a"]
DeliveryState = Literal["pending", "delivered", "dead", "cancelled"]


def only_hmac() -> list[Kind]:
    return ["v1"]


class WebhookAsk(BaseModel):
    """Where facts shall go."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"url": "https://example.com/hooks/mission-root", "types": ["mission.*", "approval.opened"]}]
        },
    )
    url: Url = Field(description="https, at a public address; others only when the deployment allows the host.")
    types: list[FactType] = Field(
        default_factory=lambda: ["*"], min_length=1, max_length=50, description=f"Each {SEE}."
    )
    description: str | None = Field(None, max_length=500)
    signing: list[Kind] = Field(
        default_factory=only_hmac, min_length=1, max_length=2, description="v1: HMAC-SHA256. v1a: Ed25519."
    )
    from_start: bool = Field(False, description="Deliver every fact there ever was, not only those from now on.")


class WebhookChange(BaseModel):
    """What is to be different; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"state": "paused"}]})
    url: Url | None = None
    types: list[FactType] | None = Field(None, min_length=1, max_length=50)
    description: str | None = Field(None, max_length=500)
    state: Literal["active", "paused"] | None = None


class RotateAsk(BaseModel):
    """A new secret. The one it replaces signs along for overlap_s seconds."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"overlap_s": 86400}]})
    kind: Kind = "v1"
    overlap_s: int = Field(86_400, ge=0, le=30 * 86_400)


class RedeliverAsk(BaseModel):
    """Which deliveries: ids, or all dead ones (at most 1,000 at a time)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"deliveries": "dead"}]})
    deliveries: Literal["dead"] | Annotated[list[UUID], Field(min_length=1, max_length=200)] = "dead"


class SecretView(BaseModel):
    id: UUID
    kind: Kind
    public_key: str | None
    created_at: str
    expires_at: str | None


class WebhookView(BaseModel):
    """A webhook. pending and dead count deliveries; failures counts tries in a row that failed."""

    id: UUID
    url: str
    types: list[str]
    description: str | None
    state: Literal["active", "paused"]
    version: int
    secrets: list[SecretView]
    pending: int
    dead: int
    failures: int
    failing_since: str | None
    blocked_until: str | None
    created_by: UUID
    created_at: str
    updated_at: str


class NewWebhook(WebhookView):
    """The webhook, with its HMAC secret: shown this once (null when it signs with Ed25519 only)."""

    secret: str | None = None
    secret_already_shown: bool | None = None


class NewSecret(BaseModel):
    """A new secret: shown this once when it is an HMAC key; of an Ed25519 key the public half."""

    id: UUID
    kind: Kind
    public_key: str | None
    secret: str | None = None
    secret_already_shown: bool | None = None


class DeliveryView(BaseModel):
    """One message. last_tries holds at most ten, each with time, status, error code and milliseconds."""

    id: UUID
    webhook_id: UUID
    message_id: str
    type: str
    subject: UUID | None
    seq: int | None
    state: DeliveryState
    tries: int
    last_tries: list[dict[str, Any]]
    next_at: str | None
    created_at: str
    settled_at: str | None


class Redelivered(BaseModel):
    """How many deliveries are pending again."""

    deliveries: int


@router.post(
    "/v1/webhooks",
    operation_id="createWebhook",
    status_code=201,
    response_model=NewWebhook,
    summary="Have facts delivered",
)
async def create_webhook(
    ask: WebhookAsk, request: Request, door: Annotated[Door[WriteSession], writing("webhooks.write")]
) -> Response:
    """Makes a webhook. Its messages are signed as Standard Webhooks says; the secret is in this answer and never again."""
    check_url(request, ask.url)

    async def run() -> Reply:
        made, secrets = await actions.create(
            door.session,
            door.caller,
            sealing(request),
            url=ask.url,
            types=ask.types,
            description=ask.description,
            kinds=sorted(set(ask.signing)),
            from_start=ask.from_start,
        )
        [view] = await views(door.session, [made])
        shown = next((secret.secret for secret in secrets if secret.secret), None)
        headers = {"Location": f"/v1/webhooks/{made.id}", "ETag": etag(made.version)}
        return Reply({**view, "secret": shown}, 201, headers, secrets=("secret",))

    return await once(door, "webhooks.create", run)


@router.get("/v1/webhooks", operation_id="listWebhooks", response_model=Page[WebhookView], summary="Webhooks")
async def list_webhooks(
    request: Request,
    door: Annotated[Door[ReadSession], reading("webhooks.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The tenant's webhooks, newest first."""
    found = partial(newest, door.session)
    return await paged(request, "webhooks", limit, cursor, found, views=partial(views, door.session))


@router.get("/v1/webhooks/{webhook_id}", operation_id="getWebhook", response_model=WebhookView, summary="One webhook")
async def get_webhook(webhook_id: UUID, door: Annotated[Door[ReadSession], reading("webhooks.read")]) -> Response:
    """One webhook; the ETag is what a change wants as If-Match."""
    found = await known(door.session, webhook_id)
    return Reply((await views(door.session, [found]))[0], headers={"ETag": etag(found.version)}).response()


@router.patch(
    "/v1/webhooks/{webhook_id}", operation_id="changeWebhook", response_model=WebhookView, summary="Change a webhook"
)
async def change_webhook(
    webhook_id: UUID,
    ask: WebhookChange,
    request: Request,
    door: Annotated[Door[WriteSession], writing("webhooks.write")],
) -> Response:
    """Changes address, types, description or state. A paused one misses nothing: it catches up when active again."""
    if ask.url is not None:
        check_url(request, ask.url)

    async def run() -> Reply:
        found = await known(door.session, webhook_id, lock=True)
        require_version(request, found.version, (await views(door.session, [found]))[0])
        wanted = {name: getattr(ask, name) for name in ask.model_fields_set}
        wanted = {name: value for name, value in wanted.items() if value is not None or name == "description"}
        changed = await actions.change(door.session, door.caller, found, wanted)
        return Reply((await views(door.session, [changed]))[0], headers={"ETag": etag(changed.version)})

    return await once(door, "webhooks.change", run)


@router.delete("/v1/webhooks/{webhook_id}", operation_id="deleteWebhook", status_code=204, summary="Delete a webhook")
async def delete_webhook(
    webhook_id: UUID, request: Request, door: Annotated[Door[WriteSession], writing("webhooks.write")]
) -> Response:
    """Ends a webhook and cancels what it still had to deliver. If-Match required."""
    found = await known(door.session, webhook_id, lock=True)
    require_version(request, found.version, (await views(door.session, [found]))[0])
    await actions.delete(door.session, door.caller, found)
    return Response(status_code=204)


@router.post(
    "/v1/webhooks/{webhook_id}/rotate",
    operation_id="rotateWebhookSecret",
    status_code=201,
    response_model=NewSecret,
    summary="Rotate a webhook's secret",
)
async def rotate_secret(
    webhook_id: UUID,
    ask: RotateAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("webhooks.write")],
) -> Response:
    """Makes a new secret; messages carry a signature of each live one, so that receivers can change over in their time."""

    async def run() -> Reply:
        found = await known(door.session, webhook_id, lock=True)
        made = await actions.rotate(
            door.session, door.caller, sealing(request), found, ask.kind, timedelta(seconds=ask.overlap_s)
        )
        said = {"id": made.id, "kind": made.kind, "public_key": made.public_key, "secret": made.secret}
        return Reply(said, 201, {"Location": f"/v1/webhooks/{webhook_id}"}, secrets=("secret",))

    return await once(door, "webhooks.rotate", run)


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    operation_id="testWebhook",
    status_code=202,
    response_model=DeliveryView,
    summary="Send a test message",
)
async def test_webhook(webhook_id: UUID, door: Annotated[Door[WriteSession], writing("webhooks.write")]) -> Response:
    """Sends a message of type webhook.tested, signed and tried like any other; look at the delivery for what came of it."""

    async def run() -> Reply:
        made = await actions.test(door.session, door.caller, await known(door.session, webhook_id, lock=True))
        return Reply(delivery_view(made), 202, {"Location": f"/v1/webhooks/{webhook_id}/deliveries/{made.id}"})

    return await once(door, "webhooks.test", run)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    response_model=Page[DeliveryView],
    summary="What was delivered",
)
async def list_deliveries(
    webhook_id: UUID,
    request: Request,
    door: Annotated[Door[ReadSession], reading("webhooks.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    state: DeliveryState | None = None,
) -> Response:
    """Deliveries of a webhook, newest first; state=dead is the list of those given up."""
    await known(door.session, webhook_id)
    found = partial(deliveries, door.session, webhook_id, state)
    return await paged(request, f"deliveries:{webhook_id}:{state}", limit, cursor, found, delivery_view)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
    operation_id="getDelivery",
    response_model=DeliveryView,
    summary="One delivery",
)
async def get_delivery(
    webhook_id: UUID, delivery_id: UUID, door: Annotated[Door[ReadSession], reading("webhooks.read")]
) -> Response:
    """One delivery with its last tries."""
    found = await delivery(door.session, webhook_id, delivery_id)
    if found is None:
        raise Problem("not_found", "There is no such delivery.")
    return Reply(delivery_view(found)).response()


@router.post(
    "/v1/webhooks/{webhook_id}/redeliver",
    operation_id="redeliver",
    status_code=202,
    response_model=Redelivered,
    summary="Deliver again",
)
async def redeliver(
    webhook_id: UUID, ask: RedeliverAsk, door: Annotated[Door[WriteSession], writing("webhooks.write")]
) -> Response:
    """Sends settled deliveries again, under the same message ids, so that a receiver that had them can tell."""

    async def run() -> Reply:
        found = await known(door.session, webhook_id, lock=True)
        if ask.deliveries != "dead":
            there = await own(door.session, webhook_id, ask.deliveries)
            for index, id in enumerate(ask.deliveries):
                if id not in there:
                    raise Problem(
                        "validation",
                        f"/deliveries/{index}: this webhook has no such delivery",
                        errors=[{"pointer": f"/deliveries/{index}", "detail": "see GET …/deliveries"}],
                    )
        return Reply({"deliveries": await actions.redeliver(door.session, door.caller, found, ask.deliveries)}, 202)

    return await once(door, "webhooks.redeliver", run)


async def known(session: ReadSession, id: UUID, *, lock: bool = False) -> Webhook:
    found = await one(session, id, lock=lock)
    if found is None:
        raise Problem("not_found", "There is no such webhook.")
    return found


def check_url(request: Request, url: str) -> None:
    """Raises Problem validation for an address that would be refused anyway; its name is resolved only when it is called."""
    allowed = outbound.allowed_hosts(request.app.state.settings.outbound_allowed_hosts)
    problem = outbound.unfit(url, allowed)
    parts = urlsplit(url) if problem is None else None
    if parts is not None and parts.fragment:
        problem = "must not hold a fragment"
    if problem is not None:
        raise Problem("validation", f"/url: {problem}", errors=[{"pointer": "/url", "detail": problem}])


def sealing(request: Request) -> Keys:
    keys: Keys | None = request.app.state.webhook_keys
    if keys is None:
        raise Problem(
            "not_configured", "Webhooks need WEBHOOK_SEALING_KEY, and this deployment has none.", retry_after=3600
        )
    return keys
