"""How a service day went, at a glance: one table and one plot of the scores of everybody who predicted.

Scores are computed in `ml.evaluation`; this module puts rows of `prediction_accuracy` beside each other for the UI.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg

from mbta_assets.defs.metadata import plot_metadata, table_metadata
from mbta_assets.ml.evaluation.accuracy import BESIDE_AGENCY, PUBLISHED, SHADOW_PREFIX, MetricRow
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE, MBTA_WINDOWS
from mbta_assets.plots.accuracy import draw_windows_by_horizon

_NO_MODELS = (AGENCY_BASELINE, PUBLISHED)
VERSION_DIGITS = 8
"""Number of digits of a model's digest in the name of its column."""
WHERE_AGENCY = " where the agency predicts"
"""End of the name of a column."""
Key: TypeAlias = tuple[str, str, str]
Scores: TypeAlias = dict[Key, MetricRow]
"""By measure, dimension and member."""
WINDOWS: dict[str, Key] = {
    **{horizon: ("within_mbta_window", "predicted_horizon", horizon) for horizon in MBTA_WINDOWS},
    "all": ("within_mbta_window", "all", "all"),
}
"""Bins of the time to arrival."""
MEASURES: dict[str, Key] = {
    **{f"share within the window, {horizon}": key for horizon, key in WINDOWS.items()},
    "ETA benchmark score": ("eta_benchmark", "all", "all"),
    "mean absolute error, s": ("mae_seconds", "all", "all"),
    "arrivals that nobody announced, share": ("unpredicted_share", "all", "all"),
    "predictions that never came, share": ("never_came_share", "all", "all"),
    "change per minute, s": ("change_per_minute_seconds", "all", "all"),
    "extra wait, s": ("extra_wait_seconds", "all", "all"),
}


def describe_scores(
    scored: Mapping[str, Sequence[MetricRow]], baselines: Mapping[str, Sequence[MetricRow]]
) -> dict[str, dg.MetadataValue[Any]]:
    """Return a table with a row for each measure, and a plot of the shares by predicted time to arrival.

    `scored` has the rows of the day by model version, `baselines` those of predictions that are not stored. A model has
    a second column on what the agency predicted too. What was published is in the column of the model if a single one
    was scored, else in a column of its own. Where there are predictions of the agency, the plot is on those, else on
    all.
    """
    models = [name for name in scored if name not in _NO_MODELS and not name.startswith(SHADOW_PREFIX)]
    rows_by_name = {name: list(rows) for name, rows in scored.items()}
    if len(models) == 1:
        rows_by_name[models[0]] += rows_by_name.pop(PUBLISHED, [])
    columns = {}
    for name, rows in (rows_by_name | dict(baselines)).items():
        label = name if name in (*_NO_MODELS, *baselines) else _shorten(name)
        columns[label] = _index_rows(rows)
        if beside := _select_beside_agency(rows):
            columns[label + WHERE_AGENCY] = _index_rows(beside)
    plotted = {name: scores for name, scores in columns.items() if WINDOWS["all"] in scores}
    if AGENCY_BASELINE in plotted:
        plotted = {
            name: scores for name, scores in plotted.items() if name == AGENCY_BASELINE or name.endswith(WHERE_AGENCY)
        }
    plot = {"scores_plot": plot_metadata(lambda axes: _draw_scores(axes, plotted))} if plotted else {}
    return {"scores": _make_table(columns), **plot}


def _shorten(version: str) -> str:
    """Return the name of a model's column."""
    prefix = SHADOW_PREFIX if version.startswith(SHADOW_PREFIX) else ""
    return f"{prefix or 'model '}{version.removeprefix(prefix)[:VERSION_DIGITS]}"


def _index_rows(rows: Iterable[MetricRow]) -> Scores:
    return {(row.measure, row.dimension, row.member): row for row in rows}


def _select_beside_agency(rows: Iterable[MetricRow]) -> list[MetricRow]:
    """Return the rows about what the agency predicted too, with the dimensions that rows about everything have."""
    return [
        row._replace(dimension=row.dimension.removeprefix(BESIDE_AGENCY).removeprefix(", ") or "all")
        for row in rows
        if row.dimension.startswith(BESIDE_AGENCY)
    ]


def _make_table(columns: Mapping[str, Scores]) -> dg.TableMetadataValue:
    """Return the value of each measure in each column, and beside it the number of its observations."""
    table = []
    for measure, key in MEASURES.items():
        row: dict[str, Any] = {"measure": measure}
        for name, scores in columns.items():
            score = scores.get(key)
            row |= {name: score and score.value, f"n of {name}": score and score.n}
        table.append(row)
    return table_metadata(table)


def _draw_scores(axes: Any, columns: Mapping[str, Scores]) -> None:
    """Draw the shares within the window of each column, and name its error."""
    shares = {name: {member: scores[key].value for member, key in WINDOWS.items()} for name, scores in columns.items()}
    errors = {name: scores[MEASURES["mean absolute error, s"]].value for name, scores in columns.items()}
    draw_windows_by_horizon(axes, shares, errors)
