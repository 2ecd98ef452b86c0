"""What the root does with what a colony sends."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from colony_client.client import EVENTS_OF_MANY
from colony_client.contract import (
    CONTRACT_VERSION,
    MAX_BODY_BYTES,
    VERSION_HEADER,
    EventAnswers,
    EventReceipt,
    ToolAnswer,
)
from colony_client.signing import Keys, parse_keys
from colony_kit.line import Reply, as_json
from colony_kit.of_root.play import AT_WORK, Live, Play
from colony_kit.report import Failed, NotApplicable

FOREIGN = parse_keys("stranger:" + "not-the-key-of-anybody", "KIT")
UNREADABLE = (400, 413, 422)
TOKEN_TURNS_S = 3.0  # tokens say their end in whole seconds: two of the same second may be one


async def receipt(play: Play) -> str:
    live = await play.taken()
    before = datetime.now(UTC)
    said = await live.say(
        live.event("stage.started", stage="planner"), live.event("log", level="info", message="begun")
    )
    if said.accepted_seq != 2 or said.lease_until <= before or said.stop:
        raise Failed(
            f"two events were answered with accepted_seq {said.accepted_seq}, lease_until {said.lease_until}, stop {said.stop}"
        )
    return f"accepted_seq 2, a lease of {(said.lease_until - before).total_seconds():.0f} s"


async def next_token(play: Play) -> str:
    live = await play.taken()
    first, turns = live.token, 0
    until = time.monotonic() + TOKEN_TURNS_S
    while turns < 3 or (live.token == first and time.monotonic() < until):
        if turns >= 3:
            await asyncio.sleep(0.2)
        await live.say(live.event("log", level="info", message="with the newest token"))
        turns += 1
    reply = await live.tool("workspace.outline")
    reply.model(ToolAnswer)
    if live.token == first:
        raise Failed(f"{turns} receipts in {TOKEN_TURNS_S:g} s brought no other token than that of the dispatch")
    return f"{turns} times, and for a tool"


async def gap(play: Play) -> str:
    live = await play.taken()
    await live.say(live.event("stage.started", stage="planner"))
    reply = await live.post(
        live.batch(live.event("log", seq=4, level="info", message="too early")), "event 4 after event 1"
    )
    play.refused(reply, 409, code="sequence_gap")
    if reply.problem.get("expected_seq") != 2:
        raise Failed(f"{reply.evidence}; expected: expected_seq 2")
    await _holds(live, 1)
    return "409 with expected_seq 2, and nothing applied"


async def duplicate(play: Play) -> str:
    live = await play.taken()
    events = [
        live.event("artifact.produced", artifact=live.artifact()),
        live.event("stage.started", stage="planner"),
    ]
    await live.say(*events)
    again = await live.say(*events, telling="the same events again")
    new = live.event("stage.completed", stage="planner", latency_ms=1)
    more = await live.say(*events, new, telling="the same events and one more")
    if (again.accepted_seq, more.accepted_seq) != (2, 3):
        raise Failed(
            f"the same events again were answered accepted_seq {again.accepted_seq}, then {more.accepted_seq}; expected: 2, 3"
        )
    facts = await play.facts(live.mission, "stage.completed")  # what was applied before it is there as well
    if (begun := facts.count("stage.started")) != 1:
        raise Failed(f"an event that came three times was applied {begun} times: {', '.join(facts)}")
    return "skipped, and what was new in the batch taken"


async def strangers(play: Play) -> str:
    """Everything that is wrong about a signature; the token is right each time."""
    live = await play.taken()
    body, path = live.batch(live.event("log", level="info", message="by a stranger")), live.path
    ours = next(iter(play.keys.by_kid))
    sign = live.line.headers
    cases = {
        "unsigned": {},
        "signed with another secret": sign("POST", path, body, keys=Keys({ours: b"another-secret-under-the-same-kid"})),
        "signed with an unknown key": sign("POST", path, body, keys=FOREIGN),
        "signed for another body": sign("POST", path, body + b" "),
        "signed for another mission": sign("POST", path.replace(str(live.mission), str(uuid4())), body),
        "signed for the colony": sign("POST", path, body, audience="colony"),
        "signed 6 minutes ago": sign("POST", path, body, now=datetime.now(UTC) - timedelta(minutes=6)),
        "signed 6 minutes ahead": sign("POST", path, body, now=datetime.now(UTC) + timedelta(minutes=6)),
    }
    for telling, headers in cases.items():
        play.refused(await live.post(body, telling, headers=headers), 401)
    await _holds(live, 0)
    play.refused(await live.tool("workspace.outline", {"headers": {}, "telling": "unsigned"}), 401)
    play.refused(await live.ask_view(headers={}, telling="unsigned"), 401)
    return f"{len(cases)} forged batches, a tool call and a view refused, nothing applied"


async def replay(play: Play) -> str:
    live = await play.taken()
    body = live.batch()
    signed = live.line.headers("POST", live.path, body)
    first = await live.post(body, "a heartbeat", headers=signed)
    if first.status != 200:
        raise Failed(first.evidence)
    play.refused(await live.post(body, "the same request again", headers=signed), 401)
    return "the second of two equal requests refused"


async def wrong_token(play: Play) -> str:
    live, other = await play.taken(), await play.taken()
    body = live.batch(live.event("log", level="info", message="with a wrong token"))
    middle = len(live.token) // 2
    altered = live.token[:middle] + ("A" if live.token[middle] != "A" else "B") + live.token[middle + 1 :]
    cases = {
        "without a token": None,
        "with the token of another mission": other.token,
        "with an altered token": altered,
    }
    for telling, token in cases.items():
        play.refused(await live.post(body, telling, bearer=token), 401)
        play.refused(await live.tool("workspace.outline", {"bearer": token, "telling": telling}), 401)
    later = live.batch(live.event("log", seq=1, level="info", message="of attempt 2"), attempt=2)
    play.refused(await live.post(later, "attempt 2 with the token of attempt 1"), 401, 409, 410)
    await _holds(live, 0)
    return f"{len(cases) + 1} kinds refused, nothing applied"


async def unknown_field(play: Play) -> str:
    live = await play.taken()
    event = live.event("stage.started", stage="planner", kit_unknown=1)
    _names(
        play.refused(await live.post(live.batch(event), "an event with a member kit_unknown"), *UNREADABLE),
        "kit_unknown",
    )
    _names(
        play.refused(await live.post(live.batch(kit_whole=1), "a batch with a member kit_whole"), *UNREADABLE),
        "kit_whole",
    )
    await _holds(live, 0)
    await play.facts(live.mission, "payload.quarantined", 2)
    return "refused, the member named, nothing applied, the bytes kept"


async def malformed(play: Play) -> str:
    live = await play.taken()
    good = live.batch(live.event("stage.started", stage="planner"))
    bodies = {
        "not JSON": b"{attempt: 1}",
        "JSON that ends in the middle": good[:-10],
        "a list": b"[]",
        "an object nested 5,000 deep": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        "an event of no known type": live.batch(live.event("nonsense", seq=1)),
        "events 1 and 3": live.batch(*(live.event("log", seq=seq, level="info", message="x") for seq in (1, 3))),
    }
    for telling, body in bodies.items():
        play.refused(await live.post(body, telling), *UNREADABLE)
    await _holds(live, 0)
    return f"{len(bodies)} bodies refused, nothing applied"


async def oversized(play: Play) -> str:
    live = await play.taken()
    body = live.batch(live.event("log", level="info", message="x" * (MAX_BODY_BYTES + 1_000)))
    reply = await live.post(body, f"{len(body)} bytes")
    if reply.status not in (0, *UNREADABLE):  # 0: a server may close the connection before it has read everything
        raise Failed(f"{reply.evidence}; expected: 413")
    await _holds(live, 0)
    many = live.batch(*(live.event("log", seq=seq, level="info", message="x") for seq in range(1, 502)))
    play.refused(await live.post(many, "501 events"), *UNREADABLE)
    live.seq = 0
    await live.say(live.event("stage.started", stage="planner"))
    return f"refused ({reply.status or 'connection closed'}), and the mission goes on"


async def foreign_artifact(play: Play) -> str:
    live = await play.taken()
    cases = {
        "of another mission": live.artifact(mission_id=str(uuid4())),
        "of another tenant": live.artifact(tenant_id=str(uuid4())),
        "by the root": live.artifact(producer={"name": "root", "version": "1"}),
    }
    for telling, artifact in cases.items():
        body = live.batch(live.event("artifact.produced", seq=1, artifact=artifact))
        play.refused(await live.post(body, f"an artifact {telling}"), *UNREADABLE)
    await _holds(live, 0)
    return f"{len(cases)} refused, nothing applied"


async def heartbeat(play: Play) -> str:
    live = await play.taken()
    first = await live.say(telling="a heartbeat")
    second = await live.say(telling="a heartbeat")
    if second.lease_until <= first.lease_until:
        raise Failed(f"two heartbeats were answered with the lease {first.lease_until} and then {second.lease_until}")
    if first.accepted_seq != 0:
        raise Failed(f"a heartbeat before any event was answered accepted_seq {first.accepted_seq}")
    return "each empty batch brings a later lease_until"


async def root_view(play: Play) -> str:
    live = await play.taken()
    await live.say(live.event("stage.started", stage="planner"))
    view = await live.view()
    told = (view.mission_id, view.attempt, view.last_seq, view.stop)
    if told != (live.mission, 1, 1, False) or view.state not in AT_WORK:
        raise Failed(f"after one event of attempt 1 the root believes: {view.model_dump_json()}")
    play.refused(await live.line.ask("GET", f"/internal/v1/missions/{uuid4()}"), 404)
    return f"state {view.state}, attempt 1, last_seq 1"


async def tool_allowed(play: Play) -> str:
    live = await play.taken()
    result = (await live.tool("workspace.outline")).model(ToolAnswer).result
    documents = result.get("documents") if isinstance(result, dict) else None
    if not isinstance(documents, list):
        raise Failed(f"workspace.outline was answered {json.dumps(result)[:200]}; expected: documents")
    return f"{len(documents)} documents"


async def tool_denied(play: Play) -> str:
    live = await play.taken()
    reply = play.refused(await live.tool("crm.list", kind="lead"), 403)
    if not reply.problem.get("code"):
        raise Failed(f"{reply.evidence}; expected: a problem with a code, for the colony to act upon")
    play.refused(await live.tool("kit.no_such_tool"), 403, 404)
    wrong = play.refused(await live.tool("workspace.search", query=7), *UNREADABLE)
    _names(wrong, "query")
    await live.say(live.event("log", level="info", message="going on without it"))
    return f"403 {reply.problem['code']}, and the mission goes on"


async def budget(play: Play) -> str:
    live = await play.taken(budget={"tokens": 1000})
    if live.dispatch.budgets.tokens != 1000:
        raise Failed(f"the mission was given 1000 tokens, and the dispatch says {live.dispatch.budgets.tokens}")
    said = await live.say(live.event("usage.reported", tokens_in=900, tokens_out=0, cost_usd=0))
    if said.stop:
        raise Failed("900 of 1000 tokens were reported, and the root asked to stop")
    said = await live.say(live.event("usage.reported", tokens_in=900, tokens_out=0, cost_usd=0))
    if not said.stop:
        raise Failed("1800 of 1000 tokens were reported, and the root did not ask to stop")
    return f"asked to stop: {said.stop_reason}"


async def completes(play: Play) -> str:
    live = await play.taken()
    await live.complete()
    late = await live.post(live.batch(live.event("log", level="info", message="one more")), "an event after complete")
    play.refused(late, 409, 410, code="mission_closed")
    shown = await play.shows(live.mission, lambda one: one["state"] == "completed", "completed")
    return f"{shown['state']}, and the event after it refused"


async def blocked(play: Play) -> str:
    live = await play.taken()
    reason = "The kit cannot go on."
    await live.say(live.event("signal", signal="blocked", reason=reason))
    shown = await play.shows(live.mission, lambda one: one["state"] == "failed", "failed")
    if reason not in json.dumps(shown):
        told = {name: found for name, found in shown.items() if name.startswith("reason")}
        raise Failed(f"the mission failed and shows {json.dumps(told)}; expected: the colony's words, {reason!r}")
    return f"failed, reason {shown.get('reason')}, in the colony's words"


async def this_version(play: Play) -> str:
    live = await play.taken()
    reply = await live.post(live.batch(contract_version="2.0"), "contract_version 2.0")
    _names(play.refused(reply, *UNREADABLE), "contract_version")
    await live.say()
    return f"{CONTRACT_VERSION} is taken, 2.0 refused and the field named"


async def previous_version(play: Play) -> str:
    minor = int(CONTRACT_VERSION.removeprefix("1."))
    if minor == 0:
        raise NotApplicable(f"{CONTRACT_VERSION} is the first version: there is none before it")
    live, version = await play.taken(), f"1.{minor - 1}"
    body = live.batch(live.event("stage.started", stage="planner"), contract_version=version)
    headers = live.line.headers("POST", live.path, body) | {VERSION_HEADER: version}
    receipt = (await live.post(body, f"contract_version {version}", headers=headers)).model(EventReceipt)
    if receipt.accepted_seq != 1:
        raise Failed(f"one event in version {version} was answered with accepted_seq {receipt.accepted_seq}")
    return f"{version} is taken"


async def many(play: Play) -> str:
    """Three missions that are wrong, each in its own way, between two that are right."""
    lives = [await play.taken() for _ in range(5)]
    first, strange, early, unknown, last = lives

    def word(live: Live, seq: int = 1, **more: Any) -> dict[str, Any]:
        return live.event("stage.started", seq=seq, stage="planner", **more)

    entries = [
        first.entry(word(first)),
        strange.entry(word(strange), token=first.token),
        early.entry(word(early, 4)),
        unknown.entry(word(unknown, kit_unknown=1)),
        last.entry(word(last)),
    ]
    body = as_json({"contract_version": CONTRACT_VERSION, "missions": entries})
    reply = await first.post_many(body, "five missions, three of them wrong")
    said = reply.model(EventAnswers).missions
    if [one.mission_id for one in said] != [live.mission for live in lives]:
        raise Failed(f"{reply.evidence}; expected: one answer for each mission, in the order sent")
    found = [one.receipt.accepted_seq if one.receipt else (one.problem or {}).get("status") for one in said]
    if found[:3] != [1, 401, 409] or found[3] not in UNREADABLE or found[4] != 1:
        raise Failed(f"{reply.evidence}; expected: accepted_seq 1, 401, 409, 422, accepted_seq 1")
    if (said[2].problem or {}).get("expected_seq") != 1:
        raise Failed(f"{reply.evidence}; expected: expected_seq 1 with the gap")
    if "kit_unknown" not in json.dumps(said[3].problem):
        raise Failed(f"{reply.evidence}; expected: a problem that names kit_unknown")
    for live, seq in zip(lives, (1, 0, 0, 0, 1), strict=True):
        await _holds(live, seq)
    await play.facts(unknown.mission, "payload.quarantined")
    first.token = said[0].receipt.next_token if said[0].receipt else ""
    await first.say(first.event("log", seq=2, level="info", message="going on"))
    return "two taken, three refused, each told its own"


async def many_whole(play: Play) -> str:
    live, other = await play.taken(), await play.taken()
    begun = live.event("stage.started", seq=1, stage="planner")
    twice = as_json({"contract_version": CONTRACT_VERSION, "missions": [live.entry(begun), live.entry(begun)]})
    play.refused(await live.post_many(twice, "the same mission twice"), *UNREADABLE)
    body = as_json({"contract_version": CONTRACT_VERSION, "missions": [live.entry(), other.entry(token=live.token)]})
    signed = live.line.headers("POST", EVENTS_OF_MANY, body)
    first = await live.post_many(body, "two missions", headers=signed)
    if first.status != 200:
        raise Failed(first.evidence)
    play.refused(await live.post_many(body, "the same request again", headers=signed), 401)
    play.refused(await live.post_many(body, "unsigned", headers={}), 401)
    await _holds(live, 0)
    return "a mission twice, the same request twice, and an unsigned one"


async def problems(play: Play) -> str:
    if not play.replies:
        await strangers(play)
    for reply in play.replies:
        said = reply.problem
        if said.get("status") != reply.status or not isinstance(said.get("code"), str) or not said.get("title"):
            kind = reply.headers.get("content-type", "no content type")
            raise Failed(f"{reply.evidence} as {kind}; expected: application/problem+json with status, code and title")
    return f"{len(play.replies)} refusals looked at"


async def _holds(live: Live, seq: int) -> None:
    """Raises Failed unless the root has exactly so many events."""
    view = await live.view()
    if view.last_seq != seq:
        raise Failed(f"what was refused was applied: the root holds event {view.last_seq}; expected: {seq}")


def _names(reply: Reply, field: str) -> None:
    if field not in reply.body.decode(errors="replace"):
        raise Failed(f"{reply.evidence}; expected: a problem that names {field}")
