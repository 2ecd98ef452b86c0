"""Opening and closing approvals, and bringing a mission up to where its approvals and writebacks are."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import artifacts, evidence, ledger, missions, policy, work, writebacks
from app.approvals.already import already_so
from app.approvals.obligations import BadObligations, parse
from app.artifacts import Objects
from app.caller import Caller, system
from app.canonical import sha256
from app.clock import new_id, now
from app.db import Database, WriteSession
from app.missions import Held, Mission
from app.settings import Settings
from app.work import Item
from app.writebacks.connectors import BadPayload
from colony_client.artifacts import PolicyDecisionArtifact, Producer, WritebackProposal

OPEN = text("""
  INSERT INTO approval (tenant, id, mission, subject, writeback, question_sha256, requested_by, payload_sha256, obligations)
  VALUES (:tenant, :id, :mission, :subject, :writeback, :question, :requested_by, :payload, CAST(:obligations AS jsonb))
  RETURNING id, expires_at, required, rule, rule_version, LEAST(expires_at, (ladder -> 0 ->> 'at')::timestamptz) AS first_step""")
SHADOW = text("""
  INSERT INTO shadow_writeback (tenant, mission, proposal, payload, payload_sha256, policy_decision, effect)
  VALUES (:tenant, :mission, :proposal, :payload, sha256(:payload), :decision, :effect)""")
CLOSE = text("SELECT close_approval(:tenant, :id, :state, :secret)")
CLIMB = text("SELECT climb(:tenant, :id)")
STATE = text("SELECT state, subject FROM approval WHERE tenant = :tenant AND id = :id")
# Until when somebody may renew what is stale: while the approval it had would have lasted.
STALE = text("""
  SELECT max(s.expires_at) FROM writeback_state s JOIN writeback w ON w.tenant = s.tenant AND w.id = s.id
  WHERE s.tenant = :tenant AND s.mission = :mission AND s.state = 'stale' AND s.expires_at > clock_timestamp()
    AND NOT EXISTS (SELECT 1 FROM writeback n WHERE n.tenant = w.tenant AND n.proposal = w.proposal AND n.revision > w.revision)""")
# What policy is told of a change. The risk is the one that the wall will keep the writeback with: no floor moves until the
# end of this transaction. The approval route is tested when humans let one change through that was then written, and
# stopped another.
STANDING = text("""
  SELECT standing_risk(:tenant, :mission, :connector, :operation, :risk) AS risk,
    COALESCE((SELECT NOT retired FROM connector WHERE tenant = :tenant AND name = :connector ORDER BY version DESC LIMIT 1), false)
      AS known,
    EXISTS (SELECT 1 FROM execution WHERE tenant = :tenant AND state = 'succeeded')
      AND EXISTS (SELECT 1 FROM approval WHERE tenant = :tenant AND subject = 'writeback' AND state = 'rejected') AS tested""")
UNFINISHED = text("""SELECT id, subject, state FROM approval
                     WHERE tenant = :tenant AND mission = :mission AND state IN ('pending', 'approved') ORDER BY created_at, id""")


async def ask_writeback(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    proposal: artifacts.Artifact,
    obligations: Mapping[str, Any] | None = None,
) -> UUID | None:
    """Writes the writeback of a stored proposal and opens its approval. None when that was done before.

    Raises BadPayload when the proposal cannot be a writeback, BadObligations when what policy wants cannot be read.
    """
    parse(obligations)  # before anything is written
    content = WritebackProposal.model_validate_json(proposal.bytes)
    written = await writebacks.write(session, mission, proposal.id, content)
    if written is None:
        return None
    return await open_approval(
        session,
        caller,
        mission,
        "writeback",
        written.payload_sha256,
        writeback=written.id,
        obligations=obligations,
    )


async def ask_mission(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    action: str,
    rule: str,
    reason: str,
    inputs_sha256: bytes,
    policy_version: str,
    obligations: Mapping[str, str] | None = None,
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
        obligations=dict(obligations or {"approver_role": "operator"}),
    )
    kept = await artifacts.store(session, caller, mission.id, mission.attempt, question)
    return await open_approval(
        session, caller, mission, "mission", kept.sha256, question=kept.sha256, obligations=obligations
    )


async def open_approval(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    subject: Literal["writeback", "mission"],
    payload: bytes,
    writeback: UUID | None = None,
    question: bytes | None = None,
    obligations: Mapping[str, Any] | None = None,
) -> UUID:
    """Opens an approval under the rule that fits, tightened by what policy obliges to (`app.approvals.obligations`)."""
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
            "obligations": json.dumps(parse(obligations)),
        },
    )
    assert opened is not None
    await work.add(session, "approval_timer", opened.id, at=opened.first_step)
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
        asked["obligations"],
    )
    await missions.await_decision(session, caller, mission_id, "policy_asks", [approval])


async def conclude(database: Database, items: Sequence[Item], objects: Objects) -> list[tuple[Item, evidence.Material]]:
    """Missions in review: checks their evidence and completes or fails them, together.

    Those with proposals are left as they are and answered, with what there is to review: `conclude_changes` takes each alone.
    """
    found = await evidence.material(database, [(item.tenant, item.subject) for item in items])
    await evidence.fetch(found.values(), objects)
    await evidence.compare(database, found.values(), objects)
    changing = [
        (item, found[item.subject]) for item in items if item.subject in found and found[item.subject].proposals
    ]
    apart = {item.subject for item, _ in changing}
    if rest := [item for item in items if item.subject not in apart]:
        async with missions.holding(database, ((item.tenant, item.subject) for item in rest)) as held:
            close_reviews(held, rest, found)
    return changing


async def conclude_changes(database: Database, item: Item, material: evidence.Material, settings: Settings) -> None:
    """A mission in review that proposes changes: its targets are read first, never inside the transaction; humans are asked.

    Nobody is asked about what the targets were seen to hold already.
    """
    proposed = [proposal for proposal, _ in material.proposals]
    async with database.read() as session:
        await session.enter(item.tenant)
        mission = await missions.find(session, item.subject)
    if mission is not None and mission.played:  # nothing is asked outside on behalf of a replay
        already: Collection[UUID] = frozenset()
    else:
        already = await already_so(database, item.tenant, item.subject, proposed, settings)
    async with database.write() as session:
        held = Held(session.fetch)
        await held.hold([(item.tenant, item.subject)])
        changing = close_reviews(held, [item], {item.subject: material})
        await held.keep()
        session.nudges |= held.nudges
        for caller, reviewed, review in changing:
            await session.enter(caller.tenant)
            await put_to_humans(session, caller, reviewed, review, already)
    held.committed()


def close_reviews(
    held: Held, items: Sequence[Item], found: Mapping[UUID, evidence.Material]
) -> list[tuple[Caller, Mission, evidence.Review]]:
    """Reviews held missions and completes or fails them; answers those that passed and propose changes, which go on."""
    changing: list[tuple[Caller, Mission, evidence.Review]] = []
    for item in items:
        mission, caller = held.missions.get(item.subject), system(item.tenant, "worker")
        if mission is not None and mission.state == "in_review":
            material = found.get(mission.id)
            if material is None or material.attempt != mission.attempt:  # it has moved meanwhile: look again
                held.again(item, None)
                continue
            review = evidence.review(held, caller, mission, material)
            if not review.passed:
                held.fail(caller, mission.id, "review", reason="review")
            elif review.proposals:
                changing.append((caller, held.change(mission.id, answer_status=review.answer_status), review))
            else:
                held.complete(caller, mission.id, review.answer_status)
        held.finish(item)
    return changing


async def put_to_humans(
    session: WriteSession, caller: Caller, mission: Mission, found: evidence.Review, already: Collection[UUID]
) -> None:
    """The proposals of a reviewed mission; when none of them needs anybody, the mission is completed."""
    pending = [
        approval
        for proposal in found.proposals
        if (approval := await propose(session, caller, mission, proposal, proposal.artifact.id in already))
    ]
    if pending:
        tally = await writebacks.tally(session, mission.id)
        await missions.await_decision(session, caller, mission.id, "proposals", pending, tally)
    else:
        await missions.complete(session, caller, mission.id, "reviewed", answer_status=found.answer_status)


async def judge(
    session: WriteSession, caller: Caller, mission: Mission, connector: str, operation: str, risk: str
) -> policy.PolicyDecision:
    """What policy says of a change that a mission, or somebody who edits its proposal, wants to ask about."""
    kind = {"connector": connector, "operation": operation}
    standing = await session.first(STANDING, kind | {"tenant": session.tenant, "mission": mission.id, "risk": risk})
    assert standing is not None
    return await policy.decide(
        session,
        caller,
        "writeback.propose",
        f"{connector}.{operation}",
        {
            **kind,
            "known_connector": standing.known,
            "risk_level": standing.risk,
            "mode": mission.mode,
            "sensitivity_class": mission.sensitivity_class,
            "environment": (await missions.envelope(session, mission.id)).environment,
            "approval_route_tested": standing.tested,
        },
        mission.id,
        requester=mission.requested_by,
    )


async def propose(
    session: WriteSession, caller: Caller, mission: Mission, proposal: evidence.Proposal, already_so: bool = False
) -> UUID | None:
    """One reviewed proposal: asked about, or said why not, by a fact."""
    content: WritebackProposal = proposal.content
    said = {"proposal": proposal.artifact.id, "connector": content.connector, "operation": content.operation}
    if mission.mode == "dry_run":
        await ledger.record(session, caller, "writeback.would_propose", mission.id, **said)
        return None
    if proposal.problem:
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="evidence_not_verified")
        return None
    if already_so:
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="already_so")
        return None
    decision = await judge(session, caller, mission, content.connector, content.operation, content.risk_level)
    if decision.verdict.effect == "deny":
        await ledger.record(
            session,
            caller,
            "writeback.denied",
            mission.id,
            **said,
            policy_decision=decision.id,
            rule=decision.verdict.rule,
            policy_version=decision.verdict.policy_version,
        )
        return None
    try:
        if mission.played:
            await shadow(session, caller, mission, proposal, decision)
            return None
        return await ask_writeback(session, caller, mission, proposal.artifact, decision.verdict.obligations)
    except BadPayload:
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="not_a_payload")
        return None
    except BadObligations:  # a weaker approval than policy wants is never opened
        await ledger.record(session, caller, "writeback.withheld", mission.id, **said, reason="obligations_unclear")
        return None


async def shadow(
    session: WriteSession,
    caller: Caller,
    mission: Mission,
    proposal: evidence.Proposal,
    decision: policy.PolicyDecision,
) -> None:
    """Keeps what a replay would have asked a human for, where nothing that executes ever looks. Raises BadPayload, BadObligations."""
    parse(decision.verdict.obligations)
    payload = writebacks.payload_of(proposal.content)
    await session.execute(
        SHADOW,
        {
            "tenant": caller.tenant,
            "mission": mission.id,
            "proposal": proposal.artifact.id,
            "payload": payload,
            "decision": decision.id,
            "effect": decision.verdict.effect,
        },
    )
    await ledger.record(
        session,
        caller,
        "writeback.shadowed",
        mission.id,
        proposal=proposal.artifact.id,
        connector=proposal.content.connector,
        operation=proposal.content.operation,
        payload_sha256=sha256(payload).hex(),
        policy_decision=decision.id,
    )


async def progress(session: WriteSession, caller: Caller, mission_id: UUID) -> datetime | None:
    """Brings a mission up to its writebacks: waiting while a human has to say something, executing while any is unsettled.

    A stale writeback waits for an operator to renew it, as long as the approval it had would have lasted: then the answer
    is when to look again.
    """
    mission = await missions.lock(session, mission_id)
    tally = await writebacks.tally(session, mission_id)
    unfinished = await session.rows(UNFINISHED, {"tenant": session.tenant, "mission": mission_id})
    pending = [row.id for row in unfinished if row.state == "pending"]
    if mission.state not in ("awaiting_approval", "executing") or not tally:
        await missions.note_pending(session, mission_id, pending, tally)
        return None
    until = await session.scalar(STALE, {"tenant": session.tenant, "mission": mission_id})
    if pending or until is not None:
        if mission.state == "executing":
            await missions.to_waiting(session, caller, mission_id, pending, tally)
        else:
            await missions.note_pending(session, mission_id, pending, tally)
        return None if pending else until
    if any(tally.get(state) for state in ("approved", "executing", "unknown")):
        if mission.state == "awaiting_approval":
            await missions.to_executing(session, caller, mission_id, tally)
        else:
            await missions.note_pending(session, mission_id, [], tally)
    else:
        await missions.complete(session, caller, mission_id, "settled", tally=tally)
    return None


async def follow(session: WriteSession, caller: Caller, mission_id: UUID) -> None:
    """The same for whoever is not the worker that was called for it."""
    until = await progress(session, caller, mission_id)
    if until is not None:
        await work.add(session, "progress", mission_id, at=until)


async def climb(session: WriteSession, caller: Caller, approval_id: UUID) -> datetime | None:
    """Time passed for an approval: the steps of its ladder that are due, or its end, and its mission goes on without it.

    Answers when to look again; None when time alone changes it no more.
    """
    mission_id = await session.scalar(
        "SELECT mission FROM approval WHERE tenant = :tenant AND id = :id",
        {"tenant": session.tenant, "id": approval_id},
    )
    if mission_id is None:
        return None
    mission = await missions.lock(session, mission_id)
    which = {"tenant": session.tenant, "id": approval_id}
    before = await session.first(STATE, which)
    again: datetime | None = await session.scalar(CLIMB, which)
    after = await session.first(STATE, which)
    session.nudge(ledger.FACTS)
    assert before is not None and after is not None
    if (before.state, after.state) in (("pending", "expired"), ("approved", "expired")):
        if before.subject == "writeback":
            await follow(session, caller, mission_id)
        elif mission.state == "awaiting_approval":
            await refused(session, caller, mission, "expired")
    return again


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
        CLOSE, {"tenant": session.tenant, "id": approval_id, "state": state, "secret": caller.secret or None}
    )
