"""What the kits take from the environment: the service key, under the names of the environment contract."""

import os
from collections.abc import Mapping

from colony_client.signing import Keys, parse_keys
from colony_kit.evidence import keep_secret

VARIABLES = ("COLONY_SERVICE_API_KEY", "ROOT_API_KEY")  # the root's name for the key, and the colony's


class Misuse(Exception):
    """The kit cannot be run like this; the message is one sentence for whoever started it."""


def service_keys(environment: Mapping[str, str] = os.environ) -> Keys:
    """The key that root and colony share. Raises Misuse."""
    for variable in VARIABLES:
        if given := environment.get(variable):
            try:
                keys = parse_keys(given, variable)
            except ValueError as wrong:
                raise Misuse(str(wrong)) from None
            keep_secret(secret.decode() for secret in keys.by_kid.values())
            return keys
    raise Misuse(f"No key: set {VARIABLES[0]} or {VARIABLES[1]} to the kid:secret that root and colony share.")


def address(text: str) -> tuple[str, int]:
    """HOST:PORT; port 0 is any free one. Raises Misuse."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misuse(f"{text!r} is no address to listen on: give HOST:PORT, such as 127.0.0.1:0.")
    return host.strip("[]"), int(port)
