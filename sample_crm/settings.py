"""The CRM's environment contract."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SHORTEST_TOKEN = 16


class BadSetting(ValueError):
    """One sentence that names the setting and what is wrong with it."""


@dataclass(frozen=True)
class Settings:
    port: int
    data: Path
    read_token: str = field(repr=False)
    write_token: str = field(repr=False)
    host: str = "127.0.0.1"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Reads CRM_PORT, CRM_DATA, CRM_READ_TOKEN, CRM_WRITE_TOKEN and, for containers, CRM_HOST. Raises BadSetting."""

    def required(name: str) -> str:
        value = environment.get(name, "").strip()
        if not value:
            raise BadSetting(f"{name} is not set.")
        return value

    port = required("CRM_PORT")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise BadSetting(f"CRM_PORT must be a port between 1 and 65535, not {port!r}.")
    settings = Settings(
        port=int(port),
        data=Path(required("CRM_DATA")),
        read_token=required("CRM_READ_TOKEN"),
        write_token=required("CRM_WRITE_TOKEN"),
        host=environment.get("CRM_HOST", "").strip() or "127.0.0.1",
    )
    for name, token in (("CRM_READ_TOKEN", settings.read_token), ("CRM_WRITE_TOKEN", settings.write_token)):
        if len(token) < SHORTEST_TOKEN or not token.isascii():
            raise BadSetting(f"{name} must be at least {SHORTEST_TOKEN} ASCII characters long.")
    if settings.read_token == settings.write_token:
        raise BadSetting("CRM_READ_TOKEN and CRM_WRITE_TOKEN must differ, or reading would allow writing.")
    return settings
