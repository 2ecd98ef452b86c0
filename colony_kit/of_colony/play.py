"""What every check of a colony works with: calls to it, missions for it, and the root it calls back."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from colony_client.artifacts import Budgets, MissionEnvelope, Producer, sealed_envelope
from colony_client.contract import (
    CONTRACT_VERSION,
    Dispatch,
    DispatchAnswer,
    DispatchAnswers,
    DispatchBatch,
    MissionStatus,
)
from colony_client.signing import Keys
from colony_kit.attempt import Attempt, Mood
from colony_kit.door import Door
from colony_kit.library import LEADS_QUESTION, QUESTION
from colony_kit.line import Line, Reply
from colony_kit.played_root import PlayedRoot
from colony_kit.report import Failed

TENANT, ACTOR = uuid4(), uuid4()
BUSY = 2  # times the patience for one mission: others are worked on meanwhile
TOOLS = ["workspace.search", "workspace.read", "workspace.outline", "crm.list", "crm.read"]


@dataclass(frozen=True)
class Pace:
    """How long things may take and are watched, in seconds. A colony that works faster makes the run no longer."""

    patience: float = 60.0  # for a mission to end
    answer: float = 10.0  # for one answer of the colony
    quiet: float = 1.0  # how long is watched that nothing comes
    underway: float = 0.5  # what comes so shortly after a word was under way already
    slow: float = 1.2  # an answer that takes its time
    away: float = 1.5  # how long the root is gone
    lease: float = 8.0
    time_budget: float = 1.5
    late: float = 5.0  # how long after the end of its time a mission may take to say so


@dataclass
class Play:
    """restart: the command that restarts the colony, as words; empty when there is none."""

    line: Line
    root: PlayedRoot
    door: Door
    pace: Pace
    callback_base_url: str
    restart: Sequence[str] = ()
    replies: list[Reply] = field(default_factory=list)  # every refusal that was provoked
    versions: list[tuple[str, str]] = field(default_factory=list)  # where a contract version was said, and which
    _plain: "asyncio.Task[Attempt] | None" = None
    _leads: "asyncio.Task[Attempt] | None" = None

    @property
    def keys(self) -> Keys:
        return self.line.keys

    # --- missions

    def attempt(
        self,
        mood: Mood | None = None,
        *,
        goal: str = QUESTION,
        mission_type: str = "oracle_advisory",
        mission_id: UUID | None = None,
        number: int = 1,
        budgets: Budgets | None = None,
        callback_base_url: str | None = None,
    ) -> Attempt:
        """A mission that is not dispatched yet. Without a mood the root is good to it."""
        given = budgets or Budgets(time_ms=int(self.pace.patience * 1000), tokens=100_000, cost_usd=1)
        envelope = self.envelope(mission_id or uuid4(), goal, mission_type, given)
        dispatch = Dispatch(
            mission_id=envelope.mission_id,
            attempt=number,
            envelope=envelope,
            callback_base_url=callback_base_url or self.callback_base_url,
            mission_token="to-be-issued",  # noqa: S106 (replaced by the root that expects it)
            budgets=given,
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        return self.root.expect(dispatch, mood)

    @staticmethod
    def envelope(mission_id: UUID, goal: str, mission_type: str, budgets: Budgets) -> MissionEnvelope:
        return sealed_envelope(
            mission_id=mission_id,
            tenant_id=TENANT,
            actor_id=ACTOR,
            created_at=datetime.now(UTC),
            producer=Producer(name="root", version="1"),
            mission_type=mission_type,
            origin_surface="conformance kit",
            actor_role="submitter",
            user_goal=goal,
            normalized_goal=goal,
            risk_level="low",
            sensitivity_class="internal",
            mode="assisted",
            environment="local",
            inputs={},
            tools=TOOLS,
            budget=budgets,
        )

    async def plain(self) -> Attempt:
        """The mission that every check may look at: a good root, worked on to its end. It is run once."""
        if self._plain is None:
            self._plain = asyncio.ensure_future(self.worked(self.attempt()))
        return await asyncio.shield(self._plain)

    async def leads(self) -> Attempt:
        """The same for a CRM mission."""
        if self._leads is None:
            asked = self.attempt(goal=LEADS_QUESTION, mission_type="crm_lead_intelligence")
            self._leads = asyncio.ensure_future(self.worked(asked))
        return await asyncio.shield(self._leads)

    async def worked(self, attempt: Attempt) -> Attempt:
        """Dispatched, and worked on to the signal that ends it. Raises Failed."""
        await self.accepted(attempt)
        await self.ended(attempt)
        return attempt

    async def accepted(self, attempt: Attempt) -> Attempt:
        """Dispatched and accepted; a colony that is busy is asked again. Raises Failed."""
        until = time.monotonic() + BUSY * self.pace.patience
        while True:
            [answer], reply = await self.dispatch(attempt)
            if answer.outcome == "accepted":
                return attempt
            if answer.outcome == "refused" or time.monotonic() > until:
                raise Failed(f"{reply.evidence}; expected: accepted")
            await asyncio.sleep(min(max(answer.retry_after_s or 0.0, 0.2), 5.0))

    async def ended(self, attempt: Attempt, seconds: float | None = None) -> None:
        """Until the signal that ends the attempt has come. Raises Failed."""
        patience = self.pace.patience if seconds is None else seconds
        if not await attempt.until(lambda: attempt.terminal is not None, patience):
            raise Failed(f"the mission had not ended after {patience:g} s; the root had heard {attempt.story()}")

    # --- calls

    async def dispatch(self, *attempts: Attempt, **more: Any) -> tuple[list[DispatchAnswer], Reply]:
        """One call; the answers in the order asked. Raises Failed unless each is answered for itself, once."""
        body = batch(*attempts, **more)
        reply = await self.line.ask("POST", "/v1/missions", body, telling=f"a dispatch of {len(attempts)}")
        answers = reply.model(DispatchAnswers)
        self.versions.append(("an answer to a dispatch", answers.contract_version))
        by_attempt = {(one.mission_id, one.attempt): one for one in answers.missions}
        asked = [(one.mission_id, one.number) for one in attempts]
        if len(answers.missions) != len(asked) or by_attempt.keys() != set(asked):
            raise Failed(f"{reply.evidence}; expected: one answer for each of the {len(asked)} attempts, naming it")
        return [by_attempt[one] for one in asked], reply

    async def status(self, attempt: Attempt) -> MissionStatus:
        reply = await self.line.ask("GET", f"/v1/missions/{attempt.mission_id}")
        status = reply.model(MissionStatus)
        if status.mission_id != attempt.mission_id:
            raise Failed(f"{reply.evidence}; it is about another mission")
        return status

    async def cancel(self, attempt: Attempt) -> MissionStatus:
        body = json.dumps({"reason": "the kit has seen enough"}).encode()
        reply = await self.line.ask("POST", f"/v1/missions/{attempt.mission_id}/cancel", body, telling="a cancel")
        return reply.model(MissionStatus)

    async def in_state(self, attempt: Attempt, *states: str, seconds: float) -> MissionStatus:
        """The status once it says one of these states. Raises Failed."""
        until = time.monotonic() + seconds
        while True:
            status = await self.status(attempt)
            if status.state in states:
                return status
            if time.monotonic() > until:
                wanted = " or ".join(states)
                raise Failed(
                    f"after {seconds:g} s GET /v1/missions/{{id}} still said {status.state}; expected: {wanted}"
                )
            await asyncio.sleep(0.1)

    def refused(self, reply: Reply, *statuses: int) -> Reply:
        """Keeps a refusal that was provoked. Raises Failed for any other answer."""
        if reply.status not in statuses:
            raise Failed(f"{reply.evidence}; expected: {' or '.join(map(str, statuses))}")
        self.replies.append(reply)
        return reply


def batch(*attempts: Attempt, **more: Any) -> bytes:
    """The body of a dispatch; `more` are members of the batch that are put in or replaced."""
    said = DispatchBatch.model_construct(contract_version=CONTRACT_VERSION, missions=[one.dispatch for one in attempts])
    return json.dumps(said.model_dump(mode="json") | more).encode()


def tool_calls_after(attempt: Attempt, moment: float) -> list[str]:
    """The tools that were called after a moment of the monotonic clock."""
    return [one.tool for one in attempt.heard if one.kind == "tool" and one.at > moment]
