"""The agency's predicted delays against a search through all predictions, row by row."""

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.transit import schema
from mbta_assets.transit.agency_delays import find_agency_delays, list_agency_arrivals
from mbta_assets.transit.ids import IdCodes
from mbta_assets.transit.stop_times import StopTimes, order_stop_times, start_microseconds

DAY = date(2024, 3, 4)
NOON = pd.Timestamp("2024-03-04T17:00Z")
PATTERNS = {"plain": ["a", "b", "c"], "loop": ["a", "b", "a", "c"], "unnumbered": ["a", "b", "c", "b"]}
"""Stops of each trip; `loop` serves a stop twice, and `unnumbered` has no stop sequences."""
NUMBERED = ("plain", "loop")


def make_schedule() -> pd.DataFrame:
    """Return the schedule of the trips, whose stop sequences go up in tens."""
    columns: dict[str, list[Any]] = {"trip_id": [], "stop_id": [], "stop_sequence": [], "time": []}
    for trip, stops in PATTERNS.items():
        for n, stop in enumerate(stops):
            values = (trip, stop, 10 * (n + 1) if trip in NUMBERED else None, NOON + pd.Timedelta(minutes=5 * n))
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    frame = pd.DataFrame(columns).assign(service_date=DAY, timepoint=None)
    frame = frame.assign(arrival_time=frame["time"], departure_time=frame.pop("time"))
    return schema.cast_frame(frame, schema.Schedule)


def make_stop_times(schedule: pd.DataFrame) -> StopTimes:
    """Return the stop times of a schedule."""
    codes = IdCodes.from_tables(schema.empty_frame(schema.Vehicle), schedule)
    return order_stop_times(schedule, schema.empty_frame(schema.Stop), codes, start_microseconds(DAY))


SCHEDULE = make_schedule()
STOP_TIMES = make_stop_times(SCHEDULE)
SECONDS = st.integers(-3, 3)
TRIPS = st.sampled_from([*PATTERNS, "unknown"])
TIMES = st.none() | st.integers(-600, 600)
PREDICTIONS = st.lists(
    st.tuples(
        SECONDS, TRIPS, st.sampled_from("abcx"), TIMES, st.none() | st.sampled_from([1, 2, 3, 4, 10, 20, 30]), TIMES
    ),
    max_size=30,
)
ROWS = st.lists(
    st.tuples(SECONDS, st.sampled_from(list(PATTERNS)), st.integers(0, 2), st.sampled_from(schema.EVENTS)),
    min_size=1,
    max_size=10,
)


def make_predictions(drawn: list[Any]) -> pd.DataFrame:
    """Return predictions of drawn seconds, trips, stops, arrivals, stop sequences and departures."""
    names = ["predicted_at", "trip_id", "stop_id", "arrival_time", "stop_sequence", "departure_time"]
    frame = pd.DataFrame(drawn, columns=names, dtype=object).assign(service_date=DAY, uncertainty=None)
    for name in ("predicted_at", "arrival_time", "departure_time"):
        times = [pd.NaT if value is None else NOON + pd.Timedelta(seconds=value) for value in frame[name]]
        frame[name] = pd.Series(times, dtype="datetime64[us, UTC]")
    return schema.cast_frame(frame, schema.AgencyPredictions)


def make_rows(drawn: list[Any]) -> pd.DataFrame:
    """Return the columns of `raw_transit_data` that the lookup uses, of drawn seconds, trips, stops and events."""
    rows = [
        {
            "time_stamp": NOON + pd.Timedelta(seconds=seconds),
            "trip_id": trip,
            "stop_sequence": 10 * (n + 1) if trip in NUMBERED else n + 1,
            "event": event,
            "scheduled_arrival": NOON + pd.Timedelta(minutes=5 * n),
        }
        for seconds, trip, n, event in drawn
    ]
    return pd.DataFrame(rows).astype({"stop_sequence": "Int64"})


def search(row: tuple[Any, ...], drawn: list[Any]) -> float:
    """Return the delay of a drawn row by looking at every drawn prediction."""
    now, trip, n, event = row
    stops = PATTERNS[trip]
    latest = None
    for predicted_at, predicted_trip, stop, arrival, sequence, departure in drawn:
        if sequence is not None and trip in NUMBERED:
            is_same_visit = sequence == 10 * (n + 1)
        else:
            is_same_visit = stop == stops[n] and stops.count(stop) == 1
        if predicted_trip != trip or not is_same_visit or predicted_at > now:
            continue
        if latest is None or predicted_at >= latest[0]:
            latest = predicted_at, arrival if event == "arrival" else departure
    if latest is None or latest[1] is None:
        return np.nan
    return float(latest[1] - 300 * n)


@given(ROWS, PREDICTIONS)
def test_each_row_has_the_latest_prediction_of_its_stop_visit(rows: list[Any], predictions: list[Any]) -> None:
    delays = find_agency_delays(make_rows(rows), make_predictions(predictions), STOP_TIMES)
    np.testing.assert_array_equal(delays, [search(row, predictions) for row in rows])


@given(ROWS, PREDICTIONS, SECONDS)
def test_no_prediction_after_a_row_matters(rows: list[Any], predictions: list[Any], moment: int) -> None:
    earlier = [row for row in rows if row[0] <= moment] or [(moment, "plain", 0, "arrival")]
    known = [prediction for prediction in predictions if prediction[0] <= moment]
    np.testing.assert_array_equal(
        find_agency_delays(make_rows(earlier), make_predictions(known), STOP_TIMES),
        find_agency_delays(make_rows(earlier), make_predictions(predictions), STOP_TIMES),
    )


def test_without_predictions_there_are_no_delays() -> None:
    rows = make_rows([(0, "plain", 1, "arrival")])
    assert np.isnan(find_agency_delays(rows, None, STOP_TIMES)).all()


@given(PREDICTIONS)
def test_listed_arrivals_are_those_of_the_delays_but_for_first_stops(predictions: list[Any]) -> None:
    listed = list_agency_arrivals(make_predictions(predictions), SCHEDULE, schema.empty_frame(schema.Stop), DAY)
    assert listed["predicted_at"].is_monotonic_increasing
    visits = [(trip, n) for trip, stops in PATTERNS.items() for n in range(len(stops))]
    rows = make_rows([(now, *visit, "arrival") for now in range(-3, 4) for visit in visits])
    delays = find_agency_delays(rows, make_predictions(predictions), STOP_TIMES)
    first = rows["scheduled_arrival"] == NOON
    known = [tuple(row) for row in listed.itertuples(index=False)]
    for row, delay in zip(rows[~first].to_dict("records"), delays[~first], strict=True):
        visit, now = (row["trip_id"], row["stop_sequence"]), row["time_stamp"]
        latest = ([arrival for *of, at, arrival in known if tuple(of) == visit and at <= now] or [pd.NaT])[-1]
        np.testing.assert_equal((latest - row["scheduled_arrival"]).total_seconds(), delay)
    sequences = rows[~first].groupby("trip_id")["stop_sequence"].unique()
    assert all(row["stop_sequence"] in sequences[row["trip_id"]] for row in listed.to_dict("records"))
