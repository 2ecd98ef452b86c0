"""Invariants 1, 2, 3, 11 and 13: the approval is of the real bytes, for the real requester, under the system's rule."""

import hashlib
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.walls.ground import DENIED, Ground, insert, payload

NOT_ALWAYS = "428C9"  # a generated column takes no value


async def test_the_hash_is_computed_from_the_payload(ground: Ground) -> None:
    writeback, columns = await ground.propose()
    [row] = await ground.run("api", "SELECT * FROM writeback WHERE id = $1", writeback)
    assert row["payload_sha256"] == hashlib.sha256(columns["payload"]).digest()
    assert (row["connector"], row["operation"], row["target"]) == ("crm", "update", "lead/L-1")
    wrong = columns | {
        "id": uuid4(),
        "payload_sha256": bytes(32),
        "proposal": await ground.proposal(columns["mission"]),
    }
    await ground.refused(NOT_ALWAYS, "admin", insert("writeback", wrong), *wrong.values())


async def test_connector_operation_and_target_are_read_from_the_payload_only(ground: Ground) -> None:
    _, columns = await ground.propose()
    for column in ("connector", "operation", "target", "predecessor", "created_at"):
        wrong = {"tenant": ground.tenant, column: None}
        await ground.refused(DENIED, "api", insert("writeback", wrong), *wrong.values())
        await ground.refused(DENIED, "worker", insert("writeback", wrong), *wrong.values())
    wrong = columns | {"id": uuid4(), "proposal": await ground.proposal(columns["mission"]), "connector": "harmless"}
    await ground.run("admin", insert("writeback", wrong), *wrong.values())
    assert await ground.value("admin", "SELECT connector FROM writeback WHERE id = $1", wrong["id"]) == "crm"


async def test_a_payload_says_everything_that_is_approved_and_each_thing_once(ground: Ground) -> None:
    whole = payload()
    for broken in (
        whole.replace(b'"connector"', b'"c"'), whole.replace(b'"operation"', b'"o"'), whole.replace(b'"target"', b'"t"'),
        whole.replace(b'"kind"', b'"k"'), whole.replace(b'"id"', b'"i"'), whole.replace(b'"changes"', b'"d"'),
        whole.replace(b'"expected_version"', b'"v"'), payload(changes=["priority"]), payload(changes=None),
        whole.replace(b'"operation"', b'"operation":"delete","operation"'),
        whole.replace(b'"priority"', b'"priority":"low","priority"'), b"[]", b'"update"',
    ):  # fmt: skip
        assert broken != whole
        with pytest.raises(Exception, match="wall: the payload"):
            await ground.propose(payload=broken)


async def test_an_approval_is_for_that_payload_that_requester_and_that_mission(ground: Ground) -> None:
    asked = await ground.ask()
    other = await ground.ask(by="agent")
    for wrong in (
        {"payload_sha256": other.sha256[:-1] + b"?"}, {"requested_by": other.requested_by}, {"mission": other.mission},
        {"mission": other.mission, "requested_by": other.requested_by}, {"writeback": uuid4()}, {"writeback": None},
        {"subject": "mission"}, {"question_sha256": asked.sha256},
    ):  # fmt: skip
        writeback, columns = await ground.propose(mission=asked.mission)
        fresh = replace(
            asked, writeback=writeback, approval=uuid4(), sha256=hashlib.sha256(columns["payload"]).digest()
        )
        with pytest.raises(Exception, match=r"foreign key|check constraint|no approval rule"):
            await ground.open(fresh, **wrong)
        await ground.open(fresh)


async def test_a_writeback_is_requested_by_its_missions_requester(ground: Ground) -> None:
    mission = await ground.mission("asker")
    _, columns = await ground.propose(mission=mission)
    for wrong in ({"requested_by": ground.ids["agent"]}, {"mission": await ground.mission("agent")}):
        values = columns | {"id": uuid4(), "proposal": await ground.proposal(wrong.get("mission", mission))} | wrong
        await ground.refused(
            "writeback_tenant_mission_requested_by_fkey", "api", insert("writeback", values), *values.values()
        )


async def test_what_is_read_beside_the_payload_is_the_missions_own_proposal(ground: Ground) -> None:
    mission = await ground.mission()
    for proposal in (
        await ground.proposal(await ground.mission()), await ground.proposal(mission, "research_artifact"), uuid4(),
    ):  # fmt: skip
        with pytest.raises(Exception, match="the proposal is not one of this mission"):
            await ground.propose(mission=mission, proposal=proposal)


async def test_a_proposal_becomes_one_writeback(ground: Ground) -> None:
    _, columns = await ground.propose()
    again = columns | {"id": uuid4()}
    await ground.refused("writeback_tenant_proposal_revision_key", "api", insert("writeback", again), *again.values())


async def test_a_decision_binds_what_was_seen(ground: Ground) -> None:
    asked, other = await ground.ask(), await ground.ask(payload=payload(changes={"priority": "low"}))
    for seen in (other.sha256, bytes(32), b"", None):
        assert await ground.decide(asked, "anna", sha256=seen) == "other_payload"
    for version in (0, 2, None):
        assert await ground.decide(asked, "anna", version=version) == "stale"
    assert await ground.run("admin", "SELECT 1 FROM decision WHERE approval = $1", asked.approval) == []
    assert await ground.decide(asked, "anna") == "approved"


async def test_an_approval_is_born_pending_under_the_rule_the_system_chose(ground: Ground) -> None:
    asked = await ground.ask("two")
    chosen = {
        "rule": uuid4(), "rule_version": 9, "required": 1, "deny_threshold": 5, "state": "approved", "version": 7,
        "created_at": None, "expires_at": None, "not_before": None, "closed_at": None,
    }  # fmt: skip
    for column, wish in chosen.items():
        values = {"tenant": ground.tenant, column: wish}
        await ground.refused(DENIED, "api", insert("approval", values), *values.values())
        await ground.refused(DENIED, "worker", insert("approval", values), *values.values())
    # and whoever could name them would not be heard
    writeback, columns = await ground.propose(connector="two")
    await ground.run(
        "admin",
        """INSERT INTO approval (tenant, id, mission, subject, writeback, requested_by, payload_sha256, rule, rule_version, required,
             deny_threshold, state, version, created_at, expires_at, not_before, closed_at, glass_broken_by, glass_broken_at,
             was_rule, was_rule_version, note, stopped, withdrawn_by, climbed, handed)
           SELECT tenant, $2, $3, subject, $4, requested_by, $5, $2, 9, 1, 5, 'approved', 7, 'epoch', 'infinity', 'epoch', 'epoch',
             requested_by, 'epoch', rule, rule_version, 'agreed', 'connector_retired', requested_by,
             '{epoch}', '[{"to": "admin"}]'
           FROM approval WHERE id = $1""",
        asked.approval, writeback, columns["mission"], writeback, hashlib.sha256(columns["payload"]).digest(),
    )  # fmt: skip
    [row] = await ground.run(
        "admin",
        "SELECT *, expires_at - created_at AS life, now() - created_at AS age FROM approval WHERE id = $1",
        writeback,
    )
    assert (row["state"], row["version"], row["not_before"], row["closed_at"]) == ("pending", 1, None, None)
    assert (row["required"], row["deny_threshold"], row["life"].total_seconds()) == (2, 1, 3600)
    none = ("glass_broken_by", "glass_broken_at", "was_rule", "was_rule_version", "note", "stopped", "withdrawn_by")
    assert {row[name] for name in none} == {None}
    assert (row["climbed"], row["handed"]) == ([], "[]")
    assert abs(row["age"].total_seconds()) < 60


async def test_a_replay_from_a_tape_writes_nothing(ground: Ground) -> None:
    past = await ground.mission()
    for mode in ("recorded", "recorded_with_colony"):
        with pytest.raises(asyncpg.PostgresError, match="a replay from a tape writes nothing"):
            await ground.ask(mission=await ground.mission(replay_of=past, replay_mode=mode))
    again = await ground.ask(mission=await ground.mission(replay_of=past, replay_mode="rerun"))
    assert await ground.state(again) == "awaiting_approval"


async def test_the_rule_that_fits_best_is_taken_in_its_newest_version(ground: Ground) -> None:
    async def rule(
        connector: str, operation: str, risk: str, required: int, id: object = None, version: int = 1
    ) -> object:
        id = id or uuid4()
        await ground.run(
            "owner",
            """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window)
               VALUES ($1, $2, $3, 'writeback', $4, $5, $6, $7, '1 hour', '0')""",
            ground.tenant, id, version, connector, operation, risk, required,
        )  # fmt: skip
        return id

    async def chosen(risk: str = "low") -> int:
        found = "SELECT (choose_rule($1, 'writeback', 'fit', 'update', $2)).required"
        return await ground.value("api", found, ground.tenant, risk)

    assert await chosen("low") == 1 and await chosen("high") == 2
    await rule("*", "update", "*", 3)
    assert await chosen("high") == 3
    first = await rule("fit", "*", "*", 4)
    assert await chosen() == 4
    await rule("fit", "update", "*", 2)
    assert await chosen() == 2
    risky = await rule("fit", "update", "low", 5)
    assert await chosen() == 5 and await chosen("medium") == 2
    await rule("fit", "update", "low", 3, risky, 2)
    assert await chosen() == 3
    await rule("fit", "update", "low", 1)  # a softer rule for the same thing does not win
    assert await chosen() == 3
    await rule("other", "update", "*", 1, first, 2)
    assert await chosen("medium") == 2
    await ground.refused("RX006", "api", """INSERT INTO approval (tenant, id, mission, subject, requested_by, payload_sha256)
                         SELECT tenant, gen_random_uuid(), id, 'writeback', requested_by, contract_hash FROM mission WHERE id = $1""",
                         await ground.mission())  # fmt: skip


async def test_a_writeback_is_never_of_less_risk_than_its_mission(ground: Ground) -> None:
    for said, mission, kept in (
        ("low", "high", "high"),
        ("low", "medium", "medium"),
        ("medium", "low", "medium"),
        ("high", "low", "high"),
    ):
        writeback, _ = await ground.propose(risk=said, mission_risk=mission)
        assert await ground.value("admin", "SELECT risk FROM writeback WHERE id = $1", writeback) == kept
    asked = await ground.ask("anything", mission_risk="high")
    assert await ground.decide(asked, "anna") == "recorded"
    await ground.refused("RX001", "admin", "UPDATE mission SET risk_level = 'low' WHERE id = $1", asked.mission)
    await ground.refused(DENIED, "api", "UPDATE mission SET risk_level = 'low' WHERE id = $1", asked.mission)


async def test_one_approval_per_writeback_for_ever(ground: Ground) -> None:
    asked = await ground.ask()
    for outcome in ("pending", "rejected"):
        with pytest.raises(Exception, match="approval_per_writeback"):
            await ground.open(replace(asked, approval=uuid4()))
        if outcome == "pending":
            assert await ground.decide(asked, "anna", "reject") == "rejected"
    assert await ground.state(asked) == "rejected"
    assert (await ground.claim(asked))["why"] == "rejected"


async def test_asking_again_names_the_dead_predecessor(ground: Ground) -> None:
    async def predecessor(**more: Any) -> Any:
        writeback, _ = await ground.propose(**more)
        return await ground.value("admin", "SELECT predecessor FROM writeback WHERE id = $1", writeback)

    asked = await ground.ask()
    assert await predecessor() is None  # the first one lives
    assert await ground.decide(asked, "anna", "reject") == "rejected"
    assert await predecessor(by="agent") == asked.writeback  # whoever asks
    assert await predecessor(payload=payload(changes={"priority": "none"})) == asked.writeback
    assert await predecessor(payload=payload(operation="delete")) is None
    assert await predecessor(connector="two") is None
    second = await ground.ask()
    await ground.close(second)
    assert await predecessor() == second.writeback
    third = await ground.approved()
    assert await predecessor() == second.writeback
    await ground.close(third)
    assert await predecessor() == third.writeback
    for ending in (
        "stale",
        "failed",
    ):  # of what has failed nobody knows that it is not there: whoever approves the next is told
        ended = await ground.approved()
        fence = (await ground.claim(ended))["fence"]
        assert await predecessor() != ended.writeback
        assert await ground.settle(ended, fence, ending)
        assert await predecessor() == ended.writeback


async def test_a_question_about_a_mission_is_asked_once_and_about_its_own_artifact(ground: Ground) -> None:
    mission = await ground.mission()
    question = await ground.proposal(mission, "policy_decision")
    digest = await ground.value("admin", "SELECT sha256 FROM artifact WHERE id = $1", question)
    values = {
        "tenant": ground.tenant, "id": uuid4(), "mission": mission, "subject": "mission", "requested_by": ground.ids["asker"],
        "question_sha256": digest, "payload_sha256": digest,
    }  # fmt: skip
    wrong = values | {"question_sha256": bytes(32), "payload_sha256": bytes(32)}
    await ground.refused(
        "approval_tenant_mission_question_sha256_fkey", "api", insert("approval", wrong), *wrong.values()
    )
    wrong = values | {"payload_sha256": bytes(32)}
    await ground.refused("approval_check2", "api", insert("approval", wrong), *wrong.values())
    await ground.run("api", insert("approval", values), *values.values())
    again = values | {"id": uuid4()}
    await ground.refused("approval_per_question", "api", insert("approval", again), *again.values())
