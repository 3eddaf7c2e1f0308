"""From arrival queries to predictions: the query, its features, and the predictor that answers it.

An `ArrivalQuery` holds what is known about one vehicle and one stop ahead; `Predictor` opens one version of a model and
predicts arrivals for many queries at a time. Where a model is stored is decided in `model_source`; HTTP and JSON
belong to `http_app` and `openapi`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, Self

import numpy as np

from mbta_assets import mbta
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.monotone import shift_delays
from mbta_assets.serving import logs
from mbta_assets.serving.model_source import ModelSource, open_model_source
from mbta_assets.serving.refreshing_cache import RefreshingCache
from mbta_assets.storage.bundle import Bundle
from mbta_assets.transit import formulas
from mbta_assets.transit.distances import DEPARTURE


def required(description: str, **constraints: Any) -> Any:
    """Declare a query field that must be given, with constraints on its value (`ge`, `le`, `choices`)."""
    return field(metadata={"description": description, "constraints": constraints})


def optional(description: str, **constraints: Any) -> Any:
    """Declare a query field that may be left out; None counts as a missing feature."""
    return field(default=None, metadata={"description": description, "constraints": constraints})


LATITUDE_RANGE = {"ge": -90.0, "le": 90.0}
LONGITUDE_RANGE = {"ge": -180.0, "le": 180.0}
SECONDS_RANGE = {"ge": -1_000_000.0, "le": 1_000_000.0}
SEQUENCE_RANGE = {"ge": 0, "le": 1_000_000}


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrivalQuery:
    """The state of one vehicle and one stop ahead of it when the vehicle reports its position.

    A trip may serve a stop more than once; a query is about one of the visits. With 0 stops ahead it is about the
    departure from the first stop of the trip. Times carry a UTC offset. Delays are in seconds, positive when late.
    Stop ids are those of the timetable, also where the vehicle reports another berth or track of the station. Values
    about the vehicle's own trip include the report itself; values about other vehicles are from before it.
    """

    service_date: date = required("Service date of the trip; a service day starts at MBTA_SERVICE_DAY_START_HOUR.")
    time_stamp: datetime = required("Time of the vehicle's report, at which the prediction is made.")
    stop_id: str = required("Stop whose arrival is predicted.")
    stops_ahead: int = required(
        "Number of stops to that stop; 1 is the next one, 0 means the departure from the first stop of the trip.",
        ge=0, le=1000,
    )  # fmt: skip
    scheduled_arrival: datetime = required("Scheduled arrival at that stop; for a departure the scheduled departure.")
    current_stop_id: str = required("Stop at which the vehicle stands or to which it is moving.")
    current_status: str = required("Status of the vehicle relative to its current stop.", choices=formulas.STATUSES)
    stops_behind: int = required("Number of stops of the trip at which it stands or that it has left.", ge=0, le=1000)
    vehicle_id: str | None = optional("Vehicle; not a feature, returned with the prediction.")
    trip_id: str | None = optional("Trip; not a feature, returned with the prediction.")
    stop_sequence: int | None = optional(
        "Stop sequence of the predicted stop in the trip; not a feature, returned with the prediction.",
        **SEQUENCE_RANGE,
    )
    current_stop_sequence: int | None = optional(
        "Stop sequence of the current stop; not a feature, returned with the prediction.", **SEQUENCE_RANGE
    )
    timepoint: int | None = optional(
        "1 if the current stop is a timepoint, where a vehicle that is early waits, else 0.", ge=0, le=1
    )
    route_id: str | None = optional("Route.")
    direction_id: int | None = optional("Direction, 0 or 1.", ge=0, le=1)
    current_latitude: float | None = optional("Latitude of the vehicle in degrees.", **LATITUDE_RANGE)
    current_longitude: float | None = optional("Longitude of the vehicle in degrees.", **LONGITUDE_RANGE)
    destination_latitude: float | None = optional("Latitude of the predicted stop in degrees.", **LATITUDE_RANGE)
    destination_longitude: float | None = optional("Longitude of the predicted stop in degrees.", **LONGITUDE_RANGE)
    scheduled_last_departure: datetime | None = optional(
        "Scheduled departure from the stop at which the vehicle stands or that it last left."
    )
    state_since: datetime | None = optional("Time since which it has been standing at, or moving to, its current stop.")
    last_arrival: datetime | None = optional("Latest arrival of the trip at any stop.")
    last_delay_seconds: float | None = optional("Delay of that arrival.", **SECONDS_RANGE)
    last_change_seconds: float | None = optional("Change of delay since the stop before that.", **SECONDS_RANGE)
    leader_arrival: datetime | None = optional("Latest arrival of another vehicle at the predicted stop.")
    leader_delay_seconds: float | None = optional("Delay of that arrival.", **SECONDS_RANGE)
    platform_arrival: datetime | None = optional("Latest arrival of another vehicle at the current stop.")
    platform_left: datetime | None = optional("Departure of that vehicle; null while it is still standing there.")
    last_run_seconds: float | None = optional(
        "Latest completed run time of any vehicle from the start of this state to the predicted stop.", **SECONDS_RANGE
    )
    recent_run_seconds: float | None = optional("Mean of the latest three such run times.", **SECONDS_RANGE)
    route_delay_seconds: float | None = optional(
        "Mean delay of the route and direction's arrivals in the last 30 minutes.", **SECONDS_RANGE
    )
    route_change_seconds: float | None = optional("Mean change of delay per stop over them.", **SECONDS_RANGE)

    @property
    def is_departure(self) -> bool:
        """Return whether the query is about the departure from the first stop of the trip."""
        return self.stops_ahead == DEPARTURE


class FieldGroup:
    """Some fields of a query, which are set together: queries about many stops have most of their fields in common.

    The fields are set by their slots, as the constructor of a frozen dataclass takes twice as long.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._set_fields = [getattr(ArrivalQuery, name).__set__ for name in names]

    def others(self) -> Self:
        """Return the group of all other fields."""
        return type(self)(*(name for name in ArrivalQuery.__dataclass_fields__ if name not in self.names))

    def arrange(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of the fields in the order of the group. Raises KeyError if one is missing."""
        return tuple([values[name] for name in self.names])

    def fill(self, query: ArrivalQuery, values: Iterable[Any]) -> None:
        """Set the fields of a query that is being made."""
        for set_field, value in zip(self._set_fields, values, strict=True):
            set_field(query, value)

    def make_query(self, values: Iterable[Any]) -> ArrivalQuery:
        """Return a query with the fields of this group; the others must be filled before it is used."""
        query = object.__new__(ArrivalQuery)
        self.fill(query, values)
        return query


REQUIRED_FIELDS = frozenset(name for name, spec in ArrivalQuery.__dataclass_fields__.items() if spec.default is MISSING)
"""Names of the fields that must be given."""

TIME_FIELDS = (
    "scheduled_arrival", "scheduled_last_departure", "state_since", "last_arrival", "leader_arrival",
    "platform_arrival", "platform_left",
)  # fmt: skip
POSITION_FIELDS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")


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
    return {
        name: np.array([np.nan if (time := row[n]) is None else time.timestamp() for row in rows], dtype=np.float64)
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
        if not queries:
            return []
        columns = feature_columns(queries)
        scheduled = [query.scheduled_arrival for query in queries]
        ahead = np.array([(query.scheduled_arrival - query.time_stamp).total_seconds() for query in queries])
        delay, lower, upper = self.predict_delays(columns, ahead, _group_reports(queries))
        delays = delay.tolist()
        intervals: list[ArrivalInterval | None] = [None] * len(queries)
        if self._model.interval:
            level, lows, highs = self._model.interval.confidence_level, lower.tolist(), upper.tolist()
            bounds = zip(lows, highs, _shift_times(scheduled, lows), _shift_times(scheduled, highs), strict=True)
            intervals = [ArrivalInterval(level, *bound) for bound in bounds]
        return [
            Prediction(seconds, arrival, interval, self.version)
            for seconds, arrival, interval in zip(delays, _shift_times(scheduled, delays), intervals, strict=True)
        ]

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


def _example_time(clock_time: str) -> datetime:
    """Return a time of the example's service day."""
    return datetime.fromisoformat(f"2024-03-06T{clock_time}-05:00")


EXAMPLE_QUERY = ArrivalQuery(
    service_date=date(2024, 3, 6),
    time_stamp=_example_time("08:30:12"),
    stop_id="70065",
    stops_ahead=1,
    scheduled_arrival=_example_time("08:31:00"),
    current_stop_id="70065",
    current_status="IN_TRANSIT_TO",
    stops_behind=2,
    vehicle_id="R-5483A1B2",
    trip_id="60311024",
    stop_sequence=30,
    current_stop_sequence=30,
    timepoint=0,
    route_id=mbta.EXAMPLE_ROUTE,
    direction_id=0,
    current_latitude=42.3929,
    current_longitude=-71.1203,
    destination_latitude=42.3884,
    destination_longitude=-71.1191,
    scheduled_last_departure=_example_time("08:28:00"),
    state_since=_example_time("08:29:03"),
    last_arrival=_example_time("08:28:20"),
    last_delay_seconds=35.0,
    last_change_seconds=5.0,
    leader_arrival=_example_time("08:25:40"),
    leader_delay_seconds=60.0,
    platform_arrival=_example_time("08:25:40"),
    platform_left=_example_time("08:26:25"),
    last_run_seconds=128.0,
    recent_run_seconds=124.0,
    route_delay_seconds=72.5,
    route_change_seconds=1.5,
)
"""A vehicle between two stations: the example of the OpenAPI description and the trial query of a new model."""
