"""From arrival queries to predictions: their features, and the predictor that answers them.

`Predictor` opens one version of a model and predicts arrivals for many queries at a time. Where a model is stored is
decided in `model_source`; HTTP and JSON belong to `http_app` and `openapi`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np

from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.monotone import shift_delays
from mbta_assets.serving import logs
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, POSITION_FIELDS, TIME_FIELDS, ArrivalQuery
from mbta_assets.serving.model_source import ModelSource, open_model_source
from mbta_assets.serving.refreshing_cache import RefreshingCache
from mbta_assets.storage.bundle import Bundle
from mbta_assets.transit import formulas

EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NUMBER_FIELDS = (*POSITION_FIELDS, "timepoint", *formulas.OBSERVED_FEATURES)
_get_times: Callable[[ArrivalQuery], tuple[datetime | None, ...]] = attrgetter("time_stamp", *TIME_FIELDS)
_get_numbers: Callable[[ArrivalQuery], tuple[float | None, ...]] = attrgetter(*_NUMBER_FIELDS)


def feature_columns(queries: Sequence[ArrivalQuery]) -> dict[str, np.ndarray]:
    """Return the features (n,) of n queries, with the names and types of the table `transit_features`."""
    numbers = formulas.compute_features(
        {
            "service_date": _service_dates(queries),
            "moving": np.array([query.current_status != "STOPPED_AT" for query in queries], dtype=bool),
            **_epoch_seconds(queries),
            **_numbers(queries),
        }
    )
    return {
        "stop_id": _objects([query.stop_id for query in queries]),
        "current_stop_id": _objects([query.current_stop_id for query in queries]),
        "stops_ahead": np.array([query.stops_ahead for query in queries], dtype=np.int64),
        "current_status": _objects([query.current_status for query in queries]),
        "route_id": _objects([query.route_id for query in queries]),
        "direction_id": _objects([query.direction_id for query in queries]),
        "season": numbers.pop("season"),
        # The table stores single precision, so features must be rounded the same way here.
        **{name: values.astype(np.float32) for name, values in numbers.items()},
        "stops_behind": np.array([query.stops_behind for query in queries], dtype=np.float32),
    }


def _service_dates(queries: Sequence[ArrivalQuery]) -> np.ndarray:
    """Return the service dates (n,) datetime64[D]; made from numbers of days, as NumPy converts dates slowly."""
    days = np.array([query.service_date.toordinal() for query in queries], dtype=np.int64)
    return (days - EPOCH_ORDINAL).astype("datetime64[D]")


def _epoch_seconds(queries: Sequence[ArrivalQuery]) -> dict[str, np.ndarray]:
    """Return the time fields (n,) by name as epoch seconds, NaN where they are None; `now` is the `time_stamp`."""
    rows = [_get_times(query) for query in queries]
    seconds: dict[datetime | None, float] = {None: np.nan}  # queries about one vehicle have most times in common
    for time in set(chain.from_iterable(rows)):
        if time is not None:
            seconds[time] = time.timestamp()
    return {
        name: np.array([seconds[row[n]] for row in rows], dtype=np.float64)
        for n, name in enumerate(("now", *TIME_FIELDS))
    }


def _numbers(queries: Sequence[ArrivalQuery]) -> dict[str, np.ndarray]:
    """Return the numeric fields (n,) by name, NaN where they are None."""
    rows = np.array([_get_numbers(query) for query in queries], dtype=np.float64)
    columns = np.ascontiguousarray(rows.reshape(len(queries), len(_NUMBER_FIELDS)).T)
    return dict(zip(_NUMBER_FIELDS, columns, strict=True))


def _objects(values: list[Any]) -> np.ndarray:
    """Return values (n,) as an array of Python objects."""
    return np.array(values, dtype=object)


@dataclass(frozen=True, slots=True)
class ArrivalInterval:
    """The range in which an arrival lies with a given confidence level."""

    confidence_level: float
    """Share of arrivals that lie in their interval, such as 0.9."""
    lower_delay_seconds: float
    upper_delay_seconds: float
    earliest_arrival: datetime
    latest_arrival: datetime


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted delay and arrival for one query."""

    delay_seconds: float
    """Positive when late."""
    predicted_arrival: datetime
    """The scheduled arrival plus the delay; for a departure the scheduled departure plus the delay."""
    interval: ArrivalInterval | None
    """None when the bundle has no calibrated interval."""
    model_version: str
    """Digest of the bundle."""


class PredictedEvents(NamedTuple):
    """Predictions for n queries; the last four are empty when the bundle has no calibrated interval."""

    confidence_level: float | None
    delays: list[float]
    """In seconds, positive when late."""
    times: list[datetime]
    """The scheduled times plus the delays."""
    lower_delays: list[float]
    upper_delays: list[float]
    earliest: list[datetime]
    latest: list[datetime]


class Predictor:
    """One version of a model, opened once and safe to use from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Open a bundle and make a trial prediction. Raises BundleError if it is damaged."""
        self.bundle = bundle
        self.version = bundle.digest
        self._model = Model(bundle)
        self.predict([EXAMPLE_QUERY])

    @classmethod
    def load(cls, location: str) -> Self:
        """Open the current model of a location; `open_model_source` lists the forms it may have.

        Raises BundleError if there is no model, or CloudError if the bucket cannot be read.
        """
        return cls(open_model_source(location).load_bundle())

    def predict(self, queries: Sequence[ArrivalQuery]) -> list[Prediction]:
        """Return a prediction for each query, in the same order.

        Those of one report of a vehicle on a trip are predicted as one story: no stop is reached before the one before
        it. Queries without a `trip_id` are predicted by themselves.
        """
        events = self.predict_events(queries)
        intervals: list[ArrivalInterval | None] = [None] * len(queries)
        if events.confidence_level is not None:
            bounds = zip(events.lower_delays, events.upper_delays, events.earliest, events.latest, strict=True)
            intervals = [ArrivalInterval(events.confidence_level, *bound) for bound in bounds]
        return [
            Prediction(seconds, arrival, interval, self.version)
            for seconds, arrival, interval in zip(events.delays, events.times, intervals, strict=True)
        ]

    def predict_events(self, queries: Sequence[ArrivalQuery]) -> "PredictedEvents":
        """Return what `predict` does as lists, which takes less time for many queries."""
        if not queries:
            return PredictedEvents(None, [], [], [], [], [], [])
        columns = feature_columns(queries)
        scheduled = [query.scheduled_arrival for query in queries]
        ahead = np.array([(query.scheduled_arrival - query.time_stamp).total_seconds() for query in queries])
        delay, lower, upper = self.predict_delays(columns, ahead, _group_reports(queries))
        delays = delay.tolist()
        times = _shift_times(scheduled, delays)
        if self._model.interval is None:
            return PredictedEvents(None, delays, times, [], [], [], [])
        lows, highs = lower.tolist(), upper.tolist()
        earliest, latest = _shift_times(scheduled, lows), _shift_times(scheduled, highs)
        return PredictedEvents(self._model.interval.confidence_level, delays, times, lows, highs, earliest, latest)

    def predict_one(self, query: ArrivalQuery) -> Prediction:
        """Return the prediction for one query."""
        return self.predict([query])[0]

    def predict_delays(
        self, columns: Mapping[str, Any], scheduled_ahead: np.ndarray | None = None, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predicted delays (n,) in seconds for n rows of features, and the lower and upper bounds (n,).

        With `scheduled_ahead` (n,), the exact seconds to each scheduled time, and `groups` (n,), an integer for each
        report of a vehicle, the predictions of a report never run backwards along the trip. The bounds are NaN when the
        bundle has no calibrated interval.
        """
        delay = self._model.predict(columns)
        if scheduled_ahead is not None and groups is not None:
            delay = shift_delays(delay, scheduled_ahead, np.asarray(columns["stops_ahead"], dtype=np.int64), groups)
        if self._model.interval is None:
            return delay, np.full(len(delay), np.nan), np.full(len(delay), np.nan)
        lower, upper = self._model.interval.compute_bounds(columns, delay)
        return delay, np.minimum(lower, delay), upper


def _group_reports(queries: Sequence[ArrivalQuery]) -> np.ndarray:
    """Return an integer (n,) for each query, the same for queries about one report of a vehicle on a trip."""
    numbers: dict[Any, int] = {}
    groups = np.empty(len(queries), dtype=np.int64)
    for index, query in enumerate(queries):
        key: Any = index
        if query.trip_id is not None:
            key = query.service_date, query.trip_id, query.vehicle_id, query.time_stamp
        groups[index] = numbers.setdefault(key, len(numbers))
    return groups


def follow_model(location: str, refresh_seconds: float = 30) -> RefreshingCache[Predictor]:
    """Return a cache of the current predictor of a location: `follow_model(".local").get()`.

    Raises BundleError if the location cannot have a model; `get` raises Unavailable until there is one.
    """
    return make_predictor_cache(open_model_source(location), refresh_seconds)


def make_predictor_cache(source: ModelSource, refresh_seconds: float) -> RefreshingCache[Predictor]:
    """Return a cache of the source's current predictor.

    A new version replaces the cached one after it has been verified and has made a trial prediction.
    """

    def load_predictor(cached: Predictor | None) -> Predictor:
        """Return the cached predictor if its version is current, otherwise a new one."""
        version = source.current_version()
        if cached is not None and version in (None, cached.version):
            return cached
        predictor = Predictor(source.load_bundle(version))
        previous_version = None if cached is None else cached.version
        logs.write("NOTICE", "model loaded", version=predictor.version, previous_version=previous_version)
        return predictor

    return RefreshingCache("model", load_predictor, refresh_seconds)


def _shift_times(times: Sequence[datetime], seconds: Sequence[float]) -> list[datetime]:
    """Return times (n,) shifted by some seconds (n,), limited to the range of datetime."""
    try:
        return [time + timedelta(seconds=shift) for time, shift in zip(times, seconds, strict=True)]
    except OverflowError:
        return [_shift_time(time, shift) for time, shift in zip(times, seconds, strict=True)]


def _shift_time(time: datetime, seconds: float) -> datetime:
    """Return a time shifted by some seconds, limited to the range of datetime."""
    try:
        return time + timedelta(seconds=seconds)
    except OverflowError:
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)
