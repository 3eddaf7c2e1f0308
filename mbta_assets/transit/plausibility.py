"""Plausible times, positions and delays: the rules that the join, the features and the stream share.

Each rule is written for one value, as the stream needs it, and for arrays, as the features need it; the join has the
constants. Times are timezone-aware datetimes or epoch microseconds in int64 with `NAT` for a missing time, positions
are degrees. Nothing here knows tables.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import numpy as np

from mbta_assets.transit.formulas import MAX_EARLY_SECONDS

NAT = np.iinfo(np.int64).min
"""Missing time among epoch microseconds."""
MICROSECONDS_PER_SECOND, MICROSECONDS_PER_HOUR = 1_000_000, 3_600_000_000

MAX_HOURS_FROM_TRIP = 12
"""A report of a scheduled trip further from the trip's scheduled times is of another run or has a wrong clock."""
SERVICE_DAY_HOURS = 30
"""Hours from the start time of the service day in which reports without a scheduled trip count, the end excluded."""
MIN_SCHEDULED_HOURS, MAX_SCHEDULED_HOURS = -24, 72
"""Hours from the start time of the service day in which scheduled times count, the end excluded."""
MAX_LATE_SECONDS = 12 * 3600
"""An arrival with a larger delay is of another run, like one that is more than `MAX_EARLY_SECONDS` early."""
MIN_DELAY, MAX_DELAY = timedelta(seconds=-MAX_EARLY_SECONDS), timedelta(seconds=MAX_LATE_SECONDS)
MICROSECOND = timedelta(microseconds=1)
NULL_ISLAND_DEGREES = 1.0
"""A position closer to latitude 0 and longitude 0 than this, in both, is that of a receiver without a fix."""
MAX_DEGREES_FROM_STOPS = 2.0
"""Degrees by which a vehicle may be outside of the bounding box of the day's stops."""
MAX_LATITUDE, MAX_LONGITUDE = 90.0, 180.0
BLANKS = " \t\r\n"
"""Characters that are no part of an id; an id of nothing else is missing."""

TripTimes = tuple[datetime, datetime]
"""First and last scheduled time of a trip: the departure from its first stop, and the latest arrival at its stops. The
other time of a stop stands in where one is missing; else an arrival given at an origin, or a departure from a terminal,
changes nothing."""


def find_plausible_scheduled_times(times: np.ndarray, start: int) -> np.ndarray:
    """Return which scheduled times (n,) int64 belong to the service day that starts at `start`; `NAT` does not."""
    earliest, latest = (hours * MICROSECONDS_PER_HOUR for hours in (MIN_SCHEDULED_HOURS, MAX_SCHEDULED_HOURS))
    return (start + earliest <= times) & (times < start + latest)


class TimeRange(NamedTuple):
    """Plausible times, both ends included."""

    earliest: datetime
    latest: datetime

    @classmethod
    def from_service_day(cls, start: datetime) -> Self:
        """Return the scheduled times that belong to the service day that starts at `start` (see `service_day`)."""
        earliest, latest = timedelta(hours=MIN_SCHEDULED_HOURS), timedelta(hours=MAX_SCHEDULED_HOURS)
        return cls(start + earliest, start + latest - MICROSECOND)

    @classmethod
    def from_trip(cls, start: datetime, trip_times: TripTimes | None) -> Self:
        """Return the times at which reports of a trip count, on the service day that starts at `start`.

        `trip_times` are plausible scheduled times; None for reports without a trip, or of a trip without a schedule.
        """
        if trip_times is None:
            return cls(start, start + timedelta(hours=SERVICE_DAY_HOURS) - MICROSECOND)
        first, last = trip_times
        margin = timedelta(hours=MAX_HOURS_FROM_TRIP)
        return cls(first - margin, last + margin)


def can_be_at_stop(time: datetime, moving: bool, arrival: datetime | None, previous_departure: datetime | None) -> bool:
    """Return whether a trip can be on its way to a stop, or standing there, at a time.

    `arrival` and `previous_departure` are the scheduled arrival at the stop and departure from the stop before, both
    None at the origin.
    """
    if arrival is not None and not moving:
        return MIN_DELAY <= time - arrival <= MAX_DELAY
    return previous_departure is None or time - previous_departure >= MIN_DELAY


def find_plausible_report_times(updated_at: np.ndarray, start: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return which times of reports (n,) int64 belong to their trips, or to the service day that starts at `start`.

    `first` and `last` (n,) are the scheduled times of each report's trip as in `TripTimes`, both `NAT` without a
    scheduled trip.
    """
    in_service_day = (start <= updated_at) & (updated_at < start + SERVICE_DAY_HOURS * MICROSECONDS_PER_HOUR)
    has_trip = first != NAT
    margin = MAX_HOURS_FROM_TRIP * MICROSECONDS_PER_HOUR
    first, last = np.where(has_trip, first, start), np.where(has_trip, last, start)
    near_trip = (first - margin <= updated_at) & (updated_at <= last + margin)
    return np.where(has_trip, near_trip, in_service_day)


def find_early_reports(
    updated_at: np.ndarray, moving: np.ndarray, arrival: np.ndarray, previous_departure: np.ndarray
) -> np.ndarray:
    """Return which reports (n,) are of a time at which their trip cannot have been so far.

    `arrival` and `previous_departure` (n,) are the scheduled arrival at the stop of the report and departure from the
    stop before; both are `NAT` at an origin, and where the trip has no stop time.
    """
    expected = np.where(moving | (arrival == NAT), previous_departure, arrival)
    return (expected != NAT) & (updated_at < expected - MAX_EARLY_SECONDS * MICROSECONDS_PER_SECOND)


def find_late_arrivals(updated_at: np.ndarray, moving: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Return which reports (n,) of standing vehicles are too late for the scheduled `arrival`, `NAT` without one."""
    return ~moving & (arrival != NAT) & (updated_at > arrival + MAX_LATE_SECONDS * MICROSECONDS_PER_SECOND)


@dataclass(frozen=True)
class BoundingBox:
    """Range of positions in degrees, its limits included."""

    south: float
    north: float
    west: float
    east: float


def is_plausible_position(latitude: float | None, longitude: float | None, box: BoundingBox | None = None) -> bool:
    """Return whether a position is complete, in range, not at null island and, if there is one, in the box."""
    if latitude is None or longitude is None:
        return False
    if not (-MAX_LATITUDE <= latitude <= MAX_LATITUDE and -MAX_LONGITUDE <= longitude <= MAX_LONGITUDE):
        return False
    if -NULL_ISLAND_DEGREES < latitude < NULL_ISLAND_DEGREES and -NULL_ISLAND_DEGREES < longitude < NULL_ISLAND_DEGREES:
        return False
    return box is None or (box.south <= latitude <= box.north and box.west <= longitude <= box.east)


def find_plausible_positions(latitude: Any, longitude: Any, box: BoundingBox | None = None) -> Any:
    """Return which positions are complete, in range, not at null island and, if there is one, in the box.

    Both coordinates are arrays (n,) float64 with NaN for missing ones.
    """
    in_range = (abs(latitude) <= MAX_LATITUDE) & (abs(longitude) <= MAX_LONGITUDE)
    plausible = in_range & ((abs(latitude) >= NULL_ISLAND_DEGREES) | (abs(longitude) >= NULL_ISLAND_DEGREES))
    if box is None:
        return plausible
    return (
        plausible
        & (box.south <= latitude)
        & (latitude <= box.north)
        & (box.west <= longitude)
        & (longitude <= box.east)
    )


def enclose_stops(positions: Iterable[tuple[float | None, float | None]]) -> BoundingBox | None:
    """Return the box in which vehicles can be, from the (latitude, longitude) of stops; None if no stop has any."""
    plausible = [position for position in positions if is_plausible_position(*position)]
    if not plausible:
        return None
    latitudes, longitudes = zip(*plausible, strict=True)
    margin = MAX_DEGREES_FROM_STOPS
    return BoundingBox(
        min(latitudes) - margin, max(latitudes) + margin, min(longitudes) - margin, max(longitudes) + margin
    )
