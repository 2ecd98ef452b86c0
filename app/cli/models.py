"""`mission-root models …`: the providers of models that missions may ask through the root, and switching one off."""

from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="Providers of models: how they fare, the off switch.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The provider's name; '*' is all of them.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the switch.")]


@app.command("list")
def list_(limit: Limit = 200, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All providers, their models and whether they are asked."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/model-providers", limit)
    listed(
        items, as_json, ("name", "state", "models"),
        lambda one: (
            one["name"], "off" if one["switch"]["off"] else one["health"]["state"],
            ", ".join(model["name"] for model in one["models"]),
        ),
        "No provider is set up: the setting MODEL_PROVIDERS names a file of them, see docs/models.md.",
    )  # fmt: skip


@app.command()
def off(name: Name, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Ask a provider no more. Takes an admin of the operator's tenant."""
    switch(name, "off", reason, url, api_key, as_json)


@app.command()
def on(name: Name, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Ask a provider again. Takes an admin of the operator's tenant."""
    switch(name, "on", reason, url, api_key, as_json)


def switch(name: str, verb: str, reason: str, url: str, api_key: str, as_json: bool) -> None:
    with Client(url, api_key) as client:
        done = client.post(f"/v1/model-providers/{segment(name)}/{verb}", {"reason": reason}).body
    emit(done) if as_json else show.line(f"{done['name']}: {done['outcome']}")
