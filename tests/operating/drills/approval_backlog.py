"""Changes wait for a human for hours, and are about to expire."""

import json

from tests.operating.scene import Scene
from tests.walks.test_kills import restore_crm

SPARED = {
    "mission-root approvals decide ID approve": "asks a person at a terminal",
    'mission-root approvals break-glass ID --reason "The price is wrong and the shop is open."': "tests/approvals: needs two holders of break_glass",
    'mission-root approvals decide ID approve --comment "Seen on the site."': "the second half of breaking the glass",
    'curl -s -X POST "$MISSION_ROOT_URL/v1/writebacks/ID/renew" -H "Authorization: Bearer $MISSION_ROOT_API_KEY" -H "Content-Type: application/json" -d \'{}\'': "needs a record that has changed: tests/approvals",
    "mission-root rules show RULE > rule.json": "what policy owners do is in tests/approvals",
    "mission-root rules put rule.json --id RULE --validate-only": "the same",
    "mission-root rules put rule.json --id RULE": "the same",
    "mission-root principals grant ID operator --expires-at 2027-01-31T12:00:00Z": "its date is an example, and passes",
}


def age(scene: Scene) -> None:
    """The pending approvals were opened five hours ago, and expire in half an hour. No role of the product can do that."""
    scene.sql("ALTER TABLE approval DISABLE TRIGGER approval_guard")
    scene.sql("""UPDATE approval SET created_at = now() - interval '5 h', expires_at = now() + interval '30 min'
                 WHERE state = 'pending'""")
    scene.sql("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")


def drill(scene: Scene) -> None:
    mission = scene.ask("crm_lead_intelligence")
    scene.becomes(mission, "awaiting_approval")
    age(scene)
    scene.fires("ApprovalBacklog")
    scene.fires("ApprovalsExpiring")
    pending = [one for one in listed(scene) if one["mission_id"] == mission]
    first, second, third, *rest = pending
    seen = scene.see(ID=first["id"])
    assert first["id"] in seen and "pending" in seen
    scene.do("--payload-sha256", ID=first["id"], SHA256=first["payload_sha256"])
    scene.do("approvals cancel", ID=first["id"])  # within the undo window, or refused: see below
    scene.do("reject", ID=second["id"])
    scene.do("approvals revise", ID=third["id"])
    scene.do("state=stale")
    scene.do("principals list", person="admin")
    scene.do("missions cancel", ID=mission)
    scene.becomes(mission, "cancelled")
    assert not [one for one in listed(scene) if one["mission_id"] == mission]
    scene.rests("ApprovalBacklog")
    scene.rests("ApprovalsExpiring")
    restore_crm(scene.instance)


def listed(scene: Scene) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(scene.shell.run("mission-root approvals list --json").text)["items"]
    return found
