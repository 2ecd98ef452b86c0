"""The providers of models over HTTP: what there is, how it is, what was used of it, and the switch of each."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading, writing
from app.listing import Place
from app.model_gateway.actions import switch
from app.model_gateway.gateway import Gateway
from app.model_gateway.providers import Provider
from app.model_gateway.queries import Switch, switches, usage

router = Routes(tags=["models"])
Name = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="The provider's name.")]
NOTHING = {"calls": 0, "failed": 0, "tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0}


class ModelView(BaseModel):
    """A model as a provider has it. Prices are US dollars for a million tokens. place: when it is asked, from 1 on; null:
    never, because the file's order for this model leaves the provider out."""

    name: str
    input_usd: float
    output_usd: float
    context_tokens: int
    output_tokens: int
    place: int | None


class HealthView(BaseModel):
    """How the process that answered finds the provider."""

    state: Literal["unknown", "up", "degraded", "down", "off"]
    since: str
    detail: str | None


class ProviderSwitchView(BaseModel):
    off: bool
    off_at: str | None
    reason: str | None
    changed_at: str | None


class UseView(BaseModel):
    """What the caller's tenant used of it in the last 30 days. failed: calls without a whole answer."""

    calls: int
    failed: int
    tokens_in: int
    tokens_out: int
    cost_usd: float


class ProviderView(BaseModel):
    """A provider of models. classes: which material it may see, where policy agrees."""

    name: str
    owner: str
    reach: Literal["internal", "public"]
    classes: list[str]
    models: list[ModelView]
    health: HealthView
    switch: ProviderSwitchView
    use: UseView


class WhySwitched(BaseModel):
    """Why a provider is switched off, or on again. Every tenant may read it."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "It answers nonsense since noon."}]}
    )
    reason: str = Field(min_length=1, max_length=2000)


class ProviderSwitchedView(BaseModel):
    name: str
    outcome: Literal["off", "on", "unchanged"]
    switch: ProviderSwitchView


@router.get(
    "/v1/model-providers",
    operation_id="listModelProviders",
    response_model=Page[ProviderView],
    summary="Who runs models",
)
async def list_providers(
    request: Request,
    door: Annotated[Door[ReadSession], reading("models.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The deployment's providers by name: owner, models, health, switch, and what this tenant used of each. Never a key."""
    gateway: Gateway = request.app.state.models

    async def fetch(after: Place, most: int) -> list[Provider]:
        [name] = after or [""]
        return [gateway.registry.providers[one] for one in sorted(gateway.registry.providers) if one > name][:most]

    async def views(found: Sequence[Provider]) -> list[dict[str, Any]]:
        switched, used = await switches(door.session), await usage(door.session)
        return [view(gateway, one, switched.get(one.name, Switch()), used.get(one.name, NOTHING)) for one in found]

    return await paged(request, "model_providers", limit, cursor, fetch, views=views, by=["name"])


def view(gateway: Gateway, provider: Provider, switched: Switch, used: dict[str, Any]) -> dict[str, Any]:
    component = gateway.health[provider.name].component.view()
    return {
        "name": provider.name,
        "owner": provider.owner,
        "reach": provider.reach,
        "classes": provider.classes,
        "models": [
            {
                "name": name,
                "input_usd": model.input_usd,
                "output_usd": model.output_usd,
                "context_tokens": model.context_tokens,
                "output_tokens": model.output_tokens,
                "place": place(gateway, provider, name),
            }
            for name, model in sorted(provider.models.items())
        ],
        "health": {name: component[name] for name in ("state", "since", "detail")},
        "switch": switched.view(),
        "use": used,
    }


def place(gateway: Gateway, provider: Provider, model: str) -> int | None:
    order = [one.provider.name for one in gateway.registry.routes[model]]
    return order.index(provider.name) + 1 if provider.name in order else None


@router.post(
    "/v1/model-providers/{name}/off",
    operation_id="switchModelProviderOff",
    response_model=ProviderSwitchedView,
    summary="Ask a provider nothing more",
)
async def switch_off(
    name: Name, ask: WhySwitched, request: Request, door: Annotated[Door[WriteSession], writing("models.switch")]
) -> Response:
    """For every tenant, from the next call on; calls under way end as they end. By an admin of the operator's tenant."""
    return await turned(door, request, name, True, ask.reason)


@router.post(
    "/v1/model-providers/{name}/on",
    operation_id="switchModelProviderOn",
    response_model=ProviderSwitchedView,
    summary="Ask a provider again",
)
async def switch_on(
    name: Name, ask: WhySwitched, request: Request, door: Annotated[Door[WriteSession], writing("models.switch")]
) -> Response:
    """Takes the other back."""
    return await turned(door, request, name, False, ask.reason)


async def turned(door: Door[WriteSession], request: Request, name: str, off: bool, reason: str) -> Response:
    gateway: Gateway = request.app.state.models
    if name not in gateway.registry.providers:
        raise Problem("not_found", "There is no such provider.")

    async def run() -> Reply:
        outcome = await switch(door.session, door.caller, name, off, reason)
        now = (await switches(door.session)).get(name, Switch())
        return Reply({"name": name, "outcome": outcome, "switch": now.view()})

    return await once(door, "models.off" if off else "models.on", run)
