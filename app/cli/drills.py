"""`mission-root drills …`: what the service does to itself to show that its guards hold."""

import asyncio
import time
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment

app = typer.Typer(help="Drills: what there is, how it ended, running one now.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The drill's name, as `drills list` shows it.")]
PATIENCE_S = 120.0


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """All drills, what each shows, and how its last run ended."""
    with Client(url, api_key) as client:
        items = client.get("/v1/drills").body["items"]
    emit({"items": items}) if as_json else table(items)


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The newest runs of one drill, with what each left behind."""
    with Client(url, api_key) as client:
        items = client.pages(f"/v1/drills/{segment(name)}/runs", 20)
    if as_json:
        return emit({"items": items})
    if not items:
        show.line(f"{name} has not run yet; `mission-root drills run {name}` runs it.")
    for one in items:
        show.line(said(one))


@app.command()
def run(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")] = True,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Run a drill now; exit code 0 when it passed, 1 when it failed, 6 when nobody ran it in time."""
    with Client(url, api_key) as client:
        found = client.post(f"/v1/drills/{segment(name)}/run").body
        if wait:
            show.aside(f"{name} is running.")
            found = ended(client, name, found["id"])
    emit(found) if as_json else show.line(said(found))
    if found["state"] == "failed":
        raise Failed(f"The drill {name} failed: {found['reason']}.", 1)


def ended(client: Client, name: str, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        items = client.get(f"/v1/drills/{segment(name)}/runs", limit=20).body["items"]
        found: dict[str, Any] = next((one for one in items if one["id"] == run_id), {"state": "running"})
        if found["state"] != "running":
            return found
        time.sleep(0.3)
    raise Failed(f"The drill {name} has not ended after {PATIENCE_S:.0f} s; is a worker with DRILL_KEY running?", 6)


@app.command()
def prepare(as_json: AsJson = False) -> None:
    """Make the drills' tenant, or bring its keys up to date. Needs REGISTRAR_DATABASE_URL and DRILL_KEY."""
    from app import drills
    from app.cli.processes import database_errors

    with database_errors("REGISTRAR_DATABASE_URL") as settings:
        registrar = settings.secret("registrar_database_url")
        keys = settings.drill_keys()
        if keys is None:
            raise Failed("DRILL_KEY is not set: the keys of the drills' people are made of it.", 2)
        new = asyncio.run(drills.prepare(registrar, keys))
    done = "made" if new else "up to date"
    emit({"tenant": done}) if as_json else show.line(f"The tenant of the drills is {done}.")


def table(items: list[dict[str, Any]]) -> None:
    columns = ("drill", "last run", "ended", "what it shows")
    show.table(columns, ((one["name"], state(one), at(one["last"]), one["shows"]) for one in items))


def state(drill: dict[str, Any]) -> str:
    if drill["running"]:
        return "running"
    last = drill["last"]
    return "never" if last is None else f"{last['state']} ({last['reason']})" if last["reason"] else str(last["state"])


def at(run_: dict[str, Any] | None) -> str:
    return str(run_["finished_at"])[:16] if run_ else ""


def said(run_: dict[str, Any]) -> str:
    """One run on one line."""
    evidence = "  ".join(f"{one['kind']} {one['id']}" for one in run_["evidence"])
    why = f" ({run_['reason']})" if run_["reason"] else ""
    return (
        f"{run_['started_at'][:19]}  {run_['drill']}  {run_['state']}{why}  build {run_['build']}  {evidence}".rstrip()
    )
