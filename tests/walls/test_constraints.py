"""Each constraint of the wall stands alone: a row that breaks it and nothing else is refused by it and nothing else."""

import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import Ground
from tests.walls.test_immutable import furnished

WALL = (
    "tenant", "principal", "role_grant", "api_key", "ledger", "mission", "artifact", "approval_rule", "connector_switch", "writeback",
    "approval", "decision", "execution",
)  # fmt: skip

# One row per constraint of the wall: the columns that break it and nothing else, in a copy of a good row. The triggers are
# off, so that the constraint stands alone; FRESH stands for a new id, @name for one of the test's.
FRESH = "fresh"
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
    "ledger_pkey": {"id": -1}, "ledger_position": {"seq": 999}, "ledger_type_check": {"seq": 999, "id": -1, "type": "Approved"},
    "ledger_actor_check": {"seq": 999, "id": -1, "actor": "@anna"}, "ledger_hash_check": {"seq": 999, "id": -1, "hash": "\\x00"},
    "ledger_body_check": {"seq": 999, "id": -1, "body": "\\x" + "20" * 8193}, "ledger_tenant_fkey": {"tenant": FRESH},
    "mission_pkey": {}, "mission_id": {"tenant": "@elsewhere"}, "mission_tenant_id_requested_by_key": None,
    "mission_mode_check": {"mode": "wild"}, "mission_state_check": {"state": "lost"}, "mission_risk_level_check": {"risk_level": "none"},
    "mission_sensitivity_class_check": {"sensitivity_class": "x"}, "mission_contract_hash_check": {"contract_hash": "\\x00"},
    "mission_attempt_check": {"attempt": 0}, "mission_budget_time_ms_check": {"budget_time_ms": 0},
    "mission_budget_tokens_check": {"budget_tokens": -1}, "mission_budget_cost_usd_check": {"budget_cost_usd": -1},
    "mission_answer_status_check": {"answer_status": "maybe"}, "mission_reason_note_check": {"reason_note": "x" * 2001},
    "mission_check": {"state": "completed"}, "mission_tenant_fkey": {"id": FRESH, "tenant": FRESH},
    "mission_tenant_requested_by_fkey": {"id": FRESH, "requested_by": FRESH},
    "artifact_pkey": {"bytes": "\\xab"}, "artifact_tenant_mission_sha256_key": {"id": FRESH},
    "artifact_schema_name_check": {"schema_name": "poem"}, "artifact_tenant_mission_fkey": {"id": FRESH, "mission": FRESH},
    "approval_rule_pkey": {}, "approval_rule_tenant_id_version_required_deny_threshold_key": None,
    "approval_rule_version_check": {"version": 0}, "approval_rule_subject_check": {"subject": "x"},
    "approval_rule_risk_check": {"risk": "x"},
    "approval_rule_required_check": {"required": 0}, "approval_rule_deny_threshold_check": {"deny_threshold": 0},
    "approval_rule_life_check": {"life": "31 days"}, "approval_rule_undo_window_check": {"undo_window": "2 hours"},
    "approval_rule_tenant_fkey": {"tenant": FRESH},
    "connector_switch_pkey": {}, "connector_switch_tenant_fkey": {"tenant": FRESH},
    "writeback_pkey": {"proposal": FRESH}, "writeback_tenant_id_mission_key": None,
    "writeback_tenant_id_payload_sha256_requested_by_key": None, "writeback_tenant_proposal_key": {"id": FRESH},
    "writeback_risk_check": {"risk": "none"}, "writeback_payload_check": {"payload": "\\x7b"},
    "writeback_tenant_mission_requested_by_fkey": {"id": FRESH, "proposal": "@spare", "requested_by": "@anna"},
    "writeback_tenant_proposal_fkey": {"id": FRESH, "proposal": FRESH},
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
    "approval_tenant_rule_rule_version_required_deny_threshold_fkey": {"id": FRESH, "writeback": "@spare_writeback", "required": 2},
    "approval_tenant_writeback_mission_fkey": {"id": FRESH, "writeback": "@elsewhere_writeback"},
    "approval_tenant_writeback_payload_sha256_requested_by_fkey":
        {"id": FRESH, "writeback": "@spare_writeback", "payload_sha256": "\\xab"},
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
    named["elsewhere"] = str(uuid4())
    await ground.run(
        "admin", "INSERT INTO tenant (id, name) VALUES ($1::text::uuid, $1)", named["elsewhere"], tenant=named["elsewhere"]
    )  # fmt: skip
    good = {
        "tenant": f"id = '{ground.tenant}'", "connector_switch": f"tenant = '{ground.tenant}'",
        "principal": f"id = '{named['asker']}'", "role_grant": f"principal = '{named['ben']}'",
        "api_key": f"principal = '{named['anna']}'", "ledger": f"subject = '{asked.mission}' AND seq = 1",
        "mission": f"id = '{asked.mission}'", "artifact": f"mission = '{asked.mission}'",
        "approval_rule": f"tenant = '{ground.tenant}' AND connector = 'crm'", "writeback": f"id = '{asked.writeback}'",
        "approval": f"id = '{asked.approval}'", "decision": f"approval = '{asked.approval}'",
        "execution": f"writeback = '{asked.writeback}'",
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
