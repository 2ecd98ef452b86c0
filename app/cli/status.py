"""`mission-root status`: every component's state, and what its absence means."""

from typing import Any

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit


def status(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """How the service is: components, and missions that nothing would move any more. Exit code 1 unless all is well."""
    with Client(url, api_key) as client:
        found = client.get("/v1/status").body
    emit(found) if as_json else shown(found)
    if found["status"] != "ok":
        raise Failed(f"The service is {found['status']}.", 1)


def shown(found: dict[str, Any]) -> None:
    show.line(f"{found['environment']}: {found['status']}")
    rows = [
        (one["name"], one["state"], one.get("since") or "", one.get("detail") or "", one.get("effect") or "")
        for one in found["components"]
    ]
    show.table(("component", "state", "since", "detail", "effect"), rows)
    for one in found["violators"]:
        show.line(f"nothing moves mission {one['mission_id']}: mission-root explain {one['mission_id']}")
