"""procrastinate under loops.serve: defer for accept, a chain of three jobs, each deferring the next, for completed."""

import asyncio
import contextlib
import itertools
import logging
import sys

import procrastinate
from loops import serve

logging.getLogger("procrastinate").setLevel(logging.ERROR)
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1], min_size=4, max_size=16))
BODY = {"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed?"}
ended: dict[int, asyncio.Event] = {}


@app.task(name="step", queue="worked")
async def step(key: int, left: int, body: dict):
    if left:
        await step.defer_async(key=key, left=left - 1, body=body)
    else:
        ended[key].set()


@app.task(name="parked", queue="parked")
async def parked(body: dict):
    pass


async def main():
    numbers = itertools.count()
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=["worked"],
                concurrency=32,
                fetch_job_polling_interval=0.05,  # its five seconds are felt whenever a notification is missed
                install_signal_handlers=False,
                delete_jobs="never",
            )
        )

        async def park():
            await parked.defer_async(body=BODY)

        async def start():
            key = next(numbers)
            ended[key] = asyncio.Event()
            await step.defer_async(key=key, left=2, body=BODY)
            return key

        async def done(key):
            await ended[key].wait()
            del ended[key]

        await serve(start, done, park=park)
        worker.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.wait_for(worker, 5)


asyncio.run(main())
