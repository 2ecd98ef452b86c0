"""What the pages tell people to type or to look at exists: commands, options, links, metrics, settings, names, paths."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from typer.main import get_command

from app.cli.main import app
from app.settings import Settings as RootSettings
from colony.settings import Settings as ColonySettings
from tests.rooms.test_architecture import PACKAGES, look_up

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "bench/README.md", "deploy/README.md", "observability/README.md")),
    *sorted((REPOSITORY / "runbooks").rglob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]  # fmt: skip
# The rollout checklists have a form of their own: they are held to the ladder (tests/release).
RUNBOOKS = sorted(
    path.stem
    for path in (REPOSITORY / "runbooks").glob("*.md")
    if path.stem != "README" and not path.stem.startswith("rollout-")
)
SECTIONS = ["Meaning", "Impact", "How to see it", "What to do", "How to know it is over"]
OUTSIDE = {
    "PATH",
    "PYTHON",
    "ARGS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NO_COLOR",
}  # variables of the shell, of make, of OpenSSL and of terminals
# what a page tells its reader to fill in or export
FILL_IN = re.compile(
    r"MISSION_ROOT_(URL|API_KEY)|\w+_METRICS_URL|OWNER_URL|CRM_URL|COLONY_URL|URL|ID|PID|NAME|SHA256|HEALTH_URL|NAME"
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `mission-root` of every such command, in code blocks and in the text."""
    for found in re.finditer(r"(?:^|[`$ ] ?|\| )mission-root ((?:[a-z]|--)[^`#|\n]*)", page.read_text(), re.MULTILINE):
        yield shlex.split(found[1].replace("...", "X"))


def refused(words: list[str]) -> str | None:
    """Why a command line would not be understood; None when it would be. Values are not looked at."""
    command: Any = get_command(app)
    rest = list(words)
    while rest and (group := getattr(command, "commands", None)):
        if rest[0] not in group:
            return f"there is no command {rest[0]}"
        command, rest = group[rest[0]], rest[1:]
    options = {name for parameter in command.params for name in parameter.opts}
    unknown = [word for word in rest if word.startswith("--") and word not in options]
    return f"{command.name} has no option {unknown[0]}" if unknown else None


@each_page
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        assert refused(words) is None, f"{' '.join(words)}: {refused(words)}"


def test_the_check_of_commands_notices() -> None:
    assert refused(["missions", "wait", "ID", "--until", "completed"]) is None
    assert refused(["missions", "await", "ID"]) and refused(["missions", "wait", "ID", "--patience", "3"])
    assert sum(len(list(commands(page))) for page in PAGES) > 30


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if target.startswith("https://"):  # elsewhere, and not looked at from here
            continue
        assert (page.parent / target).exists(), target


@each_page
def test_names_and_paths_exist(page: Path) -> None:
    said = set(re.findall(r"`([^`\n]+)`", page.read_text()))
    for name in said:
        if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", name) and not name.endswith(".py"):
            look_up(name)
        elif re.fullmatch(rf"({'|'.join(PACKAGES)}|tests|migrations|bench|deploy|runbooks|docs)/[\w./-]+", name):
            assert (REPOSITORY / name).exists(), name


@each_page
def test_metrics_exist(page: Path) -> None:
    known = {name for metric in REGISTRY.collect() for name in (metric.name, *(one.name for one in metric.samples))}
    known |= {f"{name}_total" for name in known}
    for name in re.findall(r"\bmission_root_[a-z_]+\b", page.read_text()):
        if not re.match(r"mission_root_(api|reader|worker|executor|registrar|owner|auditor)", name):
            assert name in known, name


def test_every_metric_of_the_product_is_described() -> None:
    described = set(
        re.findall(r"^\| `(mission_root_\w+)`", (REPOSITORY / "docs/observability.md").read_text(), re.MULTILINE)
    )
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("mission_root_")]
    assert described == {f"{one.name}_total" if one.type == "counter" else one.name for one in ours}


@each_page
def test_settings_exist(page: Path) -> None:
    known = {name.upper() for name in (*RootSettings.model_fields, *ColonySettings.model_fields)} | OUTSIDE
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    for name in re.findall(r"(?<![\w$/-])`?([A-Z]{2,}(?:_[A-Z0-9]+)+)(?![\w-])", page.read_text()):
        if not FILL_IN.fullmatch(name):
            assert name in known or f"${{{name}" in compose, name


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_has_all_its_parts_and_is_listed(name: str) -> None:
    page = (REPOSITORY / "runbooks" / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert f"({name}.md)" in (REPOSITORY / "runbooks/README.md").read_text()


def test_every_decision_is_listed_and_half_a_page() -> None:
    listed = (REPOSITORY / "runbooks/decisions/README.md").read_text()
    for page in (REPOSITORY / "runbooks/decisions").glob("0*.md"):
        assert f"({page.name})" in listed
        assert len(page.read_text().splitlines()) <= 30
    rows = re.findall(r"^\| \[(\d{4})\]\((\d{4})-", listed, re.MULTILINE)
    assert rows == sorted(set(rows)) and all(said == meant for said, meant in rows)
