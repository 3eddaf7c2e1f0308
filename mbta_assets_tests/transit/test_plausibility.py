"""The rules of plausibility: their limits, and the same answer for one value as for arrays."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.transit import plausibility
from mbta_assets.transit.plausibility import NAT, BoundingBox, TimeRange

START = datetime(2024, 3, 6, 5, tzinfo=UTC)
MICROSECOND, HOUR = timedelta(microseconds=1), timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

times = st.one_of(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),
    st.builds(
        lambda hours, microseconds: START + hours * HOUR + microseconds * MICROSECOND,
        st.integers(-40, 90),
        st.integers(-1, 1),
    ),
)
trip_times = st.tuples(st.integers(-24, 71), st.integers(0, 30)).map(
    lambda hours: (START + hours[0] * HOUR, START + (hours[0] + hours[1]) * HOUR)
)
coordinates = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.99, 1.0, -1.0, 90.0, 90.1, -180.0, 181.0]))


def microseconds(time: datetime | None) -> int:
    """Return epoch microseconds."""
    return NAT if time is None else (time - EPOCH) // MICROSECOND


def contains(times: TimeRange, time: datetime) -> bool:
    """Return whether a time is in a range."""
    return times.earliest <= time <= times.latest


@given(time=times, trip=st.one_of(st.none(), trip_times))
def test_one_time_counts_if_it_counts_among_many(time: datetime, trip: tuple[datetime, datetime] | None) -> None:
    first, last = (np.array([microseconds(t)]) for t in trip or (None, None))
    time_array, start = np.array([microseconds(time)]), microseconds(START)
    reported = plausibility.find_plausible_report_times(time_array, start, first, last)
    assert reported.tolist() == [contains(TimeRange.from_trip(START, trip), time)]
    scheduled = plausibility.find_plausible_scheduled_times(time_array, start)
    assert scheduled.tolist() == [contains(TimeRange.from_service_day(START), time)]


def test_extreme_and_missing_times_do_not_count() -> None:
    extreme = np.array([NAT, NAT + 1, np.iinfo(np.int64).max])
    first, last = np.array([NAT, microseconds(START), microseconds(START)]), np.array([NAT, microseconds(START), 0])
    assert not plausibility.find_plausible_scheduled_times(extreme, microseconds(START)).any()
    assert not plausibility.find_plausible_report_times(extreme, microseconds(START), first, last).any()


@pytest.mark.parametrize(
    ("time", "trip", "expected"),
    [
        (START, None, True),
        (START - MICROSECOND, None, False),
        (START + 30 * HOUR - MICROSECOND, None, True),
        (START + 30 * HOUR, None, False),
        (START - 3 * HOUR, (START + 9 * HOUR, START + 10 * HOUR), True),
        (START - 3 * HOUR - MICROSECOND, (START + 9 * HOUR, START + 10 * HOUR), False),
        (START + 35 * HOUR, (START + 22 * HOUR, START + 23 * HOUR), True),
        (START + 35 * HOUR + MICROSECOND, (START + 22 * HOUR, START + 23 * HOUR), False),
    ],
)
def test_a_report_counts_near_its_trip_or_else_in_its_service_day(
    time: datetime, trip: tuple[datetime, datetime] | None, expected: bool
) -> None:
    assert contains(TimeRange.from_trip(START, trip), time) == expected


@given(latitude=coordinates, longitude=coordinates, in_box=st.booleans())
def test_one_position_counts_if_it_counts_among_many(
    latitude: float | None, longitude: float | None, in_box: bool
) -> None:
    box = BoundingBox(-1.0, 90.0, -180.0, 50.0) if in_box else None
    one = plausibility.is_plausible_position(latitude, longitude, box)
    latitudes, longitudes = (np.array([np.nan if x is None else x]) for x in (latitude, longitude))
    assert plausibility.find_plausible_positions(latitudes, longitudes, box).tolist() == [one]


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (42.4, -71.1, True),
        (0.0, 0.0, False),
        (0.99, -0.99, False),
        (0.3, 32.6, True),
        (51.5, -0.1, True),
        (91.0, 10.0, False),
        (42.4, 181.0, False),
        (42.4, float("nan"), False),
        (42.4, None, False),
    ],
)
def test_a_position_is_on_earth_and_not_on_null_island(
    latitude: float, longitude: float | None, expected: bool
) -> None:
    assert plausibility.is_plausible_position(latitude, longitude) == expected


def test_a_vehicle_is_within_two_degrees_of_the_stops_that_have_a_position() -> None:
    box = plausibility.enclose_stops([(42.0, -71.0), (42.5, -71.5), (0.0, 0.0), (None, -100.0)])
    assert box == BoundingBox(40.0, 44.5, -73.5, -69.0)
    assert plausibility.is_plausible_position(44.5, -69.0, box)
    assert not plausibility.is_plausible_position(44.6, -69.0, box)
    assert plausibility.enclose_stops([(0.0, 0.5), (None, None)]) is None


stop_times = st.one_of(st.none(), st.integers(-24, 71).map(lambda hours: START + hours * HOUR))


@given(time=times, moving=st.booleans(), arrival=stop_times, departure=stop_times)
def test_one_report_can_be_at_a_stop_if_it_can_among_many(
    time: datetime, moving: bool, arrival: datetime | None, departure: datetime | None
) -> None:
    updated_at, arrivals, departures = (np.array([microseconds(t)]) for t in (time, arrival, departure))
    early = plausibility.find_early_reports(updated_at, np.array([moving]), arrivals, departures)
    late = plausibility.find_late_arrivals(updated_at, np.array([moving]), arrivals)
    assert (~early & ~late).tolist() == [plausibility.can_be_at_stop(time, moving, arrival, departure)]


@pytest.mark.parametrize(
    ("moving", "arrival", "departure", "earliest", "latest"),
    [(False, 6, 5, 5.5, 18), (True, 6, 5, 4.5, None), (False, None, 5, 4.5, None), (False, 6, None, 5.5, 18)],
)
def test_a_report_is_half_an_hour_early_at_most_and_an_arrival_twelve_hours_late(
    moving: bool, arrival: int | None, departure: int | None, earliest: float, latest: float | None
) -> None:
    stop = [None if hours is None else START + hours * HOUR for hours in (arrival, departure)]
    assert plausibility.can_be_at_stop(START + earliest * HOUR, moving, *stop)
    assert not plausibility.can_be_at_stop(START + earliest * HOUR - MICROSECOND, moving, *stop)
    last = START + (200 if latest is None else latest) * HOUR
    assert plausibility.can_be_at_stop(last, moving, *stop)
    assert plausibility.can_be_at_stop(last + MICROSECOND, moving, *stop) == (latest is None)


def test_a_report_can_be_at_an_origin_at_any_time() -> None:
    assert all(plausibility.can_be_at_stop(EPOCH, moving, None, None) for moving in (False, True))
