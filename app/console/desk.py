"""How the desk does: what people would rather look at than read, and how well decisions held."""

import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Set
from datetime import datetime, timedelta
from math import ceil
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.clock import now
from app.console.lasting import overwritten
from app.console.queries import people
from app.db import ReadSession
from colony_client.contract import STAGES

DAYS, MOST_MISSIONS, MOST_FACTS, MOST_DECISIONS = 14, 10_000, 3_000, 2_000
OUTCOMES = text("""
  SELECT to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, m.state, count(*) AS n
  FROM (SELECT created_at, state FROM mission WHERE tenant = :tenant AND created_at >= :since
        ORDER BY created_at DESC, id DESC LIMIT :most) m GROUP BY 1, 2""")
LATENCIES = text("""
  SELECT convert_from(f.body, 'UTF8')::jsonb ->> 'stage' AS stage, (convert_from(f.body, 'UTF8')::jsonb ->> 'latency_ms')::float8 AS ms
  FROM (SELECT type, body FROM ledger l WHERE l.tenant = :tenant ORDER BY l.xid DESC, l.id DESC LIMIT :most) f
  WHERE f.type = 'stage.completed'""")
AGES = text("""
  SELECT width_bucket(extract(epoch FROM clock_timestamp() - created_at), ARRAY[900, 3600, 14400, 86400]) AS bucket, count(*) AS n,
    max(extract(epoch FROM clock_timestamp() - created_at)) AS oldest
  FROM approval WHERE tenant = :tenant AND state = 'pending' GROUP BY 1""")
DECISIONS = text("""
  SELECT d.approver, d.verdict, d.decided_at, l.opened_at, a.withdrawn_by, w.id AS writeback, w.connector, w.target, w.created_at,
    e.state AS execution
  FROM (SELECT * FROM decision x WHERE x.tenant = :tenant AND x.decided_at >= :since ORDER BY x.decided_at DESC LIMIT :most) d
  JOIN approval a ON a.tenant = d.tenant AND a.id = d.approval
  LEFT JOIN approval_look l ON l.tenant = d.tenant AND l.approval = d.approval AND l.principal = d.approver
  LEFT JOIN writeback w ON w.tenant = a.tenant AND w.id = a.writeback
  LEFT JOIN execution e ON e.tenant = w.tenant AND e.writeback = w.id""")
QUEUES = text("""
  SELECT w.kind, count(*) AS n, count(*) FILTER (WHERE w.next_at <= clock_timestamp()) AS due,
    COALESCE(max(extract(epoch FROM clock_timestamp() - w.next_at)) FILTER (WHERE w.next_at <= clock_timestamp()), 0) AS oldest_s
  FROM work w WHERE w.tenant = :tenant GROUP BY w.kind ORDER BY w.kind""")
AGE_BUCKETS = ("under 15 min", "15-60 min", "1-4 h", "4-24 h", "over a day")
KEPT_S = 10.0


async def measured(session: ReadSession) -> dict[str, Any]:
    """The figures of the last DAYS days: outcomes by day, stages by latency, pending approvals by age, operators, queues.

    Bounded: the newest MOST_MISSIONS missions, MOST_FACTS facts and MOST_DECISIONS decisions are looked at,
    and of the changes of the same records as many as `overwritten` takes.
    """
    since = now() - timedelta(days=DAYS)
    asked = {"tenant": session.tenant, "since": since}
    outcomes = await session.rows(OUTCOMES, asked | {"most": MOST_MISSIONS})
    latencies = await session.rows(LATENCIES, {"tenant": session.tenant, "most": MOST_FACTS})
    ages = {row.bucket: row for row in await session.rows(AGES, {"tenant": session.tenant})}
    decided = await session.rows(DECISIONS, asked | {"most": MOST_DECISIONS})
    queues = await session.rows(QUEUES, {"tenant": session.tenant})
    return {
        "days": DAYS,
        "outcomes": by_day(outcomes, since),
        "stages": by_stage(latencies),
        "waiting": [{"age": name, "count": ages[n].n if n in ages else 0} for n, name in enumerate(AGE_BUCKETS)],
        "oldest_waiting_s": float(max((row.oldest for row in ages.values()), default=0)),
        "operators": await by_operator(session, decided),
        "queues": [
            {"kind": row.kind, "count": row.n, "due": row.due, "oldest_due_s": float(row.oldest_s)} for row in queues
        ],
    }


def by_day(rows: Any, since: datetime) -> list[dict[str, Any]]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        found[row.day][row.state] = row.n
    days = [(since + timedelta(days=n)).strftime("%Y-%m-%d") for n in range(1, DAYS + 1)]
    return [{"day": day, "states": found.get(day, {})} for day in days]


def by_stage(rows: Any) -> list[dict[str, Any]]:
    """Median and 95th percentile of each stage's latency in milliseconds, in the order of the line."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row.stage].append(row.ms)
    return [
        {"stage": stage, "count": len(ms), "median_ms": median(ms), "p95_ms": sorted(ms)[ceil(0.95 * len(ms)) - 1]}
        for stage, ms in sorted(found.items(), key=lambda one: place_of(one[0]))
    ]


def place_of(stage: str) -> tuple[int, str]:
    """Where a stage stands in the line; stages of a colony's own come after, by name."""
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


async def by_operator(session: ReadSession, decided: Any) -> list[dict[str, Any]]:
    """How each person decides: how many, how many approvals, how long they looked, how many of those were reverted: taken
    back by a person before they left, or overwritten later by another change of the same field."""
    written = [row for row in decided if row.execution == "succeeded"]
    since = min((row.created_at for row in written), default=now())
    over = await overwritten(session, ((row.connector, row.target) for row in written), since)
    votes: dict[UUID, list[Any]] = defaultdict(list)
    for row in decided:
        votes[row.approver].append(row)
    names = await people(session, votes)
    return sorted((operator(who, names, rows, over) for who, rows in votes.items()), key=lambda one: -one["decisions"])


def operator(who: UUID, names: dict[str, Any], rows: list[Any], over: Set[UUID]) -> dict[str, Any]:
    verdicts = Counter(row.verdict for row in rows)
    dwell = [(row.decided_at - row.opened_at).total_seconds() for row in rows if row.opened_at]
    agreed = [row for row in rows if row.verdict == "approve"]
    return {
        "principal_id": who,
        "name": names.get(str(who), {}).get("name", ""),
        "decisions": len(rows),
        "approved": verdicts["approve"],
        "median_dwell_s": round(median(dwell), 1) if dwell else None,
        "reverted": sum(row.withdrawn_by is not None or row.writeback in over for row in agreed),
    }


class Remembered:
    """What was measured for a tenant, for a few seconds: a page that everybody looks at is worked out once."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.known: OrderedDict[UUID, tuple[float, dict[str, Any]]] = OrderedDict()

    async def of(self, session: ReadSession) -> dict[str, Any]:
        tenant = session.tenant
        assert tenant is not None
        at, found = self.known.get(tenant, (float("-inf"), {}))
        if time.monotonic() - at > KEPT_S:
            found = await measured(session)
            self.known[tenant] = (time.monotonic(), found)
            self.known.move_to_end(tenant)
            while len(self.known) > self.most:
                self.known.popitem(last=False)
        return found
