"""Features of `transit_features`: as-of lookups of stop events at each row's point in time, and the formulas over them.

Everything here is a pure function of frames of one service day. The formulas shared with serving are in `formulas`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.transit import formulas
from mbta_assets.transit.agency_delays import AGENCY_DELAY, find_agency_delays
from mbta_assets.transit.as_of import count_before, find_latest
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.run_times import find_recent_runs
from mbta_assets.transit.schema import TransitFeatures, arrow_schema, to_frame, to_service_dates
from mbta_assets.transit.stop_times import to_integers, to_microseconds
from mbta_assets.transit.stop_visits import MICROSECONDS, StopEvents, extract_stop_events, to_seconds

H3_RESOLUTION = 9
BLOCK_ROWS = 1 << 17
"""Rows whose features are computed at a time, so that what formulas compute in between stays small."""
COPIED_COLUMNS = (
    "service_date", "time_stamp", "vehicle_id", "trip_id", "stop_id", "stop_sequence", "event", "stops_ahead",
    "current_stop_id", "current_stop_sequence", "current_status", "route_id", "direction_id", "stops_behind",
    "scheduled_arrival", "actual_arrival_time",
)  # fmt: skip
POSITION_COLUMNS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")
RAW_COLUMNS = (*COPIED_COLUMNS, *POSITION_COLUMNS, "timepoint", "scheduled_last_departure")
"""Columns of `raw_transit_data` that features are computed from."""


def compute_transit_features(
    raw: pd.DataFrame,
    vehicle: pd.DataFrame,
    schedule: pd.DataFrame,
    stop: pd.DataFrame,
    agency_predictions: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return `compute_feature_table` as a frame, of a frame."""
    table = arrow.Table.from_pandas(raw, preserve_index=False)
    return to_frame(compute_feature_table(table, vehicle, schedule, stop, agency_predictions))


def compute_feature_table(
    raw: arrow.Table,
    vehicle: pd.DataFrame,
    schedule: pd.DataFrame,
    stop: pd.DataFrame,
    agency_predictions: pd.DataFrame | None = None,
) -> arrow.Table:
    """Compute the features of a service day for each row of `raw_transit_data`, typed as `TransitFeatures`.

    The other tables are the upstream tables of that day. A row uses updates of its own vehicle on its trip up to and
    including its `time_stamp`, and other updates that were reported strictly before it.
    """
    if not len(raw):
        return arrow_schema(TransitFeatures).empty_table()
    frame = to_frame(raw)
    events = extract_stop_events(vehicle, schedule, stop, frame["service_date"].iloc[0])
    of_rows = _Reports.from_rows(frame, events)
    reports, report = of_rows.drop_repeated()
    of_reports = {
        "scheduled_start": _find_trip_starts(reports, events),
        **_observe_trip(reports, events),
        **_observe_platform(reports, events),
        **_observe_line_delays(reports, events),
        **_observe_network(reports, events),
    }
    of_raw = {
        **_observe_leader(frame, of_rows, events),
        **_observe_run_times(frame, of_rows, events),
        AGENCY_DELAY: find_agency_delays(frame, agency_predictions, events.stop_times),
    }
    blocks = [slice(begin, begin + BLOCK_ROWS) for begin in range(0, len(raw), BLOCK_ROWS)]
    return arrow.concat_tables(
        _compute_rows(
            raw.slice(block.start, BLOCK_ROWS),
            frame.iloc[block],
            {name: values[report[block]] for name, values in of_reports.items()}
            | {name: values[block] for name, values in of_raw.items()},
        )
        for block in blocks
    )


def _compute_rows(table: arrow.Table, raw: pd.DataFrame, looked_up: dict[str, np.ndarray]) -> arrow.Table:
    """Compute the features of some rows of `raw_transit_data`, given what was looked up for each of them (n,).

    `raw` is the frame of the table, whose columns are copied.
    """
    positions = {name: raw[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in POSITION_COLUMNS}
    observations = {
        "service_date": to_service_dates(raw["service_date"]),
        "now": to_seconds(to_microseconds(raw["time_stamp"])),
        "moving": _is_moving(raw),
        **positions,
        "timepoint": raw["timepoint"].to_numpy(dtype=np.float64, na_value=np.nan),
        "scheduled_arrival": to_seconds(to_microseconds(raw["scheduled_arrival"])),
        "scheduled_last_departure": to_seconds(to_microseconds(raw["scheduled_last_departure"])),
        **looked_up,
    }
    actual_arrival = to_seconds(to_microseconds(raw["actual_arrival_time"]))
    columns = {
        "vehicle_cell": _compute_cells(positions["current_latitude"], positions["current_longitude"]),
        "destination_cell": _compute_cells(positions["destination_latitude"], positions["destination_longitude"]),
        **formulas.compute_features(observations),
        "delay_seconds": actual_arrival - observations["scheduled_arrival"],
        AGENCY_DELAY: looked_up[AGENCY_DELAY],
    }
    types = arrow_schema(TransitFeatures)
    copied = {name: table[name].cast(types.field(name).type) for name in COPIED_COLUMNS}
    computed = {name: _to_arrow(values, types.field(name).type) for name, values in columns.items()}
    return arrow.table({**copied, **computed}, schema=types)


def _to_arrow(values: pd.Series | np.ndarray, kind: arrow.DataType) -> arrow.Array:
    """Return values (n,) as an Arrow array; NaN is missing."""
    if isinstance(values, np.ndarray) and arrow.types.is_floating(kind):  # Arrow looks for NaN in twice the time
        return arrow.array(values.astype(kind.to_pandas_dtype()), mask=np.isnan(values))
    return arrow.array(values, kind, from_pandas=True)


def _is_moving(raw: pd.DataFrame) -> np.ndarray:
    """Return which rows (n,) are of reports of a vehicle on its way to its current stop."""
    return (raw["current_status"] != "STOPPED_AT").to_numpy(dtype=bool)


class _Reports(NamedTuple):
    """Reports of vehicles on their trips, in the codes of the events; each array is (n,).

    `current_visit` is the index of the stop time that the vehicle stood at or went to.
    """

    now: np.ndarray
    moving: np.ndarray
    vehicle_trip: np.ndarray
    line: np.ndarray
    current_stop: np.ndarray
    current_visit: np.ndarray

    @classmethod
    def from_rows(cls, raw: pd.DataFrame, events: StopEvents) -> "_Reports":
        """Return the report of each row of `raw_transit_data`."""
        codes, trip = events.codes, events.codes.encode_trips(raw["trip_id"])
        return cls(
            now=to_microseconds(raw["time_stamp"]),
            moving=_is_moving(raw),
            vehicle_trip=events.find_vehicle_trips(trip, codes.encode_vehicles(raw["vehicle_id"])),
            line=codes.encode_lines(raw["route_id"], raw["direction_id"]),
            current_stop=codes.encode_stops(raw["current_stop_id"]),
            current_visit=events.stop_times.find_by_sequence(trip, to_integers(raw["current_stop_sequence"])),
        )

    def drop_repeated(self) -> tuple["_Reports", np.ndarray]:
        """Return the reports without those that repeat the one before, and the index (n,) of each among them."""
        changes = [values[1:] != values[:-1] for values in self]
        begins = np.append(True, np.logical_or.reduce(changes))
        return _Reports(*(values[begins] for values in self)), np.cumsum(begins) - 1


def _take(values: pd.Series | np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the microseconds at some positions (n,) in seconds, as float64; NaN for `NAT` and for position -1."""
    return to_seconds(np.append(values, NAT)[index])


def _observe_trip(reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when the vehicle's state began, and the time, delay and change of delay of its trip's last arrival."""
    states = events.states
    states = states.assign(key=states["visit"] * 2 + states["moving"]).sort_values(["key", "since"])
    keys = events.encode_visits(reports.vehicle_trip, reports.current_visit) * 2 + reports.moving
    state = find_latest(states["key"].to_numpy(), states["since"].to_numpy(), keys, reports.now, "right")
    observed = np.append(states["observed"], False)[state]
    state_since = np.where(observed, _take(states["since"], state), np.nan)
    arrivals = _sort_arrivals(events, "vehicle_trip")
    trips, times = arrivals["vehicle_trip"].to_numpy(), arrivals["arrived"].to_numpy()
    last = find_latest(trips, times, reports.vehicle_trip, reports.now, "right")
    last_arrival = _take(arrivals["arrived"], last)
    return {
        # A standing vehicle has stood since its arrival, even if some updates in between reported it as moving.
        "state_since": np.where(reports.moving, state_since, last_arrival),
        "last_arrival": last_arrival,
        "last_delay_seconds": _take(arrivals["delay"], last),
        "last_change_seconds": _take(arrivals["change"], last),
    }


def _find_trip_starts(reports: _Reports, events: StopEvents) -> np.ndarray:
    """Return the scheduled departure (n,) from the first stop of the trip of each report, in epoch seconds."""
    visit, stop_times = reports.current_visit, events.stop_times
    return _take(stop_times.departure, np.where(visit < 0, -1, visit - np.append(stop_times.position, 0)[visit] + 1))


def _sort_arrivals(events: StopEvents, group: str) -> pd.DataFrame:
    """Return the visits with an arrival, sorted by group and time of arrival."""
    visits = events.visits[events.visits["arrived"] != NAT]
    names = [name for name in ("stop_time", "stop", "vehicle_trip", "arrived") if name != group]
    return visits.iloc[np.lexsort([visits[name].to_numpy() for name in (*names, group)])]


def _find_other_vehicle(arrivals: pd.DataFrame, stops: np.ndarray, reports: _Reports) -> np.ndarray:
    """Return the index (n,) of the last arrival of another vehicle or trip at each stop before now; -1 without one.

    On a loop a vehicle arrives at a stop several times, so all of its own arrivals in a row are skipped.
    """
    arrival_stops, trips = arrivals["stop"].to_numpy(), arrivals["vehicle_trip"].to_numpy()
    latest = find_latest(arrival_stops, arrivals["arrived"].to_numpy(), stops, reports.now, "left")
    begins = np.append(True, (arrival_stops[1:] != arrival_stops[:-1]) | (trips[1:] != trips[:-1]))[: len(trips)]
    previous = np.maximum.accumulate(np.where(begins, np.arange(len(trips)), 0)) - 1
    previous = np.where(np.append(arrival_stops, -1)[previous] == arrival_stops, previous, -1)
    is_own = (latest >= 0) & (np.append(trips, -1)[latest] == reports.vehicle_trip)
    return np.where(is_own, np.append(previous, -1)[latest], latest)


def _observe_platform(reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when another vehicle last arrived at the current stop, and when it departed."""
    arrivals = _sort_arrivals(events, "stop")
    leader = _find_other_vehicle(arrivals, reports.current_stop, reports)
    departed = _take(arrivals["departed"], leader)
    return {
        "platform_arrival": _take(arrivals["arrived"], leader),
        "platform_left": np.where(departed < to_seconds(reports.now), departed, np.nan),
    }


def _observe_leader(raw: pd.DataFrame, reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when the last vehicle arrived at the destination of each row, and its delay."""
    arrivals = _sort_arrivals(events, "stop")
    leader = _find_other_vehicle(arrivals, events.codes.encode_stops(raw["stop_id"]), reports)
    return {
        "leader_arrival": _take(arrivals["arrived"], leader),
        "leader_delay_seconds": _take(arrivals["delay"], leader),
    }


def _observe_run_times(raw: pd.DataFrame, reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up the latest run times from the last change of state to the destination of each row.

    A departure has no run time, nor has an arrival at a stop that the vehicle serves before: run times are those to the
    next visit of a stop.
    """
    codes, stop_times = events.codes, events.stop_times
    stop, trip = codes.encode_stops(raw["stop_id"]), codes.encode_trips(raw["trip_id"])
    destination = stop_times.find_by_sequence(trip, to_integers(raw["stop_sequence"]))
    next_position = stop_times.position[reports.current_visit] + ~reports.moving
    is_next_visit = stop_times.position_at_stop_before[destination] < next_position
    has_run_time = (raw["event"] == "arrival").to_numpy(dtype=bool) & is_next_visit
    stretch = np.where(has_run_time, codes.encode_stretches(reports.current_stop, stop, reports.moving), -1)
    run_time, begin, end = find_recent_runs(stretch, reports.now, events)
    return {
        "last_run_seconds": _take(run_time, np.where(begin < end, end - 1, -1)),
        "recent_run_seconds": _mean_seconds(run_time, begin, end),
    }


def _observe_line_delays(reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Average the delay and its change per stop over the recent arrivals of the route and direction."""
    arrivals = _sort_arrivals(events, "line")
    lines, times = arrivals["line"].to_numpy(), arrivals["arrived"].to_numpy()
    window_start = reports.now - formulas.RECENT_DELAY_WINDOW_SECONDS * MICROSECONDS
    begin = count_before(lines, times, reports.line, window_start, "left")
    end = count_before(lines, times, reports.line, reports.now, "left")
    return {
        "route_delay_seconds": _mean_seconds(arrivals["delay"], begin, end),
        "route_change_seconds": _mean_seconds(arrivals["change"], begin, end),
    }


def _observe_network(reports: _Reports, events: StopEvents) -> dict[str, np.ndarray]:
    """Compare the recent run times of all vehicles from stop to stop with the scheduled ones."""
    visits = events.visits
    time, run, change = (visits[name].to_numpy() for name in ("arrived", "run", "change"))
    scheduled_run = run - change
    is_run = (change != NAT) & (run <= formulas.MAX_NETWORK_RUN_SECONDS * MICROSECONDS) & (scheduled_run >= 0)
    order = np.flatnonzero(is_run)[np.argsort(time[is_run])]
    time, run, scheduled_run = time[order], run[order], scheduled_run[order]
    end = np.searchsorted(time, reports.now)
    begin = np.searchsorted(time, reports.now - formulas.NETWORK_WINDOW_SECONDS * MICROSECONDS)
    total, scheduled = (np.append(0, np.cumsum(runs)) for runs in (run, scheduled_run))
    usual = formulas.USUAL_NETWORK_RUN_SECONDS * MICROSECONDS
    return {"network_run_ratio": (total[end] - total[begin] + usual) / (scheduled[end] - scheduled[begin] + usual)}


def _mean_seconds(values: pd.Series | np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the mean (n,) in seconds of microseconds at positions [begin, end) without `NAT`; NaN if none are left.

    A sum over all events may wrap around, and the difference of two such sums is exact nevertheless.
    """
    values = np.asarray(values)
    present = values != NAT
    total, count = (np.append(0, np.cumsum(part)) for part in (np.where(present, values, 0), present))
    with np.errstate(invalid="ignore"):
        return (total[end] - total[begin]) / MICROSECONDS / (count[end] - count[begin])


def _compute_cells(latitude: np.ndarray, longitude: np.ndarray) -> pd.Series:
    """Return the H3 cells (n,) Int64 of points in degrees, computed once per distinct point; missing like the point."""
    from h3ronpy.vector import coordinates_to_cells  # takes long to import; the code location imports this module

    group, distinct = pd.factorize(np.column_stack([latitude, longitude]).view(np.complex128).ravel())
    cells = coordinates_to_cells(distinct.real.copy(), distinct.imag.copy(), H3_RESOLUTION)
    cell_of_group = np.append(arrow.array(cells).to_numpy().view(np.int64), 0)  # group -1 has a missing coordinate
    return pd.Series(pd.arrays.IntegerArray(cell_of_group[group], group < 0))
