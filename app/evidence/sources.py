"""What a mission was shown, as the root knows it: how old each source is, how far its workspace trusts it, what it contradicts."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from statistics import median
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import artifacts
from app.artifacts import Located, Objects
from app.clock import iso
from app.db import ReadSession
from app.evidence.contradictions import MOST_BYTES, MOST_OTHERS, Place, find
from app.evidence.contradictions import Source as Compared
from app.evidence.stored import whole
from app.workspaces import Rules, read_rules
from colony_client.artifacts import Contradiction, ReviewedSource, SourceAge, Trust

# A document that came back with the same text counts as ingested when it came last.
SHOWN = text("""
  SELECT r.mission, r.source_sha256, r.document, r.kind, r.read_at, d.ingested_at, d.written_at
  FROM mission m
  JOIN reading r ON r.tenant = m.tenant AND r.mission = m.id
  LEFT JOIN workspace w ON w.tenant = m.tenant AND w.name = m.workspace
  LEFT JOIN LATERAL (
    SELECT x.ingested_at, x.written_at FROM document x
    WHERE r.kind = 'document' AND x.tenant = r.tenant AND x.workspace = w.id AND x.source_sha256 = r.source_sha256
      AND x.path = r.document ORDER BY x.version DESC LIMIT 1) d ON true
  WHERE m.tenant = :tenant AND m.id = ANY(:missions) ORDER BY r.mission, r.read_at, r.document, r.source_sha256""")
TRUST = text("""
  SELECT m.id AS mission, t.version, t.rules
  FROM mission m JOIN workspace w ON w.tenant = m.tenant AND w.name = m.workspace
  JOIN LATERAL (SELECT x.version, x.rules FROM workspace_trust x WHERE x.tenant = w.tenant AND x.workspace = w.id
                ORDER BY x.version DESC LIMIT 1) t ON true
  WHERE m.tenant = :tenant AND m.id = ANY(:missions)""")
SIZES = text("SELECT sha256, size FROM blob WHERE tenant = :tenant AND sha256 = ANY(:sources) AND removed_at IS NULL")
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Source:
    """One source that a mission was shown. written_at and ingested_at are a document's, read_at says when the mission read it."""

    source: str
    document: str
    kind: Literal["document", "record"]
    trust: Trust
    read_at: datetime
    ingested_at: datetime | None
    written_at: datetime | None

    @property
    def since(self) -> datetime:
        """From when on it counts as old: its last change, else its ingestion; a record is as old as its reading."""
        return self.written_at or self.ingested_at or self.read_at

    def age_days(self, at: datetime) -> float:
        return round(max((at - self.since).total_seconds(), 0) / DAY_S, 3)

    def reviewed(self, at: datetime) -> ReviewedSource:
        return ReviewedSource(
            source=self.source,
            document=self.document,
            kind=self.kind,
            trust=self.trust,
            age_days=self.age_days(at),
            read_at=self.read_at,
            ingested_at=self.ingested_at,
            written_at=self.written_at,
        )

    def aged(self) -> str:
        """What its age counts from, for a person."""
        how = "last changed" if self.written_at else "ingested" if self.ingested_at else "read"
        return f"{how} {iso(self.since)[:10]}"


Shown = dict[Place, Source]


async def shown_to(session: ReadSession, missions: Sequence[UUID]) -> dict[UUID, Shown]:
    """What each of a tenant's missions was shown, in the order in which it was, however many missions they are."""
    asked = {"tenant": session.tenant, "missions": list(missions)}
    rows = await session.rows(SHOWN, asked)
    rules = {row.mission: Rules(row.version, read_rules(row.rules)) for row in await session.rows(TRUST, asked)}
    return {
        mission: read(of_one, rules.get(mission, Rules())) for mission, of_one in groupby(rows, lambda row: row.mission)
    }


def read(rows: Iterable[Any], rules: Rules) -> Shown:
    found: Shown = {}
    for row in rows:
        trust = rules.trust_of("records" if row.kind == "record" else "documents", row.document)
        source = row.source_sha256.hex()
        found[source, row.document] = Source(
            source, row.document, row.kind, trust, row.read_at, row.ingested_at, row.written_at
        )
    return found


def age(sources: Iterable[Source], at: datetime) -> SourceAge | None:
    """The oldest and the median of some sources; None of none."""
    days = [source.age_days(at) for source in sources]
    return SourceAge(oldest_days=max(days), median_days=round(median(days), 3)) if days else None


Spans = Mapping[Place, list[tuple[int, int, str | None]]]


async def uncited(session: ReadSession, shown: Shown, cited: Spans) -> dict[str, Located]:
    """Where the sources are that were shown and are not cited, as many as are compared."""
    taken = await chosen(session, [place for place in shown if place not in cited])
    found = await artifacts.places(session, map(bytes.fromhex, taken))
    return {digest.hex(): place for digest, place in found.items()}


async def compared(shown: Shown, cited: Spans, placed: Mapping[str, Located], objects: Objects) -> dict[Place, bytes]:
    """The texts that are compared, cited ones first, as many as fit; what cannot be used is left out. Raises as `fetch`."""
    texts, read, left = dict[Place, bytes](), dict[str, bytes | None](), MOST_BYTES
    for place in [*sorted(cited), *(place for place in shown if place not in cited)]:
        source = place[0]
        if source not in placed or placed[source].size > left:
            continue
        if source not in read:
            read[source] = await whole(placed[source], objects)
        if (data := read[source]) is not None:
            texts[place] = data
            left -= len(data)
    return texts


async def contradictions(shown: Shown, cited: Spans, texts: Mapping[Place, bytes]) -> tuple[list[Contradiction], int]:
    """Where what is cited contradicts another source that was shown, and how many sources were not compared, or not to their end."""
    sources = {place: Compared(shown[place].kind, data, cited.get(place, [])) for place, data in texts.items()}
    found, cut_short = await asyncio.to_thread(find, sources)
    return found, len(shown) - len(sources) + len(cut_short)


async def chosen(session: ReadSession, places: Sequence[Place]) -> list[str]:
    """Which of these sources are read for comparison, first shown first: as many as fit the bounds."""
    sources = list(dict.fromkeys(source for source, _ in places))
    asked = {"tenant": session.tenant, "sources": [bytes.fromhex(source) for source in sources]}
    sizes = {row.sha256.hex(): row.size for row in await session.rows(SIZES, asked)}
    taken: list[str] = []
    left = MOST_BYTES
    for source in sources:
        if len(taken) < MOST_OTHERS and source in sizes and sizes[source] <= left:
            taken.append(source)
            left -= sizes[source]
    return taken


def by_place(spans: Iterable[tuple[Place, int, int, str | None]]) -> dict[Place, list[tuple[int, int, str | None]]]:
    """Cited spans by the source that they are of."""
    found: dict[Place, list[tuple[int, int, str | None]]] = defaultdict(list)
    for place, start, end, claim in spans:
        found[place].append((start, end, claim))
    return dict(found)
