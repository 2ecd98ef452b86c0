"""The CRM takes a change and does not say that it has."""

import json
import os
import signal

import httpx

from tests.operating.scene import Scene
from tests.walks.test_kills import restore_crm


def drill(scene: Scene) -> None:
    mission = scene.ask("crm_lead_intelligence")
    scene.becomes(mission, "awaiting_approval")
    seen_before = shown(
        scene, mission
    )  # looking at an approval reads the target: while it is silent, for ten seconds each
    crm = scene.instance.pid("crm")
    os.kill(crm, signal.SIGSTOP)
    try:
        approve(scene, seen_before)
        scene.fires("WritebackUnknown", threshold=0)
        scene.sees(lambda said: mission in said and '"unknown"' in said.replace("state=", '"'))
        scene.do("connectors halt")
        given_up = one_of(scene, mission)
        scene.sql("ALTER TABLE execution DISABLE TRIGGER execution_guard")  # no role of the product can turn a clock
        scene.sql("UPDATE execution SET started_at = started_at - interval '11 min' WHERE state = 'unknown'")
        scene.sql("ALTER TABLE execution ENABLE ALWAYS TRIGGER execution_guard")
        scene.does("writebacks vouch", ID=given_up)  # not while the executor is just asking
        assert '"state":"failed"' in scene.shell.run(f"mission-root writebacks show {given_up} --json").text.replace(
            " ", ""
        )
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


def one_of(scene: Scene, mission: str) -> str:
    found = scene.shell.run(f"mission-root writebacks list --state unknown --mission {mission} --json").text
    return str(json.loads(found)["items"][0]["id"])


def shown(scene: Scene, mission: str) -> list[httpx.Response]:
    with scene.instance.client("operator") as client:
        pending = client.get("/v1/approvals", params={"state": "pending", "mission": mission}).raise_for_status().json()
        return [client.get(f"/v1/approvals/{one['id']}").raise_for_status() for one in pending["items"]]


def approve(scene: Scene, approvals: list[httpx.Response]) -> None:
    with scene.instance.client("operator") as client:
        for one in approvals:
            said = {"decision": "approve", "payload_sha256": one.json()["payload_sha256"]}
            path = f"/v1/approvals/{one.json()['id']}/decisions"
            client.post(path, json=said, headers={"If-Match": one.headers["etag"]}).raise_for_status()
