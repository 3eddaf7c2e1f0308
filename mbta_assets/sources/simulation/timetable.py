"""The trips of a simulated service day: which are scheduled, which are added, and which vehicle serves them.

The departures of an hour are spread evenly and published to the minute. Weekends have fewer trips, and Sundays start
later. Trip ids depend on the kind of day only, so they recur from day to day, as the agency's do. Delays belong to
`process`.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache

import numpy as np

from mbta_assets.sources.simulation.network import FIRST_HOUR, Lane, Pattern, load_network

WEEKDAY, SATURDAY, SUNDAY = "weekday", "saturday", "sunday"
SERVICE_SHARE = {WEEKDAY: 1.0, SATURDAY: 0.75, SUNDAY: 0.65}
FIRST_SERVICE_HOUR = {WEEKDAY: 4, SATURDAY: 5, SUNDAY: 6}
FIRST_TRIP_ID = {WEEKDAY: 59_095_000, SATURDAY: 59_105_000, SUNDAY: 59_115_000}

ADDED_SHARE = 0.06
NON_REVENUE_SHARE = 0.15
"""Share of the added trips."""
WRONG_SLOT_SHARE = 0.004
"""Share of the scheduled trips that are assigned to a later trip's slot."""
WRONG_SLOT_SECONDS = (2100, 3300)
"""Range by which the times of such a slot are later than those of the trip."""
MIN_LAYOVER_SECONDS = 600
LAST_SEQUENCE_ONE_SHARE = 0.04
"""Share of the scheduled trips whose last stop has the stop sequence 1."""
RANDOM_PURPOSES = ("timetable", "process", "feed", "oracle")


@dataclass(frozen=True)
class PlannedTrip:
    """A trip as operated; `departure_seconds` is its planned departure from the origin.

    `published_early_seconds` is not zero for a trip that is assigned to a later trip's slot: its published times are
    that much later than those it runs to. An added trip is not scheduled and has no published times.
    """

    trip_id: str
    pattern: int
    departure_seconds: float
    scheduled: bool = True
    published_early_seconds: float = 0.0
    last_sequence_one: bool = False


@dataclass(frozen=True)
class Timetable:
    """The trips of a service day in the order of their scheduled time at the stop all branches of a lane serve.

    In this order a trip comes after whatever it may wait for: the train ahead and its own vehicle. Arrays are over
    trips (t,) or over visits (v,), which are the stops of all trips one after another:

    - `trips`, `vehicle_ids` (t,): the trips and their vehicles.
    - `previous` (t,): the vehicle's previous trip; -1 if it comes from the yard.
    - `first_visit` (t + 1,): where each trip's visits begin, and the number of visits.
    - `trip`, `position`, `column` (v,): trip of the visit, position in the trip, and column of the stop in its lane.
    - `planned_seconds` (v,): planned arrival, or departure at the origin.
    """

    trips: tuple[PlannedTrip, ...]
    vehicle_ids: tuple[str, ...]
    previous: np.ndarray
    first_visit: np.ndarray
    trip: np.ndarray
    position: np.ndarray
    column: np.ndarray
    planned_seconds: np.ndarray

    @property
    def origins(self) -> np.ndarray:
        """Return the first visit (t,) of each trip."""
        return self.first_visit[:-1]

    @property
    def terminals(self) -> np.ndarray:
        """Return the last visit (t,) of each trip."""
        return self.first_visit[1:] - 1

    @cached_property
    def pattern(self) -> np.ndarray:
        """Return the pattern (t,) of each trip."""
        return np.array([trip.pattern for trip in self.trips])

    @cached_property
    def ahead(self) -> np.ndarray:
        """Return the trip (t,) ahead of each on its lane; -1 for the first of the day."""
        ahead = np.full(len(self.trips), -1)
        latest: dict[Lane, int] = {}
        for index, trip in enumerate(self.trips):
            lane = load_network().patterns[trip.pattern].lane
            ahead[index] = latest.get(lane, -1)
            latest[lane] = index
        return ahead

    @cached_property
    def leader(self) -> np.ndarray:
        """Return the visit (v,) of the train ahead at the same stop of the lane; -1 for the first of the day."""
        leader = np.full(len(self.trip), -1)
        latest: dict[tuple[Lane, int], int] = {}
        lanes = [load_network().patterns[trip.pattern].lane for trip in self.trips]
        for visit, (trip, column) in enumerate(zip(self.trip.tolist(), self.column.tolist(), strict=True)):
            key = lanes[trip], column
            leader[visit] = latest.get(key, -1)
            latest[key] = visit
        return leader

    @cached_property
    def stop_ids(self) -> np.ndarray:
        """Return the stop id (v,) of each visit."""
        stops = [stop for trip in self.trips for stop in load_network().patterns[trip.pattern].stop_ids]
        return np.array(stops, dtype=object)

    @cached_property
    def scheduled(self) -> np.ndarray:
        """Return whether each trip (t,) is in the published schedule."""
        return np.array([trip.scheduled for trip in self.trips])

    @cached_property
    def published_seconds(self) -> np.ndarray:
        """Return the published time (v,) of each visit; NaN for added trips."""
        early = [trip.published_early_seconds if trip.scheduled else np.nan for trip in self.trips]
        return self.planned_seconds + np.array(early)[self.trip]


@lru_cache(maxsize=4)
def build_timetable(service_date: date, seed: int) -> Timetable:
    """Plan the trips of a service day; the seed decides which are added and which are assigned to a wrong slot."""
    network = load_network()
    rng = random_generator(seed, service_date, "timetable")
    trips = sorted(_plan_trips(_kind_of_day(service_date), rng), key=_reference_time)
    patterns = [network.patterns[trip.pattern] for trip in trips]
    lengths = np.array([len(pattern.stop_ids) for pattern in patterns])
    previous, vehicle_ids = _assign_vehicles(trips, patterns)
    columns = [[network.columns[pattern.lane][stop] for stop in pattern.stop_ids] for pattern in patterns]
    return Timetable(
        trips=tuple(trips),
        vehicle_ids=vehicle_ids,
        previous=previous,
        first_visit=np.concatenate([[0], np.cumsum(lengths)]),
        trip=np.repeat(np.arange(len(trips)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        column=np.concatenate(columns),
        planned_seconds=np.concatenate(
            [trip.departure_seconds + pattern.start_seconds for trip, pattern in zip(trips, patterns, strict=True)]
        ),
    )


def random_generator(seed: int, service_date: date, purpose: str) -> np.random.Generator:
    """Return random numbers for one of `RANDOM_PURPOSES` on a service day, independent of all others."""
    key = service_date.toordinal(), RANDOM_PURPOSES.index(purpose)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=key)))


def _kind_of_day(service_date: date) -> str:
    return {5: SATURDAY, 6: SUNDAY}.get(service_date.weekday(), WEEKDAY)


def _reference_time(trip: PlannedTrip) -> tuple[float, int]:
    return trip.departure_seconds - load_network().patterns[trip.pattern].reference_seconds[0], trip.pattern


def _plan_trips(kind: str, rng: np.random.Generator) -> Iterator[PlannedTrip]:
    trip_number = FIRST_TRIP_ID[kind]
    added_number = 1
    for lane, patterns in load_network().lanes.items():
        departures = _plan_departures(load_network().departures[lane], kind)
        for index, departure in enumerate(departures):
            pattern = patterns[index % len(patterns)]
            early = float(rng.integers(*WRONG_SLOT_SECONDS)) if rng.random() < WRONG_SLOT_SHARE else 0.0
            last_sequence_one = bool(rng.random() < LAST_SEQUENCE_ONE_SHARE)
            yield PlannedTrip(str(trip_number), pattern, departure, True, 60 * (early // 60), last_sequence_one)
            trip_number += 1
            if index and rng.random() < ADDED_SHARE:
                prefix = "NONREV" if rng.random() < NON_REVENUE_SHARE else "ADDED"
                between = (departures[index - 1] + departure) / 2
                yield PlannedTrip(f"{prefix}-{1_580_000_000 + added_number}", pattern, between, scheduled=False)
                added_number += 1


def _plan_departures(weekday_counts: tuple[int, ...], kind: str) -> list[float]:
    """Return the scheduled departures of a lane, in seconds rounded to the minute."""
    departures: list[float] = []
    for hour, weekday_count in enumerate(weekday_counts, start=FIRST_HOUR):
        count = round(weekday_count * SERVICE_SHARE[kind]) if hour >= FIRST_SERVICE_HOUR[kind] else 0
        departures += [60 * round(60 * (hour + (index + 0.5) / count)) for index in range(count)]
    return departures


def _assign_vehicles(trips: list[PlannedTrip], patterns: list[Pattern]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Assign to each trip the vehicle that has waited longest at its origin, else one from the yard.

    Returns the vehicle's previous trip (t,), -1 if it comes from the yard, and the vehicle ids.
    """
    platforms = load_network().platforms
    waiting: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    previous = np.full(len(trips), -1)
    vehicle_ids = [""] * len(trips)
    fleet: dict[str, int] = defaultdict(int)
    for index in sorted(range(len(trips)), key=lambda index: trips[index].departure_seconds):
        trip, pattern = trips[index], patterns[index]
        origin, terminal = (platforms[pattern.stop_ids[end]].parent_station for end in (0, -1))
        candidates = waiting[pattern.route_id, origin]
        if candidates and candidates[0][0] + MIN_LAYOVER_SECONDS <= trip.departure_seconds:
            previous[index] = heapq.heappop(candidates)[1]
            vehicle_ids[index] = vehicle_ids[previous[index]]
        else:
            line = pattern.route_id[0]
            vehicle_ids[index] = f"{line}-{fleet[line]:03d}"
            fleet[line] += 1
        arrival = trip.departure_seconds + pattern.start_seconds[-1]
        heapq.heappush(waiting[pattern.route_id, terminal], (arrival, index))
    return previous, tuple(vehicle_ids)
