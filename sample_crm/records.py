"""The kinds of record this CRM keeps, their fields, and what may be changed in them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sample_crm.problems import bad_fields


def _utc(text: str) -> str:
    """Times are kept as the text that was written, so that a read-back shows the very value that was sent."""
    if not text.endswith("Z"):
        raise ValueError("must be a UTC time like 2026-11-02T09:30:00Z")
    datetime.fromisoformat(text)
    return text


def _printable(text: str) -> str:
    if any(ord(character) < 32 and character not in "\n\t" for character in text):
        raise ValueError("must not contain control characters")
    return text


Time = Annotated[str, StringConstraints(max_length=32), AfterValidator(_utc)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_printable)]
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Lead(_Fields):
    id: Line
    name: Line
    company: Line
    email: Email
    stage: Literal["new", "contacted", "qualified", "proposal", "won", "lost"]
    priority: Literal["low", "normal", "high"]
    source: Literal["website", "referral", "event", "partner", "cold_outreach"]
    employees: Annotated[int, Field(ge=0, le=10_000_000)]
    budget_eur: Annotated[int, Field(ge=0, le=10**12)] | None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    owner: Line
    created_at: Time
    last_contact_at: Time | None
    next_action: Line | None
    notes: Text


class Activity(_Fields):
    id: Line
    lead_id: Line
    kind: Literal["email_in", "email_out", "call", "meeting", "web_visit", "download"]
    at: Time
    summary: Text
    outcome: Literal["positive", "neutral", "negative", "no_answer"]


@dataclass(frozen=True)
class Kind:
    model: type[_Fields]
    fixed: frozenset[str]


KINDS = {
    "lead": Kind(Lead, frozenset({"id", "created_at"})),
    "activity": Kind(Activity, frozenset({"id", "lead_id", "kind", "at"})),
}


def changed(kind: str, fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The record's fields after `changes`; a Problem names every field that is unknown, fixed or wrong."""
    known = KINDS[kind].model.model_fields.keys()
    errors = {f"/changes/{name}": f"{kind} has no such field" for name in sorted(changes.keys() - known)}
    errors |= {f"/changes/{name}": "cannot be changed" for name in KINDS[kind].fixed & changes.keys()}
    after = {**fields, **{name: value for name, value in changes.items() if name in known}}
    try:
        KINDS[kind].model.model_validate(after)
    except ValidationError as refused:
        for error in refused.errors(include_url=False, include_input=False):
            errors[f"/changes/{error['loc'][0]}"] = error["msg"]
    if errors:
        raise bad_fields(errors)
    return after
