"""Registering a signing key takes two people at the command line, and a signed decision is made there too."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

from tests.attacks.test_taken_over import OPERATORS, Tower
from tests.cli.inprocess import command
from tests.delivery.streams import serving
from tests.executor.field import Change
from tests.world import World
from tests.world.checks import inspector


class Desk:
    """The command line of several people, over the registrar's login and the served API."""

    def __init__(self, world: World, url: str) -> None:
        self.world, self.url = world, url

    async def run(self, who: str, *words: str, code: int = 0) -> Any:
        """A command as somebody; answers what it printed as JSON, or the sentence it failed with."""
        given = {
            "REGISTRAR_DATABASE_URL": self.world.url("registrar"), "MISSION_ROOT_API_KEY": self.world.people[who].key,
            "MISSION_ROOT_URL": self.url,
        }  # fmt: skip
        done = await asyncio.to_thread(command, *words, "--json", environment=given)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout) if code == 0 else json.loads(done.stderr)["title"]


async def test_two_people_register_a_key_and_a_signed_decision_is_carried_out(world: World, tmp_path: Path) -> None:
    tower = Tower(world)
    await tower.build()
    async with serving(world) as url:
        desk = Desk(world, url)
        assert (await desk.run("policy_owner", "approvers", "risk-floor", "demo", "sample_crm", "*", "high"))[
            "version"
        ] == 2
        change = await tower.change()
        for name in OPERATORS:
            file = tmp_path / f"{name}.pem"
            made = await desk.run(name, "approvers", "new-key", str(file))
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            await desk.run(name, "approvers", "new-key", str(file), code=5)  # never over an old one
            key = (await desk.run(name, "approvers", "request-key", "demo", name, made["public_key"]))["key"]
            decide = ("approvals", "decide", change.approval["id"], "approve", "--signing-key", str(file))
            decide += ("--payload-sha256", change.approval["payload_sha256"])
            assert "not registered" in await desk.run(name, *decide, code=4)
            assert "an admin" in await desk.run(name, "approvers", "confirm-key", "demo", key, code=4)
            await desk.run("admin", "approvers", "confirm-key", "demo", key)
            await desk.run(name, *decide[:4], *decide[6:], code=2)  # without --signing-key
            assert (await desk.run(name, *decide))["outcome"] == ("recorded" if name == "operator" else "approved")
        listed = await desk.run("admin", "approvers", "list", "demo")
        assert [key["state"] for key in listed["keys"]] == ["live"] * 4
        assert {"connector": "sample_crm", "operation": "*", "version": 2, "risk": "high"} in listed["risk_floors"]
        seen = await Change(world, change.approval, None).run()  # type: ignore[arg-type]
        assert seen["state"] == "succeeded", seen
        await desk.run("operator", "approvers", "revoke-key", "demo", key, code=4)  # another's
        assert (await desk.run("admin", "approvers", "revoke-key", "demo", key))["state"] == "revoked"
        await desk.run("admin", "approvers", "revoke-key", "demo", key, code=3)
        rule = str(tower.rule)
        await desk.run("operator", "approvers", "waive-signatures", "demo", rule, code=4)
        assert (await desk.run("policy_owner", "approvers", "waive-signatures", "demo", rule))["rule"] == rule
        await desk.run("policy_owner", "approvers", "waive-signatures", "demo", rule, code=3)


async def test_what_is_shown_is_what_is_signed(world: World, tmp_path: Path) -> None:
    """A root that shows one change and names the hash of another gets no signature."""
    from app.cli import approvals
    from app.cli.client import Failed

    tower = Tower(world)
    await tower.build()
    change = await tower.change()
    lying = change.approval | {"payload": change.approval["payload"] | {"operation": "look"}}
    try:
        approvals.sign(tmp_path / "none.pem", lying, approvals.Decision.approve, change.approval["payload_sha256"])
    except Failed as refused:
        assert "nothing was signed" in str(refused)
    else:
        raise AssertionError("it signed what it did not show")
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM decision") == 0
