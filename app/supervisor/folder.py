"""The data folder: one supervisor at a time, and the ports and secrets that the next run takes up again."""

import base64
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.embedded import CannotStart, EmbeddedPostgres, hold, make_folder, read_private, write_private

USUAL_PORT = 8080  # the public door when nobody asked for another and it is free
PORTS = (
    "public", "internal", "metrics", "worker_metrics", "executor_metrics", "registrar", "registrar_metrics", "colony", "crm",
    "postgres",
)  # fmt: skip
DATABASE_ROLES = ("registrar", "api", "worker", "reader", "executor", "auditor")
PEOPLE = (
    "submitter",
    "operator",
    "second_operator",
    "auditor",
    "policy_owner",
    "release_owner",
    "product_owner",
    "admin",
)


@dataclass
class Folder:
    """An opened data folder. Two runs over it have the same secrets, and the same ports while these are free."""

    path: Path
    server: EmbeddedPostgres
    ports: dict[str, int]
    secrets: dict[str, Any]
    held: list[socket.socket] = field(default_factory=list)

    def let_go(self) -> None:
        """Gives the ports that were held up to here to the processes that serve on them."""
        while self.held:
            self.held.pop().close()

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def database_url(self, role: str) -> str:
        return self.server.url(f"mission_root_{role}", self.secrets["database_passwords"][role], "mission_root")

    def owner_url(self) -> str:
        return self.server.url("postgres", self.server.password(), "mission_root")


def open_folder(path: Path, public_port: int | None) -> Folder:
    """Take the folder for this process and settle its ports and secrets. Raises CannotStart."""
    path = path.absolute()
    make_folder(path)
    hold(path)  # until this process ends
    server = EmbeddedPostgres(path)
    server.claim()
    remembered = read_private(path / "instance.json").get("ports", {})
    doors = choose_doors(remembered, public_port)
    ports = {name: door.getsockname()[1] for name, door in doors.items()}
    doors.pop("postgres").close()  # the first to start
    write_private(path / "instance.json", {"ports": ports})
    server.use_port(ports["postgres"])
    return Folder(path, server, ports, settle_secrets(path / "secrets.json", server), list(doors.values()))


def known(path: Path) -> Folder:
    """A folder that was opened before, to read what it knows; nothing is locked, started or changed."""
    path = path.absolute()
    ports = read_private(path / "instance.json").get("ports", {})
    server = EmbeddedPostgres(path, ports.get("postgres", 0))
    return Folder(path, server, ports, read_private(path / "secrets.json"))


def choose_doors(remembered: dict[str, int], public: int | None) -> dict[str, socket.socket]:
    """A free port for every door: the asked one, else last time's, else any. CannotStart when asked and taken.

    All of them listen, so that nobody else is given one while the database is made ready.
    """
    doors: dict[str, socket.socket] = {}
    try:
        for name in PORTS:
            if name == "public" and public:
                wishes = [public]
            else:
                usual = [USUAL_PORT] if name == "public" else []
                wishes = [*([remembered[name]] if name in remembered else usual), 0]
            for wish in wishes:
                door = _listen(wish)
                if door:
                    doors[name] = door
                    break
            else:
                raise CannotStart(f"Port {public} on 127.0.0.1 is taken; choose another with --port.", 5)
    except CannotStart:
        for door in doors.values():
            door.close()
        raise
    return doors


def _listen(port: int) -> socket.socket | None:
    """None when it is taken."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind(("127.0.0.1", port))
        door.listen()
    except (OSError, OverflowError):
        door.close()
        return None
    return door


def settle_secrets(path: Path, server: EmbeddedPostgres) -> dict[str, Any]:
    """Everything secret of this instance, made up once and written down before anything uses it."""
    server.password()
    kept = read_private(path)
    passwords = {role: secrets.token_urlsafe(24) for role in DATABASE_ROLES}
    people = {name: f"mr_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}" for name in PEOPLE}
    fresh = {
        "colony_key": f"local:{secrets.token_urlsafe(32)}",
        "registrar_key": f"local:{secrets.token_urlsafe(32)}",
        "root_signing_key": f"local:{secrets.token_urlsafe(32)}",
        "drill_key": f"local:{secrets.token_urlsafe(32)}",
        "webhook_sealing_key": f"local:{secrets.token_urlsafe(32)}",
        "crm_read_token": secrets.token_urlsafe(32),
        "crm_write_token": secrets.token_urlsafe(32),
        "transfer_signing_key": f"local:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "anchor_signing_key": f"local:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    settled = {
        **fresh,
        **kept,
        "database_passwords": passwords | kept.get("database_passwords", {}),
        "api_keys": people | kept.get("api_keys", {}),
    }
    if settled != kept:
        write_private(path, settled)
    return settled
