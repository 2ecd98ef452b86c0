import asyncio
from datetime import timedelta
from typing import Any

import pytest
from boundary_samples import KEYS, NOW, few
from hypothesis import given
from hypothesis import strategies as st

from colony_client import signing
from colony_client.errors import (
    SignatureExpired,
    SignatureMissing,
    SignatureRefused,
    SignatureReplayed,
    SignatureWrong,
    UnknownKey,
)

REQUEST: dict[str, Any] = {"method": "POST", "path": "/v1/missions?x=1", "body": b"{}", "audience": "colony"}
HEADERS = signing.sign(KEYS, **REQUEST, now=NOW)


def check(headers: dict[str, str] = HEADERS, keys: signing.Keys = KEYS, late_s: float = 0, **change: Any) -> Any:
    return signing.check(keys, **(REQUEST | change), headers=headers, now=NOW + timedelta(seconds=late_s))


def test_a_known_signature() -> None:
    """Computed by hand from the contract's sentence, so that another language can compare."""
    import hashlib
    import hmac

    keys = signing.parse_keys("k1:0123456789abcdef", "K")
    body = b'{"a":1}'
    text = f"mission-root-v1\nroot\nPOST\n/p?q=1\n1777863721\nnonce-nonce-nonce\n{hashlib.sha256(body).hexdigest()}"
    expected = hmac.new(b"0123456789abcdef", text.encode(), hashlib.sha256).hexdigest()
    assert NOW.timestamp() == 1777863721
    assert signing.sign(keys, "post", "/p?q=1", body, "root", now=NOW, nonce="nonce-nonce-nonce") == {
        "X-Colony-Key": "k1",
        "X-Colony-Timestamp": "1777863721",
        "X-Colony-Nonce": "nonce-nonce-nonce",
        "X-Colony-Signature": f"v1={expected}",
        "Colony-Contract-Version": "1.2",
    }


def test_the_secret_is_not_in_the_request_nor_in_the_keys_text() -> None:
    assert "correct-horse" not in str(HEADERS) + repr(KEYS)


@few
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.from_regex(r"/[!-~]{0,40}", fullmatch=True),
    body=st.binary(max_size=64),
    audience=st.sampled_from(["root", "colony"]),
)
def test_what_was_signed_is_accepted(**request: Any) -> None:
    headers = signing.sign(KEYS, **request, now=NOW)
    assert signing.check(KEYS, **request, headers=headers, now=NOW).kid == "k1"


@few
@given(
    st.one_of(
        st.fixed_dictionaries({"method": st.sampled_from(["GET", "PUT", "PATCH", "DELETE"])}),
        st.fixed_dictionaries({"path": st.from_regex(r"/[!-~]{0,40}", fullmatch=True)}),
        st.fixed_dictionaries({"body": st.binary(max_size=64)}),
        st.just({"audience": "root"}),
    )
)
def test_no_part_of_the_request_can_be_exchanged(change: dict[str, Any]) -> None:
    if (REQUEST | change) != REQUEST:
        with pytest.raises(SignatureWrong):
            check(**change)


@few
@given(
    st.one_of(
        st.tuples(st.just(signing.TIMESTAMP_HEADER), st.from_regex(r"[0-9]{10,11}", fullmatch=True)),
        st.tuples(st.just(signing.NONCE_HEADER), st.from_regex(r"[A-Za-z0-9_-]{16,64}", fullmatch=True)),
        st.tuples(st.just(signing.SIGNATURE_HEADER), st.from_regex(r"v1=[0-9a-f]{64}", fullmatch=True)),
        st.tuples(st.just(signing.KEY_HEADER), st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)),
        st.tuples(st.sampled_from(sorted(HEADERS)[1:]), st.text(max_size=80)),
    )
)
def test_no_header_can_be_exchanged(change: tuple[str, str]) -> None:
    name, value = change
    if HEADERS[name] != value:
        with pytest.raises(SignatureRefused):
            check(HEADERS | {name: value})


@pytest.mark.parametrize("name", sorted(HEADERS)[1:])
def test_every_signature_header_is_needed(name: str) -> None:
    assert name.startswith("X-Colony-")
    with pytest.raises(SignatureMissing):
        check({other: value for other, value in HEADERS.items() if other != name})


def test_the_window_is_five_minutes_to_either_side() -> None:
    assert check(late_s=300).expires_at == NOW + timedelta(minutes=5)
    check(late_s=-300)
    for late_s in (301, -301, 86_400):
        with pytest.raises(SignatureExpired):
            check(late_s=late_s)


def test_a_stranger_is_not_told_that_the_time_is_wrong() -> None:
    with pytest.raises(SignatureWrong):
        check(HEADERS | {signing.SIGNATURE_HEADER: "v1=" + "0" * 64}, late_s=10_000)


def test_unknown_keys_are_refused_after_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    real = signing.hmac.compare_digest

    def counted(one: str, two: str) -> bool:
        compared.append(one)
        return real(one, two)

    monkeypatch.setattr(signing.hmac, "compare_digest", counted)
    with pytest.raises(UnknownKey):
        check(HEADERS | {signing.KEY_HEADER: "k9"})
    assert len(compared) == 1


def test_keys_rotate_without_a_pause() -> None:
    old = signing.parse_keys("k0:staple-of-last-month", "K")
    new = signing.parse_keys("k1:correct-horse-battery", "K")
    assert check(signing.sign(old, **REQUEST, now=NOW)).kid == "k0"  # the receiver holds both
    assert signing.check(new, **REQUEST, headers=signing.sign(KEYS, **REQUEST, now=NOW), now=NOW).kid == "k1"
    with pytest.raises(UnknownKey):
        signing.check(new, **REQUEST, headers=signing.sign(old, **REQUEST, now=NOW), now=NOW)


def test_same_kid_other_secret() -> None:
    other = signing.parse_keys("k1:another-secret-entirely", "K")
    with pytest.raises(SignatureWrong):
        check(signing.sign(other, **REQUEST, now=NOW))


def test_a_nonce_is_good_once_and_forgeries_do_not_use_it_up() -> None:
    async def story() -> None:
        memory = signing.MemoryNonces()

        async def arrive(headers: dict[str, str]) -> str:
            return await signing.verify(KEYS, **REQUEST, headers=headers, first_use=memory.first_use, now=NOW)

        with pytest.raises(SignatureWrong):
            await arrive(HEADERS | {signing.SIGNATURE_HEADER: "v1=" + "0" * 64})
        assert await arrive(HEADERS) == "k1"
        with pytest.raises(SignatureReplayed):
            await arrive(HEADERS)
        assert await arrive(signing.sign(KEYS, **REQUEST, now=NOW)) == "k1"

    asyncio.run(story())


def test_memory_is_bounded_and_fails_closed() -> None:
    async def story() -> None:
        memory = signing.MemoryNonces(capacity=2)
        soon, later = NOW + timedelta(seconds=1), NOW + timedelta(seconds=9)
        assert await memory.first_use("a", soon, now=NOW)
        assert await memory.first_use("b", later, now=NOW)
        assert not await memory.first_use("c", later, now=NOW)
        assert await memory.first_use("c", later, now=NOW + timedelta(seconds=2))  # "a" is over
        assert not await memory.first_use("b", later, now=NOW + timedelta(seconds=2))

    asyncio.run(story())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "only-a-bare-secret-without-kid",
        ":secret-of-sixteen",
        "k 1:secret-of-sixteen",
        "k1:short",
        "k1:fifteen-letters",
        "k1:with spaces inside it",
        "k1:ümlaut-in-the-secret",
        "k1:correct-horse-battery,",
        "k1:correct-horse-battery,k1:another-secret-here",
        ",".join(f"k{n}:correct-horse-battery" for n in range(5)),
        "k1:" + "x" * 257,
    ],
)
def test_bad_keys_stop_with_one_sentence_that_names_the_variable(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        signing.parse_keys(text, "COLONY_SERVICE_API_KEY")
    sentence = str(refused.value)
    assert "COLONY_SERVICE_API_KEY" in sentence
    assert sentence.endswith(".") and sentence.count("\n") == 0
    for part in text.split(","):
        secret = part.partition(":")[2] or part
        assert len(secret) < 6 or secret not in sentence


def test_good_keys() -> None:
    keys = signing.parse_keys(" k2:colons:are:allowed:here , k1:correct-horse-battery", "K")
    assert keys.signing_kid == "k2"
    assert dict(keys.by_kid) == {"k2": b"colons:are:allowed:here", "k1": b"correct-horse-battery"}


def test_the_signed_path_is_the_one_on_the_wire() -> None:
    assert signing.signed_path({"raw_path": b"/a%20b", "path": "/a b", "query_string": b"x=%2F"}) == "/a%20b?x=%2F"
    assert signing.signed_path({"raw_path": b"/a", "path": "/a", "query_string": b""}) == "/a"
