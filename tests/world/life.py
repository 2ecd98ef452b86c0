"""One mission in a test's hands: every door it can be moved through, and what the passing of time does to it."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import asyncpg

from app.clock import now
from app.operations import liveness
from colony_client import artifacts, contract
from tests.world.checks import inspector
from tests.world.colony import aggregation, proposal
from tests.world.world import World

GUIDE = (
    "# Rollback\n\nA rollback takes four minutes and needs two people: one reverts the release, one watches the queue.\n\n"
    "# Freeze\n\nNo release leaves between Friday noon and Monday morning, whatever the reason: größer ist nicht besser.\n"
)
OPEN = ("accepted", "dispatched", "running", "in_review", "awaiting_approval", "executing")


@dataclass
class Life:
    """A mission, the last dispatch of it that the colony saw, and how many events of that attempt were sent."""

    world: World
    id: UUID
    sent: dict[int, int] = field(default_factory=dict)

    # --- the colony

    @property
    def dispatch(self) -> contract.Dispatch:
        return [one for one in self.world.colony.dispatched if one.mission_id == self.id][-1]

    async def take(self) -> None:
        """The colony is offered what waits, and takes it."""
        await self.world.run_work("dispatch")

    def events(self, *bodies: dict[str, Any]) -> list[contract.Event]:
        """The next events of the current attempt, from their bodies without seq and time."""
        first = self.sent.get(self.dispatch.attempt, 0) + 1
        return [event(first + index, **body) for index, body in enumerate(bodies)]

    async def say(self, *bodies: dict[str, Any]) -> Any:
        """Sends the next events of the current attempt; what was refused counts as not sent."""
        sending = self.events(*bodies)
        receipt = await self.world.colony.send(self.dispatch, *sending)
        self.sent[self.dispatch.attempt] = self.sent.get(self.dispatch.attempt, 0) + len(sending)
        return receipt

    async def signal(self, name: str) -> Any:
        return await self.say({"type": "signal", "signal": name, "reason": f"the colony says {name}"})

    async def show(self) -> list[artifacts.Citation]:
        """Lets the mission look at its workspace; answers honest citations of what it was shown."""
        await give_guide(self.world)
        found = await self.world.colony.tool(self.dispatch, "workspace.search", query="rollback release", limit=5)
        return [cited(passage) for passage in found["passages"]]

    async def complete(self, proposals: int = 0, *, honest: bool = True) -> Any:
        """An attempt that ends well: one claim, some proposals, the signal. honest=False quotes what nobody wrote."""
        [citation, *_] = await self.show()
        if not honest:
            citation = citation.model_copy(update={"quote": "x" * len(citation.quote)})
        envelope = self.dispatch.envelope
        made = [change(envelope, [citation], number) for number in range(proposals)]
        claim = artifacts.Claim(id="c1", text="A rollback takes four minutes.", citations=[citation])
        return await self.say(
            *({"type": "writeback.proposed", "proposal": one} for one in made),
            {"type": "artifact.produced", "artifact": aggregation(envelope, [claim], proposals)},
            {"type": "signal", "signal": "complete"},
        )

    # --- people

    async def approvals(self, state: str = "pending") -> list[dict[str, Any]]:
        answer = await self.world.operator.get(f"/v1/approvals?mission={self.id}&state={state}")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return sorted(items, key=lambda one: one["created_at"])

    async def decide(self, verdict: Literal["approve", "reject"], approval: dict[str, Any] | None = None) -> Any:
        """The operator decides the oldest pending approval, or the one given."""
        found = approval or (await self.approvals())[0]
        return await self.world.operator.post(
            f"/v1/approvals/{found['id']}/decisions",
            json={"decision": verdict, "payload_sha256": found["payload_sha256"], "comment": "as the test says"},
            headers={"If-Match": f'"v{found["version"]}"'},
        )

    async def end(self, verb: Literal["cancel", "fail", "redispatch"]) -> Any:
        row = await self.row()
        return await self.world.operator.post(
            f"/v1/missions/{self.id}/{verb}",
            json={"reason": "as the test says"},
            headers={"If-Match": f'"v{row["version"]}"'},
        )

    # --- time

    async def lose_lease(self) -> None:
        """The lease runs out and its timer falls due; what the colony says of it is in colony.statuses."""
        await self.past("lease_until")
        await due(self.world, "attempt_timer", self.id)
        await self.world.run_work("attempt_timer")

    async def pass_deadline(self) -> None:
        await self.past("deadline_at")
        await due(self.world, "attempt_timer", self.id)
        await due(self.world, "dispatch", self.id)
        await self.world.run_work("attempt_timer", "dispatch")

    async def past(self, column: str) -> None:
        """A moment that the row waits for lies a second back."""
        connection = await inspector(self.world)
        await connection.execute(
            f"UPDATE mission SET {column} = clock_timestamp() - interval '1 second' WHERE id = $1 AND {column} IS NOT NULL",
            self.id,
        )

    async def outlive(self, approval: UUID | str) -> None:
        """An approval's life is over: its clock is moved, which no role of the product can, and its timer rings."""
        connection = await inspector(self.world)
        async with connection.transaction():
            await connection.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
            await connection.execute(
                "UPDATE approval SET expires_at = clock_timestamp() - interval '1 second' WHERE id = $1",
                UUID(str(approval)),
            )
            await connection.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
        await due(self.world, "approval_timer", UUID(str(approval)))
        await self.world.run_work("approval_timer")

    # --- the executor, at the wall's own doors

    async def claim(self, writeback: str) -> asyncpg.Record:
        """The executor claims an approved writeback as if its undo window were over."""
        connection = await inspector(self.world)
        async with connection.transaction():
            await connection.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
            await connection.execute(
                "UPDATE approval SET not_before = clock_timestamp() WHERE writeback = $1", UUID(writeback)
            )
            await connection.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")
            await connection.execute(
                "UPDATE execution SET lease_until = clock_timestamp() WHERE writeback = $1", UUID(writeback)
            )
        return await self._wall("SELECT * FROM claim($1, $2, interval '30 seconds')", UUID(writeback))

    async def settle(
        self, claimed: asyncpg.Record, writeback: str, state: str, over: asyncpg.Connection | None = None
    ) -> bool:
        observed = claimed["payload"] if state == "succeeded" else None
        values = UUID(writeback), claimed["fence"], state, b"{}", observed
        said = await self._wall("SELECT settle($1, $2, $3, $4, $5, $6) AS held", *values, over=over)
        return bool(said["held"])

    async def _wall(self, statement: str, *values: Any, over: asyncpg.Connection | None = None) -> asyncpg.Record:
        connection, tenant = over or await role(self.world, "executor"), await demo(self.world)
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
            row = await connection.fetchrow(statement, tenant, *values)
        assert row is not None
        return row

    # --- what is known

    async def row(self) -> dict[str, Any]:
        found = await (await inspector(self.world)).fetchrow("SELECT * FROM mission WHERE id = $1", self.id)
        assert found is not None
        return dict(found) | {"writebacks": json.loads(found["writebacks"]), "labels": json.loads(found["labels"])}

    async def state(self) -> str:
        return str(await (await inspector(self.world)).fetchval("SELECT state FROM mission WHERE id = $1", self.id))

    async def facts(self, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(type, body) of the mission's facts, in order."""
        rows = await (await inspector(self.world)).fetch(
            "SELECT type, convert_from(body, 'UTF8') AS body FROM ledger WHERE subject = $1 AND type LIKE $2 ORDER BY seq",
            self.id,
            f"{prefix}%",
        )
        return [(row["type"], json.loads(row["body"])) for row in rows]

    async def writebacks(self) -> list[dict[str, Any]]:
        answer = await self.world.operator.get(f"/v1/writebacks?mission={self.id}&limit=200")
        items: list[dict[str, Any]] = answer.json()["items"]
        return sorted(items, key=lambda one: (one["created_at"], one["id"]))

    async def quarantined(self) -> list[tuple[str, bytes]]:
        """(origin, bytes) of the payloads that were refused for this mission."""
        rows = await (await inspector(self.world)).fetch(
            "SELECT origin, bytes FROM quarantine WHERE mission = $1 ORDER BY at", self.id
        )
        return [(row["origin"], row["bytes"]) for row in rows]


async def begin(world: World, **ask: Any) -> Life:
    """A mission of the submitter, accepted and waiting."""
    return Life(world, UUID((await world.create(**ask))["id"]))


async def under_way(world: World, **ask: Any) -> Life:
    """A mission that the colony has taken and has said its first word about."""
    life = await begin(world, **ask)
    await life.take()
    await life.say()
    return life


async def in_state(world: World, state: str) -> Life:
    """A mission in an open state, brought there through the doors. awaiting_approval: of its proposals."""
    life = await begin(world)
    steps: dict[str, Any] = {
        "dispatched": life.take,
        "running": life.say,
        "in_review": lambda: life.complete(proposals=2),
        "awaiting_approval": lambda: world.run_work("review"),
        "executing": lambda: approve_all(life),
    }
    for reached in OPEN[1 : OPEN.index(state) + 1]:
        await steps[reached]()
    assert await life.state() == state
    return life


async def asked_at_intake(world: World) -> Life:
    """A mission that waits for a human before it runs."""
    life = await begin(world, mode="autonomous", risk_level="medium")
    await world.run_work("ask")
    return life


async def escalated(world: World) -> Life:
    """A mission whose colony asked a human."""
    life = await under_way(world)
    await life.signal("escalate")
    return life


async def approve_all(life: Life) -> None:
    for approval in await life.approvals():
        answer = await life.decide("approve", approval)
        assert answer.status_code == 201, answer.text


def event(seq: int, **body: Any) -> contract.Event:
    """An event from its body without seq and time."""
    kinds = {kind.model_fields["type"].default: kind for kind in EVENT_KINDS}
    made: contract.Event = kinds[body["type"]](seq=seq, at=now(), **body)
    return made


EVENT_KINDS: tuple[Any, ...] = (
    contract.StageStarted,
    contract.StageCompleted,
    contract.ArtifactProduced,
    contract.Signal,
    contract.CheckpointSaved,
    contract.ProviderFailed,
    contract.UsageReported,
    contract.WritebackProposed,
    contract.Log,
)


def cited(passage: dict[str, Any], start: int = 0, end: int | None = None) -> artifacts.Citation:
    """An honest citation of a passage as workspace.search gave it, or of some of its bytes."""
    data = passage["text"].encode()
    quote = data[start:end]
    return artifacts.Citation(
        source=passage["source"],
        document=passage["document"],
        start=passage["start"] + start,
        end=passage["start"] + start + len(quote),
        quote=quote.decode(),
        quote_sha256=artifacts.quote_sha256(quote),
    )


def change(
    envelope: artifacts.MissionEnvelope, evidence: list[artifacts.Citation], number: int = 0, **more: Any
) -> artifacts.WritebackProposal:
    """A proposal to change a lead of the CRM, with evidence that need not come from the CRM."""
    record = {"kind": "lead", "record_id": f"L-{1001 + number}", "version": "1", "text": "-", "source": "0" * 64}
    changes = more.pop("changes", {"status": f"step {number}"})
    return proposal(envelope, record | {"document": "-"}, changes, evidence=evidence, **more)


async def give_guide(world: World, text: str = GUIDE, path: str = "guide.md", workspace: str = "default") -> str:
    """Puts a document into a workspace; answers the hash of its text."""
    answer = await world.submitter.put(f"/v1/workspaces/{workspace}/documents?path={path}", content=text.encode())
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["source"])


async def due(world: World, kind: str, subject: UUID) -> None:
    """One work item falls due now."""
    connection = await inspector(world)
    await connection.execute(
        "UPDATE work SET next_at = clock_timestamp(), lease_until = NULL WHERE kind = $1 AND subject = $2",
        kind,
        subject,
    )


async def demo(world: World) -> UUID:
    """The id of the demo tenant."""
    if "_demo" not in world.__dict__:
        world.__dict__["_demo"] = await (await inspector(world)).fetchval("SELECT id FROM tenant WHERE name = 'demo'")
    found: UUID = world.__dict__["_demo"]
    return found


async def role(world: World, name: str) -> asyncpg.Connection:
    """One connection as a database role for the whole life of a world."""
    known: dict[str, asyncpg.Connection] = world.__dict__.setdefault("_roles", {})
    if name not in known:
        known[name] = await world.connect(name)
    return known[name]


async def stuck(world: World) -> list[str]:
    """Missions that nothing would ever move again, without the five seconds of patience the reconciler has."""
    found, _ = await liveness.look(world.worker.database, await demo(world), timedelta(0))
    return [f"{one.mission} is {one.state}" for one in found]


async def reconcile(world: World) -> None:
    """One look of the reconciler at the demo tenant, as the worker takes it."""
    connection, tenant = await inspector(world), await demo(world)
    await connection.execute("SELECT restore_liveness_work()")
    await due(world, "liveness", tenant)
    assert await world.run_work("liveness", rounds=1) >= 1


async def age(life: Life) -> None:
    """The mission has been as it is for a while; the row's own clock is set back, which no role of the product can."""
    connection = await inspector(life.world)
    async with connection.transaction():
        await connection.execute("ALTER TABLE mission DISABLE TRIGGER mission_guard")
        await connection.execute(
            "UPDATE mission SET updated_at = updated_at - interval '1 minute' WHERE id = $1", life.id
        )
        await connection.execute("ALTER TABLE mission ENABLE ALWAYS TRIGGER mission_guard")


async def by_force(world: World, *statements: str, life: Life) -> None:
    """What no role of the product may do, with every guard off."""
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for table in ("mission", "approval", "execution"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in statements:
            await connection.execute(statement, life.id)
        for table in ("mission", "approval", "execution"):
            for (name,) in await connection.fetch(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal", table
            ):
                await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    await age(life)
