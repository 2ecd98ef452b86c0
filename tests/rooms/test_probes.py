"""Every operation of the OpenAPI document, knocked at in every way: own, other's, absent, nobody, expired, wrong audience,
lower role. The probes are made from the document; an operation that none can be made for fails here."""

import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx

from app import ledger
from app.canonical import sha256
from app.clock import now
from app.identity import ACTIONS, DEMO_PRINCIPALS, ROLES
from app.work import Item
from tests.identity.tokens import AUDIENCE, ISSUER, Provider, token
from tests.rooms.test_routes import (
    LEAVE_FACTS,
    ONLY_LOOK,
    OWN_NAMES,
    PROBES,
    Route,
    example_of,
    routes,
    run_drill,
    theirs_and_absent,
)
from tests.world import World
from tests.world.checks import census, hire, impersonal, inspector, problem


async def prove(world: World, route: Route, there: dict[str, Any]) -> httpx.Response:
    """A fact is proved against an anchor: its tenant gets one, as a worker would make it."""
    store, tenant = ledger.open_store("memory:"), await world.tenant()
    signing = ledger.signer("probe:" + base64.b64encode(bytes(32)).decode())
    keys = ledger.Keyring(signing.public())
    anchorer = ledger.Anchorer(world.worker.database, store, signing, keys, timedelta(0), 1)
    await anchorer.anchor(Item(tenant, "anchor", tenant, 0, 1, 1))
    world.public.state.anchor_store, world.public.state.anchor_keys = store, keys
    return await world.auditor.get(route.url(**there))


# Reads whose own answer needs more than a path: operation -> how it is asked.
async def drilled(world: World, route: Route, _: dict[str, Any]) -> httpx.Response:
    await run_drill(world)
    return await world.auditor.get(route.url(name="replay"))


ASKED: dict[str, Callable[[World, Route, dict[str, Any]], Awaitable[httpx.Response]]] = {
    "evaluatePolicy": lambda world, route, _: world.submitter.post(route.path, json=example_of(world, route)),
    "proveFact": prove,
    "listDrills": drilled,
    "listDrillRuns": drilled,
    "previewPolicy": lambda world, route, _: world.submitter.post(
        "/v1/policies/a_policy/preview",
        json={"text": '@id("a_policy.a") @reason("None.") forbid (principal, action, resource);'},
    ),
    "diffMission": lambda world, route, named: world.auditor.get(
        route.url(**named), params={"against": named["mission_id"]}
    ),
    "listNames": lambda world, route, _: world.auditor.get(route.path, params={"id": str(UUID(int=0))}),
    "explain": lambda world, route, named: world.auditor.get(route.path, params={"id": str(named["mission_id"])}),
    "verifyLedger": lambda world, route, _: world.auditor.post(route.path),
}
# Path parameters that name a thing by a word each tenant chooses for itself.
WORDS = {"name", "tool"}


@dataclass(frozen=True)
class Probe:
    """One operation, as the document says it, with the action its door asks for."""

    route: Route
    parameters: frozenset[str]

    @property
    def operation(self) -> str:
        return self.route.operation


def probes(world: World) -> list[Probe]:
    """One for each operation of the document, which must be one for each route of the app."""
    by_place = {(route.method, route.path): route for route in routes(world.public)}
    found = []
    for path, operations in world.public.openapi()["paths"].items():
        for method, said in operations.items():
            route = by_place.pop((method.upper(), path))
            assert said["operationId"] == route.operation
            if route.operation not in PROBES:
                found.append(Probe(route, frozenset(re.findall(r"\{(\w+)\}", path))))
    assert not by_place, f"routes that the document does not know: {set(by_place)}"
    return found


async def knock(
    client: httpx.AsyncClient, world: World, probe: Probe, url: str | None = None, **more: Any
) -> httpx.Response:
    if probe.route.method in ("POST", "PUT", "PATCH") or probe.operation == "liftLegalHold":
        more.setdefault("json", example_of(world, probe.route))
    return await client.request(probe.route.method, url or probe.route.url(), **more)


async def strangers(world: World) -> dict[str, httpx.AsyncClient]:
    """Everybody who must be nobody to any operation, and who all had a good credential once or somewhere."""
    made = await world.with_registrar(oidc_issuer=ISSUER, oidc_audience=AUDIENCE)
    assert made.verifier is not None
    made.verifier.jwks.transport = Provider().transport
    person = await hire(world, "leaver", *(role for role in ROLES if role != "colony"))
    who = (await person.http.get("/v1/whoami")).json()
    connection = await inspector(world)
    await connection.execute(
        "INSERT INTO oidc_identity (tenant, principal, issuer, subject) VALUES ($1::text::uuid, $2::text::uuid, $3, 'leaver')",
        who["tenant_id"], who["principal_id"], ISSUER,
    )  # fmt: skip
    good = token(sub="leaver")
    assert (await world.client(good).get("/v1/whoami")).json()["principal_id"] == who["principal_id"]
    session = f"ms_{uuid4().hex}"
    await connection.execute(
        """INSERT INTO session (tenant, principal, secret_sha256, origin, expires_at)
           VALUES ($1::text::uuid, $2::text::uuid, $3, 'oidc', clock_timestamp() - interval '1 second')""",
        who["tenant_id"], who["principal_id"], sha256(session.encode()),
    )  # fmt: skip
    expired = await hire(world, "expired", "admin", "operator", expires_at=now() - timedelta(seconds=1))
    revoked = await hire(world, "revoked", "admin", "operator")
    await connection.execute(
        "UPDATE api_key SET revoked_at = now() WHERE principal = (SELECT id FROM principal WHERE name = 'revoked')"
    )
    moment = int(now().timestamp())
    return {
        "no credential": world.anybody,
        "an unknown key": world.client("mr_00000000_" + "x" * 43),
        "an expired key": expired.http,
        "a revoked key": revoked.http,
        "an expired session": world.client(session),
        "a token for another audience": world.client(token(sub="leaver", aud="another-service")),
        "an expired token": world.client(token(sub="leaver", iat=moment - 600, exp=moment - 60)),
    }


async def test_nobody_gets_in_anywhere(world: World) -> None:
    everybody = await strangers(world)
    before = await census(world)
    for probe in probes(world):
        for case, client in everybody.items():
            answer = await knock(client, world, probe)
            problem(answer, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer", (probe.operation, case)
    assert await census(world) == before


async def test_a_lower_role_gets_in_nowhere(world: World) -> None:
    """For each operation every role that it is not for, each alone, and somebody without any."""
    people = {role: await hire(world, f"only-{role}", role) for role in ROLES}
    people["none"] = await hire(world, "roleless")
    before = await census(world)
    for probe in probes(world):
        assert probe.route.action in ACTIONS, f"{probe.operation}: its door names no action"
        lower = [name for name in people if name not in ACTIONS[probe.route.action]]
        assert "none" in lower, f"{probe.operation}: open to everybody"
        for name in lower:
            said = problem(await knock(people[name].http, world, probe), "forbidden")
            assert said["action"] == probe.route.action, (probe.operation, name)
    assert await census(world) == before


async def test_others_things_are_absent_ones(world: World) -> None:
    named = await theirs_and_absent(world)
    stranger = await world.another_tenant()
    before, wrong = await census(world), []
    for probe in probes(world):
        if not probe.parameters or probe.operation in OWN_NAMES:
            continue
        if unknown := probe.parameters - set(named["there"]) - WORDS:
            wrong.append(f"{probe.operation}: put one of the demo tenant's {set(unknown)} into theirs_and_absent()")
            continue
        headers = {"If-Match": named["etag"]}
        known, absent = [
            await knock(stranger.http, world, probe, url_of(probe, names), headers=headers)
            for names in (named["there"], named["absent"])
        ]
        if known.status_code != 404 or impersonal(known) != impersonal(absent):
            wrong.append(f"{probe.operation}: {known.text[:200]}; absent: {absent.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert await census(world) == before


def url_of(probe: Probe, names: dict[str, Any]) -> str:
    word = names["mission_type" if "mission-types" in probe.route.path else "workspace"]
    return probe.route.url(**names, name=word).replace("nothing.md", "a.md")


async def test_ones_own_is_given(world: World) -> None:
    """Each operation answers well to who may: changes by their recipe, reads by what the demo tenant has."""
    named = await theirs_and_absent(world)
    wrong = []
    for probe in probes(world):
        route, url = probe.route, url_of(probe, named["there"])
        if probe.operation in LEAVE_FACTS:
            continue  # each succeeds in test_routes, or fails there
        if probe.operation in ASKED:
            answer = await ASKED[probe.operation](world, route, named["there"])
        elif route.method == "GET":
            answer = await holder(world, route).get(url)
        elif probe.operation in ONLY_LOOK:
            answer = await holder(world, route).request(route.method, url, json=example_of(world, route))
        else:
            wrong.append(f"{probe.operation}: add it to LEAVE_FACTS, or say in ASKED how it is asked")
            continue
        if not answer.is_success:
            wrong.append(f"{probe.operation}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)


def holder(world: World, route: Route) -> httpx.AsyncClient:
    """Somebody of the demo tenant who may; an admin first, who sees what is others' too."""
    allowed = ACTIONS[str(route.action)]
    names = ("admin", "operator", *DEMO_PRINCIPALS)
    return world.people[next(name for name in names if allowed & set(DEMO_PRINCIPALS[name][1]))].http


def test_a_planted_operation_has_no_probe() -> None:
    from fastapi import FastAPI

    class Planted:
        public = FastAPI()

    @Planted.public.get("/v1/things/{thing_id}", operation_id="getThing")
    async def get_thing(thing_id: str) -> None: ...

    [probe] = probes(Planted)  # type: ignore[arg-type]
    assert (probe.operation, probe.parameters, probe.route.action) == ("getThing", {"thing_id"}, None)
    assert probe.route.action not in ACTIONS  # which the tests above refuse
