"""The tool door of the internal API."""

import json
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from app import budgets, ledger, missions, policy
from app.artifacts import note_readings
from app.boundary.door import Signed, signed, token
from app.caller import Caller
from app.canonical import fingerprint
from app.clock import now
from app.errors import Problem
from app.http import Reply
from app.http.edge import entry
from app.missions import Mission
from app.tools.builtin import TOOLS, Context, Result, said_no
from app.writebacks.connectors import ConnectorError
from colony_client import tokens
from colony_client.artifacts import MissionEnvelope
from colony_client.contract import ToolAnswer, ToolCall
from colony_client.errors import BadBody
from colony_client.wire import read_model

router = APIRouter(tags=["tools"])
NOTHING = budgets.Amounts()
CALL_LIFE = timedelta(minutes=2)  # longer than any tool may take; a crash in between is put right after this


@router.post(
    "/internal/v1/missions/{mission_id}/tools/{tool}/calls",
    operation_id="callTool",
    response_model=ToolAnswer,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ToolCall.model_json_schema()}}}
    },
)
async def call_tool(
    mission_id: UUID, tool: str, request: Request, call: Annotated[Signed, Depends(signed, scope="function")]
) -> Response:
    """Policy, then the tool, then the note of what was shown. Sessions are short; none is open while a target is asked."""
    said = token(request, mission_id)
    await request.app.state.limits.admit_mission(request, said.tenant, mission_id)
    caller, database = call.caller(said.tenant), request.app.state.database
    arguments = read_arguments(call.body)
    async with database.write() as session:
        await session.enter(said.tenant)
        mission = await missions.find(session, mission_id)
        check_attempt(mission, said)
        assert mission is not None
        envelope = await missions.envelope(session, mission_id)
        refusal = await judge(session, caller, mission, tool, envelope, arguments)
        # counted, and refused where nothing is left; a tool costs no tokens
        reservation = None
        if refusal is None:
            try:
                reservation = await budgets.reserve(
                    session, caller, mission_id, NOTHING, f"tool:{tool}"[:80], life=CALL_LIFE
                )
            except Problem as refused:  # an answer of Postgres, not an error: what was decided is kept
                refusal = await left_over(session, caller, mission_id, refused)
    if refusal is not None:
        raise refusal
    assert reservation is not None
    async with budgets.charge(database, caller, mission_id, reservation) as hold:
        result = await run(request, said, mission, tool, arguments)
        async with database.write() as session:
            await session.enter(said.tenant)
            await hold.settle(session)
            await note(session, caller, mission, tool, arguments, result)
    return Reply({"result": result.value}).response()


async def run(
    request: Request, said: tokens.MissionToken, mission: Mission, tool: str, arguments: dict[str, Any]
) -> Result:
    """The tool itself, with arguments that fit it."""
    known = TOOLS[tool]
    try:
        asked = known.arguments.model_validate(arguments)
    except ValidationError as refused:
        found = [entry(("body", "arguments", *item["loc"]), item["msg"]) for item in refused.errors()[:20]]
        raise Problem("validation", f"{found[0].get('pointer')}: {found[0]['detail']}", errors=found) from None
    state = request.app.state
    try:
        context = Context(state.database, state.settings, said.tenant, mission, state.objects, state.root.nudger)
        return await known.run(context, asked)
    except ConnectorError as error:
        raise said_no(error) from None


def read_arguments(body: bytes) -> dict[str, Any]:
    try:
        return dict(read_model(ToolCall, body).arguments)
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
    session: Any, caller: Caller, mission: Mission, tool: str, envelope: MissionEnvelope, arguments: dict[str, Any]
) -> Problem | None:
    """Asks policy and records what it says; a denial is a fact too. The transaction commits either way."""
    known = TOOLS.get(tool)
    if known is None:
        return Problem("not_found", f"There is no tool {tool}.")
    context = {
        "access": known.access,
        "reach": known.reach,
        "listed": tool in envelope.tools,
        "own_workspace": not isinstance(asked := arguments.get("workspace"), str) or asked == mission.workspace,
        "sensitivity_class": mission.sensitivity_class,
        "mode": mission.mode,
        "environment": envelope.environment,
    }
    decision = await policy.decide(
        session, caller, "tool.call", tool, context, mission.id, requester=mission.requested_by
    )
    if decision.verdict.effect == "allow":
        return None
    await ledger.record(
        session,
        caller,
        "tool.denied",
        mission.id,
        tool=tool,
        policy_decision=decision.id,
        rule=decision.verdict.rule,
        policy_version=decision.verdict.policy_version,
    )
    return policy.refusal(decision)


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


async def note(
    session: Any, caller: Caller, mission: Mission, tool: str, arguments: dict[str, Any], result: Result
) -> None:
    await note_readings(session, caller.tenant, mission.id, result.kind, result.shown)
    await ledger.record(
        session,
        caller,
        "tool.called",
        mission.id,
        tool=tool,
        arguments_sha256=fingerprint(arguments).hex(),
        result_sha256=fingerprint(json.loads(json.dumps(result.value))).hex(),
        sources=len(result.shown),
        attempt=mission.attempt,
    )
