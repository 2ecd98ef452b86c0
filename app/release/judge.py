"""Computing the gates: every check's look, held against how long its evidence counts, and what that makes of its gate."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from app import ledger
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.release.around import Around, Told
from app.release.gates import CHECKS, GATES, Check
from app.release.looks import Evidence, Result, Seen

NOTE = text("SELECT note_gates(:tenant, :environment, CAST(:gates AS jsonb))")


@dataclass(frozen=True)
class CheckResult:
    """What came of a check. seen_at: how old its evidence is; expires_at: when that no longer counts."""

    check: Check
    result: Result
    reason: str | None
    evidence: tuple[Evidence, ...]
    seen_at: datetime | None
    expires_at: datetime | None

    def view(self, at: datetime) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "sentence": self.check.sentence,
            "looks_at": self.check.looks_at,
            "result": self.result,
            "reason": self.reason,
            "evidence": [one.view() for one in self.evidence],
            "age_s": None if self.seen_at is None else max(0.0, round((at - self.seen_at).total_seconds(), 1)),
            "limit_s": int(self.check.limit.total_seconds()),
            "expires_at": iso(self.expires_at) if self.expires_at else None,
        }


@dataclass(frozen=True)
class GateResult:
    """A gate passes when every check of it does."""

    gate: str
    checks: tuple[CheckResult, ...]

    @property
    def result(self) -> Result:
        return together(one.result for one in self.checks)

    @property
    def expires_at(self) -> datetime | None:
        """When the first of its evidence is too old."""
        return min((one.expires_at for one in self.checks if one.expires_at is not None), default=None)

    def view(self, at: datetime) -> dict[str, Any]:
        return {
            "gate": self.gate,
            "title": GATES[self.gate],
            "result": self.result,
            "checks": [one.view(at) for one in self.checks],
        }


def together(results: Iterable[str]) -> Result:
    found = set(results)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


async def judge(session: ReadSession, around: Around) -> list[GateResult]:
    """The gates of this environment, for the session's tenant, computed now."""
    found: dict[str, list[CheckResult]] = {gate: [] for gate in GATES}
    for check in CHECKS:
        if check.place == "staging" and around.environment == "production":
            found[check.gate].append(told(check, around))
        else:
            found[check.gate].append(weighed(check, await check.look(session, around), around.at))
    return [GateResult(gate, tuple(checks)) for gate, checks in found.items()]


def weighed(check: Check, seen: Seen, at: datetime) -> CheckResult:
    """What was seen, unless it is too old to count."""
    expires = None
    if seen.at is not None:
        expires = min(seen.at + check.limit, seen.until or datetime.max.replace(tzinfo=seen.at.tzinfo))
    result, reason = seen.result, seen.reason
    if result == "pass" and expires is not None and expires <= at:
        assert seen.at is not None
        ended = seen.until is not None and seen.until <= at
        result = "inconclusive"
        reason = (
            f"It ended at {iso(seen.until)}: it has to be given again."
            if ended and seen.until
            else f"Its evidence is {spoken(at - seen.at)} old, and counts for {spoken(check.limit)}."
        )
    return CheckResult(check, result, reason, seen.evidence, seen.at, expires)


def told(check: Check, around: Around) -> CheckResult:
    """A check of staging, as production hears of it."""
    verdict = around.verdicts.get("staging")
    if verdict is None:
        return unheard(check, "No verdict of staging was imported: mission-root release import FILE.")
    if not verdict.live(around.at):
        return unheard(check, f"The verdict of staging ended at {iso(verdict.expires_at)}: import a new one.", verdict)
    if verdict.build != around.build:
        reason = f"The verdict of staging is about build {verdict.build}, and this is {around.build}."
        return unheard(check, reason, verdict)
    said = said_of(verdict, check)
    if said is None:
        return unheard(check, "The verdict of staging does not speak of it.", verdict)
    seen_at = moment(said["seen_at"])
    until = moment(said["expires_at"])
    reason = said["reason"] and f"Staging says: {said['reason']}"
    seen = Seen(said["result"], reason, (Evidence("verdict", str(verdict.id)),), seen_at, until)
    return weighed(check, seen, around.at)


def unheard(check: Check, reason: str, verdict: Told | None = None) -> CheckResult:
    evidence = () if verdict is None else (Evidence("verdict", str(verdict.id)),)
    return CheckResult(check, "inconclusive", reason, evidence, verdict.made_at if verdict else None, None)


def elsewhere(around: Around, environment: str) -> list[GateResult]:
    """The gates of another environment, as its newest verdict says, with its age."""
    verdict = around.verdicts.get(environment)
    found: dict[str, list[CheckResult]] = {gate: [] for gate in GATES}
    for check in CHECKS:
        if verdict is None:
            one = unheard(check, f"No verdict of {environment} was imported.")
        elif not verdict.live(around.at):
            one = unheard(check, f"The verdict of {environment} ended at {iso(verdict.expires_at)}.", verdict)
        elif (said := said_of(verdict, check)) is None:
            one = unheard(check, f"The verdict of {environment} does not speak of it.", verdict)
        else:
            evidence = (Evidence("verdict", str(verdict.id)),)
            one = CheckResult(
                check, said["result"], said["reason"], evidence, moment(said["seen_at"]), verdict.expires_at
            )
        found[check.gate].append(one)
    return [GateResult(gate, tuple(checks)) for gate, checks in found.items()]


def said_of(verdict: Told, check: Check) -> dict[str, Any] | None:
    for gate in verdict.gates:
        if gate["gate"] == check.gate:
            return next((one for one in gate["checks"] if one["name"] == check.name), None)
    return None


def moment(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None


def spoken(length: timedelta) -> str:
    """A length of time as people say it."""
    seconds = length.total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return f"{int(seconds)} s"


def as_results(gates: Sequence[GateResult]) -> dict[str, dict[str, Any]]:
    """As the ladder looks at them."""
    return {
        one.gate: {
            "result": one.result,
            "checks": [{"name": said.check.name, "result": said.result, "reason": said.reason} for said in one.checks],
        }
        for one in gates
    }


async def note(session: WriteSession, environment: str, gates: Sequence[GateResult], at: datetime) -> None:
    """Keeps the gates as computed; the wall records a fact for each that came out differently."""
    results = as_results(gates)
    kept = [{"gate": one.gate, **results[one.gate], "expires_at": iso(one.expires_at or at)} for one in gates]
    asked = {"tenant": session.tenant, "environment": environment, "gates": json.dumps(kept)}
    if await session.scalar(NOTE, asked):
        session.nudge(ledger.FACTS)
