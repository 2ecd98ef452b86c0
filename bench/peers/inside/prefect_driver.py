"""Prefect under loops.serve: a flow run made, then moved through its three states, which a worker has to do at least."""

import asyncio
import sys

import aiohttp
from loops import serve

URL, FLOW = sys.argv[1], sys.argv[2]
BODY = {"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed?"}


async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as http:

        async def post(path, body):
            async with http.post(URL + path, json=body) as answer:
                said = await answer.json()
                assert answer.status < 300, f"{answer.status} {str(said)[:200]}"
                return said

        async def start():
            made = await post("/flow_runs/", {"flow_id": FLOW, "parameters": BODY, "state": {"type": "SCHEDULED"}})
            return made["id"]

        async def done(run):
            for state in ("PENDING", "RUNNING", "COMPLETED"):
                await post(f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})

        await serve(start, done)


asyncio.run(main())
