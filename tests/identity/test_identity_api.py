"""Identity over HTTP, through the public door: what admins may do, what nobody may do alone, and what ends at once."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.clock import now
from app.http.serving import opened
from tests.world import Person, World
from tests.world.checks import census, hire, inspector, problem


async def id_of(world: World, name: str) -> str:
    return str(await (await inspector(world)).fetchval("SELECT id FROM principal WHERE name = $1", name))


async def made(answer: httpx.Response, status: int = 201) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def last_fact(world: World) -> dict[str, Any]:
    row = await (await inspector(world)).fetchrow(
        "SELECT type, actor, convert_from(body, 'UTF8')::json::text AS body FROM ledger ORDER BY id DESC LIMIT 1"
    )
    return dict(row)


async def grant(world: World, name: str, role: str, **more: Any) -> httpx.Response:
    return await world.admin.post(f"/v1/principals/{await id_of(world, name)}/grants", json={"role": role, **more})


async def delegate(world: World, who: Person, to: str, role: str, **more: Any) -> httpx.Response:
    ask = {"role": role, "expires_at": (now() + timedelta(days=1)).isoformat(), **more}
    return await who.http.post(f"/v1/principals/{await id_of(world, to)}/delegations", json=ask)


# --- principals and roles


async def test_a_principal_is_made_given_a_role_and_a_key_and_can_act(world: World) -> None:
    answer = await world.admin.post("/v1/principals", json={"name": "Nina", "kind": "human"})
    nina = await made(answer)
    assert answer.headers["location"] == f"/v1/principals/{nina['id']}" and answer.headers["etag"] == '"v1"'
    assert (await last_fact(world))["actor"] == f"principal:{await id_of(world, 'admin')}"
    granted = await made(await world.admin.post(f"/v1/principals/{nina['id']}/grants", json={"role": "operator"}))
    assert (granted["state"], granted["granted_by"]) == ("live", await id_of(world, "admin"))
    key = await made(await world.admin.post("/v1/api-keys", json={"principal_id": nina["id"]}))
    client = world.client(key["secret"])
    who = await made(await client.get("/v1/whoami"), 200)
    assert (who["name"], who["roles"], who["credential"]["id"]) == ("Nina", ["operator"], key["id"])
    assert who["credential"]["kind"] == "api_key" and [one["id"] for one in who["grants"]] == [granted["id"]]
    assert "approvals.decide" in who["actions"] and "principals.write" not in who["actions"]
    assert (await client.get("/v1/missions")).status_code == 200


async def test_names_and_roles_are_taken_once(world: World) -> None:
    body = {"name": "Nina", "kind": "human"}
    await made(await world.admin.post("/v1/principals", json=body))
    problem(await world.admin.post("/v1/principals", json=body), "taken")
    await made(await grant(world, "Nina", "auditor"))
    problem(await grant(world, "Nina", "auditor"), "taken")


async def test_what_is_wrong_is_named(world: World) -> None:
    admin = world.admin
    nina = await made(await admin.post("/v1/principals", json={"name": "Nina", "kind": "human"}))
    past = (now() - timedelta(minutes=1)).isoformat()
    for path, body, pointer in (
        ("/v1/principals", {"name": "", "kind": "human"}, "/name"),
        ("/v1/principals", {"name": "a\u0007b", "kind": "human"}, "/name"),
        ("/v1/principals", {"name": "X", "kind": "ghost"}, "/kind"),
        ("/v1/principals", {"name": "X", "kind": "agent", "owner": str(uuid4())}, "/owner"),
        ("/v1/principals", {"name": "X", "kind": "human", "owner": nina["id"]}, "/owner"),
        (f"/v1/principals/{nina['id']}/grants", {"role": "king"}, "/role"),
        (f"/v1/principals/{nina['id']}/grants", {"role": "auditor", "expires_at": past}, "/expires_at"),
        (f"/v1/principals/{nina['id']}/grants", {"role": "auditor", "expires_at": "9999-12-31T23:59:59-12:00"}, "/expires_at"),
        (f"/v1/principals/{nina['id']}/delegations", {"role": "auditor"}, "/expires_at"),
        (f"/v1/principals/{nina['id']}/identities", {"issuer": "ftp://x.example", "subject": "1"}, "/issuer"),
        ("/v1/api-keys", {"expires_at": past}, "/expires_at"),
        ("/v1/tenants", {"name": "x"}, "/admin"),
    ):  # fmt: skip
        said = problem(await admin.post(path, json=body), "validation")
        assert said["errors"][0]["pointer"] == pointer, (path, body, said["errors"])


async def test_lists_are_pages(world: World) -> None:
    seen, url = [], "/v1/principals?limit=3"
    while url:
        answer = await world.admin.get(url)
        body = await made(answer, 200)
        seen += [one["name"] for one in body["items"]]
        assert len(body["items"]) <= 3
        url = answer.links["next"]["url"] if body["has_more"] else ""
    assert set(seen) == set(world.people) and len(seen) == len(set(seen))
    services = await made(await world.admin.get("/v1/principals?kind=service"), 200)
    assert [one["name"] for one in services["items"]] == ["submitter"]
    problem(await world.admin.get("/v1/api-keys?cursor=forged"), "validation")


async def test_a_grant_counts_from_its_beginning_to_its_end(world: World) -> None:
    nina = await hire(world, "nina")
    later = (now() + timedelta(hours=1)).isoformat()
    pending = await made(await grant(world, "nina", "auditor", starts_at=later))
    assert pending["state"] == "pending"
    problem(await nina.http.get("/v1/missions"), "forbidden")
    nina_id = await id_of(world, "nina")
    await made(await world.admin.delete(f"/v1/principals/{nina_id}/grants/{pending['id']}"), 200)
    soon = (now() + timedelta(seconds=1.5)).isoformat()
    await made(await grant(world, "nina", "auditor", expires_at=soon))
    assert (await nina.http.get("/v1/missions")).status_code == 200
    connection = await inspector(world)
    await connection.execute("SELECT pg_sleep(1.6)")
    problem(await nina.http.get("/v1/missions"), "forbidden")
    again = await made(await grant(world, "nina", "auditor"))  # what ran out makes room
    assert again["state"] == "live"


async def test_a_revoked_grant_is_gone_with_the_next_request(world: World) -> None:
    nina = await hire(world, "nina", "auditor")
    nina_id = await id_of(world, "nina")
    [one] = (await world.admin.get(f"/v1/principals/{nina_id}/grants")).json()["items"]
    assert (await nina.http.get("/v1/missions")).status_code == 200
    ended = await made(await world.admin.delete(f"/v1/principals/{nina_id}/grants/{one['id']}"), 200)
    assert ended["state"] == "revoked"
    problem(await nina.http.get("/v1/missions"), "forbidden")
    assert await made(await world.admin.delete(f"/v1/principals/{nina_id}/grants/{one['id']}"), 200) == ended


async def test_suspension_wants_the_seen_version_and_ends_everything_until_resumed(world: World) -> None:
    nina = await hire(world, "nina", "auditor")
    path = f"/v1/principals/{await id_of(world, 'nina')}"
    seen = (await world.admin.get(path)).headers["etag"]
    problem(await world.admin.post(f"{path}/suspend"), "precondition_required")
    problem(await world.admin.post(f"{path}/suspend", headers={"If-Match": '"v77"'}), "stale")
    assert (await nina.http.get("/v1/missions")).status_code == 200
    answer = await world.admin.post(f"{path}/suspend", headers={"If-Match": seen})
    assert (await made(answer, 200))["state"] == "suspended" and answer.headers["etag"] != seen
    problem(await nina.http.get("/v1/missions"), "unauthenticated")
    problem(await world.admin.post(f"{path}/suspend", headers={"If-Match": answer.headers["etag"]}), "wrong_state")
    back = await world.admin.post(f"{path}/resume", headers={"If-Match": answer.headers["etag"]})
    assert (await made(back, 200))["state"] == "active"
    assert (await nina.http.get("/v1/missions")).status_code == 200


# --- what nobody may do alone


async def test_an_admin_gives_themself_nothing(world: World) -> None:
    before = await census(world)
    for role in ("operator", "break_glass", "auditor", "submitter"):
        answer = await grant(world, "admin", role)
        if role == "break_glass" and answer.status_code == 422:
            continue  # a role this installation does not know yet
        problem(answer, "second_person")
    assert await census(world) == before
    second = await hire(world, "second admin", "admin")
    mine = await id_of(world, "admin")
    await made(await second.http.post(f"/v1/principals/{mine}/grants", json={"role": "operator"}))


async def test_an_admin_cannot_slip_an_approver_a_further_credential(world: World) -> None:
    operator = await id_of(world, "operator")
    keys = (await world.admin.get(f"/v1/api-keys?principal_id={operator}")).json()["items"]
    before = await census(world)
    for answer in (
        await world.admin.post("/v1/api-keys", json={"principal_id": operator}),
        await world.admin.post(f"/v1/api-keys/{keys[0]['id']}/rotate", json={}),
        await world.admin.post(
            f"/v1/principals/{operator}/identities", json={"issuer": "https://id.example", "subject": "mallory"}
        ),
    ):
        problem(answer, "second_person")
    assert await census(world) == before
    own = await made(await world.operator.post("/v1/api-keys", json={}))
    assert own["principal_id"] == operator
    # a service's keys are an admin's business, and so are those of who approves nothing
    for name in ("submitter", "auditor"):
        await made(await world.admin.post("/v1/api-keys", json={"principal_id": await id_of(world, name)}))


async def test_the_last_admin_stays(world: World) -> None:
    mine = await id_of(world, "admin")
    [own] = (await world.admin.get(f"/v1/principals/{mine}/grants")).json()["items"]
    seen = (await world.admin.get(f"/v1/principals/{mine}")).headers["etag"]
    before = await census(world)
    problem(await world.admin.delete(f"/v1/principals/{mine}/grants/{own['id']}"), "last_admin")
    problem(await world.admin.post(f"/v1/principals/{mine}/suspend", headers={"If-Match": seen}), "last_admin")
    assert await census(world) == before
    # an admin for a time does not count
    nina = await hire(world, "nina")
    await made(await grant(world, "nina", "admin", expires_at=(now() + timedelta(days=1)).isoformat()))
    problem(await world.admin.delete(f"/v1/principals/{mine}/grants/{own['id']}"), "last_admin")
    await hire(world, "second admin", "admin")
    await made(await nina.http.delete(f"/v1/principals/{mine}/grants/{own['id']}"), 200)
    problem(await world.admin.get("/v1/principals"), "forbidden")


# --- delegation


async def test_a_holder_passes_a_role_on_and_it_ends_with_theirs(world: World) -> None:
    nina = await hire(world, "nina")
    passed = await made(await delegate(world, world.people["operator"], "nina", "operator"))
    operator = await id_of(world, "operator")
    assert (passed["granted_by"], passed["state"]) == (operator, "live") and passed["delegated_from"]
    assert (await last_fact(world))["type"] == "role.delegated"
    who = (await nina.http.get("/v1/whoami")).json()
    assert who["roles"] == ["operator"]
    # not further
    await hire(world, "omar")
    problem(await delegate(world, nina, "omar", "operator"), "forbidden")
    await made(await world.admin.delete(f"/v1/principals/{operator}/grants/{passed['delegated_from']}"), 200)
    problem(await nina.http.get("/v1/whoami"), "forbidden")
    [shown] = (await world.admin.get(f"/v1/principals/{await id_of(world, 'nina')}/grants")).json()["items"]
    assert shown["state"] == "revoked"


async def test_who_passed_a_role_on_takes_it_back(world: World) -> None:
    nina = await hire(world, "nina")
    passed = await made(await delegate(world, world.people["operator"], "nina", "operator"))
    path = f"/v1/principals/{await id_of(world, 'nina')}/grants/{passed['id']}"
    problem(await world.second_operator.delete(path), "not_found")
    await made(await world.operator.delete(path), 200)
    problem(await nina.http.get("/v1/whoami"), "forbidden")


@pytest.mark.parametrize(
    ("role", "who", "to", "more", "code"),
    [
        ("operator", "auditor", "nina", {}, "forbidden"),  # not theirs
        ("operator", "operator", "robot", {}, "wrong_state"),  # approves, and is no human
        ("admin", "admin", "nina", {}, "wrong_state"),
        ("operator", "operator", "operator", {}, "wrong_state"),
        ("operator", "operator", "nina", {"days": 32}, "wrong_state"),
        ("submitter", "submitter", "nina", {}, "wrong_state"),  # a service passes nothing on
    ],
)
async def test_what_is_not_passed_on(world: World, role: str, who: str, to: str, more: Any, code: str) -> None:
    await hire(world, "nina")
    await hire(world, "robot", kind="agent")
    before = await census(world)
    ends = {"expires_at": (now() + timedelta(days=more["days"])).isoformat()} if more else {}
    problem(await delegate(world, world.people[who], to, role, **ends), code)
    assert await census(world) == before


async def test_an_auditors_role_may_go_to_a_service(world: World) -> None:
    robot = await hire(world, "robot", kind="service")
    await made(await delegate(world, world.people["auditor"], "robot", "auditor"))
    assert (await robot.http.get("/v1/missions")).status_code == 200


# --- keys


async def test_a_secret_is_shown_once_and_never_stored(world: World) -> None:
    headers = {"Idempotency-Key": "one-key"}
    first = await world.auditor.post("/v1/api-keys", json={}, headers=headers)
    again = await world.auditor.post("/v1/api-keys", json={}, headers=headers)
    body, replay = await made(first), await made(again)
    assert again.headers["idempotent-replayed"] == "true"
    assert replay == {name: value for name, value in body.items() if name != "secret"} | {"secret_already_shown": True}
    listed = (await world.auditor.get("/v1/api-keys")).json()["items"]
    assert body["secret"].startswith(body["prefix"]) and len(body["prefix"]) == 11
    assert body["secret"][-4:] not in str(listed) and body["secret"][11:] not in str(listed)
    connection = await inspector(world)
    for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        for row in await connection.fetch(f"SELECT t::text AS row FROM {table} t"):
            assert body["secret"][11:] not in row["row"], table
            assert body["secret"].encode().hex()[22:] not in row["row"], table


async def test_rotation_leaves_time_to_change_over(world: World) -> None:
    key = await made(await world.auditor.post("/v1/api-keys", json={}))
    old = world.client(key["secret"])
    rotated = await made(await old.post(f"/v1/api-keys/{key['id']}/rotate", json={"overlap_s": 3600}))
    fresh = world.client(rotated["secret"])
    assert (await old.get("/v1/missions")).status_code == (await fresh.get("/v1/missions")).status_code == 200
    ends = (await fresh.get(f"/v1/api-keys/{key['id']}")).json()["expires_at"]
    assert ends is not None and rotated["expires_at"] is None
    at_once = await made(await fresh.post(f"/v1/api-keys/{rotated['id']}/rotate", json={"overlap_s": 0}))
    problem(await fresh.get("/v1/missions"), "unauthenticated")
    assert (await world.client(at_once["secret"]).get("/v1/missions")).status_code == 200
    problem(await world.auditor.post(f"/v1/api-keys/{rotated['id']}/rotate", json={}), "wrong_state")


async def test_a_revoked_key_is_dead_at_once_in_every_process(world: World) -> None:
    from app.main import Root, public_app

    other = Root(world.settings())
    app = public_app(other)
    there = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://b")
    key = await made(await world.auditor.post("/v1/api-keys", json={}))
    bearer = {"Authorization": f"Bearer {key['secret']}"}
    async with opened(other, app), there:
        assert (await there.get("/v1/missions", headers=bearer)).status_code == 200
        ended = await made(await world.auditor.delete(f"/v1/api-keys/{key['id']}"), 200)
        assert ended["state"] == "revoked"
        problem(await there.get("/v1/missions", headers=bearer), "unauthenticated")
        problem(await world.client(key["secret"]).get("/v1/missions"), "unauthenticated")


async def test_everybody_sees_their_own_keys_and_an_admin_all(world: World) -> None:
    everybody = (await world.admin.get("/v1/api-keys?limit=200")).json()["items"]
    assert len(everybody) == len(world.people)
    mine = await id_of(world, "auditor")
    [own] = (await world.auditor.get("/v1/api-keys")).json()["items"]
    assert own["principal_id"] == mine
    others = [one for one in everybody if one["principal_id"] != mine]
    assert (await world.auditor.get(f"/v1/api-keys?principal_id={others[0]['principal_id']}")).json()["items"] == []
    for answer in (
        await world.auditor.get(f"/v1/api-keys/{others[0]['id']}"),
        await world.auditor.delete(f"/v1/api-keys/{others[0]['id']}"),
        await world.auditor.post(f"/v1/api-keys/{others[0]['id']}/rotate", json={}),
        await world.auditor.post("/v1/api-keys", json={"principal_id": others[0]["principal_id"]}),
        await world.auditor.delete(f"/v1/principals/{others[0]['principal_id']}/sessions"),
    ):
        problem(answer, "not_found")


# --- tenants


async def test_the_operators_admin_makes_a_tenant_with_its_first_admin(world: World) -> None:
    answer = await world.admin.post(
        "/v1/tenants", json={"name": "acme", "admin": "Ada"}, headers={"Idempotency-Key": "t"}
    )
    acme = await made(answer)
    ada = world.client(acme["secret"])
    assert (await ada.get("/v1/whoami")).json()["roles"] == ["admin"]
    assert [one["name"] for one in (await ada.get("/v1/tenants")).json()["items"]] == ["acme"]
    assert {one["name"] for one in (await world.admin.get("/v1/tenants")).json()["items"]} == {"demo", "acme"}
    assert [one["name"] for one in (await world.auditor.get("/v1/tenants")).json()["items"]] == ["demo"]
    problem(await world.admin.post("/v1/tenants", json={"name": "acme", "admin": "Ada"}), "taken")
    replay = await world.admin.post(
        "/v1/tenants", json={"name": "acme", "admin": "Ada"}, headers={"Idempotency-Key": "t"}
    )
    assert replay.json()["secret_already_shown"] is True and "secret" not in replay.json()
    for tenant in (acme["id"], str(await world.tenant())):
        facts = [fact["type"] for fact in await world.facts(tenant)]
        assert "tenant.created" in facts


async def test_other_tenants_admins_make_and_suspend_none(world: World) -> None:
    acme = await made(await world.admin.post("/v1/tenants", json={"name": "acme", "admin": "Ada"}))
    ada = world.client(acme["secret"])
    before = await census(world)
    problem(await ada.post("/v1/tenants", json={"name": "x", "admin": "y"}), "forbidden")
    match = {"If-Match": '"v1"'}
    problem(await ada.post(f"/v1/tenants/{acme['id']}/suspend", headers=match), "forbidden")
    demo = await world.tenant()
    problem(await ada.post(f"/v1/tenants/{demo}/suspend", headers=match), "not_found")
    problem(await ada.get(f"/v1/tenants/{demo}"), "not_found")
    assert await census(world) == before


async def test_a_suspended_tenant_is_out_until_it_is_resumed(world: World) -> None:
    acme = await made(await world.admin.post("/v1/tenants", json={"name": "acme", "admin": "Ada"}))
    ada, path = world.client(acme["secret"]), f"/v1/tenants/{acme['id']}"
    problem(await world.admin.post(f"{path}/suspend"), "precondition_required")
    off = await world.admin.post(f"{path}/suspend", headers={"If-Match": '"v1"'})
    assert (await made(off, 200))["state"] == "suspended"
    problem(await ada.get("/v1/whoami"), "unauthenticated")
    on = await world.admin.post(f"{path}/resume", headers={"If-Match": off.headers["etag"]})
    assert (await made(on, 200))["state"] == "active"
    assert (await ada.get("/v1/whoami")).status_code == 200
    demo = f"/v1/tenants/{await world.tenant()}"
    seen = (await world.admin.get(demo)).headers["etag"]
    problem(await world.admin.post(f"{demo}/suspend", headers={"If-Match": seen}), "wrong_state")
