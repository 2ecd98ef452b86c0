"""Makes up every secret that docker-compose.yml asks for, one NAME=value a line.

python3 deploy/secrets_for_compose.py > deploy/compose.env     (keep it: the database remembers the passwords)
"""

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
)
KEYS = ("COLONY_KEYS", "ROOT_SIGNING_KEY")


def made_up() -> dict[str, str]:
    """Passwords are of letters, digits, - and _ only, so that they can stand in a URL as they are."""
    return {name: secrets.token_urlsafe(32) for name in PASSWORDS} | {
        name: f"first:{secrets.token_urlsafe(32)}" for name in KEYS
    }


if __name__ == "__main__":
    for name, value in made_up().items():
        print(f"{name}={value}")
