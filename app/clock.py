"""Time and ids: the only place that asks the system for either, so tests can replace both."""

import os
import threading
import time
import uuid
from datetime import UTC, datetime

from asyncpg.pgproto.pgproto import UUID  # a uuid.UUID as rows bring them, made and written ten times as fast


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> uuid.UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then randomness, so ids made later sort later."""
    drawn, milliseconds = random_bytes(10), time.time_ns() // 1_000_000
    versions = bytes((0x70 | drawn[0] & 0x0F, drawn[1], 0x80 | drawn[2] & 0x3F))
    return UUID(milliseconds.to_bytes(6, "big") + versions + drawn[3:])


_drawn, _drawing = bytearray(), threading.Lock()


def random_bytes(count: int) -> bytes:
    """Unpredictable bytes, from the system, drawn in advance: asking it each time costs more than most of what they are for."""
    with _drawing:
        if len(_drawn) < count:
            _drawn.extend(os.urandom(4096))
        taken = bytes(_drawn[-count:])
        del _drawn[-count:]
    return taken


os.register_at_fork(after_in_child=_drawn.clear)  # two processes never use the same


def iso(moment: datetime) -> str:
    """UTC with microseconds and a Z: how every instant leaves this service."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
