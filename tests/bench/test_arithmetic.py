"""The figures are what they are called: percentiles, ratios of one round, and rounds that take turns."""

import pytest

from bench.arithmetic import calibration, percentile, ratios, rounded, spread
from bench.compare import Size, accepting, fewer, fitting, pair
from bench.load import Loaded
from bench.peers.base import Completed, Counted
from bench.rounds import interleave
from bench.table import compared, shown, table


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = list(range(1, 101))
    assert percentile(hundred, 0.5) == 50
    assert percentile(hundred, 0.99) == 99
    assert percentile(hundred, 1.0) == 100
    assert percentile(reversed(hundred), 0.99) == 99
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1, 2], 0.99) == 2


def test_nothing_measured_has_no_percentile() -> None:
    with pytest.raises(ValueError):
        percentile([], 0.5)


def test_ratios_are_of_the_same_round() -> None:
    """A machine that was three times slower in the second round changes no ratio."""
    assert ratios([300.0, 100.0, 310.0], [100.0, 33.333333, 100.0]) == {"median": 3.0, "min": 3.0, "max": 3.1}


def test_ratios_of_unlike_rounds_are_refused() -> None:
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_a_spread_keeps_four_digits() -> None:
    assert spread([1.23456, 123456.0, 7.0]) == {"median": 7.0, "min": 1.235, "max": 123500.0}
    assert rounded(0.000123456) == 0.0001235


def test_a_machine_that_slowed_down_was_not_quiet() -> None:
    assert calibration([100.0, 98.0, 99.0])["quiet"]
    assert not calibration([100.0, 60.0, 99.0])["quiet"]


def test_rounds_take_turns() -> None:
    turns: list[str] = []

    def player(name: str):
        return lambda run: turns.append(f"{name}-{run}") or len(turns)

    found = interleave(2, {"a": player("a"), "b": player("b")})
    assert turns == ["a-warm", "b-warm", "a-round1", "b-round1", "a-round2", "b-round2"]
    assert found.found == {"a": [3, 5], "b": [4, 6]}, "the warm round counts for nothing"
    assert len(found.calibration) == 2


def test_who_fails_drops_out_and_the_others_go_on() -> None:
    def fails(run: str) -> float:
        if run == "round2":
            raise RuntimeError("it is gone")
        return 1.0

    found = interleave(3, {"ours": lambda _: 2.0, "peer": fails})
    assert found.found == {"ours": [2.0, 2.0, 2.0]}
    assert found.failed == {"peer": "RuntimeError: it is gone"}
    assert pair(found, "ours", "peer", float) is None


def test_a_round_without_an_answer_is_a_failure() -> None:
    size = Size(rounds=1, seconds=2.0)
    found = interleave(1, {"peer": accepting(size, lambda _, seconds: Loaded(0, 5, seconds, 0.0, 0.0))})
    assert found.failed == {"peer": "RuntimeError: nothing was accepted in 2 s, 5 refused"}


def test_a_pair_is_ours_over_theirs() -> None:
    found = interleave(1, {"ours": lambda _: 6.0, "peer": lambda _: 2.0})
    figure = pair(found, "ours", "peer", float)
    assert figure is not None and figure["ratio"]["median"] == 3.0


@pytest.mark.parametrize(
    ("answered", "stored", "unanswered", "match"),
    [
        (10, 10, 0, True),
        (10, 9, 0, False),
        (10, 11, 0, False),
        (10, 42, 32, True),
        (10, 43, 32, False),
        (0, -1, 0, False),
    ],
)
def test_rows_match_when_every_answer_left_one_and_nothing_else_did(
    answered: int, stored: int, unanswered: int, match: bool
) -> None:
    assert Counted(answered, stored, unanswered).match is match


def test_a_round_is_filled_by_what_the_probe_took() -> None:
    assert fitting(Completed(50, 0.5), 4) == 400
    assert fitting(Completed(48, 60.0), 4) == 16, "a slow one still gets some"
    assert fewer(30, [10.0, 12.0, 11.0]) == 30
    assert fewer(30, [1000.0]) == 4
    assert fewer(30, [60_000.0]) == 3


def test_the_table_lines_up() -> None:
    figure = {"ours": spread([2000.0]), "theirs": spread([1000.0]), "ratio": spread([2.0])}
    lines = table([compared("accept", figure, "≥ 3")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["accept", "2,000", "1,000", "2", "2", "2", "≥", "3"]
    assert shown(0.01234) == "0.0123"
