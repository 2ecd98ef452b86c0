"""`mission-root release …`: the gates, the rollout ladder, attestations, and verdicts between environments."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="Release gates and the rollout ladder.", no_args_is_help=True)

REFUSED = 4  # the gates do not let it through
RungName = Annotated[str, typer.Argument(metavar="RUNG", help="The rung's name, as `release ladder` shows it.")]
Repeat = Annotated[str, typer.Option("--idempotency-key", help="Makes a repeat of this command safe.")]
MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "  ? "}


@app.command()
def gates(
    environment: Annotated[
        str, typer.Option(help="Another environment, as its newest verdict says; this one when left out.")
    ] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """The four gates, line by line. Exit code 0 only when all pass, else 4."""
    with Client(url, api_key) as client:
        found = client.get("/v1/release/gates", environment=environment).body
    if as_json:
        emit(found)
    else:
        if found["verdict"]:
            show.line(f"As the verdict of {found['environment']} says, {age(found['verdict']['age_s'])} old.")
        for gate in found["items"]:
            show.line(f"{MARKS[gate['result']]}  {gate['title']}")
            for check in gate["checks"]:
                show.line(f"      {MARKS[check['result']]}  {check['name']:30} {told(check)}")
    if found["result"] != "pass":
        raise typer.Exit(REFUSED)


def told(check: dict[str, Any]) -> str:
    if check["result"] != "pass":
        return str(check["reason"])
    seen = ", ".join(f"{one['kind']} {one['id']}" for one in check["evidence"][:1])
    return f"{seen or 'nothing to report'}, {age(check['age_s'])} old, good until {check['expires_at']}"


def age(seconds: float | None) -> str:
    if seconds is None:
        return "of unknown age"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@app.command()
def ladder(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Every rung: where it stands, and what it still wants."""
    with Client(url, api_key) as client:
        found = client.get("/v1/release/ladder").body
    if as_json:
        emit(found)
        return
    show.line(f"{found['environment']}: {found['why']}")
    for one in found["items"]:
        stands = one["autonomy"] if one["state"] == "enabled" else one["state"].replace("_", " ")
        if one["state"] == "not_enabled" and one["ready"]:
            stands += ", ready: mission-root release enable " + one["rung"]
        show.line(f"{one['rung']:18} {one['environment']:11} {one['title']:32} {stands}")
        if one["state"] == "not_enabled":
            for lack in one["missing"]:
                show.line(f"{'':18} - {lack['kind']} {lack['name']}: {lack['reason']}")


@app.command()
def enable(
    rung: RungName,
    autonomy: Annotated[
        str, typer.Option(help="How far, where the rung leaves a choice: assisted or autonomous.")
    ] = "",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Enable a rung, as a release owner. Exit code 4 when something is missing, and what."""
    ask = {"autonomy": autonomy} if autonomy else {}
    with Client(url, api_key) as client:
        moved(client.post(f"/v1/release/ladder/{segment(rung)}/enable", ask, idempotency_key=repeat).body, as_json)


@app.command()
def lower(
    rung: RungName,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the change.")],
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Lower a rung, as a release owner or an operator. New missions beyond it are refused from now on."""
    with Client(url, api_key) as client:
        path = f"/v1/release/ladder/{segment(rung)}/lower"
        moved(client.post(path, {"reason": reason}, idempotency_key=repeat).body, as_json)


def moved(said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(said)
        return
    rung = said["rung"]
    words = {"enabled": "is enabled", "lowered": "is lowered", "unchanged": "stays as it was"}[said["outcome"]]
    more = f", and with it {said['lowered'] - 1} more" if said["lowered"] > 1 else ""
    show.line(f"{rung['rung']} {words}: {rung['autonomy']}{more}.")


@app.command()
def attest(
    claim: Annotated[str, typer.Argument(metavar="CHECK", help="A check that only a person can judge.")],
    comment: Annotated[str, typer.Option(help="What the judgement rests on.")],
    valid_s: Annotated[int, typer.Option(min=0, help="How long it holds, in seconds; as long as allowed when 0.")] = 0,
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Sign what only a person can judge, in the role that the check asks for."""
    ask: dict[str, Any] = {"claim": claim, "comment": comment} | ({"valid_s": valid_s} if valid_s else {})
    with Client(url, api_key) as client:
        made = client.post("/v1/release/attestations", ask, idempotency_key=repeat).body
    if as_json:
        emit(made)
        return
    show.line(f"attested  {made['id']}  {made['sentence']}")
    show.line(f"          as {made['role']}, until {made['expires_at']}, sha256 {made['sha256']}")


@app.command()
def withdraw(
    attestation: Annotated[str, typer.Argument(metavar="ID", help="The attestation's id.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take an attestation back; its check fails until it is attested anew."""
    with Client(url, api_key) as client:
        ended = client.post(f"/v1/release/attestations/{segment(attestation)}/withdraw").body
    emit(ended) if as_json else show.line(f"{ended['id']} is {ended['state']}.")


@app.command()
def attestations(
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What people attested, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/release/attestations", limit)
    listed(
        items, as_json, ("id", "check", "state", "as", "until"),
        lambda one: (one["id"], one["claim"], one["state"], one["role"], one["expires_at"]),
        "Nobody has attested anything yet: mission-root release attest CHECK --comment TEXT",
    )  # fmt: skip


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to write.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Write this environment's verdict into one signed file. What it says does not change the exit code: `gates` tells."""
    with Client(url, api_key) as client:
        size = client.download("/v1/release/verdict", out)
    emit({"file": str(out), "size": size}) if as_json else show.line(f"{out}: {size:,} bytes")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `release export` has written in another environment.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take in the verdict of another environment, when a trusted key has signed it."""
    try:
        data = file.read_bytes()
    except OSError as refused:
        raise Failed(f"{file} cannot be read: {refused.strerror}.", 2) from None
    with Client(url, api_key) as client:
        made = client.call("POST", "/v1/release/verdicts", data, {"Content-Type": "application/json"}).body
    if as_json:
        emit(made)
        return
    show.line(f"verdict  {made['id']}  {made['environment']}, build {made['build']}: {made['result']}")
    show.line(f"         signed by {made['signed_by']}, good until {made['expires_at']}")


@app.command()
def verdicts(
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Verdicts that were imported, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/release/verdicts", limit)
    listed(
        items, as_json, ("id", "environment", "build", "result", "until"),
        lambda one: (one["id"], one["environment"], one["build"], one["result"], one["expires_at"]),
        "Nothing was imported yet: mission-root release import FILE",
    )  # fmt: skip


@app.command()
def history(
    gate: Annotated[str, typer.Option(help="Only this gate: technical, governance, operational or sales.")] = "",
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """How the gates came out over time, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/release/history", limit, gate=gate)
    if as_json:
        emit({"items": items})
        return
    for one in items:
        wrong = ", ".join(check["name"] for check in one["checks"] if check["result"] != "pass")
        show.line(f"{one['at']}  {one['gate']:12} {one['was'] or '-':12} -> {one['result']:12} {wrong}")
    if not items:
        show.aside("No gate was computed yet: the worker does, once a minute.")
