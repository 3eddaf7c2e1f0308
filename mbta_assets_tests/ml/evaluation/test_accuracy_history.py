"""The report of errors over weeks: what is averaged, over what, and what is left out."""

import json
from datetime import date

import pandas as pd

from mbta_assets.ml.evaluation.accuracy import MetricRow, make_accuracy_table, name_shadow
from mbta_assets.ml.evaluation.accuracy_history import MAX_STOPS_BY_DAY, SERIES, make_history
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE

FIRST, SECOND = date(2024, 3, 4), date(2024, 3, 5)


def make_day(day: date, **rows: list[MetricRow]) -> pd.DataFrame:
    """Return `prediction_accuracy` of a day with rows by model version."""
    return pd.concat([make_accuracy_table(day, version, of_version) for version, of_version in rows.items()])


def mae(dimension: str, member: str, n: int, value: float | None) -> MetricRow:
    """Return a mean absolute error."""
    return MetricRow("mae_seconds", dimension, member, n, value)


def test_errors_are_averaged_by_their_numbers_over_versions_and_days() -> None:
    days = {
        str(FIRST): make_day(
            FIRST,
            a=[
                mae("route_id", "1", 100, 10.0),
                mae("stop_id", "s", 20, 5.0),
                mae("beside_agency, route_id", "1", 40, 12.0),
            ],
            b=[mae("route_id", "1", 300, 20.0), mae("route_id", "2", 0, None)],
            **{AGENCY_BASELINE: [mae("route_id", "1", 40, 30.0)], name_shadow("c"): [mae("route_id", "1", 900, 99.0)]},
        ),
        str(SECOND): make_day(SECOND, b=[mae("route_id", "1", 100, 40.0), mae("stop_id", "s", 60, 9.0)]),
    }
    history = make_history(days)
    assert history["days"] == [str(FIRST), str(SECOND)] and history["series"] == list(SERIES)
    assert history["by_day"] == [
        [str(FIRST), "route_id", "1", 400, 17.5, 40, 12.0, 40, 30.0],
        [str(FIRST), "stop_id", "s", 20, 5.0, 0, None, 0, None],
        [str(SECOND), "route_id", "1", 100, 40.0, 0, None, 0, None],
        [str(SECOND), "stop_id", "s", 60, 9.0, 0, None, 0, None],
    ]
    assert history["over_all_days"] == [
        ["route_id", "1", 500, 22.0, 40, 12.0, 40, 30.0],
        ["stop_id", "s", 80, 8.0, 0, None, 0, None],
    ]


def test_the_error_over_all_predictions_beside_the_agency_is_that_of_all() -> None:
    rows = [mae("all", "all", 10, 50.0), mae("beside_agency", "all", 4, 40.0)]
    other = [MetricRow("rmse_seconds", "all", "all", 10, 70.0), MetricRow("within_mbta_window", "all", "all", 10, 0.5)]
    history = make_history({str(FIRST): make_day(FIRST, a=[*rows, *other])})
    assert history["by_day"] == [[str(FIRST), "all", "all", 10, 50.0, 4, 40.0, 0, None]]


def test_without_days_there_is_a_report_without_rows() -> None:
    history = json.loads(json.dumps(make_history({})))
    assert history == {"days": [], "series": list(SERIES), "by_day": [], "over_all_days": []}


def test_only_the_stops_with_most_predictions_have_errors_of_each_day() -> None:
    counts = {f"s{n:03}": 20 + n for n in range(MAX_STOPS_BY_DAY + 5)}
    rows = [mae("stop_id", stop, n, 1.0) for stop, n in counts.items()]
    agency = [mae("stop_id", "s000", 9_999, 1.0), mae("stop_id", "s100", 9_999, 1.0)]
    history = make_history({str(FIRST): make_day(FIRST, a=rows, **{AGENCY_BASELINE: agency})})
    assert {row[1] for row in history["over_all_days"]} == set(counts)
    assert {row[2] for row in history["by_day"]} == set(sorted(counts)[5:])
    assert [row[3] for row in history["by_day"] if row[2] == "s100"] == [120]
