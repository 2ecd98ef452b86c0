"""Bytes that are the same again and again but for a few places: rendered once, then only the places are filled.

What is rendered holds a placeholder at each place. Placeholders are made of MARK, which nobody outside this process knows:
nothing that a caller wrote is mistaken for one.
"""

import secrets
from collections.abc import Iterator, Mapping
from operator import itemgetter

MARK = secrets.token_hex(16)


class Stencil:
    """places: the placeholder of each name. Raises ValueError when one of them is nowhere in what was rendered."""

    def __init__(self, rendered: bytes, places: Mapping[str, bytes]) -> None:
        pieces, order, done = [], [], 0
        for at, name in sorted((at, name) for name, mark in places.items() for at in finds(rendered, mark)):
            pieces.append(rendered[done:at])
            order.append(name)
            done = at + len(places[name])
        pieces.append(rendered[done:])
        if set(order) != set(places):
            raise ValueError(f"no place for {sorted(set(places) - set(order))}")
        self._format = b"%b".join(piece.replace(b"%", b"%%") for piece in pieces)
        self._values = itemgetter(*order)

    def fill(self, values: Mapping[str, bytes]) -> bytes:
        """The bytes with a value in every place, each as often as its placeholder stood there."""
        return self._format % self._values(values)


def finds(rendered: bytes, mark: bytes) -> Iterator[int]:
    at = rendered.find(mark)
    while at >= 0:
        yield at
        at = rendered.find(mark, at + len(mark))
