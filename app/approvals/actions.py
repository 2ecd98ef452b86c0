"""Opening and closing approvals, and bringing a mission up to where its approvals and writebacks are."""

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import artifacts, evidence, ledger, missions, policy, work, writebacks
from app.caller import Caller
from app.clock import new_id, now
from app.db import WriteSession
from app.missions import Mission
from app.writebacks.connectors import BadPayload
from app.writebacks.connectors.registry import NAMES
from colony_client.artifacts import PolicyDecisionArtifact, Producer, WritebackProposal

OPEN = text("""
  INSERT INTO approval (tenant, id, mission, subject, writeback, question_sha256, requested_by, payload_sha256)
  VALUES (:tenant, :id, :mission, :subject, :writeback, :question, :requested_by, :payload)
  RETURNING id, expires_at, required, rule, rule_version""")
CLOSE = text("SELECT close_approval(:tenant, :id, :state, :actor)")
UNFINISHED = text("""SELECT id, subject, state FROM approval
                     WHERE tenant = :tenant AND mission = :mission AND state IN ('pending', 'approved') ORDER BY created_at, id""")


async def ask_writeback(
    session: WriteSession, caller: Caller, mission: Mission, proposal: artifacts.Artifact
) -> UUID | None:
    """Writes the writeback of a stored proposal and opens its approval. None when that was done before.

    Raises BadPayload when the proposal cannot be a writeback.
    """
    content = WritebackProposal.model_validate_json(proposal.bytes)
    written = await writebacks.write(session, mission, proposal.id, content)
    if written is None:
        return None
    return await open_approval(session, caller, mission, "writeback", written.payload_sha256, writeback=written.id)


async def ask_mission(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    action: str,
    rule: str,
    reason: str,
    inputs_sha256: bytes,
    policy_version: str,
) -> UUID:
    """Opens an approval of the mission itself. What is asked is a policy_decision artifact; its bytes are what is approved."""
    question = PolicyDecisionArtifact(
        mission_id=mission.id,
        tenant_id=caller.tenant,
        actor_id=mission.requested_by,
        created_at=now(),
        producer=Producer(name="root", version="1"),
        action=action,
        resource=mission.mission_type,
        effect="ask",
        rule=rule,
        policy_version=policy_version,
        reason=reason,
        inputs_sha256=inputs_sha256.hex(),
        obligations={"approver_role": "operator"},
    )
    kept = await artifacts.store(session, caller, mission.id, mission.attempt, question)
    return await open_approval(session, caller, mission, "mission", kept.sha256, question=kept.sha256)


async def open_approval(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    subject: Literal["writeback", "mission"],
    payload: bytes,
    writeback: UUID | None = None,
    question: bytes | None = None,
) -> UUID:
    opened = await session.first(
        OPEN,
        {
            "tenant": caller.tenant,
            "id": new_id(),
            "mission": mission.id,
            "subject": subject,
            "writeback": writeback,
            "question": question,
            "requested_by": mission.requested_by,
            "payload": payload,
        },
    )
    assert opened is not None
    await work.add(session, "approval_timer", opened.id, at=opened.expires_at)
    await ledger.record(
        session,
        caller,
        "approval.opened",
        mission.id,
        approval=opened.id,
        subject=subject,
        writeback=writeback,
        payload_sha256=payload.hex(),
        required=opened.required,
        rule=opened.rule,
        rule_version=opened.rule_version,
        expires_at=opened.expires_at,
    )
    return opened.id


async def open_intake(session: WriteSession, caller: Caller, mission_id: UUID) -> None:
    """Policy asked at intake: opens the approval that the mission waits for before it is dispatched."""
    mission = await missions.lock(session, mission_id)
    if mission.state != "accepted":
        return
    asked = next((row for row in await policy.recorded(session, mission_id) if row["effect"] == "ask"), None)
    assert asked is not None, "work of kind ask is only added with a recorded ask"
    approval = await ask_mission(
        session,
        caller,
        mission,
        "mission.create",
        asked["rule"],
        asked["reason"],
        asked["inputs_sha256"],
        asked["policy_version"],
    )
    await missions.await_decision(session, caller, mission_id, "policy_asks", [approval])


async def conclude(session: WriteSession, caller: Caller, mission_id: UUID) -> None:
    """A mission in review: checks its evidence, puts its proposals before humans, and completes it when there are none."""
    mission = await missions.lock(session, mission_id)
    if mission.state != "in_review":
        return
    found = await evidence.review(session, caller, mission)
    if not found.passed:
        await missions.fail(session, caller, mission_id, "review", reason="review")
        return
    await missions.answered(session, mission_id, found.answer_status)
    pending = [
        approval for proposal in found.proposals if (approval := await propose(session, caller, mission, proposal))
    ]
    if pending:
        await missions.await_decision(
            session, caller, mission_id, "proposals", pending, await writebacks.tally(session, mission_id)
        )
    else:
        await missions.complete(session, caller, mission_id, "reviewed", answer_status=found.answer_status)


async def propose(session: WriteSession, caller: Caller, mission: Mission, proposal: evidence.Proposal) -> UUID | None:
    """One reviewed proposal: asked about, or said why not, by a fact."""
    content: WritebackProposal = proposal.content
    said = {"proposal": proposal.artifact.id, "connector": content.connector, "operation": content.operation}
    if mission.mode == "dry_run":
        await ledger.record(session, caller, "writeback.would_propose", mission.id, **said)
        return None
    if proposal.problem:
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="evidence_not_verified")
        return None
    decision = await policy.decide(
        session,
        caller,
        "writeback.propose",
        f"{content.connector}.{content.operation}",
        {"known_connector": content.connector in NAMES, "operation": content.operation, "mode": mission.mode},
        mission.id,
    )
    if decision.verdict.effect == "deny":
        await ledger.record(
            session,
            caller,
            "writeback.denied",
            mission.id,
            **said,
            policy_decision=decision.id,
            rule=decision.verdict.rule,
        )
        return None
    try:
        return await ask_writeback(session, caller, mission, proposal.artifact)
    except BadPayload:
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="not_a_payload")
        return None


async def progress(session: WriteSession, caller: Caller, mission_id: UUID) -> None:
    """Brings a mission up to its writebacks: waiting while any is undecided, executing while any is unsettled, then done."""
    mission = await missions.lock(session, mission_id)
    tally = await writebacks.tally(session, mission_id)
    unfinished = await session.rows(UNFINISHED, {"tenant": session.tenant, "mission": mission_id})
    pending = [row.id for row in unfinished if row.state == "pending"]
    if mission.state not in ("awaiting_approval", "executing") or pending or not tally:
        await missions.note_pending(session, mission_id, pending, tally)
    elif any(tally.get(state) for state in ("approved", "executing", "unknown")):
        if mission.state == "awaiting_approval":
            await missions.to_executing(session, caller, mission_id, tally)
        else:
            await missions.note_pending(session, mission_id, [], tally)
    else:
        await missions.complete(session, caller, mission_id, "settled", tally=tally)


async def expire(session: WriteSession, caller: Caller, approval_id: UUID) -> None:
    """An approval's time is over: it dies, and its mission goes on without it."""
    mission_id = await session.scalar(
        "SELECT mission FROM approval WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": approval_id},
    )
    if mission_id is None:
        return
    mission = await missions.lock(session, mission_id)
    before = await session.first(
        "SELECT state, subject FROM approval WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": approval_id},
    )
    state = await close(session, caller, approval_id, "expired")
    if before is None or state != "expired" or before.state == "expired":
        return
    if before.subject == "writeback":
        await progress(session, caller, mission_id)
    elif mission.state == "awaiting_approval":
        await refused(session, caller, mission, "expired")


async def refused(
    session: WriteSession, caller: Caller, mission: Mission, cause: Literal["rejected", "expired"]
) -> None:
    """The mission itself was not agreed to: denied before it ran, failed when it had escalated."""
    if mission.deadline_at is None:
        await missions.deny(session, caller, mission.id, cause)
    else:
        await missions.fail(session, caller, mission.id, cause, reason=f"approval_{cause}")


async def cancel_open(session: WriteSession, caller: Caller, mission_id: UUID) -> None:
    """Closes everything of a mission that has not been claimed. The caller holds the mission's lock."""
    for row in await session.rows(UNFINISHED, {"tenant": session.tenant, "mission": mission_id}):
        await close(session, caller, row.id, "cancelled")
    await missions.note_pending(session, mission_id, [], await writebacks.tally(session, mission_id))


async def close(
    session: WriteSession, caller: Caller, approval_id: UUID, state: Literal["cancelled", "expired"]
) -> Any:
    session.nudge(ledger.FACTS)
    return await session.scalar(
        CLOSE, {"tenant": session.tenant, "id": approval_id, "state": state, "actor": caller.actor}
    )
