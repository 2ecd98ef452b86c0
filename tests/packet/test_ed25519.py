"""The packet's own verification of signatures, against a library's: what one takes the other takes."""

import base64
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from app.canonical import sha256
from app.packet import offline
from app.signed import build_statement, sign

seeds = st.binary(min_size=32, max_size=32)


@settings(max_examples=25, deadline=None)
@given(seeds, st.binary(max_size=200), st.integers(0, 511), st.integers(0, 255))
def test_a_genuine_signature_holds_and_one_changed_bit_does_not(
    seed: bytes, message: bytes, bit: int, key_bit: int
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert offline.signed(public, signature, message)
    assert not offline.signed(public, flipped(signature, bit), message)
    assert not offline.signed(flipped(public, key_bit), signature, message)
    assert not offline.signed(public, signature, message + b"x")


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))


def test_known_answers() -> None:
    """RFC 8032, 7.1, tests 1 and 2."""
    for public, message, signature in (
        ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
        ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ):  # fmt: skip
        assert offline.signed(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message))


def test_what_is_no_signature_is_none() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"x")
    larger = (int.from_bytes(signature[32:], "little") + offline.Q).to_bytes(
        32, "little"
    )  # the same number, otherwise written
    for wrong in (b"", signature[:63], signature + b"0", signature[:32] + larger, bytes(64), b"\xff" * 64):
        assert not offline.signed(public, wrong, b"x")
    for none in (b"", public[:31], b"\xff" * 32, (2).to_bytes(32, "little")):
        assert not offline.signed(none, signature, b"x")


def test_a_signed_decision_is_verified_again() -> None:
    tenant, approval, approver, kid = (uuid4() for _ in range(4))
    digest, key = sha256(b"payload"), Ed25519PrivateKey.generate()
    text = sign(build_statement(tenant, approval, digest, "approve", approver), key, kid)
    public = {str(kid): key.public_key().public_bytes_raw().hex()}
    said = {"id": str(approval), "payload_sha256": digest.hex()}

    checked: list[str | None] = []

    def wrong(**more: object) -> str | None:
        decision = {"approver": str(approver), "verdict": "approve", "signature": text, "keys": public} | more
        try:
            checked.append(offline.check_signature("here", str(tenant), said, decision))
        except offline.Wrong as refused:
            return refused.what
        return None

    assert wrong() is None and wrong(signature=None) is None
    assert wrong(keys={}) is None  # revoked since: what it says is still compared
    assert checked == ["checked", None, "unchecked"]
    assert "another decision" in str(wrong(verdict="reject"))
    assert "another decision" in str(wrong(approver=str(uuid4()), keys={}))
    head, body, _ = text.split(".")
    other = base64.urlsafe_b64encode(bytes(64)).decode().rstrip("=")
    assert "not genuine" in str(wrong(signature=f"{head}.{body}.{other}"))
    assert "another form" in str(wrong(signature="a.b"))
