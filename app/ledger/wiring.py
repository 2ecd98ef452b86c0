"""From settings to what processes hold of anchors: serve reads and verifies, the worker alone signs."""

from datetime import timedelta

from app.components import Component
from app.db import Database, ReadSession
from app.ledger.anchors import Anchorer, overdue
from app.ledger.keys import Keyring, keyring, signer
from app.ledger.store import UNREACHABLE, Store, open_store
from app.settings import Misconfigured, Settings

EFFECT = "Facts that are recorded now are held by their chains alone: who rules the database could still rewrite them unseen."


def reading_side(settings: Settings) -> tuple[Store | None, Keyring]:
    """What a process that serves HTTP verifies with: it could sign nothing. Raises Misconfigured."""
    if settings.anchor_signing_key is not None:
        raise Misconfigured("ANCHOR_SIGNING_KEY is set, but only the worker signs anchors: remove it here.")
    return store_and_keys(settings)


def store_and_keys(settings: Settings) -> tuple[Store | None, Keyring]:
    try:
        keys = keyring(settings.anchor_public_keys, settings.anchor_revoked_keys)
    except ValueError as wrong:
        raise Misconfigured(f"ANCHOR_PUBLIC_KEYS {wrong}.") from None
    return opened(settings.anchor_store), keys


def signing_side(settings: Settings, database: Database) -> Anchorer | None:
    """What a worker anchors with; None when it has no store or no key. Raises Misconfigured."""
    store, keys = store_and_keys(settings)
    if store is None or settings.anchor_signing_key is None:
        return None
    try:
        signing = signer(settings.anchor_signing_key.get_secret_value())
    except ValueError as wrong:
        raise Misconfigured(f"ANCHOR_SIGNING_KEY {wrong}.") from None
    interval = timedelta(seconds=settings.anchor_interval_s)
    return Anchorer(database, store, signing, keys, interval, settings.anchor_max_facts)


def opened(place: str | None) -> Store | None:
    if not place:
        return None
    try:
        return open_store(place)
    except (*UNREACHABLE, ValueError) as wrong:
        raise Misconfigured(f"ANCHOR_STORE cannot be opened: {wrong}.") from None


def component(store: Store | None) -> Component:
    made = Component("anchors", EFFECT, opens_after=1_000_000)  # late anchors degrade the service; they never stop it
    if store is None:
        made.state, made.detail = "off", "ANCHOR_STORE is not set"
    return made


async def look(session: ReadSession, settings: Settings, found: Component) -> None:
    """Whether the session's tenant has facts that should have been anchored long ago."""
    if found.state == "off":
        return
    waited = await overdue(session, settings.anchor_interval_s)
    if waited is None:
        found.succeeded()
    else:
        found.failed(f"facts of this tenant have waited {waited:.0f} s for an anchor")
