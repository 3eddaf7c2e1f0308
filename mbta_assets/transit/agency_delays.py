"""The delays that the agency itself predicted: no model input, but what riders saw at the time of each row.

A prediction is of a stop visit: by its stop sequence where it has one and the schedule of the trip does, else by its
stop where the trip serves that once. It holds until the next one of its visit: the table has changes only.
"""

from datetime import date

import numpy as np
import pandas as pd

from mbta_assets.transit.as_of import find_latest
from mbta_assets.transit.ids import IdCodes, combine_codes
from mbta_assets.transit.plausibility import MICROSECONDS_PER_SECOND, NAT
from mbta_assets.transit.schema import Vehicle, empty_frame
from mbta_assets.transit.stop_times import StopTimes, order_stop_times, start_microseconds, to_integers, to_microseconds

AGENCY_DELAY = "agency_delay_seconds"
"""Column of `transit_features` with the delays."""
ARRIVAL_COLUMNS = ["predicted_at", "trip_id", "stop_id", "stop_sequence", "arrival_time"]
"""Columns of `agency_predictions` that predicted arrivals are listed from."""


def find_agency_delays(raw: pd.DataFrame, predictions: pd.DataFrame | None, stop_times: StopTimes) -> np.ndarray:
    """Return the agency's predicted delay (n,) in seconds of each row of `raw_transit_data`; NaN where there is none.

    The prediction of a row is the latest one of its stop visit up to its `time_stamp`, of several made at one time the
    last. It is the arrival or departure, as the row's event is, minus `scheduled_arrival`.
    """
    if predictions is None or predictions.empty:
        return np.full(len(raw), np.nan)
    predicted_visit, predicted_at = _find_visits(predictions, stop_times), to_microseconds(predictions["predicted_at"])
    order = np.lexsort((predicted_at, predicted_visit))  # stable: of equals the last in the table stays the last
    order = order[np.searchsorted(predicted_visit[order], 0) :]
    trip = stop_times.codes.encode_trips(raw["trip_id"])
    visit = stop_times.find_by_sequence(trip, to_integers(raw["stop_sequence"]))
    now = to_microseconds(raw["time_stamp"])
    latest = find_latest(predicted_visit[order], predicted_at[order], visit, now, "right")
    row = np.append(order, -1)[latest]
    arrival, departure = (
        np.append(to_microseconds(predictions[name]), NAT)[row] for name in ("arrival_time", "departure_time")
    )
    predicted = np.where(raw["event"] == "departure", departure, arrival)
    delay = (predicted - to_microseconds(raw["scheduled_arrival"])) / MICROSECONDS_PER_SECOND
    return np.where(predicted == NAT, np.nan, delay)


def list_agency_arrivals(
    predictions: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame, service_date: date
) -> pd.DataFrame:
    """Return the arrivals that the agency predicted, by the stop visits of a service day's schedule.

    `predictions` has `ARRIVAL_COLUMNS`. The columns are `trip_id`, `stop_sequence`, `predicted_at` and
    `predicted_arrival`, in the order in which predictions replace one another. An arrival is missing where only a
    departure is predicted any longer. The first stop of a trip and predictions of no scheduled visit are left out.
    """
    codes = IdCodes.from_tables(empty_frame(Vehicle), schedule)
    stop_times = order_stop_times(schedule, stop, codes, start_microseconds(service_date))
    visit = _find_visits(predictions, stop_times)
    row = np.flatnonzero((visit >= 0) & (np.append(stop_times.position, 1)[visit] > 1))
    visit, rows = visit[row], predictions.iloc[row]
    arrivals = {
        "trip_id": pd.Series(codes.trips.to_numpy()[stop_times.trip[visit]], rows.index, rows["trip_id"].dtype),
        "stop_sequence": pd.Series(stop_times.sequence[visit], rows.index, rows["stop_sequence"].dtype),
        "predicted_at": rows["predicted_at"],
        "predicted_arrival": rows["arrival_time"],
    }
    return pd.DataFrame(arrivals).sort_values("predicted_at", kind="stable", ignore_index=True)


def _find_visits(predictions: pd.DataFrame, stop_times: StopTimes) -> np.ndarray:
    """Return the index (n,) in the stop times of the visit that each prediction is of; -1 where it is of none."""
    codes = stop_times.codes
    trip, sequence = codes.encode_trips(predictions["trip_id"]), to_integers(predictions["stop_sequence"])
    has_sequences = np.zeros(len(codes.trips) + 1, dtype=bool)
    has_sequences[stop_times.trip] = stop_times.has_sequences
    by_sequence = stop_times.find_by_sequence(trip, sequence)
    stop = codes.encode_stops(predictions["stop_id"])
    begin, count = stop_times.by_stop.find(combine_codes(trip, stop, len(codes.stops)))
    by_stop = np.where(count == 1, np.append(stop_times.by_stop.visit, -1)[begin], -1)
    return np.where((sequence != NAT) & has_sequences[trip], by_sequence, by_stop)
