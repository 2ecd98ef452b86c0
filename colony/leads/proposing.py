"""Which changes a lead's record deserves. Nothing is proposed that the record already says, or that is in dispute."""

from collections.abc import Mapping
from typing import Any

from colony.case import Case
from colony.leads.facts import LeadFacts
from colony.leads.scoring import STALE_DAYS, evidence_of, positives, priority_of
from colony.leads.spans import cited
from colony_client.artifacts import Citation, Lead, WritebackProposal

CONNECTOR = "sample_crm"
_ORDER = ("new", "contacted", "qualified")
_AFTER_NO = "Decide whether to close: the last answer was negative"
_AFTER_SILENCE = "Try one last time, then close"


def changes_for(facts: LeadFacts, lead: Lead) -> dict[str, Any]:
    """Field -> new value, only where it differs from the record. Closed and disputed leads are left alone."""
    if not facts.open or facts.mixed or facts.last_answered is None:
        return {}
    wanted = {"stage": _stage(facts), "priority": priority_of(lead.score), "next_action": _next_action(facts)}
    return {
        field: value
        for field, value in wanted.items()
        if value is not None and field in facts.record.fields and facts.record.fields[field] != value
    }


def _stage(facts: LeadFacts) -> str | None:
    """Only forwards, and no further than `qualified`: what follows is for people to say."""
    now = facts.record.fields.get("stage")
    if now not in _ORDER:
        return None
    recent = facts.answered_within(60)
    last = facts.last_answered
    convinced = positives(recent) >= 2 and last is not None and last.outcome == "positive"
    reached = "qualified" if convinced and facts.record.fields.get("budget_eur") else "contacted" if recent else now
    return reached if _ORDER.index(reached) > _ORDER.index(now) else None


def _next_action(facts: LeadFacts) -> str | None:
    """Only where nobody planned anything."""
    if facts.record.fields.get("next_action"):
        return None
    last = facts.last_answered
    if last is None:
        return None
    if facts.days_since(last) > STALE_DAYS:
        return _AFTER_SILENCE
    return _AFTER_NO if last.outcome == "negative" else None


def proposal(case: Case, facts: LeadFacts, lead: Lead, changes: Mapping[str, Any]) -> WritebackProposal:
    record = facts.record
    named = ", ".join(
        f"{field} {_shown(record.fields.get(field))} → {_shown(value)}" for field, value in changes.items()
    )
    evidence = [*evidence_of(lead), *_present_values(facts, changes)][:50]
    return case.make(
        WritebackProposal,
        proposal_id=case.proposal_id(f"{CONNECTOR}:{record.record_id}"),
        connector=CONNECTOR,
        target=f"{record.kind}/{record.record_id}",
        operation="update",
        changes=dict(changes),
        expected_version=record.version,
        summary=f"{facts.name}: {named}"[:2000],
        rationale=rationale(facts, lead),
        evidence=evidence,
        risk_level="medium" if "stage" in changes else "low",
    )


def rationale(facts: LeadFacts, lead: Lead) -> str:
    weighty = sorted((one for one in lead.factors if one.points), key=lambda one: -abs(one.points))
    reasons = "; ".join(f"{one.explanation} ({one.points:+g})" for one in weighty)
    return f"{facts.name} ({facts.record.record_id}) scores {lead.score:g} of 100: {reasons or 'nothing is known'}."[
        :4000
    ]


def _present_values(facts: LeadFacts, changes: Mapping[str, Any]) -> list[Citation]:
    return [found for field in changes if (found := cited(facts.record, field))]


def _shown(value: Any) -> str:
    return "(empty)" if value is None or value == "" else str(value)
