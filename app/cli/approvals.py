"""`mission-root approvals …`: see what waits, decide on exactly what was seen."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment

app = typer.Typer(help="What waits for a human, and the decision on it.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The approval's id.")]


class Decision(StrEnum):
    approve = "approve"
    reject = "reject"


@app.command("list")
def listed(
    state: Annotated[str, typer.Option(help="pending, approved, rejected, ...; empty for all.")] = "pending",
    mission: Annotated[str, typer.Option(help="Only those of this mission.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Approvals, those that wait unless told otherwise."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/approvals", limit, state=state, mission=mission)
    emit({"items": items}) if as_json else show.approvals(items)


@app.command("show")
def shown(approval: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """What would be changed, why, and the hash that a decision has to name."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/approvals/{segment(approval)}").body
    emit(found) if as_json else show.approval(found)


@app.command()
def decide(
    approval: Id,
    decision: Annotated[Decision, typer.Argument(help="What you decide.")],
    payload_sha256: Annotated[str, typer.Option(help="The hash you saw; required where nobody can be asked.")] = "",
    comment: Annotated[str, typer.Option(help="A word on why; it is recorded.")] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Approve or reject. Without --payload-sha256 it shows the change and asks first."""
    if decision is Decision.reject and not comment:
        raise Failed("A rejection needs a reason: give it with --comment.", 2)
    path = f"/v1/approvals/{segment(approval)}"
    with Client(url, api_key) as client:
        seen = client.get(path)
        if not payload_sha256:
            if as_json or not sys.stdin.isatty():
                raise Failed(
                    f"Say what you saw with --payload-sha256; `mission-root approvals show {approval}` shows it.", 2
                )
            show.approval(seen.body)
            if not typer.confirm(f"{decision.value.capitalize()} exactly this?"):
                raise Failed("Nothing was decided.", 1)
            payload_sha256 = seen.body["payload_sha256"]
        body = {"decision": decision.value, "payload_sha256": payload_sha256, "comment": comment or None}
        decided = client.post(f"{path}/decisions", body, if_match=seen.etag).body
    emit(decided) if as_json else show.decided(decided)
