"""Everything the boundary can refuse or fail with.

    BoundaryError                what a client call raises; `kind` names it in records, `retryable` is a hint only
    ├── Unreachable              no answer; `before_body` is true when the peer surely saw nothing of the request
    ├── TimedOut                 no complete answer in time; the peer may have acted
    ├── Incompatible             the peer speaks another major version of the contract
    ├── Malformed                an answer nobody can trust (not HTTP, not JSON, cut short, too large, redirected, another's id)
    └── Refused                  a status of 400 and above, with its problem document when there was one
        ├── Unauthorized         401, 403
        ├── SequenceGap          409 with `expected_seq`: send again from there
        ├── Superseded           409 or 410: another attempt holds the mission, or it has ended; stop working
        └── Busy                 429, 503; `retry_after` in seconds when the peer named a time

    SignatureRefused             SignatureMissing · UnknownKey · SignatureWrong · SignatureExpired · SignatureReplayed
    TokenRefused                 TokenMalformed · TokenWrong · TokenExpired · TokenWrongAudience · TokenWrongMission ·
                                 TokenWrongAttempt
    VersionRefused               a version of the contract that is not spoken here
    BadBody                      a body that is not what the contract says; `problems` name the fields

Refusals of signatures and tokens are told apart for logs and counters; a caller gets the same 401 for all of them.
"""

from dataclasses import dataclass
from typing import Any


class BoundaryError(Exception):
    """`body` holds what was received instead of an answer, up to `client.KEPT_BYTES`."""

    kind = "boundary"
    retryable = True
    body = b""


class Unreachable(BoundaryError):
    kind = "unreachable"

    def __init__(self, detail: str, *, before_body: bool) -> None:
        super().__init__(detail)
        self.before_body = before_body


class TimedOut(BoundaryError):
    kind = "timed_out"

    def __init__(self, detail: str, *, body: bytes = b"") -> None:
        super().__init__(detail)
        self.body = body


class Incompatible(BoundaryError):
    kind = "incompatible"
    retryable = False


class Malformed(BoundaryError):
    """`status` is None when what was received did not even have the head of an HTTP answer."""

    kind = "malformed"

    def __init__(self, detail: str, *, status: int | None, body: bytes) -> None:
        super().__init__(detail)
        self.status = status
        self.body = body


class Refused(BoundaryError):
    """`problem` is the decoded problem document or None."""

    kind = "refused"

    def __init__(self, status: int, problem: dict[str, Any] | None, body: bytes, retry_after: float | None) -> None:
        self.status = status
        self.problem = problem
        self.body = body
        self.retry_after = retry_after
        self.retryable = status >= 500 or status in (408, 425, 429)
        detail = (problem or {}).get("detail") or (problem or {}).get("title") or "no problem document"
        super().__init__(f"{status}: {str(detail)[:300]}")

    @property
    def code(self) -> str | None:
        """The `code` member of the problem document."""
        code = (self.problem or {}).get("code")
        return code[:128] if isinstance(code, str) else None


class Unauthorized(Refused):
    kind = "unauthorized"


class SequenceGap(Refused):
    kind = "sequence_gap"

    @property
    def expected_seq(self) -> int:
        assert self.problem is not None
        return int(self.problem["expected_seq"])


class Superseded(Refused):
    kind = "superseded"


class Busy(Refused):
    kind = "busy"


class SignatureRefused(Exception):
    """The request is not provably from the peer."""


class SignatureMissing(SignatureRefused):
    """A signature header is absent or is not of the agreed form."""


class UnknownKey(SignatureRefused):
    """The key id is not among the configured ones."""


class SignatureWrong(SignatureRefused):
    """The signature does not belong to this method, path, time, nonce, body and audience."""


class SignatureExpired(SignatureRefused):
    """Well signed, but too long ago or too far ahead."""


class SignatureReplayed(SignatureRefused):
    """Well signed and in time, but this nonce was seen before."""


class TokenRefused(Exception):
    """The mission token does not permit this."""


class TokenMalformed(TokenRefused):
    """Not of the form of a mission token."""


class TokenWrong(TokenRefused):
    """Signed by none of our keys."""


class TokenExpired(TokenRefused):
    """Genuine, but its time is over."""


class TokenWrongAudience(TokenRefused):
    """Genuine, but made for another door."""


class TokenWrongMission(TokenRefused):
    """Genuine, but made for another mission or tenant."""


class TokenWrongAttempt(TokenRefused):
    """Genuine, but made for another attempt or an older fence."""


class VersionRefused(Exception):
    """The caller speaks a version of the contract that is not spoken here; the message names both."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.theirs, self.ours = theirs[:20], ours
        super().__init__(f"the contract is spoken in version {ours} here, and in version {self.theirs!r} there")


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with a body: a JSON Pointer to it, a short code, and a sentence."""

    pointer: str
    code: str
    detail: str


class BadBody(Exception):
    """A body that cannot be taken; `problems` (at most 20) never repeat what was sent beyond field names."""

    def __init__(self, *problems: FieldProblem) -> None:
        self.problems = problems
        first = problems[0]
        super().__init__(f"{first.pointer or 'the body'}: {first.detail}")
