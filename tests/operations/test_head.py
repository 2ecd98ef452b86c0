"""The newest migration is read off the files: what alembic would say, without alembic."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from app.migrate import MIGRATIONS, fitting, head, history


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "m", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_head_is_what_alembic_says() -> None:
    assert head() == ScriptDirectory(str(MIGRATIONS)).get_current_head()


def test_it_goes_on_being_that_with_every_migration_that_alembic_adds(copy: Path) -> None:
    for number in ("0002", "ffff", "0003"):
        ScriptDirectory(str(copy)).generate_revision(number, "says more", head="head")
        history.cache_clear()
        assert head(copy) == ScriptDirectory(str(copy)).get_current_head() == number
    (copy / "versions" / "0001_first.py").rename(copy / "versions" / "zzzz_first.py")
    history.cache_clear()
    assert head(copy) == "0003"


def test_two_heads_are_none(copy: Path) -> None:
    for number in ("0002", "0003"):
        ScriptDirectory(str(copy)).generate_revision(number, "beside", head="0001", splice=True)
    history.cache_clear()
    with pytest.raises(ValueError, match="not one line"):
        head(copy)


def test_who_fits_follows_from_what_each_migration_says(copy: Path) -> None:
    """A migration that takes something away shuts out code that used it, whatever the ones after it say."""
    said = {"0002": "0001", "0003": "0002", "0004": "0001", "0005": "0005"}
    fits = {"0002": ["0001", "0002"], "0003": ["0002", "0003"], "0004": ["0002", "0003", "0004"], "0005": ["0005"]}
    for number, oldest in said.items():
        made = ScriptDirectory(str(copy)).generate_revision(number, "says more", head="head")
        assert made is not None
        history.cache_clear()
        with pytest.raises(ValueError, match=f"{number} has to say"):
            fitting(copy)
        path = Path(made.path)
        path.write_text(path.read_text().replace("oldest = None", f"oldest = {oldest!r}"))
        history.cache_clear()
        assert fitting(copy) == fits[number]


def test_a_process_that_serves_does_not_load_what_only_others_need() -> None:
    """alembic is the migrator's, and the wiring of the public API is its own process's."""
    ask = "import sys; import app.{}; print(sorted({{'alembic', 'app.main'}} & set(sys.modules)))"
    for process, found in (("registrar", []), ("main", ["app.main"])):
        said = subprocess.run(
            [sys.executable, "-c", ask.format(process)], capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout == f"{found}\n", process
