"""`transit_features`: what was known at each moment, joined as of that moment, and the formulas over it."""

import numpy as np
import pandas as pd

from mbta_assets.transit import formulas
from mbta_assets.transit.events import (
    MICROSECONDS,
    NAT,
    Events,
    count_before,
    latest,
    microseconds,
    read_events,
    seconds,
)
from mbta_assets.transit.schema import TransitFeatures, days, typed

H3_RESOLUTION = 9


def transit_features(raw: pd.DataFrame, vehicle: pd.DataFrame, schedule: pd.DataFrame) -> pd.DataFrame:
    """Features of one service day, a row for each row of `raw_transit_data`, typed as `TransitFeatures`.

    Of the trip itself everything up to and including the row's own update is known; of all others, what was
    reported strictly before it.
    """
    events = read_events(vehicle, schedule)
    rows = _Rows(raw, events)
    positions = {name: raw[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in POSITION_COLUMNS}
    known = {
        "service_date": days(raw["service_date"]),
        "now": seconds(rows.now),
        "moving": rows.moving,
        **positions,
        "scheduled_arrival": seconds(microseconds(raw["scheduled_arrival"])),
        "scheduled_last_departure": seconds(microseconds(raw["scheduled_last_departure"])),
        **_own_trip(rows, events),
        **_platform(rows, events),
        **_leader(rows, events),
        **_recent_runs(rows, events),
        **_recent_delays(rows, events),
    }
    actual = seconds(microseconds(raw["actual_arrival_time"]))
    columns = {
        **{name: raw[name] for name in COPIED_COLUMNS},
        "vehicle_cell": _cells(positions["current_latitude"], positions["current_longitude"]),
        "destination_cell": _cells(positions["destination_latitude"], positions["destination_longitude"]),
        **formulas.features(known),
        "delay_seconds": actual - known["scheduled_arrival"],
    }
    return typed(pd.DataFrame(columns, index=raw.index), TransitFeatures)


COPIED_COLUMNS = (
    "service_date", "time_stamp", "vehicle_id", "trip_id", "stop_id", "stops_ahead", "current_stop_id",
    "current_status", "route_id", "direction_id", "stops_behind", "scheduled_arrival", "actual_arrival_time",
)  # fmt: skip
POSITION_COLUMNS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")


class _Rows:
    """The rows to make features for, in the codes of the events: each (n,)."""

    def __init__(self, raw: pd.DataFrame, events: Events) -> None:
        self.now = microseconds(raw["time_stamp"])
        self.moving = (raw["current_status"] != "STOPPED_AT").to_numpy(dtype=bool)
        self.trip = events.codes.trip(raw["trip_id"])
        self.platform = events.codes.stop(raw["current_stop_id"])
        self.target = events.codes.stop(raw["stop_id"])
        self.line = events.codes.line(raw["route_id"], raw["direction_id"])


def _pick(values: pd.Series, index: np.ndarray) -> np.ndarray:
    """Values (n,) at positions, as float64; NaN where the position is -1. Times become epoch seconds."""
    taken = np.append(seconds(values.to_numpy()) if values.dtype == np.int64 else values.to_numpy(), np.nan)
    return taken[index]


def _own_trip(rows: _Rows, events: Events) -> dict[str, np.ndarray]:
    """Since when the vehicle is in its state, and how late it was where it last arrived."""
    codes = events.codes
    states = events.states
    states = states.assign(key=codes.visit(states["trip"].to_numpy(), states["stop"].to_numpy()) * 2 + states["moving"])
    states = states.sort_values(["key", "since"])
    state = codes.visit(rows.trip, rows.platform) * 2 + rows.moving
    found = latest(states["key"].to_numpy(), states["since"].to_numpy(), state, rows.now, "right")
    since = np.where(_pick(states["seen"].astype(float), found) == 1, _pick(states["since"], found), np.nan)
    arrivals = _arrivals(events, "trip")
    last = latest(arrivals["trip"].to_numpy(), arrivals["arrived"].to_numpy(), rows.trip, rows.now, "right")
    last_arrival = _pick(arrivals["arrived"], last)
    return {
        # A vehicle that stands has stood since its arrival, whatever flickered in between.
        "state_since": np.where(rows.moving, since, last_arrival),
        "last_arrival": last_arrival,
        "last_delay_seconds": _pick(arrivals["delay"], last),
        "last_change_seconds": _pick(arrivals["change"], last),
    }


def _arrivals(events: Events, group: str) -> pd.DataFrame:
    """Visits that ended in an arrival, in the order of each group's arrivals."""
    visits = events.visits
    return visits[visits["arrived"] != NAT].sort_values([group, "arrived", "trip", "stop"], ignore_index=True)


def _last_at(arrivals: pd.DataFrame, stop: np.ndarray, rows: _Rows) -> np.ndarray:
    """Index (n,) of the last arrival of another trip at a stop before now; -1 where there was none."""
    stops, trips = arrivals["stop"].to_numpy(), np.append(arrivals["trip"].to_numpy(), -1)
    found = latest(stops, arrivals["arrived"].to_numpy(), stop, rows.now, "left")
    before = np.maximum(found - 1, -1)
    other = np.where((before >= 0) & (np.append(stops, -1)[before] == stop), before, -1)
    return np.where((found >= 0) & (trips[found] == rows.trip), other, found)


def _platform(rows: _Rows, events: Events) -> dict[str, np.ndarray]:
    """When another vehicle was last at the stop where this one stands or goes, and when it left."""
    arrivals = _arrivals(events, "stop")
    found = _last_at(arrivals, rows.platform, rows)
    left = _pick(arrivals["left"], found)
    return {
        "platform_arrival": _pick(arrivals["arrived"], found),
        "platform_left": np.where(left < seconds(rows.now), left, np.nan),
    }


def _leader(rows: _Rows, events: Events) -> dict[str, np.ndarray]:
    """When the last vehicle arrived at the destination, and how late it was."""
    arrivals = _arrivals(events, "stop")
    found = _last_at(arrivals, rows.target, rows)
    return {
        "leader_arrival": _pick(arrivals["arrived"], found),
        "leader_delay_seconds": _pick(arrivals["delay"], found),
    }


def _recent_runs(rows: _Rows, events: Events) -> dict[str, np.ndarray]:
    """How long the last vehicles took from where this one last changed its state to its destination."""
    n_stops = len(events.codes.stops)
    stretch = (rows.platform * n_stops + rows.target) * 2 + rows.moving
    wanted = np.unique(stretch)
    stretches = pd.DataFrame(
        {"stretch": wanted, "stop": wanted // 2 // n_stops, "target": wanted // 2 % n_stops, "moving": wanted % 2 == 1}
    )
    visits = events.visits
    keys = events.codes.visit(visits["trip"].to_numpy(), visits["stop"].to_numpy())
    runs = visits[["trip", "stop", "moved", "arrived"]].merge(stretches, on="stop")
    ends = pd.Series(visits["arrived"].to_numpy(), index=keys)
    ended = ends.reindex(events.codes.visit(runs["trip"].to_numpy(), runs["target"].to_numpy()), fill_value=NAT)
    began = np.where(runs["moving"], runs["moved"], runs["arrived"])
    runs = runs.assign(ended=ended.to_numpy(), began=began)
    runs = runs[(runs["began"] != NAT) & (runs["ended"] > runs["began"])].sort_values(["stretch", "ended", "trip"])
    took = runs["ended"] - runs["began"]
    ran = runs["stretch"].to_numpy()
    found = latest(ran, runs["ended"].to_numpy(), stretch, rows.now, "left")
    end = found + 1
    begin = np.clip(end - formulas.RECENT_RUNS, np.searchsorted(ran, stretch), end)
    return {"last_run_seconds": _pick(took, found), "recent_run_seconds": _mean(took, begin, end)}


def _recent_delays(rows: _Rows, events: Events) -> dict[str, np.ndarray]:
    """Mean delay, and mean gain of delay a stop, over the arrivals of the route and direction of late."""
    arrivals = _arrivals(events, "line")
    lines, times = arrivals["line"].to_numpy(), arrivals["arrived"].to_numpy()
    begin = count_before(lines, times, rows.line, rows.now - formulas.RECENT_SECONDS * MICROSECONDS, "left")
    end = count_before(lines, times, rows.line, rows.now, "left")
    return {
        "route_delay_seconds": _mean(arrivals["delay"], begin, end),
        "route_change_seconds": _mean(arrivals["change"], begin, end),
    }


def _mean(values: pd.Series, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean seconds (n,) of microseconds at the positions from `begin` to before `end`; NaN where none is known."""
    known = (values != NAT).to_numpy()
    total, count = (np.append(0, np.cumsum(part)) for part in (np.where(known, values, 0), known))
    with np.errstate(invalid="ignore"):
        return (total[end] - total[begin]) / MICROSECONDS / (count[end] - count[begin])


def _cells(latitude: np.ndarray, longitude: np.ndarray) -> pd.Series:
    """H3 cells (n,) Int64 of points in degrees; missing where a coordinate is."""
    import pyarrow as arrow
    from h3ronpy.vector import coordinates_to_cells

    known = ~(np.isnan(latitude) | np.isnan(longitude))
    cells = arrow.array(coordinates_to_cells(latitude[known], longitude[known], H3_RESOLUTION)).to_numpy()
    result = np.zeros(len(latitude), dtype=np.int64)
    result[known] = cells.view(np.int64)
    return pd.Series(pd.arrays.IntegerArray(result, ~known))
