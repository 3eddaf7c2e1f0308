"""Predictions in columns are rounded and dated as those of single objects."""

from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.arrival_query import EXAMPLE_QUERY
from mbta_assets.serving.live.publication import PredictedStops, RoundedStops, StopColumns
from mbta_assets.serving.queries import VEHICLE_FIELDS, Queries, ScheduledEvent, VehicleQueries
from mbta_assets.serving.scheduled_trip import to_microseconds

DELAYS = st.sampled_from([0.0, 0.5, -0.5, 1.5, 0.0000005, -0.0000015, 2.5e-6]) | st.floats(-100_000, 100_000)


@given(
    st.lists(
        st.tuples(
            st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), DELAYS, DELAYS, DELAYS
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_columns_are_rounded_as_their_objects(
    rows: list[tuple[datetime, float, float, float]], has_interval: bool
) -> None:
    queries = make_queries([row[0] for row in rows])
    delays, lower, upper = (np.array(values) for values in list(zip(*rows, strict=True))[1:])
    columns = StopColumns(queries, delays, lower if has_interval else None, upper if has_interval else None)
    stops = PredictedStops(columns, 0, len(rows))
    assert [stop.predicted for stop in stops] == [row[0] + timedelta(seconds=row[1]) for row in rows]
    assert columns.rounded == RoundedStops.from_predictions(stops)
    assert columns.rounded.slice(1, 3) == RoundedStops.from_predictions(stops[1:3])
    assert stops[1:] == tuple(stops)[1:] and stops == tuple(stops)


def make_queries(scheduled: list[datetime]) -> Queries:
    """Return queries of one vehicle about a departure and then arrivals, at these scheduled times."""
    events = [
        ScheduledEvent(f"s{n % 3}", n, time, None, None, to_microseconds(time)) for n, time in enumerate(scheduled)
    ]
    observed = [(n, None, None, None, None) for n in range(len(scheduled))]
    return Queries([VehicleQueries(VEHICLE_FIELDS.read(EXAMPLE_QUERY), events, observed)])
