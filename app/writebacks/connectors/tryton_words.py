"""Tryton's words: how kinds, ids, versions and values are said to Tryton, and what its records say.

Only one spelling of a value is taken, the one that is read back: approved bytes must be found again.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from app import clock
from app.writebacks.connectors import Observed, Payload, ReadFailed, Refused, decimal_text

MODELS = {"opportunity": "sale.opportunity", "party": "party.party"}
STATES = ("lead", "opportunity", "converted", "won", "lost", "cancelled")
# The target state of a transition, and the button of Tryton that leads to it. `convert` is left out: it also creates a
# sale, which is more than the approved bytes say; `won` is decided by sales alone and has no button.
BUTTONS = {"lead": "lead", "opportunity": "opportunity", "lost": "lost", "cancelled": "cancel"}
VERSION = re.compile(r"[0-9]{1,12}\.[0-9]{6}")
ID = re.compile(r"[1-9][0-9]{0,17}")
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,11}[1-9])?")
EPOCH = datetime(1970, 1, 1)
PARTS = ("year", "month", "day", "hour", "minute", "second", "microsecond")
FIELDS: dict[str, tuple[str, ...]] = {
    "opportunity": (
        "number",
        "reference",
        "description",
        "comment",
        "lost_reason",
        "amount",
        "currency.code",
        "conversion_probability",
        "state",
        "start_date",
        "end_date",
        "party",
        "party.rec_name",
        "employee",
        "employee.rec_name",
        "company.rec_name",
        "_timestamp",
    ),
    "party": ("name", "code", "_timestamp"),
}


# --- what is approved


def call_for(payload: Payload, name: str) -> tuple[str, list[Any]]:
    """The method and further parameters that do what the payload says. Raises Refused."""
    if payload.connector != name or payload.kind != "opportunity":
        raise Refused(f"This connector cannot change {payload.kind!r} for {payload.connector!r}.", None)
    id_of(payload.record_id)
    if not VERSION.fullmatch(payload.expected_version):
        raise Refused("The expected version is not one of Tryton's.", None)
    if payload.operation == "update":
        return "write", [{field: _to_tryton(field, value) for field, value in payload.changes.items()}]
    if payload.operation == "transition":
        match payload.changes:
            case {"state": str(state), **beside} if state in BUTTONS and not beside:
                return BUTTONS[state], []
        raise Refused(f"A transition changes the state alone, to one of {', '.join(BUTTONS)}.", None)
    raise Refused(f"This connector cannot do {payload.operation!r}; it can do update and transition.", None)


def _to_tryton(field: str, value: Any) -> Any:
    """A value as the RPC wants it."""
    converter = WRITABLE.get(field)
    if converter is None:
        raise Refused(f"{field} cannot be changed here; these can: {', '.join(WRITABLE)}.", None)
    if value is None:
        if field == "conversion_probability":
            raise Refused("conversion_probability cannot be empty.", None)
        return None
    return converter(field, value)


def _line(field: str, value: Any) -> str:
    text = _text(field, value)
    if text != text.strip():
        raise Refused(f"{field}: Tryton would cut the spaces around the text off.", None)
    return text


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused(f"{field} must be text without NUL; null empties it.", None)
    return value


def _decimal(field: str, value: Any) -> dict[str, str]:
    if not isinstance(value, str) or not DECIMAL.fullmatch(value) or value == "-0":
        raise Refused(f"{field} must be a decimal as text, without zeros at its end, such as '1500.5'.", None)
    return {"__class__": "Decimal", "decimal": value}


def _fraction(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Refused(f"{field} must be a number from 0 to 1.", None)
    if round(value, 4) != value:
        raise Refused(f"{field} has at most 4 decimals.", None)
    return float(value)


def _day(field: str, value: Any) -> dict[str, Any]:
    try:
        day = date.fromisoformat(value)
    except (ValueError, TypeError) as odd:
        raise Refused(f"{field} must be a date such as 2026-11-30.", None) from odd
    if day.isoformat() != value:
        raise Refused(f"{field} must be a date such as 2026-11-30.", None)
    return {"__class__": "date", "year": day.year, "month": day.month, "day": day.day}


def _reference(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise Refused(f"{field} must be the id of a record.", None)
    return value


WRITABLE: dict[str, Callable[[str, Any], Any]] = {
    "reference": _line,
    "description": _line,
    "comment": _text,
    "lost_reason": _text,
    "amount": _decimal,
    "conversion_probability": _fraction,
    "end_date": _day,
    "party": _reference,
    "employee": _reference,
}


# --- what its records say


def observed(kind: str, row: Any) -> Observed:
    """One record, its values in JSON: decimals as text without zeros at the end, dates as ISO 8601, links as ids."""
    if not isinstance(row, dict):
        raise ReadFailed("Tryton's record has an unexpected shape.")
    fields = {}
    for name in FIELDS[kind]:
        link, _, inner = name.partition(".")
        if inner:
            beside = row.get(f"{link}.")
            fields["currency" if link == "currency" else f"{link}_name"] = (
                beside.get(inner) if isinstance(beside, dict) else None
            )
        elif name != "_timestamp":
            fields[name] = _plain(row.get(name))
    match row:
        case {"id": int(id), "_timestamp": str(version)} if VERSION.fullmatch(version):
            return Observed(kind, str(id), fields, version, clock.now())
    raise ReadFailed("Tryton's record has an unexpected shape.")


def _plain(value: Any) -> Any:
    match value:
        case None | str() | bool() | int() | float():
            return value
        case {"__class__": "Decimal", "decimal": str(digits)}:
            try:
                number = Decimal(digits)
            except InvalidOperation as odd:
                raise ReadFailed("Tryton sent a decimal that is none.") from odd
            return decimal_text(number)
        case {"__class__": "date", "year": int(year), "month": int(month), "day": int(day)}:
            try:
                return date(year, month, day).isoformat()
            except ValueError as odd:
                raise ReadFailed("Tryton sent a date that is none.") from odd
    raise ReadFailed("Tryton sent a value of an unexpected kind.")


# --- names and moments


def model_of(kind: str) -> str:
    if kind not in MODELS:
        raise Refused(f"This connector has no kind {kind!r}; it has {', '.join(MODELS)}.", None)
    return MODELS[kind]


def id_of(record_id: str) -> int:
    if not ID.fullmatch(record_id):
        raise Refused(f"{record_id!r} cannot be the id of a record.", None)
    return int(record_id)


def domain_of(kind: str, filters: Mapping[str, str]) -> list[Any]:
    domain: list[Any] = []
    for name, value in filters.items():
        if (kind, name) == ("opportunity", "state") and value in STATES:
            domain.append(["state", "=", value])
        elif (kind, name) == ("opportunity", "party"):
            domain.append(["party", "=", id_of(value)])
        elif (kind, name) == ("party", "name"):
            domain.append(["name", "=", value])
        else:
            raise Refused(f"{kind} cannot be filtered by {name!r} = {value!r}.", None)
    return domain


def moment_of(version: str) -> datetime:
    """The moment in a version; Tryton's moments carry no zone, and are only ever compared with each other."""
    seconds, _, microseconds = version.partition(".")
    return EPOCH + timedelta(seconds=int(seconds), microseconds=int(microseconds))


def version_of(moment: datetime) -> str:
    past = moment - EPOCH
    return f"{past.days * 86400 + past.seconds}.{past.microseconds:06d}"


def datetime_in(value: Any) -> datetime:
    if value["__class__"] != "datetime":
        raise ValueError("not a datetime")
    year, month, day, hour, minute, second, microsecond = (int(value[part]) for part in PARTS)
    return datetime(year, month, day, hour, minute, second, microsecond)


def datetime_as_sent(moment: datetime) -> dict[str, Any]:
    return {"__class__": "datetime"} | {part: getattr(moment, part) for part in PARTS}
