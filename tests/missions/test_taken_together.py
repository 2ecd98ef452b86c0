"""Requests that come at the same time share a commit, and nothing else: each is judged, kept or refused for itself."""

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app import identity, work
from app.caller import system
from app.db import Database
from app.missions import Ask, Asked, Held, hold_each
from tests.world import World
from tests.world.checks import as_listed, inspector, problem

pytestmark = pytest.mark.usefixtures("public_tool")
ASK = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?", "mode": "assisted"}
DENIED = {**ASK, "sensitivity_class": "restricted", "tools": ["web.search"]}


async def ask(http: httpx.AsyncClient, body: Any = ASK, **headers: str) -> httpx.Response:
    return await http.post("/v1/missions", json=body, headers=headers)


async def revoke(world: World, who: str, statement: str) -> None:
    registrar = await world.connect("registrar")
    async with registrar.transaction():
        await registrar.execute("SELECT set_config('app.tenant', $1, true)", str(await world.tenant()))
        principal = await registrar.fetchval("SELECT id FROM principal WHERE name = $1", who)
        await registrar.execute(statement, principal)


async def test_a_crowd_shares_commits_and_everybody_gets_their_own(world: World) -> None:
    stranger = await world.another_tenant()
    crowd = [world.submitter, stranger.http, world.product_owner] * 20
    bodies = [{**ASK, "user_goal": f"Question {n}?", "labels": {"n": str(n)}} for n in range(len(crowd))]
    answers = await asyncio.gather(*(ask(http, body) for http, body in zip(crowd, bodies, strict=True)))
    assert {one.status_code for one in answers} == {202}
    for http, body, answer in zip(crowd, bodies, answers, strict=True):
        made = answer.json()
        assert (made["user_goal"], made["labels"]) == (body["user_goal"], body["labels"])
        seen = await http.get(answer.headers["location"])
        assert as_listed(seen.json()) == made and seen.headers["etag"] == answer.headers["etag"]
    connection = await inspector(world)
    transactions = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM mission")
    assert transactions < len(crowd) / 3, "they were not taken in together"
    tenants = await connection.fetch("SELECT tenant, count(*) AS n FROM mission GROUP BY tenant ORDER BY n")
    assert [row["n"] for row in tenants] == [20, 40]
    for person in ("auditor", "other"):
        assert (await world.people[person].http.post("/v1/ledger/verify")).json()["verified"] is True


async def test_what_is_wrong_with_one_meets_only_that_one(world: World) -> None:
    """A row that Postgres refuses takes its batch back; then each is tried alone."""
    connection = await inspector(world)
    await connection.execute(
        """CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.labels ->> 'break' = 'yes' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
           CREATE TRIGGER broken BEFORE INSERT ON mission FOR EACH ROW EXECUTE FUNCTION broken()"""
    )
    await ask(world.submitter)
    before = await connection.fetchval("SELECT count(*) FROM mission")
    bodies = [{**ASK, "labels": {"break": "yes" if n % 7 == 3 else "no"}} for n in range(30)]
    bodies += [DENIED, {**ASK, "mission_type": "no_such_type"}]
    answers = await asyncio.gather(*(ask(world.submitter, body) for body in bodies))
    codes = [202 if n % 7 != 3 else 500 for n in range(30)] + [403, 422]
    assert [one.status_code for one in answers] == codes
    assert await connection.fetchval("SELECT count(*) FROM mission") == before + codes.count(202)
    assert await connection.fetchval("SELECT count(*) FROM ledger WHERE type = 'mission.refused'") == 1


async def test_a_tenants_budget_is_not_exceeded_by_a_crowd(world: World) -> None:
    limits = await world.admin.put("/v1/budgets", json={"day_tokens": 250}, headers={"If-Match": '"v0"'})
    assert limits.status_code == 200, limits.text
    answers = await asyncio.gather(*(ask(world.submitter, {**ASK, "budget": {"tokens": 100}}) for _ in range(12)))
    assert [one.status_code for one in answers].count(202) == 2
    for one in answers:
        if one.status_code != 202:
            problem(one, "budget_exhausted")
    connection = await inspector(world)
    assert await connection.fetchval("SELECT count(*) FROM mission") == 2
    assert await connection.fetchval("SELECT count(*) FROM ledger WHERE type = 'budget.refused'") == 10


async def test_a_tenant_without_budget_takes_nobody_elses_commit_apart(world: World) -> None:
    stranger = await world.another_tenant()
    limits = await world.admin.put("/v1/budgets", json={"day_tokens": 250}, headers={"If-Match": '"v0"'})
    assert limits.status_code == 200, limits.text
    crowd = [world.submitter, stranger.http] * 15
    answers = await asyncio.gather(*(ask(http, {**ASK, "budget": {"tokens": 100}}) for http in crowd))
    assert [one.status_code for one in answers[1::2]] == [202] * 15
    assert sorted(one.status_code for one in answers[::2]) == [202] * 2 + [409] * 13
    connection = await inspector(world)
    transactions = await connection.fetchval(
        "SELECT count(DISTINCT xid::text) FROM ledger WHERE type = 'mission.accepted'"
    )
    assert transactions < 8, "they were not taken in together"
    assert await connection.fetchval("SELECT count(*) FROM mission") == 17


async def test_what_fails_after_the_commit_fails_nobody_and_nothing_is_done_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(channels: Any) -> None:
        raise RuntimeError(f"nobody hears {channels}")

    monkeypatch.setattr(world.root.intake, "nudge", deaf)
    answers = await asyncio.gather(*(ask(world.submitter, {**ASK, "user_goal": f"Question {n}?"}) for n in range(5)))
    assert [one.status_code for one in answers] == [202] * 5
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission") == 5
    monkeypatch.setattr(world.root.database, "on_commit", deaf)
    made = answers[0].json()
    ended = await world.operator.post(
        f"/v1/missions/{made['id']}/cancel", json={"reason": "enough"}, headers={"If-Match": answers[0].headers["etag"]}
    )
    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    worker = world.worker.database
    monkeypatch.setattr(worker, "on_commit", deaf)
    items, _ = await work.turn(worker, ["dispatch"], 10, world.root_lease())
    become: list[Any] = []

    def degrade(held: Held, item: work.Item) -> None:
        become.append(item.subject)
        held.degrade(system(item.tenant, "worker"), item.subject, "colony_busy", "It waits.")
        held.again(item, None)

    await hold_each(worker, items, degrade)
    assert len(become) == len(items) == 4, "what was kept for all was not kept again for each"


async def test_tenants_share_a_statement_and_a_budget_refuses_its_own_rows_only(world: World) -> None:
    """Whatever the order of the tenants: the one without means is in front, in the middle or at the end."""
    people = [world.people["submitter"], *[await world.another_tenant(name) for name in ("second", "third")]]
    for poor in people[1:]:
        limits = await poor.http.put("/v1/budgets", json={"day_tokens": 150}, headers={"If-Match": '"v0"'})
        assert limits.status_code == 200, limits.text
    judged = []
    for number, person in enumerate(people[place] for place in (1, 0, 2, 1, 0, 2, 1, 0)):
        caller = await world.root.callers.look_up(person.key)
        assert caller is not None
        await ask(person.http, {**ASK, "user_goal": "Warm", "budget": {"tokens": 0}})
        wanted = Ask.model_validate(
            {**ASK, "user_goal": f"Question {number}?", "budget": {"tokens": 100}, "labels": {"n": "1"}}
        )
        kind = await world.root.intake.kind(caller.tenant, "oracle_advisory")
        asked = Asked(caller, wanted, key=f"k{number}", fingerprint=b"f" * 32)
        stands = await world.root.intake.standings.get(caller.tenant)
        judged.append(world.root.intake.judge(asked, kind, public=False, stands=stands, refused=None))
    kept = await world.root.intake.keep(await world.connect("api"), judged)
    assert [one.outcome for one in kept] == [
        "accepted", "accepted", "accepted", "exhausted", "accepted", "exhausted", "exhausted", "accepted"
    ]  # fmt: skip
    connection = await inspector(world)
    for one, said in zip(judged, kept, strict=True):
        tenants = await connection.fetchrow(
            """SELECT array(SELECT tenant FROM mission WHERE id = $1 UNION ALL SELECT tenant FROM artifact WHERE mission = $1
                 UNION ALL SELECT tenant FROM policy_decision WHERE mission = $1 UNION ALL SELECT tenant FROM work WHERE subject = $1
                 UNION ALL SELECT tenant FROM ledger WHERE subject = $1 UNION ALL SELECT tenant FROM mission_label WHERE mission = $1
                 UNION ALL SELECT tenant FROM idempotency WHERE key = $2) AS found""",
            one.mission,
            one.asked.key,
        )
        assert tenants["found"] == [one.asked.caller.tenant] * (7 if said.outcome == "accepted" else 0)
    held = (
        "SELECT tenant, sum(tokens)::int FROM budget_reservation WHERE purpose = 'mission' GROUP BY tenant ORDER BY 2"
    )
    assert [row[1] for row in await connection.fetch(held)] == [100, 100]


async def test_a_key_that_is_remembered_is_dead_when_it_is_revoked(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    await revoke(world, "submitter", "UPDATE api_key SET revoked_at = clock_timestamp() WHERE principal = $1")
    problem(await ask(world.submitter), "unauthenticated")
    problem(await ask(world.submitter, {**ASK, "mission_type": "no_such_type"}), "unauthenticated")
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission") == 1


async def test_a_right_that_is_remembered_is_gone_when_it_is_taken_away(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    await revoke(world, "submitter", "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE principal = $1")
    problem(await ask(world.submitter), "forbidden")
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission") == 1
    given = (
        "INSERT INTO role_grant (tenant, principal, role) SELECT tenant, id, 'submitter' FROM principal WHERE id = $1"
    )
    await revoke(world, "submitter", given)
    assert (await ask(world.submitter)).status_code == 202  # and there again when it is given back


async def test_requests_of_one_key_that_were_judged_differently_are_confirmed_apart(world: World) -> None:
    """One process may have seen the same key before and after a role was taken away."""
    await revoke(
        world,
        "submitter",
        "INSERT INTO role_grant (tenant, principal, role) SELECT tenant, id, 'operator' FROM principal WHERE id = $1",
    )
    assert (await ask(world.submitter)).status_code == 202
    intake, key = world.root.intake, world.people["submitter"].key
    before = world.root.callers.get(key)
    assert before is not None and "operator" in before.roles
    await revoke(
        world,
        "submitter",
        "UPDATE role_grant SET revoked_at = clock_timestamp() WHERE principal = $1 AND role = 'operator'",
    )
    after = await world.root.callers.look_up(key)
    assert after is not None and "operator" not in after.roles
    kind = await intake.kind(before.tenant, "oracle_advisory")
    stands = await intake.standings.get(before.tenant)
    judged = [
        intake.judge(Asked(one, Ask.model_validate(ASK)), kind, public=False, stands=stands, refused=None)
        for one in (after, before, after)
    ]
    kept = await intake.keep(await world.connect("api"), judged)
    assert [one.outcome for one in kept] == ["accepted", "caller_changed", "accepted"]


async def test_a_role_that_was_added_meanwhile_is_judged_anew(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    await revoke(
        world,
        "submitter",
        "INSERT INTO role_grant (tenant, principal, role) SELECT tenant, id, 'operator' FROM principal WHERE id = $1",
    )
    made = (await ask(world.submitter)).json()
    inputs = await (await inspector(world)).fetchval(
        "SELECT inputs FROM policy_decision WHERE mission = $1", UUID(made["id"])
    )
    assert json.loads(inputs)["principal"]["roles"] == ["operator", "submitter"]


async def test_rules_that_changed_in_another_process_are_the_ones_that_judge(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    rule = (
        '@id("ours.no_oracle") @reason("No oracles this week.") '
        'forbid(principal, action == Action::"mission.create", resource == MissionType::"oracle_advisory");'
    )
    connection = await world.connect("api")  # as another process would
    async with connection.transaction():
        await connection.execute("SELECT set_config('app.tenant', $1, true)", str(await world.tenant()))
        put = "SELECT outcome FROM put_policy($1, $2, 'ours', $3, 0)"
        key = world.people["policy_owner"].key
        assert await connection.fetchval(put, await world.tenant(), key, rule.encode()) == "added"
    answers = await asyncio.gather(*(ask(world.submitter) for _ in range(5)))
    for one in answers:
        assert problem(one, "denied_by_policy")["rule"] == "ours.no_oracle"
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission") == 1


async def test_a_type_that_changed_in_another_process_is_the_one_that_is_asked_for(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    shown = (await world.submitter.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: value for name, value in shown.items() if name not in ("name", "version", "shipped")}
    own["defaults"] = own["defaults"] | {"risk_level": "medium"}
    changed = await world.product_owner.put(
        "/v1/mission-types/oracle_advisory", json=own, headers={"If-Match": f'"v{shown["version"]}"'}
    )
    assert changed.status_code == 200, changed.text
    world.root.intake.types.own.clear()  # this process never saw the newer one
    assert (await ask(world.submitter)).json()["risk_level"] == "medium"
    row = await (await inspector(world)).fetchrow("SELECT type_version FROM mission ORDER BY created_at DESC LIMIT 1")
    assert row["type_version"] == shown["version"] + 1


async def test_what_an_older_type_does_not_take_is_asked_of_the_newest(world: World) -> None:
    """What this process remembers may be narrower than what holds now."""
    shown = (await world.submitter.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: value for name, value in shown.items() if name not in ("name", "version", "shipped")}
    for version, extra in ((shown["version"], "more"), (shown["version"] + 1, "most")):
        more = {**ASK, "inputs": {extra: "x"}}
        problem(await ask(world.submitter, more), "validation")
        own["inputs_schema"]["properties"][extra] = {"type": "string"}
        path, headers = "/v1/mission-types/oracle_advisory", {"If-Match": f'"v{version}"'}
        assert (await world.product_owner.put(path, json=own, headers=headers)).status_code == 200
        assert (await ask(world.submitter, more)).status_code == 202


async def test_one_key_is_one_mission_however_many_ask_at_once(world: World) -> None:
    answers = await asyncio.gather(*(ask(world.submitter, **{"Idempotency-Key": "same"}) for _ in range(10)))
    made = [one for one in answers if one.status_code == 202]
    assert made and {one.status_code for one in answers} <= {202, 409}
    for one in answers:
        if one.status_code == 409:
            problem(one, "idempotency_in_flight")
    again = await ask(world.submitter, **{"Idempotency-Key": "same"})
    assert again.content == made[0].content and again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == made[0].headers["location"]
    problem(
        await ask(world.submitter, {**ASK, "user_goal": "Other?"}, **{"Idempotency-Key": "same"}),
        "idempotency_mismatch",
    )
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM mission") == 1


async def test_a_key_that_another_process_is_working_on_is_in_flight(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    other = await world.connect("admin")
    me = await other.fetchval("SELECT id FROM principal WHERE name = 'submitter'")
    async with other.transaction():
        name = f"{await world.tenant()}|{me}|missions.create|k"
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 11))", name)
        problem(await ask(world.submitter, **{"Idempotency-Key": "k"}), "idempotency_in_flight")
        assert (await ask(world.submitter, **{"Idempotency-Key": "another"})).status_code == 202
    assert (await ask(world.submitter, **{"Idempotency-Key": "k"})).status_code == 202


async def test_what_was_answered_is_answered_again_although_it_would_be_refused_now(world: World) -> None:
    made = await ask(world.submitter, **{"Idempotency-Key": "k"})
    shown = (await world.submitter.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: value for name, value in shown.items() if name not in ("name", "version", "shipped")}
    own["inputs_schema"] = {"type": "object", "required": ["more"], "properties": {"more": {"type": "string"}}}
    headers = {"If-Match": f'"v{shown["version"]}"'}
    assert (
        await world.product_owner.put("/v1/mission-types/oracle_advisory", json=own, headers=headers)
    ).status_code == 200
    problem(await ask(world.submitter, **{"Idempotency-Key": "other"}), "validation")
    again = await ask(world.submitter, **{"Idempotency-Key": "k"})
    assert again.content == made.content
    problem(
        await ask(world.submitter, {**ASK, "labels": {"a": "b"}}, **{"Idempotency-Key": "k"}), "idempotency_mismatch"
    )


async def test_who_waits_too_long_for_a_database_that_hangs_is_told(world: World) -> None:
    assert (await ask(world.submitter)).status_code == 202
    holder = await world.connect("admin")
    async with holder.transaction():
        await holder.execute("LOCK TABLE mission IN ACCESS EXCLUSIVE MODE")
        held = []
        for number in (1, 2):  # one for each connection
            held.append(asyncio.create_task(ask(world.submitter)))
            async with asyncio.timeout(10):
                while not await waiting(holder, number):
                    await asyncio.sleep(0.01)
        problem(await ask(world.submitter), "database_busy")
        for one in held:  # nobody keeps a connection, and all who come after, for what somebody else holds
            problem(await one, "database_busy")
    assert (await ask(world.submitter)).status_code == 202


async def waiting(connection: asyncpg.Connection, number: int) -> bool:
    # not of pg_stat_activity: within a transaction that goes on naming the sessions that were there when it was first asked
    asked = """SELECT count(*) >= $1 FROM pg_locks
      WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    return bool(await connection.fetchval(asked, number))


@pytest.mark.parametrize("roles", [("submitter",), ("submitter", "auditor")])
async def test_somebody_new_is_looked_up_once_and_then_remembered(world: World, roles: tuple[str, ...]) -> None:
    registrar = Database(world.url("registrar"), pool_size=1)
    async with registrar.write() as session:
        await session.enter(await world.tenant())
        principal = await identity.create_principal(session, "nina", "human")
        for role in roles:
            await identity.grant_role(session, principal, role)
        key = (await identity.issue_key(session, principal)).secret
    await registrar.close()
    assert world.root.callers.get(key) is None
    assert (await ask(world.client(key))).status_code == 202
    remembered = world.root.callers.get(key)
    assert remembered is not None and remembered.roles == set(roles)
    assert key not in repr(world.root.callers.known)
    assert (await ask(world.client(key))).status_code == 202
