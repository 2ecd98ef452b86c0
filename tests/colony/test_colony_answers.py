"""What the stages make of a question: the right words from the documents with the bytes they stand in, or nothing."""

import asyncio
import hashlib
from typing import Any

import pytest
from harbor_docs import harbor
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_workspace import MemoryWorkspace, case_over

from colony.stages import LINE
from colony.stages.notes import Notes
from colony_client.artifacts import AggregationPacket, Claim, ReviewPacket

WORKSPACE = harbor()


def answered(
    goal: str, workspace: MemoryWorkspace = WORKSPACE, kind: str = "oracle_advisory", **inputs: Any
) -> tuple[AggregationPacket, ReviewPacket]:
    async def work() -> tuple[AggregationPacket, ReviewPacket]:
        case, notes = case_over(workspace, goal, kind, **inputs), Notes()
        produced = [await LINE[stage](case, notes) for stage in LINE]
        assert notes.packet is not None
        verdict = produced[-1].artifacts[-1]
        assert isinstance(verdict, ReviewPacket)
        return notes.packet, verdict

    return asyncio.run(work())


def check_bytes(claims: list[Claim], workspace: MemoryWorkspace) -> None:
    for claim in claims:
        assert claim.citations, f"{claim.id} cites nothing"
        for cited in claim.citations:
            held = workspace.bytes[cited.source][cited.start : cited.end]
            assert held.decode() == cited.quote
            assert hashlib.sha256(held).hexdigest() == cited.quote_sha256


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("What is a berth?", "A berth is a named queue with its own concurrency limit."),
        ("How do I create a berth?", "$ harbor berth add nightly --slots 4"),
        ("How do I retry a failed job?", "retry=Retry(times=3)"),
        ("What is the default value of HARBOR_HEARTBEAT?", "Default: 15"),
        ("What does HARBOR_HEARTBEAT do?", "How often a machine reports that it is alive"),
        ("What does the `--force` option of harbor-drain do?", "Do not wait for running jobs"),
        (
            "Why do I need a signing key?",
            "because anybody who can write into the message bus could otherwise start jobs",
        ),
        ("What is the largest payload?", "256 KiB"),
        ("Are cancelled jobs retried?", "Jobs that were cancelled by a person are never retried."),
    ],
)
def test_the_first_claim_holds_the_answer(goal: str, words: str) -> None:
    packet, verdict = answered(goal)
    assert packet.answer_status == "answered"
    assert words in packet.claims[0].text, packet.claims[0].text
    assert verdict.verdict == "passed" and verdict.coverage == 1.0
    check_bytes(packet.claims, WORKSPACE)


@pytest.mark.parametrize(
    "goal",
    [
        "What is the capital of Mongolia?",
        "What is the default value of HARBOR_TURBO_MODE?",
        "What does the `--teleport` option of harbor-drain do?",
        "How do I run Harbor on Kubernetes?",
        "How do I send an invoice to a customer?",
        "Why does Harbor require MongoDB?",
        "What does harbor.Quantum do?",
        "?!",
    ],
)
def test_what_the_documents_do_not_hold_is_not_answered(goal: str) -> None:
    packet, verdict = answered(goal)
    assert (packet.answer_status, packet.claims) == ("not_found", [])
    assert packet.not_found
    assert (verdict.verdict, verdict.claims) == ("passed", [])


def test_an_empty_workspace_answers_nothing() -> None:
    packet, _ = answered("What is a berth?", MemoryWorkspace())
    assert packet.answer_status == "not_found"


def test_several_questions_are_answered_one_by_one() -> None:
    packet, _ = answered("What is a berth, and what does HARBOR_WARP_SPEED do?")
    assert packet.answer_status == "answered"
    assert [bool(section.claim_ids) for section in packet.sections] == [True, False]
    assert any("HARBOR_WARP_SPEED" in note for note in packet.not_found)
    assert "Not found in the evidence." in packet.answer


def test_max_claims_bounds_the_answer() -> None:
    packet, _ = answered("How do I retry a failed job?", max_claims=1)
    assert len(packet.claims) == 1


def test_an_unknown_mission_type_is_a_question_to_the_documents() -> None:
    packet, _ = answered("What is a berth?", kind="something_else")
    assert "named queue" in packet.claims[0].text


def test_a_brief_has_its_four_sections_each_cited_or_marked() -> None:
    packet, _ = answered("Prepare a strategy brief on retrying failed jobs", kind="catalyst_strategy_brief")
    assert [section.title for section in packet.sections] == ["Situation", "Options", "Risks", "Recommendation"]
    for section in packet.sections:
        assert section.claim_ids or section.text == "Not found in the evidence."
    marked = [section.title for section in packet.sections if not section.claim_ids]
    assert all(any(note.startswith(title) for note in packet.not_found) for title in marked)
    spans = [(one.source, one.start, one.end) for claim in packet.claims for one in claim.citations]
    assert len(spans) == len(set(spans)), "the same bytes were used in two sections"
    check_bytes(packet.claims, WORKSPACE)


def test_the_reviewer_drops_a_claim_whose_bytes_changed() -> None:
    workspace = harbor()
    honest = workspace.read

    def forged(source: str, start: int, end: int) -> dict[str, Any]:
        """Lies about every short stretch: the researcher reads long ones, the reviewer just what is quoted."""
        said = honest(source, start, end)
        return {**said, "text": said["text"].replace("named", "named"[::-1])} if end - start < 400 else said

    workspace.read = forged  # type: ignore[method-assign]
    packet, verdict = answered("What is a berth?", workspace)
    assert "claim" not in packet.answer and all("named queue" not in claim.text for claim in packet.claims)
    assert verdict.coverage < 1.0 and verdict.problems
    assert any(note.startswith("dropped in review") for note in packet.not_found)


LINES = st.sampled_from(
    [
        "A berth is a named queue — with ümlauts, `code` and *stress*.",
        "See `berth <https://x.example>`_ for more. A berth, e.g. this one, ends.",
        "    indented berth = 3",
        "- a berth in a list",
        "## Berth heading",
        ".. note:: a berth",
        "   deeper berth text here.",
        "| berth | 4 |",
        "--berth::",
        "\tBody of the berth.",
        *("", "Berth", "-----", "```", "+", ">>> berth()", "1. berth one", ":berth: a field"),
    ]
)


@settings(max_examples=30, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=40))
def test_every_claim_is_the_bytes_it_cites_whatever_the_document_looks_like(lines: list[str]) -> None:
    workspace = MemoryWorkspace()
    workspace.add("odd.md", "\n".join(lines))
    packet, verdict = answered("What is a berth?", workspace)
    check_bytes(packet.claims, workspace)
    assert verdict.coverage == 1.0
