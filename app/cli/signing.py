"""Signing a decision with a key that never leaves this machine."""

from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from app.cli.client import Failed

Verdict = Literal["approve", "reject"]


def sign(file: Path, seen: dict[str, Any], decision: Verdict, payload_sha256: str) -> str:
    """A signature of this decision, made here with a key that never leaves the machine.

    The hash is taken from the bytes that were shown, so that a root that lies about it gets no signature for them.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from app import signed
    from app.canonical import canonical, sha256

    if seen["subject"] == "writeback" and sha256(canonical(seen["payload"])).hex() != payload_sha256:
        raise Failed("What is shown does not have this hash: nothing was signed.", 5)
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise Failed(f"{file} is no signing key that can be read: {error}", 2) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Failed(f"{file} is not an Ed25519 key; `mission-root approvers new-key` makes one.", 2)
    public, said = signed.public_bytes(key).hex(), seen["signing"]
    registered = next((one["id"] for one in said["keys"] if one["public_key"] == public), None)
    if registered is None:
        raise Failed("This key is not registered for you: see `mission-root approvers request-key`.", 4)
    statement = signed.build_statement(
        UUID(said["tenant"]), UUID(seen["id"]), bytes.fromhex(payload_sha256), decision, UUID(said["approver"])
    )
    return signed.sign(statement, key, UUID(registered))
