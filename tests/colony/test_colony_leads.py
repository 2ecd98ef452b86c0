"""Leads scored from records: the factors, where they are cited, and which changes are proposed."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colony.leads.facts import LeadFacts, assemble
from colony.leads.proposing import changes_for
from colony.leads.scoring import priority_of, score
from colony.leads.spans import cited
from colony.tools import Record


def record(sort: str, ident: str, /, **fields: Any) -> Record:
    kept = {"id": ident, **fields}
    body = {"kind": sort, "id": ident, "version": "1", "fields": kept}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    source = hashlib.sha256(text.encode()).hexdigest()
    return Record(sort, ident, f"crm/{sort}/{ident}", "1", source, text, kept)


def lead(**fields: Any) -> Record:
    usual = {
        "name": "Ana Lovrić", "stage": "contacted", "priority": "normal", "source": "referral", "employees": 300,
        "budget_eur": 60_000, "next_action": "Call", "notes": "",
    }  # fmt: skip
    return record("lead", "L-1", **{**usual, **fields})


def activity(name: str, at: str, kind: str = "meeting", outcome: str = "positive", lead_id: str = "L-1") -> Record:
    return record("activity", name, lead_id=lead_id, kind=kind, at=f"{at}T09:00:00Z", outcome=outcome, summary="…")


WARM = [activity("A-1", "2026-10-20"), activity("A-2", "2026-11-10", "email_in")]


def facts(activities: list[Record], **fields: Any) -> LeadFacts:
    (only,) = assemble([lead(**fields)], activities)
    return only


def test_every_point_has_its_reason_and_its_place() -> None:
    scored = score(facts(WARM))
    assert scored.score == sum(factor.points for factor in scored.factors) == 20 + 15 + 8 + 15 + 10 + 15
    for factor in scored.factors:
        assert factor.explanation
        assert factor.citation is not None and json.loads("{" + factor.citation.quote + "}")


@given(
    st.dictionaries(
        st.text(max_size=6), st.one_of(st.integers(), st.text(max_size=20), st.none(), st.booleans()), max_size=6
    )
)
def test_a_cited_field_is_the_bytes_of_the_record_whatever_else_it_holds(fields: dict[str, Any]) -> None:
    held = record("lead", "L-1", **{**fields, "employees": 7, "notes": '"employees":7 "notes"'})
    for field in held.fields:
        citation = cited(held, field)
        assert citation is not None
        assert held.text.encode()[citation.start : citation.end].decode() == citation.quote
        assert json.loads("{" + citation.quote + "}") == {field: held.fields[field]}


def test_a_warm_lead_moves_forward_and_up() -> None:
    warm = facts(WARM)
    assert changes_for(warm, score(warm)) == {"stage": "qualified", "priority": "high"}


def test_what_the_record_already_says_is_not_proposed() -> None:
    warm = facts(WARM, stage="qualified", priority="high")
    assert changes_for(warm, score(warm)) == {}


def test_the_score_does_not_depend_on_what_it_proposes() -> None:
    one, other = facts(WARM), facts(WARM, stage="qualified", priority="high")
    assert score(one).score == score(other).score


@pytest.mark.parametrize(
    ("activities", "fields", "changes"),
    [
        ([*WARM, activity("A-3", "2026-11-12", "call", "negative")], {}, {}),  # in dispute
        (WARM, {"stage": "won"}, {}),
        ([activity("A-1", "2026-11-01", "email_out", "no_answer")], {}, {}),  # never answered
        (
            [activity("A-1", "2026-11-01", "email_in", "negative")],
            {"budget_eur": None, "employees": 3, "next_action": None},
            {"priority": "low", "next_action": "Decide whether to close: the last answer was negative"},
        ),
        (
            [activity("A-1", "2026-01-05"), activity("A-9", "2026-11-18", lead_id="L-2")],
            {"budget_eur": 3_000, "employees": 20, "next_action": ""},
            {"priority": "low", "next_action": "Try one last time, then close"},
        ),
        (WARM, {"stage": "proposal", "priority": "high"}, {}),  # never backwards
        (WARM, {"budget_eur": None, "priority": "normal"}, {}),  # not qualified without a budget
    ],
)
def test_which_changes_are_proposed(activities: list[Record], fields: dict[str, Any], changes: dict[str, Any]) -> None:
    one = facts(activities, **fields)
    assert changes_for(one, score(one)) == changes


def test_only_fields_that_the_record_has_are_proposed() -> None:
    bare = record("lead", "L-1", name="Ana", stage="contacted", employees=300, budget_eur=60_000, source="referral")
    (one,) = assemble([bare], WARM)
    assert changes_for(one, score(one)) == {"stage": "qualified"}


def test_priorities_follow_the_score() -> None:
    assert [priority_of(points) for points in (0, 29, 30, 69, 70, 100)] == [
        "low",
        "low",
        "normal",
        "normal",
        "high",
        "high",
    ]


def test_wanted_leads_limit_the_work_and_unreadable_times_are_left_out() -> None:
    leads = [lead(), record("lead", "L-2", name="Bo", stage="new")]
    odd = record("activity", "A-7", lead_id="L-1", kind="call", at="yesterday", outcome="positive")
    (only,) = assemble(leads, [*WARM, odd], frozenset({"L-1"}))
    assert (only.record.record_id, len(only.activities)) == ("L-1", 2)
