"""`mission-root keys …`: one's own API keys, or as an admin those of services and newcomers. Secrets are shown once."""

from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment

app = typer.Typer(help="API keys: list, create, rotate, revoke.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]
Principal = Annotated[str, typer.Option("--principal", help="Another principal's id; admins only.")]
Repeat = Annotated[str, typer.Option("--idempotency-key", help="Makes a repeat of this command safe.")]


@app.command("list")
def listed(
    principal: Principal = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Keys by prefix and state, newest first; never a secret."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/api-keys", limit, principal_id=principal)
    rows = [(one["id"], one["prefix"], one["state"], one["principal_id"], one["expires_at"] or "") for one in items]
    emit({"items": items}) if as_json else show.table(("id", "prefix", "state", "principal", "expires"), rows)


@app.command("show")
def one(key: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One key: whose it is, its state; never a secret."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/api-keys/{segment(key)}").body
    emit(found) if as_json else show.out.print(show.pairs(found))


@app.command()
def create(
    principal: Principal = "",
    expires_at: Annotated[str, typer.Option(help="When it ends by itself, as 2030-01-31T12:00:00Z.")] = "",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make a key for yourself, or with --principal for another."""
    asked = {"principal_id": principal or None, "expires_at": expires_at or None}
    with Client(url, api_key) as client:
        made = client.post("/v1/api-keys", asked, idempotency_key=repeat).body
    shown(made, as_json)


@app.command()
def rotate(
    key: Id,
    overlap_s: Annotated[
        int, typer.Option(min=0, max=30 * 86_400, help="How long the old one lives on, in seconds.")
    ] = 3600,
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make the next key of the same principal; the old one ends after the overlap."""
    with Client(url, api_key) as client:
        made = client.post(f"/v1/api-keys/{segment(key)}/rotate", {"overlap_s": overlap_s}, idempotency_key=repeat).body
    shown(made, as_json)


@app.command()
def revoke(key: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a key at once, in every process."""
    with Client(url, api_key) as client:
        ended = client.call("DELETE", f"/v1/api-keys/{segment(key)}").body
    emit(ended) if as_json else show.line(f"{ended['prefix']}… is {ended['state']}.")


def shown(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(made)
    elif "secret" in made:
        show.line(f"{made['id']}\n{made['secret']}")
        show.aside("The secret is shown this once.")
    else:
        show.line(f"{made['id']}")
        show.aside("This key was made before, and its secret shown then.")
