"""Answers of models on the tape of a mission: what is kept of a call, and how a replay is given the same again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from app import ledger, policy, tape
from app.caller import Caller
from app.canonical import canonical
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from app.policy import PolicyDecision
from app.tape import Taped

Facts = Mapping[str, Any]  # what policy was told of a provider
OF_THE_MISSION = ("mode", "sensitivity_class", "environment")  # of these facts; the others are the provider's


@dataclass(frozen=True)
class Heard:
    """What a client was given: a whole answer, or the chunks of a stream; or, instead or at a stream's end, a problem."""

    whole: dict[str, Any] | None = None
    chunks: Sequence[dict[str, Any]] | None = None
    problem: Problem | None = None


def kept(considered: Sequence[Facts], heard: Heard, fact: Mapping[str, Any] | None = None) -> bytes:
    """One call as it is on the tape. considered: each provider that policy was asked about; fact: the body of `model.called`."""
    problem = None if heard.problem is None else heard.problem.told()
    said = {"considered": considered, "whole": heard.whole, "chunks": heard.chunks, "problem": problem, "fact": fact}
    return to_json({name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class Then:
    """A call as it is on the tape: whom policy was asked about, the body of its fact, and what the client heard."""

    considered: Sequence[Facts]
    fact: dict[str, Any] | None
    heard: Heard


def then(taped: Taped) -> Then:
    """The same again. What is none raises ValueError, LookupError, TypeError or AttributeError."""
    said = json.loads(taped.answer)
    considered, fact = said["considered"], said.get("fact")
    # What goes into decisions and facts. An answer is its client's alone, and may have numbers that we would not write.
    canonical([considered, fact, said.get("problem")])
    problem = Problem.again(said["problem"]) if "problem" in said else None
    named = [facts["provider"] for facts in considered]
    if fact is not None:
        fact = {**fact, "provider": fact["provider"]}
        named += [] if fact["provider"] is None else [fact["provider"]]
    if not all(isinstance(name, str) for name in named):
        raise TypeError("a provider has a name")
    if not considered if taped.outcome == "denied" else fact is None and problem is None:
        raise ValueError("what was not asked says why")
    whole, chunks = said.get("whole"), said.get("chunks")
    if not isinstance(whole, dict | None) or not isinstance(chunks, list | None):
        raise TypeError("an answer is an object, or the parts of one")
    if not all(isinstance(one, dict) and ("choices" in one or "usage" not in one) for one in chunks or ()):
        raise TypeError("a part of an answer is an object, and has choices where it has a use")
    if whole is None and chunks is None and problem is None and taped.outcome != "denied":
        raise ValueError("somebody heard something")
    return Then(considered, fact, Heard(whole, chunks, problem))


async def play(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    environment: str,
    call: tape.Call,
    taped: Taped,
    said: Then,
) -> str | Heard:
    """Policy anew for every provider of then, and what the client heard. A str says why that cannot be given: of tape.WHY.

    Leaves what the call itself would: decisions, fact, and its place on the tape of the replay. Nobody is asked, nothing is used.
    """
    now = dict(zip(OF_THE_MISSION, (mission.mode, mission.sensitivity_class, environment), strict=True))
    decided: dict[str, PolicyDecision] = {}
    for facts in said.considered:
        decided[facts["provider"]] = await policy.decide(
            session, caller, "model.call", call.name, {**facts, **now}, mission.id, requester=mission.requested_by
        )
    allowed = [name for name, decision in decided.items() if decision.verdict.effect == "allow"]
    if taped.outcome == "denied":
        if allowed:
            return "allowed_now"
        [first, *_] = decided.values()
        await denied(session, caller, mission, call, said.considered, first)
        return Heard(problem=policy.refusal(first))
    fact = said.fact
    answered_by = fact["provider"] if fact else None
    if decided and (answered_by not in allowed if answered_by else not allowed):
        return "denied_now"
    if fact is not None:
        decision = decided.get(fact["provider"])
        told = {**fact, "policy_decision": decision.id if decision else None, "attempt": mission.attempt}
        await ledger.record(session, caller, "model.called", mission.id, **told)
    else:
        assert said.heard.problem is not None
        why = refused(mission, call, said.heard.problem.code)
        await ledger.record(session, caller, "model.refused", mission.id, **why)
    await tape.record(session, mission.id, mission.attempt, call, taped.outcome, taped.answer, taped.took_ms)
    return said.heard


async def denied(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    call: tape.Call,
    considered: Sequence[Facts],
    decision: PolicyDecision,
) -> Problem:
    """A call that policy allows with no provider: the fact, its place on the tape, and the refusal. decision: of the first."""
    await ledger.record(
        session,
        caller,
        "model.denied",
        mission.id,
        model=call.name,
        provider=considered[0]["provider"],
        request_sha256=call.sha256.hex(),
        policy_decision=decision.id,
        rule=decision.verdict.rule,
        policy_version=decision.verdict.policy_version,
        attempt=mission.attempt,
    )
    refusal = policy.refusal(decision)
    said = kept(considered, Heard(problem=refusal))
    await tape.record(session, mission.id, mission.attempt, call, "denied", said, 0.0)
    return refusal


async def note_refused(
    session: WriteSession, caller: Caller, mission: Mission, call: tape.Call, considered: Sequence[Facts], why: Problem
) -> None:
    """A call that was refused before anybody was asked, by the switch or the budget: the colony goes on by that."""
    await ledger.record(session, caller, "model.refused", mission.id, **refused(mission, call, why.code))
    await tape.record(session, mission.id, mission.attempt, call, "refused", kept(considered, Heard(problem=why)), 0.0)


def refused(mission: Mission, call: tape.Call, code: str) -> dict[str, Any]:
    return {"model": call.name, "request_sha256": call.sha256.hex(), "code": code, "attempt": mission.attempt}
