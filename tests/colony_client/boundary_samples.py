"""Valid values of the contract, as examples and as Hypothesis strategies."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st

from colony_client import artifacts as a
from colony_client import contract as c
from colony_client.signing import parse_keys

few = settings(max_examples=50, deadline=None)  # a shared machine has no steady clock

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
MISSION = UUID("0197f3c0-0000-7000-8000-000000000001")
OTHER = UUID("0197f3c0-0000-7000-8000-000000000002")
TENANT = UUID("0197f3c0-0000-7000-8000-00000000000a")
ACTOR = UUID("0197f3c0-0000-7000-8000-00000000000b")
KEYS = parse_keys("k1:correct-horse-battery,k0:staple-of-last-month", "ROOT_API_KEY")
BUDGET = a.Budgets(time_ms=60_000, tokens=1_000, cost_usd=0.5)
HEAD: dict[str, Any] = {
    "mission_id": MISSION,
    "tenant_id": TENANT,
    "actor_id": ACTOR,
    "created_at": NOW,
    "producer": a.Producer(name="root", version="1"),
}


def envelope(**changes: Any) -> a.MissionEnvelope:
    fields = HEAD | {
        "mission_type": "oracle_advisory",
        "origin_surface": "api",
        "actor_role": "submitter",
        "user_goal": "What does the release still need?",
        "normalized_goal": "what does the release still need?",
        "risk_level": "low",
        "sensitivity_class": "internal",
        "mode": "assisted",
        "environment": "local",
        "inputs": {"workspace": "default"},
        "tools": ["workspace.search"],
        "labels": {"team": "release"},
        "budget": BUDGET,
    }
    return a.sealed_envelope(**(fields | changes))


def dispatch(mission_id: UUID = MISSION, attempt: int = 1) -> c.Dispatch:
    return c.Dispatch(
        mission_id=mission_id,
        attempt=attempt,
        envelope=envelope(mission_id=mission_id),
        callback_base_url="http://127.0.0.1:8081/",
        mission_token="mt1.k1.e30.AAAA",
        budgets=BUDGET,
    )


def proposal(**changes: Any) -> a.WritebackProposal:
    fields = HEAD | {
        "proposal_id": OTHER,
        "connector": "sample_crm",
        "target": "lead-7",
        "operation": "update",
        "changes": {"stage": "qualified"},
        "expected_version": 3,
        "summary": "Raise the stage",
        "rationale": "Two meetings were held",
        "risk_level": "medium",
    }
    return a.WritebackProposal(**(fields | changes))


def text(most: int = 40, least: int = 1) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=least, max_size=most)


keys = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,20}", fullmatch=True)
hashes = st.binary(max_size=8).map(a.quote_sha256)
scores = st.floats(-1e9, 1e9) | st.integers(-1000, 1000).map(float)
shares = st.floats(0, 1)
whole = st.integers(-a.MAX_SAFE_INTEGER, a.MAX_SAFE_INTEGER)
numbers = whole | st.floats(-a.MAX_SAFE_INTEGER, a.MAX_SAFE_INTEGER)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text(least=0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text(10, 0), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(text(10, 0), json_values, max_size=3)
moments = st.datetimes(datetime(2000, 1, 2), datetime(2999, 12, 30), timezones=st.timezones())


def some(element: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(element, max_size=3)


def distinct(strategy: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
    return strategy.map(lambda found: list({item.id: item for item in found}.values()))


@st.composite
def spans(draw: st.DrawFn) -> dict[str, Any]:
    start = draw(st.integers(0, 2**40 - 1))
    end = draw(st.integers(start + 1, 2**40))
    return {"source": draw(hashes), "document": draw(text()), "start": start, "end": end}


def spanning(kind: type[a.Span], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda span, rest: kind(**span, **rest), spans(), st.fixed_dictionaries(fields))


citations = spanning(a.Citation, quote=text(), quote_sha256=hashes)
claims = st.builds(
    a.Claim,
    id=keys,
    text=text(),
    section=st.none() | text(),
    citations=some(citations),
    confidence=st.none() | shares,
)
tasks = st.builds(a.Task, id=keys, kind=text(), title=text(), question=text(), depends_on=st.just([]))
factors = st.builds(
    a.LeadFactor,
    name=text(),
    value=st.none() | text() | whole | st.booleans() | scores,
    points=scores,
    explanation=text(),
    citation=st.none() | citations,
)
leads = st.builds(a.Lead, record_id=text(), name=text(), score=scores, factors=some(factors))
heads = st.fixed_dictionaries(
    {
        "mission_id": st.uuids(),
        "tenant_id": st.uuids(),
        "actor_id": st.uuids(),
        "created_at": moments,
        "producer": st.builds(a.Producer, name=text(), version=text()),
    }
)


def artifact(kind: type[a.ArtifactBase], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda head, body: kind(**head, **body), heads, st.fixed_dictionaries(fields))


envelopes = st.builds(
    lambda goal, inputs, cost, at: envelope(
        user_goal=goal, inputs=inputs, created_at=at, budget=a.Budgets(time_ms=1, tokens=0, cost_usd=cost)
    ),
    text(),
    json_objects,
    st.floats(0, 1e6),
    moments,
)
every_artifact = st.one_of(
    envelopes,
    artifact(a.MissionTaskGraph, tasks=distinct(st.lists(tasks, min_size=1, max_size=3))),
    artifact(
        a.PromptPackage,
        prompts=some(st.builds(a.Prompt, task_id=keys, role=text(), instructions=text(), terms=some(text()))),
    ),
    artifact(
        a.LibrarianPass,
        searches=some(
            st.builds(a.Search, task_id=keys, query=text(), results=some(spanning(a.SearchResult, score=scores)))
        ),
    ),
    artifact(
        a.ResearchArtifact,
        passages=some(spanning(a.Passage, id=keys, quote=text(), quote_sha256=hashes, score=scores)),
    ),
    artifact(a.WorkerResult, task_id=keys, claims=some(claims), not_found=some(text())),
    artifact(
        a.AggregationPacket,
        answer_status=st.just("answered"),
        answer=text(),
        claims=distinct(some(claims)),
        leads=some(leads),
        not_found=some(text()),
    ),
    artifact(
        a.ReviewPacket,
        reviewer=st.sampled_from(["colony", "root"]),
        verdict=st.sampled_from(["passed", "failed"]),
        coverage=shares,
        minimum=st.none() | json_objects,
        claims=some(
            st.builds(
                a.ReviewedClaim,
                claim_id=keys,
                text=text(),
                supported=st.booleans(),
                citations=some(
                    st.builds(
                        a.ReviewedCitation, citation=citations, verified=st.booleans(), problem=st.none() | text()
                    )
                ),
            )
        ),
    ),
    artifact(
        a.PolicyDecisionArtifact,
        action=text(),
        resource=text(),
        effect=st.sampled_from(["allow", "deny", "ask"]),
        rule=text(),
        policy_version=text(),
        reason=text(),
        inputs_sha256=hashes,
        obligations=json_objects,
    ),
    artifact(
        a.WritebackProposal,
        proposal_id=st.uuids(),
        connector=st.just("sample_crm"),
        target=text(),
        operation=st.just("update"),
        changes=st.dictionaries(text(10, 0), json_values, min_size=1, max_size=3),
        expected_version=text() | whole,
        summary=text(),
        rationale=text(),
        evidence=some(citations),
        risk_level=st.sampled_from(["low", "medium", "high"]),
    ),
)
