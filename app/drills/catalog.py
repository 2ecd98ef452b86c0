"""Which drills there are, each with what it shows. The words of the list, and nothing that runs."""

from dataclasses import dataclass

TENANT = "mission root drills"  # the name of the reserved tenant
CONNECTOR = "drill_target"
MISSION_TYPE = "drill"


@dataclass(frozen=True)
class Drill:
    """name: as agreed with gates and pages. shows: what holds when it passes. tools: what its mission may call."""

    name: str
    shows: str
    tools: tuple[str, ...] = ("crm.read",)


DRILLS: dict[str, Drill] = {
    one.name: one
    for one in (
        Drill(
            "blocked_tool", "A tool that a mission's list does not hold is refused, and the refusal is on the record."
        ),
        Drill(
            "blocked_writeback",
            "A change that no rule permits is denied: it becomes no writeback, and nobody is asked.",
        ),
        Drill(
            "approved_writeback",
            "A change waits for a human who did not ask for it, is approved by its hash, written once, and read back.",
        ),
        Drill("expired_approval", "A change that nobody decides in time is dead, and a late yes is refused."),
        Drill(
            "colony_down", "While the colony does not answer a mission waits and says why, and goes on when it does."
        ),
        Drill(
            "provider_down", "A mission whose source does not answer ends with the reason, and what it knew is kept."
        ),
        Drill(
            "malformed_payload", "What a colony says in no form of the contract is refused, kept, and changes nothing."
        ),
        Drill(
            "replay", "A mission is played again from its record, with the same result, and without a change outside."
        ),
    )
}

DEFINITION = {
    "title": "Drill",
    "description": "What the service does to itself to show that its guards hold. Only in the tenant of the drills.",
    "inputs_schema": {
        "type": "object",
        "properties": {"drill": {"enum": list(DRILLS)}, "run": {"type": "string", "pattern": "^[0-9a-f-]{36}$"}},
        "required": ["drill", "run"],
        "additionalProperties": False,
    },
    "tools": ["crm.read", "crm.list"],
    "defaults": {"risk_level": "low", "sensitivity_class": "internal", "mode": "assisted"},
    "limits": {"time_ms": 600_000, "tokens": 1000, "cost_usd": 0.01},
    "review": {"min_coverage": 1.0},
}
