"""A change on its way to a real sample CRM, and what these tests do to it on the way."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from app import work
from app.executor import Claimed, Executor, Outcome, carry_out
from sample_crm.service import Failures
from tests.approvals.desk import post
from tests.world import World
from tests.world.checks import inspector, pending_change
from tests.world.world import READ_TOKEN, WRITE_TOKEN


@dataclass
class Change:
    """An approved writeback to a lead, due for the executor."""

    world: World
    approval: dict[str, Any]
    failures: Failures

    def __post_init__(self) -> None:
        self.id = UUID(self.approval["writeback_id"])
        self.target = f"{self.approval['payload']['target']['kind']}/{self.approval['payload']['target']['id']}"

    # --- the pieces of an executor's turn

    async def item(self, executor: Executor) -> work.Item:
        """The work of this writeback, leased, whoever held it before."""
        await self.due()
        [item] = await work.take(executor.database, "execute", 8, timedelta(seconds=30))
        assert item.subject == self.id
        return item

    async def claim(self, executor: Executor) -> tuple[work.Item, Claimed]:
        item = await self.item(executor)
        claimed = await executor.claim(item)
        assert isinstance(claimed, Claimed), claimed
        return item, claimed

    async def call(self, executor: Executor, claimed: Claimed) -> Outcome | None:
        """The calls of one turn, without settling what came of them."""
        return await carry_out(claimed, executor.settings)

    async def run(self, executor: Executor | None = None) -> dict[str, Any]:
        """One whole turn of an executor, now; answers the writeback as it then is."""
        await self.due()
        await self.world.run_executor(executor)
        await self.world.run_work("progress")
        return await self.seen()

    # --- time

    async def due(self) -> None:
        """Leases of the work and of the execution have run out."""
        connection = await inspector(self.world)
        await connection.execute("UPDATE work SET next_at = now(), lease_until = NULL WHERE subject = $1", self.id)
        await connection.execute(
            "UPDATE execution SET lease_until = now() WHERE writeback = $1 AND settled_at IS NULL", self.id
        )

    async def ends(self, ago: timedelta = timedelta(0)) -> None:
        """The approval's time ran out that long ago: a clock that no role can move."""
        connection = await inspector(self.world)
        async with connection.transaction():
            for table, column in (("execution", "not_after"), ("approval", "expires_at")):
                await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_guard")
                await connection.execute(
                    f"UPDATE {table} SET {column} = now() - $2::interval WHERE writeback = $1", self.id, ago
                )
                await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_guard")

    async def halt(self, halted: bool = True) -> None:
        verb = "halt" if halted else "resume"
        answer = await self.world.admin.post(f"/v1/connectors/sample_crm/{verb}", json={"reason": "as the test says"})
        assert answer.status_code == 200, answer.text

    async def cancel(self) -> None:
        mission = await self.world.operator.get(f"/v1/missions/{self.approval['mission_id']}")
        answer = await self.world.operator.post(
            f"/v1/missions/{self.approval['mission_id']}/cancel",
            json={"reason": "as the test says"},
            headers={"If-Match": mission.headers["etag"]},
        )
        assert answer.status_code == 200, answer.text

    # --- what came of it

    async def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.world.auditor.get(f"/v1/writebacks/{self.id}")).json()
        return found

    async def mission(self) -> tuple[str, dict[str, int]]:
        found = await self.world.mission(self.approval["mission_id"])
        return found["state"], found["writebacks"]

    async def changes(self) -> list[dict[str, Any]]:
        """The CRM's own table of changes applied to the record."""
        items: list[dict[str, Any]] = (await self.crm("GET", f"/changes/{self.target}"))["items"]
        return items

    async def record(self) -> dict[str, Any]:
        return await self.crm("GET", f"/records/{self.target}")

    async def somebody_else_changes(self, **changes: Any) -> None:
        """Another user of the CRM changes the record."""
        version = (await self.record())["version"]
        headers = {"Idempotency-Key": f"other-{version}", "If-Match": f'"v{version}"'}
        await self.crm("PATCH", f"/records/{self.target}", headers, {"changes": changes})

    async def crm(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> dict[str, Any]:
        token = READ_TOKEN if method == "GET" else WRITE_TOKEN
        assert self.world.crm_base_url is not None
        async with httpx.AsyncClient(base_url=self.world.crm_base_url, trust_env=False) as client:
            answer = await client.request(
                method, path, headers={"Authorization": f"Bearer {token}", **(headers or {})}, json=body
            )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def approved_change(world: World, *, undo_window: bool = False) -> Change:
    """A change of a lead's priority that a human has approved."""
    failures = Failures()
    if world.crm_base_url is None:
        await world.with_crm(failures)
    if not undo_window:
        await world.no_undo_window()
    approval = await pending_change(world)
    answer = await post(world.operator, approval)
    assert answer.status_code == 201, answer.text
    return Change(world, approval, failures)
