"""Differences by service day: their mean, and an interval that is as wide as they differ from day to day."""

import numpy as np
import pytest

from mbta_assets.ml.evaluation.paired_days import compare_by_day, compute_half_width


def make_row(model: str, maes: list[float]) -> dict[str, object]:
    """Return a row of a leaderboard with the MAE of each day."""
    return {"model": model, "by_day": {f"2024-03-{n + 1:02}": {"n": 10, "mae": mae} for n, mae in enumerate(maes)}}


def test_a_model_that_is_better_by_the_same_on_each_day_is_so_for_certain() -> None:
    [difference] = compare_by_day([make_row("lookup", [10, 20, 30]), make_row("trees", [9, 19, 29])], "lookup")
    assert (difference.model, difference.days, difference.better_days) == ("trees", 3, 3)
    assert difference.mean == pytest.approx(-1)
    assert difference.half_width == pytest.approx(0)


def test_days_that_differ_from_one_another_do_not_widen_the_interval_but_differences_that_do() -> None:
    lookup, trees = make_row("lookup", [10, 200, 30, 40]), make_row("trees", [8, 199, 31, 36])
    [difference] = compare_by_day([lookup, trees], "lookup")
    assert difference.mean == pytest.approx(-1.5)
    # Student's t of three degrees of freedom is 3.182; the standard deviation of -2, -1, 1, -4 is 2.0817.
    assert difference.half_width == pytest.approx(3.182 * 2.0817 / 2, rel=1e-3)
    assert str(difference).split() == ["trees", "-1.50", "s", "±", "3.31;", "better", "on", "3", "of", "4", "days"]


def test_the_interval_covers_the_truth_at_its_level() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        lookup = draw.normal(50, 20, 6)
        trees = lookup - 1 + draw.normal(0, 2, 6)
        [difference] = compare_by_day([make_row("lookup", list(lookup)), make_row("trees", list(trees))], "lookup")
        covered += abs(difference.mean + 1) <= (difference.half_width or 0)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_single_day_has_no_interval() -> None:
    [difference] = compare_by_day([make_row("lookup", [10]), make_row("trees", [12])], "lookup")
    assert difference.half_width is None
    assert str(difference).endswith("+2.00 s, no interval; better on 0 of 1 day")


def test_only_days_that_both_have_are_compared() -> None:
    [difference] = compare_by_day([make_row("lookup", [10, 20]), make_row("trees", [9, 18, 1000])], "lookup")
    assert difference.days == 2 and difference.mean == pytest.approx(-1.5)


def test_groups_of_one_size_have_the_interval_of_the_mean_of_their_means() -> None:
    by_group = np.array([-2.0, -1.0, 1.0, -4.0])
    half_width = compute_half_width(np.repeat(by_group, 5), np.repeat(["a", "b", "c", "d"], 5))
    assert half_width == pytest.approx(3.182 * 2.0817 / 2, rel=1e-3)


def test_rows_of_a_group_that_depend_on_one_another_do_not_narrow_the_interval() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        sizes = draw.integers(1, 30, 25)
        difference = np.repeat(draw.normal(-1, 2, 25), sizes) + draw.normal(0, 1, sizes.sum())
        half_width = compute_half_width(difference, np.repeat(np.arange(25), sizes))
        covered += abs(difference.mean() + 1) <= (half_width or 0)
    assert covered / 2000 == pytest.approx(0.95, abs=0.03)


def test_a_single_group_has_no_interval() -> None:
    assert compute_half_width(np.array([1.0, 2.0]), np.array([0, 0])) is None
