"""One attempt at one mission as the played root sees it: what was agreed, what was heard, and what was wrong with it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from colony_client.artifacts import ArtifactBase
from colony_client.contract import ArtifactProduced, Dispatch, Event, Signal, UsageReported, WritebackProposed
from colony_kit.evidence import clean
from colony_kit.library import Shown

Breach = Literal[
    "signature", "nonce", "token", "old_token", "shape", "gap", "twice", "after_end", "stranger", "roots_own"
]  # fmt: skip


@dataclass
class Mood:
    """How the root behaves towards one attempt. Seconds; `None` and 0 mean: as a good root does."""

    answers_after: float = 0.0  # every batch of events
    tools_after: float = 0.0  # every tool call
    tools_held: asyncio.Event | None = None  # tool calls wait for it
    busy_events: int = 0  # so many batches are answered 429 with Retry-After
    retry_after: int = 1
    gaps: int = 0  # so many batches are answered 409 with the `seq` they begin with, untaken
    stops_at: int | None = None  # holding so many events it asks to stop
    supersedes_at: int | None = None  # holding so many events it says that another attempt holds the mission
    leaves: asyncio.Event | None = None  # set by the first events that come: they get no answer
    redirects: int = 0  # so many batches are answered 307
    denies_tools: bool = False
    talkative: bool = False  # members that no contract knows, in every answer
    lease: float = 15.0


@dataclass(frozen=True)
class Heard:
    """One callback. seqs: of its events, empty for a heartbeat and for a tool call."""

    at: float
    kind: Literal["events", "tool"]
    tool: str = ""
    seqs: tuple[int, ...] = ()
    status: int = 0
    digest: str = ""  # of the arguments of a tool call


@dataclass
class Attempt:
    """`calm` attempts see a root without moods: what is wrong with them is the colony's own doing."""

    dispatch: Dispatch
    mood: Mood
    calm: bool
    issue: Callable[[], str] = field(repr=False)  # makes the next token
    events: list[Event] = field(default_factory=list)
    said: dict[int, str] = field(default_factory=dict)  # the text of each event by seq, to know it again
    tokens: list[str] = field(default_factory=list, repr=False)  # oldest first
    heard: list[Heard] = field(default_factory=list)
    breaches: list[tuple[Breach, str]] = field(default_factory=list)
    shown: set[Shown] = field(default_factory=set)
    gaps: int = 0
    ended_at: float | None = None
    told_to_stop_at: float | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def mission_id(self) -> UUID:
        return self.dispatch.mission_id

    @property
    def number(self) -> int:
        return self.dispatch.attempt

    @property
    def last_seq(self) -> int:
        return self.events[-1].seq if self.events else 0

    @property
    def terminal(self) -> Signal | None:
        """The signal that has ended the attempt."""
        return next((one for one in self.events if isinstance(one, Signal) and one.ends_attempt), None)

    @property
    def artifacts(self) -> list[ArtifactBase]:
        """Everything produced, proposals included."""
        produced = [event.artifact for event in self.events if isinstance(event, ArtifactProduced)]
        return [*produced, *(event.proposal for event in self.events if isinstance(event, WritebackProposed))]

    @property
    def tokens_used(self) -> int:
        return sum(one.tokens_in + one.tokens_out for one in self.events if isinstance(one, UsageReported))

    def token(self) -> str:
        """A fresh token, which makes the earlier ones old."""
        self.tokens.append(self.issue())
        return self.tokens[-1]

    def note(self, breach: Breach, evidence: str) -> None:
        if len(self.breaches) < 50:
            self.breaches.append((breach, clean(f"mission {self.mission_id}, attempt {self.number}: {evidence}", 500)))

    def found(self, *kinds: Breach) -> list[str]:
        return [evidence for kind, evidence in self.breaches if kind in kinds]

    async def hear(self, heard: Heard) -> None:
        self.heard.append(heard)
        async with self.changed:
            self.changed.notify_all()

    async def until(self, holds: Callable[[], object], seconds: float) -> bool:
        """Waits for something that callbacks bring about."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(holds)
        except TimeoutError:
            return bool(holds())
        return True

    def story(self) -> str:
        """What came, in one line, as evidence."""
        words = [f"{one.signal}!" if isinstance(one, Signal) else one.type for one in self.events]
        told = ", ".join(words if len(words) <= 12 else [*words[:5], "…", *words[-6:]])
        tools = sum(one.kind == "tool" for one in self.heard)
        beats = sum(one.kind == "events" and not one.seqs for one in self.heard)
        return f"{len(self.events)} events ({told or 'none'}), {tools} tool calls, {beats} heartbeats"
