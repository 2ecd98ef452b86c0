"""The cited bytes, wherever they are kept: whole where they are in the database, else only what citations point at."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Protocol

from app.artifacts import Located, Objects, removed
from app.errors import Problem
from colony_client.artifacts import MAX_QUOTE, Citation

LONGEST = 4 * MAX_QUOTE  # bytes that a quote can have

UNUSABLE = {"artifact_missing": "missing in the store", "artifact_damaged": "damaged in the store"}


class Part:
    """A large source of which only some spans were read. It is asked for these as bytes would be."""

    def __init__(self, size: int, spans: dict[tuple[int, int], bytes]) -> None:
        self.size, self.spans = size, spans

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, span: slice) -> bytes:
        """b"" for what was not read: a span that no quote can fill."""
        return self.spans.get((span.start, span.stop), b"")


Stored = bytes | Part | str  # a str says why there are no bytes


class Citing(Protocol):
    """What is reviewed: what it cites, where that is, and the bytes as far as they are there."""

    placed: dict[str, Located]
    stored: dict[str, Stored]

    def cited(self) -> list[Citation]: ...


async def fetch(found: Iterable[Citing], objects: Objects) -> None:
    """Completes what is to be reviewed by the bytes it cites. No transaction is open meanwhile.

    Bytes that are missing, damaged or removed leave what cites them unverified; a store that does not answer raises
    Problem upstream_unavailable, and the review is tried again.
    """
    for material in found:
        cited: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for citation in material.cited():
            cited[citation.source].add((citation.start, citation.end))
        for source, spans in cited.items():
            place = material.placed.get(source)
            known = material.stored.get(source)
            if place is None or (known is not None and not isinstance(known, Part)):
                continue
            read = await stored(place, spans - known.spans.keys() if known else spans, objects)
            if known and isinstance(read, Part):
                known.spans.update(read.spans)
            else:
                material.stored[source] = read


async def stored(place: Located, spans: Collection[tuple[int, int]], objects: Objects) -> Stored:
    if place.removed_at is not None:
        return removed(place.removed_at)
    if place.inline is not None:
        return place.inline
    try:
        return Part(
            place.size,
            {
                (start, end): await objects.read(place, start, end)
                for start, end in sorted(spans)
                if end <= place.size and end - start <= LONGEST
            },
        )
    except Problem as refused:
        if refused.code not in UNUSABLE:
            raise
        return UNUSABLE[refused.code]


async def whole(place: Located, objects: Objects) -> bytes | None:
    """All bytes of a source; None where there are none that can be used."""
    try:
        return None if place.removed_at is not None else await objects.read(place)
    except Problem as refused:
        if refused.code not in UNUSABLE:
            raise
        return None
