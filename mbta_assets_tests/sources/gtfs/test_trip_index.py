"""A report that is resolved by itself has the service day and trip that it has among all reports of a day."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as arrow
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.feed_rows import TRIP
from mbta_assets.sources.gtfs.static_feed import StaticFeed
from mbta_assets.sources.gtfs.trip_index import ActiveDay, DescribedTrip, TripIndex
from mbta_assets.sources.gtfs.trips import TripResolver, list_active_trips
from mbta_assets.transit.service_day import start_time
from mbta_assets_tests.sources.gtfs.network import FILES, make_static_feed

DAY = date(2026, 3, 7)
"""The clocks change in the night to the next day, a Sunday."""
FEED = StaticFeed(
    make_static_feed(
        trips=FILES["trips.txt"] + "R,daily,exact,Third,,1\nR,daily,loose,Third,,\nR,daily,twin,Third,,0\n",
        stop_times=FILES["stop_times.txt"]
        + "".join(
            f"{trip},08:00:00,08:00:00,s1,1,1\n{trip},08:20:00,08:20:00,s3,9,1\n" for trip in ("exact", "loose", "twin")
        ),
        frequencies="trip_id,start_time,end_time,headway_secs,exact_times\n"
        "exact,06:00:00,09:00:00,1800,1\nloose,06:00:00,26:00:00,600,0\n",
    ),
    "a test",
)


def find_feed(day: date) -> StaticFeed:
    """Return the static feed, which has no timetable for the day after."""
    if day > DAY:
        raise StaticFeedError("none")
    return FEED


INDEX = TripIndex(
    [
        ActiveDay(day, list_active_trips(day, find_feed, required=False))
        for day in (DAY + timedelta(days=n) for n in (-1, 0, 1))
    ]
)
described = st.builds(
    DescribedTrip,
    trip_id=st.none() | st.sampled_from(["morning", "night", "sunday", "exact", "loose", "twin", "unknown"]),
    route_id=st.sampled_from([None, "R", "Q"]),
    direction_id=st.sampled_from([None, 0, 1]),
    start_date=st.none() | st.sampled_from([DAY + timedelta(days=n) for n in range(-2, 3)]),
    start_seconds=st.sampled_from([None, 0, 21_600, 28_800, 91_800]),
    relationship=st.sampled_from(["SCHEDULED", "UNSCHEDULED", "ADDED", "CANCELED", "DUPLICATED"]),
)
seconds_of_day = st.integers(-12 * 3600, 40 * 3600)


@settings(max_examples=30)
@given(st.lists(st.tuples(described, seconds_of_day), min_size=1, max_size=60))
def test_a_report_is_resolved_as_among_the_reports_of_its_day(reports: list[tuple[DescribedTrip, int]]) -> None:
    start = int(start_time(DAY).timestamp())
    rows = [dict(zip(TRIP.names, trip, strict=True)) for trip, _ in reports]
    table = arrow.Table.from_pylist(rows, TRIP).append_column(
        "reported_at", arrow.array([start + seconds for _, seconds in reports], arrow.int64())
    )
    expected = (
        TripResolver(DAY, find_feed).resolve(table).select(["service_date", "trip_id", "route_id", "direction_id"])
    )
    resolved = [INDEX.resolve(trip, start + seconds) for trip, seconds in reports]
    assert [row._asdict() for row in resolved] == expected.to_pylist()


def test_a_trip_after_midnight_is_of_the_day_before() -> None:
    night = DescribedTrip("night", None, None, None, None, "SCHEDULED")
    at = start_time(DAY) + timedelta(hours=26)
    assert INDEX.resolve(night, int(at.timestamp())).service_date == DAY
    assert datetime.fromtimestamp(int(at.timestamp()), UTC).date() > DAY
