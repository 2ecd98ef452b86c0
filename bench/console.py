"""How long the console's pages take, and how heavy they are, behind a long queue and a long history.

    make bench-console                                      10,000 pending approvals, 5,000 decided ones, 100,000 missions
    python -m bench.console --folder /var/tmp/console       keeps what was loaded, and finds it there when the same is asked for again
    python -m bench.console --missions 2000 --pending 500   smaller

stdout carries one JSON object, stderr a table. Exit code 1 when a page took longer or is heavier than it may. One person asks, one
page after another; the pages take turns, so that a noisy moment of the machine is not one page's. Figures of the health page are
remembered for ten seconds: the row `health, worked out` is of pages that came later than that.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app import identity
from app.console.desk import KEPT_S
from app.console.door import COOKIE
from app.db import Database
from bench.approvals import Desk, asked, without_undo
from bench.arithmetic import percentile, sha256_per_s
from bench.growth import Grown
from bench.multiply import Sample
from bench.sink import trace_sink

MOST_MS, MOST_BYTES = 200.0, 150_000
DECIDED = 5_000


class Shown(Grown):
    """An instance with a history, a long queue and many decisions behind it, at whose console somebody is signed in."""

    afterwards = ("crm", "registrar", "serve")

    async def more(self, submitter: Desk, operator: Desk) -> list[Sample]:
        """Also changes that were approved and written."""
        owner = Desk(self, "policy_owner")
        await without_undo(owner)
        owner.client.close()
        seen, headers = await operator.ask("GET", f"/v1/approvals/{await asked(submitter, operator)}")
        body = {"decision": "approve", "payload_sha256": seen["payload_sha256"], "comment": "measured"}
        await operator.ask("POST", f"/v1/approvals/{seen['id']}/decisions", body, If_Match=headers["etag"])
        mission = seen["mission_id"]
        await submitter.until(f"/v1/missions/{mission}", lambda one: one["state"] == "completed")
        self.decided = (mission, str(seen["id"]))
        return [Sample(mission, min(DECIDED, self.missions // 4))]

    async def told(self) -> dict[str, Any]:
        return {"decided": self.decided}

    async def cookie(self) -> str:
        """A session of the operator, by a one-time link."""
        database = Database(self.folder.database_url("registrar"), pool_size=1, name="bench console")
        async with database.write() as session:
            await identity.enter_tenant(session, "demo")
            who = await session.scalar(
                "SELECT id FROM principal WHERE name = 'operator' AND tenant = :t", {"t": session.tenant}
            )
            link = (await identity.make_link(session, who)).secret
        await database.close()
        async with httpx.AsyncClient(base_url=self.base_url, trust_env=False) as browser:
            await browser.get("/console/login", params={"link": link})
            return browser.cookies[COOKIE]


async def pages(browser: httpx.AsyncClient, samples: dict[str, Any]) -> dict[str, str]:
    """The pages by name. What is asked about is in the middle of what there is."""

    async def further(path: str, times: int) -> str:
        for _ in range(times):
            found = re.search(r'rel="next" href="([^"]+)"', (await browser.get(path)).text)
            if found is None:
                break
            path = found[1].replace("&amp;", "&")
        return path

    waiting = re.findall(r'data-row href="/console/approvals/([^"]+)"', (await browser.get("/console")).text)
    mission, decided = samples["decided"]
    done = samples["done"][0]
    return {
        "inbox": "/console",
        "inbox, 10 pages on": await further("/console", 10),
        "inbox, one risk": "/console?risk=low",
        "approval": f"/console/approvals/{waiting[0]}",
        "approval, decided": f"/console/approvals/{decided}",
        "batch of ten": f"/console/batch?like={waiting[0]}",
        "missions": "/console/missions",
        "missions, 10 pages on": await further("/console/missions", 10),
        "missions, one state": "/console/missions?state=awaiting_approval",
        "missions, one label": f"/console/missions?label={quote('rare:one')}",
        "mission": f"/console/missions/{done}",
        "mission with a change": f"/console/missions/{mission}",
        "audit": f"/console/audit?q={decided}",
        "audit of a record": "/console/audit?q=lead/L-1001",
        "audit, proved": f"/console/audit?q={decided}&proof=1",
        "release": "/console/release",
        "health": "/console/health",
        "policies": "/console/policies",
        "connectors": "/console/connectors",
    }  # fmt: skip


async def measured(shown: Shown, times: int) -> dict[str, Any]:
    took: dict[str, list[float]] = {}
    weighs: dict[str, int] = {}
    quiet: list[float] = []

    async def ask(name: str, path: str, keep: bool = True) -> None:
        began = time.perf_counter()
        answer = await browser.get(path)
        spent = (time.perf_counter() - began) * 1000
        if answer.status_code != 200:
            raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
        if keep:
            took.setdefault(name, []).append(spent)
            weighs[name] = max(weighs.get(name, 0), len(answer.content))

    async with httpx.AsyncClient(
        base_url=shown.base_url, cookies={COOKIE: await shown.cookie()}, trust_env=False, timeout=60
    ) as browser:
        wanted = await pages(browser, shown.samples)
        for number in range(times + 1):  # the first one warms
            quiet.append(sha256_per_s(0.05))
            for name, path in wanted.items():
                await ask(name, path, number > 0)
        for _ in range(min(5, times)):
            await asyncio.sleep(KEPT_S + 0.5)
            await ask("health, worked out", wanted["health"])
    return {
        "missions": shown.missions,
        "pending": shown.pending,
        "calibration": {"least": min(quiet), "most": max(quiet)},
        "pages": {
            name: {
                "p50_ms": round(percentile(found, 0.5), 1),
                "p95_ms": round(percentile(found, 0.95), 1),
                "bytes": weighs[name],
            }
            for name, found in took.items()
        },
    }


def over(found: dict[str, Any]) -> list[str]:
    return [name for name, one in found["pages"].items() if one["p95_ms"] > MOST_MS or one["bytes"] > MOST_BYTES]


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{'':28s}{'p50 ms':>10s}{'p95 ms':>10s}{'bytes':>10s}   at most {MOST_MS:.0f} ms and {MOST_BYTES:,} bytes"
    ]
    late = over(found)
    for name, one in found["pages"].items():
        mark = "   over" if name in late else ""
        lines.append(f"{name:28s}{one['p50_ms']:10.1f}{one['p95_ms']:10.1f}{one['bytes']:10,}{mark}")
    return "\n".join(lines)


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--missions", type=int, default=100_000)
    wanted.add_argument("--pending", type=int, default=10_000, help="how many of them wait for a human")
    wanted.add_argument("--times", type=int, default=40, help="how often each page is asked for")
    wanted.add_argument("--folder", type=Path, help="where what was loaded is kept")
    given = wanted.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mission-root-console-", ignore_cleanup_errors=True) as folder,
        trace_sink() as sink,
        Shown(given.folder or Path(folder), given.missions, sink, given.pending) as shown,
    ):
        found = {"facts": shown.facts(), **asyncio.run(measured(shown, given.times))}
    print(table(found), file=sys.stderr)
    print(json.dumps(found))
    sys.exit(1 if over(found) else 0)


if __name__ == "__main__":
    main()
