"""Versions of the contract: the one before ours is spoken on both sides, a newer minor in ours, another major by nobody.

A peer of version 1.0 is held to what was published for 1.0: whatever does not fit that to the letter, it does not know.
"""

import json
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from colony_client import publish, signing, tokens
from colony_client.client import ColonyClient
from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER, Dispatch
from colony_client.tokens import TokenAudience
from tests.boundary.calls import batch, call, events_path, send_raw
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import begin, due, under_way
from tests.world.world import served

Scope = dict[str, Any]


@cache
def published(version: str, name: str) -> Any:
    schema = json.loads(Path(publish.PUBLISHED / version / "schemas" / f"{name}.json").read_text())
    return jsonschema_rs.validator_for(schema, validate_formats=True)


class Peer:
    """A colony that speaks one version and knows nothing else. `says`: what its header says; None: no header."""

    def __init__(self, speaks: str, says: str | None) -> None:
        self.speaks, self.says = speaks, says
        self.asked: list[tuple[str, int]] = []
        self.taken: list[Any] = []
        self.sick = False

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, said = self.answer(scope["path"], dict(scope["headers"]), body)
        self.asked.append((scope["path"], status))
        headers = [(b"content-type", b"application/json")]
        headers += [(VERSION_HEADER.lower().encode(), self.says.encode())] if self.says else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    def answer(self, path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, Any]:
        if path == "/health":
            return (500, {}) if self.sick else (200, {"service": "peer", "contract_version": self.speaks})
        if self.speaks.startswith("2."):
            said = f"2.0 is spoken here, not {headers[VERSION_HEADER.lower().encode()].decode()}"
            return 400, {"code": "version_unsupported", "detail": said}
        asked = json.loads(body)
        known = "1.0" if self.speaks == "1.0" else CONTRACT_VERSION
        if not published(known, "dispatch_batch").is_valid(asked):
            return 422, {"code": "invalid_body", "detail": "an unknown field"}
        assert asked["contract_version"] == known or known != "1.0"
        self.taken += asked["missions"]
        answers = [
            {"mission_id": one["mission_id"], "attempt": one["attempt"], "outcome": "accepted"}
            for one in asked["missions"]
        ]
        return 200, {"contract_version": self.speaks, "missions": answers}


@asynccontextmanager
async def colony(world: World, speaks: str, says: str | None) -> Any:
    """While the block runs, the worker's colony is this peer, behind a socket."""
    peer, honest = Peer(speaks, says), world.worker.colony.client
    async with served(peer) as url, ColonyClient(url, world.root.colony_keys, timeout_s=5) as client:
        world.worker.colony.client = client
        try:
            yield peer
        finally:
            world.worker.colony.client = honest


async def offered(world: World) -> str:
    """A new mission's state after it was offered once."""
    life = await begin(world)
    await life.take()
    return await life.state()


DISPATCH, HEALTH = "/v1/missions", "/health"


@pytest.mark.parametrize("says", [None, "1.0"])
async def test_a_colony_of_the_version_before_is_never_sent_what_it_does_not_know(
    world: World, says: str | None
) -> None:
    async with colony(world, "1.0", says) as peer:
        for _ in range(2):
            assert await offered(world) == "dispatched"
    assert peer.asked == [(HEALTH, 200), (DISPATCH, 200), (DISPATCH, 200)]
    assert all("gateway_token" not in one and one["mission_token"] for one in peer.taken)


async def test_a_colony_of_our_version_gets_a_key_for_the_model_gateway(world: World) -> None:
    async with colony(world, CONTRACT_VERSION, CONTRACT_VERSION) as peer:
        assert await offered(world) == "dispatched"
    assert peer.asked == [(HEALTH, 200), (DISPATCH, 200)]
    [taken] = peer.taken
    assert genuine(world, taken["gateway_token"], "gateway") == genuine(world, taken["mission_token"], "callback")


async def test_a_newer_minor_version_is_spoken_to_in_ours(world: World) -> None:
    async with colony(world, "1.7", "1.7") as peer:
        assert await offered(world) == "dispatched"
    assert peer.taken[0]["gateway_token"]


async def test_a_colony_that_is_replaced_by_an_older_or_a_newer_one_is_understood_at_once(world: World) -> None:
    async with colony(world, CONTRACT_VERSION, CONTRACT_VERSION) as peer:
        assert await offered(world) == "dispatched"
        peer.speaks = peer.says = "1.0"
        assert await offered(world) == "dispatched", "the older one was offered the mission in its own version"
        peer.says = None
        assert await offered(world) == "dispatched"
        peer.speaks = peer.says = CONTRACT_VERSION
        for _ in range(2):
            assert await offered(world) == "dispatched"
    of_dispatch = [status for path, status in peer.asked if path == DISPATCH]
    assert of_dispatch == [200, 422, 200, 200, 200, 200]
    assert ["gateway_token" in one for one in peer.taken] == [True, False, False, False, True]
    rows = await (await inspector(world)).fetchval("SELECT count(*) FROM quarantine")
    assert rows == 0 and world.worker.colony.component.failures == 0


async def test_a_colony_that_cannot_say_its_version_is_spoken_to_in_the_first(world: World) -> None:
    async with colony(world, "1.0", None) as peer:
        peer.sick = True
        assert await offered(world) == "dispatched"
    assert peer.asked == [(HEALTH, 500), (DISPATCH, 200)]


async def test_another_major_version_leaves_missions_waiting_and_says_why(world: World) -> None:
    life = await begin(world)
    async with colony(world, "2.0", "2.0"):
        await life.take()
        shown = await world.mission(life.id)
        assert (shown["state"], shown["degraded"]["code"]) == ("accepted", "colony_incompatible")
        detail = world.worker.colony.component.detail
        assert detail is not None and CONTRACT_VERSION in detail and "2.0" in detail
    await due(world, "dispatch", life.id)
    await life.take()
    assert await life.state() == "dispatched"


def genuine(world: World, token: str, audience: TokenAudience) -> tuple[Any, ...]:
    said = tokens.read(world.root.signing_keys, token, audience=audience)
    return said.mission, said.tenant, said.attempt, said.fence


# --- colonies of other versions that call the root


async def said_to(world: World, dispatch: Dispatch, version: str | None, body: bytes | None = None) -> Any:
    """A batch of events from a colony whose header says this."""
    path, body = events_path(dispatch), batch(dispatch) if body is None else body
    signed = signing.sign(world.colony.keys, "POST", path, body, "root")
    signed = {name: value for name, value in signed.items() if name != VERSION_HEADER}
    said = {VERSION_HEADER: version} if version else {}
    async with served(world.internal) as url, httpx.AsyncClient(base_url=url) as http:
        bearer = {"Authorization": f"Bearer {dispatch.mission_token}"}
        return await http.post(path, content=body, headers=signed | said | bearer)


@pytest.mark.parametrize("version", [None, "1.0"])
@pytest.mark.parametrize("lane", [True, False], ids=["lane", "framework"])
async def test_a_colony_of_the_version_before_is_answered_in_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, version: str | None, lane: bool
) -> None:
    life = await under_way(world)
    if not lane:
        monkeypatch.setattr(world.internal, "lane", None)
    answer = await said_to(world, life.dispatch, version)
    assert answer.status_code == 200, answer.text
    published("1.0", "event_receipt").validate(answer.json())
    assert answer.headers[VERSION_HEADER] == CONTRACT_VERSION


@pytest.mark.parametrize("version", ["1.1", "1.2", "1.7"])
async def test_a_colony_of_our_version_or_a_newer_minor_gets_the_next_key_for_the_gateway(
    world: World, version: str
) -> None:
    life = await under_way(world)
    receipt = (await said_to(world, life.dispatch, version)).json()
    published(CONTRACT_VERSION, "event_receipt").validate(receipt)
    assert genuine(world, receipt["next_gateway_token"], "gateway") == genuine(world, receipt["next_token"], "callback")


@pytest.mark.parametrize("version", ["2.0", "0.9", "1", "1.01", "one", "1.0, 1.1"])
async def test_another_major_version_is_refused_by_name_and_changes_nothing(world: World, version: str) -> None:
    life = await under_way(world)
    before = await life.row()
    said = problem(await said_to(world, life.dispatch, version), "version_unsupported")
    assert (said["spoken"], said["asked"]) == (CONTRACT_VERSION, version)
    assert CONTRACT_VERSION in said["detail"] and version in said["detail"]
    assert await life.row() == before


async def test_every_route_says_its_version_and_refuses_others(world: World) -> None:
    life = await under_way(world)
    path = f"/internal/v1/missions/{life.id}"
    for where, method, body in (
        (path, "GET", b""),
        (f"{path}/tools/workspace.search/calls", "POST", b'{"arguments": {"query": "x"}}'),
    ):
        answer = await call(world, where, body, life.dispatch.mission_token, method=method)
        assert (answer.status_code, answer.headers[VERSION_HEADER]) == (200, CONTRACT_VERSION), answer.text
        headers = signing.sign(world.colony.keys, method, where, body, "root") | {VERSION_HEADER: "3.2"}
        answer = await world.inside.request(method, where, content=body, headers=headers)
        problem(answer, "version_unsupported")
        assert answer.headers[VERSION_HEADER] == CONTRACT_VERSION


async def test_a_stranger_is_told_nothing_about_versions(world: World) -> None:
    life = await under_way(world)
    path, body = events_path(life.dispatch), batch(life.dispatch)
    other = signing.parse_keys("local:another-secret-of-somebody", "K")
    headers = signing.sign(other, "POST", path, body, "root") | {VERSION_HEADER: "2.0"}
    problem(await world.inside.post(path, content=body, headers=headers), "unauthenticated")


async def test_what_a_later_version_added_is_unknown_in_a_request(world: World) -> None:
    life = await under_way(world)
    body = json.loads(batch(life.dispatch)) | {"contract_version": "1.7", "mood": "fine"}
    said = problem(await send_raw(world, life.dispatch, json.dumps(body).encode()), "validation")
    assert said["errors"][0]["pointer"] == "/mood"
