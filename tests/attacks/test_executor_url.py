"""The `executor` database URL leaked: nothing gets approved with it, and no bytes are read that were not claimed."""

from datetime import timedelta

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
from tests.attacks.test_api_url import combinations
from tests.walls.ground import DENIED, LEASE, Ground

ROLE = "mission_root_executor"
# Functions that the executor may call, and what each gives to whoever has its login only.
CALLABLE = {
    "answer_connector_read": "a look at a record, under the fence of its own work row",
    "claim": "bytes of what humans approved, one permission each, in its time",
    "connector_read_of": "which record somebody waits to see; a definition holds no secret",
    "current_tenant": "reads",
    "finish_executor_work": "its own work rows, by fence; a lost row is put back from the approval",
    "next_executor_work": "a time",
    "require_tenant": "checks",
    "settle": "what came of its own claim, by fence; success only when what was read back is what was approved",
    "take_executor_work": "ids of work that the wall added",
    "take_read_work": "likewise",
}


async def test_no_table_is_read_or_written(ground: Ground) -> None:
    await set_scene(ground)
    for (table,) in await ground.run("admin", RELATIONS):
        assert await attempt(ground, "executor", f"SELECT * FROM {table}") == DENIED, table
        assert await attempt(ground, "executor", f"SELECT count(*) FROM {table}") == DENIED, table
        assert await attempt(ground, "executor", f"DELETE FROM {table}") in (*REFUSED, "42809"), table
        assert await attempt(ground, "executor", f"TRUNCATE {table}") in (*REFUSED, "42809"), table
        for column in await ground.run("admin", COLUMNS, table, ROLE):
            for statement in (
                "SELECT {} FROM {}",
                "UPDATE {1} SET {0} = {0}",
                "INSERT INTO {1} ({0}) VALUES (DEFAULT)",
            ):
                if not column["generated"]:
                    said = await attempt(ground, "executor", statement.format(column["attname"], table))
                    assert said in REFUSED, (table, column["attname"], said)


async def test_every_function_is_judged_and_gives_no_bytes_that_nobody_approved(ground: Ground) -> None:
    scene = await set_scene(ground)
    functions = await ground.run("admin", FUNCTIONS, ROLE)
    known = {function["name"] for function in functions}
    assert known == set(CALLABLE), f"judge {known - set(CALLABLE)}; gone: {set(CALLABLE) - known}"
    before = await standing(ground, "api")
    del before["work of the executor"]  # its own, to lease and to end
    secrets = [one.payload.hex() for one in (*scene.unapproved, scene.slow, scene.claimed)]
    for function in functions:
        places = ", ".join(f"${n}::{kind}" for n, kind in enumerate(function["types"], 1))
        for args in combinations(function, guesses(ground, scene), ground):
            if function["name"] == "settle" and args[1] == scene.claimed.writeback and args[2] == 1:
                continue  # that is its own claim, settled as it says
            statement = f"SELECT f::text FROM {function['name']}({places}) f"
            said = (
                await attempt(ground, "executor", statement, *args)
                if args
                else await attempt(ground, "executor", statement)
            )
            assert said not in (DENIED, "42883"), f"{statement}: {said}"
            assert not any(secret in said for secret in secrets), said
    after = await standing(ground, "api")
    assert compare(before, after) == {}
    await nothing_leaves(ground, scene)


async def test_nothing_is_settled_without_its_fence_nor_as_another_payload(ground: Ground) -> None:
    scene = await set_scene(ground)
    for fence in (0, 2, -1, None):
        for state in ("succeeded", "failed", "stale", "unknown"):
            assert await ground.settle(scene.claimed, fence, state, scene.claimed.payload) is False
    for unclaimed in (*scene.unapproved, scene.slow):
        assert await ground.settle(unclaimed, 1, "succeeded", unclaimed.payload) is False
    await ground.refused(
        "execution_check1", "executor", "SELECT settle($1, $2, 1, 'succeeded', NULL, $3)",
        ground.tenant, scene.claimed.writeback, scene.asked.payload.replace(b"high", b"none"),
    )  # fmt: skip
    await nothing_leaves(ground, scene)


async def test_nothing_is_decided_closed_or_filed(ground: Ground) -> None:
    scene = await set_scene(ground)
    for call in (
        "decide($1, $2, NULL, 1, NULL, 'approve', '')", "close_approval($1, $2, 'cancelled', NULL)", "authenticate(sha256('x'))",
        "approver_keys($1, $2)", "put_rule($1, NULL, $2, NULL, '{}')", "restore_executor_work(1)", "take_worker_work('{}', 1, '1 s')",
        "wall_fact($1, $2, 'approval.decided', 'system:x', '{}')", "entitled($1, $2, 'operator')", "signed_decisions(NULL, now())",
    ):  # fmt: skip
        args = (ground.tenant, scene.asked.approval) if "$2" in call else ()
        await ground.refused(DENIED, "executor", f"SELECT {call}", *args)
    await nothing_leaves(ground, scene)


async def test_a_lease_is_not_taken_for_good_and_lost_work_comes_back(ground: Ground) -> None:
    """What a leaked executor URL can do is be in the way: leases end, and deleted work is put back."""
    asked = await ground.approved()
    executor = await ground.of("executor")
    await executor.fetch("SELECT * FROM take_executor_work(500, interval '100 years', '{}')")
    await ground.value(
        "executor", "SELECT finish_executor_work($1, $2, 1, 1, NULL, false)", ground.tenant, asked.writeback
    )
    worker = await ground.of("worker")
    while await worker.fetchval("SELECT restore_executor_work(500)"):
        pass
    assert (
        await ground.value("admin", "SELECT queue FROM work WHERE subject = $1 AND kind = 'execute'", asked.writeback)
        == "executor"
    )
    await ground.claim(asked, timedelta(days=10000))
    left = await ground.value(
        "admin", "SELECT lease_until - clock_timestamp() FROM execution WHERE writeback = $1", asked.writeback
    )
    assert LEASE < left <= timedelta(minutes=15)
