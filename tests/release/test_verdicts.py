"""Verdict files: what is believed, and what each other file is refused for."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.clock import iso, now
from app.ledger.keys import sealed, signer
from app.release import Sides
from app.release.verdicts import CAUSES
from app.settings import Misconfigured
from tests.conftest import Cluster
from tests.release.scene import bring, check, drilled, enable, export, gates, instance, mission, signed
from tests.world import World
from tests.world.checks import problem
from tests.world.world import RELEASE_KEYS

HOUR = timedelta(hours=1)


def edited(data: bytes, **said: Any) -> bytes:
    """The statement changed, the signature kept."""
    found = json.loads(data)
    found["statement"] |= said
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()


async def test_each_bad_file_is_refused_by_name(world: World) -> None:
    good = signed("staging")
    stranger = signer("staging-9:" + RELEASE_KEYS["production"].partition(":")[2])
    unknown = sealed(json.loads(good)["statement"] | {"by": stranger.kid}, stranger.by_kid[stranger.kid])
    past, future = iso(now() - HOUR), iso(now() + HOUR)
    cases: list[tuple[str, bytes]] = [
        ("malformed", b"{}"),
        ("malformed", b'{"signature":"","statement":[]}'),
        ("malformed", b"not json at all"),
        ("malformed", good + b"\n"),
        ("malformed", signed("staging", purpose="mission-root recording 1")),
        ("malformed", signed("staging", gates=[])),
        ("malformed", signed("staging", extra=1)),
        ("malformed", signed("staging", result="fail")),  # its own gates say otherwise
        ("malformed", signed("staging", ladder={"dry_run": "everything"})),
        ("malformed", signed("staging", made_at="yesterday")),
        ("malformed", signed("staging", expires_at=iso(now() + timedelta(days=40)))),
        ("malformed", signed("staging", made_at=iso(now() + 3 * HOUR))),  # it ends before it began
        ("unknown_key", unknown),
        ("unknown_key", edited(good, by="staging-2")),
        ("altered", edited(good, result="fail")),
        ("altered", edited(good, by="production-1")),  # a trusted key, and not the one that signed
        ("altered", edited(good, expires_at=iso(now() + 2 * HOUR))),
        ("wrong_environment", signed("production", key="staging")),  # a key speaks for its own environment
        ("wrong_environment", signed("local", key="staging")),
        ("expired", signed("staging", made_at=iso(now() - 2 * HOUR), expires_at=past)),
        ("early", signed("staging", made_at=future, expires_at=iso(now() + 2 * HOUR))),
        ("other_tenant", signed("staging", tenant="another")),
    ]
    for cause, data in cases:
        said = problem(await bring(world, data), "verdict_refused")
        assert said["cause"] == cause and said["detail"].startswith(CAUSES[cause]), (cause, said)
    assert (await world.auditor.get("/v1/release/verdicts")).json()["items"] == []
    problem(await bring(world, b"x" * 300_000), "too_large")
    first, again = await bring(world, good), await bring(world, good)
    assert first.status_code == 201 and first.json()["id"] == again.json()["id"]  # the same file is kept once
    older = signed("staging", made_at=iso(now() - HOUR))
    assert problem(await bring(world, older), "verdict_refused")["cause"] == "superseded"
    assert {cause for cause, _ in cases} | {"superseded"} == set(CAUSES)
    for person in ("operator", "admin", "product_owner", "auditor"):
        answer = await world.people[person].http.post(
            "/v1/release/verdicts", content=good, headers={"Content-Type": "application/json"}
        )
        problem(answer, "forbidden")
    shown = await world.auditor.get(f"/v1/release/verdicts/{first.json()['id']}")
    assert shown.json() == first.json() and shown.json()["signed_by"] == "staging-1"


async def test_an_environments_own_verdict_is_not_taken(cluster: Cluster, demo: dict[str, str]) -> None:
    own = RELEASE_KEYS["staging"]
    async with instance(cluster, demo, "staging", release_trusted_keys=public(own)) as staging:
        said = problem(await bring(staging, await export(staging)), "verdict_refused")
        assert said["cause"] == "wrong_environment" and "This is staging itself" in said["detail"]


def public(key: str) -> str:
    from app.ledger.keys import public_text

    return public_text(signer(key).public())


async def test_production_believes_staging_as_long_as_it_may(cluster: Cluster, demo: dict[str, str]) -> None:
    async with instance(cluster, demo, "production") as production:
        assert (await enable(production, "dry_run")).status_code == 200
        found = await check(production, "oracle_replayed")
        assert found["result"] == "inconclusive" and found["reason"].startswith("No verdict of staging was imported")
        there = await gates(production, environment="staging")
        assert there["result"] == "inconclusive" and there["verdict"] is None
        # one that says no, with its reason
        no = json.loads(signed("staging"))["statement"]
        for gate in no["gates"]:
            for one in gate["checks"]:
                if one["name"] == "oracle_replayed":
                    one |= {"result": "fail", "reason": "The newest replay failed."}
                    gate["result"] = "fail"
        changed = {"gates": no["gates"], "result": "fail", "replayed": ["crm_lead_intelligence"]}
        assert (await bring(production, signed("staging", **changed))).status_code == 201
        found = await check(production, "oracle_replayed")
        assert (found["result"], found["reason"]) == ("fail", "Staging says: The newest replay failed.")
        assert (await gates(production, environment="staging"))["result"] == "fail"
        # one about another build says nothing about this one
        await bring(production, signed("staging", build="0.0.9"))
        found = await check(production, "oracle_replayed")
        assert found["result"] == "inconclusive" and "is about build 0.0.9, and this is" in found["reason"]
        # one that passes, as long as it holds
        kept = await bring(production, signed("staging"))
        found = await check(production, "oracle_replayed")
        assert found["result"] == "pass" and found["evidence"] == [{"kind": "verdict", "id": kept.json()["id"]}]
        await drilled(production)
        problem(await enable(production, "oracle_production"), "rung_not_ready")  # sales is not attested
        connection = await production.connect("admin")
        for statement in (
            "ALTER TABLE verdict DISABLE TRIGGER USER",
            "UPDATE verdict SET expires_at = made_at + interval '1 microsecond'",
            "ALTER TABLE verdict ENABLE TRIGGER USER",
        ):
            await connection.execute(statement)
        found = await check(production, "oracle_replayed")
        assert found["result"] == "inconclusive" and "ended at" in found["reason"]
        assert (await gates(production, environment="staging"))["result"] == "inconclusive"


async def test_an_unsigned_environment_exports_nothing(cluster: Cluster, demo: dict[str, str]) -> None:
    async with instance(cluster, demo, "staging", release_signing_key=None) as staging:
        said = problem(await staging.release_owner.get("/v1/release/verdict"), "not_configured")
        assert "RELEASE_SIGNING_KEY" in said["detail"]


async def test_what_is_exported_is_what_was_computed(world: World) -> None:
    data = await export(world)
    statement = json.loads(data)["statement"]
    found = await gates(world)
    assert statement["result"] == found["result"] == "inconclusive" and statement["environment"] == "local"
    assert [gate["gate"] for gate in statement["gates"]] == [gate["gate"] for gate in found["items"]]
    assert statement["tenant"] == "demo" and statement["by"] == "local-1" and statement["replayed"] == []
    assert len(statement["evidence_sha256"]) == 64 and statement["ladder"] == {}
    problem(await world.submitter.get("/v1/release/verdict"), "forbidden")


async def test_a_verdict_ends_with_the_evidence_that_it_carries(world: World) -> None:
    def life(data: bytes) -> timedelta:
        said = json.loads(data)["statement"]
        return datetime.fromisoformat(said["expires_at"]) - datetime.fromisoformat(said["made_at"])

    assert life(await export(world)) == timedelta(days=1)  # there is none yet: what is red is told as long as anything
    await mission(world, mode="assisted")
    assert life(await export(world)) == timedelta(days=1)
    connection = await world.connect("admin")
    for statement in (
        "ALTER TABLE mission DISABLE TRIGGER USER",
        "UPDATE mission SET closed_at = closed_at - interval '6 days 20 hours'",
        "ALTER TABLE mission ENABLE TRIGGER USER",
    ):
        await connection.execute(statement)
    assert timedelta(hours=3) < life(await export(world)) < timedelta(hours=4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"release_signing_key": "production-1:x"}, "RELEASE_SIGNING_KEY"),
        ({"release_signing_key": RELEASE_KEYS["production"]}, "must begin with staging, the ENVIRONMENT it speaks for"),
        ({"release_trusted_keys": "production-1"}, "RELEASE_TRUSTED_KEYS"),
        (
            {"release_trusted_keys": "elsewhere:" + "A" * 43 + "="},
            "must begin with the environment that the key speaks for",
        ),
    ],
)
def test_wrong_keys_stop_the_process_with_one_sentence(settings: dict[str, str], sentence: str) -> None:
    world = World(lambda role: f"postgresql://{role}@127.0.0.1:9/x", environment="staging")
    with pytest.raises(Misconfigured) as refused:
        Sides.of(world.settings(**settings))
    assert sentence in str(refused.value) and str(refused.value).endswith(".")
