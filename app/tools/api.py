"""The tool door of the internal API: policy, budget, the tool, the note of what was shown, and its fact."""

import re
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from app import budgets, calls, missions, policy, tape
from app.boundary.door import Signed, genuine, signed, stranger, token
from app.caller import Caller
from app.calls import check_attempt, left_over, over
from app.db import WriteSession
from app.errors import Problem
from app.http import Reply
from app.http.lane import ID, Way
from app.missions import Mission, Terms
from app.telemetry import TOOL_CALLS
from app.tools import gateway, known, proposals
from app.tools.builtin import Context, Result
from app.tools.judging import block, judge, looked_at, needs, switched_off
from app.tools.known import Known
from app.tools.noting import ended, note, note_failed, noted_again, said_again, switched_off_then
from colony_client import tokens
from colony_client.contract import ToolAnswer, ToolCall, ToolOffers
from colony_client.errors import BadBody
from colony_client.wire import read_model

router = APIRouter(tags=["tools"])
CALLS = "/internal/v1/missions/{mission_id}/tools/{tool}/calls"
NOTHING = budgets.Amounts()  # a call of a tool is counted, and refused where nothing is left; it costs no tokens
# what a tool says; the rest is the root's own trouble
TOOLS_OWN = ("not_found", "validation", "upstream_unavailable", "tool_failed", "tool_drifted", "tool_unmapped")
# Longer than any call may take that opens a session, looks and asks, and all of it once more; a crash in between is put right after it.
CALL_LIFE = timedelta(minutes=5)


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
    CALLS,
    operation_id="callTool",
    response_model=ToolAnswer,
    responses={202: {"model": ToolAnswer, "description": "It became a proposal, and nothing was changed."}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ToolCall.model_json_schema()}}}
    },
)
async def call_tool(
    mission_id: UUID, tool: str, request: Request, call: Annotated[Signed, Depends(genuine, scope="function")]
) -> Response:
    """Policy, then the tool, then the note of what was shown. Sessions are short; none is open while a target is asked."""
    state = request.app.state
    if state.nonces.seen(call):  # before anything is taken for it: whoever sends a call again uses up no mission's rate
        raise stranger(request, "SignatureReplayed")
    admitted: tokens.MissionToken | None = None
    try:
        said = token(request, mission_id)
        await state.limits.admit_mission(request, said.tenant, mission_id)
        admitted = said
        asked = read_call(call.body)
        one = Called(state, call, said, tool, asked, taped_call(tool, dict(asked.arguments)))
    except Problem:
        if not await state.nonces.use(call):
            raise replayed_call(request, admitted) from None
        raise
    opened = await at_once(one)
    if opened == "replayed":
        raise replayed_call(request, admitted)
    found = await at_length(one) if opened == "again" else opened
    return found if isinstance(found, Response) else await asked_and_closed(one, found)


def replayed_call(request: Request, admitted: tokens.MissionToken | None) -> Problem:
    """What was taken for a call that was sent before, as another process knew, goes back."""
    if admitted is not None:
        request.app.state.limits.give_back_call(admitted.tenant, admitted.mission)
    return stranger(request, "SignatureReplayed")


async def without_framework(request: Request, mission: str, tool: str) -> Response:
    """The same route."""
    return await call_tool(UUID(mission), tool, request, await genuine(request))


WAY = Way(re.compile(rf"/internal/v1/missions/{ID}/tools/([a-z0-9_.]+)/calls"), CALLS, without_framework)


@dataclass
class Called:
    """A call of a tool that a colony has made. state: of the app."""

    state: Any
    call: Signed
    said: tokens.MissionToken
    tool: str
    asked: ToolCall
    taped: tape.Call
    began: float = field(default_factory=time.perf_counter)

    @property
    def mission(self) -> UUID:
        return self.said.mission

    @property
    def caller(self) -> Caller:
        return self.call.caller(self.said.tenant)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.asked.arguments)

    @property
    def purpose(self) -> str:
        return f"tool:{self.tool}"[:80]

    def took_ms(self) -> float:
        return round((time.perf_counter() - self.began) * 1000, 3)


@dataclass(frozen=True)
class Opened:
    """A call that may be made: of which tool, and what is held for it."""

    terms: Terms
    wanted: Known
    reservation: UUID


async def at_once(one: Called) -> Opened | Literal["again", "replayed"]:
    """The ordinary call, which reads and is allowed: judged from memory, and opened if nothing of that has changed.

    again: it is to be judged at length, its nonce is used; nothing else is kept.
    """
    state, said = one.state, one.said
    terms, wanted = await state.openings.terms(said.tenant, said.mission), known.remembered(said.tenant, one.tool)
    if terms is not None and not terms.played and wanted is not None and wanted.access == "read":
        facts = looked_at(terms, wanted, one.arguments)
        draft = policy.draft(one.caller, "tool.call", wanted.name, facts, requester=terms.requested_by)
        if draft.decision.verdict.effect == "allow":
            layer, entry = wanted.layer, wanted.entry
            version = calls.Layered(layer.name, layer.version, entry.name) if layer and entry else None
            nonce = (one.call.kid, one.call.nonce)
            opening = calls.Opening(
                said.tenant, terms, said.attempt, one.purpose, NOTHING, CALL_LIFE, [draft], version, nonce=nonce
            )
            outcome = await state.openings.open(opening)
            state.nonces.note(one.call)
            return Opened(terms, wanted, outcome) if isinstance(outcome, UUID) else outcome
    return "again" if await state.nonces.use(one.call) else "replayed"


async def at_length(one: Called) -> Opened | Response:
    """Any call, step by step in one transaction; what is refused is kept with its fact. Raises Problem.

    A replay is answered here, from the tape.
    """
    said, caller, taped, tool = one.said, one.caller, one.taped, one.tool
    async with one.state.database.write() as session:
        await session.enter(said.tenant)
        mission = await missions.find(session, said.mission)
        check_attempt(mission, said)
        assert mission is not None
        wanted = await known.find(session, tool)
        if wanted is None:
            raise Problem("not_found", f"There is no tool {tool}.")
        blocks = tool in await needs(session, mission)
        # before the first fact: the mission's row comes before the ledger in the order of locks
        if blocks or (mission.played and wanted.access == "mutate"):
            mission = await missions.lock(session, said.mission)
            check_attempt(mission, said)
        envelope = await missions.envelope(session, said.mission)
        refusal = await judge(session, caller, mission, wanted, envelope, taped, one.arguments)
        if refusal is None and not mission.played:  # what the tape answers is not asked, whatever became of the tool
            refusal = await switched_off(session, caller, mission, wanted, taped)
        played = await tape.answer(session, caller, mission, taped) if refusal is None and mission.played else None
        again = (
            await answered_again(session, one, mission, wanted, played) if isinstance(played, tape.Taped) else played
        )
        reservation, said_then = None, again.said if isinstance(again, SaidAgain) else None
        if isinstance(again, Problem):
            refusal = again
        elif said_then is not None:
            refusal = switched_off_then(said_then)
            if refusal is not None and blocks:
                await block(session, caller, mission, wanted, refusal)
        elif refusal is None:
            try:
                reservation = await budgets.reserve(session, caller, mission.id, NOTHING, one.purpose, life=CALL_LIFE)
            except Problem as refused:  # an answer of Postgres, not an error: what was decided is kept
                refusal = await left_over(session, caller, mission.id, refused)
        elif blocks:
            await block(session, caller, mission, wanted, refusal)
    if refusal is not None:
        TOOL_CALLS.labels("built_in" if wanted.built_in else "mcp", refusal.code).inc()
        if wanted.layer is not None:
            one.state.tools.seen[said.tenant, wanted.layer.name, wanted.layer.version].refusals += 1
        raise refusal
    if isinstance(said_then, Problem):
        raise said_then
    if said_then is not None:
        return Reply({"result": said_then.value}, 202 if wanted.access == "mutate" else 200).response()
    assert reservation is not None
    return Opened(Terms.of(mission, envelope), wanted, reservation)


@dataclass(frozen=True)
class SaidAgain:
    """What a tape has given for a call: a result, or the Problem that its tool had answered with."""

    said: Result | Problem


async def answered_again(
    session: WriteSession, one: Called, mission: Mission, wanted: Known, played: tape.Taped
) -> SaidAgain | Problem:
    """An answer of the tape, given to a live colony, with all that the tool's own would leave. A Problem: the replay has ended."""

    async def again() -> SaidAgain:
        with tape.reading():
            said = said_again(played)
        await noted_again(session, one.caller, mission, wanted, one.taped, said, played.took_ms)
        if isinstance(said, Result) and said.proposal is not None:
            await proposals.keep_again(session, one.caller, mission, wanted, said.proposal)
        return SaidAgain(said)

    return await tape.played(session, one.caller, mission.id, one.taped, played, again)


async def asked_and_closed(one: Called, opened: Opened) -> Response:
    """Asks the tool, and closes the call with what came of it. Raises Problem."""
    state, caller, wanted, database = one.state, one.caller, opened.wanted, one.state.database
    context = Context(database, state.settings, one.said.tenant, opened.terms, state.objects, state.root.nudger)
    async with budgets.charge(database, caller, one.mission, opened.reservation) as hold:
        if wanted.access == "mutate":
            return await propose(context, one, wanted, hold)
        try:
            result = await gateway.ask(state.tools, context, wanted, one.arguments)
        except Problem as refused:
            if refused.code in TOOLS_OWN:
                async with database.write() as session:
                    await session.enter(one.said.tenant)
                    mission = await missions.lock(session, one.mission)
                    await note_failed(session, caller, mission.id, one.said.attempt, one.taped, refused, one.took_ms())
                    # that it has drifted nobody knew before the server was asked; what ended meanwhile is not ended again
                    drifted = refused.code == "tool_drifted" and over(mission, one.said) is None
                    if drifted and one.tool in await needs(session, mission):
                        await block(session, caller, mission, wanted, refused)
            raise
        attempt, took_ms = one.said.attempt, one.took_ms()
        await state.closings.put(ended(caller, one.mission, attempt, wanted, one.taped, result, took_ms, hold))
        hold.settled = True
    return Reply({"result": result.value}).response()


async def propose(context: Context, one: Called, wanted: Known, hold: budgets.Hold) -> Response:
    """A call of a tool that changes something, as a proposal."""
    said, caller = one.said, one.caller
    wish = await proposals.understood(context, wanted, one.arguments, one.asked.grounds)
    async with context.database.write() as session:
        await session.enter(said.tenant)
        mission = await missions.lock(session, said.mission)
        check_attempt(mission, said)  # what ended meanwhile is proposed nothing for
        await hold.settle(session)
        result = await proposals.keep(session, caller, mission, wanted, one.arguments, wish)
        await note(session, caller, mission, wanted, one.taped, result, one.took_ms())
    TOOL_CALLS.labels("built_in" if wanted.built_in else "mcp", "proposed").inc()
    return Reply({"result": result.value}, 202).response()


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
