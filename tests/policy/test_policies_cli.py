"""`mission-root policies …` against a served root: what it prints, what it changes, and how it leaves when refused."""

import asyncio
import json
import sys
from pathlib import Path

from tests.policy.test_changing import GOOD, create, put, rule
from tests.world import World
from tests.world.checks import problem
from tests.world.world import served


async def run(world: World, url: str, who: str, *args: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli.main", "policies", *args, "--url", url, "--api-key", world.people[who].key,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_policy_is_tried_put_asked_and_retired(world: World, tmp_path: Path) -> None:
    await create(world, risk_level="high")
    file = tmp_path / "own.cedar"
    file.write_text(rule(GOOD + ' when { context.risk_level == "high" }'))
    async with served(world.public) as url:
        code, out, _ = await run(world, url, "submitter", "preview", "own", str(file), "--json")
        assert (code, len(json.loads(out)["changed"])) == (0, 1)
        question = ("evaluate", "mission.create", "oracle_advisory", "-f", "risk_level=high")
        code, out, _ = await run(world, url, "submitter", *question, "--proposed", str(file))
        assert (
            code == 0 and out.startswith("deny: As the test says. (own.a)") and "risk_level high -> low: allow" in out
        )
        assert (await run(world, url, "policy_owner", "put", "own", str(file), "--check"))[0] == 0
        assert (await create(world, risk_level="high")).status_code == 202
        code, out, _ = await run(world, url, "policy_owner", "put", "own", str(file))
        assert (code, out) == (0, "own is in force: version 1.\n")
        problem(await create(world, risk_level="high"), "denied_by_policy")
        file.write_text(rule(GOOD))
        assert (await run(world, url, "policy_owner", "put", "own", str(file)))[1] == "own is in force: version 2.\n"
        code, out, _ = await run(world, url, "auditor", "show", "own")
        assert code == 0 and out.endswith(file.read_text()) and out.count("// version") == 2
        code, out, _ = await run(world, url, "auditor", "list", "--json")
        assert [one["name"] for one in json.loads(out)["items"]] == ["baseline", "own"]
        code, out, _ = await run(world, url, "policy_owner", "retire", "own", "--json")
        assert code == 0 and json.loads(out)["retired"]
        assert (await create(world)).status_code == 202


async def test_refusals_leave_with_their_exit_code(world: World, tmp_path: Path) -> None:
    file = tmp_path / "own.cedar"
    file.write_text("permit (principal")
    assert (await put(world, rule(GOOD))).status_code == 201
    async with served(world.public) as url:
        code, _, err = await run(world, url, "policy_owner", "put", "own", str(file))
        assert code == 2 and "line 1" in err
        file.write_text(rule("forbid (principal, action, resource)"))
        assert (await run(world, url, "operator", "put", "own", str(file)))[0] == 4
        assert (await run(world, url, "policy_owner", "show", "nothing"))[0] == 3
        assert (await run(world, url, "policy_owner", "evaluate", "mission.create", "x", "-f", "mode"))[0] == 2
        assert (await run(world, url, "policy_owner", "put", "own", str(tmp_path / "none")))[0] == 2
