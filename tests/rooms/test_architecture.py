"""ARCHITECTURE.md speaks of code that exists: every dotted name, every path, every database function, every room."""

import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text()
SPOKEN = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
PACKAGES = ("app", "colony", "colony_client", "colony_kit", "sample_crm")
NAMES = [said for said in SPOKEN if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", said)]
PATHS = [said for said in SPOKEN if re.fullmatch(r"[\w.-]+(/[\w.-]+)+|[\w-]+\.(toml|md|lock)", said)]
DATABASE_FUNCTIONS = sorted(
    {
        name
        for said in re.findall(r"database functions? ((?:`\w+`(?:,| and)? ?)+)", PAGE)
        for name in re.findall(r"\w+(?=`)", said)
    }
)


def look_up(dotted: str) -> object:
    """The thing behind a dotted name: the longest part of it that is a module, then attributes. Raises AttributeError."""
    steps = dotted.split(".")
    for length in range(len(steps), 0, -1):
        try:
            found: ModuleType | object = importlib.import_module(".".join(steps[:length]))
        except ModuleNotFoundError:
            continue
        for step in steps[length:]:
            found = getattr(found, step)
        return found
    raise AttributeError(dotted)


@pytest.mark.parametrize("name", NAMES)
def test_a_dotted_name_exists(name: str) -> None:
    look_up(name)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("name", DATABASE_FUNCTIONS)
def test_a_database_function_exists(name: str) -> None:
    schema = "".join(file.read_text() for file in (REPOSITORY / "migrations" / "sql").rglob("*.sql"))
    assert re.search(rf"CREATE (OR REPLACE )?FUNCTION {name}\(", schema)


def test_the_rooms_are_those_of_the_code_in_their_order() -> None:
    order = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mission_root"]["rooms"]["order"]
    assert re.findall(r"^\| `app/(\w+)` \|", PAGE, re.MULTILINE) == order


def test_there_is_something_to_look_up() -> None:
    assert len(NAMES) > 40 and len(PATHS) > 25 and {"claim", "settle", "decide"} <= set(DATABASE_FUNCTIONS)


@pytest.mark.parametrize("wrong", ["app.missions.requests", "app.missions.moves.MOVE", "app.nowhere.request"])
def test_a_name_that_does_not_exist_is_noticed(wrong: str) -> None:
    with pytest.raises(AttributeError):
        look_up(wrong)
