"""What the played root has to read: a few documents and a few CRM records, behind the tools that every root has."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUESTION = "Who opens the lock gates at night, and how long does a passage take?"
LEADS_QUESTION = "Which leads deserve a call, and why?"

DOCUMENTS = {
    "canal/handbook.md": (
        "# Handbook of the canal\n\n"
        "## Lock gates\n\n"
        "At night the lock gates are opened by the night warden. The night warden answers the bell within ten minutes.\n\n"
        "## Passage\n\n"
        "A passage through the lock takes 25 minutes. Boats wider than five metres need 40 minutes.\n"
    ),
    "canal/fees.md": (
        "# Fees of the canal\n\n"
        "## Passage\n\n"
        "A passage costs 12 euros by day and 20 euros at night. Boats without an engine pay nothing.\n"
    ),
    "canal/winter.md": (
        "# Winter service\n\n"
        "## Ice\n\n"
        "The canal is closed when the ice is thicker than four centimetres. The harbour master announces it at noon.\n"
    ),
}

RECORDS: dict[str, list[dict[str, Any]]] = {
    "lead": [
        {
            "id": "K-1", "name": "Ada Finch", "company": "Finch Barges", "stage": "new", "priority": "low",
            "source": "referral", "employees": 320, "budget_eur": 60000, "next_action": None,
        },
        {
            "id": "K-2", "name": "Omar Lund", "company": "Lund Ropes", "stage": "contacted", "priority": "high",
            "source": "event", "employees": 6, "budget_eur": 900, "next_action": None,
        },
    ],
    "activity": [
        {
            "id": "K-11", "lead_id": "K-1", "kind": "meeting", "at": "2026-11-10T09:00:00Z",
            "summary": "Saw the plans and wants an offer", "outcome": "positive",
        },
        {
            "id": "K-12", "lead_id": "K-1", "kind": "email_in", "at": "2026-11-16T09:00:00Z",
            "summary": "Names the budget and asks for a date", "outcome": "positive",
        },
        {
            "id": "K-13", "lead_id": "K-2", "kind": "call", "at": "2026-11-14T09:00:00Z",
            "summary": "Asks for no further calls", "outcome": "negative",
        },
    ],
}  # fmt: skip

VERSION = "1"


@dataclass(frozen=True)
class Shown:
    """Bytes that a mission was given, under the name they may be cited by."""

    source: str
    document: str


class Refusal(Exception):
    """A tool that says no: HTTP status, code and sentence."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Library:
    """Answers tool calls. `stored` are the bytes behind every source that can be cited."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self._passages: list[dict[str, Any]] = []
        self._outline: list[dict[str, Any]] = []
        for document, text in DOCUMENTS.items():
            self._add(document, text)
        self._records = {kind: [self._row(kind, one) for one in rows] for kind, rows in RECORDS.items()}

    def call(self, tool: str, arguments: Mapping[str, Any]) -> tuple[Any, list[Shown]]:
        """The result of a tool and what it has shown. Raises Refusal."""
        try:
            match tool:
                case "workspace.search":
                    return self._search(str(arguments["query"]), int(arguments.get("limit", 20)))
                case "workspace.read":
                    return self._read(str(arguments["source"]), arguments.get("start", 0), arguments.get("end", 65_536))
                case "workspace.outline":
                    return {"documents": self._outline}, []
                case "crm.list":
                    rows = self._kind(arguments)
                    return {"records": rows, "next_cursor": None}, [_shown(row) for row in rows]
                case "crm.read":
                    found = [row for row in self._kind(arguments) if row["record_id"] == arguments["id"]]
                    if not found:
                        raise Refusal(404, "not_found", "There is no such record.")
                    return found[0], [_shown(found[0])]
        except (KeyError, TypeError, ValueError):
            raise Refusal(422, "validation", f"The arguments of {tool} are not what it takes.") from None
        raise Refusal(404, "not_found", f"There is no tool {tool}.")

    def record(self, kind: str, record_id: str) -> dict[str, Any] | None:
        return next((row for row in self._records.get(kind, ()) if row["record_id"] == record_id), None)

    def _add(self, document: str, text: str) -> None:
        data = text.encode()
        source = hashlib.sha256(data).hexdigest()
        title = text.partition("\n")[0].strip("# ")
        self.stored[source] = data
        self._outline.append({"document": document, "source": source, "title": title, "bytes": len(data)})
        heading = title
        for found in re.finditer(r"[^\n]+", text):  # every paragraph is one line, and ASCII: characters are bytes
            if found[0].startswith("#"):
                heading = found[0].strip("# ")
                continue
            passage = {"source": source, "document": document, "title": title, "heading": heading}
            self._passages.append(passage | {"start": found.start(), "end": found.end(), "text": found[0]})

    def _search(self, query: str, limit: int) -> tuple[Any, list[Shown]]:
        asked = _words(query)
        scored = [(len(asked & _words(f"{one['heading']} {one['text']}")), one) for one in self._passages]
        best = sorted((pair for pair in scored if pair[0]), key=lambda pair: -pair[0])[: max(1, min(limit, 50))]
        found = [{**one, "score": float(score)} for score, one in best]
        return {"passages": found}, [_shown(one) for one in found]

    def _read(self, source: str, start: int, end: int) -> tuple[Any, list[Shown]]:
        if source not in self.stored or not any(one["source"] == source for one in self._outline):
            raise Refusal(404, "not_found", "The workspace holds no such source.")
        data = self.stored[source]
        start, end = max(0, min(start, len(data))), max(0, min(end, len(data)))
        document = next(one["document"] for one in self._outline if one["source"] == source)
        answer = {"text": data[start:end].decode(), "start": start, "end": end, "total": len(data)}
        return answer, [Shown(source, document)]

    def _kind(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._records[str(arguments["kind"])]

    def _row(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        whole = {"kind": kind, "id": fields["id"], "version": VERSION, "fields": fields}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        source = hashlib.sha256(text.encode()).hexdigest()
        self.stored[source] = text.encode()
        return {
            "record_id": fields["id"],
            "kind": kind,
            "version": VERSION,
            "source": source,
            "document": f"sample_crm/{kind}/{fields['id']}",
            "text": text,
            "fields": dict(fields),
        }


def _shown(row: Mapping[str, Any]) -> Shown:
    return Shown(str(row["source"]), str(row["document"]))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 2}
