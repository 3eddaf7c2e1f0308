"""How well the predictions of a service day came true, and how far the day is from what its model learned from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.intervals import at_origin
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.training import dataset
from mbta_assets.transit import schema

CALENDAR = frozenset({"month", "day_of_week", "day_of_year", "season", "sin_time", "cos_time"})
"""Inputs that say which day and hour it is: they differ from the training days by nature, not by drift."""
DRIFT_ROWS = 30_000
POSITIONS = ["mid_trip", "terminal"]
"""Where a vehicle is: on its way, or still at the stop where its trip begins."""
TEXT = pd.StringDtype("pyarrow")
HORIZONS = [str(stops) for stops in schema.STOPS_AHEAD]


class Measured(NamedTuple):
    """One row of `PredictionAccuracy`, without its service day and model."""

    measure: str
    dimension: str
    member: str
    n: int
    value: float | None


@dataclass(frozen=True)
class Reference:
    """What a model learned from, to hold a service day against."""

    encoder: Encoder
    train: pd.DataFrame
    """The numeric inputs of the training part."""
    test_mae_seconds: dict[str, float]
    """By stops ahead, the model's error on the test part."""

    @classmethod
    def of(cls, model: Model, training_set: pd.DataFrame) -> Self:
        """The reference of a model and the rows of its training set, with the part of each."""
        test = training_set[(training_set["part"] == "test") & training_set["delay_seconds"].notna()]
        error = np.abs(test["delay_seconds"].to_numpy() - model.predict(test))
        mae = pd.Series(error).groupby(test["stops_ahead"].astype(str).to_numpy()).mean()
        encoder = model.inputs.encoder
        return cls(
            encoder,
            training_set.loc[training_set["part"] == "train", encoder.numeric],
            {str(stops): float(seconds) for stops, seconds in mae.items()},
        )


def predictions(features: pd.DataFrame, predicted: np.ndarray, model_version: str) -> pd.DataFrame:
    """Predicted delays (n,) in seconds for the n rows of a service day's features, typed as `DelayPredictions`."""
    late = np.round(predicted * 1e6).astype("timedelta64[us]")
    kept = [*dataset.ROW_KEY, "stops_ahead", "route_id", "scheduled_arrival"]
    frame = features[kept].assign(
        predicted_delay_seconds=predicted,
        predicted_arrival=features["scheduled_arrival"] + late,
        model_version=model_version,
    )
    return schema.typed(frame, schema.DelayPredictions)


def table(day: date, model_version: str | None, measured: Iterable[Measured]) -> pd.DataFrame:
    """What was measured of a service day, typed as `PredictionAccuracy`."""
    frame = pd.DataFrame(measured, columns=list(Measured._fields))
    return schema.typed(frame.assign(service_date=day, model_version=model_version), schema.PredictionAccuracy)


def came_true(features: pd.DataFrame, predicted: np.ndarray) -> list[Measured]:
    """How predicted delays (n,) in seconds compare with the labels of a service day's features (n rows).

    What there is nothing to judge of has n 0 and no value.
    """
    label, ahead = (features[name].to_numpy(dtype=np.float64) for name in ("delay_seconds", "scheduled_seconds_ahead"))
    seen = ~np.isnan(label)
    position = _members(np.where(at_origin(features), "terminal", "mid_trip"), POSITIONS)
    matched = float(seen.mean()) if len(seen) else None
    return [
        *(
            one
            for dimension, members in {**_groups(features), "position": position}.items()
            for one in _errors(dimension, members, label - predicted)
        ),
        *_within_mbta_window(label, predicted, ahead, position),
        *_eta_benchmark(label, predicted, ahead),
        Measured("matched_share", "all", "all", len(seen), matched),
    ]


def drifted(features: pd.DataFrame, predicted: np.ndarray, reference: Reference) -> list[Measured]:
    """How far a service day is from the training set: its numbers, its categories, and the model's error on it.

    `feature_drift` is the Kolmogorov-Smirnov statistic against the training part, where a missing value counts as
    the lowest; `unknown_share` the share of values that the training part did not have; `error_drift` the MAE over
    that on the test part. Features are measured on a sample of the rows.
    """
    from scipy.stats import ks_2samp

    sampled, encoder = dataset.sample(features, DRIFT_ROWS), reference.encoder
    measured = []
    for name in encoder.numeric:
        if name not in CALENDAR:
            then, now = (_lowest_where_missing(rows[name]) for rows in (reference.train, sampled))
            distance = float(ks_2samp(then, now, method="asymp").statistic)
            measured.append(Measured("feature_drift", "feature", name, len(sampled), distance))
    for name, code in zip(encoder.vocabularies, encoder.codes(sampled).T, strict=True):
        unknown = (code == 0) & sampled[name].notna().to_numpy()
        measured.append(Measured("unknown_share", "category", name, len(sampled), float(unknown.mean())))
    error = features["delay_seconds"].to_numpy() - predicted
    for one in _errors("stops_ahead", _groups(features)["stops_ahead"], error):
        usual = reference.test_mae_seconds.get(one.member)
        if one.measure == "mae_seconds":
            ratio = one.value / usual if one.value is not None and usual else None
            measured.append(Measured("error_drift", "stops_ahead", one.member, one.n, ratio))
    return measured


def _groups(features: pd.DataFrame) -> dict[str, pd.Series]:
    """By dimension, the member that each row (n,) belongs to."""
    route, stops = features["route_id"], features["stops_ahead"].astype(TEXT)
    routes = sorted(route.dropna().unique())
    return {
        "all": _members(np.full(len(features), "all"), ["all"]),
        "stops_ahead": _members(stops, HORIZONS),
        "route_id": _members(route, routes),
        "route_id, stops_ahead": _members(
            route + ", " + stops, [f"{name}, {distance}" for name in routes for distance in HORIZONS]
        ),
    }


def _members(values: pd.Series | np.ndarray, members: list[str]) -> pd.Series:
    """Values (n,) of which each is one of the members, whether or not any is."""
    return pd.Series(pd.Categorical(values, members))


def _errors(dimension: str, members: pd.Series, error: np.ndarray) -> Iterator[Measured]:
    """The errors (n,) in seconds of each member; NaN, where no arrival was seen, is left out."""
    columns = {"mae_seconds": np.abs(error), "rmse_seconds": error**2, "mean_error_seconds": error}
    grouped = pd.DataFrame(columns).groupby(members, observed=False)
    counts, means = grouped.count(), grouped.mean()
    means["rmse_seconds"] **= 0.5
    for measure in columns:
        for member, n, value in zip(means.index, counts[measure], means[measure], strict=True):
            yield Measured(measure, dimension, str(member), int(n), float(value) if n else None)


def _within_mbta_window(
    label: np.ndarray, predicted: np.ndarray, ahead: np.ndarray, position: pd.Series
) -> Iterator[Measured]:
    # Until something has arrived nothing has come true, and nothing has failed to.
    due = np.full(len(label), not np.isnan(label).all())
    for place in (None, *POSITIONS):
        judged = due if place is None else due & (position == place).to_numpy()
        dimension, suffix = ("predicted_horizon, position", f", {place}") if place else ("predicted_horizon", "")
        for name, (n, share) in metrics.mbta_window(label[judged], predicted[judged], ahead[judged]).items():
            yield Measured("within_mbta_window", dimension, name + suffix, n, share)


def _eta_benchmark(label: np.ndarray, predicted: np.ndarray, ahead: np.ndarray) -> Iterator[Measured]:
    judged = metrics.eta_benchmark(label, predicted, ahead)
    for name, (n, share) in judged.items():
        yield Measured("eta_benchmark", "actual_horizon", name, n, share)
    shares = [share for _, share in judged.values() if share is not None]
    score = float(np.mean(shares)) if len(shares) == len(judged) else None
    yield Measured("eta_benchmark", "all", "all", sum(n for n, _ in judged.values()), score)


def _lowest_where_missing(values: pd.Series) -> np.ndarray:
    numbers = values.to_numpy(dtype=np.float64)
    return np.where(np.isnan(numbers), -np.inf, numbers)
