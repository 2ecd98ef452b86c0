import hashlib
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from boundary_samples import HEAD, MISSION, NOW, OTHER, claims, envelope, every_artifact, few, proposal
from hypothesis import given
from pydantic import ValidationError

from colony_client import artifacts as a
from colony_client.wire import read_model

SHA = "ab" * 32
SPAN: dict[str, Any] = {"source": SHA, "document": "docs/a.md", "start": 3, "end": 9}


def test_the_ten_types_and_no_other() -> None:
    assert set(a.ARTIFACT_TYPES) == {
        "mission_envelope",
        "mission_task_graph",
        "prompt_package",
        "research_artifact",
        "librarian_pass",
        "worker_result",
        "aggregation_packet",
        "review_packet",
        "policy_decision",
        "writeback_proposal",
    }
    with pytest.raises(ValidationError):
        a.parse_artifact(envelope().model_dump() | {"schema_name": "giant_state_blob"})


@few
@given(every_artifact)
def test_canonical_bytes_are_stable_and_lose_nothing(artifact: a.Artifact) -> None:
    stored = a.canonical(artifact)
    again = a.parse_artifact(stored)
    assert type(again) is type(artifact)
    assert again == artifact
    assert a.canonical(again) == stored
    assert a.parse_artifact(json.loads(stored)) == artifact
    assert read_model(type(artifact), stored) == artifact  # also under the strict reading of the wire


@few
@given(every_artifact)
def test_canonical_bytes_do_not_depend_on_the_order_of_members(artifact: a.Artifact) -> None:
    stored = a.canonical(artifact)
    backwards = json.dumps(dict(reversed(json.loads(stored).items())), indent=1).encode()
    assert a.canonical(a.parse_artifact(backwards)) == stored


@few
@given(every_artifact)
def test_unknown_fields_are_refused(artifact: a.Artifact) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        a.parse_artifact(json.loads(a.canonical(artifact)) | {"surprise": 1})


def test_contract_hash_covers_everything_but_itself_and_the_moment() -> None:
    sealed = envelope()
    agreed = sealed.model_dump(mode="json")
    del agreed["contract_hash"], agreed["created_at"]
    assert sealed.contract_hash == hashlib.sha256(rfc8785.dumps(agreed)).hexdigest() == a.contract_hash(sealed)
    assert envelope(created_at=NOW + timedelta(days=1)).contract_hash == sealed.contract_hash
    changed: list[dict[str, Any]] = [
        {"mission_id": OTHER},
        {"user_goal": "else"},
        {"risk_level": "high"},
        {"inputs": {}},
        {"budget": a.Budgets(time_ms=1, tokens=1, cost_usd=1)},
    ]
    hashes = {envelope(**change).contract_hash for change in changed} | {sealed.contract_hash}
    assert len(hashes) == len(changed) + 1


@pytest.mark.parametrize("hash_", ["0" * 64, "1" * 64])
def test_what_is_sealed_is_the_envelope_and_not_what_a_caller_wrote_alike(hash_: str) -> None:
    plain = envelope()
    said = plain.model_dump(mode="json")
    bait = {"contract_hash": hash_, "created_at": said["created_at"], "z": 1}
    fields = {name: getattr(plain, name) for name in type(plain).model_fields if name != "contract_hash"}
    sealed, data = a.sealed(**(fields | {"inputs": {**bait, "more": bait}, "labels": {"contract_hash": hash_}}))
    agreed = sealed.model_dump(mode="json", exclude={"contract_hash", "created_at"})
    assert sealed.contract_hash == hashlib.sha256(rfc8785.dumps(agreed)).hexdigest() == a.contract_hash(sealed)
    assert data == a.canonical(sealed) == rfc8785.dumps(sealed.model_dump(mode="json"))
    assert sealed.inputs["contract_hash"] == hash_


def test_quote_hash_is_of_the_bytes() -> None:
    assert a.quote_sha256("größer".encode()) == hashlib.sha256("größer".encode()).hexdigest()


def test_instants_become_utc_and_must_carry_a_zone() -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert envelope(created_at=east).created_at == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert b'"created_at":"2025-12-31T23:00:00Z"' in a.canonical(envelope(created_at=east))
    for wrong in (datetime(2026, 1, 1), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), datetime.max):
        with pytest.raises(ValidationError):
            envelope(created_at=wrong)


@pytest.mark.parametrize("text", ["with \x00 inside", "lone \ud800 surrogate", ""])
def test_text_that_cannot_be_stored_is_refused_everywhere(text: str) -> None:
    for field in ("user_goal", "origin_surface", "actor_role"):
        with pytest.raises(ValidationError):
            envelope(**{field: text})
    if text:
        for inputs in ({"a": [text]}, {text: 1}, {"a": {"b": {text: None}}}):
            with pytest.raises(ValidationError):
                envelope(inputs=inputs)
        with pytest.raises(ValidationError):
            envelope(labels={"a": text})


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**53, -(2**53), 1e300, "x" * (a.MAX_JSON_CHARS + 1), [0] * a.MAX_JSON_NODES, object()],
    ids=["nan", "inf", "big", "negative", "float", "long", "many", "object"],
)
def test_free_json_is_bounded(value: Any) -> None:
    with pytest.raises(ValidationError):
        envelope(inputs={"a": value})


def test_free_json_is_bounded_in_depth() -> None:
    envelope(inputs={"a": _nested(a.MAX_JSON_DEPTH - 2)})
    for levels in (a.MAX_JSON_DEPTH - 1, 100_000):
        with pytest.raises(ValidationError, match="nested deeper"):
            envelope(inputs={"a": _nested(levels)})


@pytest.mark.parametrize(
    "change",
    [
        {"start": 9},
        {"start": 10},
        {"start": -1},
        {"end": 2**60},
        {"source": SHA.upper()},
        {"source": SHA[:-1]},
        {"source": SHA + "\n"},
        {"quote_sha256": "zz"},
        {"quote": "x" * 4001},
        {"quote": ""},
        {"document": ""},
    ],
)
def test_a_citation_is_a_forward_span_with_hashes(change: dict[str, Any]) -> None:
    good = SPAN | {"quote": "x" * 4000, "quote_sha256": SHA}
    a.Citation(**good)
    with pytest.raises(ValidationError):
        a.Citation(**(good | change))


def test_spans_of_passages_and_results_run_forwards_too() -> None:
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (a.SearchResult, {}),
        (a.Passage, {"id": "p", "quote": "q", "quote_sha256": SHA}),
    ]
    for kind, rest in kinds:
        kind(**SPAN, **rest, score=1)
        with pytest.raises(ValidationError, match="start must lie before end"):
            kind(**(SPAN | {"end": 3}), **rest, score=1)


@pytest.mark.parametrize(
    ("build", "most"),
    [
        (lambda n: a.WorkerResult(**HEAD, task_id="t", claims=[a.Claim(id="c", text="t", citations=[])] * n), 500),
        (
            lambda n: a.ResearchArtifact(
                **HEAD, passages=[a.Passage(**SPAN, id="p", quote="q", quote_sha256=SHA, score=0)] * n
            ),
            500,
        ),
        (lambda n: a.AggregationPacket(**HEAD, answer_status="answered", answer="x" * n), 50_000),
        (lambda n: proposal(changes={f"field{i}": i for i in range(n)}), 50),
        (lambda n: envelope(tools=["workspace.read"] * n), 100),
        (lambda n: envelope(user_goal="x" * n), 8_000),
    ],
    ids=["claims", "passages", "answer", "changes", "tools", "goal"],
)
def test_lists_and_texts_end_where_the_contract_says(build: Any, most: int) -> None:
    build(most)
    with pytest.raises(ValidationError):
        build(most + 1)


def test_a_writeback_changes_something() -> None:
    with pytest.raises(ValidationError):
        proposal(changes={})


def _task(name: str, *before: str) -> a.Task:
    return a.Task(id=name, kind="question", title="t", question="q?", depends_on=list(before))


def test_a_plan_has_no_circle_no_twin_and_no_unknown_task() -> None:
    a.MissionTaskGraph(**HEAD, tasks=[_task("a"), _task("b", "a"), _task("c", "a", "b")])
    for tasks in ([_task("a", "a")], [_task("a", "b"), _task("b", "a")], [_task("a"), _task("a")], [_task("a", "z")]):
        with pytest.raises(ValidationError):
            a.MissionTaskGraph(**HEAD, tasks=tasks)


@few
@given(claims)
def test_an_answer_hangs_together(claim: a.Claim) -> None:
    def packet(**fields: Any) -> a.AggregationPacket:
        return a.AggregationPacket(**(HEAD | {"answer_status": "answered", "answer": "a"} | fields))

    packet(claims=[claim], sections=[a.Section(title="s", claim_ids=[claim.id])])
    packet(answer_status="not_found", not_found=["the budget"])
    wrong: list[dict[str, Any]] = [
        {"claims": [claim, claim]},
        {"claims": [claim], "answer_status": "not_found"},
        {"claims": [claim], "sections": [a.Section(title="s", claim_ids=["no-" + claim.id])]},
    ]
    for fields in wrong:
        with pytest.raises(ValidationError):
            packet(**fields)


@pytest.mark.parametrize("value", [math.inf, math.nan, 2**60, "x" * 2001, [1]])
def test_a_factor_holds_a_value_that_can_be_hashed(value: Any) -> None:
    with pytest.raises(ValidationError):
        a.LeadFactor(name="n", value=value, points=1, explanation="e")


def test_a_factor_keeps_the_type_of_its_value() -> None:
    for value in (True, 3, 2.5, "3", None):
        factor = a.LeadFactor(name="n", value=value, points=1, explanation="e")
        assert type(factor.value) is type(value)
        assert type(a.LeadFactor.model_validate_json(a.canonical(factor)).value) is type(value)


def test_artifacts_are_values() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        envelope().mission_id = MISSION
