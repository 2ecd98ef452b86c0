"""One mission told in examples: every message, event and artifact of the contract once, whole and true.

The quotes stand in the document below at exactly the bytes they name, the hashes are theirs, and the envelope is sealed.
What is published and what stands in `docs/contract.md` is taken from here, so that an example can be wrong in one place.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from colony_client import artifacts as a
from colony_client import contract as c

DOCUMENT = "release.md"
TEXT = "# Release – the café build\n\nA release needs two reviewers – “four eyes” – before it ships.\n\nThe port is 8080.\n"
SENTENCE = "A release needs two reviewers – “four eyes” – before it ships."
SOURCE = hashlib.sha256(TEXT.encode()).hexdigest()

MISSION = UUID("01a1fd97-f184-73d1-828c-8acb28e6afc0")
OTHER_MISSION = UUID("01a1fd97-f184-73d1-828c-8acb28e6afc1")
TENANT = UUID("01a1fd90-0000-7000-8000-00000000000a")
ACTOR = UUID("01a1fd90-0000-7000-8000-00000000000b")
LEAD_TEXT = '{"fields":{"name":"Zoë Müller","stage":"contacted"},"id":"L-1001","kind":"lead","version":3}'
BEGAN = datetime(2026, 11, 21, 10, 12, 0, tzinfo=UTC)

FIRST_BEARER = "mt1.k1.eyJhIjoiY2FsbGJhY2sifQ.c2lnbmF0dXJlLW9mLXRoZS1yb290"
GATEWAY_BEARER = "mt1.k1.eyJhIjoiZ2F0ZXdheSJ9.c2lnbmF0dXJlLWZvci1tb2RlbHM"
OTHER_BEARER = "mt1.k1.eyJhIjoiY2FsbGJhY2siLCJtIjoxfQ.YW5vdGhlci1zaWduYXR1cmU"
NEXT_BEARER = "mt1.k1.eyJhIjoiY2FsbGJhY2siLCJlIjoxfQ.bmV4dC1zaWduYXR1cmU"

BUDGET = a.Budgets(time_ms=600_000, tokens=200_000, cost_usd=5.0)
PLAN = a.Task(id="t1", kind="question", title="The question", question="How many reviewers does a release need?")


def cite(text: str, document: str, quote: str) -> a.Citation:
    """The citation of a quote: where its bytes begin and end in the UTF-8 bytes of the text, and their hash."""
    data, cited = text.encode(), quote.encode()
    start = data.index(cited)
    return a.Citation(
        source=hashlib.sha256(data).hexdigest(),
        document=document,
        start=start,
        end=start + len(cited),
        quote=quote,
        quote_sha256=a.quote_sha256(cited),
    )


@cache
def messages() -> dict[str, BaseModel]:
    """What is sent and answered, by name."""
    sealed = _artifacts()["mission_envelope"]
    assert isinstance(sealed, a.MissionEnvelope)
    dispatch = c.Dispatch(
        mission_id=MISSION,
        attempt=1,
        envelope=sealed,
        callback_base_url="http://root.internal:8081",
        mission_token=FIRST_BEARER,
        gateway_token=GATEWAY_BEARER,
        budgets=BUDGET,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    receipt = c.EventReceipt(
        accepted_seq=3, next_token=NEXT_BEARER, next_gateway_token=GATEWAY_BEARER, lease_until=_at(18)
    )
    decision = c.HumanDecision(
        approval_id=UUID("01a1fd98-0033-708f-a3db-49e5d6b6b90e"),
        question="Two documents disagree about the number of reviewers. Which one holds?",
        decision="approve",
        comment="release.md holds.",
        decided_at=BEGAN - timedelta(hours=1),
    )
    return {
        "dispatch": dispatch,
        "human_decision": decision,
        "dispatch_batch": c.DispatchBatch(contract_version=c.CONTRACT_VERSION, missions=[dispatch]),
        "dispatch_answers": c.DispatchAnswers(
            contract_version=c.CONTRACT_VERSION,
            missions=[c.DispatchAnswer(mission_id=MISSION, attempt=1, outcome="accepted")],
        ),
        "mission_status": c.MissionStatus(
            mission_id=MISSION, attempt=1, state="running", stage="workers", last_seq_sent=6
        ),
        "cancel_request": c.CancelRequest(reason="the mission has ended"),
        "health": c.Health(service="example colony", contract_version=c.CONTRACT_VERSION),
        "ready": c.Ready(
            ready=True,
            contract_version=c.CONTRACT_VERSION,
            providers={"root": c.ProviderState(state="ok"), "browser": c.ProviderState(state="disabled")},
        ),
        "event_batch": c.EventBatch(
            contract_version=c.CONTRACT_VERSION,
            attempt=1,
            events=[
                c.StageStarted(seq=1, at=_at(1), stage="planner"),
                c.ArtifactProduced(seq=2, at=_at(2), artifact=_artifacts()["mission_task_graph"]),  # type: ignore[arg-type]
                c.StageCompleted(seq=3, at=_at(3), stage="planner", latency_ms=12.5),
            ],
        ),
        "heartbeat": c.EventBatch(contract_version=c.CONTRACT_VERSION, attempt=1),
        "event_receipt": receipt,
        "events_of_many": c.EventsOfMany(
            contract_version=c.CONTRACT_VERSION,
            missions=[
                c.MissionEvents(
                    mission_id=MISSION,
                    token=FIRST_BEARER,
                    attempt=1,
                    events=[c.StageStarted(seq=1, at=_at(1), stage="planner")],
                ),
                c.MissionEvents(
                    mission_id=OTHER_MISSION,
                    token=OTHER_BEARER,
                    attempt=1,
                    events=[c.Log(seq=4, at=_at(2), level="info", message="One document was found.")],
                ),
            ],
        ),
        "event_answers": c.EventAnswers(
            missions=[
                c.EventAnswer(mission_id=MISSION, receipt=receipt.model_copy(update={"accepted_seq": 1})),
                c.EventAnswer(
                    mission_id=OTHER_MISSION,
                    problem={
                        "type": "/problems/sequence_gap",
                        "title": "Events are missing",
                        "status": 409,
                        "code": "sequence_gap",
                        "detail": "Event 2 is missing.",
                        "expected_seq": 2,
                    },
                ),
            ]
        ),
        "tool_call": c.ToolCall(arguments={"query": "reviewers of a release", "limit": 5}),
        "tool_answer": c.ToolAnswer(
            result={
                "passages": [
                    {
                        "source": SOURCE,
                        "document": DOCUMENT,
                        "title": "Release – the café build",
                        "heading": "Release – the café build",
                        "start": 0,
                        "end": len(TEXT.rstrip().encode()),
                        "text": TEXT.rstrip(),
                        "score": 4.25,
                    }
                ]
            }
        ),
        **{f"tool_call.{tool}": c.ToolCall(arguments=asked) for tool, (asked, _) in _tools().items()},
        **{f"tool_answer.{tool}": c.ToolAnswer(result=said) for tool, (_, said) in _tools().items()},
        "tool_offers": c.ToolOffers(
            tools=[
                c.ToolOffer(
                    name="crm.read",
                    description="One record of a connected system.",
                    access="read",
                    reach="internal",
                    input_schema={"type": "object", "required": ["kind", "id"]},
                )
            ]
        ),
        "root_view": c.RootView(mission_id=MISSION, state="running", attempt=1, last_seq=3, stop=False),
    }


def _tools() -> dict[str, tuple[dict[str, Any], Any]]:
    """Arguments and results of the built-in tools."""
    record = {
        "record_id": "L-1001",
        "kind": "lead",
        "version": 3,
        "source": hashlib.sha256(LEAD_TEXT.encode()).hexdigest(),
        "document": "sample_crm/lead/L-1001",
        "text": LEAD_TEXT,
        "fields": {"name": "Zoë Müller", "stage": "contacted"},
    }
    size, title = len(TEXT.encode()), "Release – the café build"
    return {
        "workspace.outline": (
            {},
            {"documents": [{"document": DOCUMENT, "source": SOURCE, "title": title, "bytes": size}]},
        ),
        "workspace.read": (
            {"source": SOURCE, "start": 0, "end": 65_536},
            {"text": TEXT, "start": 0, "end": size, "total": size},
        ),
        "crm.list": ({"kind": "lead", "limit": 50}, {"records": [record], "next_cursor": None}),
        "crm.read": ({"kind": "lead", "id": "L-1001"}, record),
        "crm.update": (
            {
                "kind": "lead",
                "id": "L-1001",
                "changes": {"stage": "qualified"},
                "expected_version": 3,
                "summary": "Zoë Müller is qualified.",
                "rationale": "She answered the call.",
                "evidence": [cite(LEAD_TEXT, "sample_crm/lead/L-1001", "contacted").model_dump(mode="json")],
            },
            {"status": "proposed", "proposal": str(ACTOR), "proposal_id": str(MISSION)},
        ),
    }


@cache
def events() -> dict[str, BaseModel]:
    """Every event type, by its type."""
    every: list[c.Event] = [
        c.StageStarted(seq=1, at=_at(1), stage="planner"),
        c.StageCompleted(seq=3, at=_at(3), stage="planner", latency_ms=12.5),
        c.ArtifactProduced(seq=5, at=_at(5), artifact=_artifacts()["worker_result"]),  # type: ignore[arg-type]
        c.Signal(seq=9, at=_at(9), signal="complete"),
        c.CheckpointSaved(
            seq=6, at=_at(6), checkpoint_id="after-workers", size_bytes=2_048, sha256=a.quote_sha256(b"checkpoint")
        ),
        c.ProviderFailed(
            seq=4,
            at=_at(4),
            provider="crm.list",
            code="connector_unreachable",
            detail="The CRM did not answer within 2 s.",
            retryable=True,
        ),
        c.UsageReported(seq=7, at=_at(7), tokens_in=812, tokens_out=95, cost_usd=0.0021, provider="small-model"),
        c.WritebackProposed(seq=8, at=_at(8), proposal=_artifacts()["writeback_proposal"]),  # type: ignore[arg-type]
        c.Log(seq=2, at=_at(2), level="info", message="One document was found."),
    ]
    return {event.type: event for event in every}


def artifacts() -> dict[str, BaseModel]:
    """The ten artifacts, by their schema_name."""
    return dict(_artifacts())


@cache
def _artifacts() -> dict[str, BaseModel]:
    cited = cite(TEXT, DOCUMENT, SENTENCE)
    claim = a.Claim(id="t1-c1", text=SENTENCE, citations=[cited], confidence=0.9)
    span: dict[str, Any] = {"source": cited.source, "document": DOCUMENT, "start": cited.start, "end": cited.end}
    reviewed = a.ReviewedClaim(
        claim_id=claim.id,
        text=claim.text,
        citations=[a.ReviewedCitation(citation=cited, verified=True)],
        supported=True,
    )
    every: list[a.ArtifactBase] = [
        a.sealed_envelope(
            **_head("root", 0),
            mission_type="oracle_advisory",
            origin_surface="api",
            actor_role="submitter",
            user_goal="How many reviewers does a release need?",
            normalized_goal="How many reviewers does a release need?",
            risk_level="low",
            sensitivity_class="internal",
            mode="assisted",
            environment="local",
            inputs={"workspace": "default"},
            tools=["workspace.search", "workspace.read", "workspace.outline"],
            labels={"team": "release"},
            budget=BUDGET,
        ),
        a.MissionTaskGraph(**_head("example-colony", 2), tasks=[PLAN]),
        a.PromptPackage(
            **_head("example-colony", 3),
            prompts=[
                a.Prompt(
                    task_id="t1", role="worker", instructions="Quote, do not reword.", terms=["release", "reviewers"]
                )
            ],
        ),
        a.LibrarianPass(
            **_head("example-colony", 4),
            searches=[
                a.Search(task_id="t1", query="reviewers of a release", results=[a.SearchResult(**span, score=4.25)])
            ],
        ),
        a.ResearchArtifact(
            **_head("example-colony", 4),
            passages=[
                a.Passage(
                    **span,
                    id="p1",
                    task_id="t1",
                    heading="Release – the café build",
                    quote=cited.quote,
                    quote_sha256=cited.quote_sha256,
                    score=4.25,
                )
            ],
        ),
        a.WorkerResult(**_head("example-colony", 5), task_id="t1", claims=[claim]),
        a.AggregationPacket(
            **_head("example-colony", 6),
            answer_status="answered",
            answer=SENTENCE,
            claims=[claim],
            sections=[a.Section(title="The question", claim_ids=[claim.id])],
        ),
        a.ReviewPacket(
            **_head("example-colony", 7), reviewer="colony", verdict="passed", claims=[reviewed], coverage=1.0
        ),
        a.PolicyDecisionArtifact(
            **_head("root", 0),
            action="mission.create",
            resource="oracle_advisory",
            effect="allow",
            rule="baseline.reading",
            policy_version="1",
            reason="Reading missions of low risk may run.",
            inputs_sha256=a.quote_sha256(b"inputs"),
        ),
        a.WritebackProposal(
            **_head("example-colony", 8),
            proposal_id=UUID("01a1fd97-ffff-7000-8000-000000000001"),
            connector="sample_crm",
            target="lead/L-1001",
            operation="update",
            changes={"stage": "qualified"},
            expected_version=3,
            summary="Zoë Müller: stage contacted → qualified",
            rationale="The record says that she was contacted and has answered.",
            evidence=[cite(LEAD_TEXT, "sample_crm/lead/L-1001", '"stage":"contacted"')],
            risk_level="low",
        ),
    ]
    return {one.model_dump()["schema_name"]: one for one in every}


def _at(seconds: int) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def _head(producer: str, seconds: int) -> dict[str, Any]:
    return {
        "mission_id": MISSION,
        "tenant_id": TENANT,
        "actor_id": ACTOR,
        "created_at": _at(seconds),
        "producer": a.Producer(name=producer, version="1.0.0"),
    }
