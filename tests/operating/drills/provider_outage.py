"""The CRM takes calls and does not answer them."""

import os
import signal

from tests.operating.scene import Scene
from tests.walks.conftest import until


def drill(scene: Scene) -> None:
    crm = scene.instance.pid("crm")
    os.kill(crm, signal.SIGSTOP)
    try:
        missions = [scene.ask("crm_lead_intelligence") for _ in range(5)]
        log = scene.instance.colony.log
        until(lambda: "tool call failed, trying again" in log.read_text(), "the colony has tried in vain")
        scene.fires("ProviderOutage")
        failed = ("tool call failed, trying again", "The CRM did not answer")
        scene.sees(lambda seen: all(one in seen for one in failed), ID=missions[0])
        scene.do("connectors halt", NAME="sample_crm")
        scene.do("$CRM_URL/health", code=28)  # curl: nothing came in time
    finally:
        os.kill(crm, signal.SIGCONT)
    scene.do("$CRM_URL/health")
    scene.does("connectors check")  # what has not answered is left alone for some seconds
    scene.do("connectors resume", person="admin")
    for mission in missions:
        scene.becomes(mission, "awaiting_approval", "completed")
        with scene.instance.client("operator") as client:
            until(lambda mission=mission: cancelled(client, mission), "the drill's missions are ended")


def cancelled(client: object, mission: str) -> bool:
    found = client.get(f"/v1/missions/{mission}")  # type: ignore[attr-defined]
    if found.json()["state"] in ("completed", "cancelled"):
        return True
    answer = client.post(  # type: ignore[attr-defined]
        f"/v1/missions/{mission}/cancel",
        json={"reason": "the drill is over"},
        headers={"If-Match": found.headers["etag"]},
    )
    return bool(answer.status_code == 200)
