"""RFC 8785 bytes of JSON values. The standard library's encoder, in C, writes most values exactly as the RFC wants them; what
it would write otherwise goes to the library that is written for the RFC, in Python, at twenty times the cost."""

import json
from typing import Any

import rfc8785

CanonicalizationError = rfc8785.CanonicalizationError

_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_SAFE = 2**53 - 1


class _Unlike(Exception):
    """The standard library would write this otherwise."""


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value. Raises CanonicalizationError for what has none."""
    try:
        return _encode(_alike(value)).encode()
    except (_Unlike, UnicodeEncodeError, RecursionError):
        return rfc8785.dumps(value)


def _alike(value: Any) -> Any:
    """The value with whole floats as integers: then both write it alike, or _Unlike is raised."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        if -_SAFE <= value <= _SAFE:
            return value
    elif kind is dict:
        for name in value:
            if type(name) is not str or not name.isascii():  # the RFC sorts by UTF-16 units, Python by code points
                raise _Unlike
        return {name: _alike(item) for name, item in value.items()}
    elif kind is list or kind is tuple:
        return [_alike(item) for item in value]
    elif kind is float:
        if value.is_integer() and abs(value) <= _SAFE:
            return int(value)
        if 1e-4 <= abs(value) < _SAFE:  # beyond, Python and JavaScript differ in when they write an exponent
            return value
    raise _Unlike
