"""A small client of the API in Python: every main call, as a program would make it. Needs httpx; curl.sh is its twin.

python docs/examples/client.py URL SUBMITTERS_KEY OPERATORS_KEY
"""

import sys
import time
import uuid
from typing import Any

import httpx


class Refused(Exception):
    """A problem document. `code` is what programs look at; `retryable` whether the same request may be sent again."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem['title']}: {problem['detail']}")
        self.code, self.retryable, self.problem = problem["code"], problem["retryable"], problem


class MissionRoot:
    """Calls as one person."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request. What may be repeated is repeated, after the pause that the answer names."""
        for _ in range(5):
            answer = self.http.request(method, path, **more)
            if answer.is_success:
                return answer
            refused = Refused(answer.json())
            if not refused.retryable:
                raise refused
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        raise refused

    def ask(self, mission_type: str, user_goal: str, **inputs: Any) -> dict[str, Any]:
        """Asks for a mission. The key makes a repeat after a lost answer the same mission, not a second one."""
        body = {"mission_type": mission_type, "user_goal": user_goal, "inputs": inputs}
        return self.call("POST", "/v1/missions", json=body, headers={"Idempotency-Key": str(uuid.uuid4())}).json()

    def mission(self, id: str) -> dict[str, Any]:
        return self.call("GET", f"/v1/missions/{id}").json()

    def wait(self, id: str, *states: str) -> dict[str, Any]:
        """Follows the mission's events by long polls until it has ended, or is in one of the states."""
        stops, cursor = {"completed", "failed", "cancelled", "denied", *states}, None
        while (found := self.mission(id))["state"] not in stops:
            asked = {"wait": 25} | ({"cursor": cursor} if cursor else {})
            cursor = self.call("GET", f"/v1/missions/{id}/events", params=asked).json()["next_cursor"]
        return found

    def packet(self, id: str) -> dict[str, Any]:
        """The answer: claims, each with the passages that the root has checked."""
        return self.call("GET", f"/v1/missions/{id}/packet").json()

    def approvals(self, mission: str) -> list[dict[str, Any]]:
        """All that wait, page by page."""
        items, asked = [], {"state": "pending", "mission": mission, "limit": 50}
        while True:
            page = self.call("GET", "/v1/approvals", params=asked).json()
            items += page["items"]
            if not page["has_more"]:
                return items
            asked["cursor"] = page["next_cursor"]

    def decide(self, approval: str, decision: str, comment: str = "") -> dict[str, Any]:
        """Decides on exactly what was read: its version as If-Match, its bytes by their hash."""
        seen = self.call("GET", f"/v1/approvals/{approval}")
        body = {"decision": decision, "payload_sha256": seen.json()["payload_sha256"], "comment": comment or None}
        headers = {"If-Match": seen.headers["ETag"], "Idempotency-Key": str(uuid.uuid4())}
        return self.call("POST", f"/v1/approvals/{approval}/decisions", json=body, headers=headers).json()

    def cancel(self, id: str, reason: str) -> dict[str, Any]:
        headers = {"If-Match": self.call("GET", f"/v1/missions/{id}").headers["ETag"]}
        return self.call("POST", f"/v1/missions/{id}/cancel", json={"reason": reason}, headers=headers).json()

    def evaluate(self, action: str, resource: str, **context: Any) -> dict[str, Any]:
        """What policy would say, before anything is asked."""
        body = {"action": action, "resource": resource, "context": context}
        return self.call("POST", "/v1/policies/evaluate", json=body).json()

    def explain(self, id: str) -> dict[str, Any]:
        """The whole story of any id, each step with what it is worth."""
        return self.call("GET", "/v1/explain", params={"id": id, "verify": True}).json()

    def verify(self) -> dict[str, Any]:
        return self.call("POST", "/v1/ledger/verify").json()


def tour(submitter: MissionRoot, operator: MissionRoot) -> None:
    print("policy would", submitter.evaluate("mission.create", "oracle_advisory", mode="autonomous")["effect"])
    first = submitter.ask("oracle_advisory", "What is there to read?")
    try:
        print("cancelled:", submitter.cancel(first["id"], "asked by mistake")["state"])
    except Refused as refused:  # it went on meanwhile, or is over
        print("not cancelled:", refused.code)
    asked = submitter.ask("crm_lead_intelligence", "Which leads deserve a call, and why?")
    found = submitter.wait(asked["id"], "awaiting_approval")
    print(asked["id"], "is", found["state"])
    print("claims:", len(submitter.packet(asked["id"])["claims"]))
    for approval in operator.approvals(asked["id"]):
        receipt = operator.decide(approval["id"], "reject", "Only looking.")
        print(approval["id"], "is", receipt["state"])
    print(asked["id"], "is", submitter.wait(asked["id"])["state"])
    for step in operator.explain(asked["id"])["steps"]:
        print(step["at"], step["sentence"])
    print("verified:", operator.verify()["verified"])


if __name__ == "__main__":
    url, submitters_key, operators_key = sys.argv[1:]
    tour(MissionRoot(url, submitters_key), MissionRoot(url, operators_key))
