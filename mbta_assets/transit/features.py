"""Features of `transit_features`: as-of lookups of stop events at each row's point in time, and the formulas over them.

Everything here is a pure function of frames of one service day. The formulas shared with serving are in `formulas`.
"""

import numpy as np
import pandas as pd
import pyarrow as arrow
from h3ronpy.vector import coordinates_to_cells

from mbta_assets.transit import formulas
from mbta_assets.transit.as_of import count_before, find_latest
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.reports import to_microseconds
from mbta_assets.transit.schema import TransitFeatures, cast_frame, empty_frame, to_service_dates
from mbta_assets.transit.stop_visits import MICROSECONDS, StopEvents, extract_stop_events, to_seconds

H3_RESOLUTION = 9
COPIED_COLUMNS = (
    "service_date", "time_stamp", "vehicle_id", "trip_id", "stop_id", "stops_ahead", "current_stop_id",
    "current_status", "route_id", "direction_id", "stops_behind", "scheduled_arrival", "actual_arrival_time",
)  # fmt: skip
MAX_MERGED_VISITS = 4_000_000
"""Visits that are paired with destinations at a time, which bounds the memory that run times take."""
POSITION_COLUMNS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")


def compute_transit_features(
    raw: pd.DataFrame, vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame
) -> pd.DataFrame:
    """Compute the features of a service day for each row of `raw_transit_data`, typed as `TransitFeatures`.

    `vehicle`, `schedule` and `stop` are the upstream tables of that day. A row uses updates of its own trip up to and
    including its `time_stamp`, and updates of other trips that were reported strictly before it.
    """
    if raw.empty:
        return empty_frame(TransitFeatures)
    events = extract_stop_events(vehicle, schedule, stop, raw["service_date"].iloc[0])
    rows = _Rows(raw, events)
    positions = {name: raw[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in POSITION_COLUMNS}
    observations = {
        "service_date": to_service_dates(raw["service_date"]),
        "now": to_seconds(rows.now),
        "moving": rows.moving,
        **positions,
        "scheduled_arrival": to_seconds(to_microseconds(raw["scheduled_arrival"])),
        "scheduled_last_departure": to_seconds(to_microseconds(raw["scheduled_last_departure"])),
        **_observe_trip(rows, events),
        **_observe_platform(rows, events),
        **_observe_leader(rows, events),
        **_observe_run_times(rows, events),
        **_observe_line_delays(rows, events),
    }
    actual_arrival = to_seconds(to_microseconds(raw["actual_arrival_time"]))
    columns = {
        **{name: raw[name] for name in COPIED_COLUMNS},
        "vehicle_cell": _compute_cells(positions["current_latitude"], positions["current_longitude"]),
        "destination_cell": _compute_cells(positions["destination_latitude"], positions["destination_longitude"]),
        **formulas.compute_features(observations),
        "delay_seconds": actual_arrival - observations["scheduled_arrival"],
    }
    return cast_frame(pd.DataFrame(columns, index=raw.index), TransitFeatures)


class _Rows:
    """Rows of `raw_transit_data` in the codes of the events; each array is (n,)."""

    def __init__(self, raw: pd.DataFrame, events: StopEvents) -> None:
        self.now = to_microseconds(raw["time_stamp"])
        self.moving = (raw["current_status"] != "STOPPED_AT").to_numpy(dtype=bool)
        self.trip = events.codes.encode_trips(raw["trip_id"])
        self.current_stop = events.codes.encode_stops(raw["current_stop_id"])
        self.destination = events.codes.encode_stops(raw["stop_id"])
        self.line = events.codes.encode_lines(raw["route_id"], raw["direction_id"])


def _take(values: pd.Series, index: np.ndarray) -> np.ndarray:
    """Return the values (n,) at some positions as float64, NaN for position -1; microseconds become seconds."""
    numbers = to_seconds(values.to_numpy()) if values.dtype == np.int64 else values.to_numpy()
    return np.append(numbers, np.nan)[index]


def _observe_trip(rows: _Rows, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when the vehicle's state began, and the time, delay and change of delay of the trip's last arrival."""
    codes = events.codes
    states = events.states
    visits = codes.encode_visits(states["trip"].to_numpy(), states["stop"].to_numpy())
    states = states.assign(key=visits * 2 + states["moving"]).sort_values(["key", "since"])
    keys = codes.encode_visits(rows.trip, rows.current_stop) * 2 + rows.moving
    state = find_latest(states["key"].to_numpy(), states["since"].to_numpy(), keys, rows.now, "right")
    observed = _take(states["observed"].astype(float), state) == 1
    state_since = np.where(observed, _take(states["since"], state), np.nan)
    arrivals = _sort_arrivals(events, "trip")
    last = find_latest(arrivals["trip"].to_numpy(), arrivals["arrived"].to_numpy(), rows.trip, rows.now, "right")
    last_arrival = _take(arrivals["arrived"], last)
    return {
        # A standing vehicle has stood since its arrival, even if some updates in between reported it as moving.
        "state_since": np.where(rows.moving, state_since, last_arrival),
        "last_arrival": last_arrival,
        "last_delay_seconds": _take(arrivals["delay"], last),
        "last_change_seconds": _take(arrivals["change"], last),
    }


def _sort_arrivals(events: StopEvents, group: str) -> pd.DataFrame:
    """Return the visits with an arrival, sorted by group and time of arrival."""
    visits = events.visits
    return visits[visits["arrived"] != NAT].sort_values([group, "arrived", "trip", "stop"], ignore_index=True)


def _find_other_trip(arrivals: pd.DataFrame, stops: np.ndarray, rows: _Rows) -> np.ndarray:
    """Return the index (n,) of the last arrival of another trip at each stop before now; -1 if there was none.

    A trip arrives at a stop once, so the arrival before its own is another trip's.
    """
    arrival_stops = arrivals["stop"].to_numpy()
    latest = find_latest(arrival_stops, arrivals["arrived"].to_numpy(), stops, rows.now, "left")
    previous = np.maximum(latest - 1, -1)
    at_same_stop = np.append(arrival_stops, -1)[previous] == stops
    other = np.where((previous >= 0) & at_same_stop, previous, -1)
    is_own = (latest >= 0) & (np.append(arrivals["trip"].to_numpy(), -1)[latest] == rows.trip)
    return np.where(is_own, other, latest)


def _observe_platform(rows: _Rows, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when another vehicle last arrived at the current stop, and when it departed."""
    arrivals = _sort_arrivals(events, "stop")
    leader = _find_other_trip(arrivals, rows.current_stop, rows)
    departed = _take(arrivals["departed"], leader)
    return {
        "platform_arrival": _take(arrivals["arrived"], leader),
        "platform_left": np.where(departed < to_seconds(rows.now), departed, np.nan),
    }


def _observe_leader(rows: _Rows, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up when the last vehicle arrived at the destination, and its delay."""
    arrivals = _sort_arrivals(events, "stop")
    leader = _find_other_trip(arrivals, rows.destination, rows)
    return {
        "leader_arrival": _take(arrivals["arrived"], leader),
        "leader_delay_seconds": _take(arrivals["delay"], leader),
    }


def _observe_run_times(rows: _Rows, events: StopEvents) -> dict[str, np.ndarray]:
    """Look up the latest run times from the vehicle's last change of state to its destination."""
    stretch = events.codes.encode_stretches(rows.current_stop, rows.destination, rows.moving)
    runs = _extract_runs(np.unique(stretch[stretch >= 0]), events)
    run_time = runs["ended"] - runs["began"]
    run_stretch = runs["stretch"].to_numpy()
    latest = find_latest(run_stretch, runs["ended"].to_numpy(), stretch, rows.now, "left")
    end = latest + 1
    begin = np.clip(end - formulas.RECENT_RUN_COUNT, np.searchsorted(run_stretch, stretch), end)
    return {"last_run_seconds": _take(run_time, latest), "recent_run_seconds": _mean_seconds(run_time, begin, end)}


def _extract_runs(stretches: np.ndarray, events: StopEvents) -> pd.DataFrame:
    """Return when each trip `began` and `ended` its run over some stretches, sorted by stretch and end.

    A stretch begins with the move to the current stop, or with the arrival there, and ends with the arrival at the
    destination. Stretches are taken in parts, as all visits of all their stops may be too many at once.
    """
    codes, visits = events.codes, events.visits
    keys = codes.encode_visits(visits["trip"].to_numpy(), visits["stop"].to_numpy())
    arrived = pd.Series(visits["arrived"].to_numpy(), index=keys)
    stop, destination, moving = codes.decode_stretches(stretches)
    n_visits = np.bincount(visits["stop"], minlength=len(codes.stops))[stop]
    part = np.cumsum(n_visits) // MAX_MERGED_VISITS
    begins = visits[["trip", "stop", "moved", "arrived"]]
    parts = []
    for stretches_of_part in np.split(np.arange(len(stretches)), np.flatnonzero(np.diff(part)) + 1):
        names = {"stretch": stretches, "stop": stop, "destination": destination, "moving": moving}
        runs = begins.merge(pd.DataFrame({k: v[stretches_of_part] for k, v in names.items()}), on="stop")
        end_keys = codes.encode_visits(runs["trip"].to_numpy(), runs["destination"].to_numpy())
        runs["ended"] = arrived.reindex(end_keys, fill_value=NAT).to_numpy()
        runs["began"] = np.where(runs["moving"], runs["moved"], runs["arrived"])
        is_run = (runs["began"] != NAT) & (runs["ended"] > runs["began"])
        parts.append(runs.loc[is_run, ["stretch", "ended", "trip", "began"]])
    return pd.concat(parts).sort_values(["stretch", "ended", "trip"])


def _observe_line_delays(rows: _Rows, events: StopEvents) -> dict[str, np.ndarray]:
    """Average the delay and its change per stop over the recent arrivals of the route and direction."""
    arrivals = _sort_arrivals(events, "line")
    lines, times = arrivals["line"].to_numpy(), arrivals["arrived"].to_numpy()
    window_start = rows.now - formulas.RECENT_DELAY_WINDOW_SECONDS * MICROSECONDS
    begin = count_before(lines, times, rows.line, window_start, "left")
    end = count_before(lines, times, rows.line, rows.now, "left")
    return {
        "route_delay_seconds": _mean_seconds(arrivals["delay"], begin, end),
        "route_change_seconds": _mean_seconds(arrivals["change"], begin, end),
    }


def _mean_seconds(values: pd.Series, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the mean (n,) in seconds of microseconds at positions [begin, end) without `NAT`; NaN if none are left.

    A sum over all events may wrap around, and the difference of two such sums is exact nevertheless.
    """
    present = (values != NAT).to_numpy()
    total, count = (np.append(0, np.cumsum(part)) for part in (np.where(present, values, 0), present))
    with np.errstate(invalid="ignore"):
        return (total[end] - total[begin]) / MICROSECONDS / (count[end] - count[begin])


def _compute_cells(latitude: np.ndarray, longitude: np.ndarray) -> pd.Series:
    """Return the H3 cells (n,) Int64 of points in degrees, computed once per distinct point; missing like the point."""
    points = pd.DataFrame({"latitude": latitude, "longitude": longitude})
    group = points.groupby(["latitude", "longitude"], sort=False).ngroup().fillna(-1).to_numpy(dtype=np.int64)
    distinct = points.dropna().drop_duplicates()
    cells = coordinates_to_cells(distinct["latitude"].to_numpy(), distinct["longitude"].to_numpy(), H3_RESOLUTION)
    cell_of_group = np.append(arrow.array(cells).to_numpy().view(np.int64), 0)  # group -1 has a missing coordinate
    return pd.Series(pd.arrays.IntegerArray(cell_of_group[group], group < 0))
