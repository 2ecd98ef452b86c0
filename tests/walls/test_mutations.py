"""The mutation run (`make mutate-schema`) is too long for every commit; that it can ask every test is seen here."""

from tests.walls.mutate import checks


def test_every_test_of_the_walls_can_be_asked_by_the_mutation_run() -> None:
    asked = [name for name, _ in checks(())]
    assert len(asked) > 400
    assert any("[" in name for name in asked), "of a parametrized one, each value"
