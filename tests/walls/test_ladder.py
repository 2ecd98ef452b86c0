"""Time passing over an approval: each step once and in its time, whoever climbs and however often; the end fails closed."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg

from tests.walls.ground import Asked, Ground, insert
from tests.walls.test_tenants import neighbour_of

CLIMB = "SELECT climb($1, $2)"


async def laddered(ground: Ground, connector: str = "climbing", **rule: Any) -> None:
    """A rule with a reminder after ten minutes, the admins after twenty, the product owners after thirty."""
    said = {
        "may_escalate_to": ["admin", "product_owner"],
        "hops": [
            {"after_s": 600, "kind": "remind"},
            {"after_s": 1200, "kind": "escalate", "role": "admin"},
            {"after_s": 1800, "kind": "escalate", "role": "product_owner"},
        ],
    }
    await ground.rule(connector, **(said | rule))


async def later(ground: Ground, asked: Asked, minutes: float) -> None:
    """So many minutes pass for one approval: what it waits for lies nearer."""
    admin = await ground.of("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
        await admin.execute(
            """UPDATE approval SET created_at = created_at - $2::interval, expires_at = expires_at - $2::interval,
                 ladder = (SELECT COALESCE(jsonb_agg(jsonb_set(hop, '{at}', to_jsonb((hop ->> 'at')::timestamptz - $2::interval))
                             ORDER BY n), '[]')
                           FROM jsonb_array_elements(ladder) WITH ORDINALITY l (hop, n))
               WHERE id = $1""",
            asked.approval, timedelta(minutes=minutes),
        )  # fmt: skip
        await admin.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")


async def climb(ground: Ground, asked: Asked) -> Any:
    return await ground.value("worker", CLIMB, ground.tenant, asked.approval)


async def facts(ground: Ground, asked: Asked, *types: str) -> list[tuple[str, dict[str, Any]]]:
    rows = await ground.run(
        "admin",
        "SELECT type, convert_from(body, 'UTF8') AS body FROM ledger WHERE subject = $1 AND type = ANY ($2) ORDER BY seq",
        asked.mission, list(types or ("approval.reminded", "approval.escalated", "approval.closed")),
    )  # fmt: skip
    return [(row["type"], json.loads(row["body"])) for row in rows]


async def told(ground: Ground, asked: Asked) -> set[tuple[str, int, str]]:
    names = {id: name for name, id in ground.ids.items()}
    rows = await ground.run("admin", "SELECT kind, step, principal FROM notice WHERE approval = $1", asked.approval)
    assert len(rows) == len({tuple(row) for row in rows})
    return {(row["kind"], row["step"], names[row["principal"]]) for row in rows}


async def approval(ground: Ground, asked: Asked) -> asyncpg.Record:
    [row] = await ground.run("admin", "SELECT * FROM approval WHERE id = $1", asked.approval)
    return row


async def test_a_ladder_is_climbed_step_by_step_each_once(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing", by="agent")
    before = await approval(ground, asked)
    assert await climb(ground, asked) == before["created_at"] + timedelta(minutes=10)
    assert await facts(ground, asked) == [] and await told(ground, asked) == set()
    await later(ground, asked, 10)
    assert await climb(ground, asked) == before["created_at"] + timedelta(minutes=10)  # twenty less the ten that passed
    await climb(ground, asked)
    [(type, body)] = await facts(ground, asked)
    assert (type, body["approval"], body["hop"]) == ("approval.reminded", str(asked.approval), 1) and "role" not in body
    # anna owns the agent that asked, so that she cannot decide; machines are not told
    operators = {"ben", "cora", "gus", "paul"}
    assert await told(ground, asked) == {("reminder", 1, name) for name in operators}
    assert await ground.decide(asked, "adam") == "not_entitled"
    await later(ground, asked, 10)
    await climb(ground, asked)
    await climb(ground, asked)
    assert [(type, body["hop"], body.get("role")) for type, body in await facts(ground, asked)] == [
        ("approval.reminded", 1, None), ("approval.escalated", 2, "admin"),
    ]  # fmt: skip
    assert await told(ground, asked) == {("reminder", 1, name) for name in operators} | {("escalation", 2, "adam")}
    row = await approval(ground, asked)
    assert (row["may_decide"], len(row["climbed"]), row["version"]) == (["operator", "admin"], 2, 1)
    assert await ground.decide(asked, "adam", version=1) == "approved"


async def test_steps_that_were_missed_are_done_at_once_and_in_order(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 40)
    row = await approval(ground, asked)
    assert await climb(ground, asked) == row["expires_at"]
    assert [(body["hop"], body.get("role")) for _, body in await facts(ground, asked)] == [
        (1, None), (2, "admin"), (3, "product_owner"),
    ]  # fmt: skip
    assert (await approval(ground, asked))["may_decide"] == ["operator", "admin", "product_owner"]


async def test_the_last_step_is_expiry_and_fails_closed(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 60)
    assert await climb(ground, asked) is None
    assert [(type, body["state"]) for type, body in await facts(ground, asked)] == [("approval.closed", "expired")]
    assert (await approval(ground, asked))["state"] == "expired" and await told(ground, asked) == set()
    assert await climb(ground, asked) is None
    assert len(await facts(ground, asked)) == 1
    assert await ground.decide(asked, "anna") == "not_pending"


async def test_two_climbers_at_once_do_each_step_once(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 25)
    first: Any = ("worker", CLIMB, (ground.tenant, asked.approval))
    await ground.overtaken(first, climb(ground, asked))
    assert [body["hop"] for _, body in await facts(ground, asked)] == [1, 2]
    assert len((await approval(ground, asked))["climbed"]) == 2


async def test_a_climber_that_dies_between_steps_leaves_nothing_half_done(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 12)
    for _ in range(2):
        dying = await ground.connect("worker")
        transaction = dying.transaction()
        await transaction.start()
        await dying.execute("SELECT set_config('app.tenant', $1, true)", str(ground.tenant))
        await dying.fetchval(CLIMB, ground.tenant, asked.approval)
        dying.terminate()  # killed before it could commit
    await climb(ground, asked)
    await later(ground, asked, 10)
    await climb(ground, asked)
    assert [body["hop"] for _, body in await facts(ground, asked)] == [1, 2]


async def test_the_guard_lets_nobody_climb_early_twice_or_backwards(ground: Ground) -> None:
    await laddered(ground)
    asked, other = await ground.ask("climbing"), await ground.ask("crm")
    early = "UPDATE approval SET climbed = climbed || now() WHERE id = $1"
    await ground.refused("RX004", "owner", early, asked.approval)
    await later(ground, asked, 12)
    await ground.refused("RX004", "owner", early.replace("now()", "ARRAY[now(), now()]"), asked.approval)
    await ground.run("owner", early.replace("now()", "'epoch'::timestamptz"), asked.approval)
    [(done,)] = await ground.run(
        "admin", "SELECT climbed[1] > now() - interval '1 minute' FROM approval WHERE id = $1", asked.approval
    )
    assert done is True  # dated by the wall
    await ground.refused("RX004", "owner", "UPDATE approval SET climbed = '{}' WHERE id = $1", asked.approval)
    await ground.refused("RX004", "owner", early, asked.approval)
    await ground.refused("RX004", "owner", early, other.approval)  # the rule has no ladder at all
    for column, value in (("may_decide", "ARRAY['operator', 'admin']"), ("ladder", "'[]'"), ("must_hold", "'admin'"),
                          ("obligations", "'{\"approvals\": 1}'"), ("expires_at", "now() + interval '30 days'")):  # fmt: skip
        await ground.refused("RX001", "owner", f"UPDATE approval SET {column} = {value} WHERE id = $1", asked.approval)
    await later(ground, asked, 20)
    both = "UPDATE approval SET state = 'cancelled', climbed = climbed || now() WHERE id = $1"
    await ground.refused("RX004", "owner", both, asked.approval)
    assert await ground.close(asked) == "cancelled"
    await ground.refused("RX004", "owner", early, asked.approval)


async def test_votes_of_the_first_group_count_after_an_escalation_while_their_rights_last(ground: Ground) -> None:
    await laddered(ground, required=2)
    for demoted in (False, True):
        asked = await ground.ask("climbing")
        assert await ground.decide(asked, "anna") == "recorded"
        await later(ground, asked, 25)
        await climb(ground, asked)
        if demoted:
            await ground.revoke("anna")
        assert await ground.decide(asked, "adam") == ("recorded" if demoted else "approved")
    assert await ground.decide(asked, "ben") == "approved"


async def test_an_approved_writeback_nobody_carries_out_still_expires(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    assert await ground.decide(asked, "anna") == "approved"
    await later(ground, asked, 25)
    row = await approval(ground, asked)
    assert await climb(ground, asked) == row["expires_at"]
    assert await facts(ground, asked) == []  # nobody is reminded of what is decided
    await later(ground, asked, 60)
    assert await climb(ground, asked) is None
    assert (await approval(ground, asked))["state"] == "expired"
    claimed = await ground.approved()
    assert (await ground.claim(claimed))["outcome"] == "apply"
    assert await climb(ground, claimed) is None


async def test_a_lost_timer_is_put_back(ground: Ground) -> None:
    await laddered(ground)
    pending, approved, claimed = await ground.ask("climbing"), await ground.approved(), await ground.approved()
    rejected = await ground.ask()
    await ground.decide(rejected, "anna", "reject")
    await ground.claim(claimed)
    await ground.run("admin", "DELETE FROM work WHERE tenant = $1 AND kind = 'approval_timer'", ground.tenant)
    assert await ground.value("worker", "SELECT restore_approval_timers()") >= 2
    rows = await ground.run(
        "admin", "SELECT subject FROM work WHERE tenant = $1 AND kind = 'approval_timer'", ground.tenant
    )
    assert {row["subject"] for row in rows} == {pending.approval, approved.approval}
    async with neighbour_of(ground) as neighbour:  # it serves every tenant, and leaves the caller in its own
        for tenant in (ground.tenant, neighbour.tenant):
            call = "SELECT restore_approval_timers(), current_setting('app.tenant') AS tenant"
            assert (await ground.run("worker", call, tenant=tenant))[0]["tenant"] == str(tenant)
        theirs = await neighbour.ask()
        await ground.run("admin", "DELETE FROM work WHERE kind = 'approval_timer'")
        await ground.value("worker", "SELECT restore_approval_timers()", tenant=neighbour.tenant)
        rows = await ground.run("admin", "SELECT subject FROM work WHERE kind = 'approval_timer'")
        assert {pending.approval, approved.approval, theirs.approval} <= {row["subject"] for row in rows}
    await later(ground, pending, 12)
    await climb(ground, pending)
    assert [body["hop"] for _, body in await facts(ground, pending)] == [1]


async def test_what_policy_obliges_to_only_tightens(ground: Ground) -> None:
    await laddered(ground)

    async def opened(**obligations: Any) -> asyncpg.Record:
        writeback, columns = await ground.propose(connector="climbing")
        digest = await ground.value("admin", "SELECT payload_sha256 FROM writeback WHERE id = $1", writeback)
        asked = Asked(columns["mission"], writeback, writeback, columns["payload"], digest, ground.ids["asker"])
        await ground.open(asked, obligations=json.dumps(obligations))
        return await approval(ground, asked)

    plain = await opened()
    assert (plain["required"], plain["must_hold"], plain["may_decide"]) == (1, None, ["operator"])
    assert plain["expires_at"] - plain["created_at"] == timedelta(hours=1)
    tight = await opened(approvals=3, approver_role="product_owner", expires_s=1800, escalate_to="product_owner")
    assert (tight["rule_required"], tight["required"], tight["must_hold"]) == (1, 3, "product_owner")
    assert tight["expires_at"] - tight["created_at"] == timedelta(minutes=30)
    steps = json.loads(tight["ladder"])
    assert [(step["kind"], step.get("role")) for step in steps] == [
        ("remind", None), ("escalate", "product_owner"), ("escalate", "product_owner"),
    ]  # fmt: skip
    due = [
        (await ground.value("admin", "SELECT ($1::text)::timestamptz", step["at"])) - tight["created_at"]
        for step in steps
    ]
    assert due == [timedelta(minutes=5), timedelta(minutes=10), timedelta(minutes=15)]
    loose = await opened(approvals=1, approver_role="operator", expires_s=7200, escalate_to="operator")
    assert (loose["required"], loose["must_hold"]) == (1, None)
    assert loose["expires_at"] - loose["created_at"] == timedelta(hours=1)
    assert [step.get("role") for step in json.loads(loose["ladder"])] == [None, "admin", "product_owner"]
    await ground.rule("flat", may_escalate_to=["admin"])
    writeback, columns = await ground.propose(connector="flat")
    digest = await ground.value("admin", "SELECT payload_sha256 FROM writeback WHERE id = $1", writeback)
    flat = Asked(columns["mission"], writeback, writeback, columns["payload"], digest, ground.ids["asker"])
    await ground.open(flat, obligations='{"escalate_to": "admin"}')
    [step] = json.loads((await approval(ground, flat))["ladder"])
    assert (step["kind"], step["role"]) == ("escalate", "admin")
    writeback, columns = await ground.propose(connector="climbing")
    columns = {
        "tenant": ground.tenant, "id": writeback, "mission": columns["mission"], "subject": "writeback", "writeback": writeback,
        "requested_by": ground.ids["asker"], "payload_sha256": digest,
    }  # fmt: skip
    for bad in ({"expires_s": 0}, {"expires_s": -5}):
        values = columns | {"obligations": json.dumps(bad)}
        await ground.refused("RX006", "api", insert("approval", values), *values.values())
    values = columns | {"obligations": '{"approvals": 99}'}
    await ground.refused("approval_required_check", "api", insert("approval", values), *values.values())


async def test_a_role_that_policy_wants_is_needed_besides(ground: Ground) -> None:
    await laddered(ground)
    writeback, columns = await ground.propose(connector="climbing")
    digest = await ground.value("admin", "SELECT payload_sha256 FROM writeback WHERE id = $1", writeback)
    asked = Asked(columns["mission"], writeback, writeback, columns["payload"], digest, ground.ids["asker"])
    await ground.open(asked, obligations='{"approver_role": "product_owner", "approvals": 2}')
    assert await ground.decide(asked, "anna") == "not_entitled"
    direct = """INSERT INTO decision (tenant, approval, approver, requested_by, payload_sha256, verdict)
                SELECT tenant, id, $2, requested_by, payload_sha256, 'approve' FROM approval WHERE id = $1"""
    await ground.refused("RX009", "owner", direct, asked.approval, ground.ids["anna"])
    assert await ground.decide(asked, "paul") == "recorded"
    await ground.run("registrar", "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'product_owner')",
                     ground.tenant, ground.ids["anna"])  # fmt: skip
    await later(ground, asked, 12)
    await climb(ground, asked)
    assert await told(ground, asked) == {("reminder", 1, "anna")}  # paul has decided, nobody else holds both
    await ground.revoke("paul", "product_owner")
    assert await ground.decide(asked, "anna") == "recorded"  # paul's vote is gone with the role it took


async def test_a_climb_and_a_decision_wait_for_each_other(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 12)
    decided = "SELECT outcome FROM decide($1, $2, $3, 1, $4, 'approve', '')"
    first: Any = ("api", decided, (ground.tenant, asked.approval, ground.secrets["anna"], asked.sha256))
    await ground.overtaken(first, climb(ground, asked))
    assert await facts(ground, asked) == []
    asked = await ground.ask("climbing")
    await later(ground, asked, 12)
    first = ("worker", CLIMB, (ground.tenant, asked.approval))
    assert await ground.overtaken(first, ground.decide(asked, "anna", version=1)) == "approved"
    assert [body["hop"] for _, body in await facts(ground, asked)] == [1]


async def test_a_climb_waits_for_its_mission(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 60)
    first: Any = ("api", "UPDATE mission SET stage = 'late' WHERE id = $1", (asked.mission,))
    assert await ground.overtaken(first, climb(ground, asked)) is None
    assert await asyncio.wait_for(ground.state(asked), 5) == "expired"


async def test_only_ones_own_notices_are_seen_and_once(ground: Ground) -> None:
    await laddered(ground)
    asked = await ground.ask("climbing")
    await later(ground, asked, 12)
    await climb(ground, asked)
    notice = await ground.value(
        "admin", "SELECT id FROM notice WHERE approval = $1 AND principal = $2", asked.approval, ground.ids["anna"]
    )

    async def see(who: str) -> str:
        outcome: str = await ground.value(
            "api", "SELECT outcome FROM see_notice($1, $2, $3)", ground.tenant, notice, ground.secrets.get(who, who)
        )
        return outcome

    assert await see("ben") == "not_found" and await see("nobody") == "unauthenticated"
    statement = "SELECT outcome FROM see_notice($1, $2, $3)"
    first = ("api", statement, (ground.tenant, notice, ground.secrets["anna"]))
    assert await ground.overtaken(first, see("anna")) == "already_seen"
    bens = await ground.value(
        "admin", "SELECT id FROM notice WHERE approval = $1 AND principal = $2", asked.approval, ground.ids["ben"]
    )
    assert await ground.value("api", statement, ground.tenant, bens, ground.secrets["ben"]) == "seen"
    assert [type for type, _ in await facts(ground, asked, "notice.seen")] == ["notice.seen"] * 2
    for change in ("seen_at = NULL", "seen_at = now()", "principal = gen_random_uuid()", "kind = 'escalation'", "at = 'epoch'",
                   "approval = gen_random_uuid()", "step = 9", "id = gen_random_uuid()", "tenant = gen_random_uuid()"):  # fmt: skip
        await ground.refused("RX001", "owner", f"UPDATE notice SET {change} WHERE id = $1", notice)
    other = await ground.value(
        "admin", "SELECT id FROM notice WHERE approval = $1 AND seen_at IS NULL LIMIT 1", asked.approval
    )
    for column in ("principal = gen_random_uuid()", "kind = 'escalation'"):
        await ground.refused("RX001", "owner", f"UPDATE notice SET seen_at = now(), {column} WHERE id = $1", other)
    await ground.run("owner", "UPDATE notice SET seen_at = 'epoch' WHERE id = $1", other)
    assert (
        await ground.value("admin", "SELECT seen_at > now() - interval '1 minute' FROM notice WHERE id = $1", other)
        is True
    )
