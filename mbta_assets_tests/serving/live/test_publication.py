"""Predictions in columns are rounded and dated as those of single objects."""

from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.live.publication import PredictedStops, RoundedStop, StopColumns
from mbta_assets.serving.queries import ScheduledEvent
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
    events = [ScheduledEvent("s", n, row[0], None, None, to_microseconds(row[0])) for n, row in enumerate(rows)]
    delays, lower, upper = (np.array(values) for values in list(zip(*rows, strict=True))[1:])
    departing = [n == 0 for n in range(len(rows))]
    columns = StopColumns(events, departing, delays, lower if has_interval else None, upper if has_interval else None)
    stops = PredictedStops(columns, 0, len(rows))
    assert [stop.predicted for stop in stops] == [row[0] + timedelta(seconds=row[1]) for row in rows]
    assert list(columns.rounded) == [RoundedStop.from_prediction(stop) for stop in stops]
    assert stops[1:] == tuple(stops)[1:] and stops == tuple(stops)
