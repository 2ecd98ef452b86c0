"""A mission's work row is lost, which only the database's owner can do."""

from tests.operating.scene import Scene
from tests.walks.conftest import until

SPARED = {'mission-root missions fail ID --reason "stuck, see ticket 12"': "the other way to end it"}


def drill(scene: Scene) -> None:
    scene.instance.colony.stop()
    mission = scene.ask()
    scene.degraded(mission, "colony_unavailable")
    # while the worker has it in hand it would be given back
    until(
        lambda: (scene.sql("DELETE FROM work WHERE subject = $1::uuid AND lease_until IS NULL", mission), True), "lost"
    )
    scene.instance.colony.start()
    until(lambda: mission in scene.look("/v1/status"), "the status page names it")
    scene.fires("MissionStuck")
    seen = scene.see(ID=mission)
    assert mission in seen
    assert "work_items" in scene.do("grep work_items")
    scene.do("FROM work")
    scene.do("missions cancel", ID=mission)
    assert "cancelled" in scene.over("missions get", ID=mission)
    scene.rests("MissionStuck")
