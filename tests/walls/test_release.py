"""The ladder's rules that nobody switches off, and who may move it: kept by Postgres, whatever a serving process believes."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.conftest import TEMPLATE, Cluster, fresh
from tests.walls.ground import DENIED, Ground, laid
from tests.walls.test_immutable import verdict

ENABLE = "SELECT enable_rung($1, $2, $3, $4, $5, $6, '{}')"
LOWER = "SELECT outcome, lowered FROM lower_rung($1, $2, $3, $4, '{}')"
KEEP = "SELECT outcome FROM keep_verdict($1, $2, $3, 'production', $4)"
BOTH = ["oracle_advisory", "crm_lead_intelligence"]
ROUTE = ("approved_writeback", "blocked_writeback", "expired_approval")


@pytest.fixture
async def ground(cluster: Cluster) -> AsyncIterator[Ground]:
    """With a database of its own: there is one tenant of the drills in each."""
    async with (
        fresh(cluster, TEMPLATE, f"test_{os.getpid()}_ladder") as name,
        laid(lambda role: cluster.url(role, name)) as made,
    ):
        yield made


async def enable(ground: Ground, environment: str, kind: str, autonomy: str, who: str | None = "rita") -> str:
    rung = "dry_run" if kind == "*" else f"{kind}_{environment}"
    secret = ground.secrets.get(who, who) if who else None
    said: str = await ground.value("api", ENABLE, ground.tenant, secret, environment, rung, kind, autonomy)
    return said


async def lower(ground: Ground, environment: str, rung: str, who: str = "rita") -> tuple[str, int]:
    [row] = await ground.run("api", LOWER, ground.tenant, ground.secrets[who], environment, rung)
    return row["outcome"], row["lowered"]


async def drill(ground: Ground, *names: str, state: str = "passed", age: timedelta = timedelta(0)) -> None:
    """Runs of drills, as the tenant of the drills has them."""
    tenant = await ground.drills()
    async with ground.within("admin") as admin:
        at = datetime.now(UTC) - age
        for name in names:
            await admin.execute(
                """INSERT INTO drill_run (tenant, id, drill, state, reason, build, started_at, finished_at)
                   VALUES ($1, $2, $3, $4, $5, '1', $6, $6)""",
                tenant, uuid4(), name, state, "odd" if state == "failed" else None, at,
            )  # fmt: skip


async def replayed_in_staging(ground: Ground, *types: str, **said: Any) -> str:
    file = verdict(ground, environment="staging", by="staging-1", replayed=list(types), **said)
    outcome: str = await ground.value("api", KEEP, ground.tenant, ground.secrets["rita"], uuid4(), file)
    return outcome


async def step(ground: Ground, environment: str, kind: str, autonomy: str) -> None:
    """The row itself, by whoever could write it: the trigger speaks."""
    await ground.run(
        "owner",
        """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence)
           SELECT $1, COALESCE(max(change), 0) + 1, $2, $3, $4, $5, 'asked', $6, '{}' FROM rung_change WHERE tenant = $1""",
        ground.tenant, environment, f"{kind}_{environment}", kind, autonomy, ground.ids["rita"],
    )  # fmt: skip


async def test_production_waits_for_a_replay_in_staging(ground: Ground) -> None:
    await drill(ground, *ROUTE)
    assert await enable(ground, "production", "*", "dry_run") == "enabled"
    assert await enable(ground, "production", "oracle_advisory", "assisted") == "staging_first"
    assert await replayed_in_staging(ground, "oracle_advisory") == "kept"
    assert await enable(ground, "production", "oracle_advisory", "assisted") == "staging_first"  # CRM was not replayed
    assert await replayed_in_staging(ground, *BOTH) == "kept"
    assert await enable(ground, "production", "catalyst_strategy_brief", "assisted") == "staging_first"
    assert await enable(ground, "production", "oracle_advisory", "assisted") == "enabled"
    ended = datetime.now(UTC) + timedelta(milliseconds=50)
    assert await replayed_in_staging(ground, *BOTH, expires_at=ended.isoformat()) == "kept"
    await asyncio.sleep(0.06)  # an hour in a pocket is a verdict no more
    assert await enable(ground, "production", "crm_lead_intelligence", "assisted") == "staging_first"
    with pytest.raises(Exception, match="staging_first"):
        await step(ground, "production", "crm_lead_intelligence", "assisted")


async def test_production_begins_assisted(ground: Ground) -> None:
    await drill(ground, *ROUTE)
    await replayed_in_staging(ground, *BOTH)
    assert await enable(ground, "production", "*", "dry_run") == "enabled"
    assert await enable(ground, "production", "oracle_advisory", "autonomous") == "begins_assisted"
    with pytest.raises(Exception, match="begins_assisted"):
        await step(ground, "production", "oracle_advisory", "autonomous")
    assert await enable(ground, "production", "oracle_advisory", "assisted") == "enabled"
    assert await enable(ground, "production", "oracle_advisory", "autonomous") == "enabled"


async def test_nothing_is_automated_before_the_approval_route_is_drilled(ground: Ground) -> None:
    await replayed_in_staging(ground, *BOTH)
    for environment in ("staging", "production"):
        assert await enable(ground, environment, "*", "dry_run") == "enabled"
    assert await enable(ground, "staging", "oracle_advisory", "assisted") == "enabled"
    for asked in (("staging", "oracle_advisory", "autonomous"), ("production", "oracle_advisory", "assisted")):
        assert await enable(ground, *asked) == "route_not_drilled"
    await drill(ground, *ROUTE, age=timedelta(days=8))
    assert await enable(ground, "staging", "oracle_advisory", "autonomous") == "route_not_drilled"
    await drill(ground, *ROUTE, age=timedelta(minutes=2))
    await drill(ground, "expired_approval", state="failed", age=timedelta(minutes=1))
    assert await enable(ground, "staging", "oracle_advisory", "autonomous") == "route_not_drilled"
    with pytest.raises(Exception, match="route_not_drilled"):
        await step(ground, "staging", "oracle_advisory", "autonomous")
    await drill(ground, "expired_approval")
    assert await enable(ground, "staging", "oracle_advisory", "autonomous") == "enabled"
    assert await enable(ground, "production", "oracle_advisory", "assisted") == "enabled"


async def test_everything_stands_on_dry_runs(ground: Ground) -> None:
    assert await enable(ground, "staging", "oracle_advisory", "assisted") == "nothing_to_stand_on"
    assert await enable(ground, "staging", "*", "dry_run") == "enabled"
    for kind in BOTH:
        assert await enable(ground, "staging", kind, "assisted") == "enabled"
    assert await lower(ground, "staging", "crm_lead_intelligence_staging", "anna") == ("lowered", 1)  # an operator may
    assert await lower(ground, "staging", "crm_lead_intelligence_staging") == ("unchanged", 0)
    assert await lower(ground, "staging", "dry_run") == ("lowered", 2)
    rows = await ground.run(
        "api",
        "SELECT rung, autonomy, cause FROM rung_change WHERE tenant = $1 ORDER BY change DESC LIMIT 2",
        ground.tenant,
    )
    assert [tuple(row) for row in rows] == [
        ("dry_run", "nothing", "asked"),
        ("oracle_advisory_staging", "nothing", "stood_on"),
    ]


async def test_who_moves_the_ladder(ground: Ground) -> None:
    for who, said in ((None, "unauthenticated"), ("nobody's secret", "unauthenticated"), ("anna", "not_entitled"), ("adam", "not_entitled"),
                      ("machine", "not_entitled"), ("asker", "not_entitled")):  # fmt: skip
        assert await enable(ground, "staging", "*", "dry_run", who) == said, who
    assert await enable(ground, "staging", "*", "dry_run") == "enabled"
    assert await enable(ground, "staging", "*", "dry_run") == "unchanged"
    for who in ("adam", "paul", "asker"):
        wants = ("lowered", 1) if who == "paul" else ("not_entitled", 0)  # paul is an operator besides
        assert await lower(ground, "staging", "dry_run", who) == wants
    await ground.revoke("rita", "release_owner")
    assert await enable(ground, "staging", "*", "dry_run") == "not_entitled"


async def test_the_service_lowers_and_never_raises(ground: Ground) -> None:
    await enable(ground, "staging", "*", "dry_run")
    await enable(ground, "staging", "oracle_advisory", "assisted")
    itself = "SELECT lower_rung_itself($1, 'staging', 'oracle_advisory_staging', $2, '{}')"
    await ground.refused("RX033", "worker", itself, ground.tenant, "asked")
    await ground.refused("RX033", "worker", itself, ground.tenant, None)
    await ground.refused(DENIED, "api", itself, ground.tenant, "drill_failed")
    assert await ground.value("worker", itself, ground.tenant, "drill_failed") == 1
    assert await ground.value("worker", itself, ground.tenant, "drill_failed") == 0
    raise_it = """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, evidence)
                  SELECT $1, max(change) + 1, 'staging', 'oracle_advisory_staging', 'oracle_advisory', 'assisted', 'drill_failed', '{}'
                  FROM rung_change WHERE tenant = $1"""
    await ground.refused("rung_change_raised_by_people", "owner", raise_it, ground.tenant)


async def test_changes_follow_one_another(ground: Ground) -> None:
    said = await asyncio.gather(*(_enable_alone(ground) for _ in range(6)))
    assert sorted(said) == ["enabled"] + ["unchanged"] * 5
    facts = "SELECT count(*) FROM ledger WHERE tenant = $1 AND type = 'rung.enabled'"
    assert await ground.value("api", facts, ground.tenant) == 1
    skip = """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence)
              VALUES ($1, 7, 'staging', 'dry_run', '*', 'dry_run', 'asked', $2, '{}')"""
    await ground.refused("RX033", "owner", skip, ground.tenant, ground.ids["rita"])
    other = """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence)
               VALUES ($1, 2, 'staging', 'dry_run', 'oracle_advisory', 'dry_run', 'asked', $2, '{}')"""
    await ground.refused("RX033", "owner", other, ground.tenant, ground.ids["rita"])  # a rung is for one type
    every = """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence)
               VALUES ($1, 2, 'staging', 'every', '*', 'assisted', 'asked', $2, '{}')"""
    await ground.refused("rung_change_every_type", "owner", every, ground.tenant, ground.ids["rita"])
    next = """INSERT INTO rung_change (tenant, change, environment, rung, mission_type, autonomy, cause, changed_by, evidence, at)
              VALUES ($1, 2, 'staging', 'dry_run', '*', 'nothing', 'asked', $2, '{}', 'epoch') RETURNING at > 'epoch'"""
    assert await ground.value("owner", next, ground.tenant, ground.ids["rita"]) is True  # when, the wall says


async def _enable_alone(ground: Ground) -> str:
    connection = await ground.connect("api")
    async with ground.within("api", connection=connection):
        said: str = await connection.fetchval(
            ENABLE, ground.tenant, ground.secrets["rita"], "staging", "dry_run", "*", "dry_run"
        )
        return said


async def test_an_attestation_is_a_persons_and_ends(ground: Ground) -> None:
    attest = "SELECT attest($1, $2, $3, 'staging', 'stable', $4, '{}', $5)"
    made = uuid4()
    for who, role, said in (("anna", "product_owner", "not_entitled"), ("paul", "release_owner", "not_entitled"),
                            ("machine", "product_owner", "not_entitled"), ("x", "product_owner", "unauthenticated")):  # fmt: skip
        secret = ground.secrets.get(who, who)
        assert await ground.value("api", attest, ground.tenant, secret, made, role, timedelta(days=1)) == said, who
    paul = ground.secrets["paul"]
    for life in (timedelta(days=91), timedelta(0)):
        await ground.refused("23514", "api", attest, ground.tenant, paul, made, "product_owner", life)
    assert await ground.value("api", attest, ground.tenant, paul, made, "product_owner", timedelta(days=1)) == "signed"
    withdraw = "SELECT withdraw_attestation($1, $2, $3)"
    assert await ground.value("api", withdraw, ground.tenant, ground.secrets["anna"], made) == "not_entitled"
    assert await ground.value("api", withdraw, ground.tenant, paul, uuid4()) == "not_found"
    for change in ("expires_at = 'infinity'", "statement = '{\"a\":1}'", "withdrawn_at = NULL", "claim = 'other'"):
        await ground.refused("RX001", "owner", f"UPDATE attestation SET {change} WHERE id = $1", made)
    assert await ground.value("api", withdraw, ground.tenant, ground.secrets["rita"], made) == "withdrawn"
    assert await ground.value("api", withdraw, ground.tenant, paul, made) == "already_withdrawn"


async def test_its_doors_work_now_and_in_the_tenant_that_was_entered_only(ground: Ground) -> None:
    rita = ground.secrets["rita"]
    for call, args in (
        (ENABLE, (rita, "staging", "dry_run", "*", "dry_run")),
        ("SELECT attest($1, $2, $3, 'staging', 'stable', 'release_owner', '{}', '1 day')", (rita, uuid4())),
        ("SELECT withdraw_attestation($1, $2, $3)", (rita, uuid4())),
        (KEEP, (rita, uuid4(), verdict(ground, environment="staging"))),
    ):
        await ground.refused("RX002", "api", call, uuid4(), *args)
        async with ground.within("api", isolation="repeatable_read") as api:
            with pytest.raises(asyncpg.PostgresError, match="only at isolation level read committed"):
                await api.fetch(call, ground.tenant, *args)
    await ground.refused("RX002", "worker", "SELECT note_gates($1, 'staging', '[]')", uuid4())


async def test_a_verdict_is_read_off_its_file(ground: Ground) -> None:
    assert await replayed_in_staging(ground, *BOTH) == "kept"
    forge = """INSERT INTO verdict (tenant, id, file, environment, build, result, signed_by, ladder, replayed, made_at, expires_at,
                 imported_by, imported_at)
               VALUES ($1, $2, $3, 'production', '9', 'fail', 'x', '{"a": "b"}', '{x}', 'epoch', 'infinity', $4, 'epoch')
               RETURNING environment, build, result, signed_by, ladder, replayed, made_at > 'epoch' AND expires_at < 'infinity',
                 imported_at > 'epoch'"""
    file = verdict(ground, environment="staging", replayed=["oracle_advisory"])
    [row] = await ground.run("owner", forge, ground.tenant, uuid4(), file, ground.ids["rita"])
    assert tuple(row) == ("staging", "1", "pass", "production-1", "{}", ["oracle_advisory"], True, True)
    now = datetime.now(UTC)
    for said, outcome in (
        ({"tenant": "another"}, "other_tenant"),
        (
            {"expires_at": (now - timedelta(seconds=1)).isoformat(), "made_at": (now - timedelta(hours=1)).isoformat()},
            "expired",
        ),
        (
            {"made_at": (now + timedelta(hours=1)).isoformat(), "expires_at": (now + timedelta(hours=2)).isoformat()},
            "early",
        ),
        ({"made_at": (now - timedelta(hours=1)).isoformat()}, "superseded"),
    ):
        assert await replayed_in_staging(ground, *BOTH, **said) == outcome
    here = verdict(ground, environment="production")
    assert await ground.value("api", KEEP, ground.tenant, ground.secrets["rita"], uuid4(), here) == "wrong_environment"
    long = verdict(ground, environment="staging", expires_at=(now + timedelta(days=40)).isoformat())
    await ground.refused("23514", "api", KEEP, ground.tenant, ground.secrets["rita"], uuid4(), long)
    for who, outcome in (("adam", "not_entitled"), ("x", "unauthenticated")):
        again = verdict(ground, environment="staging", build=who)
        assert await ground.value("api", KEEP, ground.tenant, ground.secrets.get(who, who), uuid4(), again) == outcome


async def test_what_is_said_of_gates_is_the_workers(ground: Ground) -> None:
    gates = json.dumps([{"gate": "technical", "result": "pass", "checks": [], "expires_at": "2099-01-01T00:00:00Z"}])
    note = "SELECT note_gates($1, 'staging', $2)"
    await ground.refused(DENIED, "api", note, ground.tenant, gates)
    assert await ground.value("worker", note, ground.tenant, gates) == ["technical"]
    assert await ground.value("worker", note, ground.tenant, gates) == []
    for type in ("gate.changed", "rung.enabled", "rung.lowered", "attestation.signed", "verdict.imported"):
        for role, actor in (("api", f"principal:{ground.ids['rita']}"), ("worker", "system:release")):
            forged = "INSERT INTO ledger (tenant, subject, type, actor, body) VALUES ($1, $1, $2, $3, '{}')"
            await ground.refused("RX003", role, forged, ground.tenant, type, actor)
    await ground.run("worker", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'release_check', $1, 'worker')"
                     " ON CONFLICT DO NOTHING", ground.tenant)  # fmt: skip
    put_off = "UPDATE work SET next_at = 'infinity' WHERE kind = 'release_check' RETURNING 1"
    assert await ground.run("api", put_off) == []
    assert await ground.run("api", "DELETE FROM work WHERE kind = 'release_check' RETURNING 1") == []
    await ground.refused(DENIED, "api", "INSERT INTO work (tenant, kind, subject, queue) VALUES ($1, 'release_check', $2, 'worker')",
                         ground.tenant, uuid4())  # fmt: skip
