"""Each constraint of the wall stands alone: a row that breaks it and nothing else is refused by it and nothing else."""

import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.clock import new_id
from tests.walls.ground import Ground
from tests.walls.test_immutable import furnished

WALL = (
    "tenant", "principal", "role_grant", "api_key", "session", "approver_key", "oidc_identity", "risk_floor",
    "ledger", "mission", "artifact", "approval_rule", "connector", "connector_switch", "notice", "writeback",
    "approval", "approval_question", "decision", "execution", "policy", "policy_set", "blob", "legal_hold",
)  # fmt: skip

# One row per constraint of the wall: the columns that break it and nothing else, in a copy of a good row. The triggers are
# off, so that the constraint stands alone; FRESH stands for a new id, @name for one of the test's.
FRESH = "fresh"


def manifest_of(baseline: bytes, more: str = "") -> str:
    """The manifest of a policy set with that shipped text."""
    return "\\x" + (f'{{"baseline": "{hashlib.sha256(baseline).hexdigest()}"}}' + more).encode().hex()


BREAKS: dict[str, dict[str, Any] | None] = {
    "tenant_pkey": {"name": FRESH}, "tenant_name_key": {"id": FRESH}, "tenant_name_check": {"id": FRESH, "name": ""},
    "principal_pkey": {"name": FRESH}, "principal_tenant_name_key": {"id": FRESH},
    "principal_kind_check": {"id": FRESH, "name": FRESH, "kind": "robot"}, "principal_name_check": {"id": FRESH, "name": ""},
    "principal_check": {"id": FRESH, "name": FRESH, "kind": "human", "owner": "@anna"},
    "principal_tenant_fkey": {"tenant": FRESH},
    "principal_tenant_owner_fkey": {"id": FRESH, "name": FRESH, "kind": "agent", "owner": FRESH},
    "role_grant_pkey": {"principal": "@cora", "role": "colony"}, "role_grant_live": {"id": FRESH},
    "role_grant_role_check": {"id": FRESH, "role": "king"}, "role_grant_tenant_principal_fkey": {"id": FRESH, "principal": FRESH},
    "api_key_pkey": {"secret_sha256": "\\x" + "ab" * 32}, "api_key_secret": {"id": FRESH},
    "api_key_prefix_check": {"id": FRESH, "prefix": "short"}, "api_key_secret_sha256_check": {"id": FRESH, "secret_sha256": "\\xab"},
    "api_key_tenant_principal_fkey": {"id": FRESH, "principal": FRESH, "secret_sha256": "\\x" + "ab" * 32},
    "tenant_operator": {"id": FRESH, "name": FRESH, "operator": True}, "tenant_drills": {"id": FRESH, "name": FRESH, "drills": True},
    "role_grant_tenant_id_role_key": None, "role_grant_delegation": {"id": FRESH, "delegated_from": FRESH},
    "role_grant_tenant_granted_by_fkey": {"id": FRESH, "role": "colony", "granted_by": FRESH},
    "role_grant_tenant_delegated_from_role_fkey":
        {"id": FRESH, "role": "colony", "granted_by": "@anna", "delegated_from": FRESH, "expires_at": "2099-01-01"},
    "session_token_sha256_check": {"id": FRESH, "secret_sha256": "\\x" + "ab" * 32, "token_sha256": "\\xab"},
    "oidc_identity_pkey": {"subject": FRESH}, "oidc_identity_live": {"id": FRESH},
    "oidc_identity_issuer_check": {"id": FRESH, "issuer": "x"}, "oidc_identity_subject_check": {"id": FRESH, "subject": ""},
    "oidc_identity_tenant_principal_fkey": {"id": FRESH, "subject": FRESH, "principal": FRESH},
    "session_pkey": {"secret_sha256": "\\x" + "ab" * 32}, "session_secret": {"id": FRESH}, "session_origin_check": {"origin": "x"},
    "session_secret_sha256_check": {"id": FRESH, "secret_sha256": "\\xab"},
    "session_tenant_principal_fkey": {"id": FRESH, "principal": FRESH, "secret_sha256": "\\x" + "ab" * 32},
    "approver_key_pkey": {"public_key": "\\x" + "cd" * 32}, "approver_key_tenant_public_key_key": {"id": FRESH},
    "approver_key_public_key_check": {"id": FRESH, "public_key": "\\xab"},
    "approver_key_confirmed": {"confirmed_at": None}, "approver_key_revoked": {"revoked_at": "epoch"},
    "approver_key_two_people": {"confirmed_by": "@anna"},
    "approver_key_tenant_principal_fkey": {"id": FRESH, "public_key": "\\x" + "cd" * 32, "principal": FRESH},
    "approver_key_tenant_requested_by_fkey": {"id": FRESH, "public_key": "\\x" + "cd" * 32, "requested_by": FRESH},
    "approver_key_tenant_confirmed_by_fkey": {"id": FRESH, "public_key": "\\x" + "cd" * 32, "confirmed_by": FRESH},
    "approver_key_tenant_revoked_by_fkey":
        {"id": FRESH, "public_key": "\\x" + "cd" * 32, "revoked_by": FRESH, "revoked_at": "epoch"},
    "risk_floor_pkey": {}, "risk_floor_connector_check": {"connector": ""}, "risk_floor_operation_check": {"operation": ""},
    "risk_floor_version_check": {"version": 0}, "risk_floor_risk_check": {"risk": "none"}, "risk_floor_tenant_fkey": {"tenant": FRESH},
    "risk_floor_tenant_created_by_fkey": {"version": 9, "created_by": FRESH},
    "decision_signature_check": {"signature": "\\x" + "20" * 4097},
    "approval_rule_check": {"subject": "mission", "signature_required": True},
    "policy_pkey": {"change": 99}, "policy_tenant_change_key": {"version": 99}, "policy_name_check": {"name": "X", "change": 99},
    "policy_version_check": {"version": 0, "change": 99}, "policy_change_check": {"version": 99, "change": 0},
    "policy_text_check": {"version": 99, "change": 99, "text": "\\x" + "20" * 65_537},
    "policy_check": {"version": 99, "change": 99, "retired": True}, "policy_tenant_fkey": {"tenant": FRESH},
    "policy_tenant_created_by_fkey": {"version": 99, "change": 99, "created_by": FRESH},
    "policy_set_pkey": {}, "policy_set_tenant_fkey": {"id": FRESH, "tenant": FRESH},
    "policy_set_baseline": {"id": FRESH, "baseline": "\\x7832"},
    "policy_set_baseline_check": {"id": FRESH, "baseline": "\\x", "manifest": manifest_of(b"")},
    "policy_set_manifest_check": {"id": FRESH, "manifest": manifest_of(b"x1", " " * 32_768)},
    "ledger_pkey": {"id": -1}, "ledger_position": {"seq": 999}, "ledger_type_check": {"seq": 999, "id": -1, "type": "Approved"},
    "ledger_actor_check": {"seq": 999, "id": -1, "actor": "@anna"}, "ledger_hash_check": {"seq": 999, "id": -1, "hash": "\\x00"},
    "ledger_body_check": {"seq": 999, "id": -1, "body": "\\x" + "20" * 8193},
    "mission_pkey": {}, "mission_id": {"tenant": "@elsewhere"}, "mission_tenant_id_requested_by_key": None,
    "mission_mode_check": {"mode": "wild"}, "mission_state_check": {"state": "lost"}, "mission_risk_level_check": {"risk_level": "none"},
    "mission_sensitivity_class_check": {"sensitivity_class": "x"}, "mission_contract_hash_check": {"contract_hash": "\\x00"},
    "mission_attempt_check": {"attempt": 0}, "mission_budget_time_ms_check": {"budget_time_ms": 0},
    "mission_budget_tokens_check": {"budget_tokens": -1}, "mission_budget_cost_usd_check": {"budget_cost_usd": -1},
    "mission_answer_status_check": {"answer_status": "maybe"}, "mission_reason_note_check": {"reason_note": "x" * 2001},
    "mission_check": {"state": "completed"}, "mission_check1": {"replay_of": FRESH},
    "mission_replay_mode_check": {"replay_of": FRESH, "replay_mode": "backwards"},
    "artifact_pkey": {"bytes": "\\xab"}, "artifact_tenant_sha256_mission_key": {"id": FRESH},
    "artifact_removed": {"id": FRESH, "removed_size": 1}, "mission_bytes": {"bytes_removed_at": "epoch"},
    "blob_pkey": {}, "blob_sha256_check": {"sha256": "\\xab", "bytes": None, "removed_at": "epoch"},
    "blob_size_check": {"sha256": "\\x" + "ab" * 32, "size": -1, "bytes": None, "removed_at": "epoch"},
    "blob_place": {"sha256": "\\x" + "ab" * 32, "bytes": None}, "blob_size": {"size": 5},
    "blob_hash": {"sha256": "\\x" + "ab" * 32},
    "blob_chunks": {"sha256": "\\x" + "ab" * 32, "bytes": None, "object": FRESH},
    "blob_chunks_all": {"sha256": "\\x" + "ab" * 32, "bytes": None, "object": FRESH, "chunks": "\\xab"},
    "blob_object": {"sha256": "\\x" + "ab" * 32, "object": "@object", "bytes": None, "chunks": "\\x" + "ab" * 32},
    "blob_tenant_fkey": {"tenant": FRESH},
    "legal_hold_pkey": {}, "legal_hold_name_check": {"name": "A case"}, "legal_hold_scope_check": {"name": "b", "scope": "world"},
    "legal_hold_label_name_check": {"name": "b", "scope": "label", "label_name": "", "label_value": "x"},
    "legal_hold_label_value_check": {"name": "b", "scope": "label", "label_name": "x", "label_value": "x" * 201},
    "legal_hold_reason_check": {"name": "b", "reason": ""}, "legal_hold_mission": {"name": "b", "scope": "mission"},
    "legal_hold_label": {"name": "b", "label_name": "x"},
    "legal_hold_lifted": {"name": "b", "lifted_at": "epoch"},
    "legal_hold_lift_reason_check": {"name": "b", "lifted_at": "epoch", "lifted_by": "@anna", "lift_reason": ""},
    "legal_hold_another": {"name": "b", "lifted_at": "epoch", "lifted_by": "@adam", "lift_reason": "x"},
    "legal_hold_tenant_fkey": {"tenant": FRESH},
    "legal_hold_tenant_mission_fkey": {"name": "b", "scope": "mission", "mission": FRESH},
    "legal_hold_tenant_placed_by_fkey": {"name": "b", "placed_by": FRESH},
    "legal_hold_tenant_lifted_by_fkey": {"name": "b", "lifted_at": "epoch", "lifted_by": FRESH, "lift_reason": "x"},
    "artifact_schema_name_check": {"schema_name": "poem"}, "artifact_tenant_mission_fkey": {"id": FRESH, "mission": FRESH},
    "approval_rule_pkey": {}, "approval_rule_tenant_id_version_required_deny_threshold_key": None,
    "approval_rule_version_check": {"version": 0}, "approval_rule_subject_check": {"subject": "x"},
    "approval_rule_risk_check": {"risk": "x"},
    "approval_rule_required_check": {"required": 0}, "approval_rule_deny_threshold_check": {"deny_threshold": 0},
    "approval_rule_life_check": {"life": "31 days"}, "approval_rule_undo_window_check": {"undo_window": "2 hours"},
    "approval_rule_tenant_fkey": {"tenant": FRESH},
    "approval_rule_connector_check": {"connector": ""}, "approval_rule_operation_check": {"operation": ""},
    "approval_rule_approver_role_check": {"approver_role": "king"}, "approval_rule_glass_role": {"approver_role": "break_glass"},
    "approval_rule_glass": {"approver_role": "break_glass", "break_glass": True},
    "approval_rule_may_escalate_to_check": {"may_escalate_to": ["king"]}, "approval_rule_ladder": {"hops": [1]},
    "approval_rule_tenant_created_by_fkey": {"id": FRESH, "created_by": FRESH},
    "notice_pkey": {"step": 9}, "notice_once": {"id": FRESH}, "notice_kind_check": {"kind": "shout"},
    "notice_tenant_principal_fkey": {"id": FRESH, "principal": FRESH},
    "notice_tenant_approval_fkey": {"id": FRESH, "approval": FRESH},
    "connector_pkey": {}, "connector_name_check": {"name": "Their CRM"}, "connector_version_check": {"version": 0},
    "connector_kind_check": {"kind": "shell"}, "connector_definition_check": {"definition": []},
    "connector_account_check": {"account": "CRM"},
    "connector_tenant_fkey": {"tenant": FRESH}, "connector_tenant_created_by_fkey": {"version": 9, "created_by": FRESH},
    "connector_switch_pkey": {}, "connector_switch_tenant_fkey": {"tenant": FRESH}, "connector_switch_reason_check": {"reason": ""},
    "connector_switch_tenant_changed_by_fkey": {"connector": "spare", "changed_by": FRESH},
    "writeback_pkey": {"proposal": FRESH}, "writeback_tenant_id_mission_key": None,
    "writeback_tenant_id_payload_sha256_requested_by_key": None, "writeback_tenant_proposal_revision_key": {"id": FRESH},
    "writeback_check": {"edited_by": "@anna"}, "writeback_check1": {"revision": 2},
    "writeback_revision_check": {"revision": 0, "predecessor": FRESH},
    "writeback_tenant_edited_by_fkey":
        {"id": FRESH, "proposal": "@spare", "revision": 2, "predecessor": "@spare_writeback", "edited_by": FRESH},
    "writeback_risk_check": {"risk": "none"}, "writeback_payload_check": {"payload": "\\x7b"},
    "writeback_tenant_mission_requested_by_fkey": {"id": FRESH, "proposal": "@spare", "requested_by": "@anna"},
    "writeback_tenant_proposal_fkey": {"id": FRESH, "proposal": FRESH},
    "writeback_tenant_connector_connector_version_fkey": {"id": FRESH, "proposal": "@spare", "connector_version": 999},
    "writeback_tenant_predecessor_fkey": {"id": FRESH, "proposal": "@spare", "predecessor": FRESH},
    "approval_pkey": {"writeback": "@spare_writeback"}, "approval_per_writeback": {"id": FRESH},
    "approval_per_question":
        {"id": FRESH, "subject": "mission", "writeback": None, "question_sha256": "@question", "payload_sha256": "@question"},
    "approval_tenant_id_requested_by_payload_sha256_key": None, "approval_tenant_id_writeback_payload_sha256_state_key": None,
    "approval_subject_check": {"subject": "x", "writeback": None}, "approval_state_check": {"state": "lost"},
    "approval_check": {"id": FRESH, "writeback": None}, "approval_check1": {"id": FRESH, "question_sha256": "@payload"},
    "approval_check2": {"id": FRESH, "subject": "mission", "writeback": None, "question_sha256": "\\xab"},
    "approval_tenant_mission_question_sha256_fkey":
        {"id": FRESH, "subject": "mission", "writeback": None, "question_sha256": "\\xab", "payload_sha256": "\\xab"},
    "approval_tenant_mission_requested_by_fkey":
        {"id": FRESH, "subject": "mission", "writeback": None, "question_sha256": "@other", "payload_sha256": "@other",
         "requested_by": "@anna"},
    "approval_under_rule": {"id": FRESH, "writeback": "@spare_writeback", "deny_threshold": 2},
    "approval_tightened": {"rule_required": 2}, "approval_required_check": {"required": 10},
    "approval_note_check": {"note": "x" * 2001}, "approval_stopped": {"state": "cancelled", "stopped": "x"},
    "approval_glass": {"glass_broken_at": "epoch"},
    "approval_tenant_glass_broken_by_fkey":
        {"id": FRESH, "writeback": "@spare_writeback", "glass_broken_by": FRESH, "glass_broken_at": "epoch", "was_rule": "@rule",
         "was_rule_version": 1},
    "approval_handed": {"handed": {}}, "approval_withdrawn": {"withdrawn_by": "@anna"},
    "approval_tenant_withdrawn_by_fkey":
        {"id": FRESH, "writeback": "@spare_writeback", "state": "cancelled", "withdrawn_by": FRESH},
    "approval_tenant_was_rule_was_rule_version_fkey":
        {"id": FRESH, "writeback": "@spare_writeback", "glass_broken_by": "@anna", "glass_broken_at": "epoch", "was_rule": FRESH,
         "was_rule_version": 1},
    "approval_tenant_writeback_mission_fkey": {"id": FRESH, "writeback": "@elsewhere_writeback"},
    "approval_tenant_writeback_payload_sha256_requested_by_fkey":
        {"id": FRESH, "writeback": "@spare_writeback", "payload_sha256": "\\xab"},
    "approval_question_pkey": {"number": 9}, "approval_question_number": {"id": FRESH},
    "approval_question_bounded": {"id": FRESH, "number": 51}, "approval_question_words": {"id": FRESH, "number": 9, "question": " "},
    "approval_question_answer": {"id": FRESH, "number": 9, "answer": "x" * 2001},
    "approval_question_answered": {"id": FRESH, "number": 9, "answered_at": None},
    "approval_question_others": {"id": FRESH, "number": 9, "addressee": "@anna"},
    "approval_question_tenant_approval_fkey": {"id": FRESH, "approval": FRESH},
    "approval_question_tenant_asked_by_fkey": {"id": FRESH, "number": 9, "asked_by": FRESH},
    "approval_question_tenant_addressee_fkey": {"id": FRESH, "number": 9, "addressee": FRESH},
    "approval_question_tenant_answered_by_fkey": {"id": FRESH, "number": 9, "answered_by": FRESH},
    "decision_pkey": {}, "decision_verdict_check": {"verdict": "maybe"}, "decision_comment_check": {"comment": "x" * 2001},
    "decision_check": {"approver": "@asker"}, "decision_check1": {"verdict": "reject", "comment": None},
    "decision_tenant_approver_fkey": {"approver": FRESH},
    "decision_tenant_approval_requested_by_payload_sha256_fkey": {"approver": "@anna", "payload_sha256": "\\xab"},
    "execution_pkey": {}, "execution_state_check": {"state": "lost"},
    "execution_check": {"settled_at": "epoch"}, "execution_check1": {"state": "succeeded", "settled_at": "epoch"},
    "execution_receipt_check": {"receipt": "\\x" + "20" * 262145}, "execution_observed_check": {"observed": "\\x" + "20" * 262145},
    "execution_tenant_approval_writeback_payload_sha256_approva_fkey": {"writeback": "@spare_writeback"},
}  # fmt: skip
# Only what a foreign key has to point at: the primary key is part of it, so it says nothing of its own.
IMPLIED = {name for name, breaks in BREAKS.items() if breaks is None}


async def test_every_constraint_of_the_wall_stands_alone(ground: Ground) -> None:
    asked = (await furnished(ground))["asked"]
    named = {name: str(id) for name, id in ground.ids.items()} | {"payload": "\\x" + asked.sha256.hex()}
    named["spare"] = str(await ground.proposal(asked.mission))
    named["rule"] = str(await ground.value("admin", "SELECT rule FROM approval WHERE id = $1", asked.approval))
    named["spare_writeback"] = str((await ground.propose(mission=asked.mission))[0])
    named["elsewhere_writeback"] = str((await ground.propose(payload=asked.payload))[0])
    for name in ("question", "other"):
        proposal = await ground.proposal(asked.mission)
        digest: bytes = await ground.value("admin", "SELECT sha256 FROM artifact WHERE id = $1", proposal)
        named[name] = "\\x" + digest.hex()
        if name == "question":
            await ground.open(
                asked, id=uuid4(), subject="mission", writeback=None, question_sha256=digest, payload_sha256=digest
            )
    named["elsewhere"], named["object"] = str(uuid4()), str(new_id())
    await ground.run(
        "api", "SELECT keep_blob($1, sha256('away'), 4, NULL, $2, sha256('away'))", ground.tenant, UUID(named["object"])
    )
    await ground.run(
        "admin", """INSERT INTO tenant (id, name, operator, drills)
                    SELECT $1::text::uuid, $1, NOT EXISTS (SELECT 1 FROM tenant WHERE operator),
                      NOT EXISTS (SELECT 1 FROM tenant WHERE drills)""",
        named["elsewhere"], tenant=named["elsewhere"],
    )  # fmt: skip
    good = {
        "tenant": f"id = '{ground.tenant}'", "connector_switch": f"tenant = '{ground.tenant}'",
        "connector": f"tenant = '{ground.tenant}' AND name = 'crm'",
        "principal": f"id = '{named['asker']}'", "role_grant": f"principal = '{named['ben']}'",
        "api_key": f"principal = '{named['anna']}'", "session": f"principal = '{named['anna']}'",
        "oidc_identity": f"principal = '{named['anna']}'",
        "approver_key": f"principal = '{named['anna']}'", "risk_floor": f"tenant = '{ground.tenant}'",
        "ledger": f"subject = '{asked.mission}' AND seq = 1",
        "mission": f"id = '{asked.mission}'", "artifact": f"mission = '{asked.mission}'",
        "approval_rule": f"tenant = '{ground.tenant}' AND connector = 'crm'", "writeback": f"id = '{asked.writeback}'",
        "approval": f"id = '{asked.approval}'", "approval_question": f"tenant = '{ground.tenant}'",
        "notice": f"approval = '{asked.approval}'", "decision": f"approval = '{asked.approval}'",
        "execution": f"writeback = '{asked.writeback}'", "policy": f"tenant = '{ground.tenant}'",
        "policy_set": f"tenant = '{ground.tenant}'", "blob": f"tenant = '{ground.tenant}' AND object IS NULL",
        "legal_hold": f"tenant = '{ground.tenant}'",
    }  # fmt: skip
    admin = await ground.of("admin")
    for name, breaks in BREAKS.items():
        if breaks is None:
            continue
        table = next(table for table in sorted(good, key=len, reverse=True) if name.startswith(table))
        values = {column: str(uuid4()) if value == FRESH else value for column, value in breaks.items()}
        values |= {c: named[v[1:]] for c, v in values.items() if isinstance(v, str) and v.startswith("@")}
        columns = await admin.fetchval(
            """SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
               WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''""",
            table,
        )
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            async with admin.transaction():
                await admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
                await admin.execute(
                    f"""INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_record(
                          (SELECT t FROM {table} t WHERE {good[table]} LIMIT 1), $1::text::jsonb)""",
                    json.dumps(values),
                )
        assert refused.value.constraint_name == name, f"{name}: {refused.value}"


async def test_every_constraint_of_the_wall_has_its_row_above(ground: Ground) -> None:
    found = await ground.run(
        "admin",
        """SELECT conname FROM pg_constraint WHERE conrelid = ANY ($1::text[]::regclass[]) AND contype IN ('c', 'f', 'p', 'u')
           UNION SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid
             WHERE indisunique AND indrelid = ANY ($1::text[]::regclass[])""",
        list(WALL),
    )
    assert {name for (name,) in found} == set(BREAKS)
    # what is called implied holds its table's whole primary key
    implied = await ground.run(
        "admin",
        """SELECT u.conname FROM pg_constraint u
             JOIN pg_constraint p ON p.conrelid = u.conrelid AND p.contype = 'p' AND p.conkey <@ u.conkey
           WHERE u.conname = ANY ($1) AND u.contype = 'u'""",
        list(IMPLIED),
    )
    assert {name for (name,) in implied} == IMPLIED
