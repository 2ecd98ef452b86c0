"""The mutation run (`make mutate-schema`) is too long for every commit; that it asks every test of the walls is seen here."""

from pathlib import Path

from tests.walls.mutate import CATALOG, MODULES, checks


def test_every_test_of_the_walls_is_asked_by_the_mutation_run() -> None:
    there = {f"walls.{file.stem}" for file in Path(__file__).parent.glob("test_*.py")} - {"walls.test_mutations"}
    assert there - {*MODULES, *CATALOG} == set()
    assert any("[" in name for name, _ in checks(())), "of a parametrized one, each value; each takes a ground alone"
