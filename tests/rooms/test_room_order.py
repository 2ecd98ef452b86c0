"""The rooms stand in one order and imports only look back along it. The order itself is data in pyproject.toml."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TABLES = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mission_root"]
ROOMS: list[str] = [*TABLES["rooms"]["ground"], *TABLES["rooms"]["order"], *TABLES["rooms"]["top"]]
PACKAGES: dict[str, list[str]] = TABLES["packages"]


def modules(root: Path) -> dict[str, Path]:
    """Every module of our packages under a root, by its dotted name."""
    files = (file for package in PACKAGES for file in (root / package).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(name: str, file: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) for each import of our own modules, wherever in the file it stands."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *([node.module] if node.module else [])])
            # `from app import ledger` names a module, `from app.db import Database` a thing inside one
            found = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from ((node.lineno, one) for one in found if one.partition(".")[0] in PACKAGES)


def room(module: str) -> str:
    """The room of a module of app/, "" for the package itself."""
    return [*module.split("."), ""][1]


def violations(root: Path) -> list[str]:
    """One sentence for each import that looks forward, or into a package it must not know."""
    found, known = [], modules(root)
    for name, file in known.items():
        own = name.partition(".")[0]
        if own == "app" and name != "app" and room(name) not in ROOMS:
            found.append(f"{name} is in no room: name {room(name)} in pyproject.toml")
            continue
        for line, other in imports(name, file, set(known)):
            package = other.partition(".")[0]
            if package != own and package not in PACKAGES[own]:
                found.append(
                    f"{name}:{line} imports {other}; {own} may import {PACKAGES[own] or 'none of our packages'}"
                )
            elif package == own == "app" and room(other) != room(name):
                if not room(other):
                    found.append(f"{name}:{line} imports app itself")
                elif room(other) not in ROOMS or ROOMS.index(room(other)) > ROOMS.index(room(name)):
                    found.append(f"{name}:{line} imports {other}, which stands after {room(name)}")
    return found


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import one another, directly or around a corner."""
    known = modules(root)
    graph = {
        name: {other for _, other in imports(name, file, set(known)) if other in known} for name, file in known.items()
    }

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (one := waiting.pop()) not in seen:
                seen.add(one)
                waiting.extend(graph[one])
        return seen

    reach = {name: reachable(name) for name in graph}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]
    }
    return sorted(map(list, groups))


def test_imports_follow_the_order() -> None:
    assert violations(REPOSITORY) == []


def test_no_module_imports_itself_around_a_corner() -> None:
    assert circles(REPOSITORY) == []


def test_the_order_names_exactly_what_is_there() -> None:
    entries = (REPOSITORY / "app").iterdir()
    present = {e.stem for e in entries if e.suffix == ".py" or (e.is_dir() and list(e.glob("*.py")))} - {"__init__"}
    assert sorted(ROOMS) == sorted(present)


PLANTED = {
    "a room below": ("app/ledger/actions.py", "from app import missions"),
    "a room below, inside a function": (
        "app/identity/actions.py",
        "def f() -> None:\n    from app.policy import decide",
    ),
    "a room from the ground": ("app/clock.py", "import app.ledger.actions"),
    "a room by a relative import": ("app/missions/actions.py", "from ..approvals import decide"),
    "a later ground file": ("app/clock.py", "from app.db import Database"),
    "wiring from a room": ("app/operations/health.py", "from app.main import Root"),
    "a file outside every room": ("app/utils.py", ""),
    "the colony": ("app/boundary/api.py", "import colony.service"),
    "the sample CRM": ("app/cli/demo.py", "from sample_crm.service import create_app"),
    "the root, from the client": ("colony_client/wire.py", "from app.errors import Problem"),
    "the colony, from the client": ("colony_client/wire.py", "from colony import desk"),
    "the root, from the kit": ("colony_kit/line.py", "from app.errors import Problem"),
    "the colony, from the kit": ("colony_kit/line.py", "from colony.tools import Tools"),
    "the root, from the colony": ("colony/desk.py", "from app.clock import now"),
    "the root, from the CRM": ("sample_crm/store.py", "import app.db"),
}


@pytest.mark.parametrize(("path", "planted"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_found(tmp_path: Path, path: str, planted: str) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    innocent = violations(tmp_path) if path != "app/utils.py" else []
    file.write_text(planted)
    assert innocent == []
    assert len(violations(tmp_path)) == 1


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "app" / "ledger"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from app.ledger import two")
    (folder / "two.py").write_text("def f() -> None:\n    from app.ledger.three import g")
    (folder / "three.py").write_text("import app.ledger.one")
    (folder / "four.py").write_text("import app.ledger.one")
    assert circles(tmp_path) == [["app.ledger.one", "app.ledger.three", "app.ledger.two"]]
