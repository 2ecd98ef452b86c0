"""`mission-root principals …`: who may act in the tenant, over HTTP. The first admin is made by `mission-root identity`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment

app = typer.Typer(help="Who may act: principals, their roles and identities.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The principal's id.")]
Role = Annotated[str, typer.Argument(help="The role.")]
Ends = Annotated[str, typer.Option("--expires-at", help="When it ends by itself, as 2030-01-31T12:00:00Z.")]
Starts = Annotated[str, typer.Option("--starts-at", help="When it begins; now unless told otherwise.")]
Repeat = Annotated[str, typer.Option("--idempotency-key", help="Makes a repeat of this command safe.")]


class Kind(StrEnum):
    human = "human"
    service = "service"
    agent = "agent"


@app.command("list")
def listed(
    kind: Annotated[Kind | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Everybody of the tenant, newest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/principals", limit, kind=kind.value if kind else "")
    rows = [(one["id"], one["name"], one["kind"], one["state"]) for one in items]
    emit({"items": items}) if as_json else show.table(("id", "name", "kind", "state"), rows)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What they are called here.")],
    kind: Annotated[Kind, typer.Option(help="Only humans can approve.")] = Kind.human,
    owner: Annotated[str, typer.Option(help="Who answers for a service or agent, by id.")] = "",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make somebody. Roles, keys and identities are given afterwards."""
    with Client(url, api_key) as client:
        made = client.post(
            "/v1/principals", {"name": name, "kind": kind.value, "owner": owner or None}, idempotency_key=repeat
        ).body
    emit(made) if as_json else show.line(made["id"])


@app.command("show")
def shown(principal: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Somebody, with their grants and identities."""
    path = f"/v1/principals/{segment(principal)}"
    with Client(url, api_key) as client:
        found = client.get(path).body
        found |= {name: client.pages(f"{path}/{name}", 1000) for name in ("grants", "identities")}
    if as_json:
        emit(found)
        return
    show.line(f"{found['name']} ({found['kind']}, {found['state']})")
    show.table(
        ("id", "role", "state", "expires"),
        [(one["id"], one["role"], one["state"], one["expires_at"] or "") for one in found["grants"]],
    )
    if found["identities"]:
        show.table(
            ("id", "issuer", "subject", "ended"),
            [(one["id"], one["issuer"], one["subject"], one["unlinked_at"] or "") for one in found["identities"]],
        )


@app.command()
def suspend(principal: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Their keys and sessions are dead, and their open votes do not count, until resumed."""
    switch(principal, "suspend", url, api_key, as_json)


@app.command()
def resume(principal: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a suspension."""
    switch(principal, "resume", url, api_key, as_json)


NOW = {"suspend": "is suspended", "resume": "is suspended no more"}


def switch(principal: str, verb: str, url: str, api_key: str, as_json: bool) -> None:
    path = f"/v1/principals/{segment(principal)}"
    with Client(url, api_key) as client:
        seen = client.get(path)
        said(client.post(f"{path}/{verb}", if_match=seen.etag).body, f"{seen.body['name']} {NOW[verb]}.", as_json)


@app.command()
def grant(
    principal: Id,
    role: Role,
    starts_at: Starts = "",
    expires_at: Ends = "",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Give a role, for good or for a time. Nobody gives one to themselves."""
    give(principal, "grants", role, starts_at, expires_at, repeat, url, api_key, as_json)


@app.command()
def delegate(
    principal: Id,
    role: Role,
    expires_at: Annotated[str, typer.Option(help="Until when, 31 days at most, as 2030-01-31T12:00:00Z.")],
    starts_at: Starts = "",
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Pass on a role that you hold yourself. It ends with your own."""
    give(principal, "delegations", role, starts_at, expires_at, repeat, url, api_key, as_json)


def give(
    principal: str, to: str, role: str, starts: str, ends: str, repeat: str, url: str, api_key: str, as_json: bool
) -> None:
    asked: dict[str, Any] = {"role": role, "starts_at": starts or None, "expires_at": ends or None}
    asked = {name: value for name, value in asked.items() if value is not None}
    with Client(url, api_key) as client:
        made = client.post(f"/v1/principals/{segment(principal)}/{to}", asked, idempotency_key=repeat).body
    said(made, f"{made['id']} is {made['state']}.", as_json)


@app.command()
def revoke(
    principal: Id,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id; `show` lists them.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take a role away at once, and with it what was passed on from it."""
    with Client(url, api_key) as client:
        ended = client.call("DELETE", f"/v1/principals/{segment(principal)}/grants/{segment(grant_id)}").body
    said(ended, f"{ended['role']} is {ended['state']}.", as_json)


@app.command()
def link(
    principal: Id,
    issuer: Annotated[str, typer.Argument(help="`iss` of their tokens, letter by letter.")],
    subject: Annotated[str, typer.Argument(help="`sub` of their tokens.")],
    repeat: Repeat = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Say who somebody is at the identity provider."""
    path = f"/v1/principals/{segment(principal)}/identities"
    with Client(url, api_key) as client:
        made = client.post(path, {"issuer": issuer, "subject": subject}, idempotency_key=repeat).body
    said(made, f"{made['id']} links {made['subject']}.", as_json)


@app.command()
def unlink(
    principal: Id,
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="The link's id; `show` lists them.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """End a link and every session of the principal."""
    with Client(url, api_key) as client:
        ended = client.call("DELETE", f"/v1/principals/{segment(principal)}/identities/{segment(identity)}").body
    said(ended, f"{ended['subject']} is linked no more.", as_json)


@app.command("end-sessions")
def end_sessions(principal: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End all sessions of somebody; no token issued until now opens another."""
    with Client(url, api_key) as client:
        ended = client.call("DELETE", f"/v1/principals/{segment(principal)}/sessions").body
    said(ended, f"{ended['ended']} sessions ended.", as_json)


def whoami(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Who the API key is, and what it may do."""
    with Client(url, api_key) as client:
        who = client.get("/v1/whoami").body
    said(who, f"{who['name']} ({who['kind']}): {', '.join(who['roles'])}", as_json)


def said(body: dict[str, Any], sentence: str, as_json: bool) -> None:
    emit(body) if as_json else show.line(sentence)
