"""The `api` database URL leaked, process memory did not: whoever has it knows every id and nobody's secret."""

import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.attacks.scene import (
    COLUMNS,
    FUNCTIONS,
    REFUSED,
    RELATIONS,
    attempt,
    compare,
    guesses,
    nothing_leaves,
    set_scene,
    standing,
)
from tests.walls.ground import DENIED, Ground, insert, payload
from tests.walls.test_intake import asked, know_the_rules, take_in

ROLE = "mission_root_api"
# Tables that the api may write, and why that gets nobody a writeback.
WRITABLE = {
    "approval": "inserts ask, under the rule the wall chooses; nothing is updated",
    "artifact": "what a colony said; kept as it was first said",
    "document": "a workspace's text; retired, never decided on",
    "drill_run": "asks for a drill; how it ended the worker says",
    "idempotency": "answers to one principal's repeated requests: a wrong answer, never a wrong write",
    "ledger": "inserts only, and none of the wall's or the registrar's facts",
    "mission": "asked for with a secret; the rest is its progress, and ending it stops what has not left",
    "mission_type": "what may be asked for; a writeback is judged by its own bytes",
    "nonce": "used ones",
    "passage": "the search's index",
    "policy_decision": "what policy said: an approval wants one, and its rule is the wall's all the same",
    "policy_set": "policies by hash: tightens what is asked, the rule stays the least",
    "quarantine": "refused bytes",
    "reading": "what a mission was shown; evidence is for the approver to judge",
    "recording": "a mission of elsewhere, to be played without a hand",
    "tape": "what a mission was answered: a replay writes nothing",
    "webhook": "who is told of facts; facts hold ids and states",
    "webhook_delivery": "which of them were told",
    "webhook_secret": "sealed; signs what is sent out",
    "work": "the worker's rows; the executor's are behind a policy of their own",
    "workspace": "names",
    "workspace_trust": "which sources a review believes; a change is for a human to judge all the same",
    "writeback": "a proposal: nothing happens until an approval of it is approved",
}  # fmt: skip
# Functions that the api may call, and why calling one without a secret gets nobody a writeback.
CALLABLE = {
    "answer_question": "wants a secret",
    "answerers": "reads: whom a holder of this role could ask anyway",
    "approver_keys": "reads public keys",
    "ask_question": "wants a secret",
    "ask_connector_read": "asks the executor for a look at a record, which it may show anyway",
    "authenticate": "wants the SHA-256 of a secret",
    "break_glass": "wants a secret",
    "budget_would_lack": "reads",
    "choose_rule": "reads",
    "close_approval": "wants a secret",
    "current_tenant": "reads",
    "decide": "wants a secret",
    "doctor_numbers": "counts",
    "drill_tenant": "reads",
    "deciders": "reads: whom a holder of this role could ask anyway",
    "enter_tenant": "enters, as any session may with a setting",
    "fact_hash": "computes",
    "fitting_rules": "reads",
    "hand_on": "wants a secret",
    "full_approval_queues": "says which tenants have many approvals waiting",
    "lay_ladder": "computes",
    "note_tool_layer": "adds to what was seen of a layer: what has drifted can only become more",
    "passage_lexemes": "computes",
    "put_budget_limits": "wants a secret",
    "put_connector": "wants a secret",
    "put_policy": "wants a secret",
    "put_rule": "wants a secret",
    "put_tool_layer": "wants a secret",
    "raised_risk": "reads",
    "release_budget": "gives back what was held for a mission",
    "renew": "wants a secret",
    "require_present": "checks",
    "require_tenant": "checks",
    "reserve_budget": "holds a mission's means",
    "revise": "wants a secret",
    "search_lexemes": "computes",
    "search_passages": "reads",
    "see_notice": "wants a secret",
    "settle_budget": "spends what was held",
    "spend_budget": "spends a mission's means",
    "standing_risk": "reads, and holds floors where they are until its transaction ends",
    "switch_connector": "wants a secret",
    "switch_tool_layer": "wants a secret",
    "switch_model_provider": "wants a secret",
    "model_switches": "reads",
    "newest_drills": "reads how the service's drills ended",
    "ladder_binds": "reads",
    "role_holders": "reads a number",
    "release_is_healthy": "reads yes or no",
    "tenant_name": "reads the own name",
    "enable_rung": "wants a secret",
    "lower_rung": "wants a secret",
    "attest": "wants a secret",
    "withdraw_attestation": "wants a secret",
    "vouch": "wants a secret",
    "keep_verdict": "wants a secret",
    "note_look": "wants a secret",
    "note_model_use": "adds to sums that lists show",
    "terms_of_missions": "runs as its caller: whatever it may not do itself",
    "open_calls": "runs as its caller: whatever it may not do itself",
    "close_calls": "runs as its caller: whatever it may not do itself",
    "holds_on": "reads",
    "keep_blob": "keeps bytes under their own hash, and takes none away",
    "lift_hold": "wants a secret",
    "place_hold": "wants a secret",
    "put_retention": "wants a secret",
    "retention_days": "reads",
    "shipped_retention": "computes",
    "hold_missions": "runs as its caller: whatever it may not do itself",
    "keep_missions": "runs as its caller: whatever it may not do itself",
    "use_nonces": "runs as its caller: whatever it may not do itself",
    "budget_used_up": "runs as its caller: whatever it may not do itself",
    "hold_budgets": "holds accounts where they are until its transaction ends",
    "names_of": "names and kinds of principals of the tenant entered, which stories name anyway",
    "take_in": "wants a secret",
    "take_tokens": "counts requests",
    "tenant_of_mission": "reads",
    "tenants_after": "reads ids, which nobody has a right by",
    "tool_account": "says what a variable is called",
    "withdraw": "wants a secret",
}


async def test_every_statement_on_every_table_is_refused_or_judged_harmless(ground: Ground) -> None:
    scene = await set_scene(ground)
    before = await standing(ground, "api")
    written = set()
    for (table,) in await ground.run("admin", RELATIONS):
        columns = await ground.run("admin", COLUMNS, table, ROLE)
        real = [column for column in columns if not column["generated"]]
        may = {
            "INSERT": any(c["insert"] for c in columns), "UPDATE": any(c["update"] for c in columns),
            "DELETE": await ground.value("admin", "SELECT has_table_privilege($1, $2::text, 'DELETE')", ROLE, table),
        }  # fmt: skip
        everything = ", ".join(f"{c['attname']} = {c['attname']}" for c in real)
        tries = {
            "INSERT": f"INSERT INTO {table} DEFAULT VALUES",
            "UPDATE": f"UPDATE {table} SET {everything}",
            "DELETE": f"DELETE FROM {table}",
        }
        for verb, statement in tries.items():
            if not may[verb]:
                assert await attempt(ground, "api", statement) in REFUSED, statement
        assert await attempt(ground, "api", f"TRUNCATE {table}") in (*REFUSED, "42809")
        for column in real:  # one at a time, so that a grant on one column cannot hide behind another
            for value in ("NULL", "DEFAULT"):
                done = await attempt(ground, "api", f"UPDATE {table} SET {column['attname']} = {value}")
                assert column["update"] or done in REFUSED, f"{table}.{column['attname']}: {done}"
            done = await attempt(ground, "api", f"INSERT INTO {table} ({column['attname']}) VALUES (DEFAULT)")
            assert column["insert"] or done in REFUSED, f"{table}.{column['attname']}: {done}"
        if may["DELETE"]:
            await attempt(ground, "api", tries["DELETE"])
        written |= {table} if any(may.values()) else set()
    assert written == set(WRITABLE), f"judge {written - set(WRITABLE)}; gone: {set(WRITABLE) - written}"
    assert compare(before, await standing(ground, "api")) == {}
    await nothing_leaves(ground, scene)


async def test_every_function_that_may_be_called_is_judged_and_moves_nothing_without_a_secret(ground: Ground) -> None:
    scene = await set_scene(ground)
    pools = guesses(ground, scene)
    functions = await ground.run("admin", FUNCTIONS, ROLE)
    known = {function["name"] for function in functions}
    assert known == set(CALLABLE), f"judge {known - set(CALLABLE)}; gone: {set(CALLABLE) - known}"
    before = await standing(ground, "api")
    for function in functions:
        places = ", ".join(f"${n}::{kind}" for n, kind in enumerate(function["types"], 1))
        statement = f"SELECT * FROM {function['name']}({places})"
        called = 0
        for args in combinations(function, pools, ground):
            said = await attempt(ground, "api", statement, *args) if args else await attempt(ground, "api", statement)
            assert said not in (DENIED, "42883"), f"{statement} {args}: {said}"  # it is really called
            called += 1
        assert called
    assert compare(before, await standing(ground, "api")) == {}
    await nothing_leaves(ground, scene)


def combinations(function: Any, pools: dict[str, list[Any]], ground: Ground) -> list[tuple[Any, ...]]:
    """Hostile arguments: every guess in every place once, beside the best guesses in the others."""
    names = function["arguments"] or [""] * len(function["types"])
    own = [
        [ground.tenant] if name == "p_tenant" else pools.get(kind, [None])
        for name, kind in zip(names, function["types"], strict=True)
    ]
    wide = [tuple(pool[turn % len(pool)] for pool in own) for turn in range(max(map(len, own), default=1))]
    best = [pool[0] for pool in own]
    wide += [(*best[:place], value, *best[place + 1 :]) for place, pool in enumerate(own) for value in pool]
    return wide


async def test_nobody_forges_an_approver(ground: Ground) -> None:
    scene = await set_scene(ground)
    asked = scene.asked
    forged = {
        "approval": asked.approval, "tenant": ground.tenant, "approver": ground.ids["anna"], "requested_by": asked.requested_by,
        "payload_sha256": asked.sha256, "verdict": "approve",
    }  # fmt: skip
    await ground.refused(DENIED, "api", insert("decision", forged), *forged.values())
    await ground.refused(DENIED, "api", "UPDATE approval SET state = 'approved' WHERE id = $1", asked.approval)
    await ground.refused(DENIED, "api", "UPDATE approval SET may_decide = '{submitter}' WHERE id = $1", asked.approval)
    digest = hashlib.sha256(ground.secrets["anna"].encode())
    for secret in (None, "", str(ground.ids["anna"]), digest.hexdigest(), "\\x" + digest.hexdigest()):
        assert await ground.decide(asked, secret) == "unauthenticated"
    # the session settings that a transaction may set tell the wall nothing
    async with ground.within("api") as api:
        for setting in ("app.principal", "app.role", "app.secret"):
            await api.execute("SELECT set_config($1, $2, true)", setting, str(ground.ids["anna"]))
        row = await api.fetchrow(
            "SELECT * FROM decide($1, $2, NULL, 1, $3, 'approve', '')", ground.tenant, asked.approval, asked.sha256
        )
        assert row["outcome"] == "unauthenticated"
        with pytest.raises(Exception, match="permission denied"):
            await api.execute("SET ROLE mission_root_owner")
    await nothing_leaves(ground, scene)


async def test_nobody_mints_a_principal_a_key_a_session_a_grant_or_a_signing_key(ground: Ground) -> None:
    scene = await set_scene(ground)
    mine = hashlib.sha256(b"a secret of my own").digest()
    anna = ground.ids["anna"]
    for table, values in (
        ("tenant", {"id": uuid4(), "name": "mine"}),
        ("principal", {"tenant": ground.tenant, "id": uuid4(), "kind": "human", "name": "mallory"}),
        ("role_grant", {"tenant": ground.tenant, "principal": ground.ids["asker"], "role": "operator"}),
        ("api_key", {"tenant": ground.tenant, "principal": anna, "prefix": "mr_mallory", "secret_sha256": mine}),
        ("session", {"tenant": ground.tenant, "principal": anna, "secret_sha256": mine, "origin": "oidc"}),
        ("approver_key", {"tenant": ground.tenant, "principal": anna, "public_key": mine, "requested_by": anna}),
    ):  # fmt: skip
        await ground.refused(DENIED, "api", insert(table, values), *values.values())
        await ground.refused(
            DENIED, "api", f"UPDATE {table} SET tenant = tenant" if table != "tenant" else "UPDATE tenant SET id = id"
        )
        await ground.refused(DENIED, "api", f"SELECT * FROM {table}")
    assert await ground.decide(scene.asked, "a secret of my own") == "unauthenticated"
    await nothing_leaves(ground, scene)


async def test_nobody_chooses_a_quorum_a_life_or_a_softer_rule(ground: Ground) -> None:
    scene = await set_scene(ground)
    writeback, columns = await ground.propose(connector="two")
    ask = {
        "tenant": ground.tenant, "id": uuid4(), "mission": columns["mission"], "subject": "writeback", "writeback": writeback,
        "requested_by": columns["requested_by"], "payload_sha256": hashlib.sha256(columns["payload"]).digest(),
    }  # fmt: skip
    for wish in (
        {"required": 1}, {"rule_required": 1}, {"expires_at": None}, {"state": "approved"}, {"rule": uuid4()}, {"rule_version": 1},
        {"not_before": None}, {"may_decide": ["submitter"]}, {"signature_required": False}, {"deny_threshold": 5}, {"ladder": "[]"},
    ):  # fmt: skip
        await ground.refused(DENIED, "api", insert("approval", ask | wish), *(ask | wish).values())
    # what may be said besides can only tighten
    loose = ask | {"obligations": json.dumps({"approvals": 0, "expires_s": 1e9, "approver_role": "operator"})}
    await ground.run("api", insert("approval", loose), *loose.values())
    [row] = await ground.run(
        "admin", "SELECT required, expires_at - created_at AS life FROM approval WHERE id = $1", ask["id"]
    )
    assert (row["required"], row["life"].total_seconds()) == (2, 3600)
    await ground.refused(
        DENIED, "api", "UPDATE approval SET expires_at = 'infinity' WHERE id = $1", scene.asked.approval
    )
    await ground.refused(DENIED, "api", "UPDATE approval_rule SET required = 1")
    await ground.refused(DENIED, "api", "INSERT INTO approval_rule (tenant) VALUES ($1)", ground.tenant)
    soft = json.dumps({"subject": "writeback", "connector": "two", "operation": "*", "risk": "*", "required": 1})
    for secret in (None, "", "guess"):
        [row] = await ground.run(
            "api", "SELECT * FROM put_rule($1, $2, $3, NULL, $4)", ground.tenant, secret, uuid4(), soft
        )
        assert row["outcome"] == "unauthenticated"
    await nothing_leaves(ground, scene)


async def test_nobody_lowers_a_risk(ground: Ground) -> None:
    scene = await set_scene(ground)
    await ground.risk_floor("crm", "*", "high")
    asked = await ground.ask(risk="low", mission_risk="low")
    assert await ground.value("admin", "SELECT risk FROM writeback WHERE id = $1", asked.writeback) == "high"
    for statement in (
        "UPDATE writeback SET risk = 'low'", "UPDATE mission SET risk_level = 'low'", "DELETE FROM risk_floor",
        "UPDATE risk_floor SET risk = 'low'", "INSERT INTO risk_floor (tenant, risk) VALUES (gen_random_uuid(), 'low')",
    ):  # fmt: skip
        await ground.refused(DENIED, "api", statement)
    await ground.refused(DENIED, "api", "SELECT put_risk_floor($1, 'x', 'crm', '*', 'low')", ground.tenant)
    await nothing_leaves(ground, scene)


async def test_asking_again_shows_what_was_refused_and_what_is_dead_stays_dead(ground: Ground) -> None:
    scene = await set_scene(ground)
    again = await ground.ask(by="agent")
    newest = await ground.value(
        "admin", """SELECT w.id FROM writeback w JOIN approval a ON a.writeback = w.id WHERE w.tenant = $1 AND w.connector = 'crm'
                    AND a.state IN ('rejected', 'cancelled', 'expired') ORDER BY w.created_at DESC LIMIT 1""", ground.tenant,
    )  # fmt: skip
    assert await ground.value("admin", "SELECT predecessor FROM writeback WHERE id = $1", again.writeback) == newest
    hidden = {"tenant": ground.tenant, "id": uuid4(), "predecessor": None}
    await ground.refused(DENIED, "api", insert("writeback", hidden), *hidden.values())
    for dead in (scene.rejected, scene.expired, scene.cancelled):
        with pytest.raises(Exception, match="approval_per_writeback"):
            await ground.open(replace(dead, approval=uuid4()))
        await ground.refused(DENIED, "api", "UPDATE approval SET state = 'pending' WHERE id = $1", dead.approval)
        await ground.refused(DENIED, "api", "DELETE FROM approval WHERE id = $1", dead.approval)
        assert await ground.decide(dead, "ben") in ("not_pending", "expired")
    await nothing_leaves(ground, scene)


async def test_nobody_files_as_somebody_else_to_approve_it_themselves(ground: Ground) -> None:
    """An operator who found the URL: files under another name, or through a service, and wants to be the approver."""
    scene = await set_scene(ground)
    await know_the_rules(ground)
    for name in ("asker", "ben"):
        for said in ({"c_secret": str(ground.ids[name])}, {"c_secret": ground.secrets["anna"]}):
            [row] = await take_in(ground, asked(ground, name, **said))
            assert row["outcome"] in ("unauthenticated", "caller_changed")
        mission = await ground.mission("anna")
        _, columns = await ground.propose(mission=mission, by="anna")
        borrowed = columns | {
            "id": uuid4(),
            "proposal": await ground.proposal(mission),
            "requested_by": ground.ids[name],
        }
        await ground.refused(
            "writeback_tenant_mission_requested_by_fkey", "api", insert("writeback", borrowed), *borrowed.values()
        )
    own = await ground.ask(by="anna")
    assert await ground.decide(own, "anna") == "own_request"
    columns = {"tenant": ground.tenant, "id": uuid4(), "requested_by": ground.ids["asker"]}
    await ground.refused(DENIED, "api", insert("mission", columns), *columns.values())
    # a mission of somebody else can be carried further by the api, and its writeback counts as that requester's
    theirs = await ground.ask(by="anna", mission=await ground.mission("anna"))
    assert await ground.decide(theirs, "anna") == "own_request"
    await nothing_leaves(ground, scene)


async def test_nobody_adds_what_follows_a_decision_without_one(ground: Ground) -> None:
    scene = await set_scene(ground)
    asked = scene.asked
    for statement in (
        "INSERT INTO execution (tenant, writeback, approval, payload_sha256) SELECT tenant, writeback, id, payload_sha256 FROM approval",
        "UPDATE execution SET state = 'succeeded'", "UPDATE execution SET lease_until = 'infinity'", "DELETE FROM execution",
        "INSERT INTO connector_switch (tenant, connector) VALUES (gen_random_uuid(), 'crm')",
        "UPDATE connector_switch SET halted_at = NULL",
        "UPDATE work SET queue = 'executor', kind = 'execute'",
    ):  # fmt: skip
        said = await attempt(ground, "api", statement)
        assert said == DENIED or said == "UPDATE 0", f"{statement}: {said}"
    add = "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'execute', $2, 'executor')"
    await ground.refused(DENIED, "api", add, ground.tenant, asked.writeback)
    for call in ("claim($1, $2, interval '1 s')", "settle($1, $2, 1, 'succeeded', NULL, NULL)",
                 "want_work($1, 'execute', $2, 'executor', now())",
                 "tell_mission($1, $2)", "take_executor_work(1, interval '1 s', '{}')"):  # fmt: skip
        args = (ground.tenant, asked.writeback) if "$1" in call else ()
        await ground.refused(DENIED, "api", f"SELECT {call}", *args)
    await nothing_leaves(ground, scene)


async def test_nobody_forges_a_fact_of_the_wall_or_of_another_process(ground: Ground) -> None:
    scene = await set_scene(ground)
    write = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $2, $3, $4, '{}')"
    anna = f"principal:{ground.ids['anna']}"
    for type, actor in itertools.product(
        ("approval.decided", "approval.closed", "approval.glass_broken", "writeback.claimed", "writeback.settled", "role.granted",
         "key.issued", "principal.created", "rule.changed", "policy.changed", "connector.changed", "approver_key.confirmed",
         "risk.floor_changed", "ledger.anchored", "tool_layer.changed", "tool_layer.drifted"),
        (anna, "system:worker", "system:executor", "system:registrar"),
    ):  # fmt: skip
        await ground.refused("RX003", "api", write, ground.tenant, scene.asked.mission, type, actor)
    for actor in ("system:worker", "system:executor", "system:registrar"):
        await ground.refused("RX003", "api", write, ground.tenant, scene.asked.mission, "mission.running", actor)
    for statement in ("UPDATE ledger SET actor = actor", "DELETE FROM ledger", "TRUNCATE ledger"):
        await ground.refused(DENIED, "api", statement)


async def test_whoever_ever_decided_can_be_demoted_suspended_and_locked_out(ground: Ground) -> None:
    asked = await ground.approved("slow")
    cora = ground.ids["cora"]
    await ground.revoke("cora")
    await ground.run("registrar", "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1", cora)
    await ground.run("registrar", "UPDATE principal SET suspended_at = clock_timestamp() WHERE id = $1", cora)
    assert await ground.state(asked) == "approved"  # what was decided stands, and can be cancelled by another
    assert await ground.decide(await ground.ask(), "cora") == "unauthenticated"
    assert await ground.close(asked, who="anna") == "cancelled"


async def test_another_payload_under_the_same_approval_is_not_to_be_had(ground: Ground) -> None:
    scene = await set_scene(ground)
    await ground.refused(
        DENIED,
        "api",
        "UPDATE writeback SET payload = $2 WHERE id = $1",
        scene.asked.writeback,
        payload(changes={"a": 1}),
    )
    await ground.refused(
        DENIED, "api", "UPDATE approval SET payload_sha256 = sha256('x') WHERE id = $1", scene.asked.approval
    )
    assert (
        await ground.decide(scene.asked, "anna", sha256=hashlib.sha256(payload(changes={"a": 1})).digest())
        == "other_payload"
    )
    await nothing_leaves(ground, scene)
