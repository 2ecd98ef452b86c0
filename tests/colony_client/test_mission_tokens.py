import base64
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from boundary_samples import KEYS, MISSION, NOW, OTHER, TENANT, few
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from colony_client import signing, tokens
from colony_client.contract import Token
from colony_client.errors import (
    TokenExpired,
    TokenMalformed,
    TokenRefused,
    TokenWrong,
    TokenWrongAttempt,
    TokenWrongAudience,
    TokenWrongMission,
)

MADE: dict[str, Any] = {"mission": MISSION, "tenant": TENANT, "attempt": 2, "fence": 7, "audience": "callback"}
TOKEN = tokens.issue(KEYS, **MADE, now=NOW)


def verify(token: str = TOKEN, keys: signing.Keys = KEYS, late_s: float = 0, **change: Any) -> tokens.MissionToken:
    return tokens.verify(keys, token, **(MADE | change), now=NOW + timedelta(seconds=late_s))


@few
@given(st.uuids(), st.uuids(), st.integers(1, 2**40), st.integers(0, 2**62), st.sampled_from(["callback", "gateway"]))
def test_a_token_says_what_it_was_made_for(mission: UUID, tenant: UUID, attempt: int, fence: int, door: Any) -> None:
    made: dict[str, Any] = {"mission": mission, "tenant": tenant, "attempt": attempt, "fence": fence, "audience": door}
    token = tokens.issue(KEYS, **made, now=NOW)
    assert TypeAdapter(Token).validate_python(token) == token
    said = tokens.verify(KEYS, token, **made, now=NOW)
    assert said == tokens.MissionToken(mission, tenant, attempt, fence, door, NOW + timedelta(minutes=15))
    assert tokens.read(KEYS, token, audience=door, now=NOW) == said


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mission": OTHER}, TokenWrongMission),
        ({"tenant": OTHER}, TokenWrongMission),
        ({"attempt": 1}, TokenWrongAttempt),
        ({"attempt": 3}, TokenWrongAttempt),
        ({"fence": 8}, TokenWrongAttempt),
        ({"fence": 0}, TokenWrongAttempt),
        ({"audience": "gateway"}, TokenWrongAudience),
        ({"late_s": 900}, TokenExpired),
        ({"late_s": 86_400}, TokenExpired),
    ],
)
def test_a_token_opens_nothing_else(change: dict[str, Any], error: type[Exception]) -> None:
    assert verify(late_s=899).attempt == 2
    with pytest.raises(error):
        verify(**change)


def test_the_attempt_may_be_compared_later() -> None:
    assert tokens.verify(KEYS, TOKEN, audience="callback", mission=MISSION, now=NOW).fence == 7


@few
@given(st.integers(0, len(TOKEN) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_letter_of_a_token_can_be_changed(index: int, letter: str) -> None:
    forged = TOKEN[:index] + letter + TOKEN[index + 1 :]
    if forged != TOKEN:
        with pytest.raises((TokenWrong, TokenMalformed)):
            verify(forged)


@few
@given(st.text(max_size=300) | st.from_regex(r"mt1\.k1\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{43}", fullmatch=True))
def test_invented_tokens_are_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(token)


@pytest.mark.parametrize(
    "token", ["", "mt1", "...", TOKEN + ".", TOKEN + "=", " " + TOKEN, "mt1." + "a" * 5_000, "é" * 4]
)
def test_odd_forms(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(token)


def test_claims_under_another_key_are_refused() -> None:
    thief = signing.parse_keys("k1:the-thief-s-own-secret", "K")
    with pytest.raises(TokenWrong):
        verify(tokens.issue(thief, **MADE, now=NOW))
    with pytest.raises(TokenWrong):
        verify(tokens.issue(signing.parse_keys("k9:correct-horse-battery", "K"), **MADE, now=NOW))


def test_a_cursor_signed_with_the_same_key_is_no_token() -> None:
    head = TOKEN.rpartition(".")[0]
    mac = base64.urlsafe_b64encode(KEYS.mac("k1", head.encode())).rstrip(b"=").decode()
    with pytest.raises(TokenWrong):
        verify(f"{head}.{mac}")


def test_keys_rotate() -> None:
    old = signing.parse_keys("k0:staple-of-last-month", "ROOT_SIGNING_KEY")
    before = tokens.issue(old, **MADE, now=NOW)
    assert verify(before, KEYS).attempt == 2
    with pytest.raises(TokenWrong):
        verify(TOKEN, old)


@pytest.mark.parametrize("ttl_s", [0, -1, 901])
def test_no_token_lives_longer_than_a_quarter_of_an_hour(ttl_s: int) -> None:
    with pytest.raises(ValueError, match="1 to 900"):
        tokens.issue(KEYS, **MADE, ttl_s=ttl_s, now=NOW)
