"""The desk: which attempts are taken, which are running, and what became of them."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

import structlog
from prometheus_client import Gauge

from colony.attempt import Attempt
from colony.settings import Settings
from colony_client.client import RootClient
from colony_client.contract import CONTRACT_VERSION, Dispatch, DispatchAnswer, MissionStatus, ProviderState, Ready

log = structlog.get_logger()

WAITING_PER_RUNNING = 4  # how many accepted missions may wait for each one that can run
REMEMBERED = 10_000  # answers kept for a dispatch that comes again
SECONDS_TO_FINISH = 5.0  # that running missions get when the process is told to stop
RUNNING = Gauge("colony_missions_held", "Missions that are running or waiting to run.")


@dataclass
class Held:
    """The newest attempt at a mission, and the answer its dispatch got."""

    attempt: Attempt
    answer: DispatchAnswer
    task: asyncio.Task[None] | None = None


class Desk:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._held: OrderedDict[UUID, Held] = OrderedDict()
        self._slots = asyncio.Semaphore(settings.max_concurrent_missions)
        self._roots: dict[str, RootClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # --- what the root asks

    def admit(self, dispatch: Dispatch) -> DispatchAnswer:
        """Take one attempt, or say why not. The same attempt again gets the answer it got before."""
        known = self._held.get(dispatch.mission_id)
        if known and known.attempt.number == dispatch.attempt:
            return known.answer
        if known and known.attempt.number > dispatch.attempt:
            newer = known.attempt.number
            return _answer(dispatch, "refused", "attempt_superseded", f"attempt {newer} of this mission is known here")
        if refusal := self._refusal(dispatch):
            return refusal
        if known:
            known.attempt.stop("a newer attempt took over", superseded=True)
        held = Held(self._attempt(dispatch), _answer(dispatch, "accepted"))
        self._held[dispatch.mission_id] = held
        self._held.move_to_end(dispatch.mission_id)
        self._start(held)
        self._forget_oldest()
        return held.answer

    def status(self, mission_id: UUID) -> MissionStatus | None:
        held = self._held.get(mission_id)
        return held.attempt.status() if held else None

    def cancel(self, mission_id: UUID, reason: str) -> MissionStatus | None:
        held = self._held.get(mission_id)
        if held is None:
            return None
        held.attempt.stop(reason)
        return held.attempt.status()

    def ready(self) -> Ready:
        full = len(self._tasks) >= self._capacity
        providers = {
            "root": self._root_state(),
            "model": ProviderState(state="ok", detail=self.settings.default_model_route),
            "research": ProviderState(state="disabled"),
            "browser": ProviderState(state="disabled"),
            "desk": ProviderState(
                state="degraded" if full or self._closing else "ok",
                detail=f"{len(self._tasks)} of {self._capacity} places taken",
            ),
        }
        return Ready(ready=not (full or self._closing), providers=providers, contract_version=CONTRACT_VERSION)

    # --- running

    @property
    def _capacity(self) -> int:
        return self.settings.max_concurrent_missions * (1 + WAITING_PER_RUNNING)

    def _refusal(self, dispatch: Dispatch) -> DispatchAnswer | None:
        if not self.settings.may_call_back(dispatch.callback_base_url):
            said = "callback_base_url is not among the origins of ROOT_API_BASE_URL"
            return _answer(dispatch, "refused", "callback_not_allowed", said)
        if self._closing:
            return _answer(dispatch, "busy", "stopping", "the colony is being stopped", retry_after_s=5.0)
        if len(self._tasks) >= self._capacity:
            said = f"all {self._capacity} places are taken"
            return _answer(dispatch, "busy", "full", said, retry_after_s=2.0)
        return None

    def _attempt(self, dispatch: Dispatch) -> Attempt:
        base = dispatch.callback_base_url
        if base not in self._roots:
            timeout = min(30.0, self.settings.task_timeout_ms / 1000)
            self._roots[base] = RootClient(base, self.settings.keys(), timeout_s=timeout)
        return Attempt(dispatch, self._roots[base], self.settings)

    def _start(self, held: Held) -> None:
        held.task = asyncio.create_task(held.attempt.run(self._slots), name=f"mission {held.attempt.mission_id}")
        self._tasks.add(held.task)
        held.task.add_done_callback(self._ended)
        RUNNING.set(len(self._tasks))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        RUNNING.set(len(self._tasks))

    def _forget_oldest(self) -> None:
        for mission_id, held in list(self._held.items()):
            if len(self._held) <= REMEMBERED:
                return
            if held.task is None or held.task.done():
                del self._held[mission_id]

    def _root_state(self) -> ProviderState:
        troubled = [trouble for held in self._held.values() if (trouble := held.attempt.trouble)]
        return ProviderState(state="degraded", detail=troubled[-1][:2000]) if troubled else ProviderState(state="ok")

    async def close(self) -> None:
        """Let running missions finish for a moment, then stop; the root dispatches what was left again."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SECONDS_TO_FINISH)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for root in self._roots.values():
            await root.aclose()


def _answer(
    dispatch: Dispatch,
    outcome: str,
    code: str | None = None,
    reason: str | None = None,
    retry_after_s: float | None = None,
) -> DispatchAnswer:
    return DispatchAnswer(
        mission_id=dispatch.mission_id,
        attempt=dispatch.attempt,
        outcome=outcome,  # type: ignore[arg-type]
        code=code,
        reason=reason,
        retry_after_s=retry_after_s,
    )
