"""Lines of work: which seven stages a mission type goes through, and the notebook they share."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from colony.case import Case
from colony.leads import stages as leads
from colony.stages import LINE as DOCUMENTS
from colony.stages.notes import Notes, Produced

Stage = Callable[[Case, Any], Awaitable[Produced]]


@dataclass(frozen=True)
class Line:
    notes: Callable[[], Any]
    stages: Mapping[str, Stage]


_DOCUMENTS = Line(Notes, DOCUMENTS)
_LEADS = Line(leads.Notes, leads.LINE)


def line_for(mission_type: str) -> Line:
    """CRM work has its own line; every other type, also one nobody has heard of, is a question to the documents."""
    return _LEADS if mission_type == "crm_lead_intelligence" else _DOCUMENTS
