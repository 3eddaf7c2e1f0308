"""The trips of a service day: what is scheduled, what is added, and which vehicle serves what. No delay yet.

Departures of an hour are spread evenly and published to the minute. Weekends run fewer trips, and Sundays start
later. Trip ids are those of the kind of day, so they repeat from day to day, as the agency's do.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache

import numpy as np

from mbta_assets.sources.simulation.network import FIRST_HOUR, Pattern, network

WEEKDAY, SATURDAY, SUNDAY = "weekday", "saturday", "sunday"
SERVICE_SHARE = {WEEKDAY: 1.0, SATURDAY: 0.75, SUNDAY: 0.65}
FIRST_SERVICE_HOUR = {WEEKDAY: 4, SATURDAY: 5, SUNDAY: 6}
FIRST_TRIP_ID = {WEEKDAY: 59_095_000, SATURDAY: 59_105_000, SUNDAY: 59_115_000}

ADDED_SHARE = 0.06
NON_REVENUE_SHARE = 0.15  # of the added ones
WRONG_SLOT_SHARE = 0.004
WRONG_SLOT_SECONDS = (2100, 3300)
LAYOVER_SECONDS = 600  # the least a vehicle is given between two trips
LAST_SEQUENCE_ONE_SHARE = 0.04


@dataclass(frozen=True)
class Slot:
    """One trip as operated: when it should leave its origin, in seconds since the start of the service day.

    `published_early_seconds` is not zero for the rare trip that is bound to a later trip's slot: the timetable
    then names times that much later than those it runs to. An added trip has no published times at all.
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

    In that order whatever a trip waits for, its leader or its vehicle, comes before it. Arrays are over trips (t,)
    or over visits (v,), the stops of all trips one after another:
    `slots` and `vehicle_ids` (t,), `previous` (t,) the trip that brings the vehicle, -1 from the yard;
    `first` (t + 1,) where each trip's visits begin; `trip`, `position`, `column` (v,) the visit's trip, stop along
    it and column of its lane; `planned_seconds` (v,) when it should arrive (leave, at the origin).
    """

    slots: tuple[Slot, ...]
    vehicle_ids: tuple[str, ...]
    previous: np.ndarray
    first: np.ndarray
    trip: np.ndarray
    position: np.ndarray
    column: np.ndarray
    planned_seconds: np.ndarray

    @cached_property
    def pattern(self) -> np.ndarray:
        """The pattern (t,) of each trip."""
        return np.array([slot.pattern for slot in self.slots])

    @cached_property
    def ahead(self) -> np.ndarray:
        """The trip (t,) before each in the order of its lane; -1 for the first of the day."""
        ahead = np.full(len(self.slots), -1)
        last: dict[tuple[str, int], int] = {}
        for trip, slot in enumerate(self.slots):
            lane = network().patterns[slot.pattern].lane
            ahead[trip] = last.get(lane, -1)
            last[lane] = trip
        return ahead

    @cached_property
    def leader(self) -> np.ndarray:
        """The visit (v,) of the train ahead at the same stop of the lane; -1 for the first of the day."""
        leader = np.full(len(self.trip), -1)
        last: dict[tuple[tuple[str, int], int], int] = {}
        lanes = [network().patterns[slot.pattern].lane for slot in self.slots]
        for visit, (trip, column) in enumerate(zip(self.trip.tolist(), self.column.tolist(), strict=True)):
            key = lanes[trip], column
            leader[visit] = last.get(key, -1)
            last[key] = visit
        return leader

    @cached_property
    def stop_ids(self) -> np.ndarray:
        """The stop (v,) of each visit."""
        stops = [stop for slot in self.slots for stop in network().patterns[slot.pattern].stop_ids]
        return np.array(stops, dtype=object)

    @cached_property
    def scheduled(self) -> np.ndarray:
        """Whether each trip (t,) is in the published timetable."""
        return np.array([slot.scheduled for slot in self.slots])

    @cached_property
    def published_seconds(self) -> np.ndarray:
        """The published time (v,) of each visit; NaN on added trips."""
        early = [slot.published_early_seconds if slot.scheduled else np.nan for slot in self.slots]
        return self.planned_seconds + np.array(early)[self.trip]


@lru_cache(maxsize=4)
def timetable(service_date: date, seed: int) -> Timetable:
    """The trips of a service day; the seed decides only which are added or bound to a wrong slot."""
    rng = stream(seed, service_date, "timetable")
    slots = sorted(_slots(_kind(service_date), rng), key=_reference_time)
    patterns = [network().patterns[slot.pattern] for slot in slots]
    lengths = np.array([len(pattern.stop_ids) for pattern in patterns])
    previous, vehicle_ids = _vehicles(slots, patterns)
    columns = [network().columns[pattern.lane] for pattern in patterns]
    return Timetable(
        slots=tuple(slots),
        vehicle_ids=vehicle_ids,
        previous=previous,
        first=np.concatenate([[0], np.cumsum(lengths)]),
        trip=np.repeat(np.arange(len(slots)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        column=np.array(
            [column[stop] for pattern, column in zip(patterns, columns, strict=True) for stop in pattern.stop_ids]
        ),
        planned_seconds=np.concatenate(
            [slot.departure_seconds + pattern.start_seconds for slot, pattern in zip(slots, patterns, strict=True)]
        ),
    )


def stream(seed: int, service_date: date, name: str) -> np.random.Generator:
    """Random numbers for one purpose of one service day, independent of every other day and purpose."""
    purpose = ("timetable", "process", "feed", "oracle").index(name)
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(service_date.toordinal(), purpose))
    return np.random.Generator(np.random.Philox(sequence))


def _kind(service_date: date) -> str:
    return {5: SATURDAY, 6: SUNDAY}.get(service_date.weekday(), WEEKDAY)


def _reference_time(slot: Slot) -> tuple[float, int]:
    return slot.departure_seconds - network().patterns[slot.pattern].reference_seconds[0], slot.pattern


def _slots(kind: str, rng: np.random.Generator) -> Iterator[Slot]:
    trip_number = FIRST_TRIP_ID[kind]
    added_number = 1
    for lane, patterns in network().lanes.items():
        departures = _departures(network().departures[lane], kind)
        for index, departure in enumerate(departures):
            pattern = patterns[index % len(patterns)]
            early = float(rng.integers(*WRONG_SLOT_SECONDS)) if rng.random() < WRONG_SLOT_SHARE else 0.0
            last_one = bool(rng.random() < LAST_SEQUENCE_ONE_SHARE)
            yield Slot(str(trip_number), pattern, departure, True, 60 * (early // 60), last_one)
            trip_number += 1
            if index and rng.random() < ADDED_SHARE:
                prefix = "NONREV" if rng.random() < NON_REVENUE_SHARE else "ADDED"
                between = (departures[index - 1] + departure) / 2
                yield Slot(f"{prefix}-{1_580_000_000 + added_number}", pattern, between, scheduled=False)
                added_number += 1


def _departures(by_hour: tuple[int, ...], kind: str) -> list[float]:
    """Scheduled departures of a lane, to the minute."""
    departures: list[float] = []
    for hour, weekday_count in enumerate(by_hour, start=FIRST_HOUR):
        count = round(weekday_count * SERVICE_SHARE[kind]) if hour >= FIRST_SERVICE_HOUR[kind] else 0
        departures += [60 * round(60 * (hour + (index + 0.5) / count)) for index in range(count)]
    return departures


def _vehicles(slots: list[Slot], patterns: list[Pattern]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give each departure the vehicle that has waited longest at its terminal, or one from the yard."""
    waiting: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    previous = np.full(len(slots), -1)
    vehicle_ids = [""] * len(slots)
    fleet: dict[str, int] = defaultdict(int)
    for trip in sorted(range(len(slots)), key=lambda trip: slots[trip].departure_seconds):
        slot, pattern = slots[trip], patterns[trip]
        stations = [network().platforms[pattern.stop_ids[end]].parent_station for end in (0, -1)]
        here = waiting[pattern.route_id, stations[0]]
        if here and here[0][0] + LAYOVER_SECONDS <= slot.departure_seconds:
            previous[trip] = heapq.heappop(here)[1]
            vehicle_ids[trip] = vehicle_ids[previous[trip]]
        else:
            line = pattern.route_id[0]
            vehicle_ids[trip] = f"{line}-{fleet[line]:03d}"
            fleet[line] += 1
        arrival = slot.departure_seconds + pattern.start_seconds[-1]
        heapq.heappush(waiting[pattern.route_id, stations[1]], (arrival, trip))
    return previous, tuple(vehicle_ids)
