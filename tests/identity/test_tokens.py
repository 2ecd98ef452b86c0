"""Tokens of an identity provider: what is taken, and everything that is not, always answered alike."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.clock import now
from app.db import Database
from app.identity import actions
from app.identity.actions import enter_tenant
from app.identity.oidc import Jwks, Unacceptable, Verifier
from app.settings import Misconfigured, Settings
from tests.identity.tokens import (
    ALGORITHM,
    AUDIENCE,
    FOREIGN,
    ISSUER,
    RSA,
    Provider,
    b64,
    by_hand,
    claims,
    token,
    with_shared_secret,
)
from tests.world import World
from tests.world.checks import census, hire, impersonal, inspector, problem


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def anna(world: World, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a good token of somebody who may read and submit."""
    made = await world.with_registrar(oidc_issuer=ISSUER, oidc_audience=AUDIENCE)
    assert made.verifier is not None
    made.verifier.jwks.transport = provider.transport
    await hire(world, "anna", "submitter", "auditor")
    await link(world, "anna", "anna")
    async with world.client(token()) as client:
        yield client


async def link(world: World, name: str, subject: str, tenant: str = "demo") -> None:
    database = Database(world.url("registrar"), pool_size=1)
    async with database.write() as session:
        await enter_tenant(session, tenant)
        found = "SELECT id FROM principal WHERE tenant = :tenant AND name = :name"
        principal = await session.scalar(found, {"tenant": session.tenant, "name": name})
        await actions.link_identity(session, principal, ISSUER, subject)
    await database.close()


def age(world: World, seconds: float) -> None:
    """Time passes for the keys that were read."""
    verifier = world.registrar.verifier
    assert verifier is not None
    verifier.jwks.tried_at -= seconds
    verifier.jwks.fetched_at -= seconds


@pytest.mark.parametrize("key", ["rsa", "ec", "ed"])
async def test_a_token_is_as_good_as_a_key(world: World, anna: httpx.AsyncClient, key: str) -> None:
    client = world.client(token(key))
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
    created = await client.post("/v1/missions", json=ask)  # the wall finds out by the session who asks
    assert created.status_code == 202, created.text
    who = (await client.get("/v1/whoami")).json()
    assert (who["name"], who["credential"]["kind"], who["roles"]) == ("anna", "session", ["auditor", "submitter"])
    requested_by = await (await inspector(world)).fetchval("SELECT requested_by FROM mission")
    assert str(requested_by) == who["principal_id"]


async def test_a_token_is_exchanged_once_per_process(world: World, anna: httpx.AsyncClient, provider: Provider) -> None:
    for _ in range(5):
        assert (await anna.get("/v1/missions")).status_code == 200
    count = "SELECT count(*) FROM session"
    connection = await inspector(world)
    assert await connection.fetchval(count) == 1 and provider.calls == 2  # discovery and keys
    for _ in range(3):
        assert (await anna.get("/v1/whoami")).status_code == 200  # the registrar has a session of its own for it
    assert await connection.fetchval(count) == 2
    said = str(await connection.fetch("SELECT s::text FROM session s"))
    bearer = anna.headers["authorization"].removeprefix("Bearer ")
    assert bearer not in said and bearer.split(".")[2] not in said


async def test_a_token_becomes_a_session_with_a_secret(world: World, anna: httpx.AsyncClient) -> None:
    answer = await anna.post("/v1/sessions")
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    session = world.client(answer.json()["secret"])
    who = (await session.get("/v1/whoami")).json()
    assert who["credential"] == {
        "id": answer.json()["id"],
        "kind": "session",
        "expires_at": answer.json()["expires_at"],
    }
    facts = [fact["type"] for fact in await world.facts(await world.tenant())]
    assert facts.count("session.started") == 1
    assert (await session.delete("/v1/sessions/current")).json() == {"ended": 1}
    problem(await session.get("/v1/missions"), "unauthenticated")
    problem(await anna.post("/v1/sessions"), "unauthenticated")  # the token does not open another
    problem(await world.auditor.delete("/v1/sessions/current"), "wrong_state")
    problem(await world.auditor.post("/v1/sessions"), "forbidden")


async def test_a_token_that_was_ended_does_not_come_back_signed_otherwise(
    world: World, anna: httpx.AsyncClient
) -> None:
    """From one signature on an elliptic curve anybody makes the other one, without any key."""
    said = token("ec")
    made = (await world.client(said).post("/v1/sessions")).json()
    signed, _, signature = said.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    mirrored = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    other = f"{signed}.{b64(mirrored)}"
    assert (await world.client(made["secret"]).delete("/v1/sessions/current")).json() == {"ended": 1}
    problem(await world.client(other).post("/v1/sessions"), "unauthenticated")
    problem(await world.client(other).get("/v1/whoami"), "unauthenticated")


async def test_a_session_ends_with_its_token_and_after_an_hour_at_most(world: World, anna: httpx.AsyncClient) -> None:
    moment = int(now().timestamp())
    for lasts, wanted in ((600, 600), (86_400, 3600)):
        made = (await world.client(token(exp=moment + lasts)).post("/v1/sessions")).json()
        ends = await (await inspector(world)).fetchval(
            "SELECT expires_at FROM session WHERE id = $1::text::uuid", made["id"]
        )
        assert abs(ends.timestamp() - moment - wanted) < 5


async def test_all_sessions_of_a_principal_end_at_once_and_older_tokens_open_none(
    world: World, anna: httpx.AsyncClient
) -> None:
    assert (await anna.get("/v1/missions")).status_code == 200
    unseen = token(jti="never shown before")  # before that: a token says its time in whole seconds
    who = (await anna.get("/v1/whoami")).json()["principal_id"]
    assert (await world.admin.delete(f"/v1/principals/{who}/sessions")).json() == {"ended": 2}
    for path in ("/v1/missions", "/v1/whoami"):
        problem(await anna.get(path), "unauthenticated")
    problem(await world.client(unseen).get("/v1/missions"), "unauthenticated")
    later = token(iat=int(now().timestamp()) + 2)  # issued after that, as clocks go
    assert (await world.client(later).get("/v1/missions")).status_code == 200


async def test_an_ended_link_ends_the_sessions_it_led_to(world: World, anna: httpx.AsyncClient) -> None:
    who = (await anna.get("/v1/whoami")).json()["principal_id"]
    assert (await anna.get("/v1/missions")).status_code == 200
    [one] = (await world.admin.get(f"/v1/principals/{who}/identities")).json()["items"]
    assert (one["issuer"], one["subject"]) == (ISSUER, "anna")
    assert (await world.admin.delete(f"/v1/principals/{who}/identities/{one['id']}")).json()["unlinked_at"]
    problem(await anna.get("/v1/missions"), "unauthenticated")
    problem(await world.client(token(iat=int(now().timestamp()) + 2)).get("/v1/missions"), "unauthenticated")


async def test_a_subject_has_one_principal_in_the_whole_installation(world: World, anna: httpx.AsyncClient) -> None:
    await world.another_tenant()
    stranger = world.people["other"]
    mine = (await stranger.http.get("/v1/whoami")).json()["principal_id"]
    before = await census(world)
    body = {"issuer": ISSUER, "subject": "anna"}
    nina = (await stranger.http.post("/v1/principals", json={"name": "n", "kind": "human"})).json()["id"]
    problem(await stranger.http.post(f"/v1/principals/{nina}/identities", json=body), "taken")
    await link(world, "stranger", "theirs", "other")
    theirs = world.client(token(sub="theirs"))
    who = (await theirs.get("/v1/whoami")).json()
    assert (who["principal_id"], who["tenant_id"]) != (mine, str(await world.tenant())) and who["principal_id"] == mine
    mission = await world.create()
    problem(await theirs.get(f"/v1/missions/{mission['id']}"), "not_found")
    assert (await census(world))["oidc_identity"] == before["oidc_identity"] + 1


# --- what is not taken


def public_pem() -> bytes:
    return RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def soon(seconds: int) -> int:
    return int(now().timestamp()) + seconds


BAD: dict[str, Any] = {
    "alg none": lambda: by_hand({"alg": "none", "kid": "rsa", "typ": "at+jwt"}, claims()),
    "alg None with a signature": lambda: by_hand({"alg": "None", "kid": "rsa"}, claims(), lambda _: b"x" * 256),
    "HS256 with the public key": lambda: by_hand(
        {"alg": "HS256", "kid": "rsa", "typ": "at+jwt"}, claims(), with_shared_secret(public_pem())
    ),
    "HS256 with a published shared secret": lambda: by_hand(
        {"alg": "HS256", "kid": "shared", "typ": "at+jwt"}, claims(), with_shared_secret(b"s" * 32)
    ),
    "RS256 that names the shared secret": lambda: token(headers={"kid": "shared"}),
    "an algorithm that is not on the list": lambda: jwt.encode(claims(), RSA, "PS256", headers={"kid": "rsa"}),
    "another algorithm than the key's": lambda: token("ed", headers={"kid": "rsa"}),
    "a key for sealing": lambda: token(headers={"kid": "sealing"}),
    "an unknown kid": lambda: token(headers={"kid": "nobody"}),
    "no kid": lambda: jwt.encode(claims(), RSA, "RS256"),
    "a kid that is a path": lambda: token(headers={"kid": "../../dev/null"}),
    "its own key in the header": lambda: jwt.encode(
        claims(), FOREIGN, "RS256", headers={"kid": "rsa", "jwk": {"kty": "RSA"}, "jku": "https://evil.example/keys"}
    ),
    "somebody else's signature": lambda: jwt.encode(claims(), FOREIGN, "RS256", headers={"kid": "rsa", "typ": "at+jwt"}),
    "a critical extension": lambda: by_hand({"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1}, claims(), lambda _: b"x"),
    "a changed body": lambda: ".".join([token().split(".")[0], token(sub="root").split(".")[1], token().split(".")[2]]),
    "another issuer": lambda: token(iss="https://evil.example"),
    "the issuer with a slash": lambda: token(iss=f"{ISSUER}/"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="another-service"),
    "several audiences without us": lambda: token(aud=["a", "b"]),
    "no audience": lambda: token(aud=None),
    "a wrong typ": lambda: token(headers={"typ": "logout+jwt"}),
    "an expired one": lambda: token(exp=soon(-60), iat=soon(-600)),
    "one that never ends": lambda: token(exp=None),
    "an end beyond all time": lambda: token(exp=1e300),
    "one not yet valid": lambda: token(nbf=soon(300)),
    "one from the future": lambda: token(iat=soon(300)),
    "no time of issue": lambda: token(iat=None),
    "no subject": lambda: token(sub=None),
    "an empty subject": lambda: token(sub=""),
    "an endless subject": lambda: token(sub="s" * 256),
    "a subject that is linked to nobody": lambda: token(sub="nobody"),
    "a huge one": lambda: token(filler="x" * 9000),
    "a body that is a list": lambda: by_hand({"alg": "RS256", "kid": "rsa"}, [1], lambda _: b"x"),
    "three words": lambda: "not.a.token-at-all",
    "empty parts": lambda: "..................",
    "deep nesting": lambda: by_hand({"alg": "RS256", "kid": "rsa"}, b"[" * 5000, lambda _: b"x"),
}  # fmt: skip


def alike(answer: httpx.Response) -> Any:
    """An answer without what the length of its path makes of it."""
    status, said, headers = impersonal(answer)
    return status, said, {name: value for name, value in headers.items() if name != "content-length"}


async def test_whatever_is_wrong_with_a_token_is_answered_alike(world: World, anna: httpx.AsyncClient) -> None:
    assert (await anna.get("/v1/missions")).status_code == 200
    before = await census(world)
    unknown = alike(await world.client("mr_00000000_" + "x" * 43).get("/v1/missions"))
    for case, make in BAD.items():
        for method, path in (("GET", "/v1/missions"), ("GET", "/v1/whoami"), ("POST", "/v1/sessions")):
            answer = await world.client(make()).request(method, path)
            problem(answer, "unauthenticated")
            assert alike(answer) == unknown, (case, path)
    assert await census(world) == before


async def test_only_named_clients_when_they_are_named(provider: Provider) -> None:
    verifier = Verifier(settings(oidc_authorized_parties="console,cli"), provider.transport)
    assert (await verifier.verify(token(azp="console"))).subject == "anna"
    assert (await verifier.verify(token(client_id="cli"))).subject == "anna"
    for more in ({"azp": "other"}, {}, {"azp": ["console"]}, {"azp": "other", "client_id": "cli"}):
        with pytest.raises(Unacceptable):
            await verifier.verify(token(**more))


def settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **({"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE} | more))


async def test_algorithms_and_types_are_those_that_are_configured(provider: Provider) -> None:
    verifier = Verifier(settings(oidc_algorithms="ES256", oidc_token_types="at+jwt"), provider.transport)
    assert (await verifier.verify(token("ec", headers={"typ": "application/at+jwt"}))).subject == "anna"
    for bad in (token("rsa"), token("ec", headers={"typ": "JWT"}), token("ec", headers={"typ": None})):
        with pytest.raises(Unacceptable):
            await verifier.verify(bad)
    assert set(ALGORITHM.values()) == set(settings().oidc_algorithm_list())


def test_half_a_configuration_and_plain_http_stop_the_process() -> None:
    with pytest.raises(Misconfigured, match="OIDC_ISSUER and OIDC_AUDIENCE belong together"):
        Verifier(settings(oidc_audience=None))
    with pytest.raises(Misconfigured, match="OIDC_ISSUER must begin with https"):
        Verifier(settings(oidc_issuer="http://id.example", environment="production"))


# --- the provider's keys


async def test_a_new_key_is_found_and_unknown_ones_do_not_make_us_ask_all_the_time(provider: Provider) -> None:
    verifier = Verifier(settings(), provider.transport)
    fresh = provider.keys.pop(0)
    with pytest.raises(Unacceptable):
        await verifier.verify(token("rsa"))
    provider.keys.append(fresh)
    for _ in range(20):
        with pytest.raises(Unacceptable):
            await verifier.verify(token("rsa"))
    assert provider.calls == 2
    verifier.jwks.tried_at -= 31
    assert (await verifier.verify(token("rsa"))).subject == "anna"
    assert provider.calls == 4


async def test_a_withdrawn_key_is_forgotten_after_an_hour(provider: Provider) -> None:
    verifier = Verifier(settings(), provider.transport)
    await verifier.verify(token("rsa"))
    provider.keys = [one for one in provider.keys if one["kid"] != "rsa"]
    await verifier.verify(token("rsa"))
    verifier.jwks.fetched_at -= 3601
    verifier.jwks.tried_at -= 3601
    with pytest.raises(Unacceptable):
        await verifier.verify(token("rsa"))


async def test_a_provider_that_is_down_stops_nobody_who_is_known(
    world: World, anna: httpx.AsyncClient, provider: Provider
) -> None:
    assert (await anna.get("/v1/missions")).status_code == 200
    provider.down = True
    age(world, 3601)
    assert (await world.client(token("ec")).get("/v1/missions")).status_code == 200  # keys that were read an hour ago
    assert (await anna.get("/v1/missions")).status_code == 200
    assert (await world.submitter.get("/v1/missions")).status_code == 200
    said = problem(await world.client(token(headers={"kid": "new"})).get("/v1/missions"), "upstream_unavailable")
    assert said["retryable"]
    age(world, 24 * 3600)  # and nobody believes in them for ever
    problem(await world.client(token("ed")).get("/v1/missions"), "upstream_unavailable")


async def test_a_provider_that_never_answered_is_503_not_401(
    world: World, anna: httpx.AsyncClient, provider: Provider
) -> None:
    provider.down = True
    for path in ("/v1/missions", "/v1/whoami"):
        problem(await anna.get(path), "upstream_unavailable")
    provider.down = False
    age(world, 31)
    assert (await anna.get("/v1/missions")).status_code == 200


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(302, headers={"Location": "https://evil.example/keys"}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json={"keys": "all"}),
        httpx.Response(200, json={"keys": [{"kid": f"{n}"} for n in range(51)]}),
        httpx.Response(200, json=[]),
        httpx.Response(500, json={}),
    ],
)
async def test_an_answer_that_is_no_list_of_keys_is_none(provider: Provider, answer: httpx.Response) -> None:
    provider.answer = lambda request: answer
    for url in (None, f"{ISSUER}/keys"):
        verifier = Verifier(settings(oidc_jwks_url=url), provider.transport)
        with pytest.raises(Exception, match="upstream_unavailable"):
            await verifier.verify(token())


async def test_a_discovery_document_of_another_issuer_is_not_believed(provider: Provider) -> None:
    provider.issuer = "https://evil.example"
    with pytest.raises(Exception, match="upstream_unavailable"):
        await Verifier(settings(), provider.transport).verify(token())


async def test_the_provider_is_asked_by_the_guarded_client() -> None:
    client = Jwks(settings(oidc_jwks_url="http://127.0.0.1:9/keys")).client()
    backend: Any = client._transport.backend  # type: ignore[attr-defined]
    assert backend.allowed == {"id.example:443", "127.0.0.1:9"} and client.follow_redirects is False
    await client.aclose()


async def strict(world: World, provider: Provider) -> None:
    """Both processes allow two failures a minute per token and ten per address; one exchange is counted by both."""
    made = await world.with_registrar(oidc_issuer=ISSUER, oidc_audience=AUDIENCE, auth_failures_per_minute=2)
    assert made.verifier is not None
    made.verifier.jwks.transport = provider.transport
    world.root.limits.failures = 2


@pytest.mark.parametrize("path", ["/v1/missions", "/v1/whoami", "/v1/sessions"])
async def test_good_tokens_are_no_guesses(world: World, anna: httpx.AsyncClient, provider: Provider, path: str) -> None:
    await strict(world, provider)
    for number in range(20):
        client = world.client(token("ed", jti=f"{path} {number}"))
        answer = await (client.post(path) if path == "/v1/sessions" else client.get(path))
        assert answer.status_code in (200, 201), (number, answer.text)


@pytest.mark.parametrize("path", ["/v1/missions", "/v1/sessions"])
async def test_bad_tokens_are_guesses(world: World, anna: httpx.AsyncClient, provider: Provider, path: str) -> None:
    await strict(world, provider)
    codes = []
    for number in range(12):
        client = world.client(token("ed", aud="somebody else", jti=str(number)))
        codes.append((await (client.post(path) if path == "/v1/sessions" else client.get(path))).status_code)
    assert codes[0] == 401 and codes[-1] == 429 and set(codes) == {401, 429}


async def test_tokens_that_nobody_could_judge_are_no_guesses(
    world: World, anna: httpx.AsyncClient, provider: Provider
) -> None:
    await strict(world, provider)
    there = world.root.upstream.http

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    world.root.upstream.http = httpx.AsyncClient(transport=httpx.MockTransport(away))
    for number in range(20):
        answer = await world.client(token("ed", jti=str(number))).get("/v1/missions")
        problem(answer, "upstream_unavailable")
    world.root.upstream.http = there
    provider.down = True
    assert world.registrar.verifier is not None
    for number in range(20):
        answer = await world.client(token("ed", jti=f"down {number}")).post("/v1/sessions")
        problem(answer, "upstream_unavailable")
        age(world, 3600)
    provider.down = False
    assert (await world.client(token("ed", jti="at last")).get("/v1/missions")).status_code == 200
