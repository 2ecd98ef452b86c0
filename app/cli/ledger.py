"""`mission-root ledger …`: is the record whole, how far is it signed outside the database, and the file that proves it."""

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.databases import opened
from app.cli.lists import Limit

if TYPE_CHECKING:
    from app.ledger import Keyring

app = typer.Typer(help="The append-only record.", no_args_is_help=True)

DatabaseUrl = Annotated[
    str, typer.Option("--database-url", help="Verify over the database itself, as its auditor role; needs --tenant.")
]
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's id, with --database-url.")]
AnchorStore = Annotated[
    str, typer.Option("--anchor-store", envvar="ANCHOR_STORE", help="Folder or s3:// URL, with --database-url.")
]
PublicKeys = Annotated[
    str,
    typer.Option("--public-keys", envvar="ANCHOR_PUBLIC_KEYS", help="kid:base64[,kid:base64], with --database-url."),
]
Revoked = Annotated[
    str, typer.Option("--revoked-keys", envvar="ANCHOR_REVOKED_KEYS", help="kid[,kid], with --database-url.")
]


@app.callback()
def group() -> None:
    """The append-only record of everything that happened."""


@app.command()
def verify(
    url: Url = "",
    api_key: ApiKey = "",
    anchors: Annotated[bool, typer.Option("--anchors", help="Fail also when nothing is anchored.")] = False,
    database_url: DatabaseUrl = "",
    tenant: Tenant = "",
    anchor_store: AnchorStore = "",
    public_keys: PublicKeys = "",
    revoked_keys: Revoked = "",
    as_json: AsJson = False,
) -> None:
    """Recompute every chain and hold the ledger against its anchors; exit code 1 when something does not hold."""
    if database_url:
        verdict = asyncio.run(over_database(database_url, tenant, anchor_store, public_keys, revoked_keys))
    else:
        with Client(url, api_key) as client:
            verdict = client.post("/v1/ledger/verify").body
    emit(verdict) if as_json else show.verdict(verdict)
    if not verdict["verified"]:
        bad = verdict["first_bad"] or verdict["anchors"]["failed"]
        raise Failed(f"The ledger does not verify; the first bad fact: {bad}.", 1)
    if anchors and verdict["anchors"]["state"] != "ok":
        raise Failed(f"No anchor covers the ledger (state {verdict['anchors']['state']}).", 1)


async def over_database(url: str, tenant: str, place: str, public: str, revoked: str) -> dict[str, Any]:
    """The same verdict without the service: a database URL that may read the ledger, the store, and public keys."""
    from app import ledger

    try:
        of = UUID(tenant)
        keys = ledger.keyring(public, revoked)
        store = ledger.open_store(place) if place else None
    except (ValueError, OSError) as wrong:
        raise Failed(f"--tenant, --public-keys or --anchor-store cannot be used: {wrong}.", 2) from wrong
    async with opened(url, 1) as database:
        verdict, anchored = await ledger.audit(ledger.inside_of(database, of), of, store, keys)
    return {**vars(verdict), "anchors": anchored}


@app.command("list")
def list_(
    subject: Annotated[str, typer.Option(help="Only facts about this mission or tenant.")] = "",
    limit: Limit = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Facts in the order of the record, oldest first."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/ledger", limit, subject=subject)
    if as_json:
        return emit({"items": items})
    for one in items:
        told = "  ".join(f"{name}={value}" for name, value in one["body"].items())
        show.line(f"{one['id']:>12}  {one['at']}  {one['type']:<28}  {one['subject']}  {told}")
    if not items:
        show.line("No facts yet: mission-root missions create --help")


@app.command()
def prove(
    fact: Annotated[str, typer.Argument(metavar="FACT", help="The fact's id, such as 812-331.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """That one fact is in the tree which the newest anchor signs."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/ledger/facts/{segment(fact)}/proof").body
    if as_json:
        return emit(found)
    anchor = found["anchor"]
    show.line(
        f"{found['position']} is leaf {found['index']} of {anchor['tree_size']} in the tree of anchor {anchor['number']}."
    )
    show.line(f"root {anchor['root']}, signed by {anchor['key']} at {anchor['at']}")
    for step in found["path"]:
        show.line(f"  {step}")


@app.command()
def anchors(
    url: Url = "",
    api_key: ApiKey = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most, oldest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The signed roots that are kept outside the database."""
    with Client(url, api_key) as client:
        found = client.pages("/v1/ledger/anchors", limit)
    if as_json:
        emit(found)
        return
    for one in found:
        show.line(
            f"{one['number']:>6}  {one['at']}  {one['tree_size']:>9} facts  root {one['root'][:16]}…  key {one['key']}"
        )
    if not found:
        show.line("Nothing is anchored yet.")


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    mission: Annotated[
        str, typer.Option("--mission", help="Only the facts of this mission, each with its proof.")
    ] = "",
    url: Url = "",
    api_key: ApiKey = "",
    verifier: Annotated[Path | None, typer.Option("--verifier", help="Write verify_ledger.py here, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the ledger, or one mission's facts, to one file that verifies offline (`python verify_ledger.py FILE`)."""
    from app.ledger import offline

    with Client(url, api_key) as client:
        size = client.download("/v1/ledger/export", out, subject=mission)
    if verifier is not None:
        verifier.write_bytes(Path(offline.__file__).read_bytes())
    emit({"file": str(out), "bytes": size}) if as_json else show.line(f"Wrote {out} ({size} bytes).")


@app.command()
def keys(
    new: Annotated[str, typer.Option("--new", metavar="KID", help="Make a key of this name.")] = "",
    as_json: AsJson = False,
) -> None:
    """The public halves of ANCHOR_SIGNING_KEY and ANCHOR_PUBLIC_KEYS; with --new, a fresh signing key."""
    import secrets

    from app import ledger
    from app.settings import Misconfigured, load

    try:
        if new:
            seed = f"{new}:{base64.b64encode(secrets.token_bytes(32)).decode()}"
            made = {"signing_key": seed, "public_key": ledger.public_text(ledger.signer(seed).public())}
            if as_json:
                emit(made)
            else:
                show.line(f"ANCHOR_SIGNING_KEY {made['signing_key']}")
                show.line(f"ANCHOR_PUBLIC_KEYS {made['public_key']}")
            return
        settings = load()
        known = ledger.keyring(settings.anchor_public_keys, settings.anchor_revoked_keys)
        signing = ledger.signer(settings.anchor_signing_key.get_secret_value()) if settings.anchor_signing_key else None
    except (ValueError, Misconfigured) as wrong:
        raise Failed(f"The keys cannot be used: {wrong}", 2) from wrong
    found = told(known, signing.public() if signing else {}, signing.kid if signing else "")
    if as_json:
        emit(found)
    else:
        for one in found:
            show.line(f"{one['kid']}:{one['public_key']}  {one['use']}")
        if not found:
            show.line("No keys are set: neither ANCHOR_SIGNING_KEY nor ANCHOR_PUBLIC_KEYS; --new KID makes one.")


def told(known: "Keyring", own: dict[str, bytes], signing: str) -> list[dict[str, str]]:
    uses = {
        kid: "revoked" if kid in known.revoked else "signs" if kid == signing else "verifies"
        for kid in {**own, **known.by_kid}
    }
    return [
        {"kid": kid, "public_key": base64.b64encode(raw).decode(), "use": uses[kid]}
        for kid, raw in {**own, **known.by_kid}.items()
    ]
