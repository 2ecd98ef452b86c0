"""What a call of a changing tool becomes: a proposal that goes the way of every other, to review, policy and humans."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import ValidationError
from sqlalchemy import text

from app import artifacts, ledger, tape
from app.caller import Caller
from app.canonical import fingerprint
from app.clock import now
from app.db import WriteSession
from app.errors import Problem
from app.missions import Mission
from app.tools.builtin import Context, CrmReadArguments, CrmUpdateArguments, Result, crm_read, said_no
from app.tools.definition import Becomes
from app.tools.gateway import read_arguments
from app.tools.known import Known
from app.tools.schemas import fit
from app.writebacks.actions import payload_of
from app.writebacks.connectors import BadPayload, ConnectorError
from app.writebacks.connectors.wire import NOTHING, at
from colony_client.artifacts import Citation, Producer, WritebackProposal, quote_sha256
from colony_client.contract import Grounds

QUOTED = 1000  # bytes of a record that a proposal cites when it was read for it
SAID = text("""SELECT bytes FROM artifact WHERE tenant = :tenant AND mission = :mission AND schema_name = 'writeback_proposal'
               AND convert_from(bytes, 'UTF8')::jsonb ->> 'proposal_id' = :proposal ORDER BY created_at DESC LIMIT 1""")


@dataclass
class Wish:
    """A change as a call asks for it. shown: what was read to propose it."""

    connector: str
    kind: str
    id: str
    operation: str
    changes: dict[str, Any]
    expected_version: Any
    summary: str
    rationale: str
    evidence: list[Citation]
    risk_level: str | None
    shown: Result = field(default_factory=lambda: Result(None, kind="record"))


async def understood(context: Context, known: Known, arguments: dict[str, Any], grounds: Grounds | None) -> Wish:
    """What the call asks for. The record is read when its version is not said. Raises Problem; no session is open."""
    if known.built_in is not None:
        if grounds is not None:
            raise wrong("/grounds", f"{known.name} takes summary, rationale and evidence among its arguments")
        asked: CrmUpdateArguments = read_arguments(known.built_in.arguments, arguments)
        said = {name: getattr(asked, name) for name in type(asked).model_fields}
        return Wish(operation="update", **said)
    assert known.pin is not None and known.entry is not None and known.entry.becomes is not None
    fit(known.pin, arguments)
    wish = mapped(known.name, known.entry.becomes, arguments, grounds or Grounds())
    if wish.expected_version is None:
        await look(context, wish)
    if not wish.evidence:
        raise wrong("/grounds/evidence", "must cite what the change rests on: bytes that the mission was shown")
    return wish


def mapped(tool: str, becomes: Becomes, arguments: dict[str, Any], grounds: Grounds) -> Wish:
    """The arguments as the layer's registration maps them."""
    record = at(arguments, becomes.id)
    if isinstance(record, int) and not isinstance(record, bool):
        record = str(record)
    if not isinstance(record, str) or not record:
        raise wrong(f"/arguments{becomes.id}", "must name the record that is to be changed")
    if isinstance(becomes.changes, str):
        changes = at(arguments, becomes.changes)
    else:
        found = {name: at(arguments, pointer) for name, pointer in becomes.changes.items()}
        changes = {name: value for name, value in found.items() if value is not NOTHING}
    if not isinstance(changes, dict) or not changes:
        place = becomes.changes if isinstance(becomes.changes, str) else ""
        raise wrong(f"/arguments{place}", "must hold at least one field that is to be changed")
    version: Any = None
    if becomes.expected_version is not None:
        version = at(arguments, becomes.expected_version)
        if isinstance(version, bool) or not isinstance(version, str | int):
            raise wrong(f"/arguments{becomes.expected_version}", "must be the version that the record was read at")
    return Wish(
        connector=becomes.connector,
        kind=becomes.kind,
        id=record,
        operation=becomes.operation,
        changes=changes,
        expected_version=version,
        summary=grounds.summary or f"{becomes.operation} {becomes.kind} {record}: {', '.join(sorted(changes))}"[:2000],
        rationale=grounds.rationale or f"The mission called {tool} and gave no reason.",
        evidence=list(grounds.evidence),
        risk_level=becomes.risk_level,
    )


async def look(context: Context, wish: Wish) -> None:
    """Reads the record, so that the proposal is for what is there now, and cites it."""
    try:
        found = await crm_read(context, CrmReadArguments(connector=wish.connector, kind=wish.kind, id=wish.id))
    except ValidationError:
        raise wrong("/arguments", "names a record that no connector could have") from None
    except ConnectorError as error:
        raise said_no(error) from None
    wish.shown, wish.expected_version = found, found.value["version"]
    quote = found.value["text"].encode()[:QUOTED].decode(errors="ignore")
    wish.evidence.append(
        Citation(
            source=found.value["source"],
            document=found.value["document"],
            start=0,
            end=len(quote.encode()),
            quote=quote,
            quote_sha256=quote_sha256(quote.encode()),
        )
    )


async def keep(
    session: WriteSession, caller: Caller, mission: Mission, known: Known, arguments: dict[str, Any], wish: Wish
) -> Result:
    """Stores the proposal, as a `writeback.proposed` event of the colony does; the same call again is the same proposal.

    The caller holds the mission's lock. Raises Problem validation for what cannot be a proposal.
    """
    id = proposal_id(mission.id, known.name, arguments)
    said = await session.scalar(SAID, {"tenant": caller.tenant, "mission": mission.id, "proposal": str(id)})
    content = WritebackProposal.model_validate_json(said) if said else made(caller, mission, known.name, id, wish)
    kept = await stored(session, caller, mission, known.name, content, said is None)
    answer = {
        "status": "would_propose" if mission.mode == "dry_run" else "proposed",
        "proposal": str(kept),
        "proposal_id": str(id),
        "connector": content.connector,
        "operation": content.operation,
        "target": content.target,
    }
    return Result(answer, wish.shown.kind, wish.shown.shown, proposal=content.model_dump(mode="json"))


async def keep_again(
    session: WriteSession, caller: Caller, mission: Mission, known: Known, recorded: Mapping[str, Any]
) -> None:
    """The proposal of a recorded call as this mission's own, for a colony that makes the call again. The caller holds its lock."""
    own = {"mission_id": str(mission.id), "tenant_id": str(caller.tenant), "actor_id": str(mission.requested_by)}
    with tape.reading():
        content = WritebackProposal.model_validate_json(json.dumps({**recorded, **own}))
    asked = {"tenant": caller.tenant, "mission": mission.id, "proposal": str(content.proposal_id)}
    if await session.scalar(SAID, asked) is None:
        await stored(session, caller, mission, known.name, content, True)


async def stored(
    session: WriteSession, caller: Caller, mission: Mission, tool: str, content: WritebackProposal, new: bool
) -> UUID:
    """The proposal as an artifact, with its fact when it is new; its id."""
    kept = await artifacts.store(session, caller, mission.id, mission.attempt, content)
    if new:
        await ledger.record(
            session,
            caller,
            "writeback.proposed",
            mission.id,
            proposal=kept.id,
            connector=content.connector,
            operation=content.operation,
            risk_level=content.risk_level,
            tool=tool,
        )
    return kept.id


def proposal_id(mission: UUID, tool: str, arguments: dict[str, Any]) -> UUID:
    return uuid5(NAMESPACE_URL, f"mission:{mission}:{tool}:{fingerprint(arguments).hex()}")


def made(caller: Caller, mission: Mission, tool: str, id: UUID, wish: Wish) -> WritebackProposal:
    try:
        content = WritebackProposal(
            mission_id=mission.id,
            tenant_id=caller.tenant,
            actor_id=mission.requested_by,
            created_at=now(),
            producer=Producer(name=f"tool {tool}", version="1"),
            proposal_id=id,
            connector=wish.connector,
            target=f"{wish.kind}/{wish.id}",
            operation=wish.operation,
            changes=wish.changes,
            expected_version=wish.expected_version,
            summary=wish.summary,
            rationale=wish.rationale,
            evidence=wish.evidence,
            risk_level=wish.risk_level or mission.risk_level,  # type: ignore[arg-type]
        )
        payload_of(content)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        raise wrong("/arguments", f"{'/'.join(map(str, first['loc']))}: {first['msg']}") from None
    except BadPayload as refused:
        raise wrong("/arguments", refused.reason) from None
    return content


def wrong(pointer: str, detail: str) -> Problem:
    return Problem("validation", f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])
