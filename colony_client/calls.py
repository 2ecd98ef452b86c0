"""The calls of the boundary as data: who asks what, what is answered, and every refusal with what to do about it.

The published documents are written from this (`publish`), the running services are held to it by tests, and the page
`docs/contract.md` tells it in words.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from colony_client.contract import (
    FIRST_VERSION,
    MANY_SINCE,
    VERSION_HEADER,
    CancelRequest,
    DispatchAnswers,
    DispatchBatch,
    EventAnswers,
    EventBatch,
    EventReceipt,
    EventsOfMany,
    Health,
    MissionStatus,
    Ready,
    RootView,
    ToolAnswer,
    ToolCall,
    ToolOffers,
)

Service = Literal["colony", "root-internal"]


@dataclass(frozen=True)
class Refusal:
    """A refusal: status and code, when it comes, what the caller does about it, and whether Retry-After may stand with it."""

    status: int
    code: str
    when: str
    remedy: str
    retry_after: bool = False
    members: tuple[tuple[str, Any], ...] = ()  # what its example says beside the usual


@dataclass(frozen=True)
class Call:
    """One call. `also` are statuses other than 200 that carry the same answer. since: the version that it came with."""

    service: Service
    operation: str
    method: Literal["get", "post"]
    path: str
    summary: str
    answers: type[BaseModel]
    refusals: tuple[Refusal, ...]
    asks: type[BaseModel] | None = None
    signed: bool = True
    token: bool = False
    also: tuple[int, ...] = ()
    since: str = FIRST_VERSION


BODY = "Mend the named field. Sending the same bytes again changes nothing."

OTHER_MAJOR = Refusal(
    400,
    "version_unsupported",
    f"{VERSION_HEADER} names a major version that is not spoken here. The answer's own header says which is.",
    "Nothing helps but replacing one of the two.",
)

# --- what a colony refuses. The root acts upon the status; the code is for whoever reads the log.

STRANGER = Refusal(
    401, "unauthorized", "Signature missing, wrong, expired or replayed.", "Compare keys and clocks; sign anew."
)
UNKNOWN_MISSION = Refusal(
    404, "mission_unknown", "The colony does not know this mission.", "The root makes the next attempt when it has to."
)
TOO_LARGE = Refusal(413, "too_large", "The body is larger than 8 MiB.", "Send fewer missions or events in one call.")
BAD_BODY = Refusal(
    422,
    "invalid_body",
    "Not JSON, an unknown field, or a value outside its bounds.",
    BODY,
    members=(("errors", [{"pointer": "/missions/0/attempt", "detail": "Input should be greater than or equal to 1"}]),),
)
LIMITED = Refusal(429, "rate_limited", "Too many calls.", "Come back after Retry-After seconds.", retry_after=True)
BROKEN = Refusal(500, "internal_error", "A mistake of the colony.", "Try again, with growing pauses.")
RESTING = Refusal(
    503, "unavailable", "The colony starts, stops or is overloaded.", "Come back after Retry-After seconds.", True
)

# --- what the root refuses. The codes are its own and bind.

UNAUTHENTICATED = Refusal(
    401,
    "unauthenticated",
    "Signature missing, wrong, expired or replayed; or the mission token is missing, expired, of another mission or "
    "another attempt. The answer does not say which.",
    "Sign anew with the newest token. When it goes on for some tries, give the attempt up.",
)
DENIED = Refusal(
    403,
    "denied_by_policy",
    "A policy rule forbids this tool, or these arguments, to this mission.",
    "Go on without it, or end the attempt with the signal blocked and say why. `rule` names the rule.",
    members=(("rule", "tool.not_listed"),),
)
NO_MISSION = Refusal(404, "not_found", "There is no such mission.", "Stop working on it.")
NO_TARGET = Refusal(
    404, "not_found", "There is no such mission, tool, source or record.", "Go on without it; `detail` says what is missing."
)  # fmt: skip
TOO_SLOW = Refusal(408, "too_slow", "The body did not arrive in time.", "Send it again.")
GAP = Refusal(
    409,
    "sequence_gap",
    "The batch does not begin right after the last event that is stored. Nothing of it was taken.",
    "Send again from `expected_seq`.",
    members=(("expected_seq", 4),),
)
SUPERSEDED = Refusal(409, "attempt_superseded", "Another attempt holds the mission.", "Stop this attempt, send nothing more.")  # fmt: skip
USED_UP = Refusal(
    409,
    "budget_exhausted",
    "Time, tokens or money of the mission, of the tenant's day or of the tenant are used up.",
    "Finish with what is known: signal complete or blocked.",
    members=(("account", "mission"), ("lacking", ["tokens"])),
)
CLOSED = Refusal(410, "mission_closed", "The mission has ended and takes nothing more.", "Stop, send nothing more.")
ROOT_TOO_LARGE = Refusal(413, "too_large", "The body is larger than 8 MiB.", "Send fewer events in one batch.")
INVALID = Refusal(
    422,
    "validation",
    "Not JSON, an unknown field, a value outside its bounds, an artifact of another mission or one that only the root makes.",
    f"{BODY} For events: end the attempt with the signal blocked, under the next number that is not stored.",
    members=(("errors", [{"pointer": "/events/0/stage", "detail": "Input should be 'planner' or one of the other stages"}]),),
)  # fmt: skip
RATE = Refusal(
    429,
    "rate_limited",
    "The mission calls tools faster than it may, or as many tools are asked as a process asks at once.",
    "Call again after Retry-After seconds.",
    True,
    members=(("limit", "mission"),),
)
INTERNAL = Refusal(500, "internal", "A mistake of the root.", "Try again, with growing pauses.")
AWAY = Refusal(
    503,
    "database_unavailable",
    "The root's database does not answer. Whether the call was taken is not known.",
    "Send the same again after Retry-After seconds: events that were stored are skipped.",
    True,
)
BUSY = Refusal(
    503, "database_busy", "The root is busy. Nothing was changed.", "Try again after Retry-After seconds.", True
)
UPSTREAM = Refusal(
    503,
    "upstream_unavailable",
    "The system behind a tool does not answer. `cause` is a word that can be counted.",
    "Try again after Retry-After seconds. When time is over, tell `provider.failed` with the cause as its code.",
    True,
    members=(("cause", "connector_unreachable"),),
)

OF_COLONY = (OTHER_MAJOR, STRANGER, LIMITED, BROKEN, RESTING)
OF_ROOT = (OTHER_MAJOR, UNAUTHENTICATED, INVALID, INTERNAL, AWAY, BUSY)

CALLS = (
    Call(
        "colony",
        "dispatchMissions",
        "post",
        "/v1/missions",
        "Takes 1 to 64 attempts at missions, each answered for itself. The same (mission_id, attempt) again is answered alike.",
        DispatchAnswers,
        (*OF_COLONY, TOO_LARGE, BAD_BODY),
        asks=DispatchBatch,
    ),
    Call(
        "colony",
        "missionStatus",
        "get",
        "/v1/missions/{mission_id}",
        "What the colony knows of a mission: its newest attempt, the state and the last event sent.",
        MissionStatus,
        (*OF_COLONY, UNKNOWN_MISSION),
    ),
    Call(
        "colony",
        "cancelMission",
        "post",
        "/v1/missions/{mission_id}/cancel",
        "Stop at the next safe point and send nothing more. Asked again, it is answered alike.",
        MissionStatus,
        (*OF_COLONY, TOO_LARGE, BAD_BODY, UNKNOWN_MISSION),
        asks=CancelRequest,
    ),
    Call(
        "colony",
        "health",
        "get",
        "/health",
        "The process is alive, and the newest version of the contract that it speaks. Not signed.",
        Health,
        (BROKEN,),
        signed=False,
    ),
    Call(
        "colony",
        "ready",
        "get",
        "/ready",
        "Whether a mission would be taken now; status 503 with the same body when not. Not signed.",
        Ready,
        (BROKEN,),
        signed=False,
        also=(503,),
    ),
    Call(
        "root-internal",
        "sendEvents",
        "post",
        "/internal/v1/missions/{mission_id}/events",
        "Takes a batch of events of one attempt; an empty one is a sign of life. What is stored already is skipped.",
        EventReceipt,
        (*OF_ROOT, NO_MISSION, TOO_SLOW, GAP, SUPERSEDED, CLOSED, ROOT_TOO_LARGE),
        asks=EventBatch,
        token=True,
    ),
    Call(
        "root-internal",
        "sendEventsOfMany",
        "post",
        "/internal/v1/events",
        "Takes events of 1 to 64 missions, each with its own token. Each is answered for itself, as by sendEvents.",
        EventAnswers,
        (*OF_ROOT, TOO_SLOW, ROOT_TOO_LARGE),
        asks=EventsOfMany,
        since=MANY_SINCE,
    ),
    Call(
        "root-internal",
        "callTool",
        "post",
        "/internal/v1/missions/{mission_id}/tools/{tool}/calls",
        "Asks a tool for this mission: policy, budget, the tool, and a note of what was shown.",
        ToolAnswer,
        (*OF_ROOT, DENIED, NO_TARGET, TOO_SLOW, SUPERSEDED, USED_UP, CLOSED, ROOT_TOO_LARGE, RATE, UPSTREAM),
        asks=ToolCall,
        token=True,
        also=(202,),
    ),
    Call(
        "root-internal",
        "listTools",
        "get",
        "/internal/v1/missions/{mission_id}/tools",
        "The tools that the mission may call, each with what it takes, and whether it can be called now.",
        ToolOffers,
        (*OF_ROOT, NO_MISSION, SUPERSEDED, USED_UP, CLOSED),
        token=True,
    ),
    Call(
        "root-internal",
        "getRootView",
        "get",
        "/internal/v1/missions/{mission_id}",
        "What the root believes of a mission, for a colony that restarted: signed, without a token.",
        RootView,
        (*OF_ROOT, NO_MISSION),
    ),
)


def of(service: Service) -> list[Call]:
    return [call for call in CALLS if call.service == service]
