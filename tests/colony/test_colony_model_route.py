"""With a model: it may put into words and doubt, but only quotes that stand in the passages count."""

import asyncio
from typing import Any

import pytest
from harbor_docs import harbor
from memory_workspace import case_over

from colony.case import Case, ModelFailed
from colony.stages import LINE
from colony.stages.notes import Notes
from colony_client.artifacts import AggregationPacket

WORKSPACE = harbor()


class Said:
    """A model that says what it was told to."""

    name = "said"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def answer(self, instructions: str, question: str) -> dict[str, Any]:
        self.asked.append((instructions, question))
        return self.answers.pop(0)


def run(model: Said, goal: str = "What is a berth?") -> AggregationPacket:
    async def work() -> AggregationPacket:
        plain = case_over(WORKSPACE, goal)
        case, notes = Case(plain.envelope, plain.tools, plain.tell, model=model), Notes()
        for stage in LINE.values():
            await stage(case, notes)
        assert notes.packet is not None
        return notes.packet

    return asyncio.run(work())


def claim(text: str, quote: str, passage: int = 1) -> dict[str, Any]:
    return {"text": text, "quotes": [{"passage": passage, "quote": quote}]}


QUOTE = "A berth is a named queue with its own concurrency limit."


def test_the_words_are_the_models_and_the_bytes_are_the_documents() -> None:
    packet = run(Said({"claims": [claim("Berths are queues.", QUOTE)]}, {"unsupported": []}))
    (only,) = packet.claims
    (cited,) = only.citations
    assert only.text == "Berths are queues."
    assert WORKSPACE.bytes[cited.source][cited.start : cited.end].decode() == cited.quote == QUOTE


@pytest.mark.parametrize(
    "invented",
    [
        claim("Berths are ships.", "A berth is a place for ships."),
        claim("x", "A berth"),
        claim("x", QUOTE, 99),
        {"text": "no quotes"},
        "no object",
    ],
)
def test_a_claim_without_a_literal_quote_is_not_kept(invented: Any) -> None:
    packet = run(Said({"claims": [invented]}, {"unsupported": []}))
    assert (packet.answer_status, packet.claims) == ("not_found", [])


def test_a_doubted_claim_is_dropped() -> None:
    packet = run(
        Said({"claims": [claim("Berths are fast.", QUOTE), claim("Berths are queues.", QUOTE)]}, {"unsupported": [1]})
    )
    assert [one.text for one in packet.claims] == ["Berths are queues."]


def test_nothing_is_asked_of_the_model_when_the_documents_do_not_answer() -> None:
    model = Said()
    assert run(model, "Who painted the Mona Lisa?").answer_status == "not_found"
    assert model.asked == []


def test_an_answer_of_another_form_is_a_failure_not_a_guess() -> None:
    with pytest.raises(ModelFailed):
        run(Said({"answer": "Berths are queues."}))
