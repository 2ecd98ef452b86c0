"""CI fails when a test was left out; a developer's run does not."""

import os
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
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.skips",
        "-p",
        "xdist",
        "-p",
        "no:cacheprovider",
        *workers,
        str(tmp_path),
    ]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("CI_NO", "PYTEST"))}
    given["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
        "1"  # the plugins that other tests need take longer to import than all of this
    )
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path)],
        cwd=REPOSITORY, env=given | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "1 passed, 1 skipped" in done.stdout
    assert done.returncode == code, done.stdout
    assert ("CI_NO_SKIPS is set" in done.stdout) == bool(code)
