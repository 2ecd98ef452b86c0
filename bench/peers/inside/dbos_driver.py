"""DBOS under loops.serve: enqueue for accept, a workflow of three steps for completed."""

import asyncio
import sys

from dbos import DBOS, DBOSClient
from loops import serve

URL = sys.argv[1]
DBOS(config={"name": "bench", "system_database_url": URL, "log_level": "ERROR", "enable_otlp": False})
BODY = {"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed?"}


@DBOS.step()
async def step(number: int) -> int:
    return number + 1


@DBOS.workflow()
async def mission(body: dict) -> int:
    number = 0
    for _ in range(3):
        number = await step(number)
    return number


async def main():
    DBOS.launch()
    client = DBOSClient(system_database_url=URL)

    async def park():
        await client.enqueue_async({"queue_name": "parked", "workflow_name": "mission"}, BODY)

    async def start():
        return await DBOS.start_workflow_async(mission, BODY)

    async def done(handle):
        assert await handle.get_result(polling_interval_sec=0.02) == 3

    await serve(start, done, park=park)
    DBOS.destroy()


asyncio.run(main())
