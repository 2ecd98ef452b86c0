"""`mission-root webhooks` as a person uses it, against the root on a real socket."""

import asyncio
import json
import os
from typing import Any

from tests.cli.inprocess import Done, command
from tests.delivery.streams import serving
from tests.world import World


async def run(url: str, key: str, *words: str) -> Done:
    given = dict(os.environ)
    return await asyncio.to_thread(command, "webhooks", *words, "--url", url, "--api-key", key, environment=given)


async def test_the_whole_life_of_a_webhook(world: World) -> None:
    key = world.people["admin"].key
    async with serving(world) as url:

        async def said(*words: str) -> Any:
            done = await run(url, key, *words, "--json")
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        assert "No webhook yet" in (await run(url, key, "list")).stdout
        made = await said(
            "create", "https://example.com/hook", "--type", "mission.*", "--signing", "v1", "--signing", "v1a"
        )
        assert made["secret"].startswith("whsec_") and len(made["secrets"]) == 2
        assert (await said("rotate", made["id"]))["secret"] != made["secret"]
        assert (await said("pause", made["id"]))["state"] == "paused"
        assert (await said("resume", made["id"]))["state"] == "active"
        sent = await said("test", made["id"])
        assert [one["id"] for one in (await said("deliveries", made["id"]))["items"]] == [sent["id"]]
        assert await said("redeliver", made["id"]) == {"deliveries": 0}
        shown = (await run(url, key, "list")).stdout
        assert made["id"] in shown and "1 pending" in shown and "whsec_" not in shown
        assert (await run(url, key, "delete", made["id"])).returncode == 0
        again = await run(url, key, "delete", made["id"])
        assert again.returncode == 3 and "mission-root:" in again.stderr


async def test_a_refused_address_says_why(world: World) -> None:
    async with serving(world) as url:
        done = await run(url, world.people["admin"].key, "create", "https://10.0.0.1/hook")
    assert done.returncode == 2 and "not public" in done.stderr
