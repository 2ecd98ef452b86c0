"""Signing in to the console at a real OpenID provider: its own forms, code flow with PKCE, and back."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
import pytest

from app.clock import now
from app.console import oidc
from app.console.door import COOKIE, LOGIN_COOKIE
from app.embedded import free_port
from app.settings import Misconfigured, Settings, check_console
from tests.console.desk import HERE, Desk, Page, link_for, seat
from tests.identity.provider import PASSWORD, SECRET
from tests.world import World
from tests.world.checks import hire, inspector, pending_change


@contextmanager
def provider_for(place: str) -> Iterator[str]:
    """A provider where the console at this address is registered; its issuer."""
    port = free_port()
    command = [sys.executable, "-m", "tests.identity.provider", str(port), "EdDSA", f"{place}/console/login/callback"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider_for(HERE) as issuer:
        yield issuer


async def ready(world: World, issuer: str, place: str = HERE) -> None:
    await world.with_registrar(oidc_issuer=issuer, oidc_audience="mission-root")
    settings = world.settings(
        oidc_issuer=issuer, oidc_client_id="console", oidc_client_secret=SECRET, console_base_url=place
    )
    world.public.state.settings = settings


async def at_the_provider(start: httpx.Response, place: str = HERE) -> str:
    """Fills in the provider's forms as anna; the address that it sends the browser back to."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        page = await browser.get(start.headers["location"])
        for _ in range(10):
            if page.headers.get("location", "").startswith(place + "/console"):
                return str(page.headers["location"])
            if page.is_redirect:
                page = await browser.get(str(page.url.join(page.headers["location"])))
                continue
            hidden = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
            form = {"csrf_token": hidden[1] if hidden else ""}
            form |= {"login": "anna"} if 'name="login"' in page.text else {"password": PASSWORD}
            page = await browser.post(page.request.url, data=form)
    raise AssertionError(page.text[:500])


async def anna(world: World, issuer: str) -> dict[str, Any]:
    """Somebody here who is anna at the provider."""
    person = await hire(world, "anna", "operator")
    who: dict[str, Any] = (await person.http.get("/v1/whoami")).json()
    connection = await inspector(world)
    await connection.execute(
        "INSERT INTO oidc_identity (tenant, principal, issuer, subject) VALUES ($1::text::uuid, $2::text::uuid, $3, 'anna')",
        who["tenant_id"], who["principal_id"], issuer,
    )  # fmt: skip
    return who


async def test_somebody_signs_in_there_and_decides_here(world: World, issuer: str) -> None:
    await ready(world, issuer)
    desk = Desk(world)
    door = await desk.get("/console")
    [to_provider] = [link for link in door.links if "/login/oidc" in link]
    start = await desk.http.get(to_provider)
    assert start.status_code == 303 and start.headers["location"].startswith(issuer)
    assert "code_challenge=" in start.headers["location"] and "code_challenge_method=S256" in start.headers["location"]
    back = await at_the_provider(start)
    # nobody here is linked to anna yet
    refused = await desk.http.get(back)
    assert refused.status_code == 403 and "Nobody here is linked to you" in refused.text
    who = await anna(world, issuer)
    start = await desk.http.get(f"{to_provider.partition('?')[0]}?next=/console/missions")
    signed = await desk.http.get(await at_the_provider(start))
    assert (signed.status_code, signed.headers["location"]) == (303, "/console/missions"), signed.text
    page = await desk.get("/console/missions")
    assert "anna" in page.text
    said = (await world.client(desk.http.cookies[COOKIE]).get("/v1/whoami")).json()
    assert (said["principal_id"], said["credential"]["kind"]) == (who["principal_id"], "session")
    await desk.http.aclose()


async def test_a_code_that_was_used_is_not_sent_again_by_itself(world: World, issuer: str) -> None:
    await ready(world, issuer)
    desk = Desk(world)
    back = await at_the_provider(await desk.http.get("/console/login/oidc"))
    await world.root.upstream.http.aclose()
    world.root.upstream.http = httpx.AsyncClient(
        base_url="http://127.0.0.1:9"
    )  # the provider took the code, nobody is behind us
    answer = await desk.get(back)
    assert answer.status == 503 and answer.answer.headers["retry-after"]
    assert "refresh" not in answer.answer.headers and "" not in answer.links
    await desk.http.aclose()


async def test_an_answer_of_another_attempt_is_none(world: World, issuer: str) -> None:
    await ready(world, issuer)
    desk, other = Desk(world), Desk(world)
    back = await at_the_provider(await desk.http.get("/console/login/oidc"))
    callback = httpx.URL(back)
    await other.http.get("/console/login/oidc")
    answers = (
        await other.http.get(back),  # a browser that asked for something else: login CSRF
        await Desk(world).http.get(back),  # one that asked for nothing
        await desk.http.get(str(callback.copy_set_param("state", "x"))),
        await desk.http.get(str(callback.copy_remove_param("code"))),
        await desk.http.get("/console/login/callback"),
    )
    assert [answer.status_code for answer in answers] == [401] * 5
    assert not [answer for answer in answers if COOKIE in answer.headers.get("set-cookie", "")]
    for one in (desk, other):
        await one.http.aclose()


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "elsewhere"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"azp": "other"},
        {"sub": None},
    ],
)
def test_an_id_token_answers_what_was_asked(change: dict[str, Any]) -> None:
    moment = int(now().timestamp())
    good = {
        "iss": "https://id.example",
        "aud": "console",
        "sub": "anna",
        "nonce": "n",
        "iat": moment,
        "exp": moment + 60,
    }
    oidc.check(jwt.encode(good, "k" * 32), "https://id.example", "console", "n")
    bad = {name: value for name, value in (good | change).items() if value is not None}
    with pytest.raises((*oidc.ERRORS, ValueError)):
        oidc.check(jwt.encode(bad, "k" * 32), "https://id.example", "console", "n")


async def test_a_provider_that_is_away_is_said(world: World) -> None:
    await ready(world, "http://127.0.0.1:9")
    desk = Desk(world)
    answer = await desk.http.get("/console/login/oidc")
    assert answer.status_code == 503 and "does not answer" in answer.text
    await desk.http.aclose()


async def test_no_provider_no_way_there(world: World) -> None:
    desk = Desk(world)
    assert (await desk.http.get("/console/login/oidc")).status_code == 404
    await desk.http.aclose()


async def test_a_provider_that_is_down_locks_nobody_out_who_sits_at_the_machine(world: World) -> None:
    """A one-time link goes on working there, forms and all, and of what is sent to the named console nothing is taken."""
    change, own = await pending_change(world), {"Origin": "https://root.example.com"}
    world.public.state.settings = world.settings(
        oidc_issuer="http://127.0.0.1:9", oidc_client_id="console", console_base_url="https://root.example.com"
    )
    there = httpx.AsyncClient(transport=httpx.ASGITransport(world.public), base_url="https://root.example.com")
    assert (await there.post("/console/login", data={"link": "x"}, headers=own)).status_code == 403
    assert (await there.get("/console/login/oidc")).status_code == 503
    desk = await seat(world)
    form = (await desk.get(f"/console/approvals/{change['id']}")).form_to("/decision", decision="reject")
    fields = dict(form["fields"]) | {"comment": "no"}
    for foreign in ("http://rebound.example", "http://127.0.0.1:9999", "null"):
        assert (await desk.http.post(form["action"], data=fields, headers={"Origin": foreign})).status_code == 403
    rebound = {"Host": "rebound.example", "Origin": "http://rebound.example"}
    assert (await desk.http.post(form["action"], data=fields, headers=rebound)).status_code == 403
    away = httpx.AsyncClient(
        transport=httpx.ASGITransport(world.public, client=("192.0.2.7", 1)), base_url=HERE, cookies=desk.http.cookies
    )
    assert (await away.post(form["action"], data=fields, headers={"Origin": HERE})).status_code == 403
    assert (await away.post(form["action"], data=fields, headers=own)).status_code == 303
    another = await pending_change(world)
    page = await desk.get(f"/console/approvals/{another['id']}")
    done = await desk.send(page.form_to("/decision", decision="reject"), comment="no")
    assert "Rejected: nothing leaves" in done.text
    for one in (there, away):
        await one.aclose()


def kept(answer: httpx.Response, name: str) -> tuple[str, bool]:
    """The cookie that an answer sets, as a browser sends it, and whether that is by TLS alone."""
    [line] = [
        one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{name}=") and "Max-Age=0" not in one
    ]
    return line.partition(";")[0], "Secure" in line.split("; ")


PROXIES: dict[str, tuple[str, dict[str, str]]] = {
    "that leaves the name": ("http://root.example.com", {}),
    "on this machine, that writes it anew": (HERE, {"X-Forwarded-For": "192.0.2.7"}),
}


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_session_of_a_named_console_travels_by_tls_only(world: World, proxy: str) -> None:
    """Whatever ends the TLS before it: signing in to its end, the session's own cookie too."""
    (base, said), place = PROXIES[proxy], "https://root.example.com"
    with provider_for(place) as issuer:
        await ready(world, issuer, place)
        await anna(world, issuer)
        proxied = httpx.AsyncClient(transport=httpx.ASGITransport(world.public), base_url=base, headers=said)
        start = await proxied.get("/console/login/oidc")
        cookie, by_tls = kept(start, LOGIN_COOKIE)
        assert by_tls
        back = httpx.URL(await at_the_provider(start, place))
        signed = await proxied.get(back.raw_path.decode(), headers={"Cookie": cookie})
        assert signed.status_code == 303, signed.text
        session, by_tls = kept(signed, COOKIE)
        assert by_tls
        page = await proxied.get("/console", headers={"Cookie": session})
        out = await proxied.post(
            "/console/logout",
            data=dict(Page(page).form_to("/logout")["fields"]),
            headers={"Cookie": session, "Origin": place},
        )
        assert out.status_code == 303 and "Secure" in out.headers["set-cookie"]
        await proxied.aclose()
    local = await seat(world)
    assert not kept(await local.http.get("/console/login", params={"link": await link_for(world, "operator")}), COOKIE)[
        1
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "OIDC_ISSUER is not"),
        ({"oidc_issuer": "https://id.example"}, "CONSOLE_BASE_URL is not"),
        (
            {"oidc_issuer": "https://id.example", "console_base_url": "http://root"},
            "CONSOLE_BASE_URL must begin with https",
        ),
    ],
)
def test_half_a_configuration_stops_the_process(more: dict[str, str], said: str) -> None:
    settings = Settings(_env_file=None, environment="production", oidc_client_id="console", **more)  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match=said):
        check_console(settings)
