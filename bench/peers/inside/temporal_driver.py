"""Temporal under loops.serve: start_workflow for accept, a workflow of three activities for completed."""

import asyncio
import contextlib
import sys
import uuid
from datetime import timedelta

from loops import serve
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

BODY = {"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed?"}


@activity.defn
async def step(number: int) -> int:
    return number + 1


@workflow.defn
class Mission:
    @workflow.run
    async def run(self, body: dict) -> int:
        number = 0
        for _ in range(3):
            number = await workflow.execute_activity(step, number, start_to_close_timeout=timedelta(seconds=30))
        return number


async def connected():
    for _ in range(60):
        with contextlib.suppress(Exception):
            client = await Client.connect(sys.argv[1])
            await client.count_workflows()
            return client
        await asyncio.sleep(0.5)
    raise SystemExit("the server does not take connections")


async def main():
    client = await connected()

    async def begin(queue):
        return await client.start_workflow(Mission.run, BODY, id=str(uuid.uuid4()), task_queue=queue)

    async def park():
        await begin("parked")

    async def start():
        return await begin("worked")

    async def done(handle):
        assert await handle.result() == 3

    async with Worker(
        client,
        task_queue="worked",
        workflows=[Mission],
        activities=[step],
        max_concurrent_workflow_tasks=64,
        max_concurrent_activities=64,
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await serve(start, done, park=park)


asyncio.run(main())
