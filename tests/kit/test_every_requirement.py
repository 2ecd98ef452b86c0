"""Every requirement of both kits was seen to fail; whoever adds one adds the colony or the root that breaks it."""

from colony_kit import of_colony, of_root
from tests.kit import wrong_roots
from tests.kit.test_kit_finds_faults import FAULTS
from tests.kit.test_root_kit import WRONG

CANNOT_FAIL: dict[str, str] = {}  # a requirement that no colony and no root can break by itself, and why


def test_every_requirement_has_a_case_that_makes_it_fail() -> None:
    asked = {one.id for one in (*of_colony.REQUIREMENTS, *of_root.REQUIREMENTS)}
    seen = {id for meant in (*FAULTS.values(), *WRONG.values()) for id in meant}
    assert asked - seen == CANNOT_FAIL.keys() and seen <= asked
    assert all(CANNOT_FAIL.values())


def test_every_wrong_root_is_asked() -> None:
    bases = {wrong_roots.Rewriting, wrong_roots.Meddling, wrong_roots.CountsItself, wrong_roots.OfMany}
    made = {one for one in vars(wrong_roots).values() if isinstance(one, type) and issubclass(one, wrong_roots.Lane)}
    assert made - bases - {wrong_roots.Lane} == WRONG.keys()
