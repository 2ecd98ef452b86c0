"""`mission-root approvers …`: the keys that approvers sign with, and what has to be signed. Never over HTTP.

A process that serves HTTP holds live secrets while it works; taken over, it must find nothing here to undo what holds it
off. So these commands take the registrar's database login and, besides, the secret of each person who acts.
"""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Failed, emit

app = typer.Typer(
    no_args_is_help=True, help="Keys that sign approvals, and what has to be signed. Needs REGISTRAR_DATABASE_URL."
)
Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]
KeyId = Annotated[UUID, typer.Argument(metavar="KEY", help="The signing key's id.")]

KEYS = """SELECT k.id, p.name, k.public_key, k.requested_at, k.confirmed_at, k.revoked_at
          FROM approver_key k JOIN principal p ON p.tenant = k.tenant AND p.id = k.principal
          WHERE k.tenant = :tenant ORDER BY k.requested_at"""
FLOORS = """SELECT connector, operation, version, risk FROM risk_floor f WHERE tenant = :tenant AND NOT EXISTS (
              SELECT 1 FROM risk_floor n WHERE n.tenant = f.tenant AND n.connector = f.connector AND n.operation = f.operation
                AND n.version > f.version) ORDER BY connector, operation"""
# What the wall refuses: its constraint or code, said to a person.
REFUSED = {
    "RX013": "Nobody of this tenant has this secret: give your own with --api-key or MISSION_ROOT_API_KEY.",
    "approver_key_two_people": "Whoever owns a key or asked for it does not confirm it: a second admin does.",
    "approver_key_tenant_public_key_key": "This public key was registered before; make a new one with new-key.",
    "approver_key_public_key_check": "A public key is 32 bytes of Ed25519 in hex: new-key prints it.",
    "risk_floor_risk_check": "A risk is low, medium or high.",
}


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the file must not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Make a signing key on this machine. The private half stays in the file; the public half is printed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from app.signed import public_bytes

    key = Ed25519PrivateKey.generate()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror}.", 5) from None
    said({"public_key": public_bytes(key).hex(), "file": str(file)}, as_json)


@app.command("request-key")
def request_key(
    tenant: Tenant,
    name: Annotated[str, typer.Argument(help="Whose decisions it signs: the principal's name.")],
    public_key: Annotated[str, typer.Argument(help="The public key in hex, as new-key printed it.")],
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Ask for a key to be registered: its owner does, or an admin. It counts once a second person confirms it."""
    try:
        public = bytes.fromhex(public_key)
    except ValueError:
        raise Failed(REFUSED["approver_key_public_key_check"], 2) from None
    statement = """SELECT request_approver_key(:tenant, :secret,
                     (SELECT id FROM principal WHERE tenant = :tenant AND name = :name), :public)"""
    key = call(tenant, statement, secret=own(api_key), name=name, public=public)
    said({"key": str(key), "state": "waits for a second person"}, as_json)


@app.command("confirm-key")
def confirm_key(tenant: Tenant, key: KeyId, api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Confirm a key that another person asked for. Compare the public key with its owner first; takes an admin."""
    if not call(tenant, "SELECT confirm_approver_key(:tenant, :secret, :key)", secret=own(api_key), key=key):
        raise Failed("No such key waits to be confirmed.", 3)
    said({"key": str(key), "state": "live"}, as_json)


@app.command("revoke-key")
def revoke_key(tenant: Tenant, key: KeyId, api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a key at once: its owner does, or an admin. What is claimed from now on no longer counts it."""
    if not call(tenant, "SELECT revoke_approver_key(:tenant, :secret, :key)", secret=own(api_key), key=key):
        raise Failed("There is no live key with this id.", 3)
    said({"key": str(key), "state": "revoked"}, as_json)


@app.command("list")
def listed(tenant: Tenant, as_json: AsJson = False) -> None:
    """The signing keys of a tenant, and how risky each kind of change is at least."""
    keys = [
        {
            "key": str(row.id),
            "principal": row.name,
            "public_key": bytes(row.public_key).hex(),
            "state": "revoked" if row.revoked_at else "live" if row.confirmed_at else "waits for a second person",
        }
        for row in read(tenant, KEYS)
    ]
    floors = [
        {"connector": r.connector, "operation": r.operation, "version": r.version, "risk": r.risk}
        for r in read(tenant, FLOORS)
    ]
    if as_json:
        emit({"keys": keys, "risk_floors": floors})
        return
    for one in (*keys, *floors):
        show.line("  ".join(str(value) for value in one.values()))


@app.command("risk-floor")
def risk_floor(
    tenant: Tenant,
    connector: Annotated[str, typer.Argument(help="The connector's name; * for every one.")],
    operation: Annotated[str, typer.Argument(help="The operation; * for every one.")],
    risk: Annotated[str, typer.Argument(help="low, medium or high.")],
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Say how risky a kind of change is at least, whatever its asker says of it. Takes a policy owner."""
    statement = "SELECT put_risk_floor(:tenant, :secret, :connector, :operation, :risk)"
    version = call(tenant, statement, secret=own(api_key), connector=connector, operation=operation, risk=risk)
    said({"connector": connector, "operation": operation, "risk": risk, "version": version}, as_json)


@app.command("waive-signatures")
def waive_signatures(
    tenant: Tenant,
    rule: Annotated[UUID, typer.Argument(metavar="RULE", help="The approval rule's id.")],
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take a rule's demand for signatures back, which no route can. What was asked before still wants them."""
    version = call(tenant, "SELECT waive_signatures(:tenant, :secret, :rule)", secret=own(api_key), rule=rule)
    if version is None:
        raise Failed("There is no rule with this id that asks for signatures.", 3)
    said({"rule": str(rule), "version": version}, as_json)


def own(api_key: str) -> str:
    """The secret of whoever acts."""
    if not api_key:
        raise Failed(REFUSED["RX013"], 2)
    return api_key


def call(tenant: str, statement: str, **values: Any) -> Any:
    return asyncio.run(transaction(tenant, statement, values))[0][0]


def read(tenant: str, statement: str) -> Any:
    return asyncio.run(transaction(tenant, statement, {}))


async def transaction(tenant: str, statement: str, values: dict[str, Any]) -> Any:
    """One statement as role registrar within a tenant."""
    from sqlalchemy.exc import DBAPIError

    from app import identity
    from app.db import Database
    from app.settings import Misconfigured, load

    try:
        database = Database(load().database("registrar_database_url"), pool_size=1, name="mission-root approvers")
    except Misconfigured as refused:
        raise Failed(str(refused), 2) from None
    try:
        async with database.write() as session:
            if await identity.enter_tenant(session, tenant) is None:
                raise Failed(f"There is no tenant {tenant}.", 3)
            return await session.rows(statement, {"tenant": session.tenant, **values})
    except DBAPIError as error:
        raise refusal(error) from None
    finally:
        await database.close()


def refusal(error: Any) -> Exception:
    """What the wall said, as a sentence; anything else stays what it is."""
    from app.db import sqlstate

    cause = getattr(error.orig, "__cause__", None)
    known = REFUSED.get(getattr(cause, "constraint_name", None) or sqlstate(error) or "")
    if known:
        return Failed(known, 4 if sqlstate(error) == "RX013" else 5)
    if (sqlstate(error) or "").startswith("RX"):
        sentence = str(cause).removeprefix("wall: ")
        return Failed(f"{sentence[:1].upper()}{sentence[1:]}.", 4)
    return error


def said(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(answer)
        return
    for name, value in answer.items():
        show.line(f"{name:10} {value}")
