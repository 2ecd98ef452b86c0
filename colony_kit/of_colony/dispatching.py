"""Taking missions, answering for them, and letting them go."""

import asyncio
import json
import time

from colony_client.artifacts import Budgets
from colony_client.contract import CONTRACT_VERSION, Ready
from colony_kit.attempt import Attempt, Mood
from colony_kit.of_colony.play import Play, batch, tool_calls_after
from colony_kit.report import Failed, NotApplicable

NOT_ALLOWED = "http://198.51.100.7:8081"  # an address of a network that is reserved for documentation
AT_ONCE = 64
MOST = 256  # missions that are offered to find out when a colony is full


async def dispatch(play: Play) -> str:
    attempt = await play.plain()
    if attempt.terminal is None or attempt.terminal.signal == "escalate":
        raise Failed(f"the mission did not end by itself; the root had heard {attempt.story()}")
    return attempt.story()


async def each_for_itself(play: Play) -> str:
    """Five in one call; the third names a root that nobody may call back."""
    good = [play.attempt(Mood()) for _ in range(4)]
    bad = play.attempt(Mood(), callback_base_url=NOT_ALLOWED)
    attempts = [*good[:2], bad, *good[2:]]
    answers, reply = await play.dispatch(*attempts)
    try:
        wrong = [
            one
            for one, attempt in zip(answers, attempts, strict=True)
            if attempt is not bad and one.outcome == "refused"
        ]
        if wrong:
            raise Failed(f"{reply.evidence}; expected: no mission refused because another one in its call is")
    finally:
        for attempt in attempts:
            await _let_go(play, attempt)
    return f"5 missions answered: {', '.join(one.outcome for one in answers)}"


async def duplicate(play: Play) -> str:
    """The same dispatch five times at the same moment, and once more when the mission has ended."""
    attempt = play.attempt(Mood())
    said = await asyncio.gather(*(play.dispatch(attempt) for _ in range(5)))
    outcomes = {answers[0].outcome for answers, _ in said}
    if outcomes == {"busy"}:
        await play.accepted(attempt)
    elif not outcomes <= {"accepted", "busy"}:
        raise Failed(
            f"five equal dispatches at once were answered {', '.join(sorted(outcomes))}; {said[0][1].evidence}"
        )
    await play.ended(attempt)
    events, calls = len(attempt.events), len(tool_calls_after(attempt, 0))
    [again], reply = await play.dispatch(attempt)
    if again.outcome != "accepted":
        raise Failed(f"when the mission had ended, {reply.evidence}; expected: the answer from before, accepted")
    await asyncio.sleep(play.pace.quiet)
    if twice := attempt.found("twice"):
        raise Failed(f"the same dispatch was worked on more than once: {twice[0]}")
    if len(attempt.events) != events or len(tool_calls_after(attempt, 0)) != calls:
        raise Failed(f"a dispatch that came again was worked on again: the root had heard {attempt.story()}")
    return f"six equal dispatches, one piece of work: {attempt.story()}"


async def next_attempt(play: Play) -> str:
    """The tools of attempt 1 are held until attempt 2 has ended, and its events refused as a root refuses them."""
    held = asyncio.Event()
    first = play.attempt(Mood(tools_held=held))
    try:
        await play.accepted(first)
        await first.until(lambda: first.heard, play.pace.patience)
        second = play.attempt(mission_id=first.mission_id, number=2)
        await play.accepted(second)
        [late], reply = await play.dispatch(first)
        if late.outcome != "refused":
            raise Failed(f"attempt 1 after attempt 2 was taken: {reply.evidence}; expected: refused")
        await play.ended(second)
    finally:
        held.set()
    status = await play.status(second)
    if status.attempt != 2:
        raise Failed(f"GET /v1/missions/{{id}} said attempt {status.attempt}; expected: 2")
    await asyncio.sleep(play.pace.quiet + play.pace.underway)
    told = first.told_to_stop_at
    if told is not None and (after := tool_calls_after(first, told + play.pace.underway)):
        raise Failed(f"attempt 1 called {after[0]} after it had been told that it is superseded")
    return "attempt 2 worked on to its end, attempt 1 refused"


async def callback_origin(play: Play) -> str:
    attempt = play.attempt(Mood(), callback_base_url=NOT_ALLOWED)
    [answer], reply = await play.dispatch(attempt)
    if answer.outcome == "accepted":
        await play.cancel(attempt)
    if answer.outcome != "refused":
        raise Failed(f"callback_base_url {NOT_ALLOWED}: {reply.evidence}; expected: refused")
    return f"refused: {answer.reason}"


async def this_version(play: Play) -> str:
    attempt = play.attempt(Mood())
    _, reply = await play.dispatch(attempt, contract_version=CONTRACT_VERSION)
    await _let_go(play, attempt)
    return f"{CONTRACT_VERSION} is taken ({reply.status})"


async def previous_version(play: Play) -> str:
    minor = int(CONTRACT_VERSION.removeprefix("1."))
    if minor == 0:
        raise NotApplicable(f"{CONTRACT_VERSION} is the first version: there is none before it")
    attempt, version = play.attempt(Mood()), f"1.{minor - 1}"
    _, reply = await play.dispatch(attempt, contract_version=version)
    await _let_go(play, attempt)
    return f"{version} is taken ({reply.status})"


async def other_major(play: Play) -> str:
    attempt = play.attempt(Mood())
    body = batch(attempt, contract_version="2.0")
    reply = play.refused(await play.line.ask("POST", "/v1/missions", body, telling="contract_version 2.0"), 400, 422)
    if b"contract_version" not in reply.body:
        raise Failed(f"{reply.evidence}; expected: a problem that names contract_version")
    return "2.0 is refused, and the field named"


async def status(play: Play) -> str:
    """In the middle of a mission and at its end."""
    held = asyncio.Event()
    attempt = play.attempt(Mood(tools_held=held))
    try:
        await play.accepted(attempt)
        await attempt.until(lambda: attempt.last_seq or tool_calls_after(attempt, 0), play.pace.patience)
        known = attempt.last_seq
        said = await play.status(attempt)
    finally:
        held.set()
    if (said.state, said.attempt) != ("running", 1) or said.last_seq_sent < known:
        raise Failed(
            f"the root held event {known} of a mission under way, and GET /v1/missions/{{id}} said state {said.state}, "
            f"attempt {said.attempt}, last_seq_sent {said.last_seq_sent}; expected: running, 1, at least {known}"
        )
    await play.ended(attempt)
    assert attempt.terminal is not None
    meant = {"complete": "completed", "blocked": "blocked", "escalate": "escalated"}[attempt.terminal.signal]
    said = await play.in_state(attempt, meant, seconds=play.pace.late)
    if said.last_seq_sent != attempt.last_seq:
        raise Failed(f"the root held {attempt.last_seq} events, and last_seq_sent was {said.last_seq_sent} at the end")
    return f"running with {known} events, then {meant} with {attempt.last_seq}"


async def cancel(play: Play) -> str:
    """While a tool call is under way, which is answered after the cancel."""
    held = asyncio.Event()
    attempt = play.attempt(Mood(tools_held=held))
    try:
        await play.accepted(attempt)
        await attempt.until(lambda: tool_calls_after(attempt, 0) or attempt.terminal, play.pace.patience)
        if attempt.terminal:
            raise NotApplicable("the mission ended, without a tool call, before it could be cancelled")
        await play.cancel(attempt)
        moment = time.monotonic()
    finally:
        held.set()
    await play.in_state(attempt, "cancelled", seconds=play.pace.late)
    await asyncio.sleep(play.pace.underway + play.pace.quiet)
    if after := tool_calls_after(attempt, moment + play.pace.underway):
        raise Failed(f"tool {after[0]} was called more than {play.pace.underway:g} s after the cancel was answered")
    if attempt.terminal and attempt.terminal.signal == "complete":
        raise Failed("the mission was cancelled, and then said complete")
    return "cancelled, and silent from then on"


async def cancel_again(play: Play) -> str:
    attempt = play.attempt(Mood(tools_held=asyncio.Event()))
    assert attempt.mood.tools_held is not None
    try:
        await play.accepted(attempt)
        first, second = await play.cancel(attempt), await play.cancel(attempt)
    finally:
        attempt.mood.tools_held.set()
    if second.attempt != first.attempt or second.state == "running" != first.state:
        raise Failed(f"cancelled twice: first state {first.state}, then {second.state}; expected: the same")
    done = await play.plain()
    before = await play.in_state(done, "completed", "blocked", "escalated", "failed", seconds=play.pace.late)
    after = await play.cancel(done)
    if (after.state, after.last_seq_sent) != (before.state, before.last_seq_sent):
        raise Failed(
            f"a mission that was {before.state} was {after.state} after a cancel; expected: it stays as it has ended"
        )
    return f"twice {second.state}; a mission that was {before.state} stays so"


async def busy(play: Play) -> str:
    """Missions whose tools are held are offered until none is taken any more; then all are let go."""
    held, taken = asyncio.Event(), list[Attempt]()
    try:
        first, wait = await _fill(play, Mood(tools_held=held), taken)
        probe = await play.line.ask("GET", "/ready")
        if probe.model(Ready, 200, 503).ready or probe.status == 200:
            raise Failed(f"while it answered busy, {probe.evidence}; expected: 503, ready false")
    finally:
        for attempt in taken:
            await _let_go(play, attempt)
        held.set()
    await play.worked(first)
    return f"{len(taken)} taken, the others told to come again in {wait:g} s, and one of them taken later"


async def _fill(play: Play, mood: Mood, taken: list[Attempt]) -> tuple[Attempt, float]:
    """Offers missions until a whole call is turned away; one that was, and the seconds it was told to wait."""
    while len(taken) < MOST:
        offered = [play.attempt(mood) for _ in range(AT_ONCE)]
        answers, reply = await play.dispatch(*offered)
        taken += [one for one, answer in zip(offered, answers, strict=True) if answer.outcome == "accepted"]
        if any(answer.outcome == "refused" for answer in answers):
            raise Failed(f"{reply.evidence}; expected: each accepted or busy")
        turned_away = [answer for answer in answers if answer.outcome == "busy"]
        if silent := [answer for answer in turned_away if not answer.retry_after_s]:
            raise Failed(f"{reply.evidence}; {len(silent)} of {len(turned_away)} busy answers say no retry_after_s")
        if len(turned_away) == AT_ONCE:
            return offered[0], turned_away[0].retry_after_s or 0.0
    raise NotApplicable(f"the colony took {len(taken)} missions at once and was not full")


async def time_budget(play: Play) -> str:
    """Its tools do not answer before its time is over."""
    held = asyncio.Event()
    seconds = play.pace.time_budget
    budgets = Budgets(time_ms=int(seconds * 1000), tokens=100_000, cost_usd=1)
    attempt = play.attempt(Mood(tools_held=held), budgets=budgets)
    try:
        await play.accepted(attempt)
        began = time.monotonic()
        if not await attempt.until(lambda: attempt.terminal, seconds + play.pace.late):
            raise Failed(
                f"{seconds + play.pace.late:g} s after a dispatch with time_ms {budgets.time_ms} nothing had ended the attempt; "
                f"the root had heard {attempt.story()}"
            )
        took = time.monotonic() - began
    finally:
        held.set()
    assert attempt.terminal is not None
    if attempt.terminal.signal == "complete" and tool_calls_after(attempt, 0):
        raise Failed(f"complete after {took:.1f} s, although no tool had answered")
    return f"{attempt.terminal.signal} after {took:.1f} s of {seconds:g}: {attempt.terminal.reason}"


async def token_budget(play: Play) -> str:
    allowed = 10
    attempt = play.attempt(Mood(), budgets=Budgets(time_ms=int(play.pace.patience * 1000), tokens=allowed, cost_usd=1))
    await play.worked(attempt)
    if attempt.tokens_used > allowed:
        raise Failed(f"{attempt.tokens_used} tokens were reported of a budget of {allowed}")
    return f"{attempt.tokens_used} tokens reported of {allowed}"


async def _let_go(play: Play, attempt: Attempt) -> None:
    """Cancels, whatever becomes of it; a colony may never have taken it."""
    await play.line.ask("POST", f"/v1/missions/{attempt.mission_id}/cancel", json.dumps({"reason": "seen"}).encode())
