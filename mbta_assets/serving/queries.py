"""Arrival queries in columns: those of many vehicles about all their stops ahead, without an object for each.

The fields of a query are in three groups by how often they change: what the schedule says of a stop visit is the same
all day, what is known about a vehicle is the same for all its stops, and the rest is of one query. The stream makes
queries in this form; single `ArrivalQuery` objects, as HTTP requests have, become columns before features are computed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np

from mbta_assets.serving.arrival_query import ArrivalQuery, FieldGroup
from mbta_assets.serving.scheduled_trip import to_microseconds

MICROSECONDS_PER_SECOND = 1_000_000
MAX_LISTED = 5000
"""Number of queries whose stops tell of which network all are."""


class ScheduledEvent(NamedTuple):
    """What the schedule says about a stop visit: the fields `EVENT_FIELDS` of a query, and the time as a number."""

    stop_id: str
    stop_sequence: int | None
    scheduled_arrival: datetime
    """The scheduled departure at the first stop."""
    destination_latitude: float | None
    destination_longitude: float | None
    scheduled_us: int
    """The same time in epoch microseconds."""


class VehicleQueries(NamedTuple):
    """The queries about one report of a vehicle."""

    values: tuple[Any, ...]
    """The values of `VEHICLE_FIELDS`, which the queries have in common."""
    events: list[ScheduledEvent]
    """The event that each query is about."""
    observed: list[tuple[Any, ...]]
    """The values of `OBSERVED_FIELDS` of each query."""

    def get(self, name: str) -> Any:
        """Return the value of one of `VEHICLE_FIELDS`."""
        return self.values[VEHICLE_FIELDS.names.index(name)]


EVENT_FIELDS = FieldGroup(*ScheduledEvent._fields[:-1])
OBSERVED_FIELDS = FieldGroup(
    "stops_ahead", "leader_arrival", "leader_delay_seconds", "last_run_seconds", "recent_run_seconds"
)
"""Fields that depend on the vehicle and the stop."""
REPORT_FIELDS = ("service_date", "trip_id", "vehicle_id", "time_stamp")
"""Fields that name a report of a vehicle on a trip."""
VEHICLE_FIELDS = FieldGroup(*EVENT_FIELDS.names, *OBSERVED_FIELDS.names).others()


class Queries(Sequence[ArrivalQuery]):
    """The queries about the reports of some vehicles; an item of the sequence is made when it is read."""

    def __init__(self, vehicles: Sequence[VehicleQueries]) -> None:
        self.vehicles = vehicles
        self._sizes = np.array([len(vehicle.events) for vehicle in vehicles], dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        self.events = list(chain.from_iterable([vehicle.events for vehicle in vehicles]))
        observed = list(chain.from_iterable([vehicle.observed for vehicle in vehicles]))
        self._of_query: dict[str, Sequence[Any]] = {
            **_transpose(ScheduledEvent._fields, self.events),
            **_transpose(OBSERVED_FIELDS.names, observed),
        }
        self._of_vehicle = _transpose(VEHICLE_FIELDS.names, [vehicle.values for vehicle in vehicles])

    @classmethod
    def from_queries(cls, queries: Iterable[ArrivalQuery]) -> Self:
        """Return queries in columns, each as if it were the only one about its report."""
        return cls(
            [
                VehicleQueries(
                    VEHICLE_FIELDS.read(query),
                    [ScheduledEvent._make((*EVENT_FIELDS.read(query), to_microseconds(query.scheduled_arrival)))],
                    [OBSERVED_FIELDS.read(query)],
                )
                for query in queries
            ]
        )

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.events)

    def __iter__(self) -> Iterator[ArrivalQuery]:
        """Yield the queries in order."""
        for vehicle in self.vehicles:
            for event, observed in zip(vehicle.events, vehicle.observed, strict=True):
                yield _make_query(vehicle, event, observed)

    def __getitem__(self, index: Any) -> Any:
        """Return a query."""
        position = range(len(self))[index]
        if isinstance(position, range):
            return [self[n] for n in position]
        number = int(np.searchsorted(self._ends, position, side="right"))
        vehicle = self.vehicles[number]
        place = position - int(self._ends[number]) + len(vehicle.events)
        return _make_query(vehicle, vehicle.events[place], vehicle.observed[place])

    def values(self, name: str) -> Sequence[Any]:
        """Return a field that differs between the stops of a vehicle for each query."""
        return self._of_query[name]

    def column(self, name: str, convert: Callable[[Sequence[Any]], np.ndarray]) -> np.ndarray:
        """Return a field (n,), converted by `convert`: what the stops of a vehicle have in common only once."""
        values = self._of_query.get(name)
        return self.repeat(convert(self._of_vehicle[name])) if values is None else convert(values)

    def repeat(self, values: np.ndarray) -> np.ndarray:
        """Return for each query (n,) the value of its vehicle, from one for each vehicle."""
        return np.repeat(values, self._sizes)

    def list_served_stops(self) -> set[tuple[str | None, str]]:
        """Return the routes and stops of the queries, of `MAX_LISTED` or so where there are more."""
        every = 1 + len(self) // MAX_LISTED
        return {
            (route_id, event.stop_id)
            for route_id, vehicle in zip(self._of_vehicle["route_id"][::every], self.vehicles[::every], strict=True)
            for event in vehicle.events
        }

    @cached_property
    def scheduled_us(self) -> np.ndarray:
        """Return the scheduled times (n,) in epoch microseconds."""
        return np.array(self._of_query["scheduled_us"], dtype=np.int64)

    @cached_property
    def seconds_ahead(self) -> np.ndarray:
        """Return the exact seconds (n,) from the report to the scheduled event."""
        now = self.column("time_stamp", _to_microseconds)
        return (self.scheduled_us - now) / MICROSECONDS_PER_SECOND

    @cached_property
    def report_numbers(self) -> np.ndarray:
        """Return an integer (n,) for each query, the same for queries about one report; see `number_reports`."""
        return self.repeat(number_reports(zip(*(self._of_vehicle[name] for name in REPORT_FIELDS), strict=True)))


def number_reports(reports: Iterable[tuple[Any, ...]]) -> np.ndarray:
    """Return an integer (n,) for each n values of `REPORT_FIELDS`, the same for one report of a vehicle on a trip.

    Without a `trip_id` reports are different ones.
    """
    numbers: dict[Any, int] = {}
    of_report = [
        numbers.setdefault(index if report[1] is None else report, len(numbers)) for index, report in enumerate(reports)
    ]
    return np.array(of_report, dtype=np.int64)


def _transpose(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Any]]:
    """Return the columns of rows by name."""
    return {name: list(map(itemgetter(index), rows)) for index, name in enumerate(names)}


def _make_query(vehicle: VehicleQueries, event: ScheduledEvent, observed: tuple[Any, ...]) -> ArrivalQuery:
    """Return a single query."""
    query = VEHICLE_FIELDS.make_query(vehicle.values)
    EVENT_FIELDS.fill(query, event[:-1])
    OBSERVED_FIELDS.fill(query, observed)
    return query


def _to_microseconds(times: Sequence[datetime]) -> np.ndarray:
    """Return times (n,) in epoch microseconds."""
    return np.array([to_microseconds(time) for time in times], dtype=np.int64)
