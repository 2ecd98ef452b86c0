"""The tool door of the internal API: policy, budget, the tool, the note of what was shown, and its fact."""

import json
import time
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from app import budgets, ledger, missions, policy, tape
from app.artifacts import keep_blob, note_readings
from app.boundary.door import Signed, signed, token
from app.caller import Caller
from app.canonical import fingerprint
from app.clock import now
from app.db import WriteSession
from app.errors import Problem
from app.http import Reply
from app.missions import Mission
from app.missions.types import type_of
from app.telemetry import TOOL_CALLS
from app.tools import gateway, known, proposals
from app.tools.builtin import Context, Result
from app.tools.definition import cleared
from app.tools.known import Known
from colony_client import tokens
from colony_client.artifacts import MissionEnvelope
from colony_client.contract import ToolAnswer, ToolCall, ToolOffers
from colony_client.errors import BadBody
from colony_client.wire import read_model

router = APIRouter(tags=["tools"])
NOTHING = budgets.Amounts()
# what a tool says; the rest is the root's own trouble
TOOLS_OWN = ("not_found", "validation", "upstream_unavailable", "tool_failed", "tool_drifted", "tool_unmapped")
CALL_LIFE = timedelta(minutes=2)  # longer than any tool may take; a crash in between is put right after this


@router.get("/internal/v1/missions/{mission_id}/tools", operation_id="listTools", response_model=ToolOffers)
async def list_tools(
    mission_id: UUID, request: Request, call: Annotated[Signed, Depends(signed, scope="function")]
) -> Response:
    """The tools that the mission may call, each with what it takes, and whether it can be called now."""
    said = token(request, mission_id)
    async with request.app.state.database.read() as session:
        await session.enter(said.tenant)
        mission = await missions.find(session, mission_id)
        check_attempt(mission, said)
        assert mission is not None
        envelope = await missions.envelope(session, mission_id)
        needed = await needs(session, mission)
        found = await known.all_of(session, envelope.tools)
    offers = []
    for one in found:
        off = one.off()
        offers.append(
            {
                "name": one.name,
                "description": one.description[:2000],
                "access": one.access,
                "reach": one.reach,
                "input_schema": one.schema,
                "needed": one.name in needed,
                "usable": off is None,
                "why": off.detail if off else None,
            }
        )
    return Reply({"tools": offers}).response()


@router.post(
    "/internal/v1/missions/{mission_id}/tools/{tool}/calls",
    operation_id="callTool",
    response_model=ToolAnswer,
    responses={202: {"model": ToolAnswer, "description": "It became a proposal, and nothing was changed."}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ToolCall.model_json_schema()}}}
    },
)
async def call_tool(
    mission_id: UUID, tool: str, request: Request, call: Annotated[Signed, Depends(signed, scope="function")]
) -> Response:
    """Policy, then the tool, then the note of what was shown. Sessions are short; none is open while a target is asked."""
    said = token(request, mission_id)
    state = request.app.state
    await state.limits.admit_mission(request, said.tenant, mission_id)
    caller, database = call.caller(said.tenant), state.database
    asked = read_call(call.body)
    arguments: dict[str, Any] = dict(asked.arguments)
    taped = taped_call(tool, arguments)
    began = time.perf_counter()
    async with database.write() as session:
        await session.enter(said.tenant)
        mission = await missions.find(session, mission_id)
        check_attempt(mission, said)
        assert mission is not None
        wanted = await known.find(session, tool)
        if wanted is None:
            raise Problem("not_found", f"There is no tool {tool}.")
        blocks = tool in await needs(session, mission)
        # before the first fact: the mission's row comes before the ledger in the order of locks
        if blocks or (mission.played and wanted.access == "mutate"):
            mission = await missions.lock(session, mission_id)
            check_attempt(mission, said)
        envelope = await missions.envelope(session, mission_id)
        refusal = await judge(session, caller, mission, wanted, envelope, taped, arguments)
        if refusal is None and not mission.played:  # what the tape answers is not asked, whatever became of the tool
            refusal = await switched_off(session, caller, mission, wanted, taped)
        played = await tape.answer(session, caller, mission, taped) if refusal is None and mission.played else None
        # counted, and refused where nothing is left; a tool costs no tokens
        reservation = None
        if isinstance(played, Problem):
            refusal = played
        elif played is not None:
            await noted_again(session, caller, mission, wanted, taped, played)
            if played.outcome == "answered" and (proposal := replayed(played).proposal) is not None:
                await proposals.keep_again(session, caller, mission, wanted, proposal)
        elif refusal is None:
            try:
                reservation = await budgets.reserve(
                    session, caller, mission_id, NOTHING, f"tool:{tool}"[:80], life=CALL_LIFE
                )
            except Problem as refused:  # an answer of Postgres, not an error: what was decided is kept
                refusal = await left_over(session, caller, mission_id, refused)
        elif blocks:
            await block(session, caller, mission, wanted, refusal)
    if refusal is not None:
        TOOL_CALLS.labels("built_in" if wanted.built_in else "mcp", refusal.code).inc()
        if wanted.layer is not None:
            state.tools.seen[said.tenant, wanted.layer.name, wanted.layer.version].refusals += 1
        raise refusal
    if isinstance(played, tape.Taped):
        return Reply({"result": replayed(played).value}, 202 if wanted.access == "mutate" else 200).response()
    assert reservation is not None
    context = Context(database, state.settings, said.tenant, mission, state.objects, state.root.nudger)
    async with budgets.charge(database, caller, mission_id, reservation) as hold:
        if wanted.access == "mutate":
            return await propose(context, said, caller, wanted, taped, arguments, asked, hold, began)
        try:
            result = await gateway.ask(state.tools, context, wanted, arguments)
        except Problem as refused:
            if blocks and refused.code == "tool_drifted":  # which nobody knew before the server was asked
                async with database.write() as session:
                    await session.enter(said.tenant)
                    mission = await missions.lock(session, mission_id)
                    await block(session, caller, mission, wanted, refused)
            elif refused.code in TOOLS_OWN:
                async with database.write() as session:
                    await session.enter(said.tenant)
                    await note_failed(session, caller, mission, taped, refused, milliseconds(began))
            raise
        async with database.write() as session:
            await session.enter(said.tenant)
            await hold.settle(session)
            await note(session, caller, mission, wanted, taped, result, milliseconds(began))
    return Reply({"result": result.value}).response()


async def propose(
    context: Context,
    said: tokens.MissionToken,
    caller: Caller,
    wanted: Known,
    taped: tape.Call,
    arguments: dict[str, Any],
    asked: ToolCall,
    hold: budgets.Hold,
    began: float,
) -> Response:
    """A call of a tool that changes something, as a proposal."""
    wish = await proposals.understood(context, wanted, arguments, asked.grounds)
    async with context.database.write() as session:
        await session.enter(said.tenant)
        mission = await missions.lock(session, said.mission)
        check_attempt(mission, said)  # what ended meanwhile is proposed nothing for
        await hold.settle(session)
        result = await proposals.keep(session, caller, mission, wanted, arguments, wish)
        await note(session, caller, mission, wanted, taped, result, milliseconds(began))
    TOOL_CALLS.labels("built_in" if wanted.built_in else "mcp", "proposed").inc()
    return Reply({"result": result.value}, 202).response()


def milliseconds(since: float) -> float:
    return round((time.perf_counter() - since) * 1000, 3)


def taped_call(tool: str, arguments: dict[str, Any]) -> tape.Call:
    """The call as it is on the tape. Raises Problem validation for arguments that have no canonical form."""
    try:
        return tape.call("tool", tool[:200], arguments)
    except ValueError as refused:
        raise Problem(
            "validation", str(refused)[:500], errors=[{"pointer": "/arguments", "detail": "has no canonical form"}]
        ) from None


def read_call(body: bytes) -> ToolCall:
    try:
        return read_model(ToolCall, body)
    except BadBody as refused:
        raise Problem(
            "validation",
            str(refused)[:500],
            errors=[{"pointer": one.pointer, "detail": one.detail} for one in refused.problems],
        ) from None


def check_attempt(mission: Mission | None, said: tokens.MissionToken) -> None:
    """Only the current attempt of a mission under way, within its budget, calls tools."""
    if mission is None:
        raise Problem("not_found", "There is no such mission.")
    if mission.attempt != said.attempt:
        raise Problem("attempt_superseded", f"The current attempt is {mission.attempt}.")
    if mission.state not in ("accepted", "dispatched", "running"):
        raise Problem("mission_closed", f"The mission is {mission.state}.")
    if mission.over_budget:
        raise Problem("budget_exhausted", "The mission's budget is used up.", account="mission")
    if mission.deadline_at is not None and mission.deadline_at <= now():
        raise Problem("budget_exhausted", "The mission's time is used up.", account="mission", lacking=["time_ms"])


async def judge(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    wanted: Known,
    envelope: MissionEnvelope,
    taped: tape.Call,
    arguments: dict[str, Any],
) -> Problem | None:
    """Asks policy and records what it says; a denial is a fact too. The transaction commits either way."""
    context = {
        "access": wanted.access,
        "reach": wanted.reach,
        "layer": wanted.layer_name,
        "cleared": wanted.entry is None or cleared(wanted.entry, mission.sensitivity_class),
        "listed": wanted.name in envelope.tools,
        "own_workspace": wanted.built_in is None
        or not isinstance(place := arguments.get("workspace"), str)
        or place == mission.workspace,
        "sensitivity_class": mission.sensitivity_class,
        "mode": mission.mode,
        "environment": envelope.environment,
    }
    decision = await policy.decide(
        session, caller, "tool.call", wanted.name, context, mission.id, requester=mission.requested_by
    )
    if decision.verdict.effect == "allow":
        return None
    await ledger.record(
        session,
        caller,
        "tool.denied",
        mission.id,
        tool=wanted.name,
        arguments_sha256=taped.sha256.hex(),
        policy_decision=decision.id,
        rule=decision.verdict.rule,
        policy_version=decision.verdict.policy_version,
    )
    refusal = policy.refusal(decision)
    await tape.record(session, mission.id, mission.attempt, taped, "denied", problem_bytes(refusal), 0.0)
    return refusal


async def switched_off(
    session: WriteSession, caller: Caller, mission: Mission, wanted: Known, taped: tape.Call
) -> Problem | None:
    """Why a tool cannot be used now, whoever asks: halted, retired, drifted or unmapped."""
    off = wanted.off()
    if off is not None:
        await ledger.record(
            session,
            caller,
            "tool.refused",
            mission.id,
            tool=wanted.name,
            arguments_sha256=taped.sha256.hex(),
            code=off.code,
        )
        await tape.record(session, mission.id, mission.attempt, taped, "refused", problem_bytes(off), 0.0)
    return off


async def left_over(session: Any, caller: Caller, mission: UUID, refused: Problem) -> Problem:
    """The refusal of a call for which too little is left, with its fact."""
    if refused.code == "budget_exhausted":
        await ledger.record(
            session,
            caller,
            "budget.refused",
            mission,
            account=refused.members["account"],
            lacking=refused.members["lacking"],
        )
    return refused


# --- tools that a mission cannot do without

NEEDS: dict[tuple[UUID, str, int], frozenset[str]] = {}  # versions of types never change


async def needs(session: Any, mission: Mission) -> frozenset[str]:
    """The tools without which a mission is blocked, as its type said when it began."""
    which = (session.tenant, mission.mission_type, mission.type_version)
    found = NEEDS.get(which)
    if found is None:
        kind = await type_of(session, mission.mission_type, mission.type_version)
        if len(NEEDS) >= 4096:
            NEEDS.clear()
        found = NEEDS[which] = frozenset(kind.needs if kind else ())
    return found


async def block(session: WriteSession, caller: Caller, mission: Mission, wanted: Known, refusal: Problem) -> None:
    """The mission ends here: it was refused what it cannot do without. The caller holds its lock."""
    refusal.members["blocks"] = True
    if mission.state == "dispatched":  # the call is the first word of the attempt
        await missions.move(session, caller, mission.id, "running", "first_event")
    if mission.state in ("dispatched", "running"):
        why = f"{wanted.name}, which the mission cannot do without, was refused ({refusal.code}): {refusal.detail}"
        await missions.fail(session, caller, mission.id, "blocked", reason="blocked", note=why)


async def note(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    wanted: Known,
    taped: tape.Call,
    result: Result,
    took_ms: float,
) -> None:
    """What was shown, the fact of it, and the answer on the mission's tape."""
    for laid in result.keep:
        await keep_blob(session, caller.tenant, laid)
    await note_readings(session, caller.tenant, mission.id, result.kind, result.shown)
    version = {} if wanted.layer is None else {"layer_version": wanted.layer.version}
    await ledger.record(
        session,
        caller,
        "tool.called",
        mission.id,
        tool=taped.name,
        arguments_sha256=taped.sha256.hex(),
        result_sha256=fingerprint(json.loads(json.dumps(result.value))).hex(),
        sources=len(result.shown),
        attempt=mission.attempt,
        **version,
    )
    shown = [[source.hex(), document, version] for source, document, version in result.shown]
    told = {"result": result.value, "kind": result.kind, "shown": shown}
    said = to_json(told if result.proposal is None else told | {"proposal": result.proposal})
    await tape.record(session, mission.id, mission.attempt, taped, "answered", said, took_ms)


async def note_failed(
    session: WriteSession, caller: Caller, mission: Mission, taped: tape.Call, refused: Problem, took_ms: float
) -> None:
    """The tool itself said no: a fact, and on the tape too, because the colony goes on by it."""
    await ledger.record(
        session,
        caller,
        "tool.failed",
        mission.id,
        tool=taped.name,
        arguments_sha256=taped.sha256.hex(),
        code=refused.code,
        attempt=mission.attempt,
    )
    await tape.record(session, mission.id, mission.attempt, taped, "refused", problem_bytes(refused), took_ms)


def problem_bytes(refused: Problem) -> bytes:
    return to_json(
        {"code": refused.code, "detail": refused.detail, "members": refused.members, "errors": refused.errors}
    )


# --- answers from a tape


async def noted_again(
    session: WriteSession, caller: Caller, mission: Mission, wanted: Known, taped: tape.Call, played: tape.Taped
) -> None:
    """An answer from the tape leaves what the tool's own would: readings, fact, and its place on the tape of the replay."""
    if played.outcome == "answered":
        await note(session, caller, mission, wanted, taped, replayed(played), played.took_ms)
    else:
        await note_failed(session, caller, mission, taped, problem_again(played), played.took_ms)


def replayed(played: tape.Taped) -> Result:
    """A taped answer. Raises the Problem that the tool had answered with."""
    if played.outcome == "refused":
        raise problem_again(played)
    said = json.loads(played.answer)
    shown = [(bytes.fromhex(source), document, version) for source, document, version in said["shown"]]
    return Result(said["result"], said["kind"], shown, proposal=said.get("proposal"))


def problem_again(played: tape.Taped) -> Problem:
    said = json.loads(played.answer)
    return Problem(said["code"], said["detail"], errors=said["errors"], **said["members"])
