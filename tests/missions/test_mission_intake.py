"""POST /v1/missions: what is kept, all of it or nothing, and what policy says first."""

import hashlib
import json
import unicodedata
from typing import Any
from uuid import UUID

import httpx
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from app.missions.normalize import normalized, tidy
from tests.world import World
from tests.world.checks import as_listed, census, fact_types, inspector, pending_change, problem

ASK: dict[str, Any] = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"}
TOO_MUCH = {"time_ms": 604_800_000, "tokens": 1_000_000_000, "cost_usd": 1_000_000}


async def envelope(world: World, mission: str) -> dict[str, Any]:
    """The stored envelope, as the API gives it."""
    page = await world.submitter.get(f"/v1/missions/{mission}/artifacts?schema_name=mission_envelope")
    [summary] = page.json()["items"]
    shown = (await world.submitter.get(f"/v1/missions/{mission}/artifacts/{summary['id']}")).json()
    content: dict[str, Any] = shown["content"]
    assert shown["sha256"] == hashlib.sha256(rfc8785.dumps(content)).hexdigest()
    return content


async def test_what_was_asked_becomes_an_envelope(world: World) -> None:
    goal = "  Cafe\u0301\u00ad\u200b\ufeff de\u200bja\u0300 \t vu\u202e ?\r\n\n   and\u2003more e\u200b\u0301 \u0915\u094d\u200d\u0937  "
    made = await world.create(
        user_goal=goal,
        inputs={"workspace": "papers", "max_claims": 3},
        origin_surface="test",
        risk_level="medium",
        sensitivity_class="confidential",
        mode="dry_run",
        tools=["workspace.read", "workspace.search", "workspace.read"],
        labels={"team": "blue"},
        budget={"time_ms": 5000, "tokens": 0, "cost_usd": 0.5},
    )
    kept = await envelope(world, made["id"])
    assert kept["user_goal"] == "Caf\u00e9 dej\u00e0 \t vu ?\n\n   and\u2003more \u00e9 \u0915\u094d\u200d\u0937"
    assert kept["normalized_goal"] == "Caf\u00e9 dej\u00e0 vu ? and more \u00e9 \u0915\u094d\u200d\u0937"
    assert kept["tools"] == ["workspace.read", "workspace.search"]
    assert kept["inputs"] == {"workspace": "papers", "max_claims": 3}
    assert kept["budget"] == {"time_ms": 5000, "tokens": 0, "cost_usd": 0.5}
    assert (kept["risk_level"], kept["sensitivity_class"], kept["mode"]) == ("medium", "confidential", "dry_run")
    assert (kept["origin_surface"], kept["labels"], kept["actor_role"]) == ("test", {"team": "blue"}, "submitter")
    assert (kept["mission_id"], kept["actor_id"]) == (made["id"], made["requested_by"])
    agreed = {name: value for name, value in kept.items() if name not in ("contract_hash", "created_at")}
    assert kept["contract_hash"] == hashlib.sha256(rfc8785.dumps(agreed)).hexdigest()
    connection = await inspector(world)
    row = await connection.fetchrow("SELECT * FROM mission WHERE id = $1", UUID(made["id"]))
    assert row["contract_hash"].hex() == kept["contract_hash"]
    assert (row["workspace"], row["budget_tokens"], row["risk_level"]) == ("papers", 0, "medium")


async def test_defaults_fill_and_limits_clamp(world: World) -> None:
    configured = world.settings()
    plain = await envelope(world, (await world.create())["id"])
    assert (plain["mode"], plain["risk_level"], plain["sensitivity_class"]) == ("assisted", "low", "internal")
    assert plain["budget"]["time_ms"] == configured.colony_default_time_budget_ms
    assert plain["budget"]["tokens"] == configured.colony_default_token_budget
    assert plain["environment"] == "local"
    kind = (await world.submitter.get("/v1/mission-types/oracle_advisory")).json()
    assert plain["tools"] == kind["tools"]
    clamped = await envelope(world, (await world.create(budget=TOO_MUCH))["id"])
    assert clamped["budget"] == kind["limits"]
    nothing = await world.create(tools=[])
    assert (await envelope(world, nothing["id"]))["tools"] == []


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = tidy(text)
    assert unicodedata.is_normalized("NFC", once)
    assert tidy(once) == once
    line = normalized(text)
    assert normalized(line) == line == normalized(once)
    assert "\n" not in line and "  " not in line


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["e", "\u0301", "\u200b", "\u00ad", "\u200d", " ", "\n", "\u0327", "\ufb2c", "a"]), max_size=12
    )
)
def test_normalizing_settles_around_invisible_characters(parts: list[str]) -> None:
    once = tidy("".join(parts))
    assert unicodedata.is_normalized("NFC", once)
    assert tidy(once) == once
    assert "\u200b" not in once and "\u00ad" not in once


async def test_the_answer_says_where_it_is(world: World) -> None:
    answer = await world.submitter.post("/v1/missions", json=ASK)
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"/v1/missions/{made['id']}"
    again = await world.submitter.get(answer.headers["location"])
    assert again.headers["etag"] == answer.headers["etag"] == f'"v{made["version"]}"'
    assert as_listed(again.json()) == made
    assert made["state"] == "accepted"
    for name in ("self", "events", "artifacts", "packet"):
        assert (await world.submitter.get(made["links"][name])).status_code == 200, name


async def test_one_transaction_keeps_everything(world: World) -> None:
    before = await census(world)
    made = await world.create()
    after = await census(world)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "mission": 1, "artifact": 1, "policy_decision": 1, "work": 1, "ledger": 1,
        "policy_set": 1,  # with the tenant's first decision: the rules that its decisions name
    }  # fmt: skip
    [accepted] = await world.facts(made["id"])
    connection = await inspector(world)
    said = json.loads(accepted["body"])
    envelope = await connection.fetchrow("SELECT id, sha256 FROM artifact WHERE mission = $1", UUID(made["id"]))
    assert (accepted["type"], said["envelope"], said["envelope_sha256"]) == (
        "mission.accepted", str(envelope["id"]), envelope["sha256"].hex()
    )  # fmt: skip
    decision = await connection.fetchrow("SELECT * FROM policy_decision WHERE mission = $1", UUID(made["id"]))
    assert (decision["effect"], decision["rule"]) == ("allow", "admission.assisted")
    assert str(decision["id"]) in accepted["body"]
    work = await connection.fetchrow("SELECT kind, queue FROM work WHERE subject = $1", UUID(made["id"]))
    assert tuple(work) == ("dispatch", "worker")
    tables = ("mission", "artifact", "policy_decision", "work", "ledger WHERE subject = $1")
    written = " UNION ALL ".join(f"SELECT xmin FROM {table}" for table in tables)
    transactions = f"SELECT count(DISTINCT xmin::text) FROM ({written}) t"
    assert await connection.fetchval(transactions, UUID(made["id"])) == 1


BREAK = """CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {how}; RETURN NEW; END $$;
CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON {table} {when} FOR EACH ROW EXECUTE FUNCTION broken();"""
MEND = "DROP FUNCTION broken CASCADE"
AT_COMMIT = "DEFERRABLE INITIALLY DEFERRED"


FAILING_COMMITS = {
    "a constraint fails": ("RAISE EXCEPTION 'not today'", "internal"),
    "another transaction wins": ("RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'", "database_busy"),
    "the connection breaks": ("PERFORM pg_terminate_backend(pg_backend_pid())", "database_unavailable"),
}


@pytest.mark.parametrize(("how", "code"), FAILING_COMMITS.values(), ids=FAILING_COMMITS)
async def test_a_commit_that_fails_is_not_answered_202(world: World, how: str, code: str) -> None:
    await world.create()
    before = await census(world)
    connection = await inspector(world)
    await connection.execute(BREAK.format(table="mission", when=AT_COMMIT, how=how))
    problem(await world.submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": "k"}), code)
    assert await census(world) == before
    await connection.execute(MEND)
    answer = await world.submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202
    assert "idempotent-replayed" not in answer.headers


async def test_nothing_is_kept_when_any_part_cannot_be(world: World) -> None:
    connection = await inspector(world)
    await world.create()  # the rules that a tenant decides by are kept once, with its first decision
    before = await census(world)
    for table in ("mission", "artifact", "policy_decision", "ledger", "work", "idempotency"):
        await connection.execute(BREAK.format(table=table, when="", how="RAISE EXCEPTION 'not this one'"))
        problem(await world.submitter.post("/v1/missions", json=ASK, headers={"Idempotency-Key": "k"}), "internal")
        assert await census(world) == before, table
        await connection.execute(MEND)
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202


async def test_the_row_is_there_before_the_answer_is(world: World) -> None:
    """A commit after the response (FastAPI's default since 0.118) would fail this."""
    connection = await world.connect("admin")
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def looking(message: Any) -> None:
            if message["type"] == "http.response.start":
                mission = dict(message["headers"])[b"location"].decode().rpartition("/")[2]
                seen.append(await connection.fetchval("SELECT true FROM mission WHERE id = $1", UUID(mission)))
            await send(message)

        await world.public(scope, receive, looking)

    headers = {"Authorization": f"Bearer {world.people['submitter'].key}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://root.test", headers=headers
    ) as http:
        assert (await http.post("/v1/missions", json=ASK)).status_code == 202
    assert seen == [True]


async def test_validate_only_checks_everything_and_keeps_nothing(world: World, public_tool: None) -> None:
    before = await census(world)

    async def rehearse(**more: Any) -> httpx.Response:
        return await world.submitter.post("/v1/missions?validate_only=true", json={**ASK, **more})

    fine = (await rehearse(budget=TOO_MUCH)).json()
    assert (fine["valid"], fine["policy"]["effect"], fine["policy"]["rule"]) == (True, "allow", "admission.assisted")
    assert fine["envelope"]["budget"]["time_ms"] == 3_600_000
    asks = (await rehearse(mode="autonomous", risk_level="high")).json()
    assert (asks["valid"], asks["policy"]["effect"]) == (True, "ask")
    denied = (await rehearse(sensitivity_class="restricted", tools=["web.search"])).json()
    assert (denied["valid"], denied["policy"]["effect"]) == (False, "deny")
    assert denied["policy"]["would_change"]
    problem(await rehearse(mission_type="no_such_type"), "validation")
    problem(await rehearse(inputs={"workspace": 5}), "validation")
    problem(await rehearse(surprise=1), "validation")
    assert await census(world) == before


async def test_a_denial_is_told_and_recorded(world: World, public_tool: None) -> None:
    before = await census(world)
    ask = {**ASK, "sensitivity_class": "restricted", "tools": ["web.search"]}
    said = problem(await world.submitter.post("/v1/missions", json=ask), "denied_by_policy")
    assert said["rule"] == "admission.restricted_stays_inside"
    assert said["would_change"] and said["policy_version"]
    after = await census(world)
    assert {name for name in after if after[name] != before[name]} == {"policy_decision", "policy_set", "ledger"}
    refused = (await world.facts(await world.tenant()))[-1]
    assert refused["type"] == "mission.refused"
    assert said["policy_decision"] in refused["body"] and said["rule"] in refused["body"]
    decision = await (await inspector(world)).fetchrow("SELECT * FROM policy_decision ORDER BY id DESC LIMIT 1")
    assert (decision["effect"], decision["mission"], str(decision["id"])) == ("deny", None, said["policy_decision"])


async def test_in_production_autonomy_is_denied(world: World) -> None:
    intake = world.public.state.intake
    intake.defaults = type(intake.defaults)("production", 1000, 1000)
    answer = await world.submitter.post("/v1/missions", json={**ASK, "mode": "autonomous"})
    assert problem(answer, "denied_by_policy")["rule"] == "admission.production_is_assisted"
    assert (await world.submitter.post("/v1/missions", json=ASK)).status_code == 202


async def test_when_policy_asks_a_human_is_asked_first(world: World) -> None:
    made = await world.create(mode="autonomous", risk_level="high")
    assert made["state"] == "accepted"
    await world.run_work()
    assert world.colony.dispatched == []
    waiting = await world.mission(made["id"])
    assert waiting["state"] == "awaiting_approval"
    [approval] = waiting["pending_approvals"]
    shown = await world.operator.get(f"/v1/approvals/{approval}")
    assert shown.json()["payload"]["rule"] == "admission.autonomous_asks"
    decided = await world.operator.post(
        f"/v1/approvals/{approval}/decisions",
        json={"decision": "approve", "payload_sha256": shown.json()["payload_sha256"]},
        headers={"If-Match": shown.headers["etag"]},
    )
    assert decided.status_code == 201, decided.text
    await world.run_work("dispatch")
    assert str(world.colony.last().mission_id) == made["id"]
    assert (await fact_types(world, made["id"]))[-1] == "mission.dispatched"


async def test_a_switched_off_colony_takes_nothing_in(world: World) -> None:
    before = await census(world)
    world.public.state.settings = world.settings(colony_enabled=False)
    answer = await world.submitter.post("/v1/missions", json=ASK)
    problem(answer, "colony_disabled")
    assert answer.headers["retry-after"] == "60"
    assert await census(world) == before
    assert (await world.submitter.get("/v1/missions")).status_code == 200


async def test_as_whom_one_asks(world: World) -> None:
    for person in ("operator", "product_owner"):
        made = (await world.people[person].http.post("/v1/missions", json=ASK)).json()
        assert (await envelope(world, made["id"]))["actor_role"] == person


async def test_the_summary_shows_what_waits(world: World) -> None:
    approval = await pending_change(world)
    mission = await world.mission(approval["mission_id"])
    assert mission["state"] == "awaiting_approval"
    assert mission["pending_approvals"] == [approval["id"]]
    assert mission["writebacks"] == {"awaiting_approval": 1}
