"""One Tryton per test process, put back on its feet before each test that asks for it."""

from collections.abc import Iterator

import pytest

from tests.tryton.office import Desk
from tests.tryton.server import Tryton, running


@pytest.fixture(scope="session")
def installed() -> Iterator[Tryton]:
    with running() as server:
        yield server


@pytest.fixture
def tryton(installed: Tryton) -> Tryton:
    assert installed.process
    if installed.process.poll() is not None:  # an earlier test has killed it
        installed.start()
    installed.thaw()
    return installed


@pytest.fixture
def olga(tryton: Tryton) -> Desk:
    return Desk(tryton)
