"""The table and the plot of a service day, from rows of `prediction_accuracy`."""

from typing import Any

import dagster as dg

from mbta_assets.defs.monitoring.scorecard import MEASURES, WINDOWS, describe_scores
from mbta_assets.ml.evaluation.accuracy import MetricRow

SERVICE = [MetricRow("extra_wait_seconds", "all", "all", 5, 30.0), MetricRow("never_came_share", "all", "all", 0, None)]
FIRST, SECOND = "a" * 64, "b" * 64


def make_errors(mae: float) -> list[MetricRow]:
    """Return rows of a model's errors, with shares of which one bin has no prediction."""
    shares = [MetricRow(*key, n, 0.5 if n else None) for n, key in enumerate(WINDOWS.values())]
    return [*shares, MetricRow("mae_seconds", "all", "all", 10, mae)]


def read_cells(scored: dict[str, list[MetricRow]]) -> dict[str, dict[str, Any]]:
    """Return the records of the table by measure."""
    table = describe_scores(scored, {})["scores"]
    assert isinstance(table, dg.TableMetadataValue)
    return {str(record.data["measure"]): dict(record.data) for record in table.records}


def test_a_row_for_each_measure_has_each_value_with_the_number_of_its_observations() -> None:
    cells = read_cells({FIRST: make_errors(60.0), f"shadow {SECOND}": make_errors(50.0), "published": SERVICE})
    assert list(cells) == list(MEASURES)
    error, wait = cells["mean absolute error, s"], cells["extra wait, s"]
    assert (error["model aaaaaaaa"], error["shadow bbbbbbbb"], error["n of model aaaaaaaa"]) == (60.0, 50.0, 10)
    assert (wait["model aaaaaaaa"], wait["n of model aaaaaaaa"], wait["shadow bbbbbbbb"]) == (30.0, 5, None)
    assert cells["predictions that never came, share"]["n of model aaaaaaaa"] == 0


def test_what_several_models_published_has_a_column_of_its_own() -> None:
    wait = read_cells({FIRST: make_errors(60.0), SECOND: make_errors(50.0), "published": SERVICE})["extra wait, s"]
    assert (wait["published"], wait["model aaaaaaaa"], wait["model bbbbbbbb"]) == (30.0, None, None)


def test_rows_beside_the_agency_are_a_column_of_the_same_measures() -> None:
    beside = [MetricRow("mae_seconds", "beside_agency", "all", 4, 70.0), *make_errors(60.0)]
    error = read_cells({FIRST: beside, "agency": make_errors(80.0)})["mean absolute error, s"]
    name = "model aaaaaaaa where the agency predicts"
    assert (error["model aaaaaaaa"], error[name], error[f"n of {name}"], error["agency"]) == (60.0, 70.0, 4, 80.0)


def test_without_errors_there_is_no_plot() -> None:
    assert list(describe_scores({"published": SERVICE}, {})) == ["scores"]
    assert list(describe_scores({FIRST: make_errors(60.0)}, {"persistence": make_errors(90.0)})) == [
        "scores", "scores_plot"
    ]  # fmt: skip
