"""The colony's process dies and stays away for a while."""

from tests.operating.scene import Scene


def drill(scene: Scene) -> None:
    scene.instance.colony.stop()
    mission = scene.ask()
    scene.degraded(mission, "colony_unavailable")
    scene.fires("ColonyUnavailable")
    down = 'mission_root_component_up{component="colony"} 0.0'
    scene.sees(lambda seen: "colony_unavailable" in seen and down in seen, ID=mission)
    scene.do("$COLONY_URL/health", code=7)  # curl: nobody is there
    scene.instance.colony.start()
    scene.do("$COLONY_URL/health")
    assert '"ready":true' in scene.do("$COLONY_URL/ready").replace(" ", "")
    scene.becomes(mission, "completed")
    scene.rests("ColonyUnavailable")
    assert mission not in scene.over("missions list --state accepted")
