"""`mission-root principals`, `keys` and `whoami` against a real root, as one admin would use them."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import redirect_stdout
from typing import Any

import pytest

from app.cli import main
from app.cli.client import Failed
from tests.cli import inprocess
from tests.world import World
from tests.world.world import served

Command = Callable[..., Awaitable[Any]]


@pytest.fixture
async def command(world: World) -> AsyncIterator[Command]:
    """Runs a command as somebody and reads its JSON."""
    async with served(world.public) as url:

        async def run(*words: str, who: str = "admin", secret: str = "", plain: bool = False) -> Any:
            key = secret or world.people[who].key
            more = [] if plain else ["--json"]
            arguments = [*words, "--url", url, "--api-key", key, *more]
            with redirect_stdout(io.StringIO()) as out:
                await asyncio.to_thread(main.app, arguments, standalone_mode=False)
            said = out.getvalue()
            return said if plain else json.loads(said)

        yield run


async def test_somebody_from_their_first_day_to_their_last(command: Command) -> None:
    nina = (await command("principals", "create", "Nina"))["id"]
    key = await command("keys", "create", "--principal", nina, "--idempotency-key", "first")
    again = await command("keys", "create", "--principal", nina, "--idempotency-key", "first")
    assert again["id"] == key["id"] and again["secret_already_shown"] and "secret" not in again
    granted = await command("principals", "grant", nina, "operator")
    who = await command("whoami", secret=key["secret"])
    assert (who["name"], who["roles"]) == ("Nina", ["operator"])
    rotated = await command("keys", "rotate", key["id"], "--overlap-s", "60", secret=key["secret"])
    assert [one["state"] for one in (await command("keys", "list", secret=rotated["secret"]))["items"]] == [
        "live",
        "live",
    ]
    assert (await command("keys", "revoke", key["id"]))["state"] == "revoked"
    link = await command("principals", "unlink", nina, (await linked(command, nina, rotated["id"]))["id"])
    assert link["unlinked_at"]
    shown = await command("principals", "show", nina)
    assert [one["id"] for one in shown["grants"]] == [granted["id"]] and len(shown["identities"]) == 1
    assert (await command("principals", "suspend", nina))["state"] == "suspended"
    assert (await command("principals", "resume", nina))["state"] == "active"
    assert (await command("principals", "end-sessions", nina)) == {"ended": 0}
    assert (await command("principals", "revoke", nina, granted["id"]))["state"] == "revoked"


async def linked(command: Command, principal: str, live_key: str) -> Any:
    await command("keys", "revoke", live_key)  # an approver is given a way in only when there is none
    made = await command("principals", "link", principal, "https://id.example", "248289761001")
    assert made["subject"] == "248289761001"
    return made


async def test_a_role_is_passed_on(command: Command) -> None:
    nina = (await command("principals", "create", "Nina"))["id"]
    ends = "2026-01-01T00:00:00Z"
    with pytest.raises(Failed) as refused:
        await command("principals", "delegate", nina, "operator", "--expires-at", ends, who="operator")
    assert refused.value.exit_code == 2 and "/expires_at" in str(refused.value)


async def test_refusals_have_exit_codes(command: Command, world: World) -> None:
    admin = (await command("whoami"))["principal_id"]
    for code, words in (
        (4, ("principals", "grant", admin, "operator")),
        (3, ("principals", "show", "00000000-0000-0000-0000-000000000000")),
        (5, ("principals", "create", "operator")),
        (2, ("principals", "grant", admin, "king")),
    ):
        with pytest.raises(Failed) as refused:
            await command(*words)
        assert refused.value.exit_code == code, words


async def test_people_are_shown_as_text_too(command: Command) -> None:
    everybody = await command("principals", "list", plain=True)
    assert "second_operator" in everybody and "active" in everybody
    assert "mr_" in await command("keys", "list", plain=True)
    assert "admin (human): admin" in await command("whoami", plain=True)
    only = await command("principals", "list", "--kind", "service")
    assert [one["name"] for one in only["items"]] == ["submitter"]


async def test_the_first_tenant_and_admin_are_made_at_the_database(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from app import settings

    monkeypatch.setenv("REGISTRAR_DATABASE_URL", world.url("registrar"))
    settings.load.cache_clear()

    async def identity(*words: str) -> Any:
        capsys.readouterr()
        await asyncio.to_thread(main.app, ["identity", *words, "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    await identity("create-tenant", "acme")
    admin = await identity("create-principal", "acme", "Ada", "--role", "admin")
    assert (await world.client(admin["key"]).get("/v1/whoami")).json()["roles"] == ["admin"]
    with pytest.raises(Failed, match="without an admin") as refused:
        await identity("revoke-role", "acme", "Ada", "admin")
    assert refused.value.exit_code == 5
    with pytest.raises(Failed, match="tenant of this name"):
        await identity("create-tenant", "acme")
    await identity("create-principal", "acme", "Bea", "--role", "admin")
    await identity("revoke-role", "acme", "Ada", "admin")
    settings.load.cache_clear()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "--operator"), "There is an operator's tenant already; an installation has one."),
        (("demo",), "There is a tenant of this name."),
        (("demo", "--operator"), "There is"),
    ],
)
async def test_a_tenant_that_cannot_be_made_is_told_why(world: World, words: tuple[str, ...], said: str) -> None:
    done = await asyncio.to_thread(
        inprocess.command,
        "identity",
        "create-tenant",
        *words,
        environment={"REGISTRAR_DATABASE_URL": world.url("registrar")},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1), done.stderr
    assert done.stderr.startswith(f"mission-root: {said}")
