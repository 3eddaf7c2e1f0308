"""What is known about a vehicle and a stop ahead when the vehicle reports: the query that a prediction answers.

The features of a query, and its prediction, are made in `predictor`; the queries of a service day in `stream`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from datetime import date, datetime
from typing import Any, Self

from mbta_assets import mbta
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
RATIO_RANGE = {"ge": 0.0, "le": 1_000.0}
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
    scheduled_start: datetime | None = optional("Scheduled departure from the first stop of the trip.")
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
    network_run_ratio: float | None = optional(
        "Run times from stop to stop on all routes in the last 30 minutes, relative to the scheduled ones; 1 if there "
        "are none.",
        **RATIO_RANGE,
    )

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

    def read(self, query: ArrivalQuery) -> tuple[Any, ...]:
        """Return the values of the fields of a query in the order of the group."""
        return tuple([getattr(query, name) for name in self.names])

    def arrange(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of the fields in the order of the group. Raises KeyError if one is missing."""
        return tuple(map(values.__getitem__, self.names))

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
    "scheduled_arrival", "scheduled_last_departure", "scheduled_start", "state_since", "last_arrival",
    "leader_arrival", "platform_arrival", "platform_left",
)  # fmt: skip
POSITION_FIELDS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")


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
    scheduled_start=_example_time("08:24:00"),
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
    network_run_ratio=1.04,
)
"""A vehicle between two stations: the example of the OpenAPI description and the trial query of a new model."""
