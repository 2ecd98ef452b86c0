"""`mission-root connectors …`: the business systems of the tenant, and stopping what is written to them."""

import json
from typing import Annotated, Any

import typer

from app.cli import declared, show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.declared import Definition, Reason

app = typer.Typer(
    help="Connected business systems: definitions, the halt switch, a look through one.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The connector's name.")]
Switched = Annotated[str, typer.Argument(metavar="NAME", help="The connector's name; '*' is all of them.")]


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All connectors, what they can do and whether they are halted."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/connectors", 10_000)
    emit({"items": items}) if as_json else show_connectors(items)


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One connector with its definition and its history."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/connectors/{segment(name)}").body
    emit(found) if as_json else show_connector(found)


@app.command()
def put(
    name: Name,
    file: Definition,
    check_only: Annotated[bool, typer.Option("--check-only", help="Check it and change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Put a definition: a new connector, or the next version of one. Takes the role admin."""
    with Client(url, api_key) as client:
        done = declared.put(client, f"/v1/connectors/{segment(name)}", file, check_only)
    emit(done) if as_json else show_put(done)


@app.command()
def retire(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Nothing is proposed for it or written to it any more. Takes the role admin."""
    with Client(url, api_key) as client:
        done = declared.retire(client, f"/v1/connectors/{segment(name)}")
    emit(done) if as_json else show_put(done)


@app.command()
def halt(name: Switched, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Stop writing to it. Takes the role operator or admin."""
    switch(name, "halt", reason, url, api_key, as_json)


@app.command()
def resume(name: Switched, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Write to it again. Takes the role admin."""
    switch(name, "resume", reason, url, api_key, as_json)


def switch(name: str, verb: str, reason: str, url: str, api_key: str, as_json: bool) -> None:
    with Client(url, api_key) as client:
        done = declared.switch(client, f"/v1/connectors/{segment(name)}", verb, reason)
    emit(done) if as_json else show_switched(done)


@app.command()
def check(
    name: Name,
    kind: Annotated[str, typer.Argument(help="The kind of record, such as lead.")],
    record: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Read one record with the read credential and show what is seen. Ends with 1 when nothing is."""
    with Client(url, api_key) as client:
        seen = client.post(f"/v1/connectors/{segment(name)}/check", {"kind": kind, "id": record}).body
    emit(seen) if as_json else show_record(seen)
    if not seen["ok"]:
        raise typer.Exit(1)


def show_connectors(items: list[dict[str, Any]]) -> None:
    table = show.rows("name", "kind", "version", "writes", "readable here", "hosts", "operations")
    for one in items:
        halted = "retired" if one["retired"] else "halted" if one["switch"]["halted"] else "on"
        operations = (one["capabilities"] or {}).get("operations", {})
        able = ", ".join(f"{kind}: {' '.join(verbs) or 'read'}" for kind, verbs in operations.items())
        table.add_row(
            show.visible(one["name"]),
            one["kind"],
            f"v{one['version']}",
            show.coloured(halted, "green" if halted == "on" else "red"),
            "yes" if one["readable"] else "no",
            show.visible(", ".join(one["hosts"])),
            show.visible(able),
        )
    show.out.print(table) if items else show.line("No connector yet: mission-root connectors put NAME FILE")


def show_connector(found: dict[str, Any]) -> None:
    able, switch = found["capabilities"] or {}, found["switch"]
    shown = {
        "connector": found["name"],
        "kind": found["kind"],
        "version": f"v{found['version']}, {found['created_at']}",
        "description": found["description"],
        "retired": "yes" if found["retired"] else "",
        "hosts": ", ".join(found["hosts"]),
        "read by": f"{found['read_by']}{'' if found['readable'] else ' (not possible here)'}",
        "record versions": able.get("version"),
        "once only": able.get("idempotency"),
        "verified": able.get("verify"),
        "operations": "; ".join(
            f"{kind}: {' '.join(verbs) or 'read'}" for kind, verbs in able.get("operations", {}).items()
        ),
        "credentials": "  ".join(found["credentials"].values()),
        "halted": show.coloured(f"since {switch['halted_at']}: {switch['reason'] or ''}", "red")
        if switch["halted"]
        else "",
        "earlier versions": declared.versions(found["history"]),
    }
    show.out.print(show.pairs(shown))
    show.heading("Definition")
    show.line(json.dumps(found["definition"], indent=2, ensure_ascii=False))


def show_put(done: dict[str, Any]) -> None:
    show.line(declared.outcome(done))
    if done["outcome"] != "retired" and done["credentials"]:
        show.aside(
            f"credentials: {done['credentials']['read']} for serve and worker, {done['credentials']['write']} for the executor"
        )


def show_switched(done: dict[str, Any]) -> None:
    show.line(
        f"{done['name']}: {done['outcome']}; {'nothing is written' if done['switch']['halted'] else 'writing goes on'}"
    )


def show_record(seen: dict[str, Any]) -> None:
    if not seen["ok"]:
        show.line(f"not read: {seen['problem']}")
        return
    show.out.print(show.pairs({"version": seen["version"], "read": f"{seen['age_s']} s ago, in {seen['took_ms']} ms"}))
    show.line(json.dumps(seen["fields"], indent=2, ensure_ascii=False))
