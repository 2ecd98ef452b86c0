"""`mission-root missions …`: ask, watch, wait, read the result, stop."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ENDED, ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.lists import Limit
from app.cli.lists import listed as listed_as

app = typer.Typer(help="Ask for missions, follow them, read their results.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The mission's id.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


@app.command()
def create(
    mission_type: Annotated[str, typer.Argument(help="For example oracle_advisory or crm_lead_intelligence.")],
    user_goal: Annotated[str, typer.Argument(help="What you want to know or have done, in a sentence.")],
    inputs: Annotated[str, typer.Option(help="A JSON object, or @FILE that holds one.")] = "{}",
    workspace: Annotated[str, typer.Option(help="Shorthand for the input `workspace`.")] = "",
    mode: Annotated[str, typer.Option(help="dry_run, assisted or autonomous.")] = "",
    idempotency_key: Annotated[str, typer.Option(help="The same key makes the same mission once.")] = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Check everything, change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended, then show its result.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Ask for a mission."""
    body: dict[str, Any] = {"mission_type": mission_type, "user_goal": user_goal, "inputs": _object(inputs)}
    if workspace:
        body["inputs"]["workspace"] = workspace
    if mode:
        body["mode"] = mode
    with Client(url, api_key) as client:
        only = "true" if validate_only else ""
        made = client.post("/v1/missions", body, idempotency_key=idempotency_key, validate_only=only).body
        if validate_only:
            return emit(made) if as_json else show.line("Valid; nothing was changed.")
        if not wait:
            return emit(made) if as_json else show.mission(made)
        if not as_json:
            show.mission(made)
        _finish(client, made["id"], 600, "", as_json)


@app.command()
def get(mission: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """State, stage, budget and pending approvals of one mission."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/missions/{segment(mission)}").body
    emit(found) if as_json else show.mission(found)


@app.command("list")
def listed(
    state: Annotated[str, typer.Option(help="Only missions in this state.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Missions, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/missions", limit, state=state)
    emit({"items": items}) if as_json else show.missions(items)


@app.command()
def wait(
    mission: Id,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 600,
    until: Annotated[str, typer.Option(help="Another state to be content with, such as awaiting_approval.")] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Wait until a mission has ended; exit code 0 when it completed, 1 when it ended otherwise, 6 when time ran out."""
    with Client(url, api_key) as client:
        _finish(client, mission, timeout, until, as_json)


@app.command()
def events(
    mission: Id,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the mission has ended.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What happened to a mission, oldest first; one JSON object per line with --json."""
    path = f"/v1/missions/{segment(mission)}/events"
    with Client(url, api_key) as client:
        if not follow:
            for event in client.pages(path, 100_000):
                emit(event) if as_json else show.event(event)
            return
        for event in client.events(segment(mission), 7 * 24 * 3600):
            emit(event) if as_json else show.event(event)
            if event["type"].removeprefix("mission.") in ENDED:
                return


@app.command()
def packet(
    mission: Id,
    zip_file: Annotated[
        Path | None,
        typer.Option("--zip", help="Write everything behind it to this file; `python verify.py FILE` checks it."),
    ] = None,
    verifier: Annotated[Path | None, typer.Option("--verifier", help="Write verify.py here, too.")] = None,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """The reviewed result: the answer, and the evidence of each of its claims."""
    if verifier is not None:
        from app.packet import offline

        verifier.write_bytes(Path(offline.__file__).read_bytes())
    with Client(url, api_key) as client:
        path = f"/v1/missions/{segment(mission)}/packet"
        if zip_file is not None:
            size = client.download(path, zip_file, format="zip")
            said = {"file": str(zip_file), "bytes": size}
            return emit(said) if as_json else show.line(f"Wrote {zip_file} ({size} bytes).")
        found = client.get(path).body
    emit(found) if as_json else show.packet(found)
    if not as_json and not found["claims"] and not found["answer"]:
        show.line(_no_answer(found["mission"]))


@app.command()
def artifacts(
    mission: Id,
    artifact: Annotated[str, typer.Argument(help="One artifact's id: its content.")] = "",
    limit: Limit = 200,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What the stages of a mission handed over, by hash; with an artifact's id, what is in it."""
    path = f"/v1/missions/{segment(mission)}/artifacts"
    with Client(url, api_key) as client:
        if artifact:
            found = client.get(f"{path}/{segment(artifact)}").body
            return emit(found) if as_json else show.line(json.dumps(found["content"], indent=2, ensure_ascii=False))
        items = client.pages(path, limit)
    listed_as(
        items, as_json, ("id", "type", "producer", "attempt", "SHA-256"),
        lambda one: (one["id"], one["schema_name"], one["producer"], one["attempt"], one["sha256"]),
        "No artifacts yet: mission-root missions wait ID",
    )  # fmt: skip


def _no_answer(mission: dict[str, Any]) -> str:
    """What a packet has not, and why."""
    why = ": ".join(str(mission[name]) for name in ("reason", "reason_note") if mission.get(name))
    yet = "and no claims" if mission["state"] in ENDED else "and no claims yet"
    return f"The mission {mission['id']} has no answer {yet}; it is {mission['state']}{f' ({why})' if why else ''}."


@app.command()
def cancel(mission: Id, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Stop a mission. What is already being written runs to its end."""
    _stop("cancel", mission, reason, url, api_key, as_json)


@app.command()
def fail(mission: Id, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Declare a mission failed. Its artifacts are kept."""
    _stop("fail", mission, reason, url, api_key, as_json)


@app.command()
def redispatch(mission: Id, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Offer a mission to the colony anew, now: what its present attempt still says is not heard."""
    _stop("redispatch", mission, reason, url, api_key, as_json)


@app.command()
def extend(
    mission: Id,
    reason: Reason,
    minutes: Annotated[float, typer.Option(min=1 / 60, max=1440, help="How much more time.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Give a mission more time than it asked for; the attempt under way keeps the time it has, the next one is told of more."""
    _stop("extend", mission, reason, url, api_key, as_json, time_ms=round(minutes * 60_000))


def _stop(verb: str, mission: str, reason: str, url: str, api_key: str, as_json: bool, **more: int) -> None:
    with Client(url, api_key) as client:
        seen = client.get(f"/v1/missions/{segment(mission)}")
        stopped = client.post(
            f"/v1/missions/{segment(mission)}/{verb}", {"reason": reason} | more, if_match=seen.etag
        ).body
    emit(stopped) if as_json else show.mission(stopped)


def _finish(client: Client, mission: str, timeout: float, until: str, as_json: bool) -> None:
    with show.progressing(quiet=as_json) as tell:
        ended = await_state(client, mission, timeout, {*ENDED, until}, tell)
    emit(ended) if as_json else show.mission(ended)
    if ended["state"] not in ("completed", until):
        why = f" ({ended['reason']})" if ended.get("reason") else ""
        raise Failed(
            f"The mission {mission} ended {ended['state']}{why}; `mission-root missions events {mission}` says how.", 1
        )


def await_state(
    client: Client,
    mission: str,
    timeout: float,
    states: set[str],
    tell: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """The mission once it is in one of the states; Failed with code 6 when time runs out first."""
    path = f"/v1/missions/{segment(mission)}"
    deadline = time.monotonic() + timeout
    found: dict[str, Any] = client.get_patiently(path, deadline).body
    if found["state"] in states:
        return found
    for event in client.events(segment(mission), timeout):
        tell(event)
        if event["type"].startswith("mission.") and event["type"].removeprefix("mission.") in states:
            found = client.get_patiently(path, deadline).body
            if found["state"] in states:
                return found
        if time.monotonic() > deadline:
            break
    raise Failed(f"The mission {mission} is still {found['state']} after {timeout:.0f} s.", 6)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except OSError as problem:
        raise Failed(f"--inputs {text}: {problem.strerror}.", 2) from problem
    except ValueError as problem:
        raise Failed(f"--inputs is not JSON: {problem}.", 2) from problem
    if not isinstance(value, dict):
        raise Failed("--inputs must be a JSON object.", 2)
    return value
