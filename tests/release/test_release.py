"""A release from nothing: gates red, missions, drills and replays in staging, gates green, rungs enabled, and then production."""

from tests.conftest import Cluster
from tests.release.scene import (
    all_green,
    ask_for,
    attested,
    bring,
    drilled,
    enable,
    export,
    gates,
    instance,
    look_after,
    rungs,
)
from tests.world.checks import problem


async def test_a_release_from_nothing(cluster: Cluster, demo: dict[str, str]) -> None:
    async with instance(cluster, demo, "staging") as staging, instance(cluster, demo, "production") as production:
        # nothing is admitted, and the refusal says which rung it would take and what that wants
        said = problem(await ask_for(staging, "oracle_advisory", "dry_run"), "denied_by_policy")
        assert said["rule"] == "admission.beyond_the_ladder" and said["ladder"]["rung"] == "dry_run"
        assert {one["name"] for one in said["ladder"]["missing"]} == {
            "schema_applies",
            "root_healthy",
            "colony_healthy",
        }
        red = await gates(staging)
        assert {one["gate"]: one["result"] for one in red["items"]} == {
            "technical": "inconclusive",
            "governance": "inconclusive",
            "operational": "inconclusive",
            "sales": "inconclusive",
        }
        assert all(one["reason"] for gate in red["items"] for one in gate["checks"] if one["result"] != "pass")
        assert (await staging.anybody.get("/v1/health/release")).status_code == 503
        # dry runs first; nothing above them yet
        said = problem(await enable(staging, "oracle_staging"), "rung_not_ready")
        assert {one["name"] for one in said["missing"]} == {"dry_run", "technical", "governance", "operational"}
        assert (await enable(staging, "dry_run")).json()["outcome"] == "enabled"
        assert (await ask_for(staging, "oracle_advisory", "dry_run")).status_code == 202
        said = problem(await ask_for(staging, "oracle_advisory", "assisted"), "denied_by_policy")
        assert said["ladder"]["rung"] == "oracle_staging" and "go no further than dry_run here" in said["detail"]
        # missions, drills, replays: the gates go green
        await all_green(staging)
        green = await gates(staging)
        assert {one["result"] for one in green["items"]} == {"pass"}, green
        await look_after(staging)
        healthy = await staging.anybody.get("/v1/health/release")
        assert (healthy.status_code, healthy.text) == (200, "ok\n")
        # rung by rung
        problem(await enable(staging, "crm_staging"), "rung_not_ready")
        for rung, kind in (("oracle_staging", "oracle_advisory"), ("crm_staging", "crm_lead_intelligence")):
            problem(await ask_for(staging, kind, "assisted"), "denied_by_policy")
            assert (await enable(staging, rung)).json()["outcome"] == "enabled"
            assert (await ask_for(staging, kind, "assisted")).status_code == 202
        problem(await ask_for(staging, "catalyst_strategy_brief", "assisted"), "denied_by_policy")
        said = problem(await enable(staging, "catalyst_staging"), "rung_not_ready")
        assert {one["name"] for one in said["missing"]} == {"oracle_production", "crm_production"}

        # production knows nothing of it before a verdict comes
        problem(await ask_for(production, "oracle_advisory", "dry_run"), "denied_by_policy")
        assert (await enable(production, "dry_run")).json()["outcome"] == "enabled"
        said = problem(await enable(production, "oracle_production"), "rung_not_ready")
        wants = {one["name"]: one["reason"] for one in said["missing"]}
        assert set(wants) >= {"oracle_staging", "crm_staging", "technical", "governance", "operational", "sales"}
        assert "No verdict in force of staging" in wants["oracle_staging"]
        kept = await bring(production, await export(staging))
        assert kept.status_code == 201 and kept.json()["replayed"] == ["crm_lead_intelligence", "oracle_advisory"]
        there = await gates(production, environment="staging")
        assert there["environment"] == "staging" and there["result"] == "pass" and there["verdict"]["age_s"] < 60
        await drilled(production)
        await attested(production)
        assert (await gates(production))["result"] == "pass"
        # exactly what the ladder says
        problem(await enable(production, "crm_production"), "rung_not_ready")
        assert (await enable(production, "oracle_production")).json()["outcome"] == "enabled"
        assert (await ask_for(production, "oracle_advisory", "assisted")).status_code == 202
        await look_after(production)
        said = problem(await ask_for(production, "crm_lead_intelligence", "assisted"), "denied_by_policy")
        assert said["ladder"] == {"rung": "crm_production", "autonomy": "dry_run", "missing": []}
        assert "a release owner can do that now" in said["detail"]
        said = problem(await ask_for(production, "oracle_advisory", "autonomous"), "denied_by_policy")
        assert said["ladder"]["rung"] is None
        assert (await enable(production, "crm_production")).json()["outcome"] == "enabled"
        assert (await ask_for(production, "crm_lead_intelligence", "assisted")).status_code == 202
        problem(await ask_for(production, "catalyst_strategy_brief", "assisted"), "denied_by_policy")
        # and back: the last rung wants to hear of production
        assert (await bring(staging, await export(production))).status_code == 201
        assert (await enable(staging, "catalyst_staging")).json()["outcome"] == "enabled"
        assert (await ask_for(staging, "catalyst_strategy_brief", "assisted")).status_code == 202
        assert {name: one["autonomy"] for name, one in (await rungs(staging)).items()} == {
            "dry_run": "dry_run",
            "oracle_staging": "assisted",
            "crm_staging": "assisted",
            "catalyst_staging": "assisted",
        }
        facts = [one["type"] for one in await staging.facts(await staging.tenant())]
        assert facts.count("rung.enabled") == 4 and "verdict.imported" in facts and "gate.changed" in facts
