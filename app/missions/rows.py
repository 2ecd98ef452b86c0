"""Requests as `take_in` is given them (migrations/sql/0001/57_intake.sql), and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json

from app.caller import Caller
from app.canonical import mark_of
from app.missions.ask import Replay, Wish, workspace
from app.missions.forms import Form

MIDDLE = b'","updated_at":"'  # what stands between the two times of an answer
TAKE_IN = f"SELECT n, outcome, at, status, headers, body FROM take_in({', '.join(f'${n}' for n in range(1, 45))})"  # noqa: S608  # $1, $2, ...


class Asked(NamedTuple):
    """One request: who, what, and how it is told apart from its repetitions."""

    caller: Caller
    ask: Wish
    key: str | None = None  # Idempotency-Key
    fingerprint: bytes = b""
    traceparent: str | None = None
    request_id: str | None = None
    replay: Replay | None = None
    path: str = "/v1/missions"  # where it was asked


@dataclass(slots=True)
class Judged:
    """A request with what became of it, ready to be kept. An answer without a tail is its head."""

    asked: Asked
    form: Form
    mission: UUID
    contract: bytes
    envelope: bytes
    decision: UUID
    artifact: UUID
    fact: bytes
    status: int
    headers: dict[str, str]
    head: bytes
    tail: bytes | None
    labels: str
    ladder: int | None  # the change of the ladder that was looked at; None where none binds

    @property
    def size(self) -> int:
        return 2 * len(self.envelope) + len(self.form.inputs) + len(self.head)


class Kept(NamedTuple):
    """What take_in says of one row."""

    outcome: str
    at: datetime
    status: int | None = None
    headers: dict[str, str] | None = None
    body: bytes | None = None


def columns(together: Sequence[Judged]) -> list[Any]:
    """The arguments of take_in, in its order: callers once, what was judged once, then a list for every column of the requests."""
    callers: dict[tuple[Any, ...], int] = {}
    judged: dict[tuple[int, Form], int] = {}
    places = []
    for one in together:
        caller = callers.setdefault(confirmed(one), len(callers) + 1)
        places.append(judged.setdefault((caller, one.form), len(judged) + 1))
    rows = zip(*(row(one) for one in together), strict=True)
    *most, tails = map(list, rows)
    return [
        *map(list, zip(*callers, strict=True)),
        *map(list, zip(*((caller, *form.columns) for caller, form in judged), strict=True)),
        places,
        *most,
        MIDDLE,
        tails,
    ]


def confirmed(one: Judged) -> tuple[Any, ...]:
    """What has to be so still: who asks, as whom, by which rules, and where the tenant stands on the ladder."""
    caller, form = one.asked.caller, one.form
    return caller.secret, caller.tenant, caller.principal, form.roles, form.change, form.rules, one.ladder


def row(one: Judged) -> tuple[Any, ...]:
    """What is the request's own. How it is answered is kept only for whoever may ask again."""
    asked, keyed = one.asked, one.asked.key is not None
    return (
        one.mission,
        workspace(asked.ask.inputs),
        one.contract,
        one.labels,
        asked.traceparent,
        one.decision,
        one.artifact,
        one.envelope,
        one.fact,
        mark_of(asked.request_id),
        asked.key,
        asked.fingerprint if keyed else None,
        one.status,
        to_json(one.headers).decode() if keyed else None,
        one.head if keyed else None,
        one.tail if keyed else None,
    )
