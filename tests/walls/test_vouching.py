"""A human's word on what nobody can settle: by the right person, in time, and never a success."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from tests.walls.ground import DENIED, LEASE, Asked, Ground
from tests.walls.test_ladder import facts

VOUCH = "SELECT * FROM vouch($1, $2, $3, $4, $5, $6)"
SEEN = "SELECT state, fence, receipt, observed, settled_at IS NOT NULL AS settled FROM execution WHERE writeback = $1"
KEY = "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1"


async def unknown(ground: Ground, minutes: float = 11, by: str = "asker") -> Asked:
    """A change that was sent so long ago, and of which nobody knows what became."""
    asked = await ground.approved(by=by)
    claimed = await ground.claim(asked)
    assert await ground.settle(asked, claimed["fence"], "unknown", receipt=b'{"detail":"no answer"}') is True
    await sent_ago(ground, asked, minutes)
    return asked


async def sent_ago(ground: Ground, asked: Asked, minutes: float) -> None:
    admin = await ground.of("admin")
    async with admin.transaction():
        await admin.execute("ALTER TABLE execution DISABLE TRIGGER execution_guard")
        await admin.execute(
            "UPDATE execution SET started_at = clock_timestamp() - $2::interval WHERE writeback = $1",
            asked.writeback, timedelta(minutes=minutes),
        )  # fmt: skip
        await admin.execute("ALTER TABLE execution ENABLE ALWAYS TRIGGER execution_guard")


def given(ground: Ground, asked: Asked, who: str | None, **more: Any) -> tuple[Any, ...]:
    said = {"found": "not_applied", "comment": "It is not there.", "said": "no answer"} | more
    secret = ground.secrets.get(who, who) if who else None
    return ground.tenant, asked.writeback, secret, said["found"], said["comment"], said["said"]


async def vouch(ground: Ground, asked: Asked, who: str | None, **more: Any) -> str:
    [row] = await ground.run("api", VOUCH, *given(ground, asked, who, **more))
    outcome: str = row["outcome"]
    return outcome


async def test_what_nobody_can_settle_ends_as_failed_by_an_operators_word(ground: Ground) -> None:
    for found in ("applied", "not_applied", "cannot_tell"):
        asked = await unknown(ground)
        [before] = await ground.run("admin", SEEN, asked.writeback)
        admin = await ground.of("admin")
        await admin.execute(
            "SELECT want_work($1, 'execute', $2, 'executor', clock_timestamp())", ground.tenant, asked.writeback
        )
        await admin.execute(
            "SELECT want_work($1, 'execute', $2, 'executor', clock_timestamp())", ground.tenant, asked.mission
        )
        [row] = await ground.run("api", VOUCH, *given(ground, asked, "ben", found=found))
        assert (row["outcome"], row["who"]) == ("vouched", ground.ids["ben"])
        [after] = await ground.run("admin", SEEN, asked.writeback)
        assert (after["state"], after["settled"], after["observed"]) == ("failed", True, None)
        assert await ground.state(asked) == "failed"
        assert json.loads(after["receipt"]) == {
            "finding": "vouched", "vouched": found, "by": str(ground.ids["ben"]), "comment": "It is not there.",
            "detail": "no answer",
        }  # fmt: skip
        # what still hangs somewhere settles nothing, and nobody is asked again
        assert after["fence"] == before["fence"] + 1
        assert await ground.settle(asked, before["fence"], "succeeded", asked.payload) is False
        assert await ground.settle(asked, after["fence"], "succeeded", asked.payload) is False
        assert (await ground.claim(asked))["outcome"] == "settled"
        left = "SELECT subject FROM work WHERE kind = 'execute' AND subject IN ($1, $2)"
        assert [row["subject"] for row in await ground.run("admin", left, asked.writeback, asked.mission)] == [
            asked.mission
        ]
        told = "SELECT count(*) FROM work WHERE kind = 'progress' AND subject = $1"
        assert await ground.value("admin", told, asked.mission) == 1
        [*_, (_, body)] = await facts(ground, asked, "writeback.settled")
        assert (body["writeback"], body["state"], body["vouched"], body["observed_sha256"]) == (
            str(asked.writeback), "failed", found, None,
        )  # fmt: skip
        assert body["payload_sha256"] == asked.sha256.hex() and body["attempts"] == 1
        actor = "SELECT actor FROM ledger WHERE subject = $1 AND type = 'writeback.settled' ORDER BY seq DESC LIMIT 1"
        assert await ground.value("admin", actor, asked.mission) == f"principal:{ground.ids['ben']}"
        assert await vouch(ground, asked, "cora") == "not_unknown"


async def test_only_an_operator_who_took_no_part_says_so(ground: Ground) -> None:
    asked = await unknown(ground, by="agent")  # for which anna answers
    for who, outcome in (
        (None, "unauthenticated"), ("nobody", "unauthenticated"), ("gwen", "not_entitled"), ("adam", "not_entitled"),
        ("machine", "not_entitled"), ("robot", "not_entitled"), ("asker", "not_entitled"), ("anna", "own_request"),
        ("agent", "own_request"),
    ):  # fmt: skip
        assert await vouch(ground, asked, who) == outcome, who
    for comment in (None, "", " \n\t"):
        assert await vouch(ground, asked, "ben", comment=comment) == "no_comment"
    assert await ground.state(asked) == "unknown"
    for found in (None, "", "succeeded", "failed"):
        await ground.refused("RX004", "api", VOUCH, *given(ground, asked, "ben", found=found))
    for role in ("worker", "executor", "auditor", "registrar"):
        await ground.refused(DENIED, role, VOUCH, *given(ground, asked, "ben"))
    await ground.revoke("ben")
    assert await vouch(ground, asked, "ben") == "not_entitled"
    assert (
        await vouch(ground, asked, "cora", said=None) == "vouched"
    )  # who approved it may: they neither asked nor changed it


async def test_only_what_is_unknown_takes_a_humans_word(ground: Ground) -> None:
    waiting, approved = await ground.ask(), await ground.approved()
    for one in (waiting, approved):
        assert await vouch(ground, one, "ben") == "not_unknown"
    for state, observed in (("executing", None), ("stale", None), ("failed", None), ("succeeded", b"")):
        asked = await ground.approved()
        claimed = await ground.claim(asked)
        assert await ground.settle(asked, claimed["fence"], state, asked.payload if observed is not None else None)
        await sent_ago(ground, asked, 11)
        assert await vouch(ground, asked, "ben") == "not_unknown"
        assert await ground.state(asked) == state
    [row] = await ground.run("api", VOUCH, ground.tenant, uuid4(), ground.secrets["ben"], "applied", "seen", None)
    assert row["outcome"] == "not_found"


async def test_nobody_says_so_while_the_executor_may_still_find_out(ground: Ground) -> None:
    asked = await unknown(ground, minutes=9)
    [row] = await ground.run("api", VOUCH, *given(ground, asked, "ben"))
    left = row["not_before"] - await ground.value("admin", "SELECT clock_timestamp()")
    assert row["outcome"] == "too_early" and timedelta(seconds=50) < left <= timedelta(minutes=1)
    await sent_ago(ground, asked, 11)
    held = await ground.claim(asked)
    assert held["outcome"] == "reconcile"
    assert await vouch(ground, asked, "ben") == "asked_now"
    assert await ground.settle(asked, held["fence"], "unknown") is True
    assert await vouch(ground, asked, "ben") == "vouched"


async def test_a_mission_that_has_ended_leaves_nothing_unknown_behind(ground: Ground) -> None:
    asked = await unknown(ground)
    await ground.end_mission(asked, "cancelled")
    assert await vouch(ground, asked, "ben", found="cannot_tell") == "vouched"


async def test_who_comes_second_finds_it_done(ground: Ground) -> None:
    asked = await unknown(ground)
    first: Any = ("api", VOUCH, given(ground, asked, "ben"))
    assert await ground.overtaken(first, vouch(ground, asked, "cora", found="applied")) == "not_unknown"
    asked = await unknown(ground)
    first = ("executor", "SELECT * FROM claim($1, $2, $3)", (ground.tenant, asked.writeback, LEASE))
    assert await ground.overtaken(first, vouch(ground, asked, "ben")) == "asked_now"
    asked = await unknown(ground)

    async def claim() -> asyncpg.Record:
        connection = await ground.connect("executor")
        async with ground.within("executor", connection=connection):
            [row] = await connection.fetch("SELECT * FROM claim($1, $2, $3)", ground.tenant, asked.writeback, LEASE)
            return row

    first = ("api", VOUCH, given(ground, asked, "ben"))
    assert (await ground.overtaken(first, claim()))["outcome"] == "settled"


async def test_a_key_that_was_revoked_meanwhile_says_nothing(ground: Ground) -> None:
    asked = await unknown(ground)
    held = "SELECT 1 FROM execution WHERE writeback = $1 FOR UPDATE"
    async with ground.within("admin", connection=await ground.connect("admin")) as holder:
        await holder.execute(held, asked.writeback)
        waiting = asyncio.create_task(vouch(ground, asked, "ben"))
        await ground.somebody_waits()
        await (await ground.connect("admin")).execute(KEY, ground.ids["ben"])
    assert await waiting == "unauthenticated"
