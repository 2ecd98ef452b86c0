"""A call of a model as the root keeps it: judged and paid for before, counted and recorded after; and the switch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import budgets, calls, ledger, policy, tape
from app.budgets import Amounts
from app.caller import Caller
from app.db import Database, WriteSession
from app.errors import Problem
from app.missions import Mission, Terms
from app.model_gateway.gateway import Gateway, Try
from app.model_gateway.playing import Facts, Heard, denied, kept, note_refused, play, then
from app.model_gateway.providers import Target
from app.model_gateway.queries import mission_and_switches
from app.model_gateway.request import Asked
from app.model_gateway.usage import Usage
from app.model_gateway.wire import Outcome
from colony_client import tokens

SLACK = timedelta(minutes=1)  # of a reservation, beyond the time that all providers together may take
Allowed = tuple[Target, UUID]  # with the decision that allows it
SWITCH = text("SELECT * FROM switch_model_provider(:tenant, :secret, :provider, :off, :reason)")


@dataclass(frozen=True)
class Called:
    """A call of a model by a mission's client. call: what was asked, in the form of the tape."""

    openings: calls.Openings
    database: Database
    gateway: Gateway
    environment: str
    said: tokens.MissionToken
    asked: Asked
    call: tape.Call
    began: float = field(default_factory=monotonic)

    @property
    def caller(self) -> Caller:
        return colony_of(self.said)

    @property
    def known(self) -> bool:
        """Whether the model is one here."""
        return self.asked.model in self.gateway.registry.routes

    @property
    def kept_as(self) -> tape.Call:
        """The call as it goes on the tape."""
        return self.call if self.known else unknown(self.call)

    def considered(self, mission: Mission | Terms, targets: Sequence[Target]) -> list[Facts]:
        """What the rules may look at, of each target."""
        return [facts(mission, self.environment, one) for one in targets]

    def opened(
        self, asked: Asked, considered: Sequence[Facts], allowed: Sequence[Allowed], reservation: UUID
    ) -> "Opened":
        """asked: with the limit that what is left of the budget sets."""
        decisions = {target.provider.name: decision for target, decision in allowed}
        order = tuple(target for target, _ in allowed)
        said = self.said
        return Opened(
            self.caller,
            said.mission,
            said.attempt,
            asked,
            self.call,
            order,
            considered,
            decisions,
            reservation,
            self.began,
        )


@dataclass(frozen=True)
class Opened:
    """A call that may be made: of whom, with which limit, under which decisions, and what is held for it."""

    caller: Caller
    mission: UUID
    attempt: int
    asked: Asked
    call: tape.Call
    targets: tuple[Target, ...]
    considered: Sequence[Facts]
    decisions: dict[str, UUID]
    reservation: UUID
    began: float

    @property
    def until(self) -> float:
        """When what is held for it may be counted as used, by the clock of began."""
        return self.began + life(self.targets).total_seconds()


async def open_call(one: Called) -> Opened | Heard:
    """Mission, policy and budget: from memory in one statement, or at length in one transaction. Raises Problem; what was decided at
    length is kept also then.

    A replay hears what is on the tape, and nobody is asked on its behalf.
    """
    return await at_once(one) or await at_length(one)


async def at_once(one: Called) -> Opened | None:
    """The ordinary call, which is allowed and fits into the budget: judged from memory, and opened if nothing of that has changed.

    None: it is to be judged at length; nothing is kept.
    """
    said, off = one.said, one.gateway.off
    terms, targets = await one.openings.terms(said.tenant, said.mission), here(one.gateway, one.asked.model, off)
    if terms is None or terms.played or isinstance(targets, Problem):
        return None
    considered = one.considered(terms, targets)
    drafts = [
        policy.draft(one.caller, "model.call", target.name, dict(seen), requester=terms.requested_by)
        for target, seen in zip(targets, considered, strict=True)
    ]
    allowed = [
        (target, draft.decision.id)
        for target, draft in zip(targets, drafts, strict=True)
        if draft.decision.verdict.effect == "allow"
    ]
    if not allowed:
        return None
    bounds = Bounds.of(one.asked, allowed)
    opening = calls.Opening(
        said.tenant, terms, said.attempt, "model", bounds.amounts(bounds.limit), bounds.life, drafts, off=off
    )
    outcome = await one.openings.open(opening)
    if not isinstance(outcome, UUID):
        return None
    return one.opened(replace(one.asked, max_tokens=bounds.limit), considered, allowed, outcome)


async def at_length(one: Called) -> Opened | Heard:
    """Any call, step by step; what is refused is kept with its fact. Raises Problem."""
    found: Opened | Heard | Problem
    async with one.database.write() as session:
        await session.enter(one.said.tenant)
        mission, one.gateway.off = await mission_and_switches(session, one.said.mission)
        calls.check_attempt(mission, one.said)
        assert mission is not None
        found = await (answered_again(session, one, mission) if mission.played else admitted(session, one, mission))
    if isinstance(found, Problem):
        raise found
    return found


async def admitted(session: WriteSession, one: Called, mission: Mission) -> Opened | Problem:
    """Policy for each target, then the budget."""
    targets = here(one.gateway, one.asked.model, one.gateway.off)
    if isinstance(targets, Problem):
        await note_refused(session, one.caller, mission, one.kept_as, [], targets)
        return targets
    considered = one.considered(mission, targets)
    allowed, refusal = await judged(session, one, mission, targets, considered)
    if refusal is not None:
        return refusal
    try:
        reservation, bounded = await reserved(session, one.caller, mission, one.asked, allowed)
    except Problem as lacking:  # an answer of Postgres, not an error: what was decided is kept
        refusal = await calls.left_over(session, one.caller, mission.id, lacking)
        if refusal.code == "budget_exhausted":
            await note_refused(session, one.caller, mission, one.call, considered, refusal)
        return refusal
    return one.opened(bounded, considered, allowed, reservation)


async def answered_again(session: WriteSession, one: Called, mission: Mission) -> Heard | Problem:
    """What the tape says to a call of a replay. A call that is not on it, not whole, or that policy decides otherwise now, ends it.

    Where the model was none then, the call is on the tape under no name.
    """
    call, caller = one.call, one.caller
    if not await tape.holds(session, mission, call) and (
        not one.known or await tape.holds(session, mission, unknown(call))
    ):
        call = unknown(call)
    taped = await tape.answer(session, caller, mission, call, denials=True)
    if isinstance(taped, Problem):
        return taped

    async def again() -> Heard | str:
        with tape.reading():
            said = then(taped)
        return await play(session, caller, mission, one.environment, call, taped, said)

    said = await tape.played(session, caller, mission.id, call, taped, again)
    if isinstance(said, str):
        return await tape.diverge(session, caller, mission.id, call, taped.ordinal, said)
    return said


def colony_of(said: tokens.MissionToken) -> Caller:
    """Who calls with a gateway token: the colony, whose key is not presented here."""
    return Caller(tenant=said.tenant, principal=UUID(int=0), actor="colony:gateway", name="colony")


def unknown(call: tape.Call) -> tape.Call:
    """A call of a model that nobody has: what a client calls it is a client's word, and in no fact."""
    return tape.Call("model", "unknown", call.arguments)


def here(gateway: Gateway, model: str, off: frozenset[str]) -> list[Target] | Problem:
    """Where a call for a model may go now, or that it may go nowhere: not_found or upstream_unavailable."""
    known = gateway.registry.routes.get(model)
    if known is None:
        errors = [{"pointer": "/model", "detail": "must be one that GET …/openai/v1/models lists"}]
        return Problem("not_found", "There is no such model.", errors=errors)
    targets = [one for one in known if one.provider.name not in off]
    if not targets:
        detail = "Every provider of this model is switched off."
        return Problem("upstream_unavailable", detail, retry_after=30, cause="switched_off")
    return targets


async def judged(
    session: WriteSession, one: Called, mission: Mission, targets: Sequence[Target], considered: Sequence[Facts]
) -> tuple[list[Allowed], Problem | None]:
    """The targets that policy lets this mission ask, each with its decision; the refusal when there is none."""
    allowed, denials = [], []
    for target, said in zip(targets, considered, strict=True):
        decision = await policy.decide(
            session, one.caller, "model.call", target.name, dict(said), mission.id, requester=mission.requested_by
        )
        if decision.verdict.effect == "allow":
            allowed.append((target, decision.id))
        else:
            denials.append(decision)
    if allowed:
        return allowed, None
    return [], await denied(session, one.caller, mission, one.call, considered, denials[0])


def facts(mission: Mission | Terms, environment: str, target: Target) -> dict[str, Any]:
    """What the rules may look at."""
    provider = target.provider
    return {
        "provider": provider.name,
        "reach": provider.reach,
        "route": "gateway",
        "listed": mission.sensitivity_class in provider.classes,
        "mode": mission.mode,
        "sensitivity_class": mission.sensitivity_class,
        "environment": environment,
    }


def life(targets: Iterable[Target]) -> timedelta:
    """Of the reservation of a call."""
    return SLACK + sum((timedelta(milliseconds=one.provider.timeouts.whole_ms) for one in targets), timedelta())


@dataclass(frozen=True)
class Bounds:
    """What a call may come to: tokens of the prompt and of the answer, and how long all its targets together may take."""

    targets: Sequence[Target]
    prompt: int
    limit: int
    life: timedelta

    @classmethod
    def of(cls, asked: Asked, allowed: Sequence[Allowed]) -> "Bounds":
        targets = [target for target, _ in allowed]
        prompt = min(asked.prompt_tokens, max(one.model.context_tokens for one in targets))
        limit = min(one.model.output_tokens for one in targets)
        limit = limit if asked.max_tokens is None else min(limit, asked.max_tokens)
        return cls(targets, prompt, limit, life(targets))

    def amounts(self, limit: int) -> Amounts:
        """What is held for an answer of at most so many tokens, from the dearest of the targets."""
        return Amounts(self.prompt + limit, max(one.model.cost(self.prompt, limit) for one in self.targets))


async def reserved(
    session: WriteSession, caller: Caller, mission: Mission, asked: Asked, allowed: Sequence[Allowed]
) -> tuple[UUID, Asked]:
    """Holds what the call may cost, and bounds its answer by what that leaves.

    Raises Problem budget_exhausted where not even one token of an answer has room.
    """
    bounds = Bounds.of(asked, allowed)
    limit = bounds.limit
    for _ in range(4):  # the mission's account first; then day and tenant, which others move meanwhile
        try:
            held = await budgets.reserve(session, caller, mission.id, bounds.amounts(limit), "model", life=bounds.life)
        except Problem as lacking:
            fits = room(bounds.targets, bounds.prompt, lacking) if lacking.code == "budget_exhausted" else 0
            if not 0 < fits < limit:
                raise
            limit, last = fits, lacking
        else:
            return held, replace(asked, max_tokens=limit)
    raise last


def room(targets: Sequence[Target], prompt: int, lacking: Problem) -> int:
    """How many tokens of an answer fit into what is left."""
    left = lacking.members["left"]
    fits = [] if left["tokens"] is None else [int(left["tokens"]) - prompt]
    for one in targets if left["cost_usd"] is not None else ():
        rest = Decimal(str(left["cost_usd"])) - one.model.cost(prompt, 0)
        price = Decimal(str(one.model.output_usd))
        if price or rest < 0:
            fits.append(int(rest * 1_000_000 / price) - 1 if rest > 0 else 0)
    return min(fits, default=0)


def ended(
    opened: Opened,
    tries: Sequence[Try],
    target: Target | None,
    usage: Usage | None,
    outcome: Outcome,
    answer_sha256: bytes | None = None,
    heard: Heard | None = None,
) -> calls.Ended:
    """A call with its fact and its place on the tape. target: who answered, None when nobody did; usage: what that took.

    heard: None when the client did not wait for it; then it is not on the tape.
    """
    took = max(0, round((monotonic() - opened.began) * 1000))
    tokens_in, tokens_out, cost = 0, 0, Decimal(0)
    if target is not None and usage is not None:
        tokens_in, tokens_out = usage.tokens_in, usage.tokens_out
        cost = target.model.cost(tokens_in, tokens_out)
    really = [one.provider for one in tries if one.outcome != "not_asked"]
    last = target.provider.name if target else really[-1] if really else None
    body = {
        "model": opened.asked.model,
        "provider": last,
        "outcome": outcome,
        "tried": [f"{one.provider}:{one.outcome}" for one in tries],
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "estimated": usage.estimated if usage else None,
        "cost_usd": float(cost),
        "latency_ms": took,
        "request_sha256": opened.call.sha256.hex(),
        "answer_sha256": answer_sha256.hex() if answer_sha256 else None,
    }
    decision = opened.decisions.get(last or "")
    told = ledger.fact(
        opened.caller, "model.called", opened.mission, **body, policy_decision=decision, attempt=opened.attempt
    )
    said = None
    if heard is not None:
        outcome_of_tape: tape.Outcome = "answered" if answer_sha256 else "refused"
        answer = kept(opened.considered, heard, body)
        said = calls.Said(opened.attempt, opened.call, outcome_of_tape, answer, took)
    return calls.Ended(
        "model", told, opened.reservation, took, tokens_in, tokens_out, cost, last, outcome != "ok", said
    )


# What the wall answers when it does not switch, and what the caller is told.
REFUSALS = {
    "unauthenticated": ("unauthenticated", "The key that does this is no longer live."),
    "not_entitled": ("forbidden", "A provider is switched by a human who is admin in the operator's tenant."),
    "no_reason": ("validation", "/reason: say why."),
}


async def switch(session: WriteSession, caller: Caller, provider: str, off: bool, reason: str) -> str:
    """Switches a provider off or on for the whole installation. Raises Problem for everything in REFUSALS."""
    asked = {"tenant": caller.tenant, "secret": caller.secret, "provider": provider, "off": off, "reason": reason}
    said = await session.first(SWITCH, asked)
    assert said is not None
    if said.outcome in REFUSALS:
        code, detail = REFUSALS[said.outcome]
        errors = [{"pointer": "/reason", "detail": "say why"}] if code == "validation" else None
        raise Problem(code, detail, errors=errors)
    session.nudge(ledger.FACTS)
    return str(said.outcome)
