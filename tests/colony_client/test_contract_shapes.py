from typing import Any

import pytest
from boundary_samples import HEAD, MISSION, NOW, OTHER, TENANT, dispatch, envelope, proposal
from pydantic import ValidationError

from colony_client import contract as c

END = c.Signal(seq=2, at=NOW, signal="complete")


def log(seq: int, message: str = "m") -> c.Log:
    return c.Log(seq=seq, at=NOW, level="info", message=message)


def test_stages_are_said_once() -> None:
    assert c.Stage.__args__ == c.STAGES  # type: ignore[attr-defined]


def test_every_event_type_is_told_by_its_type() -> None:
    every: list[c.Event] = [
        c.StageStarted(seq=1, at=NOW, stage="planner"),
        c.StageCompleted(seq=2, at=NOW, stage="planner", latency_ms=1.5),
        c.ArtifactProduced(seq=3, at=NOW, artifact=envelope()),
        c.Signal(seq=4, at=NOW, signal="checkpoint"),
        c.CheckpointSaved(seq=5, at=NOW, checkpoint_id="cp-1", size_bytes=10, sha256="0" * 64),
        c.ProviderFailed(seq=6, at=NOW, provider="search", code="timeout", detail="no answer", retryable=True),
        c.UsageReported(seq=7, at=NOW, tokens_in=1, tokens_out=2, cost_usd=0.1),
        c.WritebackProposed(seq=8, at=NOW, proposal=proposal()),
        log(9),
    ]
    batch = c.EventBatch(attempt=1, events=every)
    assert c.EventBatch.model_validate_json(batch.model_dump_json(), strict=True) == batch
    assert {event.type for event in every} == {
        "stage.started",
        "stage.completed",
        "artifact.produced",
        "signal",
        "checkpoint.saved",
        "provider.failed",
        "usage.reported",
        "writeback.proposed",
        "log",
    }
    assert c.EventBatch(attempt=1).events == []


@pytest.mark.parametrize(
    "events",
    [
        [log(1), log(3)],
        [log(2), log(1)],
        [log(1), log(1)],
        [END, log(3)],
        [log(n) for n in range(1, 502)],
    ],
    ids=["gap", "backwards", "twice", "after the end", "too many"],
)
def test_a_batch_is_consecutive_bounded_and_ends_with_the_attempt(events: list[Any]) -> None:
    with pytest.raises(ValidationError):
        c.EventBatch(attempt=1, events=events)


def test_a_batch_may_begin_anywhere_and_end_the_attempt() -> None:
    c.EventBatch(attempt=1, events=[log(n) for n in range(7, 507)])
    c.EventBatch(attempt=1, events=[log(1), END])


@pytest.mark.parametrize("signal", ["blocked", "escalate"])
def test_giving_up_and_asking_say_why(signal: Any) -> None:
    with pytest.raises(ValidationError):
        c.Signal(seq=1, at=NOW, signal=signal)
    assert c.Signal(seq=1, at=NOW, signal=signal, reason="no workspace").ends_attempt
    assert not c.Signal(seq=1, at=NOW, signal="continue").ends_attempt


@pytest.mark.parametrize("change", [{"seq": 0}, {"message": "x" * 2001}, {"level": "fatal"}, {"at": "2026-01-01"}])
def test_an_event_is_bounded(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"seq": 1, "at": NOW, "level": "info", "message": "x" * 2000}
    c.Log(**good)
    with pytest.raises(ValidationError):
        c.Log(**(good | change))


def test_artifacts_of_strangers_are_pointed_out() -> None:
    alien = HEAD | {"tenant_id": OTHER}
    batch = c.EventBatch(
        attempt=1,
        events=[
            log(1),
            c.ArtifactProduced(seq=2, at=NOW, artifact=envelope()),
            c.ArtifactProduced(seq=3, at=NOW, artifact=envelope(mission_id=OTHER)),
            c.WritebackProposed(seq=4, at=NOW, proposal=proposal(**alien)),
        ],
    )
    assert batch.strangers(MISSION, TENANT) == [3, 4]


def test_a_dispatch_names_one_mission_once() -> None:
    with pytest.raises(ValidationError, match="another mission"):
        c.Dispatch(**(dict(dispatch()) | {"mission_id": OTHER}))
    with pytest.raises(ValidationError, match="named twice"):
        c.DispatchBatch(missions=[dispatch(), dispatch(attempt=2)])
    with pytest.raises(ValidationError):
        c.DispatchBatch(missions=[])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://root",
        "root:8081",
        "http://",
        "http://user:pw@root/",
        "http://root/?a=1",
        "http://root/#f",
        "http://root:99999",
        "http://ro ot",
        "http://root\n",
        "http://" + "r" * 2000,
    ],
)
def test_a_callback_url_is_plain_http(url: str) -> None:
    with pytest.raises(ValidationError):
        c.Dispatch(**(dict(dispatch()) | {"callback_base_url": url}))


def test_origins_compare() -> None:
    assert dispatch().callback_base_url == "http://127.0.0.1:8081"
    assert c.url_origin("HTTP://Root/x") == c.url_origin("http://root:80") == "http://root:80"
    assert c.url_origin("https://[::1]/") == "https://[::1]:443"
    assert c.url_origin("http://root") != c.url_origin("https://root")


def test_a_refusal_needs_a_reason() -> None:
    with pytest.raises(ValidationError):
        c.DispatchAnswer(mission_id=MISSION, attempt=1, outcome="refused")
    c.DispatchAnswer(mission_id=MISSION, attempt=1, outcome="busy", retry_after_s=2)


@pytest.mark.parametrize(
    ("version", "taken"), [("1.0", True), ("1.7", True), ("2.0", False), ("1", False), ("1.01", False)]
)
def test_only_version_one_is_spoken(version: str, taken: bool) -> None:
    if taken:
        c.EventBatch(contract_version=version, attempt=1)
    else:
        with pytest.raises(ValidationError):
            c.EventBatch(contract_version=version, attempt=1)
