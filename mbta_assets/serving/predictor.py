"""From arrival queries to predictions: their features, and the predictor that answers them.

`Predictor` opens one version of a model and predicts arrivals for many queries at a time. Where a model is stored is
decided in `model_source`; HTTP and JSON belong to `http_app` and `openapi`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np

from mbta_assets.gcp.errors import CloudError
from mbta_assets.ml.inference.intervals import UNCORRECTED
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.monotone import shift_delays
from mbta_assets.ml.inference.transit_network import require_network
from mbta_assets.ml.inference.width_correction import WidthCorrection
from mbta_assets.serving import logs
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, POSITION_FIELDS, TIME_FIELDS, ArrivalQuery
from mbta_assets.serving.model_source import ModelSource, open_model_source
from mbta_assets.serving.queries import (
    EVENT_FIELDS,
    MICROSECONDS_PER_SECOND,
    REPORT_FIELDS,
    Queries,
    number_reports,
)
from mbta_assets.serving.query_row import compute_feature_row
from mbta_assets.serving.refreshing_cache import RefreshingCache
from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.storage.reports import WIDTH_CORRECTION
from mbta_assets.transit import formulas

SECOND = timedelta(seconds=1)
MAX_ROWS = 20
"""Number of queries up to which features and predictions take less time row by row than in columns."""
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NUMBER_FIELDS = (*POSITION_FIELDS, "timepoint", *formulas.OBSERVED_FEATURES)


def feature_columns(queries: Sequence[ArrivalQuery]) -> dict[str, np.ndarray]:
    """Return the features (n,) of n queries, with the names and types of the table `transit_features`."""
    queries = to_columns(queries)
    statuses = queries.column("current_status", _to_objects)
    numbers = formulas.compute_features(
        {
            "service_date": queries.column("service_date", _to_dates),
            "moving": statuses != "STOPPED_AT",
            "now": queries.column("time_stamp", _to_epoch_seconds),
            "scheduled_arrival": queries.scheduled_us / MICROSECONDS_PER_SECOND,
            **{name: queries.column(name, _to_epoch_seconds) for name in TIME_FIELDS if name not in EVENT_FIELDS.names},
            **{name: queries.column(name, _to_floats) for name in _NUMBER_FIELDS},
        }
    )
    return {
        "stop_id": queries.column("stop_id", _to_objects),
        "current_stop_id": queries.column("current_stop_id", _to_objects),
        "stops_ahead": queries.column("stops_ahead", _to_integers),
        "current_status": statuses,
        "route_id": queries.column("route_id", _to_objects),
        "direction_id": queries.column("direction_id", _to_objects),
        "season": numbers.pop("season"),
        # The table stores single precision, so features must be rounded the same way here.
        **{name: values.astype(np.float32) for name, values in numbers.items()},
        "stops_behind": queries.column("stops_behind", _to_floats).astype(np.float32),
    }


def to_columns(queries: Sequence[ArrivalQuery]) -> Queries:
    """Return queries in columns."""
    return queries if isinstance(queries, Queries) else Queries.from_queries(queries)


def _to_dates(dates: Sequence[date]) -> np.ndarray:
    """Return dates (n,) as datetime64[D]; made from numbers of days, as NumPy converts dates slowly."""
    days = np.array([date.toordinal() for date in dates], dtype=np.int64)
    return (days - EPOCH_ORDINAL).astype("datetime64[D]")


def _to_epoch_seconds(times: Sequence[datetime | None]) -> np.ndarray:
    """Return times (n,) in epoch seconds, NaN where they are None."""
    return np.array([np.nan if time is None else time.timestamp() for time in times], dtype=np.float64)


def _to_floats(values: Sequence[float | None]) -> np.ndarray:
    """Return numbers (n,), NaN where they are None."""
    return np.array(values, dtype=np.float64)


def _to_integers(values: Sequence[int]) -> np.ndarray:
    """Return integers (n,)."""
    return np.array(values, dtype=np.int64)


def _to_objects(values: Sequence[Any]) -> np.ndarray:
    """Return values (n,) as an array of Python objects."""
    return np.array(values, dtype=object)


@dataclass(frozen=True, slots=True)
class ArrivalInterval:
    """The range in which an arrival lies with a given confidence level."""

    confidence_level: float
    """Share of arrivals that lie in their interval, such as 0.9."""
    lower_delay_seconds: float
    """Delay at the earliest arrival; positive when late."""
    upper_delay_seconds: float
    """Delay at the latest arrival."""
    earliest_arrival: datetime
    """The scheduled time plus the lower delay."""
    latest_arrival: datetime
    """The scheduled time plus the upper delay."""


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
    """Predictions for n queries."""

    confidence_level: float | None
    """Confidence level of the intervals; None if the bundle has no calibrated one."""
    delays: np.ndarray
    """(n,) seconds, positive when late."""
    lower_delays: np.ndarray
    """(n,) seconds; NaN without an interval."""
    upper_delays: np.ndarray


class Predictor:
    """One version of a model, opened once and safe to use from several threads."""

    def __init__(self, bundle: Bundle, correction: WidthCorrection = UNCORRECTED) -> None:
        """Open a bundle and make a trial prediction. Raises BundleError if it is damaged or of another agency.

        `correction` is that of the widths of its intervals, learned from the days before.
        """
        require_network(bundle)
        self.bundle, self.correction = bundle, correction
        self.version = bundle.digest
        self._model = Model(bundle)
        self.predict([EXAMPLE_QUERY])

    @classmethod
    def load(cls, location: str) -> Self:
        """Open the current model of a location: the directory of a store, of one of its models or of a bundle, or `gs://<bucket>`.

        Raises BundleError if there is no model, or CloudError if the bucket cannot be read.
        """
        source = open_model_source(location)
        bundle = source.load_bundle()
        return cls(bundle, _read_correction(source, bundle.digest))

    def predict(self, queries: Sequence[ArrivalQuery]) -> list[Prediction]:
        """Return a prediction for each query, in the same order.

        Those of one report of a vehicle on a trip are predicted as one story: no stop is reached before the one before
        it. Queries without a `trip_id` are predicted by themselves. Raises ForeignNetwork if the model knows hardly any
        of their stops.
        """
        if not queries:
            return []
        if len(queries) == 1:
            return [self.predict_one(queries[0])]
        if len(queries) <= MAX_ROWS:
            rows = list(queries)
            events, scheduled = self._predict_rows(rows), [query.scheduled_arrival for query in rows]
        else:
            columns = to_columns(queries)
            events, scheduled = self.predict_events(columns), [event.scheduled_arrival for event in columns.events]
        delays = events.delays.tolist()
        intervals: list[ArrivalInterval | None] = [None] * len(delays)
        if events.confidence_level is not None:
            lows, highs = events.lower_delays.tolist(), events.upper_delays.tolist()
            bounds = zip(lows, highs, _shift_times(scheduled, lows), _shift_times(scheduled, highs), strict=True)
            intervals = [ArrivalInterval(events.confidence_level, *bound) for bound in bounds]
        return [
            Prediction(seconds, arrival, interval, self.version)
            for seconds, arrival, interval in zip(delays, _shift_times(scheduled, delays), intervals, strict=True)
        ]

    def predict_events(self, queries: Queries) -> "PredictedEvents":
        """Return what `predict` does as arrays, which takes less time for many queries. Raises ForeignNetwork."""
        if not queries:
            return PredictedEvents(None, *[np.empty(0)] * 3)
        require_network(self.bundle, queries.list_served_stops())
        columns = feature_columns(queries)
        delays, lower, upper = self.predict_delays(columns, queries.seconds_ahead, queries.report_numbers)
        interval = self._model.interval
        return PredictedEvents(None if interval is None else interval.confidence_level, delays, lower, upper)

    def _predict_rows(self, queries: Sequence[ArrivalQuery]) -> "PredictedEvents":
        """Return what `predict_events` does, the same to the bit, from one row of features for each query."""
        require_network(self.bundle, {(query.route_id, query.stop_id) for query in queries})
        rows = [compute_feature_row(query) for query in queries]
        groups = number_reports(map(attrgetter(*REPORT_FIELDS), queries))
        ahead = np.array([(query.scheduled_arrival - query.time_stamp) / SECOND for query in queries])
        delays = np.array([self._model.predict_row(row) for row in rows])
        delays = shift_delays(delays, ahead, np.array([query.stops_ahead for query in queries]), groups)
        interval = self._model.interval
        if interval is None:
            return PredictedEvents(None, delays, *[np.full(len(delays), np.nan)] * 2)
        lower, upper = interval.compute_bounds_of_rows(rows, delays, groups, self.correction)
        return PredictedEvents(interval.confidence_level, delays, np.minimum(lower, delays), upper)

    def predict_one(self, query: ArrivalQuery) -> Prediction:
        """Return the prediction for one query, the same to the bit as `predict_events` gives it by itself."""
        row = compute_feature_row(query)
        delay = self._model.predict_row(row)
        ahead = (query.scheduled_arrival - query.time_stamp) / SECOND
        if ahead + delay < 0:
            delay = -ahead
        interval = None
        if self._model.interval is not None:
            lower, upper = self._model.interval.compute_row_bounds(row, delay, self.correction)
            lower = min(lower, delay)
            earliest, latest = (shift_time(query.scheduled_arrival, seconds) for seconds in (lower, upper))
            interval = ArrivalInterval(self._model.interval.confidence_level, lower, upper, earliest, latest)
        return Prediction(delay, shift_time(query.scheduled_arrival, delay), interval, self.version)

    def predict_delays(
        self, columns: Mapping[str, Any], scheduled_ahead: np.ndarray | None = None, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predicted delays (n,) in seconds for n rows of features, and the lower and upper bounds (n,).

        With `scheduled_ahead` (n,), the exact seconds to each scheduled time, and `groups` (n,), an integer for each
        report of a vehicle, the predictions of a report never run backwards along the trip, and its intervals widen
        with the distance. The bounds are NaN when the bundle has no calibrated interval.
        """
        delay = self._model.predict(columns)
        if scheduled_ahead is not None and groups is not None:
            delay = shift_delays(delay, scheduled_ahead, np.asarray(columns["stops_ahead"], dtype=np.int64), groups)
        if self._model.interval is None:
            return delay, np.full(len(delay), np.nan), np.full(len(delay), np.nan)
        groups = np.arange(len(delay)) if groups is None else groups
        lower, upper = self._model.interval.compute_bounds(columns, delay, groups, self.correction)
        return delay, np.minimum(lower, delay), upper


def follow_model(location: str, refresh_seconds: float = 30) -> RefreshingCache[Predictor]:
    """Return a cache of the current predictor of a location: `follow_model(".local").get()`.

    Raises BundleError if the location cannot have a model; `get` raises Unavailable until there is one.
    """
    return make_predictor_cache(open_model_source(location), refresh_seconds)


def make_predictor_cache(source: ModelSource, refresh_seconds: float) -> RefreshingCache[Predictor]:
    """Return a cache of the source's current predictor.

    A new version replaces the cached one after it has been verified and has made a trial prediction. So does the same
    version when the correction of its intervals has changed.
    """

    def load_predictor(cached: Predictor | None) -> Predictor:
        """Return the cached predictor if its version and correction are current, otherwise a new one."""
        version = source.current_version()
        if cached is not None and version in (None, cached.version):
            correction = _read_correction(source, cached.version, cached.correction)
            return cached if correction == cached.correction else Predictor(cached.bundle, correction)
        bundle = source.load_bundle(version)
        predictor = Predictor(bundle, _read_correction(source, bundle.digest))
        previous_version = None if cached is None else cached.version
        logs.write("NOTICE", "model loaded", version=predictor.version, previous_version=previous_version)
        return predictor

    return RefreshingCache("model", load_predictor, refresh_seconds)


def _read_correction(source: ModelSource, version: str, otherwise: WidthCorrection = UNCORRECTED) -> WidthCorrection:
    """Return the correction of a model's interval widths, none if there is none; `otherwise` if it cannot be read."""
    try:
        content = source.read_report(WIDTH_CORRECTION)
        return UNCORRECTED if content is None else WidthCorrection.from_json(content, version)
    except (BundleError, CloudError, ValueError) as error:
        logs.write("WARNING", f"The report {WIDTH_CORRECTION} is left out, as it cannot be read: {error}")
        return otherwise


def _shift_times(times: Sequence[datetime], seconds: Sequence[float]) -> list[datetime]:
    """Return times (n,) shifted by some seconds (n,), limited to the range of datetime."""
    try:
        return [time + timedelta(seconds=shift) for time, shift in zip(times, seconds, strict=True)]
    except OverflowError:
        return [shift_time(time, shift) for time, shift in zip(times, seconds, strict=True)]


def shift_time(time: datetime, seconds: float) -> datetime:
    """Return a time shifted by some seconds, limited to the range of datetime."""
    try:
        return time + timedelta(seconds=seconds)
    except OverflowError:
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)
