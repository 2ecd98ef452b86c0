"""What is a signature of a decision, and what only looks like one."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import signed
from app.signed import build_statement, decode, encode, public_bytes, sign, signers, verify

TENANT, APPROVAL, APPROVER, KEY = (UUID(int=number) for number in (1, 2, 3, 4))
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATEMENT = build_statement(TENANT, APPROVAL, bytes(32), "approve", APPROVER)
KEYS = {str(KEY): public_bytes(PRIVATE)}


def test_a_statement_is_canonical_and_says_all_that_it_binds() -> None:
    assert STATEMENT == (
        b'{"approval":"00000000-0000-0000-0000-000000000002","approver":"00000000-0000-0000-0000-000000000003",'
        b'"decided_for":"mission-root","payload_sha256":"'
        + b"0"
        * 64
        + b'","tenant":"00000000-0000-0000-0000-000000000001",'
        b'"verdict":"approve"}'
    )


def test_a_signature_is_a_compact_jws_that_others_can_read() -> None:
    import jwt

    made = sign(STATEMENT, PRIVATE, KEY)
    assert verify(made, STATEMENT, KEYS)
    assert jwt.api_jws.PyJWS().decode(made, PRIVATE.public_key(), algorithms=["EdDSA"]) == STATEMENT
    assert jwt.get_unverified_header(made) == {"alg": "EdDSA", "kid": str(KEY), "typ": "mission-root-decision+jws"}


@pytest.mark.parametrize("changed", ["tenant", "approval", "payload", "verdict", "approver"])
def test_it_is_bound_to_everything_it_says(changed: str) -> None:
    said: dict[str, Any] = {
        "tenant": TENANT, "approval": APPROVAL, "payload_sha256": bytes(32), "verdict": "approve", "approver": APPROVER,
    }  # fmt: skip
    other = {"payload": ("payload_sha256", b"\x01" * 32), "verdict": ("verdict", "reject")}
    name, value = other.get(changed, (changed, uuid4()))
    statement = build_statement(**(said | {name: value}))
    assert statement != STATEMENT
    assert not verify(sign(statement, PRIVATE, KEY), STATEMENT, KEYS)
    assert not verify(sign(STATEMENT, PRIVATE, KEY), statement, KEYS)


def with_header(**header: Any) -> str:
    head = encode(json.dumps({"alg": "EdDSA", "kid": str(KEY), "typ": signed.TYPE} | header).encode())
    text = f"{head}.{encode(STATEMENT)}"
    return f"{text}.{encode(PRIVATE.sign(text.encode()))}"


def test_what_only_looks_like_a_signature_is_none() -> None:
    made = sign(STATEMENT, PRIVATE, KEY)
    head, body, mark = made.split(".")
    assert verify(with_header(), STATEMENT, KEYS)
    flipped = bytearray(decode(mark))
    flipped[0] ^= 1
    for wrong in (
        "", "..", "a.b.c", head, f"{head}.{body}", f"{made}.", f"{made}=", f"{head}.{body}.", f"{head}.{body}.{encode(bytes(64))}",
        f"{head}.{body}.{encode(bytes(flipped))}", f"{head}=.{body}.{mark}", f"{head}.{body}\n.{mark}", f" {made}", f"{made} ",
         f"{head}.{encode(STATEMENT + b' ')}.{mark}",
        with_header(alg="none"), with_header(alg="HS256"), with_header(typ="JWT"), with_header(kid=str(uuid4())), with_header(kid=None),
        with_header(crit=["b64"]), with_header(jwk={"kty": "OKP"}), f"{encode(b'[]')}.{body}.{mark}", f"{encode(b'x')}.{body}.{mark}",
        f"{encode(bytes([255]))}.{body}.{mark}", "é.é.é", "\x00" * 10,
    ):  # fmt: skip
        assert not verify(wrong, STATEMENT, KEYS), wrong
    assert not verify(made, STATEMENT, {})
    assert not verify(made, STATEMENT, {str(KEY): bytes(32)})
    assert not verify(made, STATEMENT, {str(KEY): b"short"})


def test_only_distinct_approvers_who_signed_are_counted() -> None:
    made = sign(STATEMENT, PRIVATE, KEY)
    decision = {
        "approver": str(APPROVER),
        "verdict": "approve",
        "signature": made,
        "keys": {str(KEY): KEYS[str(KEY)].hex()},
    }
    assert signers(TENANT, APPROVAL, bytes(32), [decision, decision]) == {APPROVER}
    assert signers(TENANT, APPROVAL, b"\x01" * 32, [decision]) == frozenset()
    assert signers(TENANT, APPROVAL, bytes(32), [decision | {"approver": str(uuid4())}]) == frozenset()
    assert signers(TENANT, APPROVAL, bytes(32), [decision | {"keys": {}}]) == frozenset()
