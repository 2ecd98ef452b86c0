"""The root's own look at the evidence: every citation against the stored bytes, and the review packet it leaves."""

from app.evidence.check import Checked, check
from app.evidence.review import Material, Proposal, Review, material, review
from app.evidence.sources import fetch

__all__ = ["Checked", "Material", "Proposal", "Review", "check", "fetch", "material", "review"]
