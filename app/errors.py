"""Every refusal this service can answer, as one drawn tree, and the exception that carries one.

    request      malformed · validation · too_large · too_slow · unsupported_media_type · not_found · method_not_allowed
    identity     unauthenticated · forbidden · second_person · last_admin · taken
    concurrency  precondition_required · stale · idempotency_mismatch · idempotency_in_flight · wrong_state
    policy       denied_by_policy
    release      rung_not_ready · verdict_refused
    decisions    own_request · already_decided · already_answered · other_payload · expired
    tools        tool_halted · tool_drifted · tool_failed · tool_unmapped
    bytes        bytes_removed · artifact_missing · artifact_damaged
    rates        rate_limited
    boundary     version_unsupported · sequence_gap · attempt_superseded · mission_closed · budget_exhausted · replay_diverged
    models       provider_refused · provider_unusable
    service      colony_disabled · database_unavailable · database_busy · draining · upstream_unavailable · not_configured · internal

A Problem is an answer, not a bug: bugs are assertions and uncaught exceptions, answered as `internal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of problem: HTTP status, short title, what it means and what a caller can do."""

    status: int
    title: str
    meaning: str
    next_actions: tuple[str, ...]
    retryable: bool = False


KINDS: dict[str, Kind] = {
    # request
    "malformed": Kind(
        422,
        "The body is not acceptable JSON",
        "The body could not be read as strict JSON: it holds a syntax error, a duplicate key, NaN or Infinity, "
        "a lone surrogate, a NUL character, or is nested too deeply.",
        ("Correct the body and send it again.",),
    ),
    "validation": Kind(
        422,
        "The request does not fit its schema",
        "At least one field is missing, unknown, of the wrong type or outside its bounds. `errors` names each by JSON Pointer.",
        ("Correct the named fields and send the request again.",),
    ),
    "too_large": Kind(
        413, "The body is too large", "The body exceeds the bound of this route.", ("Send a smaller body.",)
    ),
    "too_slow": Kind(
        408,
        "The body did not arrive in time",
        "The client took too long to send its body.",
        ("Send the request again over a faster connection.",),
        True,
    ),
    "unsupported_media_type": Kind(
        415,
        "The content type is not supported",
        "This route takes application/json.",
        ("Send Content-Type: application/json.",),
    ),
    "not_found": Kind(404, "Not found", "There is no such thing, or it belongs to another tenant.", ("Check the id.",)),
    "method_not_allowed": Kind(
        405, "Method not allowed", "This path does not take that method.", ("See the Allow header.",)
    ),
    # identity
    "unauthenticated": Kind(
        401,
        "Authentication required",
        "The request carries no key, or one that is unknown, expired or revoked.",
        ("Send Authorization: Bearer with a live API key.",),
    ),
    "forbidden": Kind(
        403,
        "Not allowed for this role",
        "The caller is known but holds none of the roles this action needs.",
        ("Ask an admin for the role, or use another key.",),
    ),
    "second_person": Kind(
        403,
        "This takes another person",
        "Nobody gives rights or credentials to themselves, or adds credentials to an approver who has some.",
        ("Ask another admin, or the person themself.",),
    ),
    "last_admin": Kind(
        409,
        "The tenant would be left without an admin",
        "The last lasting grant of the role admin is not revoked, and whoever holds it is not suspended.",
        ("Give another principal the role admin first.",),
    ),
    "taken": Kind(
        409, "Already taken", "The name, role or subject is in use.", ("Choose another, or end the other first.",)
    ),
    # concurrency
    "precondition_required": Kind(
        428,
        "If-Match required",
        "This change is only made on a version the caller has seen.",
        ("Read the resource, then send its ETag as If-Match.",),
    ),
    "stale": Kind(
        412,
        "The resource changed meanwhile",
        "If-Match names an older version. `current` holds the present state.",
        ("Look at `current`, then decide again with the new ETag.",),
    ),
    "idempotency_mismatch": Kind(
        422,
        "The idempotency key belongs to another request",
        "The same Idempotency-Key was used with a different body.",
        ("Use a new key for a new request.",),
    ),
    "idempotency_in_flight": Kind(
        409,
        "The first request with this key is still running",
        "Another request with the same Idempotency-Key has not finished.",
        ("Wait, then send the same request again.",),
        True,
    ),
    "wrong_state": Kind(
        409,
        "Not possible in this state",
        "The resource exists but is in a state that does not allow this. `current` holds the present state.",
        ("Look at the state, then choose an action it allows.",),
    ),
    # policy
    "denied_by_policy": Kind(
        403,
        "Denied by policy",
        "A policy rule forbids this. `rule` names it; the denial is on the ledger.",
        ("Change the request so that the rule no longer applies, or ask a policy owner.",),
    ),
    # release
    "rung_not_ready": Kind(
        409,
        "The rung cannot be enabled yet",
        "Something that the rung wants is not there: a rung before it, a gate, an error budget, or a rule that nobody switches off. "
        "`missing` names each with a reason.",
        ("Provide what `missing` names; GET /v1/release/ladder shows it again.",),
    ),
    "verdict_refused": Kind(
        422,
        "The verdict is not taken in",
        "The file is no verdict that can be believed here. `cause` says why: malformed, unknown_key, altered, wrong_environment, "
        "expired, early, other_tenant or superseded.",
        ("Export the verdict again in its own environment, and import it unchanged.",),
    ),
    # decisions
    "own_request": Kind(
        403,
        "Nobody approves their own request",
        "The approver is the requester, or answers for the requesting agent.",
        ("Ask another operator.",),
    ),
    "already_decided": Kind(
        409, "Already decided by you", "Each approver decides once.", ("Look at the approval's decisions.",)
    ),
    "already_answered": Kind(
        409,
        "Somebody has answered already",
        "A question is answered once. `current` holds who answered it, when, and what they said.",
        ("Read the answer; what it leaves open can be asked again.",),
    ),
    "other_payload": Kind(
        409,
        "The payload is not the one you saw",
        "payload_sha256 differs from the approval's.",
        ("Read the approval again and decide on what it shows now.",),
    ),
    "expired": Kind(
        409,
        "The approval has expired",
        "The time to decide is over; the writeback is dead.",
        ("Ask again with a new mission or proposal.",),
    ),
    # bytes
    "bytes_removed": Kind(
        410,
        "Removed under retention",
        "The time these bytes are kept was over and they are gone for good; hash, size and metadata are still there. "
        "`removed_at` says when.",
        ("Read the metadata, or the fact bytes.removed.",),
    ),
    "artifact_missing": Kind(
        502,
        "The stored bytes are missing",
        "The database names an object that the artifact store does not have.",
        ("Restore the object from the store's backup; `mission-root artifacts verify` names all that are missing.",),
    ),
    "artifact_damaged": Kind(
        502,
        "The stored bytes are damaged",
        "What the artifact store holds does not have the hash it is kept under, and is not given out.",
        ("Restore the object from the store's backup; `mission-root artifacts verify` names all that are damaged.",),
    ),
    # boundary
    "version_unsupported": Kind(
        400,
        "Another version of the contract",
        "The caller speaks a version of the colony's contract that is not spoken here. `spoken` and `asked` name both.",
        ("Speak `spoken` or an older minor version of it, and say so in Colony-Contract-Version.",),
    ),
    "sequence_gap": Kind(
        409,
        "Events are missing",
        "The batch does not continue where the last accepted event ended. `expected_seq` says where.",
        ("Resend from expected_seq.",),
        True,
    ),
    "attempt_superseded": Kind(
        409,
        "Another attempt holds this mission",
        "The attempt of this call is not the current one.",
        ("Stop working on this attempt.",),
    ),
    "mission_closed": Kind(
        410, "The mission has ended", "The mission takes no more events or calls.", ("Stop working on this mission.",)
    ),
    "budget_exhausted": Kind(
        409,
        "The budget is used up",
        "Time, tokens or cost of a mission, of the tenant's day or of the tenant are spent or reserved. `account`, `lacking`, "
        "`left` and `renews_at` say which, what is left and when there is more.",
        (
            "Ask for less, wait until renews_at, or ask an admin for a higher limit.",
            "A colony finishes with what is known.",
        ),
    ),
    "replay_diverged": Kind(
        410,
        "The replay went another way than its tape",
        "A mission that is played from a tape asked something that is not on it, or not whole, or policy decides otherwise now. The "
        "mission has ended; `GET /v1/missions/{id}/diff` shows what is different.",
        ("Stop working on this mission.", "Look at the diff; rerun the mission to see what becomes of it live."),
    ),
    # tools
    "tool_halted": Kind(
        409,
        "The tool is switched off",
        "Somebody has halted the layer that the tool belongs to, or has retired it.",
        ("Go on without the tool.", "Ask an operator why, and an admin to resume the layer."),
    ),
    "tool_drifted": Kind(
        409,
        "The tool is not what was registered",
        "The server's schema of the tool, or the server itself, differs from what was pinned when its layer was registered.",
        ("Go on without the tool.", "Ask an admin to look at the change with a check, and to register the layer anew."),
    ),
    "tool_failed": Kind(
        422,
        "The tool gave no usable answer",
        "The tool said no, or its server's answer is one that cannot be taken. `cause` says which; `said` holds the tool's own words.",
        ("Call it with other arguments, or go on without it.",),
    ),
    "tool_unmapped": Kind(
        409,
        "It is not said what the call becomes",
        "A tool that changes something never runs: its call becomes a proposal, and its layer does not say which.",
        ("Ask an admin to say under `becomes` which connector, record and changes the tool's calls stand for.",),
    ),
    # rates
    "rate_limited": Kind(
        429,
        "Too many requests",
        "A key, principal, tenant, mission or address has used up its rate, or all tools that a process asks at once are being asked. "
        "`limit` names which; nothing was done.",
        ("Send the request again after Retry-After seconds.",),
        True,
    ),
    # models
    "provider_refused": Kind(
        400,
        "The provider refuses the request",
        "The provider of the model was asked and does not take the request as it is; `detail` repeats what it said.",
        ("Correct the request.",),
    ),
    "provider_unusable": Kind(
        502,
        "The provider's answer cannot be used",
        "The provider of the model answered with something that is no answer. It was asked, and may have worked.",
        ("Ask who runs the service; asking again may cost again.",),
    ),
    # service
    "colony_disabled": Kind(
        503,
        "Missions are switched off",
        "COLONY_ENABLED is false: no mission is accepted.",
        ("Try again later, or ask the operator.",),
        True,
    ),
    "database_unavailable": Kind(
        503,
        "The database does not answer",
        "What was asked is done whole or not at all. Which of the two nobody knows when the connection broke in the middle.",
        ("Send the request again after Retry-After seconds, under the same Idempotency-Key: then it is done once.",),
        True,
    ),
    "database_busy": Kind(
        503, "The service is busy", "Nothing was changed.", ("Send the request again after Retry-After seconds.",), True
    ),
    "draining": Kind(
        503, "This process is shutting down", "It takes no new requests.", ("Send the request again.",), True
    ),
    "not_configured": Kind(
        503,
        "Not configured here",
        "This deployment lacks a setting that the request needs; `detail` names it.",
        ("Ask who runs the service.",),
    ),
    "upstream_unavailable": Kind(
        503,
        "A system behind this service does not answer",
        "The read could not be made; nothing was changed.",
        ("Try again after Retry-After seconds.",),
        True,
    ),
    "internal": Kind(
        500,
        "Something went wrong here",
        "An error that is ours. It is logged with the request id.",
        ("Report the request_id.",),
        True,
    ),
}


class Problem(Exception):
    """A refusal to be answered as application/problem+json.

    errors: [{"pointer": "/inputs/workspace", "detail": "…"}]; extra members are added to the document as they are.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.kind, self.detail = code, KINDS[code], detail
        self.errors, self.members = errors or [], members
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if code == "unauthenticated":
            self.headers["WWW-Authenticate"] = "Bearer"

    def told(self) -> dict[str, Any]:
        """What a tape keeps of it, for `again`."""
        return {"code": self.code, "detail": self.detail, "members": self.members, "errors": self.errors}

    @classmethod
    def again(cls, told: Mapping[str, Any]) -> "Problem":
        if not isinstance(told["detail"], str):
            raise TypeError("a problem says what it is")
        return cls(told["code"], told["detail"], errors=told["errors"], **told["members"])

    def document(self, instance: str, request_id: str | None) -> dict[str, Any]:
        return {
            "type": f"/problems/{self.code}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "errors": self.errors,
            "request_id": request_id,
            "retryable": self.kind.retryable,
            "next_actions": list(self.kind.next_actions),
            **self.members,
        }
