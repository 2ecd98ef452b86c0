"""The four release gates, check by check: what has to be so, what is looked at, and for how long that counts.

This table is all there is to a gate: nothing is ticked by hand. A check that nothing can compute is answered by an attestation,
which a person of `role` signs and which ends by itself. In production the checks of `staging` are answered by the newest verdict
of staging; everywhere else by a look at this environment.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from app.release import looks
from app.release.looks import Look

Gate = Literal["technical", "governance", "operational", "sales"]
GATES: dict[str, str] = {
    "technical": "Technical integrity",
    "governance": "Governance integrity",
    "operational": "Operational integrity",
    "sales": "Sales integrity",
}
NOW, DAY, WEEK, FORTNIGHT = timedelta(minutes=10), timedelta(days=1), timedelta(days=7), timedelta(days=14)


@dataclass(frozen=True)
class Check:
    """One line of a gate. limit: how old its evidence may be. place: whose evidence counts in production. role: who attests."""

    name: str
    gate: Gate
    sentence: str
    looks_at: str
    limit: timedelta
    look: Look
    place: Literal["here", "staging"] = "here"
    role: str | None = None


CHECKS: tuple[Check, ...] = (
    # --- technical integrity
    Check(
        "schema_applies", "technical", "The schema applies cleanly.",
        "the migration that the database is at, and the newest that this build knows", NOW, looks.schema,
    ),
    Check(
        "root_healthy", "technical", "The root's health endpoint is green.",
        "what /readyz of the root says", NOW, looks.root,
    ),
    Check(
        "colony_healthy", "technical", "The colony's health endpoint is green.",
        "what /ready of the colony says", NOW, looks.colony,
    ),
    Check(
        "oracle_completed", "technical", "An Oracle mission completes in staging.",
        "the newest completed mission of type oracle_advisory", WEEK, looks.completed("oracle_advisory"), "staging",
    ),
    Check(
        "crm_completed", "technical", "A CRM mission completes in staging.",
        "the newest completed mission of type crm_lead_intelligence", WEEK, looks.completed("crm_lead_intelligence"), "staging",
    ),
    # --- governance integrity
    Check(
        "blocked_tool_denied", "governance", "A blocked tool is denied correctly.",
        "the newest drill blocked_tool", DAY, looks.drill("blocked_tool"),
    ),
    Check(
        "blocked_writeback_denied", "governance", "A blocked writeback is denied correctly.",
        "the newest drill blocked_writeback", DAY, looks.drill("blocked_writeback"),
    ),
    Check(
        "approved_writeback_asks", "governance", "An approved writeback takes explicit operator action.",
        "the newest drill approved_writeback", DAY, looks.drill("approved_writeback"),
    ),
    Check(
        "late_approval_changes_nothing", "governance", "An approval that expired changes nothing.",
        "the newest drill expired_approval", DAY, looks.drill("expired_approval"),
    ),
    # --- operational integrity
    Check(
        "oracle_replayed", "operational", "An Oracle mission of staging is replayed through its artifacts.",
        "the newest recorded replay of type oracle_advisory", WEEK, looks.replayed("oracle_advisory"), "staging",
    ),
    Check(
        "crm_replayed", "operational", "A CRM mission of staging is replayed through its artifacts.",
        "the newest recorded replay of type crm_lead_intelligence", WEEK, looks.replayed("crm_lead_intelligence"), "staging",
    ),
    Check(
        "replay_writes_nothing", "operational", "A replay writes nothing.",
        "the newest drill replay", DAY, looks.drill("replay"),
    ),
    Check(
        "failures_keep_artifacts", "operational", "Failures preserve enough artifacts for debugging.",
        "failed missions of the last seven days: reason, fact and envelope of each", NOW, looks.failures,
    ),
    Check(
        "malformed_payload_kept", "operational", "A malformed payload is refused, and kept for debugging.",
        "the newest drill malformed_payload", DAY, looks.drill("malformed_payload"),
    ),
    Check(
        "colony_outage_is_told", "operational", "A colony that is away loses no mission, and is told.",
        "the newest drill colony_down", DAY, looks.drill("colony_down"),
    ),
    Check(
        "provider_outage_is_told", "operational", "A provider that is away fails no mission in silence.",
        "the newest drill provider_down", DAY, looks.drill("provider_down"),
    ),
    Check(
        "approval_queue_visible", "operational", "The approval queue is visible to operators.",
        "who holds the role operator, and whether a pending approval is past its time", NOW, looks.queue,
    ),
    # --- sales integrity
    Check(
        "stable_for_demo", "sales", "The output is stable enough for a live demo.",
        "the newest attestation of a product owner", FORTNIGHT, looks.attested("stable_for_demo", "product_owner"),
        role="product_owner",
    ),
    Check(
        "packet_explains", "sales", "The reviewer packet explains why the answer is trustworthy.",
        "the review of the newest answered Oracle mission: which of its claims hold", WEEK, looks.explained, "staging",
    ),
    Check(
        "evidence_at_hand", "sales", "An operator inspects a mission's evidence quickly.",
        "how long the packet of the newest completed mission takes, and what is in it", WEEK, looks.at_hand, "staging",
    ),
)  # fmt: skip
BY_NAME = {check.name: check for check in CHECKS}
