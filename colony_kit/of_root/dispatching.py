"""What the root does with a mission until the colony has it, and when the colony is not well."""

import asyncio
import json
import time

from colony_client.artifacts import contract_hash
from colony_kit.of_root.play import AT_WORK, Play
from colony_kit.played_colony import Breach, Case
from colony_kit.report import Failed


async def dispatched(play: Play) -> str:
    live = await play.taken()
    dispatch = live.dispatch
    if (dispatch.mission_id, dispatch.attempt) != (live.mission, 1):
        raise Failed(
            f"mission {live.mission} came as attempt {dispatch.attempt} of {dispatch.mission_id}; expected: attempt 1 of itself"
        )
    if contract_hash(dispatch.envelope) != dispatch.envelope.contract_hash:
        raise Failed("the envelope's contract_hash is not the hash of the envelope")
    if dispatch.envelope.mission_type != "oracle_advisory" or live.case.mark not in dispatch.envelope.normalized_goal:
        raise Failed("the envelope does not say what was asked for")
    if (
        dispatch.budgets.time_ms > dispatch.envelope.budget.time_ms
        or dispatch.budgets.tokens > dispatch.envelope.budget.tokens
    ):
        raise Failed(f"the dispatch gives {dispatch.budgets}, more than the envelope's {dispatch.envelope.budget}")
    await live.say(telling="a heartbeat with the token of the dispatch")
    return f"attempt 1, called back at {dispatch.callback_base_url}"


async def shape(play: Play) -> str:
    _no(play, "shape")
    if not any(one.cancels for one in play.colony.cases):  # nobody else has asked for one
        live = await play.taken()
        await play.cancel(live.mission)
        await live.case.until(lambda: live.case.cancels, play.pace.patience)
    return f"{_no(play, 'shape')}, {sum(len(one.cancels) for one in play.colony.cases)} of them cancels"


async def signed(play: Play) -> str:
    return _no(play, "signature")


async def fresh_nonces(play: Play) -> str:
    if not any(len(one.heard) > 1 for one in play.colony.cases):  # nothing was repeated yet
        case, _ = await play.submitted(busy=1, retry_after_s=play.pace.retry_after)
        await _again(play, case, 2)
    return _no(play, "nonce")


async def version(play: Play) -> str:
    return _no(play, "version")


async def taken_once(play: Play) -> str:
    live = await play.taken()
    await play.shows(live.mission, lambda one: one["state"] in AT_WORK, "dispatched")
    await asyncio.sleep(play.pace.quiet)
    if len(live.case.heard) > 1:
        raise Failed(f"a mission that was accepted was dispatched {len(live.case.heard)} times")
    return "dispatched once, and shown as dispatched"


async def busy(play: Play) -> str:
    case, mission = await play.submitted(busy=2, retry_after_s=play.pace.retry_after)
    await case.until(lambda: case.heard, play.pace.patience)
    shown = await play.shows(
        mission, lambda one: one["degraded"] or len(case.heard) > 2, "a degraded reason while it waits"
    )
    await _again(play, case, 3)
    _waited(case, play.pace.retry_after)
    if shown["state"] != "accepted" or not shown["degraded"]:
        told = {name: shown.get(name) for name in ("state", "degraded")}
        raise Failed(
            f"while it waited the mission showed {json.dumps(told)}; expected: accepted, with a degraded reason"
        )
    return f"offered again after {case.heard[1][0] - case.heard[0][0]:.1f} s, degraded {shown['degraded'].get('code')}"


async def refused(play: Play) -> str:
    reason = "The kit does not take this one."
    case, mission = await play.submitted(refused=reason)
    shown = await play.shows(mission, lambda one: one["state"] == "failed", "failed")
    await asyncio.sleep(play.pace.quiet)
    if len(case.heard) != 1:
        raise Failed(f"a mission that was refused was dispatched {len(case.heard)} times")
    return f"failed, reason {shown.get('reason')}"


async def unknown_members(play: Play) -> str:
    live = await play.taken(talkative=True)
    await play.shows(live.mission, lambda one: one["state"] in AT_WORK, "dispatched")
    await live.complete()
    await play.shows(live.mission, lambda one: one["state"] == "completed", "completed")
    return "taken, and worked on to its end"


async def answer_lost(play: Play) -> str:
    """The call arrives, and the connection breaks before the answer."""
    case, _ = await play.submitted(trouble="lost")
    await _again(play, case, 2)
    return f"the same attempt came again after {case.heard[1][0] - case.heard[0][0]:.1f} s"


async def limited(play: Play) -> str:
    case, _ = await play.submitted(trouble="limited", retry_after_s=play.pace.retry_after)
    await _again(play, case, 2)
    _waited(case, play.pace.retry_after)
    return f"the same attempt came again after {case.heard[1][0] - case.heard[0][0]:.1f} s"


async def redirect(play: Play) -> str:
    case, _ = await play.submitted(trouble="redirect")
    await _again(play, case, 2)
    if play.colony.redirected:
        raise Failed("a dispatch that was answered 307 was repeated at the address that Location named")
    return "not followed, and the same attempt came again"


async def away(play: Play) -> str:
    """Nobody listens when the mission is taken in."""
    await play.door.shut()
    try:
        case, mission = await play.submitted()
        shown = await play.shows(mission, lambda one: one["degraded"], "accepted, with a degraded reason")
        if shown["state"] != "accepted":
            raise Failed(f"with nobody to dispatch to, the mission was {shown['state']}; expected: accepted")
        await asyncio.sleep(play.pace.away)
    finally:
        await play.door.open()
    opened = time.monotonic()
    await _again(play, case, 1)
    return f"degraded {shown['degraded'].get('code')}, and dispatched {case.heard[0][0] - opened:.1f} s after the colony was back"


async def silence(play: Play) -> str:
    """A colony that says nothing, and when it is asked knows nothing of the mission."""
    live = await play.taken(status="lost")
    case = live.case
    if not await case.until(lambda: case.heard[-1][1].attempt > 1, play.pace.patience):
        raise Failed(
            f"{play.pace.patience:g} s of silence, and no second attempt was dispatched; the status was asked {case.asked} times"
        )
    if not case.asked:
        raise Failed("a second attempt was dispatched, and nobody had asked for the status of the first")
    second = play.live(case, live.mission)
    if second.dispatch.attempt != 2:
        raise Failed(f"after attempt 1 came attempt {second.dispatch.attempt}")
    play.refused(
        await live.post(live.batch(live.event("log", level="info", message="late"))),
        409,
        410,
        code="attempt_superseded",
    )
    play.refused(await live.tool("workspace.outline"), 409, 410, code="attempt_superseded")
    await second.complete()
    await play.shows(live.mission, lambda one: one["state"] == "completed", "completed by the second attempt")
    return "asked, dispatched as attempt 2, and attempt 1 is refused since"


async def alive(play: Play) -> str:
    """A colony that says nothing, and when it is asked says that it is running."""
    live = await play.taken()
    receipt = await live.say()
    wait = (receipt.lease_until.timestamp() - time.time()) + play.pace.patience / 2
    if not await live.case.until(lambda: live.case.asked, wait):
        raise Failed(f"the lease had run out for {play.pace.patience / 2:g} s, and nobody had asked for the status")
    await asyncio.sleep(play.pace.quiet)
    if len(live.case.heard) > 1:
        raise Failed("the colony had said that it is running, and the mission was dispatched again")
    return "asked, and left alone"


async def cancelled(play: Play) -> str:
    live = await play.taken()
    await live.say(live.event("stage.started", stage="planner"))
    reply = await play.cancel(live.mission)
    if reply.status >= 400:
        raise Failed(reply.evidence)
    if not await live.case.until(lambda: live.case.cancels, play.pace.patience):
        raise Failed(f"the mission was cancelled, and {play.pace.patience:g} s later the colony had not been told")
    receipt = await live.say(telling="a heartbeat after the cancel")
    if not receipt.stop:
        raise Failed("a heartbeat of a cancelled mission was answered without stop")
    late = await live.post(live.batch(live.event("log", level="info", message="late")), "an event after the cancel")
    play.refused(late, 409, 410, code="mission_closed")
    return "the colony is told, its heartbeat answered with stop, its events refused"


async def _again(play: Play, case: Case, times: int) -> None:
    """Until the mission was offered so often, each time as the same attempt."""
    if not await case.until(lambda: len(case.heard) >= times, play.pace.patience):
        raise Failed(
            f"after {play.pace.patience:g} s the mission had been offered {len(case.heard)} times; expected: {times}"
        )
    attempts = [dispatch.attempt for _, dispatch in case.heard]
    if set(attempts) != {1}:
        raise Failed(f"it was offered as attempt {', '.join(map(str, attempts))}; expected: always 1")


def _waited(case: Case, seconds: float) -> None:
    for (before, _), (after, _) in zip(case.heard[:2], case.heard[1:3], strict=False):
        if after - before < 0.9 * seconds:
            raise Failed(f"offered again after {after - before:.2f} s; it was told to wait {seconds:g} s")


def _no(play: Play, *breaches: Breach) -> str:
    if found := play.colony.found(*breaches):
        raise Failed(f"{len(found)} times; {found[0]}")
    return f"{play.colony.calls} calls looked at"
