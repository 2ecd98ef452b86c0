"""`mission-root artifacts …`: are all stored bytes there, and whole?"""

import asyncio
from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli import show
from app.cli.client import AsJson, Failed, emit
from app.cli.databases import opened

app = typer.Typer(help="Stored bytes.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The bytes that artifacts and citations stand on."""


@app.command()
def verify(
    database_url: Annotated[str, typer.Option("--database-url", help="The database, as its role auditor.")],
    artifact_store: Annotated[
        str, typer.Option("--artifact-store", envvar="ARTIFACT_STORE", help="Folder or s3:// URL, as serve has it.")
    ] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only this tenant, by its id.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read and hash everything that is kept; exit code 1 when something is missing or damaged."""
    found = asyncio.run(over_database(database_url, artifact_store, tenant))
    if as_json:
        emit(found)
    else:
        for one in found["findings"]:
            show.line(f"{one['found']:<8} {one['what']:<9} {one['sha256']}  tenant {one['tenant']}")
        show.line(
            f"{found['sources']} sources and {found['artifacts']} artifacts, {found['size']} bytes: "
            f"{found['missing']} missing, {found['damaged']} damaged; {found['removed']} removed under retention."
        )
    if found["missing"] or found["damaged"]:
        raise Failed(f"{found['missing']} are missing and {found['damaged']} damaged.", 1)


async def over_database(url: str, place: str, tenant: str) -> dict[str, Any]:
    from app.artifacts import Objects
    from app.artifacts.verify import verify as verified
    from app.errors import Problem
    from app.ledger import open_store

    try:
        of = UUID(tenant) if tenant else None
        objects = Objects(open_store(place) if place else None, 0)
    except (ValueError, OSError) as wrong:
        raise Failed(f"--tenant or --artifact-store cannot be used: {wrong}.", 2) from wrong
    try:
        async with opened(url, 2) as database:
            return vars(await verified(database, objects, of))
    except Problem as refused:
        raise Failed(refused.detail, 7) from refused
