"""A tenant's own policies: who may put them, what is taken, when they hold, and that every version stays readable."""

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.policy import queries
from app.policy.engine import Asker, Source, baseline, compiled, evaluate
from app.policy.vocabulary import ACTIONS, completed
from tests.world import World
from tests.world.checks import census, fact_types, inspector, problem

ASK = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}


def rule(what: str, name: str = "own", id: str = "a", notes: str = "") -> str:
    return f'@id("{name}.{id}") @reason("As the test says.") {notes} {what};\n'


NO_MISSIONS = rule('forbid (principal, action == Action::"mission.create", resource)')
NO_CANCEL_RULE = 'forbid (principal, action == Action::"operate.mission.cancel", resource)'
NO_CANCEL = rule(NO_CANCEL_RULE)


async def put(
    world: World, text: str, name: str = "own", etag: str = "", who: str = "policy_owner", **query: Any
) -> httpx.Response:
    headers = {"If-Match": etag} if etag else {}
    return await world.people[who].http.put(f"/v1/policies/{name}", json={"text": text}, headers=headers, params=query)


async def create(world: World, **more: Any) -> httpx.Response:
    return await world.submitter.post("/v1/missions", json={**ASK, **more})


async def test_a_forbid_holds_at_once_and_until_it_is_retired(world: World) -> None:
    assert (await create(world)).status_code == 202
    made = await put(world, NO_MISSIONS)
    assert (made.status_code, made.json()["version"], made.headers["etag"]) == (201, 1, '"v1"')
    said = problem(await create(world), "denied_by_policy")
    assert said["rule"] == "own.a"
    gone = await world.policy_owner.delete("/v1/policies/own", headers={"If-Match": '"v1"'})
    assert (gone.status_code, gone.json()["retired"], gone.headers["etag"]) == (200, True, '"v2"')
    assert (await create(world)).status_code == 202
    facts = [fact for fact in await world.facts(await world.tenant()) if fact["type"] == "policy.changed"]
    assert len(facts) == 2 and all(fact["actor"].startswith("principal:") for fact in facts)
    again = await put(world, NO_MISSIONS, etag='"v2"')
    assert (again.status_code, again.json()["version"]) == (200, 3)
    assert problem(await create(world), "denied_by_policy")["rule"] == "own.a"


async def test_versions_are_kept_and_a_change_names_the_one_it_saw(world: World) -> None:
    assert (await put(world, NO_MISSIONS)).status_code == 201
    before = await census(world)
    assert (await put(world, NO_MISSIONS)).status_code == 200  # the same text again is nothing new
    assert await census(world) == before
    problem(await put(world, NO_CANCEL), "precondition_required")
    stale = problem(await put(world, NO_CANCEL, etag='"v7"'), "stale")
    assert stale["current"]["version"] == 1
    changed = await put(world, NO_CANCEL, etag='"v1"')
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    problem(await put(world, NO_MISSIONS, etag='"v1"'), "stale")
    found = (await world.submitter.get("/v1/policies/own")).json()
    assert [one["version"] for one in found["history"]] == [2, 1]
    assert [one["text"] for one in found["history"]] == [NO_CANCEL, NO_MISSIONS]
    listed = (await world.submitter.get("/v1/policies")).json()
    assert [(one["name"], one["version"]) for one in listed[1:]] == [("own", 2)] and listed[0]["name"] == "baseline"
    problem(await world.submitter.get("/v1/policies/nothing"), "not_found")
    problem(await world.policy_owner.delete("/v1/policies/nothing", headers={"If-Match": '"v1"'}), "not_found")
    problem(await world.policy_owner.delete("/v1/policies/own"), "precondition_required")


async def test_checking_changes_nothing(world: World) -> None:
    before = await census(world)
    assert (await put(world, NO_MISSIONS, validate_only=True)).status_code == 200
    problem(await put(world, "permit", validate_only=True), "validation")
    assert await census(world) == before


GOOD = 'forbid (principal, action == Action::"mission.create", resource)'
# text, what the finding says, its line
BAD = {
    "no rule": ("// nothing\n", "holds no rule", 1),
    "no semicolon": (rule(GOOD).rstrip().rstrip(";"), "semicolon", 1),
    "a syntax error in line 3": ('@id("own.a")\n@reason("x")\nforbid (principal action, resource);', "action", 3),
    "nothing known": ("let the CRM be", "unexpected", 1),
    "an unknown fact": (rule(f"{GOOD} when {{ context.weather == 1 }}"), "weather", 1),
    "another type": (rule(f"{GOOD} when {{ context.mode == 1 }}"), "not compatible", 1),
    "an unknown action": (rule('forbid (principal, action == Action::"mission.destroy", resource)'), "mission.destroy", 1),
    "an unknown type": (rule('forbid (principal is User, action == Action::"mission.create", resource)'), "User", 1),
    "a fact that not every action has": (rule("forbid (principal, action, resource) when { context.listed }"), "listed", 1),
    "roles of a mission's requester": (
        rule('forbid (principal in Role::"operator", action == Action::"tool.call", resource)'), "Requester", 1,
    ),
    "no id": ('@reason("x")\nforbid (principal, action, resource);', "@id", 1),
    "no reason": ('@id("own.a")\nforbid (principal, action, resource);', "@reason", 1),
    "an empty reason": ('@id("own.a")\n@reason("")\nforbid (principal, action, resource);', "@reason", 2),
    "another policy's id": ('@id("other.a") @reason("x") forbid (principal, action, resource);', "own.", 1),
    "one of our ids": ('@id("tools.blocked") @reason("x") forbid (principal, action, resource);', "own.", 1),
    "an id twice": (rule(GOOD) + rule(GOOD), "line 1", 2),
    "an unknown annotation": (rule(GOOD, notes='@severity("high")'), "@severity", 1),
    "an obligation of a forbid": (rule(GOOD, notes='@approvals("2")'), "permit", 1),
    "an obligation nobody keeps": (
        rule('permit (principal, action == Action::"tool.call", resource)', notes='@approvals("2")'), "tool.call", 1,
    ),
    "an obligation for everything": (rule("permit (principal, action, resource)", notes='@expires("4h")'), "asks nobody", 1),
    "too many approvers": (rule(GOOD.replace("forbid", "permit"), notes='@approvals("10")'), "1 to 9", 1),
    "no such role": (rule(GOOD.replace("forbid", "permit"), notes='@approver_role("king")'), "operator", 1),
    "a role no person holds": (rule(GOOD.replace("forbid", "permit"), notes='@escalate_to("colony")'), "operator", 1),
    "no period": (rule(GOOD.replace("forbid", "permit"), notes='@expires("soon")'), "4h", 1),
    "a life too long": (rule(GOOD.replace("forbid", "permit"), notes='@expires("31d")'), "30 days", 1),
    "a template": (rule('forbid (principal == ?principal, action == Action::"mission.create", resource)'), "templates", 1),
    "too many rules": ("".join(rule(GOOD, id=f"r{n}") for n in range(101)), "at most 100", 101),
}  # fmt: skip


async def test_texts_that_cannot_hold_are_refused_with_line_and_remedy(world: World) -> None:
    before = await census(world)
    for case, (text, said, line) in BAD.items():
        for answer in (
            await put(world, text),
            await world.submitter.post("/v1/policies/own/preview", json={"text": text}),
        ):
            [found, *_] = problem(answer, "validation")["errors"]
            assert (found["pointer"], found["line"]) == ("/text", str(line)), (case, found)
            assert said in found["detail"], (case, found)
        question = {"action": "mission.create", "resource": "x", "policies": [{"name": "own", "text": text}]}
        [found, *_] = problem(await world.submitter.post("/v1/policies/evaluate", json=question), "validation")[
            "errors"
        ]
        assert found["pointer"] == "/policies/0/text", case
    for name in ("baseline", "tools", "evaluate", "admission"):
        [found] = problem(await put(world, NO_MISSIONS, name=name), "validation")["errors"]
        assert found["parameter"] == "name"
    problem(await put(world, "x" * 70_000), "validation")
    problem(await world.policy_owner.put("/v1/policies/Not-A-Name", json={"text": NO_MISSIONS}), "validation")
    assert await census(world) == before


async def test_another_tenant_is_untouched(world: World) -> None:
    stranger = await world.another_tenant()
    assert (await put(world, NO_MISSIONS)).status_code == 201
    problem(await create(world), "denied_by_policy")
    assert (await stranger.http.post("/v1/missions", json=ASK)).status_code == 202
    problem(await stranger.http.get("/v1/policies/own"), "not_found")
    version = (
        await world.submitter.post("/v1/policies/evaluate", json={"action": "mission.create", "resource": "x"})
    ).json()
    problem(await stranger.http.get(f"/v1/policy-sets/{version['policy_version']}"), "not_found")
    theirs = await put(world, NO_CANCEL, who=stranger.name)
    assert (theirs.status_code, theirs.json()["version"]) == (201, 1)


async def test_only_a_policy_owner_puts_and_the_database_sees_to_it(world: World) -> None:
    for who in ("submitter", "operator", "auditor", "admin", "product_owner"):
        problem(await put(world, NO_MISSIONS, who=who), "forbidden")
    tenant = await world.tenant()
    api = await world.connect("api")  # the database URL leaked; no secret did
    before = await census(world)
    async with api.transaction():
        await api.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        for secret, outcome in (
            ("mr_00000000_" + "x" * 43, "unauthenticated"),
            ("", "unauthenticated"),
            (world.people["operator"].key, "not_entitled"),
            (world.people["admin"].key, "not_entitled"),
        ):
            row = await api.fetchrow("SELECT * FROM put_policy($1, $2, 'own', 'x', 0)", tenant, secret)
            assert row["outcome"] == outcome
    for statement in (
        "INSERT INTO policy (tenant, name, version, change, text, created_by) VALUES ($1, 'own', 1, 1, 'x', $1)",
        "DELETE FROM policy WHERE tenant = $1",
        "UPDATE policy SET retired = true WHERE tenant = $1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await api.execute(statement, tenant)
    assert await census(world) == before


async def test_a_change_made_by_another_process_is_seen_by_the_next_decision(world: World) -> None:
    """Nobody tells this process: the row that keeps a decision is only written by the rules in force."""
    tenant = await world.tenant()
    assert (await create(world)).status_code == 202
    change, remembered = queries.SHELF.get(tenant)
    assert (change, remembered.version) == (0, baseline().version)
    elsewhere = await world.connect("api")
    async with elsewhere.transaction():
        await elsewhere.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        await elsewhere.fetch(
            "SELECT * FROM put_policy($1, $2, 'own', $3, 0)",
            tenant,
            world.people["policy_owner"].key,
            NO_MISSIONS.encode(),
        )
        assert (await create(world)).status_code == 202  # not committed: not in force
    assert queries.SHELF.get(tenant)[0] == 0  # what is remembered here is out of date now
    assert problem(await create(world), "denied_by_policy")["rule"] == "own.a"
    async with elsewhere.transaction():
        await elsewhere.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        await elsewhere.fetch(
            "SELECT * FROM put_policy($1, $2, 'own', NULL, 1)", tenant, world.people["policy_owner"].key
        )
    said = (await world.submitter.post("/v1/missions?validate_only=true", json=ASK)).json()
    assert (said["valid"], said["policy"]["rule"]) == (True, "admission.assisted")


async def test_the_memory_is_bounded_and_only_a_memory(world: World) -> None:
    shelf = queries.Shelf(most=2)
    for number in range(3):
        shelf.put(UUID(int=number), 7, baseline())
    assert len(shelf.known) == 2 and shelf.get(UUID(int=0))[0] == 0 and shelf.get(UUID(int=2))[0] == 7
    assert (await put(world, NO_MISSIONS)).status_code == 201
    queries.SHELF.known.clear()
    problem(await create(world), "denied_by_policy")


async def test_a_policy_that_cannot_be_read_denies_everything(world: World) -> None:
    """Such a text is never taken by the door; should one get there, it opens nothing."""
    connection = await inspector(world)
    tenant = await world.tenant()
    await connection.execute(
        """INSERT INTO policy (tenant, name, version, change, text, created_by)
           SELECT $1, 'broken', 1, 1, 'permit (', id FROM principal WHERE tenant = $1 AND name = 'policy_owner'""",
        tenant,
    )
    said = problem(await create(world), "denied_by_policy")
    assert said["rule"] == "error"
    assert (await world.submitter.get("/v1/policies")).status_code == 200
    gone = await world.policy_owner.delete("/v1/policies/broken", headers={"If-Match": '"v1"'})
    assert gone.status_code == 200
    assert (await create(world)).status_code == 202


async def test_every_decision_names_rules_that_can_be_looked_up(world: World) -> None:
    await create(world)
    first = (await put(world, rule(GOOD + ' when { context.risk_level == "high" }'))).json()
    problem(await create(world, risk_level="high"), "denied_by_policy")
    await put(world, NO_CANCEL, etag='"v1"')
    await create(world)
    connection = await inspector(world)
    decisions = await connection.fetch("SELECT * FROM policy_decision ORDER BY id")
    versions = [row["policy_version"] for row in decisions]
    assert len(set(versions)) == 3
    sets = [(await world.auditor.get(f"/v1/policy-sets/{version}")).json() for version in versions]
    assert [[one["name"] for one in found["policies"]] for found in sets] == [
        ["baseline"],
        ["baseline", "own"],
        ["baseline", "own"],
    ]
    assert [found["in_force"] for found in sets] == [False, False, True]
    assert sets[1]["policies"][1]["text"] == first["text"] and sets[2]["policies"][1]["text"] == NO_CANCEL
    question = {"action": "mission.create", "resource": "x", "context": {"risk_level": "high"}}
    for version, effect in zip(versions, ("allow", "deny", "allow"), strict=True):
        said = (await world.auditor.post("/v1/policies/evaluate", json={**question, "against": version})).json()
        assert (said["effect"], said["policy_version"]) == (effect, version)
    unknown = problem(
        await world.auditor.post("/v1/policies/evaluate", json={**question, "against": "0" * 64}), "validation"
    )
    assert unknown["errors"][0]["pointer"] == "/against"
    problem(await world.auditor.get("/v1/policy-sets/" + "0" * 64), "not_found")
    assert "policy.changed" in await fact_types(world, await world.tenant())


# To Cedar a carriage return ends the comment: what follows begins a rule, whose @reason swallows the next line's beginning.
HIDDEN = (
    rule('permit (principal, action == Action::"model.call", resource) when { 1 == 2 }')
    + '// note \r@reason("\n@reason(") permit (principal, action, resource); // ") @id("own.b") '
    + 'permit (principal, action == Action::"model.call", resource) when { 1 == 2 };\n'
)


async def test_what_is_asked_are_the_rules_that_were_checked(world: World) -> None:
    """A text that Cedar reads otherwise than people do is refused; and were it kept, only what people see would hold."""
    assert problem(await put(world, HIDDEN), "validation")["errors"][0]["line"] == "2"
    kept = compiled([Source("own", 1, HIDDEN)])
    facts = completed(ACTIONS["tool.call"], {"reach": "public", "mode": "dry_run"})
    assert evaluate(Asker("x"), "tool.call", "web.search", facts, kept).effect == "deny"


async def test_a_question_about_very_many_rules_is_refused(world: World) -> None:
    texts = [
        {"name": f"own{n}", "text": "".join(rule(NO_CANCEL_RULE, f"own{n}", f"r{i}") for i in range(100))}
        for n in range(5)
    ]
    ask = {"action": "operate.mission.cancel", "resource": "x", "policies": texts}
    answer = await world.submitter.post("/v1/policies/evaluate", json=ask)
    assert problem(answer, "validation")["errors"][0]["pointer"] == "/policies"
