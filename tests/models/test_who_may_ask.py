"""Who may ask, and until when: the gateway token of the current attempt of a mission under way; and the switch of a provider."""

import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest

from tests.boundary.calls import token_of
from tests.models.conftest import ASK, House, described
from tests.models.provider import KEY
from tests.world.checks import census, hire, inspector, problem
from tests.world.life import Life

BODY = {"model": "small", "messages": ASK}


async def post(
    house: House, life: Life, token: str | None, path: str = "chat/completions", **more: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"/internal/v1/missions/{more.pop('mission', life.id)}/openai/v1/{path}"
    return await house.world.inside.request(more.pop("method", "POST"), url, headers=headers, **({"json": BODY} | more))


def refused(answer: httpx.Response, code: str, status: int) -> dict[str, Any]:
    said: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, said["code"]) == (status, code), answer.text
    assert said["message"] and said["request_id"] == answer.headers["request-id"]
    assert answer.headers["content-type"] == "application/json"
    return said


async def test_only_the_gateway_token_of_this_mission_opens_the_door(house: House) -> None:
    life, other = await house.mission(), await house.mission()
    world, mine = house.world, life.dispatch
    await world.another_tenant()
    tokens = {
        "none": None,
        "the callback's": mine.mission_token,
        "another mission's": other.dispatch.gateway_token,
        "another tenant's claim of a wrong key": token_of(world, mine, audience="gateway", keys=world.colony.keys),
        "an expired one": token_of(
            world, mine, audience="gateway", ttl_s=1, now=mine.envelope.created_at.replace(year=2020)
        ),
        "an API key": world.people["operator"].key,
        "nonsense": "mt1.x.y.z",
        "a provider's key": KEY,
    }
    before = await census(world)
    for case, token in tokens.items():
        for path, method in (("chat/completions", "POST"), ("models", "GET")):
            answer = await post(house, life, token, path, method=method)
            assert refused(answer, "unauthenticated", 401)["type"] == "authentication_error", case
            assert answer.headers["x-should-retry"] == "false"
    assert await census(world) == before and house.east.asked == []
    assert (await post(house, life, mine.gateway_token)).status_code == 200
    answer = await world.inside.post(
        f"/internal/v1/missions/{life.id}/events", headers={"Authorization": f"Bearer {mine.gateway_token}"}
    )
    problem(answer, "unauthenticated")


async def test_a_token_of_another_tenant_finds_no_mission(house: House) -> None:
    life = await house.mission()
    stranger = token_of(house.world, life.dispatch, audience="gateway", tenant=uuid4())
    refused(await post(house, life, stranger), "not_found", 404)
    refused(await post(house, life, stranger, "models", method="GET"), "not_found", 404)


async def test_an_ended_attempt_asks_nothing_more(house: House) -> None:
    life = await house.mission()
    token = life.dispatch.gateway_token
    older = token_of(house.world, life.dispatch, audience="gateway", attempt=7)
    refused(await post(house, life, older), "attempt_superseded", 409)
    await life.complete()
    refused(await post(house, life, token), "mission_closed", 410)
    refused(await post(house, life, token, "models", method="GET"), "mission_closed", 410)
    assert house.east.asked == [] and await life.facts("model.") == []


async def test_a_cancelled_mission_asks_nothing_more_and_what_was_under_way_is_counted(house: House) -> None:
    import asyncio

    house.east.hold.clear()
    life = await house.mission()
    asking = asyncio.create_task(house.ask(life))
    await house.east.begun.wait()
    shown = await house.world.operator.get(f"/v1/missions/{life.id}")
    await house.world.operator.post(
        f"/v1/missions/{life.id}/cancel", json={"reason": "x"}, headers={"If-Match": shown.headers["etag"]}
    )
    refused(await post(house, life, life.dispatch.gateway_token), "mission_closed", 410)
    house.east.hold.set()
    assert (await asking).choices
    [fact] = await house.calls(life)
    account = await house.account(life.id)
    assert (fact["tokens_in"], account["settled_tokens"], account["reserved_tokens"]) == (10, 15, 0)


async def test_every_receipt_brings_the_next_token(house: House) -> None:
    life = await house.mission()
    receipt = await life.say({"type": "log", "level": "info", "message": "still here"})
    assert receipt.next_gateway_token
    assert house.world.colony.root is not None
    assert house.world.colony.root.gateway_token(life.id, 1) == receipt.next_gateway_token
    assert (await post(house, life, receipt.next_gateway_token)).status_code == 200
    house.world.colony.root.forget(life.id, 1)
    assert house.world.colony.root.gateway_token(life.id, 1) is None


async def test_a_model_inside_may_see_what_others_may_not(house: House) -> None:
    inside = described("west", house.urls["west"], reach="internal", classes=["internal", "confidential", "restricted"])
    await house.configure(described("east", house.urls["east"], classes=["public", "internal", "restricted"]), inside)
    life = await house.mission(sensitivity_class="restricted")
    await house.ask(life)
    assert house.east.asked == [] and len(house.west.asked) == 1
    [fact] = await house.calls(life)
    assert fact["tried"] == ["west:ok"]
    house.west.mood = "500"
    with pytest.raises(openai.InternalServerError):
        await house.ask(life)
    assert house.east.asked == [], "restricted material fell back to a provider outside"
    rules = await (await inspector(house.world)).fetch(
        "SELECT DISTINCT effect, rule FROM policy_decision WHERE mission = $1 AND action = 'model.call'", life.id
    )
    assert {tuple(one) for one in rules} == {("deny", "models.restricted_stays_inside"), ("allow", "models.inside")}


async def test_a_tenants_own_rule_closes_a_model(house: House) -> None:
    rule = (
        '@id("own.no_small") @reason("Too small.") forbid (principal, action == Action::"model.call", resource) '
        'when { resource.provider == "east" };'
    )
    assert (await house.world.policy_owner.put("/v1/policies/own", json={"text": rule})).status_code == 201
    life = await house.mission()
    await house.ask(life)
    assert house.east.asked == [] and len(house.west.asked) == 1


# --- the switch


async def test_an_admin_of_the_operators_tenant_switches_a_provider_off_for_everybody(house: House) -> None:
    world, life, off = (
        house.world,
        await house.mission(),
        "/v1/model-providers/east/off",
    )  # the demo's is the operator's
    why, admin = {"reason": "It answers nonsense."}, house.world.admin
    await world.another_tenant()
    robot = (await hire(world, "robot", "admin", kind="service")).http
    for client in (world.other, world.operator, robot):
        problem(await client.post(off, json=why), "forbidden")
    problem(await admin.post("/v1/model-providers/nobody/off", json=why), "not_found")
    problem(await admin.post(off, json={"reason": "  "}), "validation")
    done = await admin.post(off, json=why, headers={"Idempotency-Key": "one"})
    assert (done.status_code, done.json()["outcome"], done.json()["switch"]["off"]) == (200, "off", True)
    again = await admin.post(off, json=why, headers={"Idempotency-Key": "one"})
    assert again.headers["idempotent-replayed"] == "true" and again.json() == done.json()
    assert (await admin.post(off, json=why)).json()["outcome"] == "unchanged"
    await house.ask(life)
    assert house.east.asked == [] and (await house.calls(life))[0]["tried"] == ["west:ok"]
    shown = (await house.world.auditor.get("/v1/model-providers?limit=1")).json()
    assert shown["items"][0]["switch"]["reason"] == why["reason"] and shown["has_more"]
    second = (await house.world.auditor.get("/v1/model-providers", params={"cursor": shown["next_cursor"]})).json()
    assert [one["name"] for one in second["items"]] == ["west"] and not second["has_more"]
    await admin.post("/v1/model-providers/west/off", json=why)
    said = refused(await post(house, life, life.dispatch.gateway_token), "upstream_unavailable", 503)
    assert said["cause"] == "switched_off"
    assert (await post(house, life, life.dispatch.gateway_token, "models", method="GET")).json()["data"] == []
    on = await admin.post("/v1/model-providers/east/on", json={"reason": "It is mended."})
    assert (on.json()["outcome"], on.json()["switch"]["off"]) == ("on", False)
    await house.ask(life)
    assert len(house.east.asked) == 1
    facts = await (await inspector(house.world)).fetch(
        "SELECT type, actor, convert_from(body, 'UTF8') AS body FROM ledger WHERE type LIKE 'model_provider.%' ORDER BY id"
    )
    assert [one["type"] for one in facts] == [
        "model_provider.switched_off", "model_provider.switched_off", "model_provider.switched_on",
    ]  # fmt: skip
    assert all(
        one["actor"].startswith("principal:") and json.loads(one["body"]).keys() == {"provider"} for one in facts
    )


async def test_a_deployment_without_models_says_so(house: House) -> None:
    from app.model_gateway import Gateway

    house.world.internal.state.models = house.world.public.state.models = Gateway.of(house.world.settings())
    life = await house.mission()
    said = refused(await post(house, life, life.dispatch.gateway_token), "not_found", 404)
    assert said["param"] == "model"
    assert (await post(house, life, life.dispatch.gateway_token, "models", method="GET")).json()["data"] == []
    assert (await house.world.auditor.get("/v1/model-providers")).json() == {
        "items": [], "next_cursor": None, "has_more": False,
    }  # fmt: skip


async def test_no_secret_and_no_words_are_kept_or_logged(
    house: House, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    life, canary = await house.mission(), "canary-7f3a words of a person"
    token = life.dispatch.gateway_token
    assert token
    for mood in ("good", "401", "500", "400", "cut", "html"):
        house.east.mood, house.east.words = mood, [f"{canary} answered"] * 3
        asked = {"model": "small", "messages": [{"role": "user", "content": canary}], "stream": mood == "cut"}
        await post(house, life, token, json=asked)
    await post(house, life, token, json={"model": canary, "messages": ASK})
    logged = "".join(capfd.readouterr()) + caplog.text
    facts = str(await life.facts())
    kept = str([
        list(row)
        for table in ("policy_decision", "model_use", "budget_reservation")
        for row in await (await inspector(house.world)).fetch(f"SELECT * FROM {table}")
    ])  # fmt: skip
    for secret in (KEY, token, canary, token.rpartition(".")[2]):
        assert secret not in logged and secret not in facts and secret not in kept, secret[:12]
    assert KEY not in repr(house.gateway) + repr(house.gateway.registry) + repr(house.gateway.lines["east"])


async def test_no_provider_is_asked_on_behalf_of_a_replay(house: House) -> None:
    first = await house.mission()
    await first.end("cancel")
    asked = await house.world.submitter.post(
        f"/v1/missions/{first.id}/replay", json={"mode": "recorded", "colony": "live"}
    )
    again = Life(house.world, UUID(asked.json()["id"]))
    await again.take()
    refused(await post(house, again, again.dispatch.gateway_token), "replay_diverged", 410)
    assert house.east.asked == house.west.asked == []
    row = await again.row()
    assert (row["state"], row["reason"], row["used_tokens"]) == ("failed", "replay_diverged", 0)
