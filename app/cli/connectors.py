"""`mission-root connectors …`: the business systems of the tenant, and stopping what is written to them."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment

app = typer.Typer(
    help="Connected business systems: definitions, the halt switch, a look through one.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The connector's name.")]
Switched = Annotated[str, typer.Argument(metavar="NAME", help="The connector's name; '*' is all of them.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the switch.")]
YAML = (".yaml", ".yml")


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All connectors, what they can do and whether they are halted."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/connectors", 10_000)
    emit({"items": items}) if as_json else show.connectors(items)


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One connector with its definition and its history."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/connectors/{segment(name)}").body
    emit(found) if as_json else show.connector(found)


@app.command()
def put(
    name: Name,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The definition, YAML or JSON.")
    ],
    check_only: Annotated[bool, typer.Option("--check-only", help="Check it and change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Put a definition: a new connector, or the next version of one. Takes the role admin."""
    path = f"/v1/connectors/{segment(name)}"
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
    emit(done) if as_json else show.put_connector(done)


@app.command()
def retire(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Nothing is proposed for it or written to it any more. Takes the role admin."""
    path = f"/v1/connectors/{segment(name)}"
    with Client(url, api_key) as client:
        done = client.call("DELETE", path, headers={"If-Match": client.get(path).etag}).body
    emit(done) if as_json else show.put_connector(done)


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
        done = client.post(f"/v1/connectors/{segment(name)}/{verb}", {"reason": reason}).body
    emit(done) if as_json else show.switched(done)


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
    emit(seen) if as_json else show.seen_record(seen)
    if not seen["ok"]:
        raise typer.Exit(1)
