"""Who gets into the console, and which forms it takes."""

import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from app.canonical import sha256
from app.console.door import COOKIE
from app.console.site import ROUTES
from tests.console.desk import HERE, Desk, link_for, seat
from tests.world import World
from tests.world.checks import census, fact_types, hire, inspector, pending_change

OPEN = {"/console/login", "/console/login/oidc", "/console/login/callback", "/console/static/{name}"}


def pages() -> list[tuple[str, str]]:
    """Every page and form that is for whoever is signed in."""
    some = "01a00000-0000-7000-8000-000000000000"
    found = []
    for route in ROUTES:
        assert isinstance(route, Route)
        if route.path not in OPEN:
            path = re.sub(r"\{name\}", "nothing", re.sub(r"\{\w+:uuid\}", some, route.path))
            found += [(method, path) for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


async def test_nobody_sees_a_page_or_sends_a_form_without_a_session(world: World) -> None:
    desk = Desk(world)
    before = await census(world)
    cases: dict[str, dict[str, str]] = {
        "no cookie": {},
        "an unknown session": {COOKIE: "ms_00000000_" + "x" * 43},
        "no session at all": {COOKIE: "x"},
        "a key, which is for programs": {COOKIE: world.people["operator"].key},
    }
    for cookies in cases.values():
        for method, path in pages():
            headers = {"Origin": HERE, "Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())}
            answer = await desk.http.request(method, path, headers=headers, data={} if method == "POST" else None)
            if path == "/console":
                assert answer.status_code == 200 and "Sign in to the console" in answer.text
            elif method == "POST":
                assert answer.status_code == 401 and "Sign in to the console" in answer.text
            else:
                assert answer.status_code == 303 and answer.headers["location"].startswith(
                    "/console/login?next=%2Fconsole%2F"
                )
    assert await census(world) == before
    await desk.http.aclose()


async def test_every_answer_keeps_the_browser_from_doing_anything_else(world: World) -> None:
    desk = await seat(world)
    for _, path in [
        ("GET", "/console/login"),
        ("GET", "/console/nothing"),
        ("GET", "/console/static/console.js"),
        *pages(),
    ]:
        answer = await desk.http.get(path) if "stream" not in path else None
        if answer is None:
            continue
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "http" not in policy, path
        assert "script-src 'self'" in policy or "script-src" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        if "/static/" not in path and answer.headers["content-type"].startswith("text/html"):
            assert "packet" in path or "diff" in path or answer.headers["cache-control"] == "no-store", path


async def test_a_link_works_once_in_time_and_on_this_machine(world: World) -> None:
    desk, other = Desk(world), Desk(world)
    link = await link_for(world, "operator")
    away = httpx.AsyncClient(transport=httpx.ASGITransport(world.public, client=("192.0.2.7", 1)), base_url=HERE)
    assert (await away.get("/console/login", params={"link": link})).status_code == 403
    named = httpx.AsyncClient(transport=httpx.ASGITransport(world.public), base_url="http://rebound.example")
    assert (await named.get("/console/login", params={"link": link})).status_code == 403
    six = httpx.AsyncClient(
        transport=httpx.ASGITransport(world.public, client=("::1", 1)), base_url="http://[::1]:8080"
    )
    sixth = await six.get("/console/login", params={"link": await link_for(world, "operator")})
    assert sixth.status_code == 303, sixth.text
    first = await desk.http.get("/console/login", params={"link": link})
    assert (first.status_code, first.headers["location"]) == (303, "/console")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/console" in cookie and "Secure" not in cookie
    assert link not in cookie
    assert (await desk.get("/console")).status == 200 and "Inbox" in (await desk.get("/console")).text
    again = await other.http.get("/console/login", params={"link": link})
    assert (
        again.status_code == 401 and "used already" in again.text and COOKIE not in again.headers.get("set-cookie", "")
    )
    late = await link_for(world, "operator")
    connection = await inspector(world)
    await connection.execute("ALTER TABLE console_link DISABLE TRIGGER console_link_guard")
    await connection.execute(
        "UPDATE console_link SET expires_at = clock_timestamp() - interval '1 s' WHERE secret_sha256 = $1",
        sha256(late.encode()),
    )
    await connection.execute("ALTER TABLE console_link ENABLE ALWAYS TRIGGER console_link_guard")
    assert (await other.http.get("/console/login", params={"link": late})).status_code == 401
    for wrong in ("x", "x" * 300, "ml_" + "y" * 40, "ml_%00" + "y" * 40, "ml_' OR 1=1"):
        assert (await other.http.get("/console/login", params={"link": wrong})).status_code == 401
    tenant = await world.tenant()
    assert {"session.link_made", "session.started"} <= set(await fact_types(world, tenant))
    for one in (desk, other):
        await one.http.aclose()
    await away.aclose()
    await six.aclose()
    await named.aclose()


BEHIND: dict[str, dict[str, str]] = {
    "with the client's address": {"X-Forwarded-For": "192.0.2.7"},
    "with its scheme alone": {"X-Forwarded-Proto": "https"},
    "with the host it was asked for": {"X-Forwarded-Host": "root.example.com"},
    "as the standard has it": {"Forwarded": "for=192.0.2.7;proto=https"},
    "by another name": {"X-Real-IP": "192.0.2.7"},
    "and says its own": {"Via": "1.1 proxy"},
    "that lies": {"X-Forwarded-For": "127.0.0.1"},
}


@pytest.mark.parametrize("proxy", BEHIND)
async def test_behind_a_proxy_on_this_machine_that_nobody_named_nobody_is_local(world: World, proxy: str) -> None:
    """It asks from 127.0.0.1 and writes the Host anew, so that address and name look like somebody who sits here."""
    world.public.state.settings = world.settings(console_base_url="https://root.example.com")
    desk, link = Desk(world), await link_for(world, "operator")
    refused = await desk.http.get("/console/login", params={"link": link}, headers=BEHIND[proxy])
    assert refused.status_code == 403 and COOKIE not in refused.headers.get("set-cookie", "")
    form = {"Origin": HERE, **BEHIND[proxy]}
    assert (await desk.http.post("/console/login", data={"link": link}, headers=form)).status_code == 403
    # who really sits here gets in by the same link; and behind a proxy that is named it is the client who counts
    assert (await desk.http.get("/console/login", params={"link": link})).status_code == 303
    named = {"console_base_url": "https://root.example.com", "trusted_proxies": "127.0.0.1/32"}
    world.public.state.settings = world.settings(**named)
    far = await desk.http.get("/console/login", params={"link": "x" * 40}, headers={"X-Forwarded-For": "192.0.2.7"})
    near = await desk.http.get("/console/login", params={"link": "x" * 40}, headers={"X-Forwarded-For": "127.0.0.1"})
    assert (far.status_code, near.status_code) == (403, 401)
    await desk.http.aclose()


async def test_a_form_is_taken_from_our_own_pages_only(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    page = await desk.get(f"/console/approvals/{change['id']}")
    form = page.form_to("/decision", decision="reject")
    fields = dict(form["fields"]) | {"comment": "no"}
    before = await census(world)

    async def sent(data: dict[str, str], **headers: str) -> httpx.Response:
        return await desk.http.post(form["action"], data=data, headers=headers)

    refused = [
        await sent(fields, Origin="https://evil.example"),
        await sent(fields, Origin="null"),
        await sent(fields, Origin="http://127.0.0.1:9999"),
        await sent(fields, **{"Sec-Fetch-Site": "cross-site"}),
        await sent(fields | {"token": ""}, Origin=HERE),
        await sent(fields | {"token": "0" * 64}, Origin=HERE),
        await desk.http.post(form["action"], json=fields, headers={"Origin": HERE}),
        await desk.http.post(
            form["action"],
            content=b"token=\xff",
            headers={"Origin": HERE, "Content-Type": "application/x-www-form-urlencoded"},
        ),
    ]
    assert [answer.status_code for answer in refused] == [403, 403, 403, 403, 403, 403, 415, 422]
    another = await seat(world, "second_operator")
    theirs = (await another.get(f"/console/approvals/{change['id']}")).form_to("/decision", decision="reject")
    assert (await sent(fields | {"token": dict(theirs["fields"])["token"]}, Origin=HERE)).status_code == 403
    assert {k: v for k, v in (await census(world)).items() if before[k] != v}.keys() <= {
        "session",
        "console_link",
        "ledger",
        "approval_look",
    }
    done = await sent(fields, Origin=HERE)
    assert done.status_code == 303
    assert (await world.auditor.get(f"/v1/approvals/{change['id']}")).json()["state"] == "rejected"


async def test_what_is_no_header_is_refused_and_not_a_fault(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    assert (await desk.get("/console/stream?after=€")).status == 422
    form = (await desk.get(f"/console/approvals/{change['id']}")).form_to("/decision", decision="reject")
    assert (await desk.send(form, comment="no", once="€")).status == 422
    assert (await desk.send(form, comment="no", etag='"€"')).status == 412
    for broken in ({"Origin": "http://[127.0.0.1"}, {"Origin": HERE, "Host": "[127.0.0.1"}):
        answer = await desk.http.post(form["action"], data=dict(form["fields"]), headers=broken)
        assert answer.status_code == 403, broken
    assert (await desk.get("/console/login", headers={"Host": "[127.0.0.1"})).status == 200


async def test_only_a_page_that_goes_on_by_itself_asks_where_the_record_ends(world: World) -> None:
    desk, change = await seat(world), await pending_change(world)
    mission = f"/missions/{change['mission_id']}"
    for path, live in {
        "": 1,
        "/missions": 1,
        mission: 1,
        f"/approvals/{change['id']}": 1,
        "/health": 0,
        "/audit": 0,
    }.items():
        source = (await desk.get(f"/console{path}")).source
        assert bool(re.search(r'data-after="\d+[^"]*"', source)) == bool(live), path
    form = (await desk.get(f"/console/approvals/{change['id']}")).form_to("/decision", decision="reject")
    refused = await desk.send(form)
    assert refused.status == 422 and re.search(r'data-after="\d+[^"]*"', refused.source)


async def test_signing_out_and_losing_ones_rights_end_it_everywhere(world: World) -> None:
    desk = await seat(world)
    secret = desk.http.cookies[COOKIE]
    page = await desk.get("/console")
    out = await desk.http.post(
        "/console/logout", data=dict(page.form_to("/logout")["fields"]), headers={"Origin": HERE}
    )
    assert out.status_code == 303
    assert (await world.client(secret).get("/v1/approvals")).status_code == 401
    person = await hire(world, "leaver", "operator")
    desk = await seat(world, "leaver")
    assert "Inbox" in (await desk.get("/console")).text
    connection = await inspector(world)
    await connection.execute("UPDATE principal SET suspended_at = now() WHERE name = 'leaver'")
    assert "Sign in to the console" in (await desk.get("/console")).text
    assert person.name == "leaver"


async def test_where_one_goes_after_signing_in_is_inside(world: World) -> None:
    for onward, where in {
        "/console/missions?state=failed": "/console/missions?state=failed",
        "https://evil.example": "/console",
        "//evil.example": "/console",
        "/console//evil.example": "/console",
        "/console\\evil": "/console",
        "/v1/missions": "/console",
        "/console/login?link=x": "/console",
    }.items():
        desk = Desk(world)
        link = await link_for(world, "operator")
        form = (await desk.get("/console/login", params={"next": onward})).form_to("/login")
        answer = await desk.http.post(
            "/console/login", data=dict(form["fields"]) | {"link": link}, headers={"Origin": HERE}
        )
        assert answer.headers.get("location") == where, onward
        await desk.http.aclose()


async def test_secrets_are_in_no_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    desk = await seat(world)
    await desk.get("/console")
    await desk.get("/console/health")
    said = capsys.readouterr()
    assert desk.http.cookies[COOKIE] not in said.out + said.err
    assert "link=" not in said.out + said.err


async def test_guessed_sessions_are_counted_like_guessed_keys(world: World) -> None:
    limits: Any = world.root.limits
    limits.failures = 3
    desk = Desk(world)
    answers = [
        await desk.http.get("/console/missions", headers={"Cookie": f"{COOKIE}=ms_0000000{n:02}_{'x' * 40}"})
        for n in range(20)
    ]
    [*_, held] = [answer for answer in answers if answer.status_code == 429]
    assert int(held.headers["retry-after"]) >= 1
    await desk.http.aclose()
