"""A mission's work row is lost, which only the database's owner can do, and was given back as often as the worker does that."""

from tests.operating.scene import Scene
from tests.walks.conftest import until

SPARED = {'mission-root missions fail ID --reason "stuck, see ticket 12"': "the other way to end it"}


def drill(scene: Scene) -> None:
    scene.instance.colony.stop()
    mission = scene.ask()
    scene.degraded(mission, "colony_unavailable")
    scene.sql(
        """INSERT INTO mission_repair (tenant, mission, state, finding, repair, since, over_at)
           SELECT tenant, id, state, 'no_dispatch', 'dispatch_added', updated_at, now()
           FROM mission, generate_series(1, 3) WHERE id = $1::uuid""",
        mission,
    )
    # while the worker has it in hand it would be given back
    until(
        lambda: scene.sql(
            "DELETE FROM work WHERE kind = 'dispatch' AND subject = $1::uuid AND lease_until IS NULL RETURNING 1",
            mission,
        ),
        "its work is lost",
    )
    scene.instance.colony.start()
    until(lambda: open_finding(scene, mission), "the status page names it")
    scene.fires("MissionStuck")
    seen = scene.see(ID=mission)
    assert mission in seen and "nothing: it takes a person" in seen
    assert "work_items" in scene.do("grep work_items")
    scene.do("FROM work")
    scene.do("missions cancel", ID=mission)
    assert "cancelled" in scene.over("missions get", ID=mission)
    until(lambda: not open_finding(scene, mission), "the status page says that it is over")
    scene.rests("MissionStuck")
    nobody_looks(scene)


def nobody_looks(scene: Scene) -> None:
    """The look itself does not happen: what it would find nobody hears of, but that it is missing."""
    put_off = (
        "UPDATE work SET next_at = now() + interval '1 h' WHERE kind = 'liveness' AND lease_until IS NULL RETURNING 1"
    )
    until(lambda: scene.sql(put_off), "no look is due")
    scene.sql("UPDATE liveness_look SET looked_at = looked_at - interval '10 min'")
    scene.fires("MissionsNotLookedAt")
    scene.do("UPDATE work")
    scene.rests("MissionsNotLookedAt")


def open_finding(scene: Scene, mission: str) -> bool:
    with scene.instance.client("operator") as client:
        found = client.get("/v1/status").raise_for_status().json()["violators"]
    return any(one["mission_id"] == mission and one["over_at"] is None for one in found)
