"""Tables and plots that the Dagster UI shows: numbers are short, what tells most comes first, chance is left out."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.production.leaderboard import describe_leaderboard
from mbta_assets.defs.production.leaderboard_plots import MIN_ROWS, make_leaderboard_drawings


def read_cell(value: float) -> object:
    """Return the cell that shows a value in a table."""
    (record,) = table_metadata([{"value": value}]).records
    assert isinstance(record.data, Mapping)
    return record.data["value"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_a_table_has_four_digits_or_all_before_the_point(value: float) -> None:
    cell = read_cell(value)
    assert isinstance(cell, float) and math.isclose(cell, value, rel_tol=6e-4, abs_tol=1e-320)
    digits = repr(cell).split("e")[0].replace(".", "").strip("-").lstrip("0").rstrip("0")
    assert cell == round(cell) or len(digits) <= 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_empty_cell(value: float) -> None:
    assert read_cell(value) is None


def test_the_leaderboard_begins_with_model_error_size_and_latency() -> None:
    row = {
        "model": "quantized_student", "n": 3, "mae": 41.66666, "beats_runtime_lookup": True, "size_bytes": 1_234_567,
        "latency_us_p50": 123.456, "interval": None, "by_stops_ahead": {}, "by_position": {}, "by_day": {},
        "by_change": {}, "by_route": {},
    }  # fmt: skip
    (record,) = describe_leaderboard([row])["leaderboard"].records
    assert list(record.data.items())[:5] == [
        ("model", "quantized_student"), ("mae", 41.67), ("size_bytes", 1_234_567), ("latency_us_p50", 123.5), ("n", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [({"1": 5000, "2": MIN_ROWS, "30": MIN_ROWS - 1}, ["1", "2"]), ({"1": 9, "2": 8}, ["1"])],
)
def test_an_error_of_few_rows_is_not_drawn_where_others_have_more(rows: dict[str, int], drawn: list[str]) -> None:
    by_stops_ahead = {stops: {"n": n, "mae": 40.0} for stops, n in rows.items()}
    row = {
        "model": "quantized_student",
        "by_stops_ahead": by_stops_ahead,
        "by_day": {},
        "by_change": {},
        "by_route": {},
    }
    draw, _ = make_leaderboard_drawings([row], [])["error_by_stops_ahead"]
    axes = Figure().subplots()
    draw(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == drawn
