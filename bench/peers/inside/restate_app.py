"""The service behind Restate: a handler that does nothing, one with durable steps, and one that waits for a human."""

import time

import restate
from restate import Context, Service, Workflow, WorkflowContext, WorkflowSharedContext

STEPS = ("dispatched", "result", "completed")

service = Service("Bench")
asking = Workflow("Asking")


async def step() -> int:
    return 1


@service.handler()
async def run(ctx: Context, body: dict) -> int:
    for name in STEPS:
        await ctx.run_typed(name, step)
    return len(STEPS)


@asking.main()
async def main(ctx: WorkflowContext, body: dict) -> float:
    """When the call that was waited for would leave, on the clock that all processes of the machine share."""
    await ctx.promise("decision").value()

    async def leave() -> float:
        return time.monotonic()

    return await ctx.run_typed("call", leave)


@asking.handler()
async def decide(ctx: WorkflowSharedContext, body: dict) -> None:
    await ctx.promise("decision").resolve("approve")


app = restate.app([service, asking])
