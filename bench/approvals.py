"""From a human's decision to the change arriving at the business system, one approval at a time."""

import asyncio
import json
import time
from typing import Any

from bench.instance import Instance
from bench.wire import Client

RULE = {
    "subject": "writeback",
    "connector": "sample_crm",
    "risk": "low",
    "required": 1,
    "approver_role": "operator",
    "life_s": 3600.0,
    "undo_window_s": 0.0,
}
LEAD = "L-1001"
PATIENCE_S = 30.0


class Desk:
    """The API as one of the tenant's people uses it."""

    def __init__(self, instance: Instance, who: str) -> None:
        self.client = Client(instance.base_url, 1)
        self.headers = {"Authorization": f"Bearer {instance.key_of(who)}", "Content-Type": "application/json"}

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[Any, dict[str, str]]:
        data = b"" if body is None else json.dumps(body).encode()
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        for pause in (0.1, 0.2, 0.5, 1.0, 0):
            answer = await self.client.ask(method, path, {**self.headers, **more}, data)
            if answer.status != 503 or not pause:  # a busy database: nothing has happened
                break
            await asyncio.sleep(pause)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path} was answered {answer.start}: {answer.body[:300].decode()}")
        return json.loads(answer.body) if answer.body else None, dict(answer.headers)

    async def until(self, path: str, holds: Any) -> Any:
        """Asks until the answer is as wanted. Raises RuntimeError."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found, _ = await self.ask("GET", path)
            if holds(found):
                return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} did not come to what was wanted: {json.dumps(found)[:300]}")
            await asyncio.sleep(0.01)


def latencies(instance: Instance, times: int) -> list[float]:
    """Milliseconds from posting the decision to the change arriving at the CRM's door, with the undo window set to 0."""
    return asyncio.run(_latencies(instance, times))


async def _latencies(instance: Instance, times: int) -> list[float]:
    submitter, operator, owner = (Desk(instance, who) for who in ("submitter", "operator", "policy_owner"))
    crm, found = Client(instance.url_of("crm"), 1), []
    await without_undo(owner)
    for _ in range(times):
        approval = await asked(submitter, operator)
        seen, headers = await operator.ask("GET", f"/v1/approvals/{approval}")
        body = {"decision": "approve", "payload_sha256": seen["payload_sha256"], "comment": "measured"}
        posted = time.monotonic()
        await operator.ask("POST", f"/v1/approvals/{approval}/decisions", body, If_Match=headers["etag"])
        await submitter.until(f"/v1/missions/{seen['mission_id']}", lambda mission: mission["state"] == "completed")
        arrivals = json.loads((await crm.ask("GET", "/bench/arrivals", {})).body)
        since = [one["at"] for one in arrivals if one["at"] > posted]
        if len(since) != 1:
            raise RuntimeError(f"one decision led to {len(since)} changes at the CRM")
        found.append((since[0] - posted) * 1000)
    for client in (submitter.client, operator.client, owner.client, crm):
        client.close()
    return found


async def without_undo(owner: Desk) -> None:
    """A rule for exactly these changes, as the policy owner would put it; the shipped one waits ten seconds."""
    rules, _ = await owner.ask("GET", "/v1/approval-rules")
    if not any(rule["connector"] == RULE["connector"] and rule["undo_window_s"] == 0 for rule in rules["items"]):
        await owner.ask("POST", "/v1/approval-rules", RULE)


async def asked(submitter: Desk, operator: Desk) -> str:
    """A mission that proposes one change, brought to where a human is asked; the approval's id."""
    ask = {
        "mission_type": "crm_lead_intelligence",
        "user_goal": "Change one field of one lead.",
        "inputs": {"lead_ids": [LEAD]},
        "labels": {"bench": "propose"},
    }
    mission, _ = await submitter.ask("POST", "/v1/missions", ask)
    path = f"/v1/missions/{mission['id']}"
    await submitter.until(path, lambda one: one["state"] not in ("accepted", "dispatched", "running", "in_review"))
    waiting, _ = await operator.ask("GET", f"/v1/approvals?state=pending&mission={mission['id']}")
    if len(waiting["items"]) != 1:
        raise RuntimeError(f"mission {mission['id']} did not come to one approval")
    return str(waiting["items"][0]["id"])
