"""A predicted time is kept while the next one differs by little, and no trip runs backwards by it."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.arrival_query import EXAMPLE_QUERY
from mbta_assets.serving.live.dead_band import MIN_SECONDS_AHEAD, SHARE_OF_TIME_AHEAD, DeadBand
from mbta_assets.serving.predictor import PredictedEvents
from mbta_assets.serving.queries import OBSERVED_FIELDS, VEHICLE_FIELDS, Queries, ScheduledEvent, VehicleQueries
from mbta_assets.serving.scheduled_trip import to_microseconds

BAND = 10.0
NOW = EXAMPLE_QUERY.time_stamp


def make_queries(trips: dict[str, list[int]], after: float = 0.0) -> Queries:
    """Return the queries of vehicles about stops that are scheduled so many seconds after a first report, by trip."""
    vehicles = []
    for trip, scheduled in trips.items():
        values = dict(zip(VEHICLE_FIELDS.names, VEHICLE_FIELDS.read(EXAMPLE_QUERY), strict=True))
        values |= {"trip_id": trip, "vehicle_id": trip, "time_stamp": NOW + timedelta(seconds=after)}
        times = [NOW + timedelta(seconds=seconds) for seconds in scheduled]
        events = [ScheduledEvent(f"s{n}", n, time, None, None, to_microseconds(time)) for n, time in enumerate(times)]
        observed = dict(zip(OBSERVED_FIELDS.names, OBSERVED_FIELDS.read(EXAMPLE_QUERY), strict=True))
        of_events = [tuple({**observed, "stops_ahead": n + 1}.values()) for n in range(len(events))]
        vehicles.append(VehicleQueries(VEHICLE_FIELDS.arrange(values), events, of_events))
    return Queries(vehicles)


def make_predicted(delays: list[float]) -> PredictedEvents:
    """Return predictions with an interval of a minute around each."""
    values = np.array(delays, dtype=np.float64)
    return PredictedEvents(0.9, values, values - 30, values + 30)


def apply(band: DeadBand, queries: Queries, delays: list[float], version: str = "a") -> list[float]:
    """Return the delays that are published."""
    return band.apply(version, queries, make_predicted(delays)).delays.tolist()


def test_a_change_within_the_band_is_none_and_a_larger_one_is_the_models() -> None:
    band, queries = DeadBand(BAND), make_queries({"t": [500, 2000]})
    assert apply(band, queries, [0.0, 0.0]) == [0.0, 0.0]
    assert apply(band, queries, [5.0, -9.5]) == [0.0, 0.0]  # 1% of 505 s is 5.05, of 1990 s it is more than the band
    assert apply(band, queries, [5.2, 10.5]) == [5.2, 10.5]
    assert apply(band, make_queries({"t": [500, 2000]}, after=450), [60.0, 3.0])[0] == 60.0  # within a minute


def test_trips_have_memories_of_their_own_and_what_is_gone_or_of_another_version_is_forgotten() -> None:
    band, both = DeadBand(BAND), make_queries({"t": [3000], "u": [3000]})
    assert apply(band, both, [5.0, 25.0], version="b") == [5.0, 25.0]
    assert apply(band, both, [0.0, 20.0]) == [0.0, 20.0]
    assert apply(band, both, [4.0, 17.0]) == [0.0, 20.0]
    assert apply(band, make_queries({"u": [3000]}), [15.0]) == [20.0]
    assert apply(band, both, [4.0, 15.0]) == [4.0, 20.0]
    assert apply(DeadBand(0), both, [1.0, 2.0]) == [1.0, 2.0]


def test_stops_that_are_scheduled_at_one_time_are_kept_apart() -> None:
    band, queries = DeadBand(BAND), make_queries({"t": [3000, 3000, 3060]})
    assert apply(band, queries, [0.0, 4.0, 0.0]) == [0.0, 4.0, 0.0]
    assert apply(band, queries, [0.0, 4.0, 0.0]) == [0.0, 4.0, 0.0]
    assert apply(band, queries, [1.0, 6.0, -1.0]) == [0.0, 4.0, 0.0]


steps = st.lists(st.lists(st.floats(-120, 600), min_size=4, max_size=4), min_size=1, max_size=8)


@given(steps, st.lists(st.integers(0, 400), min_size=4, max_size=4))
def test_over_any_predictions_it_stays_near_the_model_and_runs_forwards(
    predicted: list[list[float]], gaps: list[int]
) -> None:
    scheduled = np.cumsum(gaps)
    band = DeadBand(BAND)
    for number, delays in enumerate(predicted):
        queries = make_queries({"t": scheduled.tolist()}, after=10.0 * number)
        forwards = np.maximum.accumulate(np.maximum(scheduled + delays, 10.0 * number)) - scheduled
        result = band.apply("a", queries, make_predicted(forwards.tolist()))
        times = scheduled + result.delays
        assert (np.diff(times) >= -1e-6).all()
        ahead = scheduled + forwards - 10.0 * number
        limit = np.where(ahead < MIN_SECONDS_AHEAD, BAND, np.minimum(BAND, SHARE_OF_TIME_AHEAD * ahead))
        assert (np.abs(result.delays - forwards) <= limit.max() + 1e-6).all()
        assert (result.lower_delays <= result.delays).all() and (result.delays <= result.upper_delays).all()


def test_it_is_of_the_service_day_too() -> None:
    band, queries = DeadBand(BAND), make_queries({"t": [3000]})
    apply(band, queries, [0.0])
    values = dict(zip(VEHICLE_FIELDS.names, queries.vehicles[0].values, strict=True)) | {
        "service_date": date(2024, 3, 7)
    }
    other = Queries([queries.vehicles[0]._replace(values=VEHICLE_FIELDS.arrange(values))])
    assert apply(band, other, [3.0]) == [pytest.approx(3.0)]
