"""The colony is started with another key than the root's."""

from tests.operating.scene import Scene


def drill(scene: Scene) -> None:
    colony = scene.instance.colony
    colony.stop()
    colony.start(ROOT_API_KEY="local:another-secret-than-the-root-has")
    mission = scene.ask()
    scene.degraded(mission, "colony_unauthorized")
    scene.fires("ColonyAuthenticationFailing")
    seen = scene.see(ID=mission)
    assert "colony_unauthorized" in seen and '"reason": "SignatureWrong"' in seen
    colony.stop()  # the wrong one is corrected, and its process started again
    colony.start()
    scene.becomes(mission, "completed")
