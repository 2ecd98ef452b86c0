"""`mission-root retention`, `holds` and `artifacts`: what they show, and that they change only what was named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import artifacts
from app.cli.client import Failed
from tests.cli.test_client import Ended, Root, command, problem, root
from tests.retention.house import LARGE, House
from tests.walls.conftest import ground, walled

__all__ = ["command", "ground", "root", "walled"]

DAYS = {"public_days": None, "internal_days": 1095, "confidential_days": 365, "restricted_days": 7, "unread_days": 30}
TIMES = {
    **DAYS,
    "version": 3,
    "set_by": "0",
    "set_at": "2026-01-01T00:00:00Z",
    "counted": DAYS | {"restricted_days": 90},
}
HOLD: dict[str, Any] = {
    "name": "case-17", "state": "standing", "scope": "label", "mission_id": None, "label": "case:17", "reason": "[red]a case\x1b[2J",
    "placed_by": "0", "placed_at": "2026-01-02T03:04:05Z", "lift_reason": None, "lifted_by": None, "lifted_at": None,
}  # fmt: skip


@pytest.fixture
def answers(root: Root) -> None:
    root.answers["GET /v1/retention"] = (200, {"ETag": '"v3"'}, TIMES)
    root.answers["PUT /v1/retention"] = (200, {"ETag": '"v4"'}, TIMES | {"version": 4})
    root.answers["GET /v1/legal-holds"] = (200, {}, {"items": [HOLD], "next_cursor": None, "has_more": False})
    root.answers["PUT /v1/legal-holds/case-17"] = (201, {}, HOLD)
    root.answers["DELETE /v1/legal-holds/case-17"] = (200, {}, HOLD | {"state": "lifted"})


@pytest.mark.usefixtures("answers")
def test_times_are_shown_and_set(root: Root, command: Callable[..., Ended]) -> None:
    code, out, err = command("retention", "show")
    rows = [line.split() for line in out.splitlines()]
    assert (
        (code, err) == (0, "")
        and ["restricted", "7", "90"] in rows
        and ["public", "for", "good", "for", "good"] in rows
    )
    code, out, _ = command("retention", "set", "--restricted", "30", "--internal", "none", "--json")
    what, _, headers, body = root.asked[-1]
    assert (code, what, headers["If-Match"]) == (0, "PUT /v1/retention", '"v3"')
    assert json.loads(body) == DAYS | {"restricted_days": 30, "internal_days": None}
    for words in ((), ("--restricted", "soon")):
        assert command("retention", "set", *words)[0] == 2


@pytest.mark.usefixtures("answers")
def test_holds_are_listed_placed_and_lifted(root: Root, command: Callable[..., Ended]) -> None:
    _, out, _ = command("holds", "list", "--state", "standing")
    assert "case-17" in out and "case:17" in out and "[red]a case" in out and "⟨U+001B⟩[2J" in out and "\x1b" not in out
    code, out, _ = command("holds", "place", "case-17", "--label", "case:17", "--reason", "a case")
    assert (code, out) == (0, "case-17 holds case:17.\n")
    assert json.loads(root.asked[-1][3]) == {"scope": "label", "label": "case:17", "reason": "a case"}
    for words in ((), ("--tenant", "--label", "a:b")):
        assert command("holds", "place", "x", "--reason", "r", *words)[0] == 2
    code, out, _ = command("holds", "lift", "case-17", "--reason", "over")
    assert (code, out, root.asked[-1][0]) == (0, "case-17 is lifted.\n", "DELETE /v1/legal-holds/case-17")
    assert json.loads(root.asked[-1][3]) == {"reason": "over"}
    root.answers["DELETE /v1/legal-holds/case-17"] = (403, {}, problem("second_person"))
    assert command("holds", "lift", "case-17", "--reason", "over")[0] == 4


async def test_verify_names_what_is_missing_and_damaged(ground: Any, tmp_path: Path) -> None:
    house = House(ground, tmp_path / "artifacts")
    try:
        sources = [await house.keep(bytes([65 + one]) * LARGE) for one in range(3)]
        await house.keep(b"small")
        await house.mission(said=2)
        url, tenant = ground.url("auditor"), str(house.tenant)
        found = await artifacts.over_database(url, str(house.place), tenant)
        assert (found["sources"], found["artifacts"], found["missing"], found["damaged"]) == (4, 2, 0, 0)
        folder = Path(house.place)
        (folder / (await house.place_of(sources[0])).name).unlink()
        (folder / (await house.place_of(sources[1])).name).write_bytes(b"!" * LARGE)
        for one in (tenant, ""):  # this tenant, and all there are
            found = await artifacts.over_database(url, str(house.place), one)
            mine = [each for each in found["findings"] if each["tenant"] == tenant]
            assert sorted((each["sha256"], each["found"]) for each in mine) == sorted(
                [(sources[0].hex(), "missing"), (sources[1].hex(), "damaged")]
            )
        with pytest.raises(Failed) as refused:
            await artifacts.over_database(url, "", tenant)
        assert refused.value.exit_code == 7 and "ARTIFACT_STORE" in str(refused.value)
    finally:
        await house.close()


def test_verify_wants_what_it_can_use(tmp_path: Path) -> None:
    for words in (
        ["verify", "--database-url", "postgresql://127.0.0.1:1/x", "--tenant", "nobody"],
        ["verify", "--database-url", "nonsense"],
        ["verify"],
    ):
        ended = CliRunner().invoke(artifacts.app, words)
        assert ended.exit_code == 2 or (isinstance(ended.exception, Failed) and ended.exception.exit_code == 2), words
