"""The kit that plays a colony: the root passes, and a root that is wrong in one thing is found by what it breaks."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.boundary import callbacks, door, watch
from app.embedded import free_port
from app.tools import api as tools_api
from colony_client import client as wire_client
from colony_client import signing, tokens
from colony_client.client import ColonyClient
from colony_client.contract import DispatchAnswer
from colony_client.errors import Refused, SignatureRefused
from colony_client.signing import parse_keys
from colony_kit.environment import Misuse
from colony_kit.of_root import REQUIREMENTS, run
from colony_kit.of_root.play import Pace
from tests.conftest import DEMO, Cluster, fresh, numbers
from tests.delivery.streams import serving
from tests.world import World
from tests.world.world import COLONY_KEY

COMMAND = [sys.executable, "-m", "app.cli.main"]
KEYS = parse_keys(COLONY_KEY, "TEST")


@pytest.mark.xdist_group("instance")  # a whole instance, one at a time
def test_the_root_passes(tmp_path: Path) -> None:
    """`up` with the kit in the place of the colony, then the kit with what `up` says in kit_env."""
    colony = f"http://127.0.0.1:{free_port()}"
    words = ["up", "--json", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"), "--colony", colony]
    environment = os.environ | {"MISSION_LEASE_MS": "1500", "COLONY_TIMEOUT_MS": "3000"}
    with (tmp_path / "up.err").open("w") as err:
        up = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
    try:
        assert up.stdout is not None
        told = json.loads(up.stdout.readline())
        assert (
            told["colony_url"] == told["kit_env"]["COLONY_SERVICE_BASE_URL"] == colony and "colony" not in told["pids"]
        )
        kit = [*COMMAND, "root-kit", "--json", "--junit", str(tmp_path / "kit.xml")]
        done = subprocess.run(
            kit, env=os.environ | told["kit_env"], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(40)
    assert done.stderr == "", done.stderr
    document = json.loads(done.stdout)
    assert {one["id"]: one["evidence"] for one in document["requirements"] if one["result"] != "pass"} == {}
    assert [one["id"] for one in document["requirements"]] == [one.id for one in REQUIREMENTS]
    assert done.returncode == 0 and (tmp_path / "kit.xml").exists()
    for key in (told["kit_env"]["MISSION_ROOT_API_KEY"], told["kit_env"]["COLONY_SERVICE_API_KEY"].partition(":")[2]):
        assert key not in done.stdout


# --- roots that are wrong


class Spoiled:
    """The internal app behind something that changes its answers."""

    def __init__(self, app: Any, change: Callable[[str, int, dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        self.app, self.change = app, change

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        said: list[Any] = []

        async def keep(message: Any) -> None:
            said.append(message)

        await self.app(scope, receive, keep)
        if not said:
            return
        begin, body = said[0], b"".join(one.get("body", b"") for one in said[1:])
        status, document = self.change(scope["path"], begin["status"], json.loads(body))
        changed = json.dumps(document).encode()
        headers = [(name, value) for name, value in begin["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(changed)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": changed})


def no_stop(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, said | ({"stop": False, "stop_reason": None} if "stop" in said else {})


def useless_token(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, said | ({"next_token": "mt1.x.y.z"} if "next_token" in said else {})


def no_expected_seq(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, {name: value for name, value in said.items() if name != "expected_seq"}


def names_nothing(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, said | ({"detail": "Something is wrong.", "errors": []} if status == 422 else {})


def one_lease(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, said | ({"lease_until": "2999-01-01T00:00:00Z"} if "lease_until" in said else {})


def forgets_events(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, said | ({"last_seq": 0} if "last_seq" in said else {})


def tools_fail(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return (200, {"result": None}) if path.endswith("workspace.outline/calls") else (status, said)


def refuses_as_bug(path: str, status: int, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return (500 if status == 403 else status), said


class Careless(ColonyClient):
    """Dispatches with what a colony said about time left out."""

    async def dispatch(self, missions: Any, **more: Any) -> list[DispatchAnswer]:
        try:
            said = await super().dispatch(missions, **more)
        except Refused as refused:
            refused.retry_after = None
            raise
        return [one.model_copy(update={"retry_after_s": 0.2 if one.retry_after_s else None}) for one in said]


class Deaf(ColonyClient):
    """Hears no refusal, no status and no cancel."""

    async def dispatch(self, missions: Any, **more: Any) -> list[DispatchAnswer]:
        said = await super().dispatch(missions, **more)
        return [
            one.model_copy(update={"outcome": "busy", "reason": None}) if one.outcome == "refused" else one
            for one in said
        ]

    async def status(self, mission_id: UUID, **more: Any) -> Any:
        raise Refused(404, None, b"", None)

    async def cancel(self, mission_id: UUID, reason: str, **more: Any) -> Any:
        return None


def signs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signing.sign
    monkeypatch.setattr(
        wire_client, "sign", lambda *words, **more: real(*words, **{**more, "nonce": "always-the-same-nonce"})
    )


def signs_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    real, foreign = signing.sign, parse_keys("other:key-of-somebody-else", "TEST")
    monkeypatch.setattr(wire_client, "sign", lambda keys, *words, **more: real(foreign, *words, **more))


def believes_every_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signing.check

    def check(*words: Any, **more: Any) -> signing.Signed:
        try:
            return real(*words, **more)
        except SignatureRefused:
            return signing.Signed("local", os.urandom(12).hex(), datetime.now(UTC) + timedelta(minutes=5))

    monkeypatch.setattr(door.signing, "check", check)


def forgets_nonces(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = "SELECT array_fill(true, ARRAY[cardinality($2::text[])]) AS fresh, $1::text[] AS kids"
    monkeypatch.setattr(callbacks, "USE_NONCES", forgetful)


def believes_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(keys: Any, token: str, *, audience: Any, mission: UUID, **_: Any) -> tokens.MissionToken:
        said = tokens.read(keys, token, audience=audience)
        return tokens.MissionToken(mission, said.tenant, said.attempt, said.fence, said.audience, said.expires_at)

    monkeypatch.setattr(door.tokens, "verify", verify)


def keeps_nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.boundary import api

    async def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(api, "keep_refused", nothing)


def takes_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.boundary import api

    monkeypatch.setattr(api, "refuse_root_artifacts", lambda _: None)


def asks_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def anything(*_: Any) -> None: ...

    monkeypatch.setattr(tools_api, "judge", anything)


def never_dispatches_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def alive(*_: Any) -> Any:
        return watch.Said(60)

    monkeypatch.setattr(watch, "ask", alive)


def follows_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    real = wire_client.httpx.AsyncClient
    monkeypatch.setattr(wire_client.httpx, "AsyncClient", lambda **more: real(**{**more, "follow_redirects": True}))


# What is wrong with the root, and for each requirement that finds it words of its evidence.
WRONG: dict[str, tuple[Any, dict[str, str]]] = {
    "signs with another key": (signs_otherwise, {"R-03": "the key id is not configured here"}),
    "uses one nonce for ever": (signs_once, {"R-04": "a nonce that was used before"}),
    "forgets what a colony says about time": (Careless, {"R-07": "it was told to wait", "R-11": "it was told to wait"}),
    "is deaf": (Deaf, {"R-08": "expected: failed", "R-33": "the colony had not been told", "R-35": "nobody had asked for the status"}),
    "follows redirects": (follows_redirects, {"R-12": "repeated at the address that Location named"}),
    "sends useless tokens": (useless_token, {"R-15": "came back: 401"}),
    "does not say where a gap begins": (no_expected_seq, {"R-16": "expected: expected_seq 2"}),
    "believes every signature": (believes_every_signature, {"R-18": "(unsigned); came back: 200"}),
    "forgets nonces": (forgets_nonces, {"R-19": "the same request again"}),
    "believes every token": (believes_every_token, {"R-20": "with the token of another mission"}),
    "keeps nothing that it refuses": (keeps_nothing_refused, {"R-21": "payload.quarantined"}),
    "names no fields": (names_nothing, {"R-21": "names kit_unknown", "R-27": "names contract_version"}),
    "lets a colony speak as the root": (takes_strangers, {"R-24": "an artifact by the root"}),
    "gives one lease": (one_lease, {"R-25": "two heartbeats"}),
    "forgets events": (forgets_events, {"R-26": '"last_seq":0'}),
    "answers tools with nothing": (tools_fail, {"R-28": "expected: documents"}),
    "asks no policy": (asks_no_policy, {"R-29": "expected: 403"}),
    "never asks to stop": (no_stop, {"R-30": "did not ask to stop", "R-33": "without stop"}),
    "never gives up an attempt": (never_dispatches_again, {"R-34": "no second attempt"}),
}  # fmt: skip
QUICK = Pace(patience=4, answer=10, quiet=0.3, retry_after=1, away=0.3)


@pytest.fixture
async def root(cluster: Cluster, demo: dict[str, str]) -> AsyncIterator[World]:
    """A root of its own for each fault: what is spoiled stays spoiled for it alone."""
    async with fresh(cluster, DEMO, f"test_{os.getpid()}_{next(numbers)}") as name:
        world = World(lambda role: cluster.url(role, name), mission_lease_ms=1000)
        await world.open(demo)
        try:
            yield world
        finally:
            await world.close()


@asynccontextmanager
async def at_work(world: World, colony_url: str, internal: Any, client: type[ColonyClient]) -> AsyncIterator[str]:
    """The root on real sockets with its worker running; the public address."""
    async with serving(world) as public, serving(world, internal) as inside:
        colony = world.worker.colony
        colony.client, colony.callback_base_url = client(colony_url, KEYS, timeout_s=3), inside
        working = asyncio.create_task(world.worker.run())
        try:
            yield public
        finally:
            world.worker.stopping.set()
            await working


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_root_that_is_wrong_is_found(root: World, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, meant = WRONG[wrong]
    internal, client = root.internal, ColonyClient
    if isinstance(spoil, type):
        client = spoil
    elif "monkeypatch" in spoil.__annotations__:
        spoil(monkeypatch)
    else:
        internal = Spoiled(root.internal, spoil)
    port = free_port()
    async with at_work(root, f"http://127.0.0.1:{port}", internal, client) as public:
        key = root.people["submitter"].key
        report = await run(public, key, KEYS, listen=("127.0.0.1", port), only=meant, pace=QUICK)
    assert report.failed() == sorted(meant), [one.evidence for one in report.results]
    for one in report.results:
        assert meant[one.id] in one.evidence


async def test_a_root_that_cannot_be_asked_is_said_in_one_sentence(root: World) -> None:
    """One that does not know the key, one that dispatches elsewhere, and one that is not there."""
    here, elsewhere = free_port(), free_port()
    key = root.people["submitter"].key
    hurried = Pace(patience=1, answer=5)
    async with at_work(root, f"http://127.0.0.1:{elsewhere}", root.internal, ColonyClient) as public:
        with pytest.raises(Misuse, match="does not take the key of MISSION_ROOT_API_KEY"):
            await run(public, "mr_00000000_nobody", KEYS, listen=("127.0.0.1", here), pace=hurried)
        with pytest.raises(
            Misuse, match=f"COLONY_SERVICE_BASE_URL lead to http://127.0.0.1:{here}, with the same key"
        ) as told:
            await run(public, key, KEYS, listen=("127.0.0.1", here), pace=hurried)
        assert "no dispatch came for 1 s" in str(told.value)
        shown = (await root.submitter.get("/v1/missions")).json()["items"]
        assert [one["state"] for one in shown] == ["cancelled"], "the kit leaves a mission behind"
    with pytest.raises(Misuse, match=f"The root at http://127.0.0.1:{elsewhere} cannot be reached"):
        await run(f"http://127.0.0.1:{elsewhere}", key, KEYS, listen=("127.0.0.1", here), pace=hurried)
