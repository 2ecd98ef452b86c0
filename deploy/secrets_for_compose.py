"""Makes up every secret that docker-compose.yml asks for, one NAME=value a line.

python3 deploy/secrets_for_compose.py > deploy/compose.env     (keep it: the database remembers the passwords)
"""

import base64
import hashlib
import secrets

PASSWORDS = (
    "POSTGRES_PASSWORD",
    "API_DATABASE_PASSWORD",
    "READER_DATABASE_PASSWORD",
    "WORKER_DATABASE_PASSWORD",
    "EXECUTOR_DATABASE_PASSWORD",
    "REGISTRAR_DATABASE_PASSWORD",
    "CRM_READ_TOKEN",
    "CRM_WRITE_TOKEN",
    "GRAFANA_PASSWORD",
)
KEYS = ("COLONY_KEYS", "ROOT_SIGNING_KEY", "REGISTRAR_KEY", "WEBHOOK_SEALING_KEY")


def made_up() -> dict[str, str]:
    """Passwords are of letters, digits, - and _ only, so that they can stand in a URL as they are."""
    seed = secrets.token_bytes(32)
    anchors = {"ANCHOR_SIGNING_KEY": seed, "ANCHOR_PUBLIC_KEYS": public_half(seed)}
    return (
        {name: secrets.token_urlsafe(32) for name in PASSWORDS}
        | {name: f"first:{secrets.token_urlsafe(32)}" for name in KEYS}
        | {name: f"first:{base64.b64encode(value).decode()}" for name, value in anchors.items()}
    )


def public_half(seed: bytes) -> bytes:
    """The Ed25519 public key of a seed (RFC 8032, 5.1.5), in plain Python: the host that runs this need have nothing else."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & (2**254 - 8) | 2**254
    y = 4 * pow(5, -1, p) % p
    x = 15112221349535400772501151409588531511454012693041857206046113283949847762202
    point, found = (x, y), (0, 1)
    while scalar:
        if scalar & 1:
            found = added(found, point, d, p)
        point, scalar = added(point, point, d, p), scalar >> 1
    return (found[1] | (found[0] & 1) << 255).to_bytes(32, "little")


def added(one: tuple[int, int], other: tuple[int, int], d: int, p: int) -> tuple[int, int]:
    """The sum of two points of the curve -x² + y² = 1 + dx²y² modulo p."""
    (a, b), (e, f) = one, other
    t = d * a * e * b * f % p
    return (a * f + b * e) * pow(1 + t, -1, p) % p, (b * f + a * e) * pow(1 - t, -1, p) % p


if __name__ == "__main__":
    for name, value in made_up().items():
        print(f"{name}={value}")
