"""What the tool gateway adds to a call: the same tool of the same MCP server, asked directly and through the root, in turns.

    python -m bench.tools [--rounds 5] [--calls 640] [--in-flight 32] [--answer-ms 500]

JSON on stdout. `added_p50_ms` is the median over the rounds of ours minus theirs of the same round: `paced` with a tool that takes
--answer-ms, so many calls in flight, begun one after the other, so that the way is measured and not a queue; `full` with a tool that
answers at once, as fast as the machine goes; `alone` likewise, one call at a time. Ours is everything a call goes through: signature,
token, nonce, attempt, policy decision, budget, the tool, blob, reading, fact; two commits. `cpu_ms_per_call` is the processor time of
`serve` and of PostgreSQL in the turns `paced` and `full`, which other load on the machine changes little. `session_ms` is what
beginning a session costs, which a call does not pay.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from app import embedded
from bench.instance import REPOSITORY, Instance
from bench.rounds import say
from colony_client import tokens
from colony_client.client import RootClient
from colony_client.signing import parse_keys

TEXT = "The queue is watched by two people."


async def timed(call: Callable[[int], Awaitable[Any]], calls: int, in_flight: int, after_ms: int = 0) -> list[float]:
    """How long each call took, in ms, that many at once, of a tool that takes after_ms; they begin evenly over that time."""
    took: list[float] = []

    async def line(number: int) -> None:
        await asyncio.sleep(after_ms / 1000 * number / in_flight)
        for _ in range(calls // in_flight):
            began = time.perf_counter()
            await call(after_ms)
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(line(number) for number in range(in_flight)))
    return sorted(took)


def figures(took: list[float]) -> dict[str, float]:
    return {"p50_ms": round(statistics.median(took), 2), "p95_ms": round(took[int(len(took) * 0.95)], 2)}


async def session_cost(server: Any, times: int = 5) -> float:
    """Beginning a session and asking for the tools, as the gateway does."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        async with Client(server, cache=None) as client:
            await client.list_tools()
            took.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(took), 1)


async def prepared(instance: Instance, url: str, missions: int) -> tuple[RootClient, list[UUID]]:
    """The layer registered, missions that may use it, and a colony's way to call."""
    secrets = instance.folder.secrets
    layer = {
        "kind": "mcp", "owner": "bench", "transport": "streamable_http", "url": url,
        "tools": [{"name": "echo", "access": "read", "reach": "internal", "sensitivity": "restricted"}],
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=instance.base_url, timeout=60) as http:

        async def ask(method: str, path: str, who: str, body: Any = None) -> Any:
            answer = await http.request(
                method, path, json=body, headers={"Authorization": f"Bearer {instance.key_of(who)}"}
            )
            assert answer.is_success, answer.text
            return answer.json()

        await ask("PUT", "/v1/tool-layers/bench", "admin", layer)
        tenant = (await ask("GET", "/v1/whoami", "submitter"))["tenant_id"]
        asked = {
            "mission_type": "oracle_advisory",
            "user_goal": "What is it?",
            "tools": ["bench.echo"],
            "budget": {"time_ms": 3_600_000},
        }
        made = [UUID((await ask("POST", "/v1/missions", "submitter", asked))["id"]) for _ in range(missions)]
    signing = parse_keys(secrets["root_signing_key"], "ROOT_SIGNING_KEY")
    colony = parse_keys(secrets["colony_key"], "ROOT_API_KEY")
    root = RootClient(instance.url_of("internal"), colony, timeout_s=60)
    for mission in made:
        token = tokens.issue(signing, mission=mission, tenant=UUID(tenant), attempt=1, fence=1, audience="callback")
        root.hold(mission, 1, token)
    return root, made


async def measured(instance: Instance, url: str, asked: argparse.Namespace) -> dict[str, Any]:
    root, missions = await prepared(instance, url, asked.in_flight)
    turns = itertools.cycle(missions)  # the calls of one mission queue up for its chain of facts
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    cpu: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    async with Client(url, cache=None) as client:
        await client.list_tools()

        async def direct(after_ms: int) -> None:
            said = await client.call_tool("echo", {"text": TEXT, "after_ms": after_ms})
            assert said.content[0].text == TEXT  # type: ignore[union-attr]

        async def through(after_ms: int) -> None:
            answer: Any = await root.call_tool(next(turns), 1, "bench.echo", {"text": TEXT, "after_ms": after_ms})
            assert answer["text"] == TEXT

        for call in (direct, through):  # warm
            await timed(call, 64, 8)
        for number in range(asked.rounds):
            for how, calls, flight, after_ms in (
                ("paced", asked.calls, asked.in_flight, asked.answer_ms),
                ("full", asked.calls, asked.in_flight, 0),
                ("alone", asked.calls // 8, 1, 0),
            ):
                for whom, call in (("direct", direct), ("gateway", through)):
                    before = instance.cpu_s()
                    found[f"{whom}_{how}"].append(figures(await timed(call, calls, flight, after_ms)))
                    used = {name: (s - before[name]) * 1000 / calls for name, s in instance.cpu_s().items()}
                    if whom == "gateway":
                        cpu[how].append(used)
            say(f"round {number + 1}: " + ", ".join(f"{name} {rows[-1]['p50_ms']} ms" for name, rows in found.items()))
    await root.aclose()

    def added(how: str) -> dict[str, float]:
        each = [a["p50_ms"] - b["p50_ms"] for a, b in zip(found[f"gateway_{how}"], found[f"direct_{how}"], strict=True)]
        return {"median": round(statistics.median(each), 2), "least": round(min(each), 2), "most": round(max(each), 2)}

    stdio = StdioServerParameters(command=sys.executable, args=["-m", "bench.tool_server"], cwd=REPOSITORY)
    return {
        "how": {
            "rounds": asked.rounds,
            "calls": asked.calls,
            "in_flight": asked.in_flight,
            "answer_ms": asked.answer_ms,
            "processors": os.cpu_count(),
        },
        "added_p50_ms": {how: added(how) for how in ("paced", "full", "alone")},
        "cpu_ms_per_call": {
            how: {name: round(statistics.median(one[name] for one in cpu[how]), 2) for name in ("serve", "postgres")}
            for how in ("paced", "full")
        },
        "p50_ms": {name: round(statistics.median(one["p50_ms"] for one in rows), 2) for name, rows in found.items()},
        "p95_ms": {name: round(statistics.median(one["p95_ms"] for one in rows), 2) for name, rows in found.items()},
        "session_ms": {"streamable_http": await session_cost(url), "stdio": await session_cost(stdio, 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=640)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--answer-ms", type=int, default=500)
    asked = parser.parse_args()
    port = embedded.free_port()
    server = subprocess.Popen([sys.executable, "-m", "bench.tool_server", str(port)], cwd=REPOSITORY)
    try:
        with tempfile.TemporaryDirectory() as place:
            instance = Instance(Path(place), {"serve", "registrar"}, "http://127.0.0.1:9")
            instance.surroundings |= {"OUTBOUND_ALLOWED_HOSTS": f"127.0.0.1:{port}", "DATABASE_POOL_SIZE": "32"}
            with instance:
                url = f"http://127.0.0.1:{port}/mcp"
                found = asyncio.run(measured(instance, url, asked))
            print(json.dumps(found, indent=1))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
