"""The client half of a peer whose client is a Python SDK. Runs in the peer's environment: standard library only.

Takes one JSON command a line (accept, completed, lone), answers each with one line. A peer gives `start`, which returns
a handle once what it started is durable, `done`, which waits for a handle, and where many waiters would be the load
themselves also `drain`, which waits for all of them. With `park`, accepting is asked of that instead: it makes something
durable that nobody takes up, as the product's own accept round does.
"""

import asyncio
import json
import os
import sys
import time
import traceback

LONGEST_S = 200


async def serve(start, done, *, drain=None, park=None):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    await done(await start())
    if park:
        await park()
    say(answers, {"ready": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        what = asked.pop("do")
        try:
            async with asyncio.timeout(LONGEST_S):
                if what == "accept" and park:
                    found = await accept(park, done, nothing, **asked)
                else:
                    found = await ROUNDS[what](start, done, drain or all_of(done), **asked)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        say(answers, found)


def say(answers, found):
    answers.write(json.dumps(found) + "\n")
    answers.flush()


def all_of(done):
    async def drain(handles):
        await asyncio.gather(*(done(handle) for handle in handles))

    return drain


async def nothing(handles):
    pass


async def accept(start, done, drain, seconds, connections):
    """So many callers start one after the other until the time is over; what they started is then left to end."""
    times, handles, refused = [], [], 0
    began = time.perf_counter()
    until = began + seconds

    async def caller():
        nonlocal refused
        while (sent := time.perf_counter()) < until:
            try:
                handles.append(await start())
            except Exception:
                traceback.print_exc()
                refused += 1
                continue
            times.append(time.perf_counter() - sent)

    await asyncio.gather(*(caller() for _ in range(connections)))
    took = time.perf_counter() - began
    await drain(handles)
    times.sort()
    return {
        "accepted": len(times),
        "refused": refused,
        "seconds": took,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
    }


async def completed(start, done, drain, count, connections):
    handles, numbers = [], iter(range(count))
    began = time.perf_counter()

    async def caller():
        for _ in numbers:
            handles.append(await start())

    await asyncio.gather(*(caller() for _ in range(connections)))
    await drain(handles)
    return {"count": count, "seconds": time.perf_counter() - began}


async def lone(start, done, drain, times):
    found = []
    for _ in range(times):
        began = time.perf_counter()
        await done(await start())
        found.append((time.perf_counter() - began) * 1000)
    return {"ms": found}


ROUNDS = {"accept": accept, "completed": completed, "lone": lone}
