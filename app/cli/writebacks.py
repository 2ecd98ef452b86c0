"""`mission-root writebacks …`: changes to business systems, and what came of each."""

from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="Changes to business systems: what came of them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The writeback's id.")]


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="Such as awaiting_approval, succeeded, unknown or stale.")] = "",
    mission: Annotated[str, typer.Option(help="Only those of this mission.")] = "",
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Changes, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/writebacks", limit, state=state, mission=mission)
    listed(
        items, as_json, ("id", "state", "risk", "change", "approval"),
        lambda one: (
            one["id"], one["state"], one["risk_level"], f"{one['operation']} {one['connector']}/{one['target']}", one["approval_id"],
        ),
        "No change yet; a crm_lead_intelligence mission proposes some: mission-root missions create --help",
    )  # fmt: skip


@app.command("show")
def shown(writeback: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One change: what the target answered, and what it held when it was read back."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/writebacks/{segment(writeback)}").body
    emit(found) if as_json else show.writeback(found)


@app.command()
def renew(writeback: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Ask again for a stale change, on the version that its record has now. It needs a new approval."""
    with Client(url, api_key) as client:
        done = client.post(f"/v1/writebacks/{segment(writeback)}/renew", {}).body
    emit(done) if as_json else show.line(f"Asked again: mission-root approvals show {done['approval_id']}")


@app.command()
def vouch(
    writeback: Id,
    found: Annotated[str, typer.Option(help="What you saw in the target: applied, not_applied, or cannot_tell.")],
    comment: Annotated[str, typer.Option(help="How you know.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """End a change that stays unknown, because its target cannot say. It is failed: only what was read back is a success."""
    with Client(url, api_key) as client:
        done = client.post(f"/v1/writebacks/{segment(writeback)}/vouch", {"found": found, "comment": comment}).body
    emit(done) if as_json else show.line(f"It is {done['state']}: {found}, by your word.")
