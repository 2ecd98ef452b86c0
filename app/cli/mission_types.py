"""`mission-root mission-types …`: what kinds of missions there are, and changing them as data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli import declared, show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import listed

app = typer.Typer(help="Kinds of missions, as data.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The type's name, such as oracle_advisory.")]
ANSWERED = ("name", "version", "shipped")  # what answers carry and `put` does not take


@app.command("list")
def list_(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The kinds of missions that can be asked for."""
    with Client(url, api_key) as client:
        items = client.get("/v1/mission-types").body
    listed(
        items, as_json, ("name", "version", "title", "tools"),
        lambda one: (
            one["name"], f"v{one['version']}{' (shipped)' if one['shipped'] else ''}", one["title"], ", ".join(one["tools"]),
        ),
        "No mission types.",
    )  # fmt: skip


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One type as JSON: what `put` takes."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/mission-types/{segment(name)}").body
    emit(found) if as_json else show.line(json.dumps(found, indent=2, ensure_ascii=False))


@app.command()
def put(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The definition as JSON; see `mission-root mission-types show`.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """A new type, or the next version of one. Takes the role product_owner."""
    path = f"/v1/mission-types/{segment(name)}"
    with Client(url, api_key) as client:
        done = client.put(path, declared.body_in(file, ANSWERED), if_match=client.etag_of(path)).body
    emit(done) if as_json else show.line(f"{done['name']} is at version {done['version']}.")
