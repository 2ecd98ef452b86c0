"""The quick encoder and the RFC's own say the same, or the quick one leaves it to the other."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from colony_client.canonical import CanonicalizationError, canonical

TEXT = st.text(st.characters() | st.sampled_from("\x00\x1f\x7f\u2028\ue000\U0001f600\ud800"))
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**53, -(2**53), 2**53 - 1, -0.0, 1e-4, 9.9e-5, 1e16, 1e15, 1e21, 5e-324])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def outcome(dumps: Any, value: Any) -> Any:
    try:
        return dumps(value)
    except (CanonicalizationError, UnicodeEncodeError, ValueError) as refused:
        return type(refused)


@given(VALUES)
@example({"\ue000": 1, "\U0001f600": 2})
@example([1.0, -0.0, 0.1, 1e-5, 123456789012345680.0, 2.0**53, 9.5e15, 9007199254740993.0])
@example([9.5e15, 2.0**53])
@example({"a": float("nan")})
def test_both_say_the_same(value: Any) -> None:
    assert outcome(canonical, value) == outcome(rfc8785.dumps, value)


def test_what_is_written_can_be_read_again() -> None:
    value = {"b": [1, 2.5, None, True], "a": 'tab\t quote" back\\slash \u00e9'}
    assert canonical(value) == '{"a":"tab\\t quote\\" back\\\\slash \u00e9","b":[1,2.5,null,true]}'.encode()
    assert json.loads(canonical(value)) == value


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {1, 2}}, object(), b"bytes"])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalizationError):
        canonical(value)
