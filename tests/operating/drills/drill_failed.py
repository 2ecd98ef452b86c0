"""A rehearsal's newest run has failed; the next one passes."""

from uuid import uuid4

from tests.operating.scene import Scene


def run(scene: Scene, state: str, mission: str) -> None:
    scene.sql(
        """INSERT INTO drill_run (tenant, id, drill, state, reason, evidence, build, started_at, finished_at)
           SELECT id, $1, 'replay', $2, CASE $2 WHEN 'failed' THEN 'differs' END,
             jsonb_build_array(jsonb_build_object('kind', 'mission', 'id', $3::text)), 'b', now(), now()
           FROM tenant WHERE name = 'demo'""",
        uuid4(), state, mission,
    )  # fmt: skip


def drill(scene: Scene) -> None:
    mission = scene.ask()
    run(scene, "failed", mission)
    scene.fires("DrillFailed")
    seen = scene.see()
    assert 'mission_root_drill_passed{drill="replay"} 0.0' in seen and "differs" in seen
    assert "mission.accepted" in scene.do("FROM ledger", ID=mission)
    scene.do("connectors halt")
    run(scene, "passed", mission)
    scene.do("connectors resume", person="admin")
    scene.rests("DrillFailed")
