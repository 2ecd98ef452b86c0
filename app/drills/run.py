"""Running a drill: over HTTP, as anybody would, with the keys of its two people; and judging what became of it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx

from app.drills.catalog import DEFINITION, DRILLS, MISSION_TYPE
from app.drills.people import OPERATOR, SUBMITTER, secret_of
from colony_client.signing import Keys

ENDED = ("completed", "failed", "cancelled", "denied")
LOOK_S = 0.2  # between two looks at a mission
STARTING_S = 10.0  # for which a run waits for an API that cannot be connected to
MOST_LOOKS = 3  # at what others change meanwhile: drills that begin at once all want to put their type of mission
FASTER = (409, 412, 428)  # somebody has changed it since this one has looked
CLEARING_S = 1.5  # for which a run that failed puts away what it began
MOST_LEFT = 50  # missions of a drill that are looked through for open ones, the newest first
OTHER = "0" * 64  # a hash of nothing that was proposed


class Failed(Exception):
    """A drill that did not go as it should; code says what was seen instead."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def require(holds: Any, code: str) -> None:
    if not holds:
        raise Failed(code)


@dataclass
class Outcome:
    """What came of a run. reason: a code, when it failed."""

    state: str
    reason: str | None = None
    evidence: list[dict[str, str]] = field(default_factory=list)


class Runner:
    """Plays the submitter and the operator of the drills' tenant. door: instead of the network, in a test."""

    def __init__(self, root_url: str, keys: Keys, door: httpx.AsyncBaseTransport | None = None) -> None:
        self.people = {
            name: httpx.AsyncClient(
                base_url=root_url,
                headers={"Authorization": f"Bearer {secret_of(keys, name)}"},
                transport=door,
                timeout=10,
                trust_env=False,
            )
            for name in (SUBMITTER, OPERATOR)
        }

    async def aclose(self) -> None:
        for one in self.people.values():
            await one.aclose()

    async def run(self, drill: str, run: UUID, within_s: float) -> Outcome:
        """Never raises for what goes wrong with a drill: that is what it is for.

        What a failed run began is cancelled: nobody waits for it, and nobody else could decide it. What is still open after
        CLEARING_S more, or after a worker that died, the next run of the drill cancels before it begins.
        """
        scene = Scene(self, drill, run)
        outcome = await self.judge(scene, within_s)
        if outcome.state != "passed" and scene.reached:
            with contextlib.suppress(Failed, httpx.HTTPError, ValueError, LookupError, TimeoutError):
                async with asyncio.timeout(CLEARING_S):
                    await scene.clear()
        return outcome

    async def judge(self, scene: "Scene", within_s: float) -> Outcome:
        try:
            async with asyncio.timeout(within_s):
                await scene.clear()
                await JUDGES[scene.drill](scene)
        except Failed as failed:
            return Outcome("failed", failed.code, scene.evidence)
        except TimeoutError:
            return Outcome("failed", "timed_out", scene.evidence)
        except (httpx.HTTPError, ValueError, KeyError, LookupError):
            return Outcome("failed", "root_unreachable" if not scene.reached else "answer_unreadable", scene.evidence)
        return Outcome("passed", None, scene.evidence)


@dataclass
class Scene:
    """One run, and the missions it has made so far."""

    runner: Runner
    drill: str
    run: UUID
    evidence: list[dict[str, str]] = field(default_factory=list)
    reached: bool = False
    began: float = field(default_factory=time.monotonic)

    async def call(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        while True:
            try:
                answer = await self.runner.people[who].request(method, path, json=body, headers=sent)
                break
            except httpx.ConnectError:  # nothing was sent; a worker that starts with the API is faster than that
                if self.reached or time.monotonic() > self.began + STARTING_S:
                    raise
                await asyncio.sleep(LOOK_S)
        self.reached = True
        require(answer.status_code != 401, "not_prepared")
        return answer

    async def get(self, path: str) -> Any:
        answer = await self.call(OPERATOR, "GET", path)
        require(answer.status_code == 200, "answer_unreadable")
        return answer.json()

    async def begin(self) -> str:
        """A mission of this drill."""
        await self.prepare()
        body = {
            "mission_type": MISSION_TYPE,
            "user_goal": f"Drill: {DRILLS[self.drill].shows}",
            "inputs": {"drill": self.drill, "run": str(self.run)},
            "tools": list(DRILLS[self.drill].tools),
            "labels": {"drill": self.drill, "run": str(self.run)},
        }
        made = await self.call(SUBMITTER, "POST", "/v1/missions", body)
        require(made.status_code == 202, "mission_refused")
        return self.keep(made.json()["id"])

    def keep(self, mission: str) -> str:
        self.evidence.append({"kind": "mission", "id": mission})
        return mission

    async def clear(self) -> None:
        """Cancels what this drill's runs have left open. Two runs of one drill are never under way together."""
        made = await self.call(SUBMITTER, "GET", f"/v1/missions?label=drill:{self.drill}&limit={MOST_LEFT}")
        require(made.status_code == 200, "answer_unreadable")
        for one in made.json()["items"]:
            if one["state"] not in ENDED:
                await self.cancel(one["id"])

    async def cancel(self, mission: str) -> None:
        path = f"/v1/missions/{mission}"
        for _ in range(MOST_LOOKS):
            seen = await self.call(SUBMITTER, "GET", path)
            if seen.status_code != 200 or seen.json()["state"] in ENDED:
                return
            why = {"reason": "The drill that asked for it is over."}
            done = await self.call(SUBMITTER, "POST", f"{path}/cancel", why, If_Match=seen.headers["ETag"])
            if done.status_code not in FASTER:
                return

    async def prepare(self) -> None:
        """The drills' own type of mission, as this release wants it."""
        path = f"/v1/mission-types/{MISSION_TYPE}"
        for _ in range(MOST_LOOKS):
            known = await self.call(SUBMITTER, "GET", path)
            if known.status_code == 200 and all(known.json().get(name) == value for name, value in DEFINITION.items()):
                return
            seen = known.headers.get("ETag")
            put = await self.call(SUBMITTER, "PUT", path, DEFINITION, **({"If_Match": seen} if seen else {}))
            if put.status_code in (200, 201):
                return
            require(put.status_code in FASTER, "type_refused")
        raise Failed("type_refused")

    async def until(self, mission: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The mission once something holds of it, or once it has ended; the run's own time bounds it."""
        while True:
            found: dict[str, Any] = await self.get(f"/v1/missions/{mission}")
            if holds(found) or found["state"] in ENDED:
                return found
            await asyncio.sleep(LOOK_S)

    async def end(self, mission: str) -> dict[str, Any]:
        return await self.until(mission, lambda found: False)

    async def facts(self, mission: str, kind: str) -> list[dict[str, Any]]:
        items = (await self.get(f"/v1/missions/{mission}/events?limit=200"))["items"]
        return [item["body"] for item in items if item["type"] == kind]

    async def writebacks(self, mission: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.get(f"/v1/writebacks?mission={mission}"))["items"]
        return items

    async def approval(self, mission: str) -> dict[str, Any]:
        """The one approval that the mission waits for."""
        found = await self.until(mission, lambda found: bool(found["pending_approvals"]))
        require(found["state"] == "awaiting_approval", "nobody_was_asked")
        [approval, *more] = (await self.get(f"/v1/approvals?mission={mission}"))["items"]
        require(not more, "asked_twice")
        self.evidence.append({"kind": "approval", "id": approval["id"]})
        return dict(approval)

    async def decide(self, who: str, approval: dict[str, Any], sha256: str | None = None) -> httpx.Response:
        body = {"decision": "approve", "payload_sha256": sha256 or approval["payload_sha256"]}
        path = f"/v1/approvals/{approval['id']}/decisions"
        return await self.call(who, "POST", path, body, If_Match=f'"v{approval["version"]}"')


def code_of(answer: httpx.Response) -> str:
    return str(answer.json().get("code")) if answer.status_code >= 400 else "done"


async def blocked_tool(scene: Scene) -> None:
    mission = await scene.begin()
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    denied = await scene.facts(mission, "tool.denied")
    require([one["rule"] for one in denied if one["tool"] == "crm.list"] == ["tools.blocked"], "tool_not_denied")
    require(not any(one["tool"] == "crm.list" for one in await scene.facts(mission, "tool.called")), "tool_was_called")


async def blocked_writeback(scene: Scene) -> None:
    mission = await scene.begin()
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    require(await scene.facts(mission, "writeback.denied"), "change_not_denied")
    require(not await scene.writebacks(mission), "writeback_was_made")


async def approved_writeback(scene: Scene) -> None:
    mission = await scene.begin()
    approval = await scene.approval(mission)
    require(code_of(await scene.decide(SUBMITTER, approval)) == "own_request", "requester_could_approve")
    require(code_of(await scene.decide(OPERATOR, approval, OTHER)) == "other_payload", "hash_was_not_bound")
    [before] = await scene.writebacks(mission)
    require(before["state"] == "awaiting_approval", "written_before_approval")
    require(code_of(await scene.decide(OPERATOR, approval)) == "done", "approval_refused")
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    [after] = await scene.writebacks(mission)
    scene.evidence.append({"kind": "writeback", "id": after["id"]})
    require(after["state"] == "succeeded", "not_written")
    settled = await scene.facts(mission, "writeback.settled")
    require([one.get("observed_sha256") for one in settled] == [approval["payload_sha256"]], "not_read_back")


async def expired_approval(scene: Scene) -> None:
    mission = await scene.begin()
    approval = await scene.approval(mission)
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    require((await scene.get(f"/v1/approvals/{approval['id']}"))["state"] == "expired", "not_expired")
    require(code_of(await scene.decide(OPERATOR, approval)) in ("expired", "wrong_state", "stale"), "decided_too_late")
    require([one["state"] for one in await scene.writebacks(mission)] == ["expired"], "not_dead")


async def colony_down(scene: Scene) -> None:
    mission = await scene.begin()
    waiting = await scene.until(mission, lambda found: bool(found["degraded"]))
    require(waiting["state"] == "accepted", "did_not_wait")
    require(waiting["degraded"]["code"] == "colony_unavailable", "did_not_say_why")
    require((await scene.end(mission))["state"] == "completed", "did_not_go_on")


async def provider_down(scene: Scene) -> None:
    mission = await scene.begin()
    ended = await scene.end(mission)
    require((ended["state"], ended["reason"]) == ("failed", "blocked"), "did_not_end")
    require(ended["reason_note"], "did_not_say_why")
    failed = await scene.facts(mission, "provider.failed")
    require([one["code"] for one in failed] == ["connector_unreachable"], "not_recorded")


async def malformed_payload(scene: Scene) -> None:
    mission = await scene.begin()
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    kept = await scene.facts(mission, "payload.quarantined")
    require([one["origin"] for one in kept] == ["callback"], "not_kept")


async def replay(scene: Scene) -> None:
    mission = await scene.begin()
    require((await scene.end(mission))["state"] == "completed", "not_completed")
    again = await scene.call(SUBMITTER, "POST", f"/v1/missions/{mission}/replay", {"mode": "recorded"})
    require(again.status_code == 202, "replay_refused")
    repeated = scene.keep(again.json()["id"])
    require((await scene.end(repeated))["state"] == "completed", "replay_not_completed")
    found = await scene.get(f"/v1/missions/{repeated}/diff")
    require(found["same"] and found["divergence"] is None, "replay_differs")
    require(not await scene.writebacks(repeated), "replay_wrote")


JUDGES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "blocked_tool": blocked_tool,
    "blocked_writeback": blocked_writeback,
    "approved_writeback": approved_writeback,
    "expired_approval": expired_approval,
    "colony_down": colony_down,
    "provider_down": provider_down,
    "malformed_payload": malformed_payload,
    "replay": replay,
}
assert set(JUDGES) == set(DRILLS)
