"""What a colony has to do, numbered. A number is never given to another requirement."""

from colony_kit.of_colony import bad_days, callbacks, dispatching, doors
from colony_kit.of_colony.play import Play
from colony_kit.report import Requirement

REQUIREMENTS: list[Requirement[Play]] = [
    # probes and signatures
    Requirement("C-01", "GET /health answers 200 with status ok and the name of the service.", doors.health),
    Requirement(
        "C-02",
        "Health, readiness and every answer to a dispatch name the same contract version 1.x.",
        doors.versions,
        "after",
    ),
    Requirement(
        "C-03",
        "GET /ready answers 200 with ready true or 503 with ready false, and the state of each provider.",
        doors.ready,
    ),
    Requirement("C-04", "A rightly signed request is taken, with each of the configured keys.", doors.right_signature),
    Requirement("C-05", "A request without a signature is answered 401 and does nothing.", doors.unsigned),
    Requirement(
        "C-06",
        "A signature by another key, or over another method, path or body, is answered 401 and does nothing.",
        doors.wrong_signature,
    ),
    Requirement("C-07", "A signature more than five minutes old or ahead is answered 401.", doors.expired),
    Requirement("C-08", "A request whose nonce was used before is answered 401.", doors.replayed),
    Requirement("C-09", "A request that is signed for the root is answered 401 by the colony.", doors.other_audience),
    # bodies
    Requirement(
        "C-10", "A body that is not one JSON object of bounded depth is answered 400, 413 or 422.", doors.malformed
    ),
    Requirement(
        "C-11",
        "An unknown field is refused, nothing of the body is applied, and the problem names the field.",
        doors.unknown_field,
    ),
    Requirement(
        "C-12", "A missing field, or one outside its bounds, is refused and the problem names it.", doors.wrong_value
    ),
    Requirement("C-13", "A body larger than 8 MiB is refused, and the colony lives on.", doors.oversized),
    Requirement("C-14", "A dispatch of more than 64 missions is refused whole.", doors.too_many),
    Requirement(
        "C-15", "A mission that is not known is answered 404, for status and for cancel.", doors.unknown_mission
    ),
    Requirement("C-16", "A refusal is a problem document with status, code and detail.", doors.problems, "after"),
    # dispatch
    Requirement("C-17", "A dispatched mission is worked on to the signal complete or blocked.", dispatching.dispatch),
    Requirement(
        "C-18",
        "Each mission of a dispatch is answered for itself: one that is refused takes no other with it.",
        dispatching.each_for_itself,
    ),
    Requirement(
        "C-19",
        "The same attempt dispatched again, also at the same moment, gets the same answer and is worked on once.",
        dispatching.duplicate,
    ),
    Requirement(
        "C-20",
        "A higher attempt takes over from a lower one, which is not taken any more and stops when it is told.",
        dispatching.next_attempt,
    ),
    Requirement(
        "C-21",
        "A dispatch whose callback_base_url is not of an allowed origin is refused.",
        dispatching.callback_origin,
    ),
    Requirement("C-22", "A dispatch with the present contract version is taken.", dispatching.this_version),
    Requirement(
        "C-23", "A dispatch with the contract version before the present one is taken.", dispatching.previous_version
    ),
    Requirement(
        "C-24",
        "A dispatch with another major contract version is refused, and the problem names contract_version.",
        dispatching.other_major,
    ),
    Requirement("C-25", "The status of a mission is true: state, attempt, and last_seq_sent.", dispatching.status),
    Requirement(
        "C-26", "A cancelled mission stops at its next safe point, says so, and does not complete.", dispatching.cancel
    ),
    Requirement(
        "C-27",
        "A second cancel changes nothing, nor does the cancel of a mission that has ended.",
        dispatching.cancel_again,
    ),
    Requirement(
        "C-28",
        "A colony that is full answers busy with retry_after_s, is not ready, and takes the mission later.",
        dispatching.busy,
        "alone",
    ),
    # callbacks
    Requirement("C-29", "Every callback is signed for the root with a configured key.", callbacks.signed, "after"),
    Requirement("C-30", "Every callback carries a nonce of its own.", callbacks.fresh_nonces, "after"),
    Requirement("C-31", "Every callback carries a token of its own mission and attempt.", callbacks.own_token, "after"),
    Requirement("C-32", "A callback carries the newest token that the root has sent.", callbacks.newest_token),
    Requirement("C-33", "Every callback has the shape that the contract gives it.", callbacks.shape, "after"),
    Requirement("C-34", "The events of an attempt are numbered 1, 2, 3 and so on.", callbacks.consecutive, "after"),
    Requirement(
        "C-35", "After the signal that ends an attempt no event and no tool call comes.", callbacks.ends_once, "after"
    ),
    Requirement(
        "C-36",
        "Artifacts name their mission and tenant, and are of the kinds a colony may produce.",
        callbacks.own_artifacts,
        "after",
    ),
    Requirement(
        "C-37", "Only what a tool has shown to this mission is cited, byte for byte.", callbacks.citations, "after"
    ),
    Requirement(
        "C-38",
        "A mission that completes has left an aggregation_packet whose claims are cited.",
        callbacks.result,
        "after",
    ),
    Requirement(
        "C-39",
        "A proposal names a record and the version it was shown at, changes something, and gives evidence.",
        callbacks.proposals,
        "after",
    ),
    # a root on bad days
    Requirement(
        "C-40",
        "While a mission is worked on in silence, a batch of events comes before its lease is over.",
        bad_days.heartbeat,
    ),
    Requirement(
        "C-41", "With a root that is slow to answer, no event is lost and the order is kept.", bad_days.slow_receiver
    ),
    Requirement(
        "C-42",
        "With a root that goes away and comes back, no event is lost and the order is kept.",
        bad_days.away,
        "alone",
    ),
    Requirement("C-43", "After 409 with expected_seq the events go on from there.", bad_days.expected_seq),
    Requirement(
        "C-44",
        "After 429 the next batch comes no sooner than Retry-After says, and no event is lost.",
        bad_days.retry_after,
    ),
    Requirement("C-45", "A receipt with stop ends the attempt: no tool call and no event follow.", bad_days.stop),
    Requirement(
        "C-46", "An answer attempt_superseded ends the attempt: no tool call and no event follow.", bad_days.superseded
    ),
    Requirement("C-47", "Unknown members in the answers of the root are ignored.", bad_days.unknown_members),
    Requirement(
        "C-48",
        "A redirect of the root is not followed, and the events are sent to the root itself again.",
        bad_days.redirect,
    ),
    Requirement(
        "C-49",
        "When tools are denied, the mission goes on without them or ends with a signal, and does not repeat the same call.",
        bad_days.tool_denied,
    ),
    # budgets, and a colony on a bad day
    Requirement(
        "C-50",
        "When the time budget is over, the mission ends with a signal other than complete.",
        dispatching.time_budget,
    ),
    Requirement("C-51", "A mission reports no more tokens than its budget holds.", dispatching.token_budget),
    Requirement(
        "C-52",
        "After a restart in the middle of a mission, the mission is resumed or its next attempt is worked on to its end.",
        bad_days.restart,
        "alone",
    ),
]
