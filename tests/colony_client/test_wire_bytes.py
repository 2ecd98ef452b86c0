import json
import time
from typing import Any

import pytest
from boundary_samples import NOW, few, json_values
from hypothesis import given
from hypothesis import strategies as st

from colony_client import contract as c
from colony_client.errors import BadBody
from colony_client.wire import read_json, read_model


@few
@given(json_values)
def test_good_json_is_read_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@few
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read_json(body)
    except BadBody as error:
        assert error.problems[0].code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{} {}", "not_json"),
        (b"<html>", "not_json"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'[{"x":{"a":1,"b":2,"a":3}}]', "duplicate_key"),
        (b"NaN", "number"),
        (b"[-Infinity]", "number"),
        (b"1e999", "number"),
        (b"1" * 5000, "number"),
        (b'"\\u0000"', "nul"),
        (b'{"a\\u0000b":1}', "nul"),
        (b'["\\ud800"]', "surrogate"),
        (b'"\xff"', "not_utf8"),
        ('"x"'.encode("utf-16"), "not_utf8"),
        (b"[" * 33 + b"]" * 33, "too_deep"),
        (b"[" * 5_000_000, "too_deep"),
        (b'{"a":' * 2_000, "too_deep"),
        (b"[" + b"[]," * 200_000 + b"0]", "too_many"),
        (b"[" + b"{}," * 2_000_000 + b"0]", "too_many"),
        (b'"' + b"x" * (8 * 1024 * 1024) + b'"', "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_bytes_are_refused_by_name(body: bytes, code: str) -> None:
    with pytest.raises(BadBody) as refused:
        read_json(body)
    assert [problem.code for problem in refused.value.problems] == [code]


def test_brackets_in_texts_are_not_depth() -> None:
    value = {"a": "[{" * 100 + '\\"[[' * 50, "b\\": ["]" * 99]}
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize("filler", [b'\\"', b"\\\\", b'"', b'["', b"{[\\"])
def test_depth_is_measured_in_linear_time(filler: bytes) -> None:
    body = b"[" * 33 + b'"' + filler * (2_000_000 // len(filler))
    started = time.monotonic()
    with pytest.raises(BadBody):
        read_json(body)
    assert time.monotonic() - started < 5


def test_problems_point_at_the_field() -> None:
    at = NOW.isoformat()
    events = [
        {"type": "log", "seq": 1, "at": at, "level": "info", "message": "fine"},
        {"type": "stage.started", "seq": 2, "at": at, "stage": "cook", "a/b~": 1},
        {"type": "log", "seq": 3, "at": at, "level": "info"},
        {"type": "no.such", "seq": 4, "at": at},
        {"type": "log", "seq": "5", "at": 5, "level": "info", "message": "types are not converted"},
    ]
    with pytest.raises(BadBody) as refused:
        read_model(c.EventBatch, json.dumps({"attempt": True, "events": events}).encode())
    assert {(problem.pointer, problem.code) for problem in refused.value.problems} == {
        ("/attempt", "int_type"),
        ("/events/1/stage", "literal_error"),
        ("/events/1/a~1b~0", "extra_forbidden"),
        ("/events/2/message", "missing"),
        ("/events/3", "union_tag_invalid"),
        ("/events/4/seq", "int_type"),
        ("/events/4/at", "datetime_type"),
    }


def test_problems_are_few_and_short_and_keep_the_values_to_themselves() -> None:
    secret = "hunter2" * 100
    events = [{"type": secret, "seq": secret, "x" * 5000: 1}] * 500
    with pytest.raises(BadBody) as refused:
        read_model(c.EventBatch, json.dumps({"attempt": secret, "events": events}).encode())
    assert len(refused.value.problems) == 20
    assert max(len(problem.pointer + problem.detail) for problem in refused.value.problems) <= 600
    assert "hunter2" not in refused.value.problems[0].detail


def test_unknown_members_are_refused_in_questions_and_dropped_from_answers() -> None:
    body = json.dumps(
        {"ready": True, "later": 1, "providers": {"search": {"state": "ok", "detail": None, "since": "noon"}}}
    ).encode()
    with pytest.raises(BadBody) as refused:
        read_model(c.Ready, body)
    assert {problem.pointer for problem in refused.value.problems} == {"/later", "/providers/search/since"}
    assert read_model(c.Ready, body, unknown="ignore").providers["search"].state == "ok"


nested = st.recursive(
    st.just(1) | st.text('[]{}\\"', max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}\\"', max_size=2), inner),
)


@few
@given(nested, st.integers(0, 4))
def test_the_depth_is_that_of_the_brackets_outside_of_strings(value: Any, limit: int) -> None:
    body = json.dumps(value).encode()
    if depth_of(value) > limit:
        with pytest.raises(BadBody):
            read_json(body, max_depth=limit)
    else:
        assert read_json(body, max_depth=limit) == value


def depth_of(value: Any) -> int:
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)
