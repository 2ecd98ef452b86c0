"""The two checklists of the rollout are the ladder's data, line by line."""

import re
from pathlib import Path

import pytest

from app.ladder import ladder

RUNBOOKS = Path(__file__).parents[2] / "runbooks"


def lines(environment: str) -> list[list[str]]:
    """The cells of each rung's line."""
    page = (RUNBOOKS / f"rollout-{environment}.md").read_text()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in re.findall(r"^\| `.*\|$", page, re.MULTILINE)
    ]


def expected(environment: str) -> list[list[str]]:
    found = []
    for rung in ladder().of(environment):
        how_far = "every type, up to dry_run" if rung.mission_type == "*" else f"{rung.mission_type}, {rung.autonomy}"
        wants = f"gates {', '.join(rung.gates)}" if rung.gates else f"checks {', '.join(rung.checks)}"
        look = "`mission-root release ladder`" if rung.gates else "`mission-root release gates`"
        found.append(
            [f"`{rung.name}`", f"{rung.title}: {how_far}", wants, look, f"`mission-root release enable {rung.name}`"]
        )
    return found


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_page_is_the_ladder(environment: str) -> None:
    assert lines(environment) == expected(environment)


def test_every_environment_with_rungs_has_its_page() -> None:
    assert {path.stem for path in RUNBOOKS.glob("rollout-*.md")} == {
        f"rollout-{place}" for rung in ladder().rungs for place in rung.environments
    }
