"""Webhooks from the fact to a receiver on a real socket, with the days on which the receiver is not well."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from standardwebhooks import Webhook

from app import identity, ledger, outbound, work
from app.caller import system
from app.db import Database
from app.delivery.webhooks import Courier, deliver, signatures
from app.delivery.webhooks import courier as courier_module
from app.delivery.webhooks.sealing import CannotOpen, seal, unseal
from app.nudge import Nudger
from colony_client.signing import parse_keys
from tests.world import World
from tests.world.world import served


@dataclass
class Receiver:
    """An address that keeps what it is sent. answer: what it says to the next calls."""

    url: str = ""
    answer: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("http only")
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        self.got.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        self.arrived.set()
        if self.hold:
            await self.hold.wait()
        status, headers = self.answer()
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": [*sent, (b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with served(receiver) as url:
        receiver.url = f"{url}/hook?for=mission-root"
        try:
            yield receiver
        finally:
            if receiver.hold:
                receiver.hold.set()  # or a test that failed would wait for its own receiver


async def subscribe(world: World, url: str, **more: Any) -> dict[str, Any]:
    answer = await world.admin.post("/v1/webhooks", json={"url": url} | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def courier(world: World) -> Courier:
    assert world.worker.courier is not None
    return world.worker.courier


async def turn(world: World) -> None:
    """Plans what is new and sends what is due."""
    await courier(world).plan()
    while await courier(world).take():
        await courier(world).idle()
    await courier(world).idle()


async def again(world: World, tries: int = 1) -> None:
    """Time passes, as often as asked: what was put off is due."""
    connection = await world.connect("admin")
    for _ in range(tries):
        await connection.execute("UPDATE webhook SET blocked_until = NULL")
        await world.make_due("webhook_send")
        await turn(world)


async def deliveries(world: World, webhook: str, **asked: Any) -> list[dict[str, Any]]:
    answer = await world.admin.get(f"/v1/webhooks/{webhook}/deliveries", params=asked)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_a_fact_arrives_signed_and_says_what_the_ledger_says(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.*"], signing=["v1", "v1a"])
        mission = await world.create()
        await turn(world)
        [(headers, body)] = receiver.got
        assert Webhook(made["secret"]).verify(body, headers)["type"] == "mission.accepted"
        [key] = [one["public_key"] for one in made["secrets"] if one["kind"] == "v1a"]
        assert signatures.verify(headers, body, [key]) == headers["webhook-id"]
        events = (await world.submitter.get(f"/v1/missions/{mission['id']}/events")).json()["items"]
        [event] = [one for one in events if one["type"] == "mission.accepted"]
        assert json.loads(body) == {"type": "mission.accepted", "timestamp": event["at"], "data": event}
        assert headers["webhook-id"] == f"fact_{event['id']}" and headers["content-type"] == "application/json"
    [delivery] = await deliveries(world, made["id"])
    assert (delivery["state"], delivery["tries"], delivery["last_tries"][0]["status"]) == ("delivered", 1, 200)


async def test_only_wanted_facts_from_now_on_and_each_once(world: World) -> None:
    await world.create()
    async with receiving() as receiver, receiving() as everything:
        await subscribe(world, receiver.url, types=["mission.cancelled", "approval.*"])
        await subscribe(world, everything.url, from_start=True)
        mission = await world.create()
        etag = (await world.submitter.get(f"/v1/missions/{mission['id']}")).headers["etag"]
        cancelled = await world.submitter.post(
            f"/v1/missions/{mission['id']}/cancel", json={"reason": "no"}, headers={"If-Match": etag}
        )
        assert cancelled.status_code == 200
        for _ in range(3):
            await turn(world)
        assert receiver.types() == ["mission.cancelled"]
        page = (await world.admin.get("/v1/ledger?limit=200")).json()["items"]
        wanted = [fact["id"] for fact in page if not fact["type"].startswith("webhook.")]
        assert sorted(json.loads(body)["data"]["id"] for _, body in everything.got) == sorted(wanted)
        assert len(wanted) > 20, "the tenant's own beginnings are facts too"


async def test_a_fact_of_a_slow_transaction_is_not_lost(world: World) -> None:
    """A fact with a smaller position may be committed later; the cursor must not have gone past it."""
    tenant = await world.tenant()
    async with receiving() as receiver:
        await subscribe(world, receiver.url, types=["mission.*"])
        database = Database(world.url("worker"), pool_size=3)
        try:
            async with database.write() as slow:
                await slow.enter(tenant)
                await ledger.record(slow, system(tenant, "worker"), "mission.degraded", UUID(int=1), code="slow")
                async with database.write() as quick:
                    await quick.enter(tenant)
                    await ledger.record(quick, system(tenant, "worker"), "mission.degraded", UUID(int=2), code="quick")
                await turn(world)
                before = len(receiver.got)
            await turn(world)
        finally:
            await database.close()
        assert before == 0
        assert [json.loads(body)["data"]["body"]["code"] for _, body in receiver.got] == ["slow", "quick"]


async def test_a_receiver_that_fails_is_tried_again_under_the_same_id_and_then_given_up(world: World) -> None:
    async with receiving() as receiver:
        receiver.answer = lambda: (500, {})
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        await world.create()
        await turn(world)
        [waiting] = await deliveries(world, made["id"], state="pending")
        wait = datetime.fromisoformat(waiting["next_at"]) - datetime.now(UTC)
        assert 3 < wait.total_seconds() < 6 and waiting["last_tries"][0]["error"] == "refused"
        assert (await world.admin.get(f"/v1/webhooks/{made['id']}")).json()["failures"] == 1
        await again(world, len(deliver.RETRY_S))
        assert len(receiver.got) == 1 + len(deliver.RETRY_S)
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        [dead] = await deliveries(world, made["id"], state="dead")
        assert dead["tries"] == 1 + len(deliver.RETRY_S) and len(dead["last_tries"]) == deliver.KEEP_TRIES
        tenant = await world.tenant()
        assert [fact["type"] for fact in await world.facts(tenant)].count("webhook.given_up") == 1

        receiver.answer = lambda: (204, {})
        asked = await world.admin.post(f"/v1/webhooks/{made['id']}/redeliver", json={})
        assert asked.json() == {"deliveries": 1}
        await again(world)
        [done] = await deliveries(world, made["id"], state="delivered")
        assert (done["id"], done["tries"]) == (dead["id"], 1)
        assert (await world.admin.get(f"/v1/webhooks/{made['id']}")).json()["failures"] == 0


async def test_a_receiver_may_ask_for_time_or_for_an_end(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        receiver.answer = lambda: (429, {"retry-after": "600"})
        await world.create()
        await turn(world)
        [waiting] = await deliveries(world, made["id"])
        assert (datetime.fromisoformat(waiting["next_at"]) - datetime.now(UTC)).total_seconds() > 590
        assert (await world.admin.get(f"/v1/webhooks/{made['id']}")).json()["blocked_until"]
        receiver.answer = lambda: (410, {})
        await again(world)
        shown = (await world.admin.get(f"/v1/webhooks/{made['id']}")).json()
        assert (shown["state"], shown["dead"]) == ("paused", 1)
        [paused] = [f for f in await world.facts(await world.tenant()) if f["type"] == "webhook.paused"]
        assert json.loads(paused["body"])["cause"] == "gone"


async def test_others_are_not_held_up_by_one_that_fails(world: World) -> None:
    async with receiving() as well:
        ill = await subscribe(world, "http://127.0.0.1:9/nobody", types=["mission.accepted"])
        await subscribe(world, well.url, types=["mission.accepted"])
        for _ in range(3):
            await world.create()
        await turn(world)
        assert len(well.got) == 3
        tries = [one["tries"] for one in await deliveries(world, ill["id"])]
        assert sum(tries) >= 1 and {
            e["error"] for d in await deliveries(world, ill["id"]) for e in d["last_tries"]
        } == {"connection_failed"}


async def test_a_crash_after_sending_sends_the_same_message_again(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        await world.create()
        await courier(world).plan()
        receiver.hold = asyncio.Event()
        await courier(world).take()
        await receiver.arrived.wait()
        for task in courier(world).sending:
            task.cancel()  # the process is gone before it could write anything down
        receiver.hold.set()
        await courier(world).idle()
        receiver.hold = None
        [waiting] = await deliveries(world, made["id"])
        assert (waiting["state"], waiting["tries"]) == ("pending", 0)
        await world.make_due("webhook_send")
        await turn(world)
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1 and len(receiver.got) == 2
        assert (await deliveries(world, made["id"]))[0]["state"] == "delivered"


async def test_two_workers_plan_and_send_each_fact_once(world: World) -> None:
    second = Database(world.url("worker"), pool_size=5)
    keys = parse_keys("one:sealing-secret-of-the-tests", "WEBHOOK_SEALING_KEY")
    other = Courier(second, Nudger(world.url("worker"), []), keys, frozenset({"127.0.0.1"}))
    async with receiving() as receiver:
        await subscribe(world, receiver.url, types=["mission.accepted"])
        for _ in range(12):
            await world.create()
        await asyncio.gather(*(one.plan() for one in (courier(world), other) for _ in range(4)))
        await asyncio.gather(*(one.take() for one in (courier(world), other) for _ in range(4)))
        await asyncio.gather(courier(world).idle(), other.idle())
        await turn(world)
        ids = [headers["webhook-id"] for headers, _ in receiver.got]
        assert len(ids) == len(set(ids)) == 12
    await other.stop()
    await second.close()


async def test_a_paused_webhook_misses_nothing_and_a_deleted_one_gets_nothing(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        path = f"/v1/webhooks/{made['id']}"
        await world.create()
        await courier(world).plan()
        paused = await world.admin.patch(path, json={"state": "paused"}, headers={"If-Match": '"v1"'})
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")
        await world.create()
        await turn(world)
        assert receiver.got == []
        refused = await world.admin.post(f"{path}/test", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
        await world.admin.patch(path, json={"state": "active"}, headers={"If-Match": paused.headers["etag"]})
        await turn(world)
        assert len(receiver.got) == 2
        await world.create()
        await courier(world).plan()
        etag = (await world.admin.get(path)).headers["etag"]
        assert (await world.admin.delete(path, headers={"If-Match": etag})).status_code == 204
        await turn(world)
        assert len(receiver.got) == 2 and (await world.admin.get(path)).status_code == 404


async def test_a_test_message(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url)
        sent = (await world.admin.post(f"/v1/webhooks/{made['id']}/test")).json()
        await turn(world)
        tests = [(headers, body) for headers, body in receiver.got if headers["webhook-id"].startswith("test_")]
        [(headers, body)] = tests
        assert Webhook(made["secret"]).verify(body, headers)["data"] == {"webhook": made["id"], "test": True}
        shown = await world.admin.get(f"/v1/webhooks/{made['id']}/deliveries/{sent['id']}")
        assert shown.json()["state"] == "delivered"


async def test_rotation_signs_with_both_until_the_overlap_ends(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        path = f"/v1/webhooks/{made['id']}/rotate"
        second = (await world.admin.post(path, json={"overlap_s": 3600})).json()
        await world.create()
        await turn(world)
        headers, body = receiver.got[-1]
        for secret in (made["secret"], second["secret"]):
            Webhook(secret).verify(body, headers)
        third = (await world.admin.post(path, json={"overlap_s": 0})).json()
        await world.create()
        await turn(world)
        headers, body = receiver.got[-1]
        Webhook(third["secret"]).verify(body, headers)
        for secret in (made["secret"], second["secret"]):
            with pytest.raises(signatures.NotGenuine):
                signatures.verify(headers, body, [secret])


async def test_the_secret_is_shown_once_and_rests_sealed(world: World) -> None:
    key = {"Idempotency-Key": "once"}
    ask = {"url": "https://example.com/hook"}
    first = (await world.admin.post("/v1/webhooks", json=ask, headers=key)).json()
    second = await world.admin.post("/v1/webhooks", json=ask, headers=key)
    assert second.headers["idempotent-replayed"] == "true" and second.json()["id"] == first["id"]
    assert "secret" not in second.json() and second.json()["secret_already_shown"] is True
    assert "secret" not in (await world.admin.get(f"/v1/webhooks/{first['id']}")).json()
    admin = await world.connect("admin")
    raw = signatures.read_key(first["secret"])[1]
    for table in ("webhook_secret", "idempotency", "ledger"):
        for row in await admin.fetch(f"SELECT to_jsonb(t)::text AS said FROM {table} t"):
            assert first["secret"] not in row["said"] and raw.hex() not in row["said"]


def test_a_sealed_secret_opens_only_in_its_own_row_and_under_a_known_key() -> None:
    keys, others = parse_keys("a:sixteen-or-more-letters", "X"), parse_keys("b:sixteen-or-more-letters", "X")
    tenant, row = UUID(int=1), UUID(int=2)
    sealed = seal(keys, tenant, row, b"s" * 32)
    both = parse_keys("b:sixteen-or-more-letters,a:sixteen-or-more-letters", "X")
    assert unseal(both, tenant, row, sealed) == b"s" * 32
    for kept, place in ((keys, UUID(int=3)), (others, row)):
        with pytest.raises(CannotOpen):
            unseal(kept, tenant, place, sealed)
    with pytest.raises(CannotOpen):
        unseal(keys, tenant, row, sealed[:-1] + bytes([sealed[-1] ^ 1]))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "ftp://example.com", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/",
        "https://2130706433/", "https://0x7f.1/", "https://user:secret@example.com/", "https://example.com/#part",
        "https://exa mple.com/", "https://ex\uff0eample.com/", "https://example.com\\@evil.test/", "https://[fe80::1%25eth0]/",
        "https://example.com:0/", "https:///nohost", "javascript:alert(1)", "https://[::ffff:127.0.0.1]/",
    ],
)  # fmt: skip
async def test_addresses_that_would_be_refused_are_refused_at_once(world: World, url: str) -> None:
    answer = await world.admin.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "/url" and "secret" not in answer.text


async def test_a_name_that_leads_inside_is_not_called(world: World) -> None:
    async def inside(_host: str, _port: int) -> list[str]:
        return ["93.184.215.14", "10.1.2.3"]

    made = await subscribe(world, "https://example.com/hook", types=["mission.accepted"])
    one = courier(world)
    await one.client.aclose()
    one.client = outbound.client(
        allowed=frozenset(), any_public=True, timeout_s=2, connect_s=2, max_bytes=1000, resolve=inside
    )
    await world.create()
    await turn(world)
    [waiting] = await deliveries(world, made["id"])
    assert waiting["last_tries"][0] | {"at": 0, "ms": 0} == {
        "at": 0,
        "status": None,
        "error": "address_refused",
        "ms": 0,
    }


async def test_a_backlog_is_bounded_and_the_cursor_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "BACKLOG", 3)
    monkeypatch.setattr(deliver, "PLAN_AT_ONCE", 2)
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        for _ in range(9):
            await world.create()
        await courier(world).plan()
        assert 3 <= len(await deliveries(world, made["id"])) <= 4
        for _ in range(5):
            await turn(world)
        assert len(receiver.got) == 9


async def test_only_an_admin_makes_them_and_changes_need_the_version(world: World) -> None:
    made = await subscribe(world, "https://example.com/hook")
    path = f"/v1/webhooks/{made['id']}"
    assert (await world.operator.post("/v1/webhooks", json={"url": "https://example.com"})).status_code == 403
    assert (await world.auditor.get(path)).status_code == 200
    assert (await world.admin.patch(path, json={"types": ["*"]})).status_code == 428
    assert (await world.admin.patch(path, json={"types": ["*"]}, headers={"If-Match": '"v9"'})).status_code == 412
    bad = await world.admin.patch(path, json={"types": ["Mission"]}, headers={"If-Match": '"v1"'})
    assert bad.status_code == 422 and bad.json()["errors"][0]["pointer"] == "/types/0"
    other = await world.another_tenant()
    assert (await other.http.get(path)).status_code in (403, 404)


async def test_without_a_sealing_key_there_are_no_webhooks(world: World) -> None:
    world.public.state.webhook_keys = None
    answer = await world.admin.post("/v1/webhooks", json={"url": "https://example.com/hook"})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")


async def test_a_long_answer_is_cut(world: World) -> None:
    async def long_winded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("http only")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body"})

    async with served(long_winded) as url:
        made = await subscribe(world, url, types=["mission.accepted"])
        await world.create()
        async with asyncio.timeout(10):
            await turn(world)
        [waiting] = await deliveries(world, made["id"])
        assert waiting["last_tries"][0]["error"] == "answer_too_large"


async def test_the_loops_deliver_by_themselves(world: World) -> None:
    async with receiving() as receiver:
        await subscribe(world, receiver.url, types=["mission.accepted"])
        one = courier(world)
        loops = [asyncio.create_task(one.plan_loop()), asyncio.create_task(one.send_loop())]
        await world.create()
        async with asyncio.timeout(10):
            await receiver.arrived.wait()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await one.idle()


async def test_telling_what_came_of_a_try_waits_for_the_webhook_first(world: World) -> None:
    """Whoever changes a webhook holds it and then asks for its work: a try that did it the other way would be a deadlock."""
    async with receiving() as receiver:
        receiver.answer, receiver.hold = (lambda: (500, {})), asyncio.Event()
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        await world.create()
        await courier(world).plan()
        await courier(world).take()
        await receiver.arrived.wait()
        admin = await world.connect("admin")
        looking = await world.connect("admin")
        await admin.execute("SET lock_timeout = '2s'")
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM webhook WHERE id = $1 FOR UPDATE", UUID(made["id"]))
            receiver.hold.set()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%webhook%'"
            async with asyncio.timeout(10):
                while not await looking.fetchval(waiting):
                    await asyncio.sleep(0.01)
            await admin.execute("UPDATE work SET wanted = wanted + 1 WHERE kind = 'webhook_send'")
        await courier(world).idle()
        [waits] = await deliveries(world, made["id"])
        assert (waits["state"], waits["tries"]) == ("pending", 1)


async def test_a_try_that_fails_after_its_webhook_was_deleted_ends_quietly(world: World) -> None:
    async with receiving() as receiver:
        receiver.answer, receiver.hold = (lambda: (500, {})), asyncio.Event()
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        await world.create()
        await courier(world).plan()
        await courier(world).take()
        await receiver.arrived.wait()
        path = f"/v1/webhooks/{made['id']}"
        assert (await world.admin.delete(path, headers={"If-Match": '"v1"'})).status_code == 204
        receiver.hold.set()
        await courier(world).idle()
        admin = await world.connect("admin")
        assert await admin.fetchval("SELECT count(*) FROM work WHERE kind = 'webhook_send'") == 0
        assert [row["state"] for row in await admin.fetch("SELECT state FROM webhook_delivery")] == ["cancelled"]


async def test_one_webhook_that_cannot_be_planned_or_has_far_to_read_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [(await subscribe(world, f"https://example.com/{n}"))["id"] for n in range(3)]
    turns: list[str] = []

    async def plan(_session: Any, webhook: UUID) -> bool:
        turns.append(str(webhook))
        if str(webhook) == ids[0]:
            raise ValueError("a fact that nobody can read")
        return turns.count(str(webhook)) < 3

    async def waiting(_database: Any) -> list[tuple[UUID, UUID]]:
        return [(await world.tenant(), UUID(id)) for id in ids]

    monkeypatch.setattr(deliver, "plan", plan)
    monkeypatch.setattr(deliver, "waiting", waiting)
    await courier(world).plan()
    assert turns == [ids[0], ids[1], ids[2], ids[1], ids[2], ids[1], ids[2]]


async def test_webhooks_with_a_full_backlog_are_not_looked_at_again_and_again(world: World) -> None:
    made = await subscribe(world, "https://example.com/hook")
    await world.create()
    assert [str(webhook) for _, webhook in await deliver.waiting(courier(world).database)] == [made["id"]]
    admin = await world.connect("admin")
    await admin.execute(
        """INSERT INTO webhook_delivery (tenant, id, webhook, message, type, next_at)
           SELECT tenant, gen_random_uuid(), id, 'm' || n, 'webhook.tested', now() FROM webhook, generate_series(1, 1000) n"""
    )
    assert await deliver.waiting(courier(world).database) == []


async def test_test_messages_are_bounded_and_redelivery_is_about_ones_own(world: World) -> None:
    made, other = [await subscribe(world, f"https://example.com/{n}", types=["mission.accepted"]) for n in range(2)]
    sent = [await world.admin.post(f"/v1/webhooks/{made['id']}/test") for _ in range(11)]
    assert [answer.status_code for answer in sent] == [202] * 10 + [409]
    id = sent[0].json()["id"]
    refused = await world.admin.post(f"/v1/webhooks/{other['id']}/redeliver", json={"deliveries": [id]})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/deliveries/0")
    pending = await world.admin.post(f"/v1/webhooks/{made['id']}/redeliver", json={"deliveries": [id]})
    assert pending.json() == {"deliveries": 0}, "it is on its way already"


async def test_a_receiver_learns_nothing_of_our_traces_and_they_nothing_of_its_address(world: World) -> None:
    """Addresses of webhooks may hold secrets of their own; spans go to whoever keeps the traces."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        async with receiving() as receiver:
            await subscribe(world, receiver.url, types=["mission.accepted"])
            await world.create()
            spans.clear()
            await turn(world)
            [(headers, _)] = receiver.got
    finally:
        instrumentor.uninstrument()
    assert "traceparent" not in headers
    assert not [span.name for span in spans.get_finished_spans() if receiver.url in str(dict(span.attributes or {}))]


async def due_deliveries(world: World, hook: dict[str, Any], count: int) -> None:
    """So many deliveries of a webhook, due now."""
    connection = await world.connect("admin")
    await connection.execute(
        """WITH made AS (INSERT INTO webhook_delivery (tenant, id, webhook, message, type, next_at)
             SELECT tenant, gen_random_uuid(), id, 'test_' || n, 'webhook.test', now() FROM webhook, generate_series(1, $2) n
             WHERE id = $1 RETURNING tenant, id)
           INSERT INTO work (tenant, kind, subject, queue, next_at) SELECT tenant, 'webhook_send', id, 'worker', now() FROM made""",
        UUID(hook["id"]),
        count,
    )


async def test_receivers_that_hang_leave_hands_for_others(world: World) -> None:
    stranger = await world.another_tenant()
    async with receiving() as hanging, receiving() as well:
        hanging.hold = asyncio.Event()
        for _ in range(6):
            await due_deliveries(world, await subscribe(world, hanging.url, types=["mission.failed"]), 20)
        answer = await stranger.http.post("/v1/webhooks", json={"url": well.url, "types": ["mission.failed"]})
        await due_deliveries(world, answer.json(), 10)
        async with asyncio.timeout(20):
            while len(well.got) < 10 or len(hanging.got) < courier_module.OF_TENANT:
                assert await courier(world).take() <= courier_module.AT_ONCE
                await asyncio.sleep(0.05)
            while len(courier(world).sending) > courier_module.OF_TENANT:
                await asyncio.sleep(0.05)  # the one that answers has its hands back
        held = Counter(webhook for _, webhook in courier(world).sending.values())
        assert len(well.got) == 10, "all of the other tenant's"
        assert sum(held.values()) == courier_module.OF_TENANT and max(held.values()) == courier_module.OF_WEBHOOK
        assert await courier(world).take() == 0, "and no more until a hand is free"
        hanging.hold.set()
        await turn(world)
        assert len(hanging.got) == 120


async def test_a_freed_hand_takes_the_next_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier_module, "POLL_S", 3600)
    async with receiving() as receiver:
        await due_deliveries(world, await subscribe(world, receiver.url, types=["mission.failed"]), 30)
        loop = asyncio.create_task(courier(world).send_loop())
        try:
            async with asyncio.timeout(20):
                while len(receiver.got) < 30:
                    await asyncio.sleep(0.01)
        finally:
            loop.cancel()
        await courier(world).idle()


async def test_the_courier_does_not_spin_while_all_hands_of_a_webhook_are_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as receiver:
        receiver.hold = asyncio.Event()
        await due_deliveries(world, await subscribe(world, receiver.url, types=["mission.failed"]), 30)
        asked = 0
        real = deliver.take

        async def counted(*args: Any) -> Any:
            nonlocal asked
            asked += 1
            return await real(*args)

        monkeypatch.setattr(deliver, "take", counted)
        loop = asyncio.create_task(courier(world).send_loop())
        await receiver.arrived.wait()
        await asyncio.sleep(2.2)
        loop.cancel()
        assert len(receiver.got) == courier_module.OF_WEBHOOK and asked <= 8, asked
        others = [kind for kind, queue in work.KINDS.items() if queue == "worker" and kind != "webhook_send"]
        looked = await work.turn(world.worker.database, others, 0, world.root_lease())
        assert looked == ([], None), "nor do the other loops of the worker"
        receiver.hold.set()
        await courier(world).idle()


async def test_a_suspended_tenants_webhooks_wait_and_go_on(world: World) -> None:
    async with receiving() as receiver:
        made = await subscribe(world, receiver.url, types=["mission.accepted"])
        await world.create()
        await courier(world).plan()
        database = Database(world.url("registrar"), pool_size=1)
        tenant = await world.tenant()

        async def suspended(now_: bool) -> None:
            async with database.write() as session:
                await session.enter(tenant)
                await identity.actions.suspend_tenant(session, now_)

        await world.create()  # a fact that is not planned yet
        await suspended(True)
        connection = await world.connect("admin")
        position = await connection.fetchrow("SELECT after_xid::text, after_id FROM webhook")
        for _ in range(3):
            await turn(world)
        assert receiver.got == []
        assert await connection.fetchrow("SELECT after_xid::text, after_id FROM webhook") == position
        rows = await connection.fetch("SELECT state, tries FROM webhook_delivery")
        assert [tuple(row) for row in rows] == [("pending", 0)]
        assert await connection.fetchval("SELECT attempts FROM work WHERE kind = 'webhook_send'") == 0
        await suspended(False)
        await turn(world)
        assert receiver.types() == ["mission.accepted"] * 2
        assert [one["tries"] for one in await deliveries(world, made["id"])] == [1, 1]
        await database.close()
