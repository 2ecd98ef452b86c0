"""Callers give missions no time to be carried out."""

from tests.operating.scene import Scene


def drill(scene: Scene) -> None:
    with scene.instance.client("submitter") as client:
        ask = {"mission_type": "oracle_advisory", "user_goal": "What happens?", "budget": {"time_ms": 1}}
        failed = [client.post("/v1/missions", json=ask).raise_for_status().json()["id"] for _ in range(12)]
    for mission in failed:
        scene.becomes(mission, "failed")
    scene.fires("ErrorBudgetBurning")
    seen = scene.see(ID=failed[0])
    assert "time_budget" in seen or "blocked" in seen
    scene.over("--wait", person="submitter")
