"""The whole way with a real OpenID provider: somebody signs in with a form, and their token opens the door here."""

import base64
import hashlib
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.embedded import free_port
from tests.identity.provider import CALLBACK, PASSWORD, SECRET
from tests.world import World
from tests.world.checks import hire, problem


@pytest.fixture(params=["RS256", "EdDSA"])
def issuer(request: pytest.FixtureRequest) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.identity.provider", str(port), request.param]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


def sign_in(issuer: str, client: str) -> dict[str, Any]:
    """The authorization code flow with PKCE, through the provider's own forms. Answers the token response."""
    verifier = secrets.token_urlsafe(40)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with httpx.Client(trust_env=False, base_url=issuer) as browser:
        found = browser.get("/.well-known/openid-configuration").json()
        page = browser.get(
            found["authorization_endpoint"],
            params={
                "response_type": "code", "client_id": client, "scope": "openid profile", "redirect_uri": CALLBACK,
                "nonce": "n", "state": "s", "code_challenge": challenge, "code_challenge_method": "S256",
            },
        )  # fmt: skip
        for _ in range(10):
            if page.headers.get("location", "").startswith(CALLBACK):
                break
            if page.is_redirect:
                page = browser.get(page.headers["location"])
                continue
            hidden = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
            form = {"csrf_token": hidden[1] if hidden else ""}
            form |= {"login": "anna"} if 'name="login"' in page.text else {"password": PASSWORD}
            page = browser.post(page.request.url, data=form)
        code = parse_qs(urlsplit(page.headers["location"]).query)["code"][0]
        asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        answer: dict[str, Any] = browser.post(found["token_endpoint"], data=asked, auth=(client, SECRET)).json()
        return answer


async def test_somebody_signs_in_there_and_acts_here(world: World, issuer: str) -> None:
    await world.with_registrar(oidc_issuer=issuer, oidc_audience="mission-root")
    tokens = sign_in(issuer, "console")
    anna = world.client(tokens["access_token"])
    problem(await anna.get("/v1/whoami"), "unauthenticated")  # nobody has said yet who that is here
    person = await hire(world, "anna", "submitter")
    who = (await person.http.get("/v1/whoami")).json()["principal_id"]
    linked = await world.admin.post(f"/v1/principals/{who}/identities", json={"issuer": issuer, "subject": "anna"})
    assert linked.status_code == 201, linked.text
    again = tokens
    while (
        again["access_token"] == tokens["access_token"]
    ):  # signatures repeat within a second, and a refusal is remembered
        again = sign_in(issuer, "console")
    anna = world.client(again["access_token"])
    said = (await anna.get("/v1/whoami")).json()
    assert (said["principal_id"], said["credential"]["kind"]) == (who, "session")
    created = await anna.post("/v1/missions", json={"mission_type": "oracle_advisory", "user_goal": "What is there?"})
    assert created.status_code == 202, created.text
    # a token of the same provider for somebody else's service is none for us
    elsewhere = sign_in(issuer, "elsewhere")
    for stranger in (elsewhere["access_token"], elsewhere["id_token"]):
        problem(await world.client(stranger).get("/v1/whoami"), "unauthenticated")
