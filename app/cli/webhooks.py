"""`mission-root webhooks …`: where facts are delivered, and what came of it."""

import json
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Url, emit, segment
from app.cli.lists import listed as listed_as

app = typer.Typer(help="Facts delivered to an address, signed.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.")]


@app.command("list")
def listed(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Webhooks, with what waits and what was given up."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/webhooks", limit)
    listed_as(
        items, as_json, ("id", "state", "waits", "address", "types"),
        lambda one: (
            one["id"], one["state"], f"{one['pending']} pending, {one['dead']} dead", one["url"], ", ".join(one["types"]),
        ),
        "No webhook yet: mission-root webhooks create https://…",
    )  # fmt: skip


@app.command("show")
def shown(webhook: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One webhook: what it takes, what waits, since when it fails."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/webhooks/{segment(webhook)}").body
    emit(found) if as_json else show.out.print(show.pairs(found))


@app.command()
def create(
    address: Annotated[str, typer.Argument(metavar="URL", help="Where facts are sent: https, at a public address.")],
    type: Annotated[list[str] | None, typer.Option(help="mission.completed, approval.* or *; repeat for more.")] = None,
    signing: Annotated[
        list[str] | None, typer.Option(help="v1 (HMAC-SHA256) or v1a (Ed25519); repeat for both.")
    ] = None,
    from_start: Annotated[bool, typer.Option(help="Every fact there ever was, not only those from now on.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make a webhook. Its secret is shown this once."""
    body = {"url": address, "types": type or ["*"], "signing": signing or ["v1"], "from_start": from_start}
    with Client(url, api_key) as client:
        made = client.post("/v1/webhooks", body).body
    if as_json:
        emit(made)
        return
    show.line(f"webhook  {made['id']}")
    if made["secret"]:
        show.line(f"secret   {made['secret']}   (shown this once)")
    for one in made["secrets"]:
        if one["public_key"]:
            show.line(f"public   {one['public_key']}")


@app.command()
def rotate(
    webhook: Id,
    kind: Annotated[str, typer.Option(help="v1 or v1a.")] = "v1",
    overlap_s: Annotated[int, typer.Option(help="How long the old secret signs along, in seconds.")] = 86_400,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Make a new secret; the old one signs along for a while."""
    with Client(url, api_key) as client:
        made = client.post(f"/v1/webhooks/{segment(webhook)}/rotate", {"kind": kind, "overlap_s": overlap_s}).body
    emit(made) if as_json else show.line(f"{made['secret'] or made['public_key']}   (shown this once)")


@app.command()
def test(webhook: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Send a test message; `deliveries` shows what came of it."""
    with Client(url, api_key) as client:
        sent = client.post(f"/v1/webhooks/{segment(webhook)}/test").body
    emit(sent) if as_json else show.line(
        f"delivery {sent['id']} is on its way; see: mission-root webhooks deliveries {webhook}"
    )


@app.command()
def deliveries(
    webhook: Id,
    state: Annotated[str, typer.Option(help="pending, delivered, dead or cancelled; empty for all.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What was sent, and what came of each try."""
    with Client(url, api_key) as client:
        items = client.pages(
            f"/v1/webhooks/{segment(webhook)}/deliveries", limit, **({"state": state} if state else {})
        )
    listed_as(
        items, as_json, ("id", "at", "state", "type", "tries", "last"),
        lambda one: (one["id"], one["created_at"], one["state"], one["type"], one["tries"], came_of(one)),
        f"Nothing was sent yet: mission-root webhooks test {webhook}",
    )  # fmt: skip


def came_of(delivery: dict[str, Any]) -> str:
    """What the last try came to."""
    last = delivery["last_tries"][-1] if delivery["last_tries"] else {}
    return str(last.get("status") or last.get("error") or "not tried yet")


@app.command("delivery")
def one_delivery(
    webhook: Id,
    delivery: Annotated[str, typer.Argument(help="The delivery's id.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """One delivery, with what each try came to."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/webhooks/{segment(webhook)}/deliveries/{segment(delivery)}").body
    emit(found) if as_json else show.out.print(show.pairs(found))


@app.command()
def redeliver(
    webhook: Id,
    delivery: Annotated[
        list[str] | None, typer.Option(help="A delivery's id; repeat for more. None: all dead ones.")
    ] = None,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Send again, under the same message ids."""
    with Client(url, api_key) as client:
        done = client.post(f"/v1/webhooks/{segment(webhook)}/redeliver", {"deliveries": delivery or "dead"}).body
    emit(done) if as_json else show.line(f"{done['deliveries']} deliveries are on their way again.")


@app.command()
def pause(webhook: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Stop sending for a while; nothing is lost, it catches up when active again."""
    change(webhook, "paused", url, api_key, as_json)


@app.command()
def resume(webhook: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Send again, from where it stopped."""
    change(webhook, "active", url, api_key, as_json)


def change(webhook: str, state: str, url: str, api_key: str, as_json: bool) -> None:
    path = f"/v1/webhooks/{segment(webhook)}"
    with Client(url, api_key) as client:
        seen = client.get(path)
        headers = {"If-Match": seen.etag, "Content-Type": "application/json"}
        changed = client.call("PATCH", path, json.dumps({"state": state}).encode(), headers).body
    emit(changed) if as_json else show.line(f"{changed['id']} is {changed['state']}")


@app.command()
def delete(webhook: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a webhook and what it still had to deliver."""
    path = f"/v1/webhooks/{segment(webhook)}"
    with Client(url, api_key) as client:
        client.delete(path, if_match=client.get(path).etag)
    emit({"id": webhook, "state": "deleted"}) if as_json else show.line(f"{webhook} is deleted")
