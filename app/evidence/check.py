"""Does a citation hold? Pure: bytes in, finding out."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from app.evidence.stored import Stored
from colony_client.artifacts import Citation, Claim, ReviewedCitation, ReviewedClaim, quote_sha256


@dataclass(frozen=True)
class Checked:
    """A claim with the finding on each of its citations; supported when it has some and all hold."""

    reviewed: ReviewedClaim
    problems: list[str]


def finding(citation: Citation, stored: Mapping[str, Stored], shown: Set[tuple[str, str]]) -> str | None:
    """Why a citation does not hold, or None.

    stored: by source hash, the bytes, or why there are none. shown: (source hash, document) pairs that this mission really was given.
    """
    if (citation.source, citation.document) not in shown:
        return "the mission was never shown this document"
    data = stored.get(citation.source)
    if data is None:
        return "the cited bytes are not stored"
    if isinstance(data, str):
        return f"the cited bytes are {data}"
    if citation.end > len(data):
        return "the span ends beyond the stored bytes"
    quoted = data[citation.start : citation.end]
    if quote_sha256(quoted) != citation.quote_sha256:
        return "the stored bytes do not have the hash of the quote"
    try:
        said = quoted.decode()
    except UnicodeDecodeError:
        return "the span cuts a character in two"
    return None if said == citation.quote else "the quote is not what the span says"


def check(claim: Claim, stored: Mapping[str, Stored], shown: Set[tuple[str, str]]) -> Checked:
    found = [(citation, finding(citation, stored, shown)) for citation in claim.citations]
    supported = bool(found) and all(problem is None for _, problem in found)
    reviewed = ReviewedClaim(
        claim_id=claim.id,
        text=claim.text,
        supported=supported,
        citations=[
            ReviewedCitation(citation=citation, verified=problem is None, problem=problem)
            for citation, problem in found
        ],
    )
    problems = [f"claim {claim.id}: {problem}" for _, problem in found if problem]
    if not found:
        problems.append(f"claim {claim.id}: it cites nothing")
    return Checked(reviewed, problems)
