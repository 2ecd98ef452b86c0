"""A server of the Agent Protocol (LangGraph, Aegra) under loops.serve: one stateless run, streamed until its last value.

Streaming is their quickest way to a result: joining a run asks about it once a second.
"""

import asyncio
import sys

import aiohttp
from loops import serve

BODY = {"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed?"}
RUN = {"assistant_id": "mission", "input": {"body": BODY, "number": 0}, "stream_mode": ["values"]}


async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def start():
            answer = await http.post(f"{sys.argv[1]}/runs/stream", json=RUN)
            assert answer.status == 200, f"{answer.status} {(await answer.text())[:200]}"
            return answer

        async def done(answer):
            async with answer:
                said = await answer.read()
            assert b'"number":3' in said.replace(b" ", b""), said[-300:]

        await serve(start, done)


asyncio.run(main())
