"""Tokens of a provider that a test is itself: keys of our own, a JWKS document, and tokens with anything in them."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.clock import now

ISSUER, AUDIENCE = "https://id.example", "mission-root"
RSA, FOREIGN = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, Any] = {"rsa": RSA, "ec": EC, "ed": ED}
ALGORITHM = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


def jwks() -> list[dict[str, Any]]:
    published = [
        {"kid": "rsa", "use": "sig", "alg": "RS256", **RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)},
        {"kid": "ec", **ECAlgorithm.to_jwk(EC.public_key(), as_dict=True)},
        {"kid": "ed", **OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True)},
        {"kid": "sealing", "use": "enc", **RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)},
        {"kid": "shared", "kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")},
    ]
    for one in published:
        one.pop("key_ops", None)
    return published


class Provider:
    """Answers as the provider's web server would; keys and failures are a test's to change."""

    def __init__(self) -> None:
        self.keys, self.calls, self.down, self.issuer = jwks(), 0, False, ISSUER
        self.answer: Callable[[httpx.Request], httpx.Response] | None = None
        self.transport = httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.down:
            raise httpx.ConnectError("down", request=request)
        if self.answer:
            return self.answer(request)
        if request.url.path.endswith("openid-configuration"):
            return httpx.Response(200, json={"issuer": self.issuer, "jwks_uri": f"{ISSUER}/keys"})
        return httpx.Response(200, json={"keys": self.keys})


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says; None takes a claim away."""
    moment = int(now().timestamp())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "iat": moment, "exp": moment + 600} | changed
    return {name: value for name, value in said.items() if value is not None}


def token(key: str = "rsa", headers: dict[str, Any] | None = None, **changed: Any) -> str:
    head = {"kid": key, "typ": "at+jwt"} | (headers or {})
    return jwt.encode(
        claims(**changed), KEYS[key], ALGORITHM[key], headers={k: v for k, v in head.items() if v is not None}
    )


def b64(said: Any) -> str:
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], body: Any, sign: Callable[[bytes], bytes] = lambda _: b"") -> str:
    """A token that no library would make."""
    text = f"{b64(header)}.{b64(body)}"
    return f"{text}.{b64(sign(text.encode()))}"


def with_shared_secret(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.new(secret, text, hashlib.sha256).digest()
