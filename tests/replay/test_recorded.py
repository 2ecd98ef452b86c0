"""A recorded mission is played again without its colony: the same, apart from ids and times, or it says where it is not."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from asyncpg import UndefinedColumnError
from sqlalchemy.exc import ProgrammingError

from app.errors import Problem
from app.replay.play import Player
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life, approve_all, under_way

HTML = {"Accept": "text/html,*/*;q=0.8"}
FORBID = (
    '@id("{name}.here") @reason("As the test wants it.") '
    'forbid(principal, action == Action::"{action}", resource {resource});'
)


async def replay(life: Life | str, world: World, mode: str = "recorded", **more: Any) -> Life:
    """The replay, played as far as the worker can."""
    id = life if isinstance(life, str) else life.id
    answer = await world.submitter.post(f"/v1/missions/{id}/replay", json={"mode": mode, **more})
    assert answer.status_code == 202, answer.text
    again = Life(world, UUID(answer.json()["id"]))
    await world.run_work("replay", "review", "progress")
    return again


async def diff(again: Life, **query: Any) -> dict[str, Any]:
    answer = await again.world.auditor.get(f"/v1/missions/{again.id}/diff", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def forbid(world: World, name: str, action: str, resource: str) -> None:
    text = FORBID.format(name=name, action=action, resource=resource)
    answer = await world.policy_owner.put(f"/v1/policies/{name}", json={"text": text})
    assert answer.status_code in (200, 201), answer.text


async def rich(world: World, proposals: int = 1, **ask: Any) -> Life:
    """A mission that did a bit of everything."""
    life = await under_way(world, **ask)
    await life.say(
        {"type": "stage.started", "stage": "planner"},
        {"type": "stage.completed", "stage": "planner", "latency_ms": 12.5},
        {"type": "usage.reported", "tokens_in": 10, "tokens_out": 5, "cost_usd": 0.25},
        {"type": "provider.failed", "provider": "x", "code": "busy", "detail": "no", "retryable": True},
        {"type": "checkpoint.saved", "checkpoint_id": "c", "size_bytes": 3, "sha256": "0" * 64},
        {"type": "log", "level": "info", "message": "hello"},
    )
    for wanted in ("0" * 64, "1" * 64):  # the tool itself says no
        with pytest.raises(Exception):  # noqa: B017
            await world.colony.tool(life.dispatch, "workspace.read", source=wanted)
    with pytest.raises(Exception):  # noqa: B017  # policy says no
        await world.colony.tool(life.dispatch, "workspace.outline", workspace="somebody_elses")
    await life.complete(proposals=proposals)
    await world.run_work("review")
    return life


async def test_a_replay_is_the_same_apart_from_ids_and_times(world: World) -> None:
    life = await rich(world)
    await approve_all(life)
    again = await replay(life, world)
    found = await diff(again)
    assert found["same"] is True, json.dumps(
        {k: v for k, v in found.items() if isinstance(v, dict) and not v.get("same_in_all", True)}, indent=1
    )
    assert found["divergence"] is None
    assert {name: found[name]["same"] for name in ("decisions", "calls", "artifacts", "claims", "changes")} == {
        "decisions": 6, "calls": 4, "artifacts": 4, "claims": 1, "changes": 1,
    }  # fmt: skip
    assert found["cost"]["before"] == found["cost"]["after"] == {
        "tokens": 15, "cost_usd": 0.25, "calls": 4, "models": {"tokens": 0, "cost_usd": 0},
    }  # fmt: skip
    assert found["timing"]["before"]["stages_ms"] == found["timing"]["after"]["stages_ms"] == {"planner": 12.5}
    row = await again.row()
    assert (row["state"], row["replay_of"], row["replay_mode"]) == ("completed", life.id, "recorded")
    assert (row["used_tokens"], row["used_cost_usd"]) == (0, 0), "a replay spends nothing"
    seen = (await world.auditor.get(f"/v1/missions?replay_of={life.id}")).json()["items"]
    assert [one["id"] for one in seen] == [str(again.id)] and seen[0]["replay_mode"] == "recorded"
    assert (await world.auditor.post("/v1/ledger/verify")).json()["verified"] is True
    types = [type for type, _ in await again.facts()]
    assert "writeback.shadowed" in types and "provider.failed" in types and "budget.reserved" not in types


async def test_a_shadow_is_never_claimed(world: World) -> None:
    life = await rich(world, proposals=2)
    again = await replay(life, world)
    connection = await inspector(world)
    shadows = await connection.fetch("SELECT payload, effect FROM shadow_writeback WHERE mission = $1", again.id)
    assert len(shadows) == 2 and {row["effect"] for row in shadows} == {"allow"}
    assert await again.writebacks() == [] and await again.approvals() == []
    assert await connection.fetchval("SELECT count(*) FROM work WHERE queue = 'executor'") == 0
    worker = await world.connect("worker")
    proposal = await connection.fetchval(
        "SELECT id FROM artifact WHERE mission = $1 AND schema_name = 'writeback_proposal' LIMIT 1", again.id
    )
    async with worker.transaction():
        await worker.execute("SELECT set_config('app.tenant', $1, true)", str(await world.tenant()))
        with pytest.raises(Exception, match="writes nothing"):
            await worker.execute(
                "INSERT INTO writeback (tenant, id, mission, requested_by, risk, payload, proposal)"
                " SELECT tenant, gen_random_uuid(), id, requested_by, 'low', $2, $3 FROM mission WHERE id = $1",
                again.id,
                shadows[0]["payload"],
                proposal,
            )


async def test_one_changed_rule_shows_exactly_its_effect(world: World) -> None:
    life = await rich(world)
    await forbid(world, "no_search", "tool.call", '== Tool::"workspace.search"')
    again = await replay(life, world)
    row = await again.row()
    assert (row["state"], row["reason"]) == ("failed", "replay_diverged")
    assert "workspace.search, call 1" in row["reason_note"] and "policy denies it now" in row["reason_note"]
    found = await diff(again)
    assert found["same"] is False
    assert found["divergence"]["why"] == "denied_now" and found["divergence"]["rule"] == "no_search.here"
    [changed] = found["decisions"]["changed"]
    assert changed["what"] == "tool.call workspace.search"
    assert (changed["before"]["effect"], changed["after"]["effect"]) == ("allow", "deny")
    todays = [one for one in found["todays_policy"] if one["changed"]]
    assert [(one["resource"], one["now"]["rule"]) for one in todays] == [("workspace.search", "no_search.here")]


async def test_a_change_that_policy_denies_now_has_no_shadow(world: World) -> None:
    life = await rich(world)
    await forbid(world, "no_changes", "writeback.propose", '== Operation::"sample_crm.update"')
    again = await replay(life, world)
    found = await diff(again)
    assert (await again.row())["state"] == "completed"
    assert [one["what"].split()[0] for one in found["changes"]["only_before"]] == ["sample_crm"]
    assert found["artifacts"]["same_in_all"] and found["calls"]["same_in_all"] and found["claims"]["same_in_all"]


async def test_a_request_that_policy_denies_now_is_denied(world: World) -> None:
    life = await rich(world)
    await forbid(world, "no_oracle", "mission.create", '== MissionType::"oracle_advisory"')
    refused = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    assert problem(refused, "denied_by_policy")["rule"] == "no_oracle.here"


@pytest.mark.parametrize(
    ("signal", "ends"), [("blocked", ("failed", "blocked")), ("escalate", ("failed", "replay_escalated"))]
)
async def test_other_endings_are_played_too(world: World, signal: str, ends: tuple[str, str]) -> None:
    life = await under_way(world)
    await life.signal(signal)
    again = await replay(life, world)
    row = await again.row()
    assert (row["state"], row["reason"]) == ends
    assert await again.approvals() == [], "nobody is asked on behalf of a replay"


async def test_an_attempt_that_never_said_its_end(world: World) -> None:
    life = await under_way(world)
    await life.end("cancel")
    row = await (await replay(life, world)).row()
    assert (row["state"], row["reason"]) == ("failed", "replay_ended")
    connection = await inspector(world)
    assert await connection.fetchval("SELECT count(*) FROM work WHERE kind IN ('colony_cancel', 'dispatch')") <= 1


async def test_what_is_under_way_cannot_be_played(world: World) -> None:
    life = await under_way(world)
    said = problem(
        await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"}), "wrong_state"
    )
    assert said["current"]["state"] == "running"
    problem(await world.submitter.post(f"/v1/missions/{UUID(int=1)}/replay", json={"mode": "rerun"}), "not_found")
    problem(await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "again"}), "validation")
    wrong = {"mode": "rerun", "colony": "live"}
    problem(await world.submitter.post(f"/v1/missions/{life.id}/replay", json=wrong), "validation")
    problem(await world.auditor.post(f"/v1/missions/{life.id}/replay", json={"mode": "rerun"}), "forbidden")
    stranger = await world.another_tenant()
    problem(await stranger.http.post(f"/v1/missions/{life.id}/replay", json={"mode": "rerun"}), "not_found")
    problem(await stranger.http.get(f"/v1/missions/{life.id}/diff"), "not_found")


async def test_a_rerun_is_a_mission_like_any_other(world: World) -> None:
    life = await rich(world)
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "rerun"})
    again = Life(world, UUID(answer.json()["id"]))
    await again.take()
    await again.say()
    await again.complete(proposals=1)
    await world.run_work("review")
    assert (await again.row())["state"] == "awaiting_approval" and len(await again.approvals()) == 1
    found = await diff(again)
    assert found["same"] is False and found["calls"]["only_before"] and found["claims"]["same_in_all"]


async def test_a_live_colony_is_answered_from_the_tape(world: World) -> None:
    life = await under_way(world)
    await life.complete()
    await world.run_work("review")
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded", "colony": "live"})
    again = Life(world, UUID(answer.json()["id"]))
    await again.take()
    await again.say()
    connection = await inspector(world)
    await connection.execute("DELETE FROM passage")  # the workspace itself knows nothing any more
    found = await world.colony.tool(again.dispatch, "workspace.search", query="rollback release", limit=5)
    assert found["passages"] and found["passages"][0]["text"]
    with pytest.raises(Exception, match="never asked this"):
        await world.colony.tool(again.dispatch, "workspace.search", query="something else", limit=5)
    row = await again.row()
    assert (row["state"], row["reason"]) == ("failed", "replay_diverged")
    assert (await diff(again))["divergence"]["why"] == "not_on_tape"


async def test_the_same_key_is_one_replay(world: World) -> None:
    life = await rich(world)
    key = {"Idempotency-Key": "once"}
    path = f"/v1/missions/{life.id}/replay"
    first = await world.submitter.post(path, json={"mode": "recorded"}, headers=key)
    second = await world.submitter.post(path, json={"mode": "recorded"}, headers=key)
    assert first.content == second.content and second.headers["idempotent-replayed"] == "true"
    problem(await world.submitter.post(path, json={"mode": "rerun"}, headers=key), "idempotency_mismatch")


async def test_a_crash_in_the_middle_leaves_nothing_of_a_replay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life = await rich(world)
    answer = await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})
    again = Life(world, UUID(answer.json()["id"]))
    whole = Player.call

    async def crash(self: Player, fact: Any) -> None:
        if self.asked.total() == 2:
            raise RuntimeError("a crash")
        await whole(self, fact)

    with monkeypatch.context() as patch:
        patch.setattr(Player, "call", crash)
        await world.run_work("replay", rounds=1)
    assert (await again.row())["state"] == "accepted" and len(await again.facts()) == 1
    connection = await inspector(world)
    await connection.execute("UPDATE work SET next_at = clock_timestamp(), lease_until = NULL WHERE kind = 'replay'")
    await world.run_work("replay", "review")
    assert (await diff(again))["same"] is True


def away(*_: Any, **__: Any) -> Any:
    raise Problem("database_busy", "Every database connection is in use.", retry_after=1)


def a_bug(*_: Any, **__: Any) -> Any:
    raise LookupError("a fault of ours")


def no_column(*_: Any, **__: Any) -> Any:
    raise ProgrammingError("SELECT nothing", {}, UndefinedColumnError())  # a fault of ours, too


@pytest.mark.parametrize("fault", [away, a_bug, no_column])
@pytest.mark.parametrize("where", ["app.tools.judge", "app.boundary.callbacks.judge", "app.missions.held.Held.keep"])
async def test_what_is_no_fault_of_the_recording_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, fault: Callable[..., Any]
) -> None:
    """Nothing is left of the first try, in the database or in hand; the second one plays all of it."""
    life, players = await rich(world), list[Player]()
    begun = Player.__init__

    def noticed(player: Player, *given: Any) -> None:
        players.append(player)
        begun(player, *given)

    monkeypatch.setattr(Player, "__init__", noticed)
    with monkeypatch.context() as broken:
        broken.setattr(where, fault)
        again = await replay(life, world)
    assert (await world.mission(again.id))["state"] == "accepted"
    assert [type for type, _ in await again.facts()] == ["mission.accepted"]
    if where.endswith("keep"):
        assert players[0].held.missions == {} and not players[0].held._facts and not players[0].held._work
    await (await inspector(world)).execute("UPDATE work SET next_at = clock_timestamp() WHERE kind = 'replay'")
    await world.run_work("replay", "review")
    assert len(players) == 2 and (await world.mission(again.id))["state"] == "completed"


async def test_the_page_shows_what_is_different_and_nothing_runs(world: World) -> None:
    life = await under_way(world, user_goal="<script>alert(1)</script>")
    await life.complete(honest=False)
    await world.run_work("review")
    again = await replay(life, world)
    page = await world.auditor.get(f"/v1/missions/{again.id}/diff", headers=HTML)
    assert page.status_code == 200 and "Nothing is different" in page.text and "<script>" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    problem(await world.auditor.get(f"/v1/missions/{life.id}/diff"), "validation")
    other = await world.auditor.get(f"/v1/missions/{life.id}/diff", params={"against": str(again.id)})
    assert other.json()["same"] is True
