"""The accuracy of a service day's predictions, as rows of `prediction_accuracy`.

How far the day is from the training data is measured in `drift`; the metrics themselves are defined in `metrics`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mbta_assets.agency import AGENCY
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.evaluation.accuracy_bounds import BOUNDS, BY_MODE, BY_ROUTE, AccuracyBounds
from mbta_assets.ml.evaluation.grouping import DISTANCE_BINS, POSITIONS, bin_distances, classify_positions
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.transit import schema
from mbta_assets.transit.distances import REPORT_KEY

TEXT = pd.StringDtype("pyarrow")
SHADOW_PREFIX = f"{schema.SHADOW} "
PUBLISHED = "published"
"""Name under which is scored what riders were told, by whichever model."""
BESIDE_AGENCY = "beside_agency"
"""Dimension of a measure on what the agency has predicted too."""
MIN_ROWS_OF_STOP = 20
"""Number of observed arrivals of a service day below which the error at a stop says little."""

_BESIDE_AGENCY = {
    ("mae_seconds", "all"): BESIDE_AGENCY,
    **{("mae_seconds", name): f"{BESIDE_AGENCY}, {name}" for name in ("stops_ahead", "route_id", "hour", "stop_id")},
    ("within_mbta_window", "all"): BESIDE_AGENCY,
    ("within_mbta_window", "predicted_horizon"): f"{BESIDE_AGENCY}, predicted_horizon",
    ("eta_benchmark", "all"): BESIDE_AGENCY,
}
"""Dimension of a measure on the rows that the agency has predicted, by the measure and its dimension on all rows."""


class MetricRow(NamedTuple):
    """One row of `PredictionAccuracy`, without its service date and model version."""

    measure: str
    dimension: str
    member: str
    n: int
    value: float | None
    """None if n is 0."""


def has_learned_from(manifest: Mapping[str, Any], day: date) -> bool:
    """Return whether a model has learned from a service day, or was chosen by it, as its manifest says.

    A model whose manifest does not say counts as having learned from every day.
    """
    learned_days = manifest.get("learned_days")
    return learned_days is None or str(day) in learned_days


def correct_predictions(features: pd.DataFrame, predicted: np.ndarray) -> np.ndarray:
    """Return predicted delays (n,) in seconds that run backwards on no trip, for n rows of `transit_features`.

    Times are those of the table to the microsecond, as features are rounded.
    """
    columns: dict[str, Any] = {name: features[name] for name in (*REPORT_KEY, "stops_ahead")}
    ahead = (features["scheduled_arrival"] - features["time_stamp"]).dt.total_seconds()
    return correct_delays({**columns, "scheduled_seconds_ahead": ahead}, predicted).delay


def make_predictions_table(
    features: pd.DataFrame, predicted: np.ndarray, model_version: str, *, out_of_sample: bool
) -> pd.DataFrame:
    """Return the rows of `DelayPredictions` for predicted delays (n,) in seconds and n rows of `transit_features`."""
    delay = np.round(predicted * 1e6).astype("timedelta64[us]")
    copied_columns = [*schema.ROW_KEY, "stop_id", "event", "stops_ahead", "route_id", "scheduled_arrival"]
    table = features[copied_columns].assign(
        predicted_delay_seconds=predicted,
        predicted_arrival=features["scheduled_arrival"] + delay,
        model_version=model_version,
        out_of_sample=out_of_sample,
    )
    return schema.cast_frame(table.assign(published_at=None, role=None), schema.DelayPredictions)


def make_served_table(published: pd.DataFrame, learned: Mapping[str, bool]) -> pd.DataFrame:
    """Return the rows of `DelayPredictions` for what was published of a service day.

    `published` has the columns of `sources.gtfs.published.SCHEMA`. `learned` says of model versions whether they have
    learned from the day; one that is no longer stored has not, as the day had not ended.
    """
    delay = np.round(published["predicted_delay_seconds"].to_numpy() * 1e6).astype("timedelta64[us]")
    table = published.drop(columns=["scheduled", "earliest", "latest"]).assign(
        scheduled_arrival=published["scheduled"],
        predicted_arrival=published["scheduled"] + delay,
        out_of_sample=[not learned.get(version, False) for version in published["model_version"]],
    )
    return schema.cast_frame(table, schema.DelayPredictions)


def replace_version(stored: pd.DataFrame, made: pd.DataFrame, model_version: str) -> pd.DataFrame:
    """Return the stored predictions of a service day with those of one model version replaced by the ones made now.

    Predictions of other versions are kept: they are what those models said before they had learned from the day.
    """
    others = stored[(stored["model_version"] != model_version) & stored["published_at"].isna()]
    return pd.concat([others, made], ignore_index=True) if len(others) else made


def name_shadow(model_version: str) -> str:
    """Return the name under which a model is scored for what it predicted in the shadow of another."""
    return f"{SHADOW_PREFIX}{model_version}"


def make_accuracy_table(service_date: date, model_version: str, rows: Iterable[MetricRow]) -> pd.DataFrame:
    """Return the rows of `PredictionAccuracy` for the metrics of a service day."""
    table = pd.DataFrame(rows, columns=list(MetricRow._fields))
    return schema.cast_frame(
        table.assign(service_date=service_date, model_version=model_version), schema.PredictionAccuracy
    )


def score_predictions(
    features: pd.DataFrame, predicted: np.ndarray, bounds: AccuracyBounds = BOUNDS
) -> list[MetricRow]:
    """Score predicted delays (n,) in seconds against the labels of n rows of `transit_features`.

    Returns errors by route, stops ahead, position, local hour of the prediction and stop, shares within the agency's
    and the ETA benchmark's windows, and the share of rows with a label. `bounds` tell the modes of routes.
    """
    label = features["delay_seconds"].to_numpy(dtype=np.float64)
    scheduled_seconds_ahead = features["scheduled_seconds_ahead"].to_numpy(dtype=np.float64)
    labelled = ~np.isnan(label)
    position = _to_members(classify_positions(features), POSITIONS)
    rows: list[MetricRow] = []
    grouped = _group_rows(features)
    for dimension, members in {**grouped, "position": position}.items():
        rows += measure_errors(dimension, members, label - predicted)
    rows += _measure_stops(features["stop_id"], label - predicted)
    groups = {
        "predicted_horizon, position": position,
        BY_ROUTE: grouped["route_id"],
        BY_MODE: _group_by_mode(features, bounds),
    }
    rows += _measure_mbta_windows(label, predicted, scheduled_seconds_ahead, groups)
    rows += _measure_eta_benchmark(label, predicted, scheduled_seconds_ahead)
    labelled_share = float(labelled.mean()) if len(labelled) else None
    rows.append(MetricRow("matched_share", "all", "all", len(labelled), labelled_share))
    return rows


def score_beside_agency(features: pd.DataFrame, predicted: np.ndarray) -> list[MetricRow]:
    """Score a model's predicted delays (n,) on those of n rows that the agency has predicted; none without such rows.

    Returns the MAE, the shares within the MBTA's windows and the benchmark's score, in the dimension `beside_agency`
    and those below it.
    """
    has_agency = ~np.isnan(metrics.get_agency_delays(features))
    rows = _score_selected(features, predicted, has_agency)
    return [
        row._replace(dimension=_BESIDE_AGENCY[row.measure, row.dimension])
        for row in rows
        if (row.measure, row.dimension) in _BESIDE_AGENCY
    ]


def score_agency(features: pd.DataFrame) -> list[MetricRow]:
    """Score the agency's predictions on those of n rows that have one; none without such rows."""
    agency = metrics.get_agency_delays(features)
    return _score_selected(features, agency, ~np.isnan(agency))


def _score_selected(features: pd.DataFrame, predicted: np.ndarray, selected: np.ndarray) -> list[MetricRow]:
    """Score predicted delays (n,) on the rows of a mask (n,); nothing if it selects none."""
    if not selected.any():
        return []
    return score_predictions(features[selected].reset_index(drop=True), predicted[selected])


def measure_errors(dimension: str, members: pd.Series, error: np.ndarray) -> Iterator[MetricRow]:
    """Yield MAE, RMSE and mean error for each member of a dimension.

    `members` is the member (n,) of each row, as a categorical; `error` is (n,) in seconds, NaN where no arrival was
    seen, which is left out.
    """
    columns = {"mae_seconds": np.abs(error), "rmse_seconds": error**2, "mean_error_seconds": error}
    grouped = pd.DataFrame(columns).groupby(members, observed=False)
    counts, means = grouped.count(), grouped.mean()
    means["rmse_seconds"] **= 0.5
    for measure in columns:
        for member, n, value in zip(means.index, counts[measure], means[measure], strict=True):
            yield MetricRow(measure, dimension, str(member), int(n), float(value) if n else None)


def _measure_stops(stop_id: pd.Series, error: np.ndarray) -> Iterator[MetricRow]:
    """Yield the MAE at each stop that has `MIN_ROWS_OF_STOP` errors (n,) or more."""
    codes, stops = pd.factorize(stop_id, sort=True)
    seen = ~np.isnan(error) & (codes >= 0)
    counts = np.bincount(codes[seen], minlength=len(stops))
    totals = np.bincount(codes[seen], np.abs(error[seen]), minlength=len(stops))
    for stop, n, total in zip(stops, counts.tolist(), totals.tolist(), strict=True):
        if n >= MIN_ROWS_OF_STOP:
            yield MetricRow("mae_seconds", "stop_id", str(stop), n, total / n)


def group_by_stops_ahead(features: pd.DataFrame) -> pd.Series:
    """Return the member (n,) of the dimension `stops_ahead` that each row belongs to, one of `DISTANCE_BINS`."""
    return _to_members(bin_distances(features["stops_ahead"].to_numpy()), DISTANCE_BINS)


def _group_rows(features: pd.DataFrame) -> dict[str, pd.Series]:
    """Return by dimension the member (n,) that each row belongs to."""
    route = features["route_id"]
    stops_ahead = pd.Series(bin_distances(features["stops_ahead"].to_numpy()), features.index, TEXT)
    routes = sorted(route.dropna().unique())
    routes_and_stops = [f"{route_id}, {stops}" for route_id in routes for stops in DISTANCE_BINS]
    return {
        "all": _to_members(np.full(len(features), "all"), ["all"]),
        "stops_ahead": _to_members(stops_ahead, DISTANCE_BINS),
        "route_id": _to_members(route, routes),
        "hour": _group_by_hour(features["time_stamp"]),
        "route_id, stops_ahead": _to_members(route + ", " + stops_ahead, routes_and_stops),
    }


def _group_by_hour(times: pd.Series) -> pd.Series:
    """Return the local hour (n,) of each time, with two digits, as a categorical of those that occur."""
    hours = times.dt.tz_convert(AGENCY.time_zone).dt.hour.to_numpy(np.int64)
    members = pd.Categorical.from_codes(hours, pd.Index([f"{hour:02d}" for hour in range(24)]))
    return pd.Series(members.remove_unused_categories(), times.index)


def _to_members(values: pd.Series | np.ndarray, members: list[str]) -> pd.Series:
    """Convert values (n,) to a categorical of all members, so that members without a row are grouped too."""
    return pd.Series(pd.Categorical(values, members))


def _group_by_mode(features: pd.DataFrame, bounds: AccuracyBounds) -> pd.Series:
    """Return the mode (n,) of each row's route; missing where it is not known."""
    routes = features["route_id"].dropna().unique()
    modes = {route_id: mode for route_id in routes if (mode := bounds.find_mode(route_id))}
    return _to_members(features["route_id"].map(modes).astype(TEXT), sorted({*modes.values()}))


def _measure_mbta_windows(
    label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray, groups: Mapping[str, pd.Series]
) -> Iterator[MetricRow]:
    """Yield the shares within the agency's windows, over all rows and by the members (n,) of each dimension.

    That of the dimension `all` is over the predictions of all windows.
    """
    # A missing label counts as a miss. On a day without any label nothing is scored, as arrivals may be yet to come.
    scored = np.full(len(label), not np.isnan(label).all())
    selections = {("predicted_horizon", ""): scored}
    for dimension, members in groups.items():
        for member in members.cat.categories:
            selections[dimension, f", {member}"] = scored & (members == member).to_numpy()
    for (dimension, suffix), mask in selections.items():
        shares = metrics.score_mbta_windows(label[mask], predicted[mask], scheduled_seconds_ahead[mask])
        if not suffix:
            yield _pool_shares(shares.values())
        for window, share in shares.items():
            yield MetricRow("within_mbta_window", dimension, window + suffix, share.n, share.value)


def _pool_shares(shares: Collection[metrics.Share]) -> MetricRow:
    """Return the share within the agency's windows over the predictions of several bins."""
    n = sum(share.n for share in shares)
    within = sum(share.n * share.value for share in shares if share.value is not None)
    return MetricRow("within_mbta_window", "all", "all", n, within / n if n else None)


def _measure_eta_benchmark(
    label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray
) -> Iterator[MetricRow]:
    """Yield the shares within the windows of the ETA Accuracy Benchmark, and their mean, the benchmark's score."""
    shares = metrics.score_eta_windows(label, predicted, scheduled_seconds_ahead)
    for window, share in shares.items():
        yield MetricRow("eta_benchmark", "actual_horizon", window, share.n, share.value)
    values = [share.value for share in shares.values() if share.value is not None]
    score = float(np.mean(values)) if len(values) == len(shares) else None
    yield MetricRow("eta_benchmark", "all", "all", sum(share.n for share in shares.values()), score)
