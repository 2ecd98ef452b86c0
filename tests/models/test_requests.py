"""What may be asked: every body has an answer, none of them is a 500, and what is dangerous reaches nobody."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.canonical import parsed
from app.errors import Problem
from app.model_gateway.request import PASSED_AS, REFUSED, read
from app.model_gateway.wire import events
from tests.models.conftest import ASK, House

BODY: dict[str, Any] = {"model": "small", "messages": ASK}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "tools", "n", "store", "temperature",
    "response_format", "anything", *REFUSED,
])  # fmt: skip


def refused(data: bytes) -> dict[str, Any]:
    with pytest.raises(Problem) as said:
        read(data)
    return {"code": said.value.code, "errors": said.value.errors}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_every_body_is_a_call_or_a_problem_that_names_a_field(more: dict[str, Any]) -> None:
    data = json.dumps(BODY | more).encode()
    try:
        asked, form = read(data)
    except Problem as problem:
        assert problem.code in ("validation", "malformed")
        return
    assert (
        parsed(form)["body"] == asked.body
        and asked.prompt_tokens > len(json.dumps(asked.body["messages"]).encode()) // 2
    )
    assert not set(asked.body) & {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", *REFUSED}
    assert read(data) == (asked, form)


def test_each_dangerous_field_is_refused_by_name() -> None:
    for name in REFUSED:
        said = refused(json.dumps(BODY | {name: None}).encode())
        assert said["errors"][0]["pointer"] == f"/{name}"
    for name, (values, _) in PASSED_AS.items():
        assert refused(json.dumps(BODY | {name: "x"}).encode())["errors"][0]["pointer"] == f"/{name}"
        for value in (*values, None):
            assert read(json.dumps(BODY | {name: value}).encode())[0].body[name] == value
    for odd in ({"n": True}, {"n": 1.0}, {"store": 0}):
        assert refused(json.dumps(BODY | odd).encode())["code"] == "validation"


def test_fields_that_nobody_knows_pass_and_belong_to_what_was_asked() -> None:
    asked, form = read(json.dumps(BODY | {"reasoning_effort": "low", "top_k": 7, "user": "u"}).encode())
    assert (asked.body["reasoning_effort"], asked.body["top_k"]) == ("low", 7)
    assert form != read(json.dumps(BODY).encode())[1]
    spaced = json.dumps({"messages": ASK, "model": "small"}, indent=3).encode()
    assert read(spaced)[1] == read(json.dumps(BODY).encode())[1], "the same call, spelled differently"
    whole, stream = read(json.dumps(BODY).encode())[1], read(json.dumps(BODY | {"stream": True}).encode())[1]
    assert whole != stream, "a tape gives each as it was given"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'"\\ud800"', b'{"model": "\\u0000"}', b"[" * 40 + b"]" * 40,
        b"\xff", json.dumps(BODY | {"seed": 2**60}).encode(), json.dumps(BODY | {"messages": [7]}).encode(),
        json.dumps(BODY | {"messages": [{"content": "x"}]}).encode(), json.dumps(BODY | {"max_tokens": 0}).encode(),
        json.dumps(BODY | {"max_tokens": True}).encode(), json.dumps(BODY | {"stream": 1}).encode(),
        json.dumps(BODY | {"stream_options": {"include_usage": True}}).encode(), json.dumps({"model": "small"}).encode(),
        json.dumps(BODY | {"messages": ASK * 2_001}).encode(), json.dumps(BODY | {"tools": {}}).encode(),
    ],
)  # fmt: skip
async def test_nonsense_is_answered_in_the_clients_own_shape(house: House, body: bytes) -> None:
    life = await house.mission()
    url = f"/internal/v1/missions/{life.id}/openai/v1/chat/completions"
    answer = await house.world.inside.post(
        url, content=body, headers={"Authorization": f"Bearer {life.dispatch.gateway_token}"}
    )
    assert answer.status_code == 422 and answer.json()["error"]["code"] in ("validation", "malformed"), answer.text
    assert house.east.asked == [] and await house.calls(life) == []


async def test_too_much_is_too_large_and_a_bad_address_is_an_error_too(house: House) -> None:
    life = await house.mission()
    headers = {"Authorization": f"Bearer {life.dispatch.gateway_token}"}
    at = f"/internal/v1/missions/{life.id}/openai/v1/chat/completions"
    huge = await house.world.inside.post(at, content=b"x" * (4 * 1024 * 1024 + 1), headers=headers)
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "too_large")
    odd = await house.world.inside.post(at.replace(str(life.id), "nobody"), json=BODY, headers=headers)
    assert (odd.status_code, odd.json()["error"]["code"]) == (422, "validation")
    public = await house.world.submitter.post(at, json=BODY, headers=headers)
    assert public.status_code == 404, "the gateway is on the public port"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab ü{}:", max_size=12), min_size=1, max_size=6), st.integers(1, 40), st.booleans())
async def test_a_stream_reads_the_same_however_it_is_cut(said: list[str], size: int, windows: bool) -> None:
    end = "\r\n" if windows else "\n"
    text = "".join(f": a comment{end}event: x{end}data: {one}{end}{end}" for one in said).encode()

    async def parts() -> Any:
        for at in range(0, len(text), size):
            yield text[at : at + size]

    found = [one.decode() async for one in events(parts())]
    assert found == [one for one in said if one != ""]
