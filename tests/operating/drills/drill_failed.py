"""The drills' own target is halted, so that the drill of approvals fails; it passes once that is repaired."""

import json

from tests.operating.scene import Scene

DRILL = "approved_writeback"
HALTED = """INSERT INTO connector_switch (tenant, connector, halted_at, reason, changed_by)
            SELECT t.id, 'drill_target', CASE WHEN $1 THEN now() END, 'The test says so.', p.id
            FROM tenant t JOIN principal p ON p.tenant = t.id AND p.name = 'drill operator' WHERE t.drills
            ON CONFLICT (tenant, connector) DO UPDATE SET halted_at = excluded.halted_at"""


def drill(scene: Scene) -> None:
    scene.sql(HALTED, True)  # nobody has a key to that tenant but the drills
    try:
        assert DRILL in scene.do("drills run", NAME=DRILL, code=1)
        scene.fires("DrillFailed")
        seen = scene.sees(lambda said: f'mission_root_drill_passed{{drill="{DRILL}"}} 0.0' in said, NAME=DRILL)
        assert "failed (approval_refused)" in seen
        assert "mission.accepted" in scene.do("FROM ledger", ID=mission_of_newest(scene))
        scene.do("connectors halt")
    finally:
        scene.sql(HALTED, False)
    assert "passed" in scene.do("drills run", NAME=DRILL)
    scene.do("connectors resume", person="admin")
    assert "passed" in scene.over("drills list")
    scene.rests("DrillFailed")


def mission_of_newest(scene: Scene) -> str:
    """What the page calls evidence."""
    said = json.loads(scene.shell.run(f"mission-root drills show {DRILL} --json").text)["items"][0]
    return next(one["id"] for one in said["evidence"] if one["kind"] == "mission")
