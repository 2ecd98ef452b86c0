"""What is looked at beside the tables: the two health endpoints, the drills, and what other environments say."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import text

from app.boundary import colony_trouble
from app.clock import now
from app.db import Database, ReadSession
from app.http.probes import PROBE_S, fits_the_schema
from colony_client.client import ColonyClient

DRILLS = text("SELECT drill, id, state, reason, build, finished_at FROM newest_drills()")
VERDICTS = text("""
  SELECT DISTINCT ON (environment) id, environment, build, ladder, made_at, expires_at, convert_from(file, 'UTF8') AS file
  FROM verdict WHERE tenant = :tenant ORDER BY environment, made_at DESC""")


@dataclass(frozen=True)
class Probe:
    """What a health endpoint answered. detail is a person's sentence when it was not green."""

    green: bool
    at: datetime
    detail: str = ""


@dataclass(frozen=True)
class Probes:
    root: Probe
    colony: Probe


@dataclass(frozen=True)
class Drill:
    """The newest end of a drill."""

    id: UUID
    passed: bool
    reason: str | None
    build: str
    at: datetime


@dataclass(frozen=True)
class Told:
    """The newest verdict of another environment."""

    id: UUID
    build: str
    ladder: Mapping[str, str]
    made_at: datetime
    expires_at: datetime
    gates: list[dict[str, Any]]

    def live(self, at: datetime) -> bool:
        return self.expires_at > at


@dataclass(frozen=True)
class Around:
    """Everything a check may look at beside the tables of its tenant."""

    environment: str
    build: str
    at: datetime
    probes: Probes
    drills: Mapping[str, Drill] = field(default_factory=dict)
    verdicts: Mapping[str, Told] = field(default_factory=dict)


async def look_around(session: ReadSession, environment: str, build: str, probes: Probes) -> Around:
    """With the drills and verdicts as the session's tenant may see them."""
    drills = {
        row.drill: Drill(row.id, row.state == "passed", row.reason, row.build, row.finished_at)
        for row in await session.rows(DRILLS)
    }
    return Around(environment, build, now(), probes, drills, await verdicts(session))


async def verdicts(session: ReadSession) -> dict[str, Told]:
    """The newest verdict of each other environment."""
    return {
        row.environment: Told(
            row.id,
            row.build,
            row.ladder,
            row.made_at,
            row.expires_at,
            json.loads(row.file)["statement"]["gates"],
        )
        for row in await session.rows(VERDICTS, {"tenant": session.tenant})
    }


async def probe_from_inside(database: Database, colony: ColonyClient, draining: bool) -> Probes:
    """As the root sees itself and the colony. Before any transaction: nothing outside is asked while one is open."""
    root, other = await asyncio.gather(fits_the_schema(database), probed(colony_trouble(colony)))
    detail = "The root is shutting down." if draining else "The root's database does not answer, or has another schema."
    return Probes(Probe(True, now()) if root and not draining else Probe(False, now(), detail), other)


async def probe_from_outside(root: httpx.AsyncClient, base_url: str, colony: ColonyClient) -> Probes:
    """As somebody sees them who asks both."""
    return Probes(*await asyncio.gather(probe_root(root, base_url), probed(colony_trouble(colony))))


async def probe_root(root: httpx.AsyncClient, base_url: str) -> Probe:
    async def ask() -> str:
        try:
            answer = await root.get(f"{base_url}/readyz", timeout=PROBE_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"The root at ROOT_BASE_URL does not answer ({type(error).__name__})."
        return "" if answer.status_code == 200 else f"The root's /readyz answers {answer.status_code}."

    return await probed(ask())


async def probed(asking: Awaitable[str]) -> Probe:
    wrong = await asking
    return Probe(not wrong, now(), wrong)
