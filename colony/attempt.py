"""One attempt at one mission: the seven stages in order, each leaving its artifact, and one signal at the end."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

import structlog
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from colony.case import Case, Model, ModelFailed, TaskTimeout
from colony.lines import Line, line_for
from colony.outbox import Outbox, Stopped
from colony.settings import Settings
from colony.telemetry import continuing, tracer
from colony.tools import ToolFailed, Tools
from colony_client.client import RootClient
from colony_client.contract import (
    STAGES,
    ArtifactProduced,
    Dispatch,
    MissionStatus,
    ProviderFailed,
    Signal,
    StageCompleted,
    StageStarted,
    WritebackProposed,
)
from colony_client.errors import Superseded

log = structlog.get_logger()

SECONDS_TO_SAY_SO = 30.0  # after the mission's time is over, for the root to take the last events
STAGE_SECONDS = Histogram("colony_stage_seconds", "Time spent in a stage.", ["stage"])
ENDED = Counter("colony_missions_ended", "Attempts by how they ended.", ["state"])

State = Literal["running", "completed", "blocked", "escalated", "cancelled", "failed"]


class Attempt:
    def __init__(self, dispatch: Dispatch, root: RootClient, settings: Settings) -> None:
        self.mission_id, self.number = dispatch.mission_id, dispatch.attempt
        self.state: State = "running"
        self.reason: str | None = None
        self._stage: Any = None
        self._tools: Tools | None = None
        self._asks: Any = None  # the model, while there is one to close
        self._dispatch, self._root, self._settings = dispatch, root, settings
        self._outbox = Outbox(root, self.mission_id, self.number)
        self._stopped = asyncio.Event()
        root.hold(self.mission_id, self.number, dispatch.mission_token, dispatch.gateway_token)

    @property
    def trouble(self) -> str | None:
        return self._outbox.trouble if self.state == "running" else None

    def status(self) -> MissionStatus:
        return MissionStatus(
            mission_id=self.mission_id,
            attempt=self.number,
            state=self.state,
            stage=self._stage,
            last_seq_sent=self._outbox.last_seq_sent,
            reason=self.reason[:2000] if self.reason else None,
        )

    def stop(self, reason: str, *, superseded: bool = False) -> None:
        """Stop at the next safe point and say nothing more to the root. An attempt that has ended stays as it is."""
        if self.state == "running":
            self._end("failed" if superseded else "cancelled", reason)
            self._stopped.set()

    async def run(self, slots: asyncio.Semaphore) -> None:
        """From acceptance to the last acknowledged event. Never raises, except when the process is being stopped."""
        span = tracer.start_as_current_span(
            "mission attempt",
            context=continuing(self._dispatch.traceparent),
            kind=SpanKind.CONSUMER,
            attributes={"mission.id": str(self.mission_id), "mission.attempt": self.number},
        )
        with structlog.contextvars.bound_contextvars(mission_id=str(self.mission_id), attempt=self.number), span:
            await self._run(slots)
        ENDED.labels(self.state).inc()

    async def _run(self, slots: asyncio.Semaphore) -> None:
        sending = asyncio.create_task(self._outbox.run())
        working = asyncio.create_task(self._work(slots))
        stopping = asyncio.create_task(self._stopped.wait())
        everything: tuple[asyncio.Task[Any], ...] = (sending, working, stopping)
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in everything:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    self._end(error.state if isinstance(error, Stopped) else "failed", str(error)[:2000])
        finally:
            self._outbox.close()
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
            if self._asks is not None:
                await self._asks.aclose()
            if self.state == "running":
                self._end("failed", "the colony was stopped")
            self._root.forget(self.mission_id, self.number)
        log.info("attempt ended", state=self.state, reason=self.reason, stage=self._stage)

    def _end(self, state: State, reason: str | None = None) -> None:
        if self.state == "running":
            self.state, self.reason = state, reason

    async def _work(self, slots: asyncio.Semaphore) -> None:
        budget_ms = min(self._settings.mission_timeout_ms, self._dispatch.budgets.time_ms)
        async with slots:
            deadline = asyncio.get_running_loop().time() + budget_ms / 1000
            try:
                async with asyncio.timeout_at(deadline):
                    signal = await self._stages()
            except TimeoutError:
                signal = self._late(f"the mission was not finished within {budget_ms} ms")
        self._tell(Signal, **signal)
        try:
            async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + SECONDS_TO_SAY_SO)):
                await self._outbox.settled()
        except TimeoutError:
            self._end("failed", "the root could not be told how the mission ended")
        self._end("completed" if signal["signal"] == "complete" else "blocked", signal.get("reason"))

    async def _stages(self) -> dict[str, str]:
        """Run every stage; the signal that ends the attempt. A failure is told, never swallowed."""
        try:
            case, line = self._case(), line_for(self._dispatch.envelope.mission_type)
            notes: Any = line.notes()
            for name in STAGES:
                await self._one_stage(name, line, case, notes)
        except Superseded as moved_on:
            raise Stopped(str(moved_on)) from None
        except ToolFailed as failed:
            self._tell_failed(failed)
            return _blocked(f"{self._stage}: {failed}")
        except ModelFailed as failed:
            self._tell(ProviderFailed, provider="model", code="model_failed", detail=str(failed)[:2000], retryable=True)
            return _blocked(f"{self._stage}: the model failed: {failed}")
        except TaskTimeout as late:
            return self._late(str(late))
        except (TimeoutError, Stopped):
            raise
        except Exception as mistake:
            log.error("a stage failed", stage=self._stage, exc_info=mistake)
            return _blocked(f"{self._stage}: {type(mistake).__name__}; the colony's log has the details")
        return {"signal": "complete"}

    def _late(self, reason: str) -> dict[str, str]:
        """Time is over. What was tried again all the while is why, and is told."""
        causes = self._tools.failing if self._tools else []
        for failed in causes:
            self._tell_failed(failed)
        return _blocked("; ".join([reason, *(str(failed) for failed in causes)]))

    def _tell_failed(self, failed: ToolFailed) -> None:
        self._tell(
            ProviderFailed, provider=failed.tool, code=failed.code, detail=failed.detail, retryable=failed.retryable
        )

    async def _one_stage(self, name: str, line: Line, case: Case, notes: Any) -> None:
        self._stage = name
        self._tell(StageStarted, stage=name)
        began = time.perf_counter()
        with tracer.start_as_current_span(f"stage {name}"):
            produced = await line.stages[name](case, notes)
        took = time.perf_counter() - began
        STAGE_SECONDS.labels(name).observe(took)
        for artifact in produced.artifacts:
            self._tell(ArtifactProduced, artifact=artifact)
        for proposal in produced.proposals:
            self._tell(WritebackProposed, proposal=proposal)
        self._tell(StageCompleted, stage=name, latency_ms=round(took * 1000, 3))

    def _case(self) -> Case:
        envelope = self._dispatch.envelope
        workspace = envelope.inputs.get("workspace")
        self._tools = Tools(self._call_tool, workspace if isinstance(workspace, str) and workspace else "default")
        return Case(
            envelope=envelope,
            tools=self._tools,
            tell=self._tell,
            workers=self._settings.max_workers_per_mission,
            task_seconds=self._settings.task_timeout_ms / 1000,
            model=self._model(),
        )

    def _model(self) -> Model | None:
        direct, through_root = self._settings.direct_model, self._settings.root_model
        if direct is None and through_root is None:
            return None
        from colony.model import DirectModel, RootModel  # bring the openai client, which only these routes need

        if through_root is not None:
            url = f"{self._dispatch.callback_base_url}/internal/v1/missions/{self.mission_id}/openai/v1"
            self._asks = RootModel(url, through_root, lambda: self._root.gateway_token(self.mission_id, self.number))
            return self._asks
        assert direct is not None
        url, name = direct
        key = self._settings.model_api_key
        self._asks = DirectModel(
            url, name, key.get_secret_value() if key else None, self._tell, self._dispatch.budgets.tokens
        )
        return self._asks

    async def _call_tool(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        return await self._root.call_tool(self.mission_id, self.number, tool, arguments)

    def _tell(self, event: Any, **fields: Any) -> None:
        self._outbox.put(event, **fields)


def _blocked(reason: str) -> dict[str, str]:
    return {"signal": "blocked", "reason": reason[:2000]}
