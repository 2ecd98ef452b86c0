"""The score of a lead, 0 to 100: a sum of factors, each with the value it saw, its points, a reason and its place.

Neither stage nor priority counts: they are what the score proposes to change, and counting them would make every
accepted proposal call for another one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from colony.leads.facts import Activity, LeadFacts
from colony.leads.spans import cited
from colony_client.artifacts import Citation, Lead, LeadFactor

HIGH, NORMAL = 70, 30
STALE_DAYS = 120

_EMPLOYEES = ((250, 15, "a large company"), (50, 10, "a mid-sized company"), (10, 5, "a small company"))
_BUDGET = ((50_000, 20, "a large budget"), (20_000, 15, "a solid budget"), (5_000, 8, "a small budget"))
_SOURCE = {"referral": 8, "partner": 8, "website": 5, "event": 4}
_RECENT = ((7, 15), (21, 10), (45, 5))
_OUTCOME = {"positive": 15, "neutral": 5, "negative": -25}


def score(facts: LeadFacts) -> Lead:
    factors = [factor for factor in _factors(facts) if factor]
    total = max(0.0, min(100.0, sum(factor.points for factor in factors)))
    return Lead(record_id=facts.record.record_id, name=facts.name[:200], score=total, factors=factors)


def priority_of(points: float) -> str:
    return "high" if points >= HIGH else "normal" if points >= NORMAL else "low"


def _factors(facts: LeadFacts) -> Iterator[LeadFactor | None]:
    yield _step(facts, "employees", _EMPLOYEES, "a very small company")
    yield _step(facts, "budget_eur", _BUDGET, "hardly any budget")
    yield _source(facts)
    yield _recency(facts)
    yield _engagement(facts)
    yield _last_outcome(facts)
    yield _mixed(facts)
    yield _silence(facts)


def _factor(name: str, value: Any, points: float, explanation: str, citation: Citation | None) -> LeadFactor:
    return LeadFactor(name=name, value=value, points=points, explanation=explanation, citation=citation)


def _step(facts: LeadFacts, field: str, steps: Sequence[tuple[int, int, str]], below: str) -> LeadFactor:
    value = facts.record.fields.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return _factor(field, None, 0, f"{field} is not known", cited(facts.record, field))
    points, said = next(((points, said) for least, points, said in steps if value >= least), (0, below))
    return _factor(field, value, points, f"{field} {value} is {said}", cited(facts.record, field))


def _source(facts: LeadFacts) -> LeadFactor:
    source = str(facts.record.fields.get("source") or "unknown")
    points = _SOURCE.get(source, 0)
    return _factor("source", source, points, f"came by {source.replace('_', ' ')}", cited(facts.record, "source"))


def _recency(facts: LeadFacts) -> LeadFactor | None:
    spoken = facts.last_answered
    if spoken is None:
        return _factor("recency", None, 0, "the lead never answered", None)
    days = facts.days_since(spoken)
    points = next((points for limit, points in _RECENT if days <= limit), -10 if days > STALE_DAYS else 0)
    return _factor(
        "recency", days, points, f"last answered {days} days before the newest activity", cited(spoken.record, "at")
    )


def _engagement(facts: LeadFacts) -> LeadFactor | None:
    live = [one for one in facts.answered_within(60) if one.outcome != "negative"]
    if not live:
        return None
    said = ", ".join(one.record.record_id for one in live[-6:])
    points = min(20, 5 * len(live))
    return _factor(
        "engagement",
        len(live),
        points,
        f"{len(live)} friendly exchanges in 60 days ({said})",
        cited(live[-1].record, "kind"),
    )


def _last_outcome(facts: LeadFacts) -> LeadFactor | None:
    spoken = facts.last_answered
    if spoken is None or facts.days_since(spoken) > STALE_DAYS:
        return None
    points = _OUTCOME.get(spoken.outcome, 0)
    said = f"the last {spoken.kind.replace('_', ' ')} was {spoken.outcome}"
    return _factor("last_outcome", spoken.outcome, points, said, cited(spoken.record, "outcome"))


def _mixed(facts: LeadFacts) -> LeadFactor | None:
    if facts.mixed is None:
        return None
    yes, no = facts.mixed
    said = f"{yes.record.record_id} says yes and {no.record.record_id} says no within 45 days"
    return _factor("mixed_signals", True, -10, said, cited(no.record, "outcome"))


def _silence(facts: LeadFacts) -> LeadFactor | None:
    tries = facts.unanswered_tries
    if not tries:
        return None
    said = f"{len(tries)} attempts without an answer"
    return _factor("unanswered", len(tries), max(-15, -5 * len(tries)), said, cited(tries[0].record, "outcome"))


def evidence_of(lead: Lead) -> list[Citation]:
    """The places the factors that gave or took points were read from, each once."""
    places = {
        (one.citation.source, one.citation.start): one.citation for one in lead.factors if one.citation and one.points
    }
    return list(places.values())[:50]


def positives(activities: Sequence[Activity]) -> int:
    return sum(one.outcome == "positive" for one in activities)
