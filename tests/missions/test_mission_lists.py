"""GET /v1/missions: filters narrow, pages follow one another to the end, and nothing is lost or shown twice."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.world import World
from tests.world.checks import as_listed, inspector, pending_change

Made = list[dict[str, Any]]


@pytest.fixture
async def made(world: World) -> AsyncIterator[Made]:
    """25 missions of two people, two types, two labels and two states; newest first."""
    found: Made = []
    for n in range(25):
        person = world.operator if n % 4 == 0 else world.submitter
        kind = "catalyst_strategy_brief" if n % 3 == 0 else "oracle_advisory"
        ask = {"mission_type": kind, "user_goal": f"Question {n}?", "labels": {"team": "blue" if n % 2 else "red"}}
        found.append((await person.post("/v1/missions", json=ask)).json())
    for n in range(0, 25, 5):
        headers = {"If-Match": '"v1"'}
        ended = await world.operator.post(
            f"/v1/missions/{found[n]['id']}/cancel", json={"reason": "x"}, headers=headers
        )
        found[n] = ended.json()
    yield found[::-1]


async def walk(client: httpx.AsyncClient, path: str, params: dict[str, Any]) -> tuple[Made, list[int]]:
    """All items by following next_cursor, checking that Link and has_more agree with it; and the page sizes."""
    items: Made = []
    sizes: list[int] = []
    answer = await client.get(path, params=params)
    while True:
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        sizes.append(len(page["items"]))
        assert set(page) == {"items", "next_cursor", "has_more"}
        assert page["has_more"] == (page["next_cursor"] is not None) == ("link" in answer.headers)
        if not page["has_more"]:
            return items, sizes
        by_cursor = await client.get(path, params={**params, "cursor": page["next_cursor"]})
        assert answer.links["next"]["rel"] == "next"
        answer = await client.get(answer.links["next"]["url"])
        assert answer.json() == by_cursor.json()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 30), wanted=st.fixed_dictionaries({}, optional={
    "state": st.sampled_from(["accepted", "cancelled", "completed"]),
    "mission_type": st.sampled_from(["oracle_advisory", "catalyst_strategy_brief"]),
    "label": st.sampled_from(["team:blue", "team:red", "team:green"]),
    "mine": st.booleans(),
    "window": st.tuples(st.integers(0, 24), st.integers(0, 24)),
}))  # fmt: skip
async def test_pages_hold_everything_once(world: World, made: Made, limit: int, wanted: dict[str, Any]) -> None:
    params: dict[str, Any] = {name: wanted[name] for name in ("state", "mission_type", "label") if name in wanted}
    expected = [
        one
        for one in made
        if one["state"] == wanted.get("state", one["state"])
        and one["mission_type"] == wanted.get("mission_type", one["mission_type"])
        and f"team:{one['labels']['team']}" == wanted.get("label", f"team:{one['labels']['team']}")
    ]
    if "mine" in wanted:
        mine = made[0]["requested_by"]
        person = mine if wanted["mine"] else next(one["requested_by"] for one in made if one["requested_by"] != mine)
        params["requested_by"] = person
        expected = [one for one in expected if one["requested_by"] == person]
    if "window" in wanted:
        after, before = (made[n]["created_at"] for n in wanted["window"])
        params |= {"created_after": after, "created_before": before}
        expected = [one for one in expected if after <= one["created_at"] < before]
    items, sizes = await walk(world.submitter, "/v1/missions", {**params, "limit": limit})
    assert [one["id"] for one in items] == [one["id"] for one in expected]
    assert items == expected
    assert all(size == limit for size in sizes[:-1]) and sizes[-1] <= limit


async def test_missions_of_one_instant_are_told_apart(world: World, made: Made) -> None:
    connection = await inspector(world)
    await connection.execute("ALTER TABLE mission DISABLE TRIGGER mission_guard")
    await connection.execute("UPDATE mission SET created_at = '2026-01-01'")
    for limit in (1, 4, 9):
        items, _ = await walk(world.submitter, "/v1/missions", {"limit": limit})
        assert [one["id"] for one in items] == sorted((one["id"] for one in made), reverse=True)


async def test_what_arrives_while_one_pages_moves_nothing(world: World, made: Made) -> None:
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (
            await world.submitter.get("/v1/missions", params={"limit": 4, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [one["id"] for one in page["items"]]
        await world.create()
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [one["id"] for one in made]


async def test_another_tenant_sees_none_of_it(world: World, made: Made) -> None:
    stranger = await world.another_tenant()
    assert (await stranger.http.get("/v1/missions")).json() == {"items": [], "next_cursor": None, "has_more": False}
    cursor = (await world.submitter.get("/v1/missions?limit=3")).json()["next_cursor"]
    assert (await stranger.http.get("/v1/missions", params={"cursor": cursor})).json()["items"] == []
    [own] = [
        (
            await stranger.http.post("/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "Mine?"})
        ).json()
    ]
    assert [one["id"] for one in (await stranger.http.get("/v1/missions")).json()["items"]] == [own["id"]]


async def test_goals_belong_to_their_missions(world: World, made: Made) -> None:
    items, _ = await walk(world.submitter, "/v1/missions", {"limit": 7})
    assert [one["user_goal"] for one in items] == [f"Question {n}?" for n in range(24, -1, -1)]
    for one in items[::6]:
        assert as_listed((await world.submitter.get(one["links"]["self"])).json()) == one


async def test_the_other_lists_page_alike(world: World) -> None:
    change = await pending_change(world)
    mission = change["mission_id"]
    for n in range(5):
        await world.submitter.put(f"/v1/workspaces/w{n}/documents?path=a.md", content=b"# A\n")
        await world.submitter.put(f"/v1/workspaces/w0/documents?path=p{n}.md", content=b"# A\n")
    whole = {
        f"/v1/missions/{mission}/artifacts": 4,
        "/v1/workspaces": 5,
        "/v1/workspaces/w0/documents": 6,
        "/v1/writebacks": 1,
        "/v1/approvals": 1,
        "/v1/approvals?state=pending": 1,
    }
    for path, least in whole.items():
        query = dict(httpx.URL(path).params)
        at_once, sizes = await walk(world.submitter, httpx.URL(path).path, {**query, "limit": 200})
        assert len(at_once) >= least and len(sizes) == 1, path
        for limit in (1, 2, 3):
            items, _ = await walk(world.submitter, httpx.URL(path).path, {**query, "limit": limit})
            assert items == at_once, (path, limit)
