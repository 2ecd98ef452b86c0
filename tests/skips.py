"""Tests that need more than the lock file brings, or more minutes than a commit has, are left out and counted.

In CI a test that was left out is a failure.
"""

import os
import shutil

import pytest

# What a mark needs beside the lock file, and where Debian puts it.
NEEDS = {
    "node": "node",
    "chromium": "chromium",
    "prometheus": "prometheus",
    "pgbouncer": "/usr/sbin/pgbouncer",
    "nginx": "/usr/sbin/nginx",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="leave out what takes long, as `make test` does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--short"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: make test WHOLE=1"))
    for mark, program in NEEDS.items():
        if shutil.which(program) is None:
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=f"needs {mark}: apt-get install {mark}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests were left out, and for want of what."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests skipped; the lines above say what each one needs.")
        if os.environ.get("CI_NO_SKIPS"):
            terminalreporter.write_line("CI_NO_SKIPS is set, so the run has failed: install what they need in .ci/run.")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where nothing may be left out, a skipped test is a failed run; and so is one in which everything that was asked for takes long."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not reporter or not reporter.stats.get("skipped") or exitstatus != 0:
        return
    if session.config.getoption("--short") and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
    if os.environ.get("CI_NO_SKIPS"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
