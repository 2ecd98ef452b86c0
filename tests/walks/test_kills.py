"""kill -9 of each process in the middle of a mission: every mission ends completed, and nothing happens twice."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from tests.walks.conftest import Instance, until

# whatever starts a whole instance wants the usual port: two at once would take it from each other
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("instance")]


def seen(client: httpx.Client, mission: str, type: str) -> bool:
    """Whether the mission has a fact of a type by now."""
    items = client.get(f"/v1/missions/{mission}/events", params={"limit": 200}).raise_for_status().json()["items"]
    return any(item["type"] == type for item in items)


def create(client: httpx.Client, mission_type: str, goal: str) -> str:
    answer = client.post("/v1/missions", json={"mission_type": mission_type, "user_goal": goal})
    answer.raise_for_status()
    made: str = answer.json()["id"]
    return made


def state(client: httpx.Client, mission: str) -> str:
    found: str = client.get(f"/v1/missions/{mission}").raise_for_status().json()["state"]
    return found


def approve_all(instance: Instance, mission: str) -> list[str]:
    """The operator approves everything pending; answers the writebacks."""
    decided = []
    with instance.client("operator") as operator:
        pending = (
            operator.get("/v1/approvals", params={"state": "pending", "mission": mission})
            .raise_for_status()
            .json()["items"]
        )
        for one in pending:
            shown = operator.get(f"/v1/approvals/{one['id']}").raise_for_status()
            body = {"decision": "approve", "payload_sha256": shown.json()["payload_sha256"]}
            headers = {"If-Match": shown.headers["etag"]}
            operator.post(f"/v1/approvals/{one['id']}/decisions", json=body, headers=headers).raise_for_status()
            decided.append(one["writeback_id"])
    return decided


def changes_in_crm(instance: Instance) -> dict[str, int]:
    """How often the CRM really changed each record."""
    with sqlite3.connect(instance.data_dir / "crm.sqlite") as crm:
        rows = crm.execute("SELECT kind || '/' || record, count(*) FROM change GROUP BY 1").fetchall()
    return dict(rows)


def restore_crm(instance: Instance) -> None:
    """Somebody undoes the changes in the CRM itself, so that the next victim finds the same leads to propose for."""
    with sqlite3.connect(instance.data_dir / "crm.sqlite") as crm:
        for kind, record, before in crm.execute("SELECT kind, record, before FROM change ORDER BY id DESC").fetchall():
            [now] = crm.execute("SELECT fields FROM record WHERE kind = ? AND id = ?", (kind, record)).fetchone()
            crm.execute(
                "UPDATE record SET fields = ?, version = version + 1 WHERE kind = ? AND id = ?",
                (json.dumps(json.loads(now) | json.loads(before)), kind, record),
            )


@pytest.mark.parametrize(("victim", "moment"), [
    ("colony", "mission.dispatched"), ("worker", "mission.accepted"), ("worker", "mission.running"), ("serve", "mission.running"),
])  # fmt: skip
def test_a_killed_process_loses_no_mission(instance: Instance, victim: str, moment: str) -> None:
    with instance.client("submitter") as client:
        missions = [create(client, "oracle_advisory", "What happens before a writeback is executed?") for _ in range(4)]
        until(lambda: seen(client, missions[1], moment), moment)
        instance.kill(victim)
        for mission in missions:
            until(lambda mission=mission: state(client, mission) in ("completed", "failed"), f"{mission} has ended")
            packet = until(
                lambda mission=mission: client.get(f"/v1/missions/{mission}/packet").raise_for_status().json(),
                "a packet",
            )
            assert packet["mission"]["state"] == "completed", packet["mission"]
            assert [one["reviewer"] for one in reviews(client, packet)] == ["root"]


def reviews(client: httpx.Client, packet: dict[str, Any]) -> list[dict[str, Any]]:
    """The root's reviews of the attempt that counted: exactly one, however often a process died."""
    found = []
    for artifact in packet["artifacts"]:
        if artifact["schema_name"] == "review_packet" and artifact["producer"] == "root":
            url = f"/v1/missions/{packet['mission']['id']}/artifacts/{artifact['id']}"
            found.append(client.get(url).raise_for_status().json()["content"])
    return found


LOCK = "SELECT FROM mission WHERE id = ANY ($1::text[]::uuid[]) ORDER BY tenant, id FOR UPDATE"


@contextmanager
def locked(instance: Instance, missions: list[str]) -> Iterator[int]:
    """Nobody else can change these missions meanwhile. The pid of the session that holds them."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(instance.said["databases"]["owner"]))
        try:
            runner.run(connection.execute("BEGIN"))
            runner.run(connection.execute(LOCK, missions))
            yield connection.get_server_pid()
        finally:
            runner.run(connection.close())


# A call of many that failed as a whole is being taken one mission after another, and some of it is kept: whoever waits for the holder
# has written nothing in its transaction, because the call's nonce, which comes first, was used with what is kept.
CUT = """
  SELECT count(*) > 0 FROM pg_stat_activity
  WHERE application_name = 'mission-root api' AND query LIKE '%hold_missions%' AND backend_xid IS NULL
    AND $1 = ANY (pg_blocking_pids(pid))"""


def test_a_call_of_many_that_a_kill_cuts_in_two_is_taken_once(instance: Instance) -> None:
    """What it says of most of its missions is kept, of the others it cannot be, and the root dies. The colony says all of it again."""
    with instance.client("submitter") as client:
        missions = [
            create(client, "oracle_advisory", "What happens before a writeback is executed?") for _ in range(24)
        ]
        until(lambda: seen(client, missions[0], "mission.running"), "they are under way")
        with locked(instance, missions[::4]) as holder:
            until(lambda: instance.sql(CUT, holder)[0][0], "a call of many is kept in part")
            instance.kill("serve")
        for mission in missions:
            until(lambda mission=mission: state(client, mission) in ("completed", "failed"), f"{mission} has ended")
        for mission in missions:
            packet = client.get(f"/v1/missions/{mission}/packet").raise_for_status().json()
            assert packet["mission"]["state"] == "completed", packet["mission"]
            assert [one["reviewer"] for one in reviews(client, packet)] == ["root"]
            assert not twice(client, mission)


def twice(client: httpx.Client, mission: str) -> dict[Any, int]:
    """What one attempt of a colony has said more often than once, of what it says once."""
    items = client.get(f"/v1/missions/{mission}/events", params={"limit": 200}).raise_for_status().json()["items"]
    said = Counter(
        (item["type"], item["body"]["attempt"], item["body"].get("stage"))
        for item in items
        if item["type"] in ("stage.started", "stage.completed", "colony.signalled")
    )
    assert said, items
    return {what: count for what, count in said.items() if count > 1}


@pytest.mark.parametrize("victim", ["executor", "crm", "worker"])
def test_a_killed_process_never_writes_twice(instance: Instance, victim: str) -> None:
    before = changes_in_crm(instance)
    with instance.client("submitter") as client:
        mission = create(client, "crm_lead_intelligence", "Which leads deserve a call, and why?")
        until(lambda: state(client, mission) == "awaiting_approval", "there is something to approve")
        writebacks = approve_all(instance, mission)
        assert len(writebacks) >= 2
        instance.kill(victim)
        until(lambda: state(client, mission) == "completed", "the mission is completed")
        settled = [client.get(f"/v1/writebacks/{one}").raise_for_status().json() for one in writebacks]
    assert {one["state"] for one in settled} == {"succeeded"}, [(one["state"], one["receipt"]) for one in settled]
    assert all(one["read_back_sha256"] == one["payload_sha256"] for one in settled)
    after = changes_in_crm(instance)
    assert {one["target"]: after[one["target"]] - before.get(one["target"], 0) for one in settled} == {
        one["target"]: 1 for one in settled
    }
    restore_crm(instance)
