"""What may be logged of an exception, by the root and by a colony."""

import sys
import traceback
from collections.abc import Collection, MutableMapping
from typing import Any


def told(record: MutableMapping[str, Any], speaking: Collection[str] = ()) -> MutableMapping[str, Any]:
    """A record with its exception (`exc_info`: one, or True for the one that is being handled) as types and frames.

    Messages stay out: those of drivers, clients and parsers quote what they were given. speaking: the packages whose messages are
    our own words, and known to hold no one's data.
    """
    error = record.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    causes: list[str] = []
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:  # a chain may bite its own tail
        seen.add(id(error))
        frames = "".join(f"\n  {f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__))
        state = getattr(error, "sqlstate", None)
        said = f": {error}" if type(error).__module__.split(".")[0] in speaking else ""
        causes.append(f"{type(error).__name__}{f' {state}' if state else ''}{said}{frames}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if causes:
        record["exception"] = "\ncaused by ".join(causes)
    return record
