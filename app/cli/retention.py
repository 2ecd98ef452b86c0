"""`mission-root retention …` and `mission-root holds …`: how long bytes are kept, and what keeps them longer."""

import json
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import JSON, ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.lists import Limit
from app.cli.lists import listed as listed_as

app = typer.Typer(help="How long the bytes of closed missions are kept.", no_args_is_help=True)
holds = typer.Typer(help="Legal holds: while one stands nothing of what it names is removed.", no_args_is_help=True)

CLASSES = ("public", "internal", "confidential", "restricted", "unread")
Days = Annotated[str, typer.Option(help="Days after a mission's end, or none for good; left out: as it is.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in words for whoever reads the list.")]


@app.command("show")
def shown(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The times that are set, and those that count now."""
    with Client(url, api_key) as client:
        found = client.get("/v1/retention").body
    emit(found) if as_json else times(found)


@app.command("set")
def changed(
    public: Days = "",
    internal: Days = "",
    confidential: Days = "",
    restricted: Days = "",
    unread: Days = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Change some times; the others stay. A shorter one counts after a week. Needs an admin's or policy owner's key."""
    said = {"public": public, "internal": internal, "confidential": confidential, "restricted": restricted}
    given = {f"{name}_days": number(name, value) for name, value in (said | {"unread": unread}).items() if value}
    if not given:
        raise Failed("Say which time to change, such as --restricted 30 or --restricted none.", 2)
    with Client(url, api_key) as client:
        seen = client.get("/v1/retention")
        body = {f"{name}_days": seen.body[f"{name}_days"] for name in CLASSES} | given
        made = client.put("/v1/retention", body, if_match=seen.etag).body
    emit(made) if as_json else times(made)


def number(name: str, value: str) -> int | None:
    if value.lower() == "none":
        return None
    try:
        return int(value)
    except ValueError:
        raise Failed(f"--{name} takes a number of days or none, not {value}.", 2) from None


def times(found: dict[str, Any]) -> None:
    table = show.rows("class", "days", "counted now")
    for name in CLASSES:
        cells = (found[f"{name}_days"], found["counted"][f"{name}_days"])
        table.add_row(name, *("for good" if days is None else str(days) for days in cells))
    show.out.print(table)
    show.line(f"Version {found['version']}" + (f", set at {found['set_at']}." if found["set_at"] else ": as shipped."))


@holds.command("list")
def listed(
    state: Annotated[str, typer.Option("--state", help="standing or lifted; left out: both.")] = "",
    limit: Limit = 200,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Holds by name."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/legal-holds", limit, state=state)
    listed_as(
        items, as_json, ("name", "state", "holds", "since", "reason"),
        lambda one: (one["name"], one["state"], what(one), one["placed_at"][:16], one["reason"]),
        "There are no holds.",
    )  # fmt: skip


@holds.command("place")
def placed(
    name: Annotated[str, typer.Argument(help="Such as a case number; used once.")],
    reason: Reason,
    mission: Annotated[str, typer.Option("--mission", help="Hold one mission, by its id.")] = "",
    label: Annotated[str, typer.Option("--label", help="Hold every mission with this name:value.")] = "",
    everything: Annotated[bool, typer.Option("--tenant", help="Hold all of the tenant.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """From now on nothing of it is removed. Needs the key of an admin, a policy owner or an auditor."""
    if [bool(mission), bool(label), everything].count(True) != 1:
        raise Failed("Say what to hold: --mission ID, --label NAME:VALUE or --tenant.", 2)
    body: dict[str, Any] = {"scope": "tenant", "reason": reason}
    if mission:
        body |= {"scope": "mission", "mission_id": mission}
    if label:
        body |= {"scope": "label", "label": label}
    with Client(url, api_key) as client:
        made = client.put(f"/v1/legal-holds/{segment(name)}", body).body
    emit(made) if as_json else show.line(f"{made['name']} holds {what(made)}.")


@holds.command("lift")
def lifted(
    name: Annotated[str, typer.Argument(help="The hold's name.")],
    reason: Reason,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """End a hold; it takes another person than the one who placed it, an admin or a policy owner."""
    with Client(url, api_key) as client:
        body = json.dumps({"reason": reason}).encode()
        made = client.call("DELETE", f"/v1/legal-holds/{segment(name)}", body, {"Content-Type": JSON}).body
    emit(made) if as_json else show.line(f"{made['name']} is lifted.")


def what(hold: dict[str, Any]) -> str:
    return hold["label"] or (f"mission {hold['mission_id']}" if hold["mission_id"] else "the whole tenant")
