"""`mission-root status` and `mission-root doctor`: how the service is, seen from outside and from within."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit

SIGNS = {"pass": "ok  ", "fail": "FAIL", "left_out": "-   "}


def status(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """How every dependency is, what waits for it, and missions that nothing would have moved. Exit code 1 unless all is well."""
    with Client(url, api_key) as client:
        found = client.get("/v1/status").body
    emit(found) if as_json else shown(found)
    if found["status"] != "ok":
        raise Failed(f"The service is {found['status']}.", 1)


def shown(found: dict[str, Any]) -> None:
    show.line(f"{found['environment']}: {found['status']}")
    columns = ("component", "state", "since", "waiting", "what it means")
    show.table(columns, (row(one) for one in found["components"]))
    for one in found["violators"]:
        why = f", a repair was refused ({one['refused']})" if one["refused"] else ""
        done = one["repair"] or f"nothing: it takes a person{why}"
        over = "" if one["over_at"] is None else f", over at {one['over_at'][:19]}"
        show.line(
            f"{one['mission_id']} was {one['state']} and waited for nothing ({one['finding']}); done: {done}{over}"
        )


def row(component: dict[str, Any]) -> tuple[str, ...]:
    waiting = ", ".join(f"{count} {name}" for name, count in (component.get("queued") or {}).items())
    means = component["effect"] or ""
    if component["detail"]:
        means = f"{means} ({component['detail']})" if means else component["detail"]
    return component["name"], component["state"], component["since"][:19], waiting, means


def doctor(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="The folder of `up`, asked when no database URL is in the environment.")
    ] = Path(".data"),
    as_json: AsJson = False,
) -> None:
    """Look at everything an installation needs, line by line, each with its remedy; exit code 0 only when nothing failed."""
    from app.operations.doctor import examine
    from app.settings import load

    environment_of_up(data_dir)
    lines = asyncio.run(examine(load))
    failed = [one for one in lines if one.state == "fail"]
    if as_json:
        shown = [
            {"name": one.name, "state": one.state, "said": one.said, "remedy": one.remedy, "page": one.page}
            for one in lines
        ]
        emit({"healthy": not failed, "lines": shown})
    else:
        for one in lines:
            show.line(f"{SIGNS[one.state]} {one.name:<12} {one.said}")
            if one.remedy:
                show.line(f"     {'':<12} {one.remedy} See {one.page}.")
    if failed:
        names = ", ".join(one.name for one in failed)
        raise Failed(f"{len(failed)} of {len(lines)} lines failed: {names}.", 1)


def environment_of_up(data_dir: Path) -> None:
    """Where nothing says which database is meant, the instance of this folder is."""
    if any(name.endswith("DATABASE_URL") for name in os.environ) or not (data_dir / "secrets.json").exists():
        return
    from app.supervisor.folder import known
    from app.supervisor.plan import processes

    for process in processes(known(data_dir)):
        if process.name in ("serve", "worker", "executor", "registrar"):
            os.environ.update({name: value for name, value in process.environment.items() if name not in os.environ})
