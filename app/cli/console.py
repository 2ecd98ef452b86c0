"""`mission-root console-link`: a way into the console on this machine, once and for five minutes."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import DEFAULT_URL, AsJson, Failed
from app.cli.identity import entered, named, run


def console_link(
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Whom the console acts as: a person of the tenant.")
    ],
    tenant: Annotated[str, typer.Option(help="The tenant's name.")] = "demo",
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Of the instance that `up` runs.")] = Path(".data"),
    url: Annotated[str, typer.Option("--url", help="Where the root is reached from this machine.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print a one-time link into the console. Needs REGISTRAR_DATABASE_URL, or the data folder of `up`."""
    place, base = (None, url or DEFAULT_URL) if os.environ.get("REGISTRAR_DATABASE_URL") else running(data_dir)
    made = make(place, url or base, tenant, name)
    if as_json:
        print(json.dumps(made))
    else:
        print(made["link"])
        show.aside("It works once, on this machine, for five minutes.")


def make(registrar_url: str | None, base_url: str, tenant: str, name: str) -> dict[str, str]:
    """A link for a principal, by name. registrar_url: where the setting does not say it."""
    made = run(lambda session: link_of(session, tenant, name), registrar_url)
    return {"link": f"{base_url.rstrip('/')}/console/login?link={made['secret']}", "expires_at": made["expires_at"]}


async def link_of(session: Any, tenant: str, name: str) -> dict[str, Any]:
    from app import identity
    from app.clock import iso

    await entered(session, tenant)
    made = await identity.make_link(session, await named(session, name))
    return {"secret": made.secret, "expires_at": iso(made.expires_at)}


def running(data_dir: Path) -> tuple[str, str]:
    """The registrar's database and the public address of the instance that `up` runs over a folder. Raises Failed."""
    from app.embedded import read_private
    from app.supervisor.folder import known

    told = read_private(data_dir / "up.json")
    if not told:
        raise Failed(
            f"Nothing runs over {data_dir}: start it with `mission-root up`, or set REGISTRAR_DATABASE_URL.", 7
        )
    return known(data_dir).database_url("registrar"), told["base_url"]
