"""Gates and the ladder over HTTP, and the probe that says yes or no."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.build import name_of
from app.caller import Caller
from app.clock import iso
from app.db import ReadSession
from app.http import Cursor, Door, Limit, Page, Reply, Routes, once, paged, reading
from app.http.doors import admitting
from app.http.probes import PROBE_S, plain
from app.ladder import standing
from app.release.actions import Picture, enable, lower, picture, rung_here
from app.release.around import Probes, probe_from_inside
from app.release.gates import Gate
from app.release.judge import GateResult, elsewhere, together
from app.release.looks import Result
from app.release.queries import healthy, history, ladder_view, rung_view, where_it_stands

router = Routes(tags=["release"])
Environment = Literal["local", "staging", "production"]
Autonomy = Literal["nothing", "dry_run", "assisted", "autonomous"]
RungName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{1,62}$", description="The rung's name, as in getLadder.")]


class EvidenceView(BaseModel):
    """Something to look at. kind: mission, drill, approval, attestation, artifact, migration, verdict or health."""

    kind: str
    id: str


class CheckView(BaseModel):
    """A line of a gate. reason is there whenever it does not pass; age_s and expires_at are those of its evidence."""

    name: str
    sentence: str
    looks_at: str
    result: Result
    reason: str | None
    evidence: list[EvidenceView]
    age_s: float | None
    limit_s: int
    expires_at: str | None


class GateView(BaseModel):
    gate: Gate
    title: str
    result: Result
    checks: list[CheckView]


class ToldView(BaseModel):
    """The verdict that another environment's gates are read from."""

    id: UUID
    build: str
    made_at: str
    expires_at: str
    age_s: float


class GatesView(BaseModel):
    """The four gates. verdict is null for this environment, whose gates are computed now, and where none was imported."""

    environment: Environment
    build: str
    result: Result
    computed_at: str
    verdict: ToldView | None
    items: list[GateView]


class ChangeView(BaseModel):
    """The newest change of a rung. changed_by is null when the service lowered it; cause says why."""

    autonomy: Autonomy
    cause: Literal["asked", "stood_on", "drill_failed", "error_budget"]
    changed_by: UUID | None
    changed_at: str


class MissingView(BaseModel):
    """One thing that a rung still wants."""

    kind: Literal["rung", "gate", "check", "error_budget", "rule"]
    name: str
    reason: str


class RungView(BaseModel):
    """A rung in one environment. Of other environments only what their verdicts say: state may be unknown there.

    ready is null, and missing empty, where nobody has looked: of other environments, and when it was just lowered.
    """

    rung: str
    title: str
    environment: Environment
    mission_type: str
    enables: Autonomy
    at_most: Autonomy
    gates: list[Gate]
    checks: list[str]
    state: Literal["enabled", "not_enabled", "unknown"]
    autonomy: Autonomy | None
    last_change: ChangeView | None
    ready: bool | None
    missing: list[MissingView]


class LadderView(BaseModel):
    """The rollout. bound: whether the ladder decides what is admitted here; admits: how far each mission type may go now."""

    environment: Environment
    build: str
    bound: bool
    why: str
    admits: dict[str, Autonomy]
    items: list[RungView]


class EnableAsk(BaseModel):
    """How far, where a rung leaves a choice; what it enables first when left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"autonomy": "assisted"}, {}]})
    autonomy: Literal["dry_run", "assisted", "autonomous"] | None = None


class LowerAsk(BaseModel):
    """Why, in a person's words. Kept with the change, not in the ledger."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "Answers since noon are odd."}]}
    )
    reason: str = Field(min_length=1, max_length=2000)


class MovedView(BaseModel):
    """What became of it. lowered: how many rungs went down, for dry runs carry the others."""

    outcome: Literal["enabled", "lowered", "unchanged"]
    lowered: int
    rung: RungView


class GateChangeView(BaseModel):
    """A gate, or one of its checks, came out differently. was is null for the first time."""

    id: UUID
    environment: Environment
    gate: Gate
    result: Result
    was: Result | None
    checks: list[dict[str, str | None]]
    at: str


@asynccontextmanager
async def reads(request: Request, caller: Caller) -> AsyncIterator[ReadSession]:
    async with request.app.state.database.read() as session:
        await session.enter(caller.tenant)
        yield session


async def probes_of(state: Any) -> Probes:
    """Before any transaction."""
    return await probe_from_inside(state.database, state.colony, state.draining)


async def picture_of(session: ReadSession, state: Any, probes: Probes) -> Picture:
    return await picture(session, state.settings.environment, name_of(state.settings.build), probes)


@router.get(
    "/v1/release/gates", operation_id="getGates", response_model=GatesView, summary="The release gates, with evidence"
)
async def get_gates(
    request: Request,
    caller: Annotated[Caller, admitting("release.read")],
    environment: Annotated[
        Environment | None, Query(description="This one when left out; another is answered by its newest verdict.")
    ] = None,
) -> Response:
    """Four gates, line by line: what was looked at, what it rests on, how old that is and when it ends, and what came out."""
    state = request.app.state
    probes = await probes_of(state)
    async with reads(request, caller) as session:
        seen = await picture_of(session, state, probes)
    here = seen.around.environment
    if environment in (None, here):
        return Reply(gates_view(seen, here, seen.gates)).response()
    assert environment is not None
    return Reply(gates_view(seen, environment, elsewhere(seen.around, environment))).response()


def gates_view(seen: Picture, environment: str, gates: Any) -> dict[str, Any]:
    found: list[GateResult] = list(gates)
    verdict, at = seen.around.verdicts.get(environment), seen.around.at
    told = None
    if verdict is not None and environment != seen.around.environment:
        told = {
            "id": str(verdict.id),
            "build": verdict.build,
            "made_at": iso(verdict.made_at),
            "expires_at": iso(verdict.expires_at),
            "age_s": max(0.0, round((at - verdict.made_at).total_seconds(), 1)),
        }
    return {
        "environment": environment,
        "build": told["build"] if told else seen.around.build,
        "result": together(gate.result for gate in found),
        "computed_at": iso(at),
        "verdict": told,
        "items": [gate.view(at) for gate in found],
    }


@router.get(
    "/v1/release/history",
    operation_id="listGateChanges",
    response_model=Page[GateChangeView],
    summary="How the gates came out over time",
)
async def list_gate_changes(
    request: Request,
    door: Annotated[Door[ReadSession], reading("release.read")],
    limit: Limit = 50,
    cursor: Cursor = None,
    gate: Gate | None = None,
) -> Response:
    """Each time that a gate or one of its checks came out differently, newest first; as computed in the background."""
    scope = f"gate_changes.{gate or ''}"
    found = partial(history, door.session, gate=gate)
    return await paged(request, scope, limit, cursor, found, view=lambda one: one.view(), by=("at", "id"))


@router.get("/v1/release/ladder", operation_id="getLadder", response_model=LadderView, summary="The rollout ladder")
async def get_ladder(request: Request, caller: Annotated[Caller, admitting("release.read")]) -> Response:
    """Every rung: what it enables, where it stands, and what is missing before it can be enabled."""
    probes = await probes_of(request.app.state)
    async with reads(request, caller) as session:
        seen = await picture_of(session, request.app.state, probes)
        return Reply(await ladder_view(session, seen)).response()


@router.post(
    "/v1/release/ladder/{rung}/enable",
    operation_id="enableRung",
    response_model=MovedView,
    summary="Enable a rung",
)
async def enable_rung(
    rung: RungName, ask: EnableAsk, request: Request, caller: Annotated[Caller, admitting("release.enable")]
) -> Response:
    """By a release owner, on gates that are computed in the transaction that enables it. 409 names everything that is missing."""
    state = request.app.state
    found = rung_here(rung, state.settings.environment)
    probes = await probes_of(state)
    async with state.database.write() as session:
        await session.enter(caller.tenant)

        async def run() -> Reply:
            seen = await picture_of(session, state, probes)
            outcome = await enable(session, caller, seen, found, ask.autonomy)
            seen = replace(seen, stands=await standing(session, state.settings.environment))
            return Reply({"outcome": outcome, "lowered": 0, "rung": await rung_view(session, seen, found)})

        return await once(Door(session, caller, request), "release.enable", run)


@router.post(
    "/v1/release/ladder/{rung}/lower", operation_id="lowerRung", response_model=MovedView, summary="Lower a rung"
)
async def lower_rung(
    rung: RungName, ask: LowerAsk, request: Request, caller: Annotated[Caller, admitting("release.lower")]
) -> Response:
    """By a release owner or an operator. New missions beyond it are refused from now on; those under way go on.

    It looks at nothing that could keep it from lowering: the rung is answered as it stands, without what it wants.
    """
    state = request.app.state
    environment = state.settings.environment
    found = rung_here(rung, environment)
    async with state.database.write() as session:
        await session.enter(caller.tenant)

        async def run() -> Reply:
            outcome, lowered = await lower(session, caller, environment, found, ask.reason)
            stands = await standing(session, environment)
            return Reply({"outcome": outcome, "lowered": lowered, "rung": where_it_stands(found, stands)})

        return await once(Door(session, caller, request), "release.lower", run)


probe = Routes(tags=["probes"])


@probe.get(
    "/v1/health/release", operation_id="releaseHealth", summary="Do all release gates pass?", response_class=Response
)
async def health_of_release(request: Request) -> Response:
    """200 only while every gate of this environment passes, in the tenant that runs the installation; says nothing else."""
    state = request.app.state
    try:
        async with asyncio.timeout(PROBE_S), state.database.read() as session:
            return plain(await healthy(session, state.settings.environment))
    except Exception:  # whatever is wrong, it is no release
        return plain(False)
