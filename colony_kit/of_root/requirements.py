"""What a root has to do, numbered. A number is never given to another requirement."""

from colony_kit.of_root import callbacks, dispatching
from colony_kit.of_root.play import Play
from colony_kit.report import Requirement

REQUIREMENTS: list[Requirement[Play]] = [
    # dispatch
    Requirement(
        "R-01",
        "A mission that is asked for is dispatched as attempt 1, with its own envelope, budgets and token.",
        dispatching.dispatched,
    ),
    Requirement(
        "R-02", "Every dispatch and cancel has the shape that the contract gives it.", dispatching.shape, "after"
    ),
    Requirement("R-03", "Every call is signed for the colony with the shared key.", dispatching.signed, "after"),
    Requirement(
        "R-04", "Every call carries a nonce of its own, also when it is repeated.", dispatching.fresh_nonces, "after"
    ),
    Requirement("R-05", "Every call names the contract version.", dispatching.version, "after"),
    Requirement("R-06", "A mission that was accepted is not dispatched again.", dispatching.taken_once),
    Requirement(
        "R-07",
        "A mission that is answered busy waits as accepted, says why, and comes again when retry_after_s is over.",
        dispatching.busy,
    ),
    Requirement("R-08", "A mission that is refused fails, and is not dispatched again.", dispatching.refused),
    Requirement("R-09", "Unknown members in the answers of the colony are ignored.", dispatching.unknown_members),
    Requirement(
        "R-10",
        "When the answer to a dispatch is lost, the same attempt is dispatched again.",
        dispatching.answer_lost,
        "alone",
    ),
    Requirement(
        "R-11",
        "After 429 the next dispatch comes no sooner than Retry-After says, as the same attempt.",
        dispatching.limited,
        "alone",
    ),
    Requirement(
        "R-12",
        "A redirect of the colony is not followed, and the same attempt is dispatched again.",
        dispatching.redirect,
        "alone",
    ),
    Requirement(
        "R-13",
        "While the colony is away a mission waits as accepted with a degraded reason, and is dispatched afterwards.",
        dispatching.away,
        "alone",
    ),
    # events
    Requirement(
        "R-14", "A batch of events is answered with accepted_seq, a lease and the next token.", callbacks.receipt
    ),
    Requirement("R-15", "The next token of a receipt opens the doors for events and tools.", callbacks.next_token),
    Requirement("R-16", "A gap is answered 409 with expected_seq, and nothing of the batch is applied.", callbacks.gap),
    Requirement(
        "R-17", "An event that comes again is skipped, and what is new in its batch is taken.", callbacks.duplicate
    ),
    Requirement(
        "R-18",
        "A callback, a tool call or a view that is not signed for the root by the shared key within five minutes is answered 401.",
        callbacks.strangers,
    ),
    Requirement("R-19", "A callback whose nonce was used before is answered 401.", callbacks.replay),
    Requirement(
        "R-20",
        "A token of another mission or attempt, an altered one, or none, is refused for events and for tools.",
        callbacks.wrong_token,
    ),
    Requirement(
        "R-21",
        "An unknown field is refused and named, nothing is applied, and the bytes are kept.",
        callbacks.unknown_field,
    ),
    Requirement(
        "R-22",
        "A batch that is malformed is answered 400, 413 or 422, and nothing of it is applied.",
        callbacks.malformed,
    ),
    Requirement(
        "R-23",
        "A body larger than 8 MiB, or a batch of more than 500 events, is refused, and the mission goes on.",
        callbacks.oversized,
    ),
    Requirement(
        "R-24",
        "An artifact of another mission or tenant, or in the name of the root, is refused.",
        callbacks.foreign_artifact,
    ),
    Requirement("R-25", "An empty batch is a heartbeat: it extends the lease.", callbacks.heartbeat),
    Requirement(
        "R-26", "GET /internal/v1/missions/{id} says state, attempt and last_seq as they are.", callbacks.root_view
    ),
    Requirement(
        "R-27", "A batch with another major contract version is refused, and the field named.", callbacks.this_version
    ),
    # tools, budgets, ends
    Requirement("R-28", "A tool that the mission may use is answered with its result.", callbacks.tool_allowed),
    Requirement(
        "R-29",
        "A tool that the mission may not use is answered 403 with a code, and the mission goes on.",
        callbacks.tool_denied,
    ),
    Requirement("R-30", "A colony that has used more than its budget is asked to stop.", callbacks.budget),
    Requirement(
        "R-31",
        "The signal complete ends the attempt: the mission completes, and later events are refused.",
        callbacks.completes,
    ),
    Requirement("R-32", "The signal blocked fails the mission, which shows the colony's reason.", callbacks.blocked),
    Requirement(
        "R-33",
        "A cancel is delivered to the colony, heartbeats are answered with stop, and events are refused.",
        dispatching.cancelled,
    ),
    Requirement(
        "R-34",
        "A silent attempt is asked about; when it is lost the next attempt is dispatched and the first one refused.",
        dispatching.silence,
    ),
    Requirement("R-35", "A silent attempt that the colony says is running is not dispatched again.", dispatching.alive),
    Requirement("R-36", "A refusal is a problem document with status, code and title.", callbacks.problems, "after"),
    Requirement("R-37", "A batch in the contract version before the present one is taken.", callbacks.previous_version),
    Requirement(
        "R-38",
        "In a call of many missions each is answered for itself, and what is wrong with one is no other's fault.",
        callbacks.many,
    ),
    Requirement(
        "R-39",
        "A call of many missions in which one comes twice, or that is not signed afresh, is refused whole.",
        callbacks.many_whole,
    ),
]
