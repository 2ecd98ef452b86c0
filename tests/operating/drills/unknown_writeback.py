"""The CRM takes a change and does not say that it has."""

import os
import signal

from tests.operating.scene import Scene
from tests.walks.test_kills import approve_all, restore_crm


def drill(scene: Scene) -> None:
    mission = scene.ask("crm_lead_intelligence")
    scene.becomes(mission, "awaiting_approval")
    crm = scene.instance.pid("crm")
    os.kill(crm, signal.SIGSTOP)
    try:
        approve_all(scene.instance, mission)
        scene.fires("WritebackUnknown", threshold=0)
        seen = scene.see()
        assert mission in seen and '"unknown"' in seen.replace("state=", '"')
        scene.do("connectors halt")
    finally:
        os.kill(crm, signal.SIGCONT)
    scene.does("connectors check")
    scene.do("connectors resume", person="admin")
    # or within a minute: a halted connector, and an outcome that stays unknown, are looked at less and less often
    scene.sql("UPDATE execution SET lease_until = now() WHERE state = 'unknown'")
    scene.sql("UPDATE work SET next_at = now(), lease_until = NULL WHERE kind = 'execute'")
    scene.becomes(mission, "completed")
    assert '"items":[]' in scene.over("state=unknown").replace(" ", "")
    scene.rests("WritebackUnknown", threshold=0)
    restore_crm(scene.instance)
