"""`mission-root rules …`: who must approve what, for how long, and what happens meanwhile."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import declared, show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment

app = typer.Typer(help="Approval rules: who must approve what, and the ladder of time.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The rule's id.")]
ANSWERED = ("id", "version", "created_by", "created_at", "history")  # what answers carry and `put` does not take


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The rules in force."""
    with Client(url, api_key) as client:
        found = client.get("/v1/approval-rules").body
    emit(found) if as_json else show_rules(found["items"])


@app.command("show")
def shown(rule: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One rule as JSON: what `put` takes, and what it was before."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/approval-rules/{segment(rule)}").body
    emit(found) if as_json else typer.echo(json.dumps(found, indent=2))


@app.command()
def choose(
    operation: Annotated[str, typer.Argument(help="Such as update; of a mission: its type.")],
    connector: Annotated[str, typer.Option(help="The connector's name.")] = "*",
    risk: Annotated[str, typer.Option(help="low, medium or high.")] = "low",
    subject: Annotated[str, typer.Option(help="writeback or mission.")] = "writeback",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Which rule would be chosen for a change, and why not the others."""
    asked = {"subject": subject, "connector": connector, "operation": operation, "risk": risk}
    with Client(url, api_key) as client:
        said = client.post("/v1/approval-rules/choose", asked).body
    if as_json:
        return emit(said)
    fitting = [said["chosen"], *said["others"]] if said["chosen"] else []
    for one in fitting:
        show.line(f"{one['rule']['id']} v{one['rule']['version']}  {one['why']}")
    if not fitting:
        show.line("No rule fits: such a change is never asked about, and never made.")


@app.command()
def put(
    file: Annotated[Path, typer.Argument(help="The rule as JSON; see `mission-root rules show`.")],
    rule: Annotated[str, typer.Option("--id", help="The rule that gets its next version; without it a new rule.")] = "",
    validate_only: Annotated[bool, typer.Option(help="Check everything, change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Writes a rule, or its next version. Open approvals keep the version they were born under."""
    body = declared.body_in(file, ANSWERED)
    parameters = {"validate_only": "true"} if validate_only else {}
    with Client(url, api_key) as client:
        if rule:
            path = f"/v1/approval-rules/{segment(rule)}"
            made = client.put(path, body, if_match=client.get(path).etag, **parameters).body
        else:
            made = client.post("/v1/approval-rules", body, **parameters).body
    if as_json:
        emit(made)
    else:
        show.line(
            "The rule would be taken." if validate_only else f"Rule {made['id']} is at version {made['version']}."
        )


def show_rules(items: list[dict[str, Any]]) -> None:
    table = show.rows("id", "v", "for", "connector", "operation", "risk", "asks", "life", "ladder")
    for item in items:
        ladder = ", ".join(
            f"{hop['kind']}{' ' + hop['role'] if hop.get('role') else ''} after {hop['after_s'] / 3600:g} h"
            for hop in item["hops"]
        )
        table.add_row(
            item["id"], str(item["version"]), item["subject"], show.visible(item["connector"]), show.visible(item["operation"]),
            item["risk"], f"{item['required']} {item['approver_role']}", f"{item['life_s'] / 3600:g} h", ladder,
        )  # fmt: skip
    show.out.print(table)
