"""The executor hangs while an approved change waits for it."""

import os
import re
import signal

from tests.operating.scene import Scene
from tests.walks.test_kills import approve_all, restore_crm


def drill(scene: Scene) -> None:
    mission = scene.ask("crm_lead_intelligence")
    scene.becomes(mission, "awaiting_approval")
    hanging = scene.instance.pid("executor")
    os.kill(hanging, signal.SIGSTOP)
    approve_all(scene.instance, mission)
    scene.sql("UPDATE work SET next_at = now() - interval '2 min' WHERE kind = 'execute'")
    scene.fires("WorkLate")
    scene.sees(lambda said: re.search(r'mission_root_work_late_seconds\{kind="execute"\} 1[2-9]\d', said) is not None)
    scene.do("kill -9")
    scene.becomes(mission, "completed")
    assert scene.instance.pid("executor") != hanging
    scene.over("work_late_seconds")
    scene.rests("WorkLate")
    restore_crm(scene.instance)
