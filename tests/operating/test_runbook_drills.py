"""Every page is drilled: its failure is caused, its commands are typed, and in the end all is well."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.operating.conftest import Operated
from tests.operating.prometheus import alerts
from tests.operating.scene import DO, OVER, SEE, Scene, Shell, blocks
from tests.walks.conftest import until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("operating")]
PAGES = sorted(rule["annotations"]["runbook_url"].rpartition("/")[2].removesuffix(".md") for rule in alerts().values())
PAGES = list(dict.fromkeys(PAGES))


def drill_of(page: str) -> ModuleType:
    return import_module(f"tests.operating.drills.{page.replace('-', '_')}")


@pytest.fixture(scope="module")
def shell(instance: Operated) -> Shell:
    return Shell(instance)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_followed_and_all_is_well(page: str, instance: Operated, shell: Shell) -> None:
    scene = Scene(page, instance, shell)
    module = drill_of(page)
    try:
        module.drill(scene)
    finally:
        make_whole(instance)
    lines = {line for section in (SEE, DO, OVER) for line in blocks(page, section)}
    left = lines - scene.typed
    spared: dict[str, str] = getattr(module, "SPARED", {})
    assert left == set(spared), f"not typed: {left - set(spared)}; typed after all, or gone: {set(spared) - left}"
    well(scene)


def make_whole(instance: Operated) -> None:
    """The next drill begins on an instance that is whole, whatever became of this one."""
    if instance.colony.process is None:
        instance.colony.start()
    with instance.client("admin") as admin:
        for name in ("sample_crm", "*"):  # what a drill has halted would stop the decisions of those after it
            said = {"reason": "The drill is over."}
            admin.post(f"/v1/connectors/{name}/resume", json=said).raise_for_status()


def well(scene: Scene) -> None:
    """The instance is as it was: all answer, nothing is stuck, a question is answered."""
    scene.becomes(scene.ask(), "completed")
    with scene.instance.client("operator") as client:
        until(lambda: is_well(client.get("/v1/status").raise_for_status().json()), "the status is fine")


def is_well(said: dict[str, Any]) -> bool:
    components = {one["name"]: one["state"] for one in said["components"]}
    return all(one["over_at"] for one in said["violators"]) and components["colony"] == "up"


def test_every_page_has_its_drill_and_every_drill_its_page() -> None:
    files = {path.stem for path in (Path(__file__).parent / "drills").glob("*.py")} - {"__init__"}
    assert files == {page.replace("-", "_") for page in PAGES}
