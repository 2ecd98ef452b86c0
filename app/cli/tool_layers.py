"""`mission-root tool-layers …`: the tools that missions may be given beside the root's own."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment

app = typer.Typer(
    help="Layers of tools from MCP servers: registering, a look at the server, switching off.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The layer's name.")]
Switched = Annotated[str, typer.Argument(metavar="NAME", help="The layer's name; '*' is all of them.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the switch.")]
YAML = (".yaml", ".yml")


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All layers: whose they are, how they fare, how much they are used."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/tool-layers", 10_000)
    emit({"items": items}) if as_json else show.tool_layers(items)


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One layer with its tools, its definition and its history."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/tool-layers/{segment(name)}").body
    emit(found) if as_json else show.tool_layer(found)


@app.command()
def put(
    name: Name,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The definition, YAML or JSON.")
    ],
    check_only: Annotated[bool, typer.Option("--check-only", help="Check it, ask the server, change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Register a layer, or its next version: its server is asked for its tools, and their schemas are pinned."""
    path = f"/v1/tool-layers/{segment(name)}"
    kind = "application/yaml" if file.suffix in YAML else "application/json"
    with Client(url, api_key) as client:
        try:
            seen = client.get(path).etag
        except Failed as missing:
            if missing.exit_code != 3:
                raise
            seen = ""
        asked = {"validate_only": "true"} if check_only else {}
        done = client.call("PUT", path, file.read_bytes(), {"If-Match": seen, "Content-Type": kind}, asked).body
    emit(done) if as_json else show.put_tool_layer(done)


@app.command()
def retire(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Its tools are called no more. Takes the role admin."""
    path = f"/v1/tool-layers/{segment(name)}"
    with Client(url, api_key) as client:
        done = client.call("DELETE", path, headers={"If-Match": client.get(path).etag}).body
    emit(done) if as_json else show.put_tool_layer(done)


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
        done = client.post(f"/v1/tool-layers/{segment(name)}/{verb}", {"reason": reason}).body
    emit(done) if as_json else show.switched_tools(done)


@app.command()
def check(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Ask its server for its tools, and compare them with what was registered. Ends with 1 when they differ."""
    with Client(url, api_key) as client:
        seen = client.post(f"/v1/tool-layers/{segment(name)}/check", {}).body
    emit(seen) if as_json else show.checked_tools(seen)
    if not seen["ok"]:
        raise typer.Exit(1)
