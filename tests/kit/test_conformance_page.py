"""docs/conformance.md lists exactly the requirements that the kits ask; UPDATE_SNAPSHOTS=1 writes them anew."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from colony_kit import of_colony, of_root
from colony_kit.report import Requirement

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
KITS: dict[str, Sequence[Requirement[Any]]] = {"colony": of_colony.REQUIREMENTS, "root": of_root.REQUIREMENTS}


def table(requirements: Sequence[Requirement[Any]]) -> str:
    return "\n".join(["| nr | requirement |", "|---|---|", *(f"| {one.id} | {one.sentence} |" for one in requirements)])


@pytest.mark.parametrize("kit", KITS)
def test_the_page_lists_the_requirements(kit: str) -> None:
    page = PAGE.read_text()
    found = re.search(rf"(<!-- {kit}: [^\n]*-->\n)(.*?)(\n?<!-- end -->)", page, re.DOTALL)
    assert found
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page[: found.start(2)] + table(KITS[kit]) + "\n<!-- end -->" + page[found.end() :])
    else:
        assert found[2] == table(KITS[kit])


@pytest.mark.parametrize(("kit", "letter"), [("colony", "C"), ("root", "R")])
def test_requirements_are_numbered_in_order_and_are_sentences(kit: str, letter: str) -> None:
    requirements = KITS[kit]
    assert [one.id for one in requirements] == [f"{letter}-{number:02}" for number in range(1, len(requirements) + 1)]
    assert all(one.sentence.endswith(".") and "|" not in one.sentence for one in requirements)
    assert len({one.sentence for one in requirements}) == len({one.check for one in requirements}) == len(requirements)
