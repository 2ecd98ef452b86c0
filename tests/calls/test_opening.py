"""Calls that are judged from memory: what is no longer so comes back, each by itself, and what stands leaves what it always left."""

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app import budgets, calls, policy
from app.caller import SYSTEM, Caller
from app.model_gateway import actions as model_actions
from app.tools import api as tools_api
from app.tools import known
from app.tools.judging import looked_at
from tests.boundary.remains import remains
from tests.models.conftest import House, house, world_settings
from tests.tools.odd_server import Odd, served_odd
from tests.tools.registered import ask, definition, entry, mission_with, put, register
from tests.world import World
from tests.world.checks import census, inspector, problem
from tests.world.life import Life, give_guide

__all__ = ["house", "world_settings"]


@pytest.fixture
async def odd(anyio_backend: str) -> Any:
    async with served_odd() as server:
        yield server


def colony(life: Life) -> Caller:
    return Caller(life.dispatch.envelope.tenant_id, SYSTEM, "colony:local", "colony")


async def opening(life: Life, tool: str = "odd.echo", **more: Any) -> calls.Opening:
    """A call of a tool as the door judges it from what this process remembers."""
    tenant = life.dispatch.envelope.tenant_id
    terms, wanted = await life.world.root.openings.terms(tenant, life.id), known.remembered(tenant, tool)
    assert terms is not None and wanted is not None
    seen = looked_at(terms, wanted, {})
    draft = policy.draft(colony(life), "tool.call", tool, seen, requester=terms.requested_by)
    layer, its = wanted.layer, wanted.entry
    said: dict[str, Any] = {
        "tenant": tenant,
        "terms": terms,
        "attempt": life.dispatch.attempt,
        "purpose": f"tool:{tool}",
        "amounts": budgets.Amounts(),
        "life": timedelta(minutes=2),
        "drafts": [draft],
        "layer": calls.Layered(layer.name, layer.version, its.name) if layer and its else None,
        "nonce": ("local", uuid4().hex),
    }
    return calls.Opening(**(said | more))


async def run(world: World, *openings: calls.Opening) -> list[calls.Outcome]:
    """All of them in one transaction."""
    return await world.root.openings.run(await world.connect("api"), openings)


async def known_to(world: World, *lives: Life) -> None:
    """This process has seen the layer, and its policies are kept."""
    for life in lives:
        assert (await ask(world, life.dispatch, "odd.echo", {"text": "x"})).status_code == 200


# --- what may change between reading and committing


async def superseded(life: Life, odd: Odd) -> None:
    await life.say()
    await life.lose_lease()
    await life.take()


async def ended(life: Life, odd: Odd) -> None:
    assert (await life.end("cancel")).status_code == 200


async def late(life: Life, odd: Odd) -> None:
    await life.past("deadline_at")


async def spent(life: Life, odd: Odd) -> None:
    await life.say({"type": "usage.reported", "tokens_in": 900_000_000, "tokens_out": 1, "cost_usd": 0.0})


async def halted(life: Life, odd: Odd) -> None:
    said = await life.world.operator.post("/v1/tool-layers/odd/halt", json={"reason": "as the test says"})
    assert said.status_code == 200, said.text


async def all_halted(life: Life, odd: Odd) -> None:
    said = await life.world.operator.post("/v1/tool-layers/*/halt", json={"reason": "as the test says"})
    assert said.status_code == 200, said.text


async def registered_anew(life: Life, odd: Odd) -> None:
    body = definition(odd, entry("echo", access="mutate", becomes=None), "add")
    assert (await put(life.world, "odd", body, seen='"v1"')).status_code == 200


async def retired(life: Life, odd: Odd) -> None:
    said = await life.world.admin.delete("/v1/tool-layers/odd", headers={"If-Match": '"v1"'})
    assert said.status_code in (200, 204), said.text


async def drifted(life: Life, odd: Odd) -> None:
    await (await inspector(life.world)).execute(
        """INSERT INTO tool_layer_state (tenant, layer, version, drifted, drifted_at) VALUES ($1, 'odd', 1, '{echo}', now())
           ON CONFLICT (tenant, layer, version) DO UPDATE SET drifted = '{echo}', drifted_at = now()""",
        life.dispatch.envelope.tenant_id,
    )


async def forbidden(life: Life, odd: Odd) -> None:
    rule = (
        '@id("no_echo.rule") @reason("As the test says.") forbid(principal, action == Action::"tool.call", resource);'
    )
    said = await life.world.policy_owner.put("/v1/policies/no_echo", json={"text": rule})
    assert said.status_code in (200, 201), said.text


# Each with what `over` and `Known.off` look at for it: what is judged there open_calls looks at once more, in SQL.
OF_ONE_MISSION = {superseded: {"attempt"}, ended: {"state"}, late: {"deadline_at"}, spent: {"over_budget"}}
OF_THE_TOOL = {
    halted: {"halted"},
    all_halted: {"halted"},
    registered_anew: {"access", "entry", "becomes"},
    retired: {"retired"},
    drifted: {"drifted"},
    forbidden: set[str](),
}


def conditions(function: Any) -> set[str]:
    """The members that a function's conditions look at."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {one.attr for test in tests for one in ast.walk(test) if isinstance(one, ast.Attribute)}


def test_whatever_ends_a_call_has_its_case_here() -> None:
    assert conditions(calls.over) == set[str]().union(*OF_ONE_MISSION.values())
    assert conditions(known.Known.off) == set[str]().union(*OF_THE_TOOL.values())


@pytest.mark.parametrize("change", [*OF_ONE_MISSION, *OF_THE_TOOL], ids=lambda change: change.__name__)
async def test_what_is_no_longer_so_comes_back_and_the_rest_is_opened(
    world: World, odd: Odd, change: Callable[[Life, Odd], Awaitable[None]]
) -> None:
    await register(world, odd)
    one, other = await mission_with(world, "odd.echo"), await mission_with(world, "odd.echo")
    await known_to(world, one, other)
    bad, good = await opening(one), await opening(other, "workspace.outline" if change in OF_THE_TOOL else "odd.echo")
    if change is forbidden:  # rules are a tenant's: whoever was judged by those of before is judged anew
        good = None  # type: ignore[assignment]
    await change(one, odd)
    before = await census(world)
    outcomes = await run(world, *([bad] if good is None else [good, bad]))
    assert outcomes[-1] == "again"
    kept = 0 if good is None else 1
    assert [isinstance(outcome, UUID) for outcome in outcomes] == [True] * kept + [False]
    after = await census(world)
    grown = {table: after[table] - n for table, n in before.items() if after[table] != n}
    assert grown == ({"policy_decision": 1, "budget_reservation": 1} if kept else {})


async def test_the_door_judges_anew_what_came_back(world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change comes between judging and opening; two calls are in the same batch, and each hears its own."""
    await register(world, odd)
    one, other = await mission_with(world, "odd.echo"), await mission_with(world, "workspace.outline")
    await known_to(world, one)
    openings = world.root.openings
    seen: list[int] = []

    async def together(connection: asyncpg.Connection, items: Sequence[calls.Opening]) -> Any:
        if not seen:
            await halted(one, odd)
        seen.append(len(items))
        return await type(openings).run(openings, connection, items)

    monkeypatch.setattr(openings.batches, "run", together)
    refused, answered = await asyncio.gather(
        ask(world, one.dispatch, "odd.echo", {"text": "y"}), ask(world, other.dispatch, "workspace.outline")
    )
    assert problem(refused, "tool_halted") and answered.status_code == 200
    assert sum(seen) == 2
    assert [kind for kind, _ in await one.facts("tool.refused")] == ["tool.refused"]


async def test_a_nonce_opens_one_call_also_within_a_batch(world: World, odd: Odd) -> None:
    await register(world, odd)
    one, other = await mission_with(world, "odd.echo"), await mission_with(world, "odd.echo")
    await known_to(world, one)
    nonce = ("local", uuid4().hex)
    first, second, third = await run(
        world, await opening(one, nonce=nonce), await opening(other, nonce=nonce), await opening(other)
    )
    assert isinstance(first, UUID) and second == "replayed" and isinstance(third, UUID)
    assert await run(world, await opening(one, nonce=nonce)) == ["replayed"]


async def test_the_budget_refuses_one_of_two_in_a_batch(world: World) -> None:
    life = await mission_with(world, "workspace.outline", budget={"tokens": 1000})
    await ask(world, life.dispatch, "workspace.outline")
    much = {"purpose": "model", "amounts": budgets.Amounts(600, Decimal(0))}
    first, second = await run(
        world, await opening(life, "workspace.outline", **much), await opening(life, "workspace.outline", **much)
    )
    assert isinstance(first, UUID) and second == "again"
    held = await (await inspector(world)).fetchval(
        "SELECT reserved_tokens FROM budget_account WHERE key = $1", str(life.id)
    )
    assert held == 600


async def test_fifty_at_once_on_a_budget_for_ten_are_ten(world: World) -> None:
    life = await mission_with(world, "workspace.outline", budget={"tokens": 1000})
    await ask(world, life.dispatch, "workspace.outline")
    amounts = budgets.Amounts(100, Decimal(0))
    wanted = [await opening(life, "workspace.outline", purpose="model", amounts=amounts) for _ in range(50)]
    outcomes = await asyncio.gather(*(world.root.openings.open(one) for one in wanted))
    assert sum(isinstance(one, UUID) for one in outcomes) == 10 and outcomes.count("again") == 40
    assert await run(world, wanted[0]) == ["replayed"]


async def test_a_batch_serves_two_tenants_each_by_its_own(world: World) -> None:
    life = await mission_with(world, "workspace.outline")
    await ask(world, life.dispatch, "workspace.outline")
    mine = await opening(life, "workspace.outline")
    stranger = await world.another_tenant()
    theirs = (await stranger.http.get("/v1/whoami")).json()["tenant_id"]
    elsewhere = await opening(life, "workspace.outline", tenant=UUID(theirs))
    outcomes = await run(world, elsewhere, mine)  # the mission is nobody's there
    assert outcomes[0] == "again" and isinstance(outcomes[1], UUID)
    assert await world.root.openings.terms(UUID(theirs), life.id) is None


# --- both ways leave the same


@pytest.mark.parametrize("tool", ["odd.echo", "odd.refuse", "workspace.search", "workspace.outline"])
async def test_a_call_judged_at_once_leaves_what_one_judged_at_length_leaves(
    world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    await register(world, odd, "echo", "refuse")
    arguments = {"odd.echo": {"text": "größer"}, "workspace.search": {"query": "rollback"}}.get(tool, {})
    warm, quick, slow = [await mission_with(world, tool) for _ in range(3)]
    await give_guide(world)
    await ask(world, warm.dispatch, tool, arguments)
    lengthy: list[UUID] = []
    at_length = tools_api.at_length

    async def noticed(one: tools_api.Called) -> Any:
        lengthy.append(one.mission)
        return await at_length(one)

    monkeypatch.setattr(tools_api, "at_length", noticed)
    answers = [await ask(world, quick.dispatch, tool, arguments)]

    async def never(*_: Any) -> str:
        return "again"

    monkeypatch.setattr(world.root.openings, "open", never)
    answers.append(await ask(world, slow.dispatch, tool, arguments))
    assert lengthy == [slow.id]
    said = [{**answer.json(), "request_id": "", "instance": ""} for answer in answers]
    assert said[0] == said[1] and answers[0].status_code == answers[1].status_code
    left = await remains(world, [quick.id, slow.id])
    assert left[quick.id] == left[slow.id]
    assert await more_of(world, quick.id) == await more_of(world, slow.id)


async def test_a_models_call_judged_at_once_leaves_what_one_judged_at_length_leaves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = house.world
    warm, quick, slow = [await house.mission() for _ in range(3)]
    await house.ask(warm)
    monkeypatch.setattr(model_actions, "monotonic", lambda: 0.0)  # both take as long
    lengthy, at_length = list[UUID](), model_actions.at_length

    async def noticed(one: model_actions.Called) -> Any:
        lengthy.append(one.said.mission)
        return await at_length(one)

    monkeypatch.setattr(model_actions, "at_length", noticed)
    answers = [await house.ask(quick)]

    async def never(*_: Any) -> str:
        return "again"

    monkeypatch.setattr(world.root.openings, "open", never)
    answers.append(await house.ask(slow))
    assert lengthy == [slow.id] and answers[0].choices == answers[1].choices
    left = await remains(world, [quick.id, slow.id])
    assert left[quick.id] == left[slow.id]
    assert await more_of(world, quick.id) == await more_of(world, slow.id)


async def test_a_provider_switched_off_between_judging_and_opening_is_not_asked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, openings = await house.mission(), house.world.root.openings
    await house.ask(life)
    assert len(house.east.asked) == 1
    seen: list[calls.Outcome] = []

    async def meanwhile(connection: asyncpg.Connection, items: Sequence[calls.Opening]) -> Any:
        if not seen:
            off = await house.world.admin.post("/v1/model-providers/east/off", json={"reason": "as the test says"})
            assert off.status_code == 200, off.text
        outcomes = await type(openings).run(openings, connection, items)
        seen.extend(outcomes)
        return outcomes

    monkeypatch.setattr(openings.batches, "run", meanwhile)
    await house.ask(life)
    assert seen == ["again"] and len(house.east.asked) == 1 and len(house.west.asked) == 1
    [_, last] = await house.calls(life)
    assert last["provider"] == "west"


async def more_of(world: World, mission: UUID) -> list[Any]:
    """Decisions, reservations, readings and tape of a mission, without ids and times."""
    found = []
    for table, own in (
        ("policy_decision", "'id', 'mission', 'at'"),
        ("budget_reservation", "'id', 'mission', 'made_at', 'expires_at', 'ended_at'"),
        ("reading", "'mission', 'read_at'"),
        ("tape", "'mission', 'at', 'took_ms'"),
    ):
        rows = await (await inspector(world)).fetch(
            f"SELECT to_jsonb(t) - ARRAY[{own}] AS said FROM {table} t WHERE t.mission = $1 ORDER BY 1", mission
        )
        found.append((table, [row["said"] for row in rows]))
    return found


# --- the end of a process


async def run_out(world: World) -> None:
    """The life of everything that is reserved is over, and whoever looks for that has looked."""
    connection = await inspector(world)
    async with connection.transaction():
        await connection.execute("ALTER TABLE budget_reservation DISABLE TRIGGER budget_reservation_guard")
        await connection.execute(
            "UPDATE budget_reservation SET expires_at = now() - interval '1 s' WHERE state = 'reserved' AND expires_at > now()"
        )
        await connection.execute("ALTER TABLE budget_reservation ENABLE ALWAYS TRIGGER budget_reservation_guard")
    async with world.worker.database.write() as session:
        await budgets.reconcile(session)


async def test_what_was_opened_and_never_closed_runs_out(world: World) -> None:
    life = await mission_with(world, "workspace.outline", budget={"tokens": 1000})
    await ask(world, life.dispatch, "workspace.outline")
    amounts = budgets.Amounts(700, Decimal(0))
    await run(world, await opening(life, "workspace.outline", purpose="model", amounts=amounts))
    connection = await inspector(world)
    held = "SELECT reserved_tokens FROM budget_account WHERE key = $1"
    assert await connection.fetchval(held, str(life.id)) == 700
    await run_out(world)
    assert await connection.fetchval(held, str(life.id)) == 0
    again = await run(world, await opening(life, "workspace.outline", purpose="model", amounts=amounts))
    assert again == ["again"]  # what it held is used: nobody knows better


async def test_an_ordinary_call_opens_no_session(world: World, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the database is asked for it is one statement before and one after: a session would be several more."""
    await register(world, odd)
    life = await mission_with(world, "odd.echo")
    await known_to(world, life)
    batches: list[str] = []
    for where in (world.root.openings.batches, world.root.closings.batches):

        async def counted(connection: asyncpg.Connection, items: Any, at: Any = where, run: Any = where.run) -> Any:
            batches.append(at.name)
            return await run(connection, items)

        monkeypatch.setattr(where, "run", counted)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a session was opened")

    for name in ("read", "write"):
        monkeypatch.setattr(world.root.database, name, refuse)
    answer = await ask(world, life.dispatch, "odd.echo", {"text": "y"})
    monkeypatch.undo()
    assert answer.status_code == 200, answer.text
    assert batches == ["openings of calls", "closings of calls"]
