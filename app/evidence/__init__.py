"""The root's own look at the evidence: every citation against the stored bytes, and the review packet it leaves."""

from app.evidence.check import Checked, check
from app.evidence.review import Material, Proposal, Review, material, review

__all__ = ["Checked", "Material", "Proposal", "Review", "check", "material", "review"]
