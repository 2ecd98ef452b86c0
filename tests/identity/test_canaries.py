"""What people write, and every secret, is followed through the whole product: neither reaches the ledger or a log."""

import io
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import structlog
from prometheus_client import generate_latest
from sqlalchemy.exc import DBAPIError

from app.clock import now
from app.telemetry import PROCESSORS
from colony_client.contract import CheckpointSaved, ProviderFailed, Signal, StageStarted
from tests.world import World
from tests.world.checks import hire, inspector, problem
from tests.world.colony import proposal
from tests.world.world import COLONY_KEY, READ_TOKEN, SIGNING_KEY, WRITE_TOKEN

CANARY = "kanarienvogel"


def canary(field: str) -> str:
    """A word that tells where it was written."""
    return f"{CANARY}-{field}"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Every line of the service's log as it would be printed, from debug on."""
    before, lines = structlog.get_config(), io.StringIO()
    structlog.configure(
        processors=PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.PrintLoggerFactory(lines),
    )
    yield lines
    structlog.configure(**before)


async def whole_ledger(world: World) -> str:
    rows = await (await inspector(world)).fetch("SELECT type, actor, convert_from(body, 'UTF8') AS body FROM ledger")
    assert len(rows) > 30
    return "\n".join(f"{row['type']} {row['actor']} {row['body']}" for row in rows)


async def write_everywhere(world: World) -> None:
    """Puts a canary into every text that any route or event of the colony takes."""
    await world.with_crm()
    await hire(world, canary("principal"), "submitter")
    submitter, operator = world.submitter, world.operator
    upload = await submitter.put(
        "/v1/workspaces/papers/documents",
        params={"path": f"{canary('path')}.md"},
        content=f"# {canary('text')}\n".encode(),
    )
    assert upload.status_code == 201, upload.text
    changed = await world.product_owner.put(
        "/v1/mission-types/crm_lead_intelligence",
        headers={"If-Match": '"v1"'},
        json={
            "title": canary("title"),
            "description": canary("description"),
            "inputs_schema": {"type": "object", "description": canary("schema")},
            "tools": ["crm.list", "crm.read", "workspace.search"],
            "defaults": {"risk_level": "low", "sensitivity_class": "internal", "mode": "assisted"},
            "limits": {"time_ms": 60000, "tokens": 1000, "cost_usd": 1},
            "review": {"min_coverage": 0.0},
        },
    )
    assert changed.status_code == 200, changed.text
    ask = {
        "mission_type": "crm_lead_intelligence",
        "user_goal": canary("goal"),
        "origin_surface": canary("surface"),
        "inputs": {"workspace": "papers", "free": canary("input"), canary("input-key"): 1},
        "labels": {canary("label-key"): canary("label")},
    }
    made = await submitter.post("/v1/missions", json=ask, headers={"Idempotency-Key": canary("idempotency")})
    assert made.status_code == 202, made.text
    await world.run_work("dispatch")
    dispatch = world.colony.last()
    await world.colony.tool(dispatch, "workspace.search", query=canary("query"))
    listed = await world.colony.tool(dispatch, "crm.list", kind="lead", limit=1)
    change = proposal(
        dispatch.envelope,
        listed["records"][0],
        {"notes": canary("change")},
        summary=canary("summary"),
        rationale=canary("rationale"),
    )
    at = now()
    await world.colony.send(
        dispatch,
        StageStarted(seq=1, at=at, stage="planner"),
        CheckpointSaved(seq=2, at=at, checkpoint_id=canary("checkpoint"), size_bytes=1, sha256="0" * 64),
        Signal(seq=3, at=at, signal="continue", reason=canary("signal")),
    )
    await world.colony.send(
        dispatch, Signal(seq=4, at=at, signal="escalate", question=canary("question"), reason=canary("why"))
    )
    await decide(world, await pending(world), "approve", canary("comment"))
    await world.run_work("dispatch")
    second = world.colony.last()
    assert second.attempt == 2
    await world.colony.complete(second, proposals=[change])
    await world.run_work()
    await decide(world, await pending(world), "reject", canary("rejection"))
    for verb in ("cancel", "fail"):
        other = (await world.create(user_goal=canary("another-goal")))["id"]
        ended = await operator.post(
            f"/v1/missions/{other}/{verb}", json={"reason": canary(verb)}, headers={"If-Match": '"v1"'}
        )
        assert ended.status_code == 200, ended.text
    asked = {"action": "writeback.propose", "resource": canary("resource"), "context": {"operation": canary("context")}}
    assert (await operator.post("/v1/policies/evaluate", json=asked)).status_code == 200
    asked = {"action": canary("action"), "resource": "x", "context": {canary("fact"): canary("context")}}
    assert (await operator.post("/v1/policies/evaluate", json=asked)).status_code == 422
    assert (
        await operator.get("/v1/missions", params={"label": f"{canary('filter')}:{canary('filter')}"})
    ).status_code == 200
    assert (await operator.get(f"/v1/missions/{dispatch.mission_id}/packet")).status_code == 200
    for body in (b'{"user_goal": "' + canary("broken").encode(), json.dumps({canary("field"): 1}).encode()):
        answer = await submitter.post("/v1/missions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
    removed = await submitter.delete("/v1/workspaces/papers/documents", params={"path": f"{canary('path')}.md"})
    assert removed.status_code == 204


async def pending(world: World) -> dict[str, Any]:
    [approval] = (await world.operator.get("/v1/approvals?state=pending")).json()["items"]
    shown = await world.operator.get(f"/v1/approvals/{approval['id']}")
    return {**shown.json(), "etag": shown.headers["etag"]}


async def decide(world: World, approval: dict[str, Any], verdict: str, comment: str) -> None:
    decided = await world.operator.post(
        f"/v1/approvals/{approval['id']}/decisions",
        json={"decision": verdict, "payload_sha256": approval["payload_sha256"], "comment": comment},
        headers={"If-Match": approval["etag"]},
    )
    assert decided.status_code == 201, decided.text


async def test_what_people_write_stays_out_of_ledger_log_and_metrics(world: World, log: io.StringIO) -> None:
    await write_everywhere(world)
    stored = await (await inspector(world)).fetchval(
        "SELECT count(*) FROM artifact WHERE position($1 in convert_from(bytes, 'UTF8')) > 0", CANARY
    )
    assert stored >= 5, "the canaries were written where they belong"
    for place, text in {
        "ledger": await whole_ledger(world),
        "log": log.getvalue(),
        "metrics": generate_latest().decode(),
    }.items():
        found = {
            line[line.index(CANARY) - 80 : line.index(CANARY) + 60] for line in text.splitlines() if CANARY in line
        }
        assert not found, place


async def test_what_people_write_stays_out_of_the_log_when_things_break(world: World, log: io.StringIO) -> None:
    """Drivers and parsers quote what they were given; the service's own log does not."""
    connection = await inspector(world)
    ask = {"mission_type": "oracle_advisory", "user_goal": canary("goal"), "labels": {"a": canary("label")}}
    breakages = {
        "ALTER TABLE mission ADD CONSTRAINT broken CHECK (labels = '{}') NOT VALID": "ALTER TABLE mission DROP CONSTRAINT broken",
        "ALTER TABLE mission RENAME COLUMN labels TO elsewhere": "ALTER TABLE mission RENAME COLUMN elsewhere TO labels",
        "ALTER TABLE mission ALTER labels TYPE int USING 1": "ALTER TABLE mission ALTER labels TYPE jsonb USING '{}'",
        "ALTER TABLE artifact ADD CONSTRAINT broken CHECK (length(bytes) < 9) NOT VALID": "ALTER TABLE artifact DROP CONSTRAINT broken",
    }
    await connection.execute("ALTER TABLE mission ALTER labels DROP DEFAULT")
    for broken, mended in breakages.items():
        await connection.execute(broken)
        said = problem(await world.submitter.post("/v1/missions", json=ask), "internal")
        assert CANARY not in str(said)
        await connection.execute(mended)

    async def broken(word: str) -> int:
        try:
            return int(word)
        except ValueError as error:
            raise KeyError(word) from error

    world.public.add_api_route("/v1/broken", broken, methods=["GET"])
    problem(await world.submitter.get("/v1/broken", params={"word": canary("word")}), "internal")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    bugs = [line for line in lines if line["event"] == "uncaught"]
    *broken_statements, broken_code = bugs
    assert len(broken_statements) == len(breakages)
    assert all("Error" in line["exception"] and "app/missions/" in line["exception"] for line in broken_statements)
    assert "KeyError" in broken_code["exception"] and "caused by ValueError" in broken_code["exception"]
    assert CANARY not in log.getvalue()


async def test_database_errors_do_not_quote_parameters(world: World) -> None:
    async with world.root.database.read() as session:
        with pytest.raises(DBAPIError) as raised:
            await session.execute("SELECT CAST(:word AS text) FROM no_such_table", {"word": canary("parameter")})
    assert "no_such_table" in str(raised.value) and CANARY not in str(raised.value)


async def test_no_secret_is_ever_said(world: World, log: io.StringIO) -> None:
    await write_everywhere(world)
    connection = await inspector(world)
    tokens = [dispatch.mission_token for dispatch in world.colony.dispatched]
    answers: list[str] = []

    async def keep(method: str, path: str, **more: Any) -> None:
        for client in (world.operator, world.inside):
            answer = await client.request(method, path, **more)
            answers.append(f"{answer.headers} {answer.text}")

    mission = world.colony.last().mission_id
    await connection.execute("ALTER FUNCTION authenticate(bytea) RENAME TO elsewhere")
    await keep("GET", "/v1/missions")
    await connection.execute("ALTER FUNCTION elsewhere(bytea) RENAME TO authenticate")
    await connection.execute("REVOKE SELECT ON mission FROM mission_root_api")
    await keep("GET", f"/v1/missions/{mission}")
    await keep("POST", f"/internal/v1/missions/{mission}/events", headers={"Authorization": f"Bearer {tokens[0]}"})
    await connection.execute("GRANT SELECT ON mission TO mission_root_api")
    world.crm_base_url = "http://127.0.0.1:9"
    world.public.state.settings = world.settings()
    await keep("GET", "/v1/status")
    await keep("GET", f"/v1/missions/{uuid4()}", headers={"Authorization": f"Bearer {world.people['admin'].key}x"})
    secrets = {person.key for person in world.people.values()} | set(tokens) | {READ_TOKEN, WRITE_TOKEN}
    secrets |= {COLONY_KEY.partition(":")[2], SIGNING_KEY.partition(":")[2]}
    secrets |= {f"{role}-password-of-tests" for role in ("api", "worker", "reader", "executor", "registrar")}
    said = "\n".join([*answers, log.getvalue(), await whole_ledger(world), generate_latest().decode()])
    assert len(answers) == 10 and log.getvalue().count("uncaught") >= 2
    for secret in secrets:
        assert secret not in said
    assert "[redacted]" not in log.getvalue(), "nothing even tries"


async def test_a_field_that_is_named_like_a_secret_is_not_printed(log: io.StringIO) -> None:
    named = {
        "api_key": "aaaa",
        "mission_token": "bbbb",
        "Authorization": "cccc",
        "DATABASE_URL": "dddd",
        "harmless": "eeee",
    }
    structlog.get_logger().info("said", **named)
    [line] = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line[name] for name in named] == ["[redacted]"] * 4 + ["eeee"]


async def test_the_colonys_own_words_reach_the_log_and_not_the_ledger(world: World, log: io.StringIO) -> None:
    """Names and details of a failed provider come from outside: an operator needs the words, the record only a hash."""
    dispatch = await world.dispatch()
    failed = ProviderFailed(seq=1, at=now(), provider="search", code="timeout", detail=canary("detail"), retryable=True)
    await world.colony.send(dispatch, failed)
    [fact] = [fact for fact in await world.facts(dispatch.mission_id) if fact["type"] == "provider.failed"]
    assert "search" not in fact["body"] and CANARY not in fact["body"]
    assert canary("detail") in log.getvalue()
