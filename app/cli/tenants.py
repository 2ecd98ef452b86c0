"""`mission-root tenants …`: the tenants of an installation, for whoever looks after all of them."""

from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="Tenants: for admins of the operator's tenant; others see their own.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id.")]
Repeat = Annotated[str, typer.Option("--idempotency-key", help="Makes a repeat of this command safe.")]


@app.command("list")
def list_(limit: Limit = 200, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The tenants you may see."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/tenants", limit)
    listed(items, as_json, ("id", "name", "state"), lambda one: (one["id"], one["name"], one["state"]), "No tenants.")


@app.command("show")
def shown(tenant: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One tenant."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/tenants/{segment(tenant)}").body
    emit(found) if as_json else show.out.print(show.pairs(found))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    admin: Annotated[str, typer.Option(help="What its first admin is called.")] = "admin",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make a tenant with its first admin, whose key is shown this once."""
    with Client(url, api_key) as client:
        made = client.post("/v1/tenants", {"name": name, "admin": admin}, idempotency_key=repeat).body
    emit(made) if as_json else show.out.print(show.pairs(made))


@app.command()
def suspend(tenant: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Nobody of it is let in and nothing of it is executed, until resumed."""
    switch(tenant, "suspend", url, api_key, as_json)


@app.command()
def resume(tenant: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a suspension."""
    switch(tenant, "resume", url, api_key, as_json)


def switch(tenant: str, verb: str, url: str, api_key: str, as_json: bool) -> None:
    path = f"/v1/tenants/{segment(tenant)}"
    with Client(url, api_key) as client:
        done: dict[str, Any] = client.post(f"{path}/{verb}", if_match=client.get(path).etag).body
    emit(done) if as_json else show.line(f"{done['name']} is {done['state']}.")
