"""Moving the ladder and attesting: by people who present their secrets, and by the service itself, which only lowers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.canonical import canonical
from app.clock import new_id
from app.db import ReadSession, WriteSession
from app.errors import Problem
from app.ladder import AUTONOMY, Missing, Rung, Standing, lacking, ladder, reaches, standing
from app.release import judge as judging
from app.release.around import Around, Drill, Probes, look_around
from app.release.gates import BY_NAME, Check
from app.release.judge import GateResult, as_results, judge
from app.release.looks import Budget, error_budget

log = structlog.get_logger("release")
ENABLE = text("SELECT enable_rung(:tenant, :secret, :environment, :rung, :type, :autonomy, CAST(:evidence AS jsonb))")
LOWER = text("SELECT * FROM lower_rung(:tenant, :secret, :environment, :rung, CAST(:evidence AS jsonb))")
LOWER_ITSELF = text("SELECT lower_rung_itself(:tenant, :environment, :rung, :cause, CAST(:evidence AS jsonb))")
ATTEST = text("SELECT attest(:tenant, :secret, :id, :environment, :claim, :role, :statement, :life)")
WITHDRAW = text("SELECT withdraw_attestation(:tenant, :secret, :id)")

# What no evidence and nobody's right replaces: the wall's answer -> what a person is told.
RULES = {
    "nothing_to_stand_on": "Dry runs are not enabled in this environment: enable the rung dry_run first.",
    "staging_first": "No verdict in force of staging says that missions of type oracle_advisory, crm_lead_intelligence and of this type "
    "were replayed there: replay them in staging, export a verdict, and import it here.",
    "route_not_drilled": "The approval route is not drilled: within the last seven days the newest drills approved_writeback, "
    "blocked_writeback and expired_approval have to have passed.",
    "begins_assisted": "Production begins assisted: enable the rung as assisted first.",
}


@dataclass(frozen=True)
class Picture:
    """What is known at one moment: the gates, where the ladder stands, and what is around."""

    around: Around
    gates: Sequence[GateResult]
    stands: Standing

    def elsewhere(self) -> dict[str, dict[str, str]]:
        return {name: dict(one.ladder) for name, one in self.around.verdicts.items() if one.live(self.around.at)}

    def lacking(self, rung: Rung) -> list[Missing]:
        return lacking(rung, self.stands, self.elsewhere(), as_results(self.gates))


async def picture(session: ReadSession, environment: str, build: str, probes: Probes) -> Picture:
    around = await look_around(session, environment, build, probes)
    return Picture(around, await judge(session, around), await standing(session, environment))


async def missing(session: ReadSession, seen: Picture, rung: Rung) -> list[Missing]:
    """Everything that a rung still wants, its error budget with it."""
    found = seen.lacking(rung)
    if rung.gates:
        budget = await error_budget(session, rung.mission_type, seen.around.at)
        if budget.spent:
            found.append(Missing("error_budget", rung.mission_type, budget.sentence(rung.mission_type)))
    return found


def rung_here(name: str, environment: str) -> Rung:
    """A rung of this environment. Raises Problem not_found or wrong_state."""
    rung = ladder().find(name)
    if rung is None:
        raise Problem("not_found", f"There is no such rung. There are {', '.join(one.name for one in ladder().rungs)}.")
    if environment not in rung.environments:
        places = " and ".join(rung.environments)
        raise Problem(
            "wrong_state", f"The rung {name} belongs to {places}, and this is {environment}: it is moved there."
        )
    return rung


async def enable(session: WriteSession, caller: Caller, seen: Picture, rung: Rung, autonomy: str | None) -> str:
    """Enables a rung on evidence that was computed in this transaction. Answers enabled or unchanged.

    Raises Problem `rung_not_ready` with everything that is missing, `validation`, `forbidden`, `unauthenticated`.
    """
    autonomy = autonomy or rung.autonomy
    if not reaches(rung.at_most, autonomy) or not reaches(autonomy, rung.autonomy):
        may = [one for one in AUTONOMY if reaches(rung.at_most, one) and reaches(one, rung.autonomy)]
        detail = f"must be one of {', '.join(may)} for the rung {rung.name}"
        raise Problem("validation", f"/autonomy: {detail}", errors=[{"pointer": "/autonomy", "detail": detail}])
    found = await missing(session, seen, rung)
    if found:
        raise not_ready(rung, found)
    asked = {
        "tenant": caller.tenant,
        "secret": caller.secret,
        "environment": seen.around.environment,
        "rung": rung.name,
        "type": rung.mission_type,
        "autonomy": autonomy,
        "evidence": json.dumps(evidence(seen)),
    }
    outcome: str = await session.scalar(ENABLE, asked)
    if outcome in RULES:
        raise not_ready(rung, [Missing("rule", outcome, RULES[outcome])])
    refuse(outcome, "A rung is enabled by a person who is release_owner.")
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    return outcome


async def lower(
    session: WriteSession, caller: Caller, environment: str, rung: Rung, reason: str | None
) -> tuple[str, int]:
    """Lowers a rung, and with dry runs everything that stands on them. Answers lowered or unchanged, and how many."""
    said = await session.first(
        LOWER,
        {
            "tenant": caller.tenant,
            "secret": caller.secret,
            "environment": environment,
            "rung": rung.name,
            "evidence": json.dumps({"reason": reason} if reason else {}),
        },
    )
    assert said is not None
    refuse(said.outcome, "A rung is lowered by a person who is release_owner or operator.")
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    return said.outcome, said.lowered


def refuse(outcome: str, who: str) -> None:
    if outcome == "unauthenticated":
        raise Problem("unauthenticated", "The key that asks is no longer live.")
    if outcome == "not_entitled":
        raise Problem("forbidden", who)


def not_ready(rung: Rung, found: Sequence[Missing]) -> Problem:
    reasons = " ".join(one.reason for one in found)
    detail = f"The rung {rung.name} ({rung.title}) is not enabled. {reasons}"
    return Problem("rung_not_ready", detail[:4000], rung=rung.name, missing=[one.view() for one in found])


def evidence(seen: Picture) -> dict[str, Any]:
    """What a rung was enabled on: of every check the result, and what it was seen on. Ids and codes only."""
    return {
        "build": seen.around.build,
        "checks": {
            one.check.name: {"result": one.result, "evidence": [f"{two.kind}:{two.id}" for two in one.evidence]}
            for gate in seen.gates
            for one in gate.checks
        },
    }


# --- what the service does itself


async def review(session: WriteSession, caller: Caller, environment: str, build: str, probes: Probes) -> list[str]:
    """Computes and keeps the gates, and lowers what their evidence no longer carries. Answers the rungs that were lowered.

    Everything is read before the first thing is kept: that takes the tenant's ladder, and who lowers a rung by hand waits for it.
    """
    seen = await picture(session, environment, build, probes)
    falls = await fallen(session, environment, seen)
    await judging.note(session, environment, seen.gates, seen.around.at)
    lowered = []
    for name, cause, why in falls:
        asked = {"tenant": caller.tenant, "environment": environment, "rung": name, "cause": cause}
        if await session.scalar(LOWER_ITSELF, asked | {"evidence": json.dumps(why)}):
            lowered.append(name)
            log.warning("rung lowered", rung=name, cause=cause, tenant=str(caller.tenant))
    if lowered:
        session.nudge(ledger.FACTS)
    return lowered


async def fallen(session: ReadSession, environment: str, seen: Picture) -> list[tuple[str, str, dict[str, Any]]]:
    """The enabled rungs that their evidence no longer carries: name, cause, and what was seen."""
    failed = sorted(name for name, drill in seen.around.drills.items() if not drill.passed)
    found = []
    for rung in ladder().of(environment):
        if not rung.gates or not seen.stands.enabled(rung.name):
            continue
        if failed:
            found.append((rung.name, "drill_failed", drills_said(failed, seen.around.drills)))
        elif (budget := await error_budget(session, rung.mission_type, seen.around.at)).spent:
            found.append((rung.name, "error_budget", budget_said(budget)))
    return found


def drills_said(failed: Sequence[str], drills: Mapping[str, Drill]) -> dict[str, Any]:
    return {"drills": {name: {"run": str(drills[name].id), "reason": drills[name].reason} for name in failed}}


def budget_said(budget: Budget) -> dict[str, Any]:
    return {"ended": budget.ended, "failed": budget.failed, "missions": [str(id) for id in budget.those]}


# --- what only a person can judge


def claim_of(name: str) -> Check:
    """A check that is answered by attestations. Raises Problem validation."""
    check = BY_NAME.get(name)
    if check is None or check.role is None:
        open_ones = ", ".join(one.name for one in BY_NAME.values() if one.role is not None)
        detail = f"must be one that people attest: {open_ones}"
        raise Problem("validation", f"/claim: {detail}", errors=[{"pointer": "/claim", "detail": detail}])
    return check


async def attest(
    session: WriteSession,
    caller: Caller,
    environment: str,
    build: str,
    check: Check,
    comment: str,
    life: timedelta | None,
) -> UUID:
    """Signs an attestation with the presented secret. What is signed is the sentence, the comment and the build, by hash."""
    assert check.role is not None
    life = check.limit if life is None else life
    if life > check.limit:
        detail = f"at most {int(check.limit.total_seconds())}: what is attested is looked at again after that"
        raise Problem("validation", f"/valid_s: {detail}", errors=[{"pointer": "/valid_s", "detail": detail}])
    statement = canonical(
        {
            "build": build,
            "claim": check.name,
            "comment": comment,
            "environment": environment,
            "role": check.role,
            "sentence": check.sentence,
        }
    )
    id = new_id()
    outcome = await session.scalar(
        ATTEST,
        {
            "tenant": caller.tenant,
            "secret": caller.secret,
            "id": id,
            "environment": environment,
            "claim": check.name,
            "role": check.role,
            "statement": statement,
            "life": life,
        },
    )
    refuse(outcome, f"{check.name} is attested by a person who is {check.role}.")
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
    return id


async def withdraw(session: WriteSession, caller: Caller, id: UUID) -> None:
    """Takes an attestation back; one that was taken back already stays so. Raises Problem."""
    asked = {"tenant": caller.tenant, "secret": caller.secret, "id": id}
    outcome: str = await session.scalar(WITHDRAW, asked)
    if outcome == "not_found":
        raise Problem("not_found", "There is no such attestation.")
    refuse(outcome, "An attestation is withdrawn by who holds the role it was signed in, or by a release owner.")
    session.nudge(ledger.FACTS)
    session.nudge("work_worker")
