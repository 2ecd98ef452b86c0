"""Changes wait for a human for hours, and are about to expire."""

import json
from datetime import timedelta

from tests.operating.scene import Scene

AT_A_TERMINAL = "asks a person at a terminal"
ELSEWHERE = "needs people or records that tests/approvals has"
SPARED = {
    "mission-root approvals decide ID approve": AT_A_TERMINAL,
    'mission-root approvals decide ID reject --comment "The number is wrong."': AT_A_TERMINAL,
    'mission-root approvals break-glass ID --reason "The price is wrong and the shop is open."': ELSEWHERE,
    'mission-root approvals decide ID approve --comment "Seen on the site."': ELSEWHERE,
    'curl -s -X POST "$MISSION_ROOT_URL/v1/writebacks/ID/renew" -H "Authorization: Bearer $MISSION_ROOT_API_KEY" '
    "-H \"Content-Type: application/json\" -d '{}'": ELSEWHERE,
    "mission-root rules show RULE > rule.json": ELSEWHERE,
    "mission-root rules put rule.json --id RULE --validate-only": ELSEWHERE,
    "mission-root rules put rule.json --id RULE": ELSEWHERE,
    "mission-root principals grant ID operator --expires-at 2027-01-31T12:00:00Z": "its date is an example, and passes",
}
UNDO = """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window,
            may_escalate_to)
          SELECT tenant, id, max(version) + 1, subject, connector, operation, risk, required, life, $1::interval, '{admin}'
          FROM approval_rule WHERE NOT break_glass GROUP BY tenant, id, subject, connector, operation, risk, required, life"""


def age(scene: Scene) -> None:
    """The pending approvals were opened five hours ago, and expire in half an hour. No role of the product can do that."""
    scene.sql("ALTER TABLE approval DISABLE TRIGGER approval_guard")
    scene.sql("""UPDATE approval SET created_at = now() - interval '5 h', expires_at = now() + interval '30 min'
                 WHERE state = 'pending'""")
    scene.sql("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")


def drill(scene: Scene) -> None:
    scene.sql(UNDO, timedelta(hours=1))  # time enough to take back what was approved
    try:
        backlog(scene)
    finally:
        scene.sql(UNDO, timedelta(0))


def backlog(scene: Scene) -> None:
    mission = scene.ask("crm_lead_intelligence")
    scene.becomes(mission, "awaiting_approval")
    age(scene)
    scene.fires("ApprovalBacklog")
    scene.fires("ApprovalsExpiring")
    pending = [one for one in listed(scene) if one["mission_id"] == mission]
    first, second, *_ = pending
    seen = scene.see(ID=first["id"])
    assert first["id"] in seen and "pending" in seen
    scene.do("--payload-sha256", ID=first["id"], SHA256=first["payload_sha256"])
    scene.do("approvals cancel", ID=first["id"])
    scene.do("approvals ask", ID=second["id"])
    scene.do("approvals escalate", ID=second["id"])
    scene.do("approvals revise", ID=second["id"], SHA256=second["payload_sha256"])
    scene.do("state=stale")
    scene.do("principals list", person="admin")
    scene.do("missions cancel", ID=mission)
    scene.becomes(mission, "cancelled")
    assert not [one for one in listed(scene) if one["mission_id"] == mission]
    scene.rests("ApprovalBacklog")
    scene.rests("ApprovalsExpiring")


def listed(scene: Scene) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(scene.shell.run("mission-root approvals list --json").text)["items"]
    return found
