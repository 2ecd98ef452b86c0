"""What stands behind a result: words that are short, printable, and free of secrets."""

import re
from collections.abc import Iterable
from unicodedata import category

MOST = 1_500  # characters of the evidence of one requirement
MOST_SAID = 400  # characters of one body in it

_TOKEN = re.compile(r"mt1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
_API_KEY = re.compile(r"mr_[0-9a-f]{8}_[A-Za-z0-9_-]+")
_secrets: set[str] = set()


def keep_secret(secrets: Iterable[str]) -> None:
    """Words that no evidence may hold from now on."""
    _secrets.update(one for one in secrets if one)


def clean(words: str, most: int = MOST) -> str:
    """Words for a report: secrets and mission tokens blotted out, only characters that can be seen, cut to `most` characters."""
    for secret in _secrets:
        words = words.replace(secret, "[secret]")
    words = _API_KEY.sub("[key]", _TOKEN.sub("[token]", words))
    words = "".join(c if category(c)[0] != "C" else " " for c in words)
    return words if len(words) <= most else f"{words[: most - 1]}…"


def said(body: bytes) -> str:
    """The beginning of a body."""
    text = body[: 4 * MOST].decode(errors="replace")
    return clean(text, MOST_SAID) + (f" ({len(body)} bytes)" if len(body) > MOST_SAID else "")
