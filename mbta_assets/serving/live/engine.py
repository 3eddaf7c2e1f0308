"""The state of the running service days, and what is asked of a model, for every vehicle, at an update of the feed.

Where updates, timetables and models come from is up to the caller; so is publishing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from mbta_assets.serving.live.dead_band import DeadBand
from mbta_assets.serving.live.publication import PredictedStops, Publication, StopColumns, TripPrediction
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.queries import VEHICLE_FIELDS, Queries, VehicleQueries
from mbta_assets.serving.stream import Stream
from mbta_assets.serving.timetable import Timetable, clean_id
from mbta_assets.serving.trip_state import VehicleUpdate
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import start_time

_read_trip_values = itemgetter(
    *map(
        VEHICLE_FIELDS.names.index,
        (
            "route_id", "direction_id", "time_stamp", "current_latitude", "current_longitude", "current_status",
            "current_stop_id", "current_stop_sequence",
        ),
    )
)  # fmt: skip
ReadTimetable: TypeAlias = Callable[[date], Timetable | None]
"""Returns the timetable that is valid on a service day, the same object until there is another; None without one."""


class _Day:
    """A running service day."""

    def __init__(self) -> None:
        self.updates: list[VehicleUpdate] = []
        """All updates, in the order in which they came, from which the stream is made again."""
        self.stream: Stream | None = None


class _Assignment(NamedTuple):
    """The trips of the latest update of a vehicle: one, unless simultaneous updates of a snapshot are of several."""

    updated_at: datetime
    trips: set[tuple[date, str | None]]
    """Service days and trip ids; None is no trip."""


class VehiclePlace(NamedTuple):
    """The latest report of a vehicle on a trip and its queries."""

    timetable: Timetable
    queries: VehicleQueries
    rank: tuple[datetime, int, date, str, str]
    """Sort key by which the place that counts among several comes last."""

    @property
    def service_date(self) -> date:
        """Return the service day of the trip."""
        return self.timetable.service_date

    @property
    def trip_id(self) -> str:
        """Return the id of the trip."""
        return self.rank[3]

    @property
    def vehicle_id(self) -> str:
        """Return the id of the vehicle."""
        return self.rank[4]


class UpdateQueries(NamedTuple):
    """The queries of one update; they do not change afterwards, so that several threads may have them."""

    made_at: datetime
    feed_time: datetime | None
    places: Sequence[VehiclePlace]
    queries: Queries

    def predict(self, predictor: Predictor, dead_band: DeadBand | None = None) -> Publication:
        """Predict all of them in one batch.

        With a dead band predicted times are kept while they change little; without, they are the model's.
        """
        events = predictor.predict_events(self.queries)
        if dead_band is not None:
            events = dead_band.apply(predictor.version, self.queries, events)
        columns = StopColumns.from_predictions(self.queries, events)
        trips, begin = [], 0
        for place in self.places:
            end = begin + len(place.queries.events)
            trips.append(_make_trip(place, PredictedStops(columns, begin, end)))
            begin = end
        return Publication(self.made_at, self.feed_time, predictor.version, events.confidence_level, tuple(trips))


def list_running_days(time: datetime) -> list[date]:
    """Return the service days of which vehicles report at a time: a trip may end after its day has."""
    first = (time - timedelta(hours=SERVICE_DAY_HOURS)).date()
    days = [first + timedelta(days=n) for n in range(4)]
    return [day for day in days if start_time(day) <= time < start_time(day) + timedelta(hours=SERVICE_DAY_HOURS)]


class Engine:
    """The streams of the running service days; not for several threads at a time."""

    def __init__(self, read_timetable: ReadTimetable, max_age: timedelta) -> None:
        """Begin without updates. Vehicles whose latest report is older than `max_age` are not predicted."""
        self._read_timetable, self._max_age = read_timetable, max_age
        self._days: dict[date, _Day] = {}
        self._assignments: dict[str, _Assignment] = {}

    @property
    def days(self) -> list[date]:
        """Return the running service days of which vehicles have reported, in order."""
        return sorted(self._days)

    def ingest(self, time: datetime, updates: Mapping[date, Sequence[VehicleUpdate]]) -> None:
        """Add the updates of a snapshot by service day, and drop the days that are over at its time.

        A day whose timetable has changed begins again with all its updates; one without a timetable waits for it.
        """
        running = list_running_days(time)
        for ended in [service_date for service_date in self._days if service_date not in running]:
            del self._days[ended]
            begin = start_time(running[0])
            self._assignments = {key: row for key, row in self._assignments.items() if row.updated_at >= begin}
        self._assign_vehicles(updates)
        for service_date in running:
            added = updates.get(service_date, ())
            if not added and service_date not in self._days:
                continue
            day = self._days.setdefault(service_date, _Day())
            day.updates.extend(added)
            timetable = self._read_timetable(service_date)
            if timetable is None:
                continue
            if day.stream is None or day.stream.timetable is not timetable:
                day.stream = Stream(timetable)
                added = day.updates
            day.stream.update(added)

    def list_queries(
        self, made_at: datetime, feed_time: datetime | None, idle: timedelta = timedelta(0)
    ) -> UpdateQueries:
        """Return the queries about every stop ahead of each vehicle.

        `idle` is the time since the latest snapshot was taken in, by which reports have aged since `feed_time`.
        """
        places = self.find_places(None if feed_time is None else feed_time + idle - self._max_age)
        return UpdateQueries(made_at, feed_time, places, Queries([place.queries for place in places]))

    def find_places(self, since: datetime | None) -> list[VehiclePlace]:
        """Return the places that count of the vehicles that have reported since a time."""
        places = []
        for service_date in self.days:
            stream = self._days[service_date].stream
            if stream is not None:
                places += [_find_place(stream.timetable, queries) for queries in stream.list_vehicles(since)]
        return select_places(place for place in places if self._is_assigned(place))

    def _assign_vehicles(self, updates: Mapping[date, Sequence[VehicleUpdate]]) -> None:
        """Record the trips of the latest update of each vehicle; of simultaneous ones the later snapshot counts."""
        latest: dict[str, _Assignment] = {}
        for service_date, of_day in updates.items():
            for update in of_day:
                before, trip = latest.get(update.id), (service_date, clean_id(update.trip_id))
                if before is None or update.updated_at > before.updated_at:
                    latest[update.id] = _Assignment(update.updated_at, {trip})
                elif update.updated_at == before.updated_at:
                    before.trips.add(trip)
        for vehicle_id, assignment in latest.items():
            current = self._assignments.get(vehicle_id)
            if current is None or assignment.updated_at >= current.updated_at:
                self._assignments[vehicle_id] = assignment

    def _is_assigned(self, place: VehiclePlace) -> bool:
        """Return whether a vehicle is still on the trip of its place, by its latest update."""
        assignment = self._assignments.get(place.vehicle_id)
        return assignment is None or (place.service_date, place.trip_id) in assignment.trips


def select_places(places: Iterable[VehiclePlace]) -> list[VehiclePlace]:
    """Return one trip for each vehicle, and one vehicle for each trip.

    Of the trips of a vehicle it is the one of its latest report. Of the vehicles on a trip it is the one with the
    latest report, and of those the one furthest along the trip.
    """
    by_vehicle: dict[str, VehiclePlace] = {}
    for place in sorted(places, key=_get_rank):
        by_vehicle[place.vehicle_id] = place
    by_trip: dict[tuple[date, str], VehiclePlace] = {}
    for place in sorted(by_vehicle.values(), key=_get_rank):
        by_trip[place.service_date, place.trip_id] = place
    return [by_trip[key] for key in sorted(by_trip)]


def _get_rank(place: VehiclePlace) -> tuple[datetime, int, date, str, str]:
    """Return the sort key of a place."""
    return place.rank


def _find_place(timetable: Timetable, queries: VehicleQueries) -> VehiclePlace:
    """Return the place of a vehicle with its queries."""
    rank = (
        queries.get("time_stamp"),
        queries.get("stops_behind"),
        timetable.service_date,
        queries.get("trip_id"),
        queries.get("vehicle_id") or "",
    )
    return VehiclePlace(timetable, queries, rank)


def _make_trip(place: VehiclePlace, stops: PredictedStops) -> TripPrediction:
    """Return a vehicle on its trip with the predictions for its stops ahead."""
    route_id, direction_id, reported_at, latitude, longitude, status, stop_id, stop_sequence = _read_trip_values(
        place.queries.values
    )
    timetable, trip_id = place.timetable, place.trip_id
    scheduled, trip = timetable.scheduled_trips[trip_id], timetable.trips.get(trip_id)
    if trip is not None:
        route_id = route_id if trip.route_id is None else trip.route_id
        direction_id = direction_id if trip.direction_id is None else trip.direction_id
    return TripPrediction(
        service_date=place.service_date,
        trip_id=trip_id,
        route_id=route_id,
        direction_id=direction_id,
        vehicle_id=place.vehicle_id,
        reported_at=reported_at,
        latitude=latitude,
        longitude=longitude,
        current_status=status,
        current_stop_id=stop_id,
        current_stop_sequence=stop_sequence,
        stops=stops,
        has_stop_sequences=scheduled.is_sequence_trusted,
        repeated_stops=scheduled.repeated_stops,
        frequency_trip=timetable.frequency_trips.get(trip_id),
    )
