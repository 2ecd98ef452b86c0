"""A root with two providers of models, all of them real HTTP servers, and the real OpenAI client in front."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from openai import AsyncOpenAI

from app.model_gateway import Gateway
from tests.models.provider import KEY, Provider
from tests.world import World
from tests.world.checks import inspector
from tests.world.life import Life, under_way
from tests.world.world import served

PATIENT = {"connect_ms": 5_000, "first_byte_ms": 20_000, "whole_ms": 30_000}  # a busy machine is no bad provider
MODEL = {"upstream": "small-2026", "input_usd": 1.0, "output_usd": 4.0, "context_tokens": 8000, "output_tokens": 500}
ASK: list[Any] = [{"role": "user", "content": "How long does a rollback take?"}]


def described(name: str, url: str, **more: Any) -> dict[str, Any]:
    """A provider as the file describes it."""
    return {
        "name": name,
        "owner": f"the {name} team",
        "base_url": f"{url}/v1",
        "key": "MODEL_KEY_TESTS",
        "reach": "public",
        "classes": ["public", "internal"],
        "timeouts": PATIENT,
        "models": {"small": {**MODEL}},
        **more,
    }


@dataclass
class House:
    """The world with its gateway; east is asked first, then west."""

    world: World
    folder: Path
    east: Provider = field(default_factory=Provider)
    west: Provider = field(default_factory=lambda: Provider("west"))
    urls: dict[str, str] = field(default_factory=dict)
    base: str = ""
    gateway: Gateway = field(default_factory=lambda: Gateway.of)  # type: ignore[assignment,return-value]

    async def configure(self, *providers: dict[str, Any], fallback: dict[str, list[str]] | None = None) -> None:
        """Another file, as if the process had been started with it."""
        file = self.folder / "models.json"
        said = list(providers) or [described(name, self.urls[name]) for name in ("east", "west")]
        file.write_text(json.dumps({"providers": said, "fallback": fallback or {}}))
        self.gateway = Gateway.of(self.world.settings(model_providers=str(file)))
        self.world.root.models = self.gateway
        for app in (self.world.public, self.world.internal):
            app.state.models = self.gateway

    async def mission(self, **ask: Any) -> Life:
        return await under_way(self.world, **ask)

    def client(self, life: Life, token: str | None = None, **more: Any) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self.base}/internal/v1/missions/{life.id}/openai/v1",
            api_key=token or life.dispatch.gateway_token or "",
            **({"max_retries": 0, "timeout": 40} | more),
        )

    async def ask(self, life: Life, **more: Any) -> Any:
        async with self.client(life) as client:
            return await client.chat.completions.create(**({"model": "small", "messages": ASK} | more))

    async def account(self, mission: UUID) -> Any:
        return await (await inspector(self.world)).fetchrow(
            "SELECT * FROM budget_account WHERE scope = 'mission' AND key = $1", str(mission)
        )

    async def calls(self, life: Life) -> list[dict[str, Any]]:
        return [body for _, body in await life.facts("model.called")]


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"database_pool_wait_ms": 10_000}  # nor is it a busy database


@pytest.fixture
async def house(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("MODEL_KEY_TESTS", KEY)
    made = House(world, tmp_path)
    async with AsyncExitStack() as stack:
        for provider in (made.east, made.west):
            made.urls[provider.name] = await stack.enter_async_context(served(provider.app))
        made.base = await stack.enter_async_context(served(world.internal))
        await made.configure()
        yield made
        for provider in (made.east, made.west):
            provider.hold.set()
            provider.release.set()
