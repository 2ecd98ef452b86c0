"""`mission-root replay …`: missions once more, what is different, and recordings from one environment to another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ENDED, ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.lists import listed as listed_as
from app.cli.missions import await_state

app = typer.Typer(help="Past missions once more, and what is different.", no_args_is_help=True)

Of = Annotated[str, typer.Argument(metavar="ID", help="A mission, or with --recording an imported recording.")]
Timeout = Annotated[int, typer.Option(min=1, max=86_400, help="How long to wait for its end, in seconds.")]
PARTS = ("outcome", "answer", "decisions", "calls", "claims", "artifacts", "changes")


@app.command()
def run(
    of: Of,
    mode: Annotated[str, typer.Option(help="recorded: from the tape, writes nothing. rerun: live.")] = "recorded",
    colony: Annotated[
        str, typer.Option(help="Of a recorded replay: tape, or live to let a colony work on it again.")
    ] = "tape",
    recording: Annotated[bool, typer.Option("--recording", help="ID is an imported recording.")] = False,
    timeout: Timeout = 120,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Repeat a mission, wait until it is over, and show what is different. Exit code 1 when something is."""
    path = f"/v1/{'recordings' if recording else 'missions'}/{segment(of)}/replay"
    with Client(url, api_key) as client:
        made = client.post(path, {"mode": mode} | ({"colony": colony} if mode == "recorded" else {})).body
        with show.progressing(quiet=as_json) as tell:
            ended = await_state(client, made["id"], timeout, {*ENDED, "awaiting_approval"}, tell)
        found = client.get(f"/v1/missions/{made['id']}/diff").body
    if as_json:
        emit(found)
    else:
        show.line(
            f"replay   {made['id']} is {ended['state']}" + (f": {ended['reason_note']}" if ended["reason_note"] else "")
        )
        differences(found)
    if not found["same"]:
        raise typer.Exit(1)


@app.command()
def diff(
    mission: Annotated[str, typer.Argument(metavar="ID", help="The later run.")],
    against: Annotated[str, typer.Option(help="The earlier run; what the mission repeats when left out.")] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What is different about two runs, apart from ids and times. Exit code 1 when something is."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/missions/{segment(mission)}/diff", against=against).body
    emit(found) if as_json else differences(found)
    if not found["same"]:
        raise typer.Exit(1)


@app.command()
def export(
    mission: Annotated[str, typer.Argument(metavar="ID", help="The mission.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Write a mission into one signed file, for another environment."""
    with Client(url, api_key) as client:
        size = client.download(f"/v1/missions/{segment(mission)}/recording", out)
    emit({"file": str(out), "size": size}) if as_json else show.line(f"{out}: {size:,} bytes")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `replay export` has written.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take in a file of another environment, when a trusted key has signed it."""
    try:
        data = file.read_bytes()
    except OSError as refused:
        raise Failed(f"{file} cannot be read: {refused.strerror}.", 2) from None
    with Client(url, api_key) as client:
        made = client.call("POST", "/v1/recordings", data, {"Content-Type": "application/json"}).body
    if as_json:
        emit(made)
        return
    show.line(
        f"recording  {made['id']}  {made['mission_type']} of {made['environment']}, signed by {made['signed_by']}"
    )
    show.line(f"play it: mission-root replay run {made['id']} --recording")


@app.command("list")
def listed(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Recordings that were imported, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/recordings", limit)
    listed_as(
        items, as_json, ("id", "imported", "mission type", "environment", "signed by"),
        lambda one: (one["id"], one["imported_at"], one["mission_type"], one["environment"], one["signed_by"]),
        "Nothing was imported yet: mission-root replay import FILE",
    )  # fmt: skip


@app.command("show")
def shown(
    recording: Annotated[str, typer.Argument(metavar="ID", help="The recording's id.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """One imported recording: of which mission, from where, by whom."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/recordings/{segment(recording)}").body
    emit(found) if as_json else show.out.print(show.pairs(found))


def differences(found: dict[str, Any]) -> None:
    show.line(
        "same     nothing is different apart from ids and times"
        if found["same"]
        else "changed  the runs are not the same"
    )
    for name in PARTS:
        part = found[name]
        words = f"{part['same']} the same"
        if not part["same_in_all"]:
            words += f", {len(part['changed'])} changed, {len(part['only_before'])} only before, {len(part['only_after'])} only after"
        show.line(f"  {name:10} {words}")
        for one in part["changed"]:
            show.line(f"    ~ {one['what']}")
        for one in part["only_before"]:
            show.line(f"    - {one['what']}")
        for one in part["only_after"]:
            show.line(f"    + {one['what']}")
    if found["divergence"]:
        one = found["divergence"]
        show.line(f"  left its tape at {one['kind']} {one['name']}, call {one['ordinal']}: {one['why']}")
    for one in found["todays_policy"]:
        if one["changed"]:
            then, now = one["then"]["effect"], one["now"]
            show.line(
                f"  today's policy: {one['action']} {one['resource']}: {then} then, {now['effect']} now ({now['rule']})"
            )
