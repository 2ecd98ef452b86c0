"""The root's own look at the evidence: every citation against the stored bytes, and the review packet it leaves."""

from app.evidence.check import Checked, check
from app.evidence.review import Proposal, Review, review

__all__ = ["Checked", "Proposal", "Review", "check", "review"]
