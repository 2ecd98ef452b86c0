"""`mission-root ledger …`: is the record whole?"""

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit

app = typer.Typer(help="The append-only record.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The append-only record of everything that happened."""


@app.command()
def verify(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Recompute every chain of the ledger; exit code 1 when one does not hold."""
    with Client(url, api_key) as client:
        verdict = client.post("/v1/ledger/verify").body
    emit(verdict) if as_json else show.verdict(verdict)
    if not verdict["verified"]:
        raise Failed(f"The ledger does not verify; the first bad fact: {verdict['first_bad']}.", 1)
