"""What is filled in is what would have been written at length: envelope, hash and answer, for whatever a request says."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import to_json

from app.caller import Caller
from app.canonical import canonical as written
from app.clock import new_id
from app.errors import Problem
from app.missions import normalize
from app.missions.ask import Ask, BudgetAsk, Replay, Wish
from app.missions.forms import STAMP, UNKNOWN_TIME, Form, Forms, accepted
from app.missions.normalize import LONGEST_FITTING, Defaults, Fitting, Said, understood
from app.missions.queries import view
from app.missions.types import shipped
from app.policy import SHELF
from app.stencil import MARK, Stencil
from colony_client.artifacts import MissionEnvelope, canonical, contract_hash

KIND = shipped()["oracle_advisory"]
CALLER = Caller(uuid4(), uuid4(), f"principal:{uuid4()}", kind="service", roles=frozenset({"submitter"}))
DEFAULTS = Defaults("local", 60_000, 1_000)
ALL_WELL: dict[str, Any] = {"public": False, "replay": None, "degraded": None, "on_ladder": True}
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
LABELS = st.dictionaries(WORDS.filter(bool), WORDS, max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15) | WORDS
INPUTS = st.dictionaries(
    WORDS, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6), max_size=4
)


def form(**asked: object) -> Form:
    ask = Ask.model_validate({"mission_type": KIND.name, "user_goal": "What?", **asked})
    return Forms().get(CALLER, ask, KIND, *SHELF.get(CALLER.tenant), DEFAULTS, **ALL_WELL)


PLAIN = form()
ODD = form(
    origin_surface="100 %b % \u2028 \U0001f600",
    tools=["web.search"],
    budget={"time_ms": 1, "tokens": 0, "cost_usd": 0.1},
)


@given(WORDS.filter(bool), WORDS.filter(bool), INPUTS, LABELS, st.sampled_from([PLAIN, ODD]))
@example("%b %s", "%%", {"%b": "%"}, {"%": "%b"}, ODD)
@example(
    "\x7f\u2028\U00010000\uffff",
    "e",
    {"\U00010000": 1, "\uffff": 1.5, "a": -0.0},
    {"\U00010000": "", "\uffff": ""},
    PLAIN,
)
def test_an_envelope_that_was_filled_in_is_canonical(
    goal: str, plain: str, inputs: dict[str, object], labels: dict[str, str], cut: Form
) -> None:
    mission = new_id()
    data, sealed_by = cut.envelopes.seal(mission, Said(goal, plain, inputs, labels, (written(inputs), written(labels))))
    read = MissionEnvelope.model_validate_json(data)
    assert canonical(read) == data and contract_hash(read) == read.contract_hash == sealed_by
    assert (read.mission_id, read.user_goal, read.normalized_goal, read.labels) == (mission, goal, plain, labels)
    assert json.loads(to_json(read.inputs)) == json.loads(to_json(inputs))
    fixed = read.model_dump(
        exclude={"mission_id", "user_goal", "normalized_goal", "inputs", "labels", "contract_hash", "created_at"}
    )
    assert fixed == cut.envelope.model_dump(include=set(fixed))


@given(
    WORDS.filter(bool),
    LABELS,
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True),
    st.sampled_from([PLAIN, ODD]),
)
def test_an_answer_that_was_filled_in_is_the_missions_view(
    goal: str, labels: dict[str, str], workspace: str, cut: Form
) -> None:
    mission = new_id()
    places = {
        "mission": str(mission).encode(),
        "goal": to_json(goal),
        "labels": to_json(labels),
        "workspace": to_json(workspace),
    }
    said = cut.envelope.model_copy(update={"labels": labels, "inputs": {"workspace": workspace}})
    middle = b'","updated_at":"'
    assert cut.head.fill(places) + STAMP + middle + STAMP + cut.tail.fill(places) == to_json(
        view(accepted(mission, KIND, CALLER, said, None, None), goal)
    )
    assert datetime(2000, 1, 1, tzinfo=UTC) == UNKNOWN_TIME


def test_what_asks_alike_shares_a_form_and_nothing_else_does() -> None:
    forms, shelf = Forms(), SHELF.get(CALLER.tenant)
    base = Ask(mission_type=KIND.name, user_goal="One?")  # type: ignore[call-arg]
    one = forms.get(CALLER, base, KIND, *shelf, DEFAULTS, **ALL_WELL)
    alike = base.model_copy(update={"user_goal": "Two?", "inputs": {"workspace": "other"}, "labels": {"a": "b"}})
    assert forms.get(CALLER, alike, KIND, *shelf, DEFAULTS, **ALL_WELL) is one
    other: dict[str, object] = {
        "origin_surface": "cli", "mode": "dry_run", "risk_level": "high", "sensitivity_class": "public", "tools": [],
        "budget": BudgetAsk(time_ms=5, tokens=None, cost_usd=None),
    }  # fmt: skip
    assert {*other, "mission_type", "user_goal", "inputs", "labels"} == set(Ask.model_fields), (
        "another field: is it in the form?"
    )
    for name, value in other.items():
        asked = base.model_copy(update={name: value})
        assert forms.get(CALLER, asked, KIND, *shelf, DEFAULTS, **ALL_WELL) is not one, name
    for differs in (
        {"public": True},
        {"replay": Replay(uuid4(), "rerun")},
        {"degraded": {"code": "colony_unavailable", "effect": "It waits.", "since": "now"}},
        {"on_ladder": False},
    ):
        assert forms.get(CALLER, base, KIND, *shelf, DEFAULTS, **ALL_WELL | differs) is not one, differs
    for caller in (
        Caller(uuid4(), CALLER.principal, "", kind="service", roles=CALLER.roles),
        Caller(CALLER.tenant, uuid4(), "", kind="service", roles=CALLER.roles),
        Caller(CALLER.tenant, CALLER.principal, "", kind="human", roles=CALLER.roles),
        Caller(CALLER.tenant, CALLER.principal, "", kind="service", roles=frozenset({"operator"})),
    ):
        assert forms.get(caller, base, KIND, *shelf, DEFAULTS, **ALL_WELL) is not one
    assert forms.get(CALLER, base, KIND, shelf[0] + 1, shelf[1], DEFAULTS, **ALL_WELL) is not one


@pytest.mark.parametrize("said", [{"inputs": {"deep": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}}, {"inputs": {"n": 2**53}}])
def test_the_envelopes_own_bounds_hold(said: dict[str, object]) -> None:
    open_type = type(KIND)(**{**KIND.said(), "inputs_schema": {"type": "object"}})
    with pytest.raises(Problem) as refused:
        understood(Ask.model_validate({"mission_type": KIND.name, "user_goal": "What?", **said}), open_type)
    assert refused.value.code == "validation" and refused.value.errors[0]["pointer"].startswith("/inputs")


def test_what_was_found_to_fit_is_remembered_as_it_was_written_and_for_its_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Remembering changes no answer: whatever is asked after something that fits is judged as if it came first."""
    whole = {"type": "object", "properties": {"n": {"type": "number", "maximum": 1}}}
    kinds = [
        type(KIND)(**{**KIND.said(), "inputs_schema": one}) for one in (whole, {"type": "object", "maxProperties": 0})
    ]
    asked: list[dict[str, Any]] = [
        {"inputs": {"n": 1}}, {"inputs": {"n": 1.0}}, {"inputs": {"n": True}}, {"inputs": {"n": 2}}, {"inputs": {}},
        {"inputs": {}, "labels": {"a": "b"}}, {"inputs": {}, "labels": {"a": "b\x7f"}}, {"inputs": {"workspace": "No!"}},
        {"inputs": {}, "user_goal": "\u0958" * 5000}, {"inputs": {}, "user_goal": "e\u0301"},
    ]  # fmt: skip

    def told(fitting: Fitting) -> list[Any]:
        monkeypatch.setattr(normalize, "fitting", fitting)
        answers: list[Any] = []
        for said in asked:
            ask = Wish.model_validate({"mission_type": KIND.name, "user_goal": "What?", **said})
            for kind in kinds:
                try:
                    answers.append(understood(ask, kind))
                except Problem as refused:
                    answers.append((refused.code, refused.errors))
        return answers

    class Forgetful(Fitting):
        def get(self, *args: Any) -> tuple[bytes, bytes]:
            self.known.clear()
            return super().get(*args)

    remembering = Fitting()
    once = told(remembering)
    assert told(remembering) == once == told(Forgetful())
    assert {type(one) for one in once} == {Said, tuple} and all(
        one.sealed == (written(one.inputs), written(one.labels)) for one in once if isinstance(one, Said)
    )


def test_few_and_small_things_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "MOST_FITTING", 3)
    fitting = Fitting()
    open_type = type(KIND)(**{**KIND.said(), "inputs_schema": {"type": "object"}})

    def ask(inputs: dict[str, Any]) -> None:
        fitting.get(open_type, Wish(mission_type=KIND.name, user_goal="What?", inputs=inputs), "What?", "What?")

    for n in (1, 2, 3, 1, 4):
        ask({"n": n})
    ask({"words": "x" * LONGEST_FITTING})
    assert [json.loads(said)[0]["n"] for _, said in fitting.known] == [3, 1, 4]


def test_a_stencil_refuses_what_has_no_place() -> None:
    with pytest.raises(ValueError, match="no place for"):
        Stencil(b"nothing here", {"goal": MARK.encode()})
    name = str(UUID(int=1)).encode()
    assert Stencil(b"%s" % name + b"-" + name, {"id": name}).fill({"id": b"%b"}) == b"%b-%b"
