"""What the suite promises about its own runs: CI fails when a test was left out, and a group of tests stays on one worker."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ONE_SKIPPED = "import pytest\n\ndef test_that_needs_something():\n    pytest.skip('needs something')\n\ndef test_whole():\n    pass\n"


@pytest.mark.parametrize(("environment", "code"), [({}, 0), ({"CI_NO_SKIPS": "1"}, 1)])
@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_skipped_test_fails_the_run_only_in_ci(
    environment: dict[str, str], code: int, workers: list[str], tmp_path: Path
) -> None:
    (tmp_path / "test_two.py").write_text(ONE_SKIPPED)
    done = run(tmp_path, environment, *workers)
    assert "1 passed, 1 skipped" in done.stdout
    assert done.returncode == code, done.stdout
    assert ("CI_NO_SKIPS is set" in done.stdout) == bool(code)


TWO = "import pytest\n\n@pytest.mark.long\ndef test_of_minutes():\n    pass\n\ndef test_of_seconds():\n    pass\n"


@pytest.mark.parametrize(("option", "said"), [("--short", "1 passed, 1 skipped"), ("--strict-markers", "2 passed")])
def test_a_short_run_leaves_out_what_needs_minutes_and_counts_it(option: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: minutes\n")
    (tmp_path / "test_two.py").write_text(TWO)
    done = run(tmp_path, {}, option, "-rs")
    assert said in done.stdout and done.returncode == 0, done.stdout
    assert ("make test WHOLE=1" in done.stdout) == (option == "--short")


def test_a_short_run_of_what_takes_long_only_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: minutes\n")
    (tmp_path / "test_one.py").write_text(TWO.partition("def test_of_seconds")[0])
    done = run(tmp_path, {}, "--short", "-rs")
    assert "make test WHOLE=1" in done.stdout and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout


GROUP = """
import os, pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    print("on", os.getpid())
"""


def test_a_group_stays_on_one_worker(tmp_path: Path) -> None:
    """Else what a group makes once (an instance, a Tryton, a browser) is made once a worker, and nothing says so."""
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(GROUP)
    done = run(tmp_path, {}, "-n", "2", "--dist", "loadgroup", "-rP")
    assert "8 passed" in done.stdout
    assert len(set(re.findall(r"^on (\d+)$", done.stdout, re.MULTILINE))) == 1, done.stdout


def run(folder: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """pytest over a folder, with nothing of this repository but what leaves tests out."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "xdist", "-p", "no:cacheprovider"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("CI_NO", "PYTEST"))}
    # the plugins that other tests need take longer to import than all of this
    given["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [*command, *options, str(folder), "--rootdir", str(folder)],
        cwd=REPOSITORY, env=given | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
