"""Leads with what happened to them, in order, and the moment all of it is judged from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from colony.tools import Record

CLOSED = frozenset({"won", "lost"})
_TWO_WAY = frozenset({"email_in", "call", "meeting"})


@dataclass(frozen=True)
class Activity:
    record: Record
    kind: str
    at: datetime
    outcome: str

    @property
    def answered(self) -> bool:
        """Did the other side say something?"""
        return self.kind in _TWO_WAY and self.outcome != "no_answer"


@dataclass(frozen=True)
class LeadFacts:
    """One lead and its activities, oldest first. `as_of` is the newest activity in the whole CRM.

    Judging from the data instead of from the clock makes the same records give the same score on any day.
    """

    record: Record
    activities: tuple[Activity, ...]
    as_of: datetime

    @property
    def name(self) -> str:
        return str(self.record.fields.get("name") or self.record.record_id)

    @property
    def open(self) -> bool:
        return self.record.fields.get("stage") not in CLOSED

    def days_since(self, activity: Activity) -> int:
        return max((self.as_of - activity.at).days, 0)

    def answered_within(self, days: int) -> list[Activity]:
        return [one for one in self.activities if one.answered and self.days_since(one) <= days]

    @property
    def last_answered(self) -> Activity | None:
        return next((one for one in reversed(self.activities) if one.answered), None)

    @property
    def unanswered_tries(self) -> list[Activity]:
        """Attempts since the other side last spoke that nobody answered."""
        tries: list[Activity] = []
        for one in reversed(self.activities):
            if one.answered:
                break
            if one.outcome == "no_answer":
                tries.append(one)
        return tries

    @property
    def mixed(self) -> tuple[Activity, Activity] | None:
        """The newest yes and the newest no of the last 45 days, when there are both."""
        recent = self.answered_within(45)
        yes = [one for one in recent if one.outcome == "positive"]
        no = [one for one in recent if one.outcome == "negative"]
        return (yes[-1], no[-1]) if yes and no else None


def assemble(
    leads: Iterable[Record], activities: Sequence[Record], wanted: frozenset[str] = frozenset()
) -> list[LeadFacts]:
    """Leads by id; `wanted` limits them. An activity whose time cannot be read is left out."""
    known = sorted(
        (one for record in activities if (one := _activity(record))), key=lambda one: (one.at, one.record.record_id)
    )
    as_of = known[-1].at if known else datetime(1970, 1, 1, tzinfo=UTC)
    of_lead: dict[str, list[Activity]] = {}
    for one in known:
        of_lead.setdefault(str(one.record.fields.get("lead_id")), []).append(one)
    found = []
    for lead in sorted(leads, key=lambda record: record.record_id):
        identity = str(lead.fields.get("id", lead.record_id))
        if not wanted or wanted & {identity, lead.record_id}:
            found.append(LeadFacts(lead, tuple(of_lead.get(identity, ())), as_of))
    return found


def _activity(record: Record) -> Activity | None:
    try:
        at = datetime.fromisoformat(str(record.fields["at"]))
    except (KeyError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Activity(record, str(record.fields.get("kind")), at, str(record.fields.get("outcome") or "neutral"))
