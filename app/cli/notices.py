"""`mission-root notices …`: what wants you: reminders, escalations, questions and answers, a broken glass."""

from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="What wants you: reminders, escalations and questions of approvals.", no_args_is_help=True)


@app.command("list")
def list_(
    unseen: Annotated[bool, typer.Option("--unseen", help="Only those that were not seen yet.")] = False,
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Your notices, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/notices", limit, unseen="true" if unseen else "")
    listed(
        items, as_json, ("id", "kind", "approval", "state", "expires", "seen"),
        lambda one: (
            one["id"], one["kind"], one["approval_id"], one["approval_state"], one["expires_at"][:16], (one["seen_at"] or "")[:16],
        ),
        "No notices. What waits for a human: mission-root approvals review",
    )  # fmt: skip


@app.command()
def seen(
    notice: Annotated[str, typer.Argument(metavar="ID", help="The notice's id.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Say that you have seen it."""
    with Client(url, api_key) as client:
        done = client.post(f"/v1/notices/{segment(notice)}/seen").body
    emit(done) if as_json else show.line(f"Seen; it is about: mission-root approvals show {done['approval_id']}")
