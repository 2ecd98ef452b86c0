"""The root's own look at the evidence: every citation against the stored bytes, how old and how far trusted the sources are,
where they contradict each other, and the review packet it leaves."""

from app.evidence.check import check, finding
from app.evidence.review import Material, Proposal, Review, compare, material, review
from app.evidence.sources import shown_to
from app.evidence.stored import fetch

__all__ = [
    "Material",
    "Proposal",
    "Review",
    "check",
    "compare",
    "fetch",
    "finding",
    "material",
    "review",
    "shown_to",
]
