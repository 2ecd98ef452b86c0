"""`mission-root budgets …`: what the tenant may use, what it has used, and who may ask how often."""

import json
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit

app = typer.Typer(help="Limits of the tenant and what was used of them.", no_args_is_help=True)

COUNTS = ("day_tokens", "day_time_ms", "total_tokens", "total_time_ms")
Said = Annotated[str, typer.Option(help="A number, or none for no limit; left out: as it is.")]
Rate = Annotated[str, typer.Option(help="Requests a second, or none for the deployment's setting.")]


@app.command("show")
def shown(
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days back.")] = 7,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """The limits in force, and what was used and is reserved: today, in all, day by day."""
    with Client(url, api_key) as client:
        found = {
            "limits": client.get("/v1/budgets").body,
            "usage": client.get("/v1/budgets/usage", days=days, limit=10).body,
        }
    emit(found) if as_json else budgets(found)


@app.command("set")
def changed(
    day_tokens: Said = "",
    day_cost_usd: Said = "",
    day_time_ms: Said = "",
    total_tokens: Said = "",
    total_cost_usd: Said = "",
    total_time_ms: Said = "",
    rate_key_per_s: Rate = "",
    rate_principal_per_s: Rate = "",
    rate_tenant_per_s: Rate = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Change some limits; the others stay. Needs an admin's key."""
    given = {
        name: value for name, value in locals().items() if value and name.partition("_")[0] in ("day", "total", "rate")
    }
    if not given:
        raise Failed("Say which limit to change, such as --day-tokens 2000000 or --day-tokens none.", 2)
    wanted = {name: number(name, value) for name, value in given.items()}
    with Client(url, api_key) as client:
        seen = client.get("/v1/budgets")
        body = {name: value for name, value in seen.body.items() if name not in ("version", "set_by", "set_at")}
        headers = {"If-Match": seen.etag, "Content-Type": "application/json"}
        made = client.call("PUT", "/v1/budgets", json.dumps(body | wanted).encode(), headers).body
    emit(made) if as_json else show.out.print(limits(made))


def number(name: str, value: str) -> float | int | None:
    if value.lower() == "none":
        return None
    try:
        return int(value) if name in COUNTS else float(value)
    except ValueError:
        raise Failed(f"--{name.replace('_', '-')} takes a number or none, not {value}.", 2) from None


def limits(found: dict[str, Any]) -> Any:
    said = {name.replace("_", " "): value for name, value in found.items() if name not in ("set_by", "set_at")}
    return show.pairs({name: figure(name, value) for name, value in said.items()})


def figure(name: str, value: Any) -> str:
    """Counts whole, costs as money: two places, and further ones where there is something in them."""
    if value is None:
        return "-"
    if not name.replace(" ", "_").endswith("cost_usd"):
        return str(value)
    whole, _, parts = f"{value:.6f}".partition(".")
    return f"{whole}.{parts.rstrip('0').ljust(2, '0')}"


def budgets(found: dict[str, Any]) -> None:
    usage = found["usage"]
    show.heading("Limits")
    show.out.print(limits(found["limits"]))
    show.heading("Used")
    table = show.rows("when", "of", "used", "reserved", "limit", "left")
    whole = [("in all", usage["total"]), *((day["day"], day) for day in usage["days"] or [usage["today"]])]
    for when, account in whole:
        for name in ("tokens", "cost_usd", "time_ms"):
            one = account[name]
            cells = (figure(name, one[of]) for of in ("used", "reserved", "limit", "left"))
            table.add_row(when if name == "tokens" else "", name, *cells)
    show.out.print(table)
