"""The looks that checks are made of: each reads rows and says what it has seen, and on what evidence.

A look says pass, fail, or inconclusive: that what would tell is missing. Whether its evidence is too old is not its business.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import artifacts
from app.db import ReadSession
from app.ladder import ladder
from app.migrate import FITS, head
from app.packet import assemble
from app.release.around import Around, Probe
from colony_client.artifacts import ReviewPacket

Result = Literal["pass", "fail", "inconclusive"]
WEEK = timedelta(days=7)
AT_HAND_S = 2.0  # within which the packet has to be there
GRACE = timedelta(minutes=5)  # for timers
MOST = 5  # pieces of evidence of a kind

NEWEST = text("""
  SELECT id, state, reason, closed_at FROM mission
  WHERE tenant = :tenant AND mission_type = :type AND created_at > :since AND replay_of IS NULL AND closed_at IS NOT NULL
    AND (state = :state OR :state = '') ORDER BY created_at DESC, id DESC LIMIT 1""")
REPLAYS = text("""
  SELECT id, replay_of, state, reason, closed_at FROM mission
  WHERE tenant = :tenant AND mission_type = :type AND created_at > :since AND closed_at IS NOT NULL
    AND replay_mode IN ('recorded', 'recorded_with_colony') ORDER BY created_at DESC, id DESC LIMIT 1""")
FAILURES = text("""
  SELECT m.id, m.reason IS NOT NULL AS reason, EXISTS (
      SELECT 1 FROM ledger l WHERE l.tenant = m.tenant AND l.subject = m.id AND l.type = 'mission.failed') AS fact, EXISTS (
      SELECT 1 FROM artifact a WHERE a.tenant = m.tenant AND a.mission = m.id AND a.schema_name = 'mission_envelope') AS envelope
  FROM mission m WHERE m.tenant = :tenant AND m.state = 'failed' AND m.created_at > :since
  ORDER BY m.created_at DESC, m.id DESC LIMIT 200""")
PENDING = text("""
  SELECT id, expires_at FROM approval WHERE tenant = :tenant AND state = 'pending' ORDER BY created_at LIMIT :most""")
OVERDUE = text("""
  SELECT id, expires_at FROM approval WHERE tenant = :tenant AND state = 'pending' AND expires_at < :before
  ORDER BY expires_at LIMIT 1""")
ATTESTED = text("""
  SELECT id, role, convert_from(statement, 'UTF8')::jsonb ->> 'build' AS build, signed_at, expires_at, withdrawn_at FROM attestation
  WHERE tenant = :tenant AND environment = :environment AND claim = :claim ORDER BY signed_at DESC LIMIT 1""")
ANSWERED = text("""
  SELECT id, closed_at FROM mission
  WHERE tenant = :tenant AND mission_type = 'oracle_advisory' AND state = 'completed' AND answer_status = 'answered'
    AND created_at > :since ORDER BY created_at DESC, id DESC LIMIT 1""")
COMPLETED = text("""
  SELECT id, closed_at FROM mission WHERE tenant = :tenant AND state = 'completed' AND replay_of IS NULL AND created_at > :since
  ORDER BY created_at DESC, id DESC LIMIT 1""")
ENDED = text("""
  WITH lately AS MATERIALIZED (
    SELECT id, closed_at, state = 'failed' AS failed FROM mission
    WHERE tenant = :tenant AND mission_type = :type AND created_at > :since AND replay_of IS NULL
      AND (state = 'completed' OR state = 'failed' AND reason = ANY (:reasons))
    ORDER BY created_at DESC, id DESC LIMIT 10000)
  SELECT count(*) AS ended, count(*) FILTER (WHERE failed) AS failed,
    (array_agg(id ORDER BY closed_at DESC) FILTER (WHERE failed))[1:5] AS those FROM lately""")


@dataclass(frozen=True)
class Evidence:
    """Something that can be looked at: a mission, drill, approval, attestation, artifact, migration, verdict or health endpoint."""

    kind: str
    id: str

    def view(self) -> dict[str, str]:
        return {"kind": self.kind, "id": self.id}


@dataclass(frozen=True)
class Seen:
    """What a look has seen. at: how old the evidence is (None: there is none); until: when it ends by itself."""

    result: Result
    reason: str | None = None
    evidence: tuple[Evidence, ...] = ()
    at: datetime | None = None
    until: datetime | None = None


Look = Callable[[ReadSession, Around], Awaitable[Seen]]


def of(kind: str, ids: Iterable[Any]) -> tuple[Evidence, ...]:
    return tuple(Evidence(kind, str(id)) for id in ids)


# --- technical


async def schema(session: ReadSession, around: Around) -> Seen:
    found = await session.first(text(FITS), {"head": head()})
    at = found.version_num if found is not None else "none"
    if found is None or not found.fits:
        reason = f"The database is at migration {at}, and this build wants {head()}: run mission-root migrate."
        return Seen("fail", reason, of("migration", [at]), around.at)
    return Seen("pass", None, of("migration", [at]), around.at)


async def root(session: ReadSession, around: Around) -> Seen:
    return health("root", around.probes.root)


async def colony(session: ReadSession, around: Around) -> Seen:
    return health("colony", around.probes.colony)


def health(name: str, probe: Probe) -> Seen:
    evidence = of("health", [name])
    return Seen("pass", None, evidence, probe.at) if probe.green else Seen("fail", probe.detail, evidence, probe.at)


def completed(mission_type: str) -> Look:
    """Whether a mission of a type went through. What fails beside it is the error budget's business."""

    async def look(session: ReadSession, around: Around) -> Seen:
        asked = {"tenant": session.tenant, "type": mission_type, "since": around.at - WEEK}
        done = await session.first(NEWEST, asked | {"state": "completed"})
        if done is not None:
            return Seen("pass", None, of("mission", [done.id]), done.closed_at)
        last = await session.first(NEWEST, asked | {"state": ""})
        if last is None:
            return Seen("inconclusive", f"No mission of type {mission_type} has ended in the last seven days: run one.")
        reason = f"No mission of type {mission_type} has completed in the last seven days; the newest is {last.state}"
        reason += f" ({last.reason})." if last.reason else "."
        return Seen("fail", reason, of("mission", [last.id]), last.closed_at)

    return look


# --- governance


def drill(name: str) -> Look:
    async def look(session: ReadSession, around: Around) -> Seen:
        found = around.drills.get(name)
        if found is None:
            return Seen("inconclusive", f"The drill {name} was never run: mission-root drills run {name}.")
        evidence = of("drill", [found.id])
        if not found.passed:
            return Seen(
                "fail", f"The newest drill {name} failed: {found.reason or 'no reason is kept'}.", evidence, found.at
            )
        if found.build != around.build:
            reason = (
                f"The newest drill {name} was run by build {found.build}, and this is {around.build}: run it again."
            )
            return Seen("inconclusive", reason, evidence, found.at)
        return Seen("pass", None, evidence, found.at)

    return look


# --- operational


def replayed(mission_type: str) -> Look:
    async def look(session: ReadSession, around: Around) -> Seen:
        row = await session.first(REPLAYS, {"tenant": session.tenant, "type": mission_type, "since": around.at - WEEK})
        if row is None:
            reason = (
                f"No mission of type {mission_type} was replayed in the last seven days: mission-root replay run ID."
            )
            return Seen("inconclusive", reason)
        evidence = of("mission", [row.id, row.replay_of])
        if row.state != "completed":
            why = f" ({row.reason})" if row.reason else ""
            return Seen(
                "fail", f"The newest replay of type {mission_type} is {row.state}{why}.", evidence, row.closed_at
            )
        return Seen("pass", None, evidence, row.closed_at)

    return look


async def failures(session: ReadSession, around: Around) -> Seen:
    rows = await session.rows(FAILURES, {"tenant": session.tenant, "since": around.at - WEEK})
    for row in rows:
        lacks = [what for what in ("reason", "fact", "envelope") if not getattr(row, what)]
        if lacks:
            reason = (
                f"The failed mission {row.id} has kept no {' and no '.join(lacks)}: nobody can find out why it failed."
            )
            return Seen("fail", reason, of("mission", [row.id]), around.at)
    return Seen("pass", None, of("mission", [row.id for row in rows[:MOST]]), around.at)


async def queue(session: ReadSession, around: Around) -> Seen:
    if not await session.scalar("SELECT role_holders(:tenant, 'operator')", {"tenant": session.tenant}):
        return Seen("fail", "Nobody holds the role operator: nobody sees the approval queue.", at=around.at)
    late = await session.first(OVERDUE, {"tenant": session.tenant, "before": around.at - GRACE})
    if late is not None:
        reason = f"The approval {late.id} is pending although its time is over: nothing looks after the queue."
        return Seen("fail", reason, of("approval", [late.id]), around.at)
    rows = await session.rows(PENDING, {"tenant": session.tenant, "most": MOST})
    return Seen("pass", None, of("approval", [row.id for row in rows]), around.at)


# --- sales


def attested(claim: str, role: str) -> Look:
    async def look(session: ReadSession, around: Around) -> Seen:
        asked = {"tenant": session.tenant, "environment": around.environment, "claim": claim}
        row = await session.first(ATTESTED, asked)
        how = f"a {role} attests it with mission-root release attest {claim}"
        if row is None:
            return Seen("inconclusive", f"Nobody has attested it here: {how}.")
        evidence = of("attestation", [row.id])
        if row.withdrawn_at is not None:
            return Seen("fail", "The newest attestation was withdrawn.", evidence, row.signed_at)
        if row.role != role:
            return Seen(
                "inconclusive", f"The newest attestation was signed as {row.role}: {how}.", evidence, row.signed_at
            )
        if row.build != around.build:
            reason = f"The newest attestation is of build {row.build}, and this is {around.build}: {how}."
            return Seen("inconclusive", reason, evidence, row.signed_at)
        return Seen("pass", None, evidence, row.signed_at, row.expires_at)

    return look


async def explained(session: ReadSession, around: Around) -> Seen:
    """Whether the root's own review says which claims hold, with their citations found in the stored bytes."""
    row = await session.first(ANSWERED, {"tenant": session.tenant, "since": around.at - WEEK})
    if row is None:
        return Seen(
            "inconclusive", "No Oracle mission has answered in the last seven days: there is no packet to look at."
        )
    stored = await artifacts.latest(session, row.id, "review_packet", "root")
    if stored is None:
        return Seen(
            "fail", f"The mission {row.id} has an answer and no review.", of("mission", [row.id]), row.closed_at
        )
    evidence = (*of("mission", [row.id]), *of("artifact", [stored.id]))
    if stored.removed_at is not None:
        reason = f"The review of mission {row.id} was {artifacts.removed(stored.removed_at)}: ask anew."
        return Seen("inconclusive", reason, evidence, row.closed_at)
    review = ReviewPacket.model_validate_json(stored.bytes)
    held = [claim for claim in review.claims if claim.supported and any(one.verified for one in claim.citations)]
    if not held or review.verdict != "passed":
        reason = (
            f"The review of mission {row.id} {review.verdict}, and {len(held)} of its {len(review.claims)} claims hold."
        )
        return Seen("fail", reason, evidence, row.closed_at)
    return Seen("pass", None, evidence, row.closed_at)


async def at_hand(session: ReadSession, around: Around) -> Seen:
    """The packet is really put together, and the clock looked at."""
    row = await session.first(COMPLETED, {"tenant": session.tenant, "since": around.at - WEEK})
    if row is None:
        return Seen("inconclusive", "No mission has completed in the last seven days: there is no evidence to look at.")
    began, evidence = time.perf_counter(), of("mission", [row.id])
    packet = await assemble(session, row.id)
    took = time.perf_counter() - began
    assert packet is not None
    if any(one["removed_at"] for one in packet["artifacts"]):
        reason = f"What mission {row.id} has left was removed under retention: run one anew."
        return Seen("inconclusive", reason, evidence, row.closed_at)
    lacks = [part for part in ("review", "artifacts", "timeline") if not packet[part]]
    if lacks:
        return Seen("fail", f"The packet of mission {row.id} has no {' and no '.join(lacks)}.", evidence, row.closed_at)
    if took > AT_HAND_S:
        reason = f"The packet of mission {row.id} took {took:.1f} s; an operator waits {AT_HAND_S:g} s at most."
        return Seen("fail", reason, evidence, row.closed_at)
    return Seen("pass", None, evidence, row.closed_at)


# --- the error budget of a mission type


@dataclass(frozen=True)
class Budget:
    """How a mission type has done lately."""

    ended: int
    failed: int
    those: tuple[UUID, ...]

    @property
    def spent(self) -> bool:
        return ladder().error_budget.spent(self.ended, self.failed)

    def sentence(self, mission_type: str) -> str:
        hours = ladder().error_budget.window / timedelta(hours=1)
        return (
            f"{self.failed} of the {self.ended} missions of type {mission_type} that ended in the last {hours:g} hours were failed by "
            f"the service; {ladder().error_budget.share:.0%} may be."
        )


async def error_budget(session: ReadSession, mission_type: str, at: datetime) -> Budget:
    data = ladder().error_budget
    row = await session.first(
        ENDED,
        {
            "tenant": session.tenant,
            "type": mission_type,
            "since": at - data.window,
            "reasons": list(data.reasons),
        },
    )
    assert row is not None
    return Budget(row.ended, row.failed, tuple(row.those or ()))
