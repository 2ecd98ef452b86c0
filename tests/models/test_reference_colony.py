"""DEFAULT_MODEL_ROUTE=root:<model>: the reference colony, as a service of its own, works a mission with a model of the root's."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from colony.service import create_app
from colony.settings import Settings as ColonySettings
from colony_client.client import ColonyClient
from tests.models.conftest import House
from tests.world.life import give_guide
from tests.world.world import COLONY_KEY, served

GUIDE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
QUOTE = "Before a writeback is executed, the undo window has to be over"
GOAL = "What has to be true before a writeback is executed?"


async def respond(_request: Request, said: dict[str, Any]) -> Response:
    """A model that quotes the one sentence it finds, and doubts nothing."""
    question = said["messages"][1]["content"]
    answer: dict[str, Any] = {"unsupported": []}
    if "Question:" in question:
        before, _, _ = question.partition(QUOTE)
        place = int(re.findall(r"^\[(\d+)\] ", before, re.MULTILINE)[-1])
        answer = {"claims": [{"text": "The undo window is over.", "quotes": [{"passage": place, "quote": QUOTE}]}]}
    message = {"role": "assistant", "content": json.dumps(answer)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return JSONResponse(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    )


async def worked(house: House, **ask: Any) -> dict[str, Any]:
    """A mission that the colony has worked on to its end, reviewed."""
    world = house.world
    settings = ColonySettings(  # type: ignore[call-arg]
        port=1, root_api_base_url=house.base, root_api_key=COLONY_KEY, default_model_route="root:small"
    )
    async with served(create_app(settings)) as there:
        world.worker.colony.callback_base_url = house.base
        world.worker.colony.client = ColonyClient(there, world.root.colony_keys, timeout_s=5)
        await give_guide(world, GUIDE)
        made = await world.create(user_goal=GOAL, **ask)
        await world.run_work("dispatch")
        async with asyncio.timeout(60):
            while (await world.mission(made["id"]))["state"] in ("accepted", "dispatched", "running"):
                await asyncio.sleep(0.05)
        await world.run_work("review")
        await world.worker.colony.client.aclose()
    return await world.mission(made["id"])


async def test_a_mission_is_worked_with_a_model_and_counted_once(house: House) -> None:
    house.east.respond = respond  # type: ignore[method-assign]
    mission = await worked(house)
    assert (mission["state"], mission["answer_status"]) == ("completed", "answered"), mission
    asked = len(house.east.asked)
    assert asked >= 2
    assert mission["budget"]["used_tokens"] == asked * 120, "what the root counts, and nothing that the colony reports"
    facts = [one["type"] for one in await house.world.facts(mission["id"])]
    assert facts.count("model.called") == asked and "usage.reported" not in facts


async def test_a_denied_model_ends_the_mission_by_its_own_word(house: House) -> None:
    mission = await worked(house, sensitivity_class="confidential")
    assert (mission["state"], mission["reason"]) == ("failed", "blocked")
    assert "lets this provider see no material of this class" in mission["reason_note"]
    assert house.east.asked == []
    facts = [one["type"] for one in await house.world.facts(mission["id"])]
    assert "model.denied" in facts and "provider.failed" in facts
