"""Playing a recorded mission again without its colony: its events and calls, in the order of the ledger, through the root as it is now.

Nothing leaves the process: tools answer from the tape, and what is proposed ends in a shadow. Everything that the
root decides it decides anew: policy for each call and each change, the review of the evidence, the mission's own moves.
"""

from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from app import missions, model_gateway, tape, tools, work
from app.artifacts import Objects
from app.boundary import callbacks
from app.caller import Caller, system
from app.clock import now
from app.db import Database, ReadSession, WriteSession
from app.errors import Problem
from app.missions import Held, Mission
from app.replay.recording import Answered, Fact, Recording
from app.replay.sources import Played, played
from app.replay.transfer import bring_sources
from app.tape import Unreadable, reading, refused_here
from app.work import Item
from colony_client.artifacts import parse_artifact
from colony_client.contract import (
    ArtifactProduced,
    CheckpointSaved,
    Event,
    EventBatch,
    Signal,
    StageCompleted,
    StageStarted,
    UsageReported,
    WritebackProposed,
)

LEASE = timedelta(minutes=1)  # it is over within one transaction
CALLS = ("tool.called", "tool.failed", "tool.refused", "tool.denied")
MODEL_CALLS = ("model.called", "model.refused", "model.denied")
MOST_TRIES = 1000  # half a day of them: what then still fails is no fault that passes
log = structlog.get_logger("replay")


async def play(database: Database, item: Item, environment: str, objects: Objects) -> None:
    """Plays the mission of a work item, whole or up to where it goes another way, in one transaction."""
    found: Played | tuple[str, str]
    if item.attempts > MOST_TRIES:
        found = "replay_unplayable", f"It failed {MOST_TRIES} times; the worker's log says of what."
    else:
        async with database.read() as session:
            await session.enter(item.tenant)
            asked = await missions.find(session, item.subject)
            assert asked is not None and asked.replay_of is not None
            found = await found_again(session, asked.replay_of, environment)
    if isinstance(found, Played):
        await bring_sources(database, objects, item.tenant, found.brought)
    async with database.write() as session:
        await session.enter(item.tenant)
        mission = await missions.lock(session, item.subject)
        if mission.state == "accepted":
            caller = system(item.tenant, "worker")
            if isinstance(found, Played):
                await Player(session, caller, mission, found.recording).play()
            else:
                reason, note = found
                await missions.fail(session, caller, mission.id, "replay", reason=reason, note=note)
        await work.finish(session, item)


async def found_again(session: ReadSession, id: UUID, environment: str) -> Played | tuple[str, str]:
    """What is played, or why the replay ends before it has begun: reason and note."""
    try:
        found = await played(session, id, environment)
    except Problem as malformed:  # a file that an earlier version took in
        return "replay_unplayable", malformed.detail
    return ("replay_removed", f"What it repeats was {found}.") if isinstance(found, str) else found


class Player:
    """Says what the recorded colony said, in the name of a replay."""

    def __init__(self, session: WriteSession, caller: Caller, mission: Mission, recording: Recording) -> None:
        self.session, self.caller, self.mission, self.recording = session, caller, mission, recording
        self.held = Held(session.fetch)
        self.seq = 0
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.taped = {(one.kind, one.name, one.call.sha256.hex(), one.ordinal): one for one in recording.calls}
        self.at = 0  # the fact that is played
        self.ended = False

    async def play(self) -> None:
        await self.hold()
        for fact in self.recording.of_attempt():
            self.at = fact.seq
            await self.played(self.again(fact))
            if self.ended:
                break
        else:
            why = self.recording.reason or self.recording.state
            self.give_up("replay_ended", f"The recorded attempt ended without a signal of its colony: {why}.")
        if not await self.played(self.keep()):
            await self.held.keep()  # that the replay has ended, and how
        self.session.nudges |= self.held.nudges  # no `committed`: what was counted then is not counted again

    async def played(self, step: Awaitable[None]) -> bool:
        """A step of the replay. Where it cannot be made of what the recording says, or what would come of it is refused here, the
        replay ends, and False is answered: made once more it would be the same. Everything else is no fault of the recording's,
        and the work is tried again: a database that is away, a bug."""
        try:
            await step
        except (Unreadable, Problem, DBAPIError) as error:
            if not (isinstance(error, Unreadable) or refused_here(error)):
                raise
            log.warning("a recording cannot be played", mission=str(self.mission.id), fact=self.at, exc_info=error)
            why = "is not whole" if isinstance(error, Unreadable) else "is refused here"
            if not self.held.missions:
                await self.hold()
            self.give_up("replay_unplayable", f"What the recording says in fact {self.at} {why}.")
            return False
        return True

    async def hold(self) -> None:
        await self.held.hold([(self.caller.tenant, self.mission.id)])

    async def keep(self) -> None:
        """Writes what was said since the last call. What cannot be written is forgotten: with it nothing could be written."""
        try:
            async with self.session.part():
                await self.held.keep()
        except BaseException:
            self.held = Held(self.session.fetch)
            raise

    async def again(self, fact: Fact) -> None:
        if fact.type in (*CALLS, *MODEL_CALLS):
            await self.keep()  # what was said before stands before it in the ledger
            async with self.session.part():
                await (self.call(fact) if fact.type in CALLS else self.model_call(fact))
        elif fact.type == "provider.failed":
            with reading():
                self.held.tell(self.caller, fact.type, self.mission.id, **fact.body)
        else:
            await self.repeat(fact)

    # --- what the colony said

    async def repeat(self, fact: Fact) -> None:
        """What the colony said behind a fact, once more."""
        with reading():
            event = self.event(fact)
        if event is not None and not await self.say(event):
            self.give_up("replay_unplayable", f"What the recording says in fact {fact.seq} is refused here.")

    def event(self, fact: Fact) -> Event | None:
        """The event behind a fact; None for facts of the root's own."""
        said: dict[str, Any] = dict(fact.body)
        at = {"seq": self.seq + 1, "at": fact.at}
        match fact.type:
            case "stage.started":
                return StageStarted.model_validate(at | {"stage": said["stage"]})
            case "stage.completed":
                return StageCompleted.model_validate(at | {"stage": said["stage"], "latency_ms": said["latency_ms"]})
            case "artifact.stored" | "artifact.repeated" if fact.actor.startswith("colony:"):
                if said["schema_name"] == "writeback_proposal":
                    return None  # comes as writeback.proposed
                return ArtifactProduced.model_validate(at | {"artifact": self.artifact(said["artifact"])})
            case "writeback.proposed":
                return WritebackProposed.model_validate(at | {"proposal": self.artifact(said["proposal"])})
            case "checkpoint.saved":
                return CheckpointSaved.model_validate(
                    at | {"checkpoint_id": "recorded", "sha256": said["sha256"], "size_bytes": said["size_bytes"]}
                )
            case "usage.reported":
                used = {name: said[name] for name in ("tokens_in", "tokens_out", "cost_usd")}
                return UsageReported.model_validate(at | used)
            case "colony.signalled":
                return Signal.model_validate(at | {"signal": said["signal"], "reason": self.words(str(said["signal"]))})
        return None

    def artifact(self, id: Any) -> Any:
        """A recorded artifact as this mission's own."""
        found = self.recording.artifact(id)
        if found is None:
            raise LookupError(id)
        own = {
            "mission_id": str(self.mission.id),
            "tenant_id": str(self.caller.tenant),
            "actor_id": str(self.mission.requested_by),
        }
        return parse_artifact({**found.content, **own})

    def words(self, signal: str) -> str | None:
        """Why the attempt ended as it did: the ledger keeps no words, the mission does."""
        return (self.recording.reason_note or "recorded") if signal in ("blocked", "escalate") else None

    async def say(self, event: Event) -> bool:
        """One event through the verb that takes a colony's; False when that refuses it."""
        batch = EventBatch(attempt=self.mission.attempt, events=[event])
        outcome = await callbacks.judge(self.held, callbacks.said(self.caller, self.mission.id, batch), LEASE)
        if not isinstance(outcome, callbacks.Taken):
            return False
        self.seq = event.seq
        if isinstance(event, Signal) and event.ends_attempt:
            self.ended = True
            if outcome.asks is not None:  # nobody is asked on behalf of a replay
                self.give_up("replay_escalated", "The recorded colony put a question before a human here.")
        return True

    def give_up(self, reason: str, note: str) -> None:
        self.ended = True
        self.held.fail(self.caller, self.mission.id, "replay", reason=reason, note=note)
        self.held.drop("colony_cancel", self.mission.id)  # no colony has it

    # --- what it asked

    async def call(self, fact: Fact) -> None:
        """Policy now, the answer of then."""
        with reading():
            which = str(fact.body["tool"]), str(fact.body.get("arguments_sha256", ""))
        taped = await self.next("tool", *which)
        if taped is None:
            return
        with reading():
            asked, arguments = taped.call, dict(taped.arguments)  # type: ignore[arg-type]
            then = tools.said_again(on_tape(taped)) if taped.outcome != "denied" else None
        wanted = await tools.known.find(self.session, asked.name)
        if wanted is None:
            return await self.diverge(asked, taped.ordinal, "no_tool")
        envelope = await missions.envelope(self.session, self.mission.id)
        refusal = await tools.judge(self.session, self.caller, self.mission, wanted, envelope, asked, arguments)
        if (refusal is not None) != (taped.outcome == "denied"):
            rule = str(refusal.members.get("rule")) if refusal is not None else None
            why = "denied_now" if refusal is not None else "allowed_now"
            return await self.diverge(asked, taped.ordinal, why, rule)
        if then is not None:
            await tools.noted_again(self.session, self.caller, self.mission, wanted, asked, then, taped.took_ms)
            refusal = tools.switched_off_then(then)
        if refusal is not None and wanted.name in await tools.needs(self.session, self.mission):
            mission = await missions.lock(self.session, self.mission.id)
            await tools.block(self.session, self.caller, mission, wanted, refusal)
            await self.over()

    async def model_call(self, fact: Fact) -> None:
        """The same for a model. What its client did not wait for is on no tape, and nothing went on by it."""
        if fact.body.get("outcome") == "abandoned":
            return
        with reading():
            which = str(fact.body["model"]), str(fact.body.get("request_sha256", ""))
        taped = await self.next("model", *which)
        if taped is None:
            return
        with reading():
            asked, played = taped.call, on_tape(taped)
            then = model_gateway.then(played)
        envelope = await missions.envelope(self.session, self.mission.id)
        said = await model_gateway.play(
            self.session, self.caller, self.mission, envelope.environment, asked, played, then
        )
        if isinstance(said, str):
            await self.diverge(asked, taped.ordinal, said)

    async def next(self, kind: tape.Kind, name: str, sha256: str) -> Answered | None:
        """The next answer to a call; None when it is on no tape, and the replay has ended."""
        which = (kind, name, sha256)
        self.asked[which] += 1
        taped = self.taped.get((*which, self.asked[which]))
        if taped is None:
            await self.diverge(tape.Call(kind, name, b""), self.asked[which], "no_tape")
        return taped

    async def diverge(self, asked: tape.Call, ordinal: int, why: str, rule: str | None = None) -> None:
        await tape.diverge(self.session, self.caller, self.mission.id, asked, ordinal, why, rule)
        await self.over()

    async def over(self) -> None:
        self.ended = True
        await work.drop(self.session, "colony_cancel", self.mission.id)  # no colony has it


def on_tape(one: Answered) -> tape.Taped:
    """A recorded answer as a tape would give it."""
    asked = one.call
    return tape.Taped(
        asked.kind,
        asked.name,
        asked.arguments,
        asked.sha256,
        one.ordinal,
        one.outcome,  # type: ignore[arg-type]
        one.answer_bytes,
        b"",
        one.took_ms,
        now(),
    )
