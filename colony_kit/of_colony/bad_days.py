"""The root on bad days: slow, away, refusing, asking to stop; and a colony that is restarted."""

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from colony_client.contract import Health, MissionStatus
from colony_kit.attempt import Attempt, Mood
from colony_kit.of_colony.play import Play, tool_calls_after
from colony_kit.report import Failed, NotApplicable

RESTART_S = 60.0
DENIED_TIMES = 3  # that a denied call may be repeated


async def heartbeat(play: Play) -> str:
    """A tool call that lasts longer than the lease, and nothing else to say."""
    held, lease = asyncio.Event(), play.pace.lease
    attempt = play.attempt(Mood(tools_held=held, lease=lease))
    try:
        await play.accepted(attempt)
        await attempt.until(lambda: tool_calls_after(attempt, 0) or attempt.terminal, play.pace.patience)
        if attempt.terminal:
            raise NotApplicable("the mission ended without a tool call to wait for")
        began = time.monotonic()
        if not await attempt.until(lambda: _batches_after(attempt, began + min(0.2, lease / 5)), lease):
            raise Failed(
                f"no batch of events came for {lease:g} s, the length of the lease, while a tool call was under way"
            )
        took = attempt.heard[-1].at - began
    finally:
        held.set()
        await play.cancel(attempt)
    return f"the next batch came after {took:.1f} s of a lease of {lease:g} s"


async def slow_receiver(play: Play) -> str:
    return await _whole(play, play.attempt(Mood(answers_after=play.pace.slow)))


async def away(play: Play) -> str:
    """A batch of events gets no answer, and then nobody listens for a while; no other mission is under way."""
    attempt = play.attempt(Mood(leaves=asyncio.Event()))
    assert attempt.mood.leaves is not None
    await play.accepted(attempt)
    async with asyncio.timeout(play.pace.patience):
        await attempt.mood.leaves.wait()
    await play.door.shut()
    try:
        await asyncio.sleep(play.pace.away)
    finally:
        await play.door.open()
    try:
        return await _whole(play, attempt, dispatched=True)
    except Failed as failed:
        raise Failed(f"after {play.pace.away:g} s without a root: {failed}") from None


async def expected_seq(play: Play) -> str:
    attempt = play.attempt(Mood(gaps=1))
    try:
        return await _whole(play, attempt)
    except Failed as failed:
        raise Failed(f"after 409 with expected_seq: {failed}") from None


async def retry_after(play: Play) -> str:
    attempt = play.attempt(Mood(busy_events=2))
    stuck: Failed | None = None
    try:
        found = await _whole(play, attempt)
    except Failed as failed:
        stuck = failed
    batches = [one for one in attempt.heard if one.kind == "events"]
    for before, after in pairwise(batches):
        if before.status == 429 and after.at - before.at < 0.9 * attempt.mood.retry_after:
            waited = after.at - before.at
            raise Failed(
                f"after 429 with Retry-After: {attempt.mood.retry_after} the next batch came in {waited:.2f} s"
            )
    if stuck is not None:
        raise stuck
    return f"waited as asked; {found}"


async def stop(play: Play) -> str:
    return await _stops(play, Mood(stops_at=1))


async def superseded(play: Play) -> str:
    return await _stops(play, Mood(supersedes_at=1))


async def unknown_members(play: Play) -> str:
    return await _whole(play, play.attempt(Mood(talkative=True)))


async def redirect(play: Play) -> str:
    attempt = play.attempt(Mood(redirects=1))
    await play.accepted(attempt)
    await attempt.until(lambda: attempt.terminal or play.root.redirected, play.pace.patience)
    if play.root.redirected:
        raise Failed("a callback that was answered 307 was repeated at the address that Location named")
    await play.ended(attempt, 0)
    return f"not followed; {attempt.story()}"


async def tool_denied(play: Play) -> str:
    attempt = play.attempt(Mood(denies_tools=True))
    stuck: Failed | None = None
    try:
        await play.worked(attempt)
        await asyncio.sleep(play.pace.quiet)
    except Failed as failed:
        stuck = failed
    calls = Counter((one.tool, one.digest) for one in attempt.heard if one.kind == "tool")
    (tool, _), times = calls.most_common(1)[0] if calls else (("", ""), 0)
    if times > DENIED_TIMES:
        raise Failed(f"the same call of {tool} was made {times} times although it was answered 403 denied_by_policy")
    if stuck is not None:
        raise stuck
    if not calls:
        raise NotApplicable("the mission called no tool")
    assert attempt.terminal is not None
    return f"{attempt.terminal.signal} after {calls.total()} denied calls"


async def restart(play: Play) -> str:
    """Killed by the command in the middle of a mission; the root does what it does then: it asks, and dispatches the next attempt."""
    if not play.restart:
        raise NotApplicable("no --restart-command was given")
    held = asyncio.Event()
    first = play.attempt(Mood(tools_held=held))
    await play.accepted(first)
    await first.until(lambda: first.last_seq, play.pace.patience)
    await _run(play.restart)
    held.set()
    await _back(play)
    resumed = await _resumed(play, first)
    if resumed:
        return f"attempt 1 goes on after the restart: {first.story()}"
    second = play.attempt(Mood(), mission_id=first.mission_id, number=2)
    await play.worked(second)
    status = await play.status(second)
    if status.attempt != 2:
        raise Failed(f"after a restart GET /v1/missions/{{id}} said attempt {status.attempt}; expected: 2")
    return f"attempt 1 is given up, attempt 2 taken: {second.story()}"


async def _run(command: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as failed:
        raise Failed(f"--restart-command could not be run: {failed.strerror}") from None
    try:
        async with asyncio.timeout(RESTART_S):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        raise Failed(f"--restart-command had not ended after {RESTART_S:g} s") from None
    if code != 0:
        raise Failed(f"--restart-command ended with exit code {code}")


async def _back(play: Play) -> None:
    until = time.monotonic() + RESTART_S
    while True:
        reply = await play.line.ask("GET", "/health")
        if reply.status == 200:
            reply.model(Health)
            return
        if time.monotonic() > until:
            raise Failed(f"{RESTART_S:g} s after the restart {reply.evidence}")
        await asyncio.sleep(0.1)


async def _resumed(play: Play, attempt: Attempt) -> bool:
    """Whether the colony says that it works on the attempt; then it has to bring it to its end."""
    reply = await play.line.ask("GET", f"/v1/missions/{attempt.mission_id}")
    if reply.status == 404 or reply.model(MissionStatus).state != "running":
        return False
    await play.ended(attempt)
    return True


async def _whole(play: Play, attempt: Attempt, *, dispatched: bool = False) -> str:
    """A mission that ends with every event there, each once, in order."""
    if not dispatched:
        await play.accepted(attempt)
    await play.ended(attempt)
    if gaps := attempt.found("gap"):
        raise Failed(f"events were lost: {gaps[0]}")
    seqs = [event.seq for event in attempt.events]
    if seqs != list(range(1, len(seqs) + 1)):
        raise Failed(f"the events came as {seqs[:40]}; expected: 1 to {len(seqs)}")
    return attempt.story()


async def _stops(play: Play, mood: Mood) -> str:
    """A mission that the root no longer wants: after its word nothing is done any more. Its tools wait for that word."""
    mood.tools_held = asyncio.Event()
    attempt = play.attempt(mood)
    try:
        await play.accepted(attempt)
        await attempt.until(lambda: attempt.told_to_stop_at is not None, play.pace.lease)
    finally:
        mood.tools_held.set()
    if not await attempt.until(lambda: attempt.told_to_stop_at is not None or attempt.terminal, play.pace.patience):
        raise Failed(f"the mission did not get on; the root had heard {attempt.story()}")
    moment = attempt.told_to_stop_at
    if moment is None:
        raise NotApplicable("the mission ended before it could be asked to stop")
    try:
        status = await play.in_state(attempt, "cancelled", "failed", "blocked", "completed", seconds=play.pace.late)
    except Failed as failed:
        raise Failed(f"after the root had asked to stop: {failed}") from None
    await asyncio.sleep(play.pace.quiet + play.pace.underway)
    if after := tool_calls_after(attempt, moment + play.pace.underway):
        raise Failed(
            f"tool {after[0]} was called after the root had asked to stop; the root had heard {attempt.story()}"
        )
    if batches := _batches_after(attempt, moment + play.pace.underway):
        raise Failed(f"{len(batches)} batches of events came after the root had asked to stop")
    if attempt.terminal and attempt.terminal.signal == "complete":
        raise Failed("complete was said after the root had asked to stop")
    return f"state {status.state}, and silent from then on"


def _batches_after(attempt: Attempt, moment: float) -> list[float]:
    return [one.at for one in attempt.heard if one.kind == "events" and one.at > moment]
