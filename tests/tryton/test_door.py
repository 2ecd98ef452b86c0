"""An opportunity in a real Tryton, from a colony's proposal through the public door and the executor, and back."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app import work
from app.executor import Claimed, Executor, carry_out
from tests.approvals.desk import post
from tests.tryton.office import Desk, decimal
from tests.tryton.prepare import DATABASE, USERS
from tests.tryton.server import Tryton
from tests.tryton.wire import Wire, wire
from tests.world import World
from tests.world.checks import hire, inspector
from tests.world.colony import proposal

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("tryton")]
READ = {"CONNECTOR_DEMO__TRYTON_READ": f"root-read:{USERS['root-read']}"}
WRITE = {"CONNECTOR_DEMO__TRYTON_WRITE": f"root-write:{USERS['root-write']}"}
TRANSITIONS = """
@id("tryton.transitions") @reason("A lead may be proposed to go through its states.")
permit (principal, action == Action::"writeback.propose", resource)
when { resource.connector == "tryton" && resource.operation == "transition" };
"""


@dataclass
class Office:
    """The root, connected to Tryton by a wire that a test can cut."""

    world: World
    line: Wire
    olga: Desk

    async def propose(self, lead: str, operation: str = "update", **changes: Any) -> UUID:
        """A colony reads a lead and proposes a change, which is reviewed; the mission."""
        dispatch = await self.world.dispatch(mission_type="crm_lead_intelligence")
        record = await self.world.colony.tool(dispatch, "crm.read", connector="tryton", kind="opportunity", id=lead)
        made = proposal(dispatch.envelope, record, changes, connector="tryton", operation=operation)
        await self.world.colony.complete(dispatch, proposals=[made])
        await self.world.run_work("review")
        return UUID(str(dispatch.mission_id))

    async def approvals(self, mission: UUID) -> list[dict[str, Any]]:
        items = (await self.world.operator.get(f"/v1/approvals?mission={mission}")).json()["items"]
        return [(await self.world.operator.get(f"/v1/approvals/{one['id']}")).json() for one in items]

    async def approved(self, lead: str, operation: str = "update", **changes: Any) -> str:
        """The id of a writeback that a human has approved."""
        [approval] = await self.approvals(await self.propose(lead, operation, **changes))
        answer = await post(self.world.operator, approval)
        assert answer.status_code == 201, answer.text
        return str(approval["writeback_id"])

    def executor(self, **more: Any) -> Executor:
        settings: dict[str, Any] = {
            "outbound_allowed_hosts": "127.0.0.1",
            "connector_credentials": WRITE,
        }
        return self.world.executor(**(settings | more))

    async def run(self, writeback: str, executor: Executor | None = None) -> dict[str, Any]:
        """One turn of an executor, now; the writeback as it then is."""
        await self.due(writeback)
        await self.world.run_executor(executor or self.executor())
        await self.world.run_work("progress")
        return await self.seen(writeback)

    async def due(self, writeback: str) -> None:
        connection, id = await inspector(self.world), UUID(writeback)
        await connection.execute("UPDATE work SET next_at = now(), lease_until = NULL WHERE subject = $1", id)
        await connection.execute(
            "UPDATE execution SET lease_until = now() WHERE writeback = $1 AND settled_at IS NULL", id
        )

    async def seen(self, writeback: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.world.auditor.get(f"/v1/writebacks/{writeback}")).json()
        return found

    async def facts(self, mission: UUID, type: str) -> list[dict[str, Any]]:
        return [json.loads(fact["body"]) for fact in await self.world.facts(mission) if fact["type"] == type]


@pytest.fixture
async def office(world: World, tryton: Tryton, olga: Desk) -> AsyncIterator[Office]:
    async with wire(tryton) as line:
        world.more |= {"outbound_allowed_hosts": "127.0.0.1", "connector_credentials": READ}
        settings = world.settings()
        world.public.state.settings = world.internal.state.settings = world.worker.settings = settings
        admin = await hire(world, "adam", "admin")
        made = await admin.http.put(
            "/v1/connectors/tryton", json={"kind": "tryton", "base_url": line.url, "database": DATABASE}
        )
        assert made.status_code == 201, made.text
        assert set(made.json()["credentials"].values()) == {*READ, *WRITE}
        await world.no_undo_window()
        yield Office(world, line, olga)


async def test_an_approved_change_is_in_tryton_and_a_second_one_finds_nothing_to_do(
    office: Office, tryton: Tryton
) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, amount="42000", comment="Wants forty trucks, not twelve.")
    assert office.olga.revisions(lead) == ["olga"]  # approved is not executed
    seen = await office.run(writeback)
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "applied")
    somebody = Desk(tryton, "nils")  # who has had no part in it
    shown = somebody.shows(lead, "amount", "comment", "description")
    assert (shown["amount"], shown["comment"]) == (decimal("42000"), "Wants forty trucks, not twelve.")
    assert shown["description"] == "Twelve trucks"  # what nobody approved stays
    assert somebody.revisions(lead) == ["root-write", "olga"]
    assert seen["receipt"]["receipt"]["revision"] == seen["receipt"]["observed_version"] == shown["_timestamp"]

    again = await office.propose(lead, amount="42000", comment="Wants forty trucks, not twelve.")
    assert await office.approvals(again) == []
    [withheld] = await office.facts(again, "writeback.withheld")
    assert (withheld["connector"], withheld["reason"]) == ("tryton", "already_so")
    assert (await office.world.mission(again))["state"] == "completed"
    assert somebody.revisions(lead) == ["root-write", "olga"]


async def test_what_became_so_after_it_was_asked_is_not_written_again(office: Office) -> None:
    """Two colonies ask for the same; a human approves both. One of them is written, the other one finds it moved."""
    lead = office.olga.lead()
    first, second = await office.propose(lead, comment="Call me"), await office.propose(lead, comment="Call me")
    ids = []
    for mission in (first, second):
        [approval] = await office.approvals(mission)
        assert (await post(office.world.operator, approval)).status_code == 201
        ids.append(approval["writeback_id"])
    ends = [await office.run(id) for id in ids]
    assert [end["state"] for end in ends] == ["succeeded", "succeeded"]
    assert ends[0]["receipt"]["receipt"]["revision"] == ends[1]["receipt"]["receipt"]["revision"]
    assert office.olga.revisions(lead) == ["root-write", "olga"]


async def test_the_executor_looks_before_it_writes(office: Office) -> None:
    """The worker could not look; the executor does, and leaves Tryton alone."""
    lead = office.olga.lead(comment="Call me")
    office.world.worker.settings = office.world.settings(connector_credentials={})
    writeback = await office.approved(lead, comment="Call me")
    seen = await office.run(writeback)
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "nothing_to_do")
    assert (office.line.changes, office.olga.revisions(lead)) == (0, ["olga"])


async def test_a_lead_becomes_an_opportunity_where_policy_lets_it_be_proposed(office: Office) -> None:
    lead = office.olga.lead(employee=office.olga.employee())
    by_default = await office.propose(lead, "transition", state="opportunity")
    assert await office.approvals(by_default) == [] and await office.facts(by_default, "writeback.denied")
    put = await office.world.policy_owner.put("/v1/policies/tryton", json={"text": TRANSITIONS})
    assert put.status_code == 201, put.text
    seen = await office.run(await office.approved(lead, "transition", state="opportunity"))
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "applied")
    assert office.olga.shows(lead, "state")["state"] == "opportunity"


async def test_what_olga_changed_meanwhile_is_not_overwritten(office: Office) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    office.olga.change(lead, comment="Do not call him")
    seen = await office.run(writeback)
    assert (seen["state"], seen["receipt"]["finding"]) == ("stale", "stale")
    assert office.olga.shows(lead, "comment")["comment"] == "Do not call him"
    assert office.olga.revisions(lead) == ["olga", "olga"]


async def test_tryton_dies_before_the_change_happened(office: Office, tryton: Tryton) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    office.line.before = tryton.kill
    assert await ends_unknown(office, writeback)
    assert (await office.run(writeback))["state"] == "unknown"  # it is still away: nobody guesses
    tryton.start()
    assert office.olga.revisions(lead) == ["olga"]
    seen = await office.run(writeback)
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "applied")
    assert office.olga.revisions(lead) == ["root-write", "olga"]


async def test_tryton_dies_after_the_change_happened(office: Office, tryton: Tryton) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    office.line.after = tryton.kill
    assert await ends_unknown(office, writeback)
    tryton.start()
    assert office.olga.revisions(lead) == ["root-write", "olga"]
    sent = office.line.changes
    seen = await office.run(writeback)
    assert (seen["state"], seen["receipt"]["finding"]) == ("succeeded", "applied")
    assert office.line.changes == sent  # asked, not written again
    assert office.olga.revisions(lead) == ["root-write", "olga"]


async def test_tryton_stands_still_until_nobody_waits_and_does_it_then(office: Office, tryton: Tryton) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    executor = office.executor()
    await office.due(writeback)
    [item] = await work.take(executor.database, "execute", 1, timedelta(seconds=30))
    claimed = await executor.claim(item)
    assert isinstance(claimed, Claimed)
    stood = asyncio.Event()
    office.line.before = lambda: (tryton.freeze(), stood.set())[1]
    turn = asyncio.create_task(carry_out(claimed, executor.settings))
    await stood.wait()
    turn.cancel()  # the executor is ended while it waits for Tryton
    await asyncio.gather(turn, return_exceptions=True)
    tryton.thaw()
    async with asyncio.timeout(30):
        while len(office.olga.revisions(lead)) < 2:
            await asyncio.sleep(0.05)
    sent = office.line.changes
    seen = await office.run(writeback)
    assert (seen["state"], office.line.changes) == ("succeeded", sent)
    assert office.olga.revisions(lead) == ["root-write", "olga"]


async def test_a_record_that_moved_on_while_the_outcome_was_unknown_is_stale(office: Office, tryton: Tryton) -> None:
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    office.line.before = tryton.kill
    assert await ends_unknown(office, writeback)
    tryton.start()
    office.olga.change(lead, comment="Do not call him")
    assert (await office.run(writeback))["state"] == "stale"
    assert office.olga.revisions(lead) == ["olga", "olga"]


async def ends_unknown(office: Office, writeback: str) -> bool:
    seen = await office.run(writeback)
    return (seen["state"], seen["receipt"]["finding"]) == ("unknown", "unknown")


async def test_only_the_executor_can_change_tryton(office: Office) -> None:
    """Without the write account nothing is sent, and with the read account in its place Tryton says no."""
    lead = office.olga.lead()
    writeback = await office.approved(lead, comment="Call me")
    without = await office.run(writeback, office.executor(connector_credentials=READ))
    assert (without["state"], without["receipt"]["finding"]) == ("executing", "not_applied_yet")
    swapped = {"CONNECTOR_DEMO__TRYTON_WRITE": READ["CONNECTOR_DEMO__TRYTON_READ"]}
    refused = await office.run(writeback, office.executor(connector_credentials=swapped))
    assert (refused["state"], refused["receipt"]["finding"]) == ("failed", "refused")
    assert "not allowed" in refused["receipt"]["detail"]
    assert office.olga.revisions(lead) == ["olga"]


async def test_no_other_process_starts_with_the_write_account(office: Office) -> None:
    assert office.world.root.settings.write_credentials() == office.world.worker.settings.write_credentials() == []
    ends = await asyncio.gather(*(started_with_it(module) for module in ("app.main", "app.worker")))
    for code, said in ends:
        assert code
        assert b"CONNECTOR_DEMO__TRYTON_WRITE" in said and USERS["root-write"].encode() not in said


async def started_with_it(module: str) -> tuple[int | None, bytes]:
    """How a process of the root ends that finds the write account in its environment, and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env={"PATH": os.environ["PATH"]} | WRITE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    return process.returncode, said
