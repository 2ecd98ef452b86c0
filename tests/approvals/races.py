"""Races at the wall's own doors: two calls at once about one writeback, thousands of times, and only allowed ends.

    python -m tests.approvals.races [--turns N] [--only TEXT] [--seed N]

Each turn has a writeback, a mission and two connections of its own roles. What is left behind is read afterwards, for all
turns at once: the approval's state, its executions, votes, facts, successors. Exits 1 when anything else was seen.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from app.bootstrap import LOGIN_ROLES, bootstrap
from app.embedded import ephemeral
from app.migrate import upgrade
from tests.conftest import PREFIX, TEMPLATE, Cluster
from tests.walls.ground import Ground, insert, laid, payload

BATCH = 500


@dataclass
class Turn:
    """One writeback before the wall. end: when its approval expires, where the race is about that."""

    mission: UUID
    writeback: UUID
    approval: UUID
    payload: bytes
    sha256: bytes
    answers: list[Any] = field(default_factory=list)
    end: float = 0.0


Call = Callable[["Arena", Turn], Awaitable[Any]]
# answers of the first and of the second call, state of the approval, executions
End = tuple[Any, Any, str, int]


@dataclass(frozen=True)
class Race:
    """Two calls, what may come of them, and how the stage is set. after: puts back what a turn took away."""

    first: Call
    second: Call
    allowed: frozenset[End]
    connector: str = "crm"
    approved: bool = False
    voted: bool = False
    expiring: bool = False
    check: Callable[[asyncpg.Record, Turn], bool] | None = None
    after: Call | None = None


class Arena:
    """A ground with connections that have entered its tenant for good: one statement is one transaction."""

    def __init__(self, ground: Ground, dice: random.Random) -> None:
        self.ground, self.dice = ground, dice
        self.lines: dict[str, asyncpg.Connection] = {}

    async def open(self) -> None:
        for name, role in (("api", "api"), ("api2", "api"), ("worker", "worker"), ("worker2", "worker"), ("executor", "executor"),
                           ("executor2", "executor"), ("registrar", "registrar")):  # fmt: skip
            self.lines[name] = await self.ground.connect(role)
            await self.lines[name].execute("SELECT set_config('app.tenant', $1, false)", str(self.ground.tenant))
        await self.ground.rule(
            "steps",
            may_escalate_to=["admin"],
            hops=[{"after_s": 0.001, "kind": "remind"}, {"after_s": 0.002, "kind": "escalate", "role": "admin"}],
        )
        for connector in ("crm", "two", "steps"):
            await self.ground.connector(connector)

    async def say(self, line: str, statement: str, *args: Any) -> Any:
        return await self.lines[line].fetchval(statement, self.ground.tenant, *args)

    async def stage(self, race: Race, number: int) -> list[Turn]:
        """So many writebacks, each of its own mission and record, asked about in four statements."""
        turns = []
        for _ in range(number):
            said = payload(race.connector, target={"id": f"L-{uuid4()}", "kind": "lead"})
            turns.append(Turn(uuid4(), uuid4(), uuid4(), said, hashlib.sha256(said).digest()))
        ground = self.ground
        tenant, proposals = ground.tenant, [uuid4() for _ in turns]
        missions = [turn.mission for turn in turns]
        async with ground.within("owner") as owner:  # as take_in() does
            columns = {
                "tenant": tenant, "id": None, "mission_type": "oracle_advisory", "type_version": 1, "mode": "assisted",
                "state": "awaiting_approval", "origin_surface": "race", "risk_level": "low", "sensitivity_class": "internal",
                "requested_by": ground.ids["asker"], "workspace": "default", "contract_hash": bytes(32), "budget_time_ms": 1000,
                "budget_tokens": 1, "budget_cost_usd": 1,
            }  # fmt: skip
            await owner.executemany(
                insert("mission", columns), [tuple((columns | {"id": id}).values()) for id in missions]
            )
        async with ground.within("api") as api:
            await api.execute(
                """INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
                   SELECT $1, p, m, 1, 'writeback_proposal', '1', 'race', convert_to('{"a":"' || p || '"}', 'UTF8')
                   FROM unnest($2::uuid[], $3::uuid[]) x (p, m)""",
                tenant, proposals, missions,
            )  # fmt: skip
            await api.execute(
                """INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason,
                     inputs)
                   SELECT $1, gen_random_uuid(), m, $2, 'writeback.propose',
                     (convert_from(b, 'UTF8')::jsonb ->> 'connector') || '.' || (convert_from(b, 'UTF8')::jsonb ->> 'operation'),
                     'allow', 'race', 'race', 'race', '{"context":{"risk_level":"low"}}' FROM unnest($3::uuid[], $4::bytea[]) x (m, b)""",
                tenant, ground.ids["asker"], missions, [turn.payload for turn in turns],
            )  # fmt: skip
            await api.execute(
                """INSERT INTO writeback (tenant, id, mission, requested_by, risk, payload, proposal)
                   SELECT $1, w, m, $2, 'low', b, p FROM unnest($3::uuid[], $4::uuid[], $5::bytea[], $6::uuid[]) x (w, m, b, p)""",
                tenant, ground.ids["asker"], [turn.writeback for turn in turns], missions, [turn.payload for turn in turns], proposals,
            )  # fmt: skip
            await api.execute(
                """INSERT INTO approval (tenant, id, mission, subject, writeback, requested_by, payload_sha256)
                   SELECT $1, a, m, 'writeback', w, $2, h FROM unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::bytea[]) x (a, m, w, h)""",
                tenant, ground.ids["asker"], [turn.approval for turn in turns], missions, [turn.writeback for turn in turns],
                [turn.sha256 for turn in turns],
            )  # fmt: skip
            if race.approved or race.voted:
                await api.execute(
                    """SELECT d.outcome FROM unnest($2::uuid[], $3::bytea[]) x (a, h),
                         LATERAL decide($1, x.a, $4, 1, x.h, 'approve', 'before') d""",
                    tenant, [turn.approval for turn in turns], [turn.sha256 for turn in turns], ground.secrets["cora"],
                )  # fmt: skip
        return turns

    async def set_clocks(self, turns: list[Turn]) -> None:
        """The approvals expire one after the other, each in its own turn."""
        begin = time.time() + 0.1
        for number, turn in enumerate(turns):
            turn.end = begin + 0.008 * number
        admin = await self.ground.of("admin")
        async with admin.transaction():
            await admin.execute("ALTER TABLE approval DISABLE TRIGGER approval_guard")
            await admin.execute(
                """UPDATE approval a SET expires_at = to_timestamp(x.at) FROM unnest($1::uuid[], $2::float8[]) x (id, at)
                   WHERE a.id = x.id""",
                [turn.approval for turn in turns], [turn.end for turn in turns],
            )  # fmt: skip
            await admin.execute("ALTER TABLE approval ENABLE ALWAYS TRIGGER approval_guard")

    async def run(self, race: Race, number: int) -> Counter[End]:
        """Runs a race so many times; raises AssertionError at the first end that is not allowed."""
        tally: Counter[End] = Counter()
        while number > 0:
            turns = await self.stage(race, min(number, 100 if race.expiring else BATCH))
            number -= len(turns)
            if race.expiring:
                await self.set_clocks(turns)
            for turn in turns:
                await self.turn(race, turn)
                if race.after is not None:
                    await race.after(self, turn)
            for turn, left in zip(turns, await self.left(turns), strict=True):
                end: End = (turn.answers[0], turn.answers[1], left["state"], left["executions"])
                assert end in race.allowed, f"{end} is not allowed: {dict(left)}"
                assert consistent(left), f"{end} left {dict(left)}"
                assert race.check is None or race.check(left, turn), f"{end} left {dict(left)}"
                tally[end] += 1
        return tally

    async def turn(self, race: Race, turn: Turn) -> None:
        """Both calls at once; who goes first, and by how little, is thrown."""
        if race.expiring:
            await asyncio.sleep(max(0.0, turn.end - 0.002 - time.time()))
        late = [0.0, self.dice.choice((0.0, 0.0003, 0.001, 0.003) if race.expiring else (0.0, 0.0, 0.0002, 0.0006))]
        self.dice.shuffle(late)
        calls = (race.first, race.second)
        order = self.dice.sample((0, 1), 2)

        async def go(which: int) -> Any:
            if late[which]:
                await asyncio.sleep(late[which])
            return await calls[which](self, turn)

        said = dict(zip(order, await asyncio.gather(*(go(which) for which in order)), strict=True))
        turn.answers = [said[0], said[1]]

    async def left(self, turns: list[Turn]) -> list[asyncpg.Record]:
        admin = await self.ground.of("admin")
        rows = await admin.fetch(
            """SELECT a.id, a.state, a.version, cardinality(a.climbed) AS climbed, a.glass_broken_by IS NOT NULL AS glass, a.required,
                 (SELECT count(*) FROM execution e WHERE e.approval = a.id AND e.tenant = a.tenant) AS executions,
                 (SELECT count(*) FROM decision d WHERE d.approval = a.id AND d.tenant = a.tenant AND verdict = 'approve') AS ayes,
                 (SELECT count(*) FROM decision d WHERE d.approval = a.id AND d.tenant = a.tenant AND verdict = 'reject') AS noes,
                 (SELECT count(*) FROM writeback n WHERE n.tenant = a.tenant AND n.predecessor = a.writeback AND n.revision = 2) AS heirs,
                 f.*
               FROM approval a, LATERAL (SELECT
                   count(*) FILTER (WHERE l.type = 'approval.decided') AS decided,
                   count(*) FILTER (WHERE l.type = 'approval.closed') AS closed,
                   count(*) FILTER (WHERE l.type = 'approval.superseded') AS superseded,
                   count(*) FILTER (WHERE l.type = 'approval.glass_broken') AS broken,
                   count(*) FILTER (WHERE l.type = 'approval.reminded') AS reminded,
                   count(*) FILTER (WHERE l.type = 'approval.escalated') AS escalated,
                   count(*) FILTER (WHERE l.type = 'writeback.claimed') AS claimed
                 FROM ledger l WHERE l.tenant = a.tenant AND l.subject = a.mission) f
               WHERE a.id = ANY ($1)""",
            [turn.approval for turn in turns],
        )
        found = {row["id"]: row for row in rows}
        return [found[turn.approval] for turn in turns]


def consistent(left: asyncpg.Record) -> bool:
    """What must hold whatever was raced: rows and facts agree, nothing executed unapproved, no step twice."""
    return bool(
        left["executions"] == left["claimed"] <= (left["state"] == "approved")
        and left["decided"] == left["ayes"] + left["noes"]
        and left["closed"] + left["superseded"] == (left["state"] in ("cancelled", "expired"))
        and left["superseded"] == left["heirs"] <= 1
        and left["broken"] == left["glass"]
        and left["reminded"] + left["escalated"] == left["climbed"]
        and (left["state"] != "approved" or left["ayes"] >= left["required"])
    )


# --- the calls --------------------------------------------------------------------------------------------------------


def decides(who: str, verdict: str = "approve", line: str = "api", version: int = 1) -> Call:
    statement = "SELECT outcome FROM decide($1, $2, $3, $4, $5, $6, 'raced')"

    async def call(arena: Arena, turn: Turn) -> Any:
        secret = arena.ground.secrets[who]
        return await arena.say(line, statement, turn.approval, secret, version, turn.sha256, verdict)

    return call


def breaks(who: str, line: str = "api2") -> Call:
    statement = "SELECT outcome FROM break_glass($1, $2, $3, 1, $4, 'raced')"

    async def call(arena: Arena, turn: Turn) -> Any:
        return await arena.say(line, statement, turn.approval, arena.ground.secrets[who], turn.sha256)

    return call


def revises(who: str, line: str = "api2", version: int = 1) -> Call:
    statement = "SELECT outcome FROM revise($1, $2, $3, $4, $5, $6, 'raced', NULL)"

    async def call(arena: Arena, turn: Turn) -> Any:
        said = json.loads(turn.payload) | {"changes": {"priority": "low"}}
        other = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        return await arena.say(line, statement, turn.approval, arena.ground.secrets[who], version, turn.sha256, other)

    return call


def withdraws(version: int, line: str = "api2") -> Call:
    statement = "SELECT outcome FROM withdraw($1, $2, $3, $4, 'raced')"

    async def call(arena: Arena, turn: Turn) -> Any:
        return await arena.say(line, statement, turn.approval, arena.ground.secrets["ben"], version)

    return call


def claims(line: str = "executor") -> Call:
    async def call(arena: Arena, turn: Turn) -> Any:
        return await arena.say(line, "SELECT outcome FROM claim($1, $2, interval '20 seconds')", turn.writeback)

    return call


def climbs(line: str = "worker") -> Call:
    async def call(arena: Arena, turn: Turn) -> Any:
        return await arena.say(
            line, "SELECT CASE WHEN climb($1, $2) IS NULL THEN 'over' ELSE 'later' END", turn.approval
        )

    return call


def revokes(who: str) -> Call:
    statement = """WITH gone AS (
        UPDATE role_grant SET revoked_at = clock_timestamp()
        WHERE tenant = $1 AND principal = $2 AND role = 'operator' AND revoked_at IS NULL RETURNING 1)
      SELECT CASE count(*) WHEN 1 THEN 'revoked' END FROM gone"""

    async def call(arena: Arena, turn: Turn) -> Any:
        return await arena.say("registrar", statement, arena.ground.ids[who])

    return call


def grants(who: str) -> Call:
    async def call(arena: Arena, turn: Turn) -> Any:
        await arena.lines["registrar"].execute(
            "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, 'operator')",
            arena.ground.tenant, arena.ground.ids[who],
        )  # fmt: skip

    return call


def either(*ends: End) -> frozenset[End]:
    """The ends, whichever of two like calls came first."""
    return frozenset([*ends, *((second, first, state, number) for first, second, state, number in ends)])


def none_or_both(left: asyncpg.Record, turn: Turn) -> bool:
    return (left["reminded"], left["escalated"]) in ((0, 0), (1, 1))


RACES: dict[str, Race] = {
    "two approve, one is enough": Race(
        decides("anna"), decides("ben", line="api2"), either(("approved", "not_pending", "approved", 0)),
    ),
    "two approve, both are needed": Race(
        decides("anna"), decides("ben", line="api2"), either(("recorded", "stale", "pending", 0)), connector="two",
    ),
    "one person approves twice": Race(
        decides("anna"), decides("anna", line="api2"), either(("approved", "already_decided", "approved", 0)),
    ),
    "approve, reject": Race(
        decides("anna"), decides("ben", "reject", "api2"),
        frozenset({("approved", "not_pending", "approved", 0), ("not_pending", "rejected", "rejected", 0)}),
    ),
    "approve, expire": Race(
        decides("anna"), climbs(),
        frozenset({
            ("approved", "later", "approved", 0), ("approved", "over", "expired", 0), ("expired", "over", "expired", 0),
            ("not_pending", "over", "expired", 0), ("expired", "later", "pending", 0),
        }), expiring=True,
    ),
    "approve, cancel": Race(
        decides("anna"), withdraws(1),
        frozenset({("approved", "stale", "approved", 0), ("not_pending", "cancelled", "cancelled", 0)}),
    ),
    "claim, cancel": Race(
        claims(), withdraws(2),
        frozenset({("apply", "claimed", "approved", 1), ("refused", "cancelled", "cancelled", 0)}), approved=True,
    ),
    "claim, expire": Race(
        claims(), climbs(),
        frozenset({
            ("apply", "later", "approved", 1), ("apply", "over", "approved", 1), ("refused", "over", "expired", 0),
            ("refused", "later", "approved", 0),
        }), approved=True, expiring=True,
    ),
    "claim, claim": Race(claims(), claims("executor2"), either(("apply", "busy", "approved", 1)), approved=True),
    "approve, one's own role revoked": Race(
        decides("anna"), revokes("anna"),
        frozenset({("approved", "revoked", "approved", 0), ("not_entitled", "revoked", "pending", 0)}), after=grants("anna"),
    ),
    "approve, the other's role revoked": Race(
        decides("anna", version=2), revokes("cora"),
        frozenset({("approved", "revoked", "approved", 0), ("recorded", "revoked", "pending", 0)}), connector="two", voted=True,
        after=grants("cora"),
    ),
    "approve, break the glass": Race(
        decides("anna"), breaks("gwen"),
        frozenset({("approved", "not_pending", "approved", 0), ("not_entitled", "recorded", "pending", 0)}),
    ),
    "two break the glass": Race(breaks("gwen", "api"), breaks("gus"), either(("recorded", "already_broken", "pending", 0))),
    "approve, revise": Race(
        decides("anna"), revises("ben"),
        frozenset({("approved", "stale", "approved", 0), ("not_pending", "revised", "cancelled", 0)}),
    ),
    "two revise": Race(revises("anna", "api"), revises("ben"), either(("revised", "not_pending", "cancelled", 0))),
    "claim, revise": Race(
        claims(), revises("ben", version=2),
        frozenset({("apply", "claimed", "approved", 1), ("refused", "revised", "cancelled", 0)}), approved=True,
    ),
    "two climb": Race(
        climbs(), climbs("worker2"), either(("later", "later", "pending", 0)), connector="steps",
        check=lambda left, turn: (left["reminded"], left["escalated"], left["climbed"]) == (1, 1, 2),
    ),
    "climb, approve": Race(
        climbs(), decides("anna"), frozenset({("later", "approved", "approved", 0)}), connector="steps", check=none_or_both,
    ),
    "climb, break the glass": Race(
        climbs(), breaks("gwen"), frozenset({("later", "recorded", "pending", 0)}), connector="steps", check=none_or_both,
    ),
}  # fmt: skip


async def report(url: Callable[[str], str], turns: int, only: str, seed: int) -> int:
    failed = 0
    print(f"seed {seed}, {turns} turns each", flush=True)
    for name, race in RACES.items():
        if only not in name:
            continue
        began = time.monotonic()
        async with laid(url) as ground:
            arena = Arena(ground, random.Random(f"{seed} {name}"))
            await arena.open()
            try:
                tally = await arena.run(race, turns)
            except (AssertionError, asyncpg.PostgresError) as wrong:
                failed += 1
                print(f"FAILED  {name}: {type(wrong).__name__} {wrong}", flush=True)
                continue
        ends = ", ".join(
            f"{first}/{second} -> {state}, {number} executed: {count}"
            for (first, second, state, number), count in sorted(tally.items(), key=str)
        )
        print(f"ok      {name} ({tally.total()} in {time.monotonic() - began:.0f} s): {ends}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5000)
    parser.add_argument("--only", default="", help="races whose name holds this")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    asked = parser.parse_args()
    with ephemeral() as server:
        cluster = Cluster(
            server.url("postgres", server.password(), "postgres"), dict.fromkeys(LOGIN_ROLES, "of-the-races")
        )

        async def prepare() -> None:
            admin = await asyncpg.connect(cluster.admin_url)
            await admin.execute(f"CREATE DATABASE {TEMPLATE}")
            await admin.close()
            await bootstrap(cluster.url("admin", TEMPLATE), PREFIX, cluster.passwords, TEMPLATE)

        asyncio.run(prepare())
        upgrade(cluster.url("admin", TEMPLATE), PREFIX)
        failed = asyncio.run(report(lambda role: cluster.url(role, TEMPLATE), asked.turns, asked.only, asked.seed))
    print("only allowed ends were seen" if not failed else f"{failed} races failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
