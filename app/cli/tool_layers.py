"""`mission-root tool-layers …`: the tools that missions may be given beside the root's own."""

import json
from typing import Annotated, Any

import typer

from app.cli import declared, show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.declared import Definition, Reason

app = typer.Typer(
    help="Layers of tools from MCP servers: registering, a look at the server, switching off.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The layer's name.")]
Switched = Annotated[str, typer.Argument(metavar="NAME", help="The layer's name; '*' is all of them.")]


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All layers: whose they are, how they fare, how much they are used."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/tool-layers", 10_000)
    emit({"items": items}) if as_json else show_layers(items)


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One layer with its tools, its definition and its history."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/tool-layers/{segment(name)}").body
    emit(found) if as_json else show_layer(found)


@app.command()
def put(
    name: Name,
    file: Definition,
    check_only: Annotated[bool, typer.Option("--check-only", help="Check it, ask the server, change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Register a layer, or its next version: its server is asked for its tools, and their schemas are pinned."""
    with Client(url, api_key) as client:
        done = declared.put(client, f"/v1/tool-layers/{segment(name)}", file, check_only)
    emit(done) if as_json else show_put(done)


@app.command()
def retire(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Its tools are called no more. Takes the role admin."""
    with Client(url, api_key) as client:
        done = declared.retire(client, f"/v1/tool-layers/{segment(name)}")
    emit(done) if as_json else show_put(done)


@app.command()
def halt(name: Switched, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Switch its tools off. Takes the role operator or admin."""
    switch(name, "halt", reason, url, api_key, as_json)


@app.command()
def resume(name: Switched, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Switch its tools on again. Takes the role admin."""
    switch(name, "resume", reason, url, api_key, as_json)


def switch(name: str, verb: str, reason: str, url: str, api_key: str, as_json: bool) -> None:
    with Client(url, api_key) as client:
        done = declared.switch(client, f"/v1/tool-layers/{segment(name)}", verb, reason)
    emit(done) if as_json else show_switched(done)


@app.command()
def check(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Ask its server for its tools, and compare them with what was registered. Ends with 1 when they differ."""
    with Client(url, api_key) as client:
        seen = client.post(f"/v1/tool-layers/{segment(name)}/check", {}).body
    emit(seen) if as_json else show_checked(seen)
    if not seen["ok"]:
        raise typer.Exit(1)


STATES = {
    "healthy": "green",
    "unknown": "yellow",
    "failing": "red",
    "drifted": "red",
    "halted": "red",
    "retired": "dim",
}


def show_layers(items: list[dict[str, Any]]) -> None:
    table = show.rows("name", "version", "owner", "state", "tools", "calls", "refused", "last failure")
    for one in items:
        failure = f"{one['failure']} {one['failed_at']}" if one["failure"] else ""
        table.add_row(
            show.visible(one["name"]),
            f"v{one['version']}",
            show.visible(one["owner"]),
            show.coloured(one["state"], STATES[one["state"]]),
            show.visible(", ".join(tool["name"].partition(".")[2] for tool in one["tools"])),
            str(one["calls"]),
            str(one["refusals"]),
            failure,
        )
    show.out.print(table) if items else show.line("No layer of tools yet: mission-root tool-layers put NAME FILE")


def show_layer(found: dict[str, Any]) -> None:
    switch = found["switch"]
    shown = {
        "layer": found["name"],
        "owner": found["owner"],
        "version": f"v{found['version']}, {found['created_at']}",
        "description": found["description"],
        "state": show.coloured(found["state"], STATES[found["state"]]),
        "server": f"{found['place']} ({found['transport']})",
        "key": found["key"],
        "answered": found["answered_at"],
        "last failure": f"{found['failure']} {found['failed_at']}" if found["failure"] else "",
        "drifted": show.coloured(f"{', '.join(found['drifted'])} since {found['drifted_at']}", "red")
        if found["drifted"]
        else "",
        "breaker": found["breaker"]["state"],
        "used": f"{found['calls']} calls, {found['refusals']} refused",
        "halted": show.coloured(f"since {switch['halted_at']}: {switch['reason'] or ''}", "red")
        if switch["halted"]
        else "",
        "earlier versions": declared.versions(found["history"]),
    }
    show.out.print(show.pairs(shown))
    table = show.rows("tool", "access", "reach", "sees up to", "becomes", "schema", "description")
    for tool in found["tools"]:
        becomes = tool["becomes"]
        table.add_row(
            tool["name"],
            tool["access"],
            tool["reach"],
            tool["sensitivity"],
            f"{becomes['operation']} {becomes['kind']} in {becomes['connector']}" if becomes else "",
            show.coloured(tool["schema_sha256"][:12], "red" if tool["drifted"] else ""),
            show.visible(tool["description"][:80]),
        )
    show.out.print(table)
    show.heading("Definition")
    show.line(json.dumps(found["definition"], indent=2, ensure_ascii=False))


def show_put(done: dict[str, Any]) -> None:
    show.line(declared.outcome(done))
    for tool, digest in done["schemas"].items():
        show.line(f"  {tool}  schema {digest}")
    if done["key"]:
        show.aside(f"key: {done['key']} for serve and worker")


def show_switched(done: dict[str, Any]) -> None:
    show.line(f"{done['name']}: {done['outcome']}; its tools are {'refused' if done['switch']['halted'] else 'called'}")


def show_checked(seen: dict[str, Any]) -> None:
    show.line("as registered" if seen["ok"] else f"not as registered: {seen['problem']}")
    for tool in seen["tools"]:
        show.line(f"  {tool['name']}  {tool['outcome']}")
    others = set(seen["offered"])
    if others:
        show.aside(f"the server offers {len(others)} tools: {', '.join(sorted(others)[:40])}")
