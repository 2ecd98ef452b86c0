"""Whether a tool may be called now: policy and the switch; and the tools that a mission cannot do without."""

from typing import Any
from uuid import UUID

from app import ledger, missions, policy, tape
from app.caller import Caller
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission, Terms
from app.missions.types import type_of
from app.tools.definition import cleared
from app.tools.known import Known
from app.tools.noting import problem_bytes
from colony_client.artifacts import MissionEnvelope


def looked_at(terms: Terms, wanted: Known, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the rules may look at."""
    return {
        "access": wanted.access,
        "reach": wanted.reach,
        "layer": wanted.layer_name,
        "cleared": wanted.entry is None or cleared(wanted.entry, terms.sensitivity_class),
        "listed": wanted.name in terms.tools,
        "own_workspace": wanted.built_in is None
        or not isinstance(place := arguments.get("workspace"), str)
        or place == terms.workspace,
        "sensitivity_class": terms.sensitivity_class,
        "mode": terms.mode,
        "environment": terms.environment,
    }


async def judge(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    wanted: Known,
    envelope: MissionEnvelope,
    taped: tape.Call,
    arguments: dict[str, Any],
) -> Problem | None:
    """Asks policy and records what it says; a denial is a fact too. The transaction commits either way."""
    terms = Terms.of(mission, envelope)
    decision = await policy.decide(
        session,
        caller,
        "tool.call",
        wanted.name,
        looked_at(terms, wanted, arguments),
        mission.id,
        requester=terms.requested_by,
    )
    if decision.verdict.effect == "allow":
        return None
    await ledger.record(
        session,
        caller,
        "tool.denied",
        mission.id,
        tool=wanted.name,
        arguments_sha256=taped.sha256.hex(),
        policy_decision=decision.id,
        rule=decision.verdict.rule,
        policy_version=decision.verdict.policy_version,
        attempt=mission.attempt,
    )
    refusal = policy.refusal(decision)
    await tape.record(session, mission.id, mission.attempt, taped, "denied", problem_bytes(refusal), 0.0)
    return refusal


async def switched_off(
    session: WriteSession, caller: Caller, mission: Mission, wanted: Known, taped: tape.Call
) -> Problem | None:
    """Why a tool cannot be used now, whoever asks: halted, retired, drifted or unmapped."""
    off = wanted.off()
    if off is not None:
        await ledger.record(
            session,
            caller,
            "tool.refused",
            mission.id,
            tool=wanted.name,
            arguments_sha256=taped.sha256.hex(),
            code=off.code,
            attempt=mission.attempt,
        )
        await tape.record(session, mission.id, mission.attempt, taped, "refused", problem_bytes(off), 0.0)
    return off


# --- tools that a mission cannot do without

NEEDS: dict[tuple[UUID, str, int], frozenset[str]] = {}  # versions of types never change


async def needs(session: Any, mission: Mission) -> frozenset[str]:
    """The tools without which a mission is blocked, as its type said when it began."""
    which = (session.tenant, mission.mission_type, mission.type_version)
    found = NEEDS.get(which)
    if found is None:
        kind = await type_of(session, mission.mission_type, mission.type_version)
        if len(NEEDS) >= 4096:
            NEEDS.clear()
        found = NEEDS[which] = frozenset(kind.needs if kind else ())
    return found


async def block(session: WriteSession, caller: Caller, mission: Mission, wanted: Known, refusal: Problem) -> None:
    """The mission, whose attempt is under way, ends here: it was refused what it cannot do without. The caller holds its lock."""
    refusal.members["blocks"] = True
    # the call is the first word of the attempt, even when it overtakes the answer to the dispatch
    if mission.state == "accepted":
        await missions.move(session, caller, mission.id, "dispatched", "dispatch")
    if mission.state != "running":
        await missions.move(session, caller, mission.id, "running", "first_event")
    why = f"{wanted.name}, which the mission cannot do without, was refused ({refusal.code}): {refusal.detail}"
    await missions.fail(session, caller, mission.id, "blocked", reason="blocked", note=why)
