"""From settings to what a process holds of the keys of recordings."""

from collections.abc import Mapping

from app.ledger import Signer, keyring, signer
from app.settings import Misconfigured, Settings


def sides(settings: Settings) -> tuple[Signer | None, Mapping[str, bytes]]:
    """Who signs what leaves (None: nothing leaves), and whose files are believed: theirs and one's own. Raises Misconfigured."""
    signing = None
    try:
        trusted = dict(keyring(settings.transfer_trusted_keys).by_kid)
    except ValueError as wrong:
        raise Misconfigured(f"TRANSFER_TRUSTED_KEYS {wrong}.") from None
    if settings.transfer_signing_key is not None:
        try:
            signing = signer(settings.transfer_signing_key.get_secret_value())
        except ValueError as wrong:
            raise Misconfigured(f"TRANSFER_SIGNING_KEY {wrong}.") from None
        trusted |= signing.public()
    return signing, trusted
