"""What the public API hands on to the registrar, and what it does not; and what happens when nobody is there."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from app.http.forward import CLIENT_HEADER, MAX_ANSWER, PROOF_HEADER, Believe, Forward, prove
from app.identity import PATHS
from colony_client.signing import parse_keys
from tests.world import World
from tests.world.checks import problem
from tests.world.world import served

Handler = Callable[[httpx.Request], httpx.Response]
KEYS = parse_keys("one:registrar-secret-of-the-tests", "A_TEST")


def behind(world: World, handler: Handler) -> list[httpx.Request]:
    """Puts a server of the test's own in the registrar's place; gives what arrives there."""
    arrived: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        arrived.append(request)
        return handler(request)

    world.root.upstream.http = httpx.AsyncClient(transport=httpx.MockTransport(note))
    return arrived


async def test_what_passes_is_listed(world: World) -> None:
    arrived = behind(
        world,
        lambda _: httpx.Response(
            200, json={"ok": 1}, headers={"ETag": '"v1"', "Set-Cookie": "a=b", "Request-Id": "theirs", "Server": "x"}
        ),
    )
    answer = await world.admin.get(
        "/v1/principals?limit=3&cursor=a%2Fb",
        headers={
            "Request-Id": "mine",
            "Cookie": "c=d",
            "X-Forwarded-For": "6.6.6.6",
            "X-Else": "1",
            "If-Match": '"v2"',
        },
    )
    [got] = arrived
    assert str(got.url) == "http://127.0.0.1:8082/v1/principals?limit=3&cursor=a%2Fb"
    assert (got.headers["authorization"], got.headers["if-match"]) == (f"Bearer {world.people['admin'].key}", '"v2"')
    assert (got.headers["request-id"], got.headers["host"]) == ("mine", "root.test")
    assert got.headers[CLIENT_HEADER] == "127.0.0.1" and "." in got.headers[PROOF_HEADER]
    assert not {"cookie", "x-else", "x-forwarded-for"} & set(got.headers)
    assert (answer.json(), answer.headers["etag"], answer.headers["request-id"]) == ({"ok": 1}, '"v1"', "mine")
    assert answer.headers.get_list("request-id") == ["mine"] and not {"set-cookie", "server"} & set(answer.headers)


async def test_bodies_arrive_as_they_are(world: World) -> None:
    arrived = behind(world, lambda _: httpx.Response(201, json={}))
    body = b'{ "name":\t"\xc3\x84", "kind": "human" }\n'
    answer = await world.admin.post("/v1/principals", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201 and arrived[0].content == body


async def test_only_the_listed_paths_are_handed_on(world: World) -> None:
    arrived = behind(world, lambda _: httpx.Response(200, json={}))
    for path in ("/v1/missions", "/v1/tenantsx", "/v1/principal", "/v1", "/livez", "/v1/whoami2", "/openapi.json"):
        await world.admin.get(path)
    assert not arrived
    for raw in (
        b"/v1/tenants/../../metrics",
        b"/v1/tenants/%2e%2e/%2e%2e/metrics",
        b"/v1/principals/./x",
        b"/v1/tenants/..",
    ):
        assert await raw_get(world, raw) == 404, raw
    assert not arrived
    assert await raw_get(world, b"/v1/%74enants") == 200 and arrived[0].url.path == "/v1/tenants"
    made = Forward(lambda *_: None, PATHS)  # type: ignore[arg-type, return-value]
    assert made.takes("/v1/tenants") and made.takes("/v1/tenants/x") and not made.takes("/v1/tenants2")


async def raw_get(world: World, raw: bytes) -> int:
    """The status of a GET whose path no client library has tidied up."""
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": unquote(raw.decode()), "raw_path": raw, "query_string": b"", "root_path": "", "headers": [(b"host", b"root.test")],
        "client": ("127.0.0.1", 1), "server": ("root.test", 80), "state": {},
    }  # fmt: skip
    await world.public(scope, receive, send)
    return found[0]


async def test_a_body_is_bounded_before_anything_is_sent(world: World) -> None:
    arrived = behind(world, lambda _: httpx.Response(201, json={}))
    big = b'{"name": "' + b"x" * 300_000 + b'"}'
    problem(await world.admin.post("/v1/principals", content=big), "too_large")
    assert not arrived


def fails(error: type[Exception]) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error("x")

    return handler


AWAY: dict[str, Handler] = {
    "nobody listens": fails(httpx.ConnectError),
    "it takes too long": fails(httpx.ReadTimeout),
    "it hangs up": fails(httpx.RemoteProtocolError),
    "it redirects": lambda _: httpx.Response(307, headers={"Location": "https://evil.example/"}),
    "it answers without end": lambda _: httpx.Response(200, content=b"x" * (MAX_ANSWER + 1)),
}


@pytest.mark.parametrize("case", AWAY)
async def test_a_registrar_that_is_away_is_503_and_the_rest_goes_on(world: World, case: str) -> None:
    arrived = behind(world, AWAY[case])
    for method, path in (("GET", "/v1/principals"), ("POST", "/v1/api-keys"), ("GET", "/v1/whoami")):
        said = problem(
            await world.admin.request(method, path, json={} if method == "POST" else None), "upstream_unavailable"
        )
        assert "same Idempotency-Key" in said["detail"] if method == "POST" and case != "nobody listens" else True
    assert len(arrived) == 3  # asked once each: nothing is repeated, and no redirect is followed
    assert (await world.submitter.get("/v1/missions")).status_code == 200
    assert (await world.create())["state"]
    status = (await world.operator.get("/v1/status")).json()
    [one] = [one for one in status["components"] if one["name"] == "registrar"]
    assert one["state"] == "degraded" and one["effect"]


async def test_a_registrar_that_is_not_running_is_503(world: World) -> None:
    """Over a real socket that nobody listens on."""
    from app.embedded import free_port
    from app.http.forward import Upstream

    world.root.upstream.http = httpx.AsyncClient(trust_env=False)
    world.root.upstream.url = httpx.URL(f"http://127.0.0.1:{free_port()}")
    problem(await world.admin.get("/v1/whoami"), "upstream_unavailable")
    assert isinstance(world.root.upstream, Upstream)


async def test_over_real_sockets(world: World) -> None:
    """The public app and the registrar as two servers: links, locations and long answers as a client sees them."""
    world.root.upstream.http = httpx.AsyncClient(trust_env=False)
    async with served(world.registrar_app) as registrar, served(world.public) as public:
        world.root.upstream.url = httpx.URL(registrar)
        async with httpx.AsyncClient(base_url=public, headers=dict(world.admin.headers), trust_env=False) as admin:
            answer = await admin.get("/v1/principals?limit=2")
            assert answer.links["next"]["url"].startswith(f"{public}/v1/principals?")
            assert (await admin.get(answer.links["next"]["url"])).status_code == 200
            problem(await admin.get("/v1/tenants/%00"), "validation")
            assert (await admin.get("/v1/whoami")).json()["name"] == "admin"


# --- whose address the registrar believes


async def seen(headers: dict[str, str]) -> str:
    """The client address that the app behind Believe sees."""
    found: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        found.append(request.client.host if request.client else "")
        await Response("ok")(scope, receive, send)

    transport = httpx.ASGITransport(Believe(app, KEYS), client=("10.0.0.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://r") as client:
        await client.get("/", headers=headers)
    return found[0]


async def test_an_address_is_believed_with_a_fresh_proof_only(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {CLIENT_HEADER: "203.0.113.7", "request-id": "r1", PROOF_HEADER: prove(KEYS, "203.0.113.7", "r1")}
    assert await seen(good) == "203.0.113.7"
    others = parse_keys("one:somebody-elses-secret-x", "A_TEST")
    unknown = parse_keys("two:registrar-secret-of-the-tests", "A_TEST")
    for changed in (
        {PROOF_HEADER: ""},
        {PROOF_HEADER: prove(others, "203.0.113.7", "r1")},
        {PROOF_HEADER: prove(unknown, "203.0.113.7", "r1")},
        {CLIENT_HEADER: "203.0.113.8"},
        {"request-id": "r2"},
    ):
        assert await seen({**good, **changed}) == "10.0.0.9", changed
    moment = time.time()
    monkeypatch.setattr("app.http.forward.time.time", lambda: moment + 61)
    assert await seen(good) == "10.0.0.9"


async def test_failed_logins_are_counted_for_the_client_not_for_the_public_api(world: World) -> None:
    await world.with_registrar(auth_failures_per_minute=3)
    wrong = {"Authorization": "Bearer mr_00000000_" + "x" * 43}

    async def guess(address: str) -> httpx.Response:
        transport = httpx.ASGITransport(world.public, client=(address, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://root.test") as client:
            return await client.get("/v1/whoami", headers=wrong)

    answers = [await guess("203.0.113.7") for _ in range(6)]
    assert {one.status_code for one in answers[:3]} == {401} and answers[-1].status_code == 429
    assert (await guess("203.0.113.8")).status_code == 401
