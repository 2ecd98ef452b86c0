"""Processes that keep or sweep and are killed at a named step. `python -m tests.retention.dies` takes one JSON line per step on
stdin, does it in a child of its own, and answers each with how the child ended."""

import asyncio
import json
import os
import signal
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

from app import work
from app.artifacts import Objects, keep_blob
from app.db import Database
from app.ledger.store import open_store
from app.retention import Sweeper


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(step: str, said: dict[str, Any]) -> None:
    tenant = UUID(said["tenant"])
    objects = Objects(open_store(said["place"]), said["large"])
    if step == "written":  # an object, and no row that names it
        await objects.lay_down(tenant, b"n" * said["large"])
        die()
    database = Database(said["url"], pool_size=2)
    if step == "named":  # a row that names it, never committed
        laid = await objects.lay_down(tenant, b"n" * said["large"])
        async with database.write() as session:
            await session.enter(tenant)
            await keep_blob(session, tenant, laid)
            die()
    sweeper = Sweeper(database, objects, timedelta(0))
    delete = objects.discard

    async def one_of_them(of: UUID, labels: list[str]) -> None:
        await delete(of, labels[:1])
        die()

    if step == "removed":  # rows say so, objects are still there
        objects.discard = die  # type: ignore[method-assign]
    elif step == "half":
        objects.discard = one_of_them  # type: ignore[method-assign]
    await sweeper.bite(work.Item(tenant, "retention", tenant, said["fence"], 1, 1))


def in_a_child(said: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what it logs is no answer
        try:
            asyncio.run(main(said["step"], said))
        finally:
            os._exit(1)  # it should not have lived so long
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(in_a_child(json.loads(line)), flush=True)
